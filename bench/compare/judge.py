"""Judges the changes between two sides: cells are matched by configuration, seeds are paired, each number is judged.

A number is worse where the 95 % bootstrap interval of its difference excludes zero and the difference is beyond the
tolerance. Both are required: an interval alone finds tiny differences, and a tolerance alone calls noise a regression.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bench.compare.sides import HARDWARE, MACHINE, Cell, Side, label
from bench.errors import BadInput, unknown
from bench.results import by_code
from bench.state import WITHOUT_RESULT
from bench.statistics import SEEDS_FOR_AN_INTERVAL, Interval, difference_of_means, paired_difference
from bench.tolerances import Tolerances

Verdict = Literal["regression", "improvement", "same", "unsure"]

TRACED = ("flops", "sequential operations")
RELATIVE = (*TRACED, "time")


class Row(NamedTuple):
    """One number of one matched configuration; `interval`: RESULTS minus BASELINE, as a share of it if `relative`."""

    cell: str
    metric: str
    baseline: float
    results: float
    interval: Interval
    tolerance: float
    relative: bool
    paired: bool
    verdict: Verdict
    note: str


@dataclass(frozen=True)
class Comparison:
    """All findings: the rows, and everything else in sentences.

    `lost`: cells that had a result and ended without one; `missing`: what else the baseline has and the results lack;
    `extra`: what only the results have; `notes`: what else differs. With `partial`, the results may lack anything.
    """

    results: str
    baseline: str
    rows: Sequence[Row] = ()
    lost: Sequence[str] = ()
    missing: Sequence[str] = ()
    extra: Sequence[str] = ()
    notes: Sequence[str] = ()
    matched: int = 0
    partial: bool = False

    def of(self, verdict: Verdict) -> list[Row]:
        """The rows with this verdict."""
        return [row for row in self.rows if row.verdict == verdict]

    @property
    def regressed(self) -> bool:
        """Whether a number is worse, or a cell that had a result no longer has one."""
        return bool(self.lost) or bool(self.of("regression"))

    @property
    def failed(self) -> bool:
        """Whether the results regressed, or lack something that may have."""
        return self.regressed or (bool(self.missing) and not self.partial)


def compare(
    results: Side, baseline: Side, tolerances: Tolerances, ignore: Sequence[str] = (), partial: bool = False
) -> Comparison:
    """Judge RESULTS by BASELINE. Fields named in `ignore`, and all below them, may differ between matched cells.

    With `partial`, RESULTS need not have everything that BASELINE has. Raises `BadInput` when a field is unknown, when
    nothing matches or no match has a number, or when cells of one side differ only in ignored fields.
    """
    fields = sorted({part for name in results.fields | baseline.fields for part in _above(name)} - {"seed"})
    for name in ignore:
        if name not in fields:
            raise unknown("compare: --ignore", name, fields)
    new, old = _grouped(results, ignore), _grouped(baseline, ignore)
    shared = [key for key in old if key in new]
    if not shared:
        raise BadInput(
            f"compare: no cell of {results.name} matches one of {baseline.name}: {_nearest_miss(new, old)}; "
            "name intended differences with --ignore FIELD"
        )
    names = _names({key: next(iter(old[key].values())) for key in shared})
    rows, lost = list[Row](), list[str]()
    for key in shared:
        gone = _gone(new[key], old[key])
        lost += [f"{names[key]}: {text}" for text in gone]
        rows += _rows(names[key], _done(new[key]), _done(old[key]), tolerances)
    pairs = {names[key]: (new[key], old[key]) for key in shared}
    if not rows and not lost:
        raise BadInput(f"compare: there is no number to compare: {_undone(results, baseline, pairs.values())}")
    missing = [*_alone(old, new, baseline.name, results.name), *_lacking(pairs)]
    extra = _alone(new, old, results.name, baseline.name)
    notes = [*_ignored(pairs.values(), ignore), *_codes(results, baseline, pairs)]
    notes += [*_machines(results, baseline), *_seeds(pairs.values())]
    return Comparison(results.name, baseline.name, rows, lost, missing, extra, notes, len(shared), partial)


# Matching.

Key = tuple[tuple[str, Any], ...]
Seeds = Mapping[int, Cell]


def _above(name: str) -> list[str]:
    """A name and the names of the sections that it is in: a.b.c, a.b, a."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _key(config: Mapping[str, Any], ignore: Sequence[str]) -> Key:
    return tuple(sorted((name, value) for name, value in config.items() if not set(_above(name)) & set(ignore)))


def _grouped(side: Side, ignore: Sequence[str]) -> dict[Key, dict[int, Cell]]:
    groups: dict[Key, dict[int, Cell]] = defaultdict(dict)
    for cell in side.cells:
        same = groups[_key(cell.config, ignore)]
        if cell.seed in same:
            fields = sorted(_differing(cell.config, same[cell.seed].config)) or ["nothing"]
            raise BadInput(
                f"compare: {side.name} has cells that cannot be told apart: {label(cell.config)} with seed {cell.seed} "
                f"is there twice, differing in {', '.join(fields)}"
            )
        same[cell.seed] = cell
    return dict(groups)


def _names(firsts: Mapping[Key, Cell]) -> dict[Key, str]:
    """A name for each configuration: task, method, backbone; where several share these, also the fields that differ."""
    labels = {key: label(cell.config) for key, cell in firsts.items()}
    counts = Counter(labels.values())
    for key, short in list(labels.items()):
        if counts[short] > 1:
            alike = [other for other, cell in firsts.items() if label(cell.config) == short]
            varying = sorted({name for other in alike for name in _differing(dict(key), dict(other))})
            labels[key] = f"{short} ({', '.join(f'{name} {dict(key).get(name, chr(8212))}' for name in varying)})"
    return labels


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


def _against(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return f"{name} {a.get(name, 'at its default')} against {b.get(name, 'at its default')}"


def _closest(key: Key, others: Iterable[Key]) -> tuple[Key, list[str]] | None:
    """The configuration with the same task and method that differs in the fewest fields, and these fields."""
    here = dict(key)
    alike = [other for other in others if all(dict(other).get(name) == here.get(name) for name in ("task", "method"))]
    if not alike:
        return None
    best = min(alike, key=lambda other: (len(_differing(here, dict(other))), repr(other)))
    return best, sorted(_differing(here, dict(best)))


def _nearest_miss(new: Iterable[Key], old: Iterable[Key]) -> str:
    """A phrase for how the two most similar configurations differ."""
    found = [(key, *near) for key in new if (near := _closest(key, old))]
    if not found:
        return "they have no task with the same method"
    key, other, fields = min(found, key=lambda near: len(near[2]))
    more = f" and {len(fields) - 4} more" if len(fields) > 4 else ""
    return f"the nearest differ in {', '.join(_against(name, dict(key), dict(other)) for name in fields[:4])}{more}"


def _alone(here: Mapping[Key, Seeds], there: Mapping[Key, Seeds], name: str, other: str) -> list[str]:
    """The configurations that only one side has, each with the nearest one of the other side."""
    found = []
    for key in here:
        if key in there:
            continue
        text = f"{label(next(iter(here[key].values())).config)}: in {name}, not in {other}"
        near = _closest(key, [other for other in there if other not in here])
        if near:
            differences = ", ".join(_against(field, dict(key), dict(near[0])) for field in near[1][:4])
            text += f", whose nearest differs in {differences}"
        found.append(text)
    return found


def _lacking(pairs: Mapping[str, tuple[Seeds, Seeds]]) -> list[str]:
    """The seeds and traced costs that matched configurations have in BASELINE and lack in RESULTS.

    Other seeds will do if there are as many. Cells that ran without a result are listed as lost.
    """
    found = []
    for name, (new, old) in pairs.items():
        ended, had = _done(new), _done(old)
        states = {seed: new[seed].state if seed in new else "not there" for seed in sorted(had)}
        without = {seed: state for seed, state in states.items() if state not in ("done", *WITHOUT_RESULT)}
        short = len(without) - len(ended.keys() - had.keys())
        if short > 0:
            seeds = ", ".join(f"seed {seed} is {state}" for seed, state in without.items())
            found.append(f"{name}: {short} of {len(had)} seeds: {seeds}")
        for metric in TRACED:
            if ended and _values(had, metric) and not _values(ended, metric):
                found.append(f"{name}: {metric}, which were not traced in RESULTS (`--measure cost`)")
    return found


def _undone(results: Side, baseline: Side, pairs: Iterable[tuple[Seeds, Seeds]]) -> str:
    """Why no matched configuration has a number on both sides."""
    reasons = []
    for side, cells in zip((results, baseline), zip(*pairs, strict=True), strict=True):
        states = Counter(cell.state for seeds in cells for cell in seeds.values())
        if not states["done"]:
            counts = ", ".join(f"{count} {state}" for state, count in states.items())
            reasons.append(f"of the cells of {side.name} that match, none is done ({counts})")
    return "; ".join(reasons) or "no configuration has one on both sides"


def _done(seeds: Seeds) -> dict[int, Cell]:
    return {seed: cell for seed, cell in seeds.items() if cell.state == "done"}


def _gone(new: Seeds, old: Seeds) -> list[str]:
    """The seeds that had a result and have none now; with other seeds, those without where all had one."""
    had = _done(old)
    scores = _scores(had)
    gone = []
    for seed, cell in sorted(new.items()):
        if seed not in had and len(had) < len(old):
            continue
        if cell.state in WITHOUT_RESULT:
            gone.append(f"seed {seed} is {cell.state}{f': {cell.reason}' if cell.reason else ''}")
        elif cell.state == "done" and scores - cell.numbers.keys():
            gone.append(f"seed {seed} has no finite {', '.join(sorted(scores - cell.numbers.keys()))}")
    return gone


def _scores(cells: Seeds) -> set[str]:
    """The names of the accuracies and losses of these cells."""
    return {name for cell in cells.values() for name in cell.numbers if name.partition(" ")[0] in ("accuracy", "loss")}


# Judging.


def _rows(name: str, new: Seeds, old: Seeds, tolerances: Tolerances) -> list[Row]:
    rows = []
    for metric in (*sorted(_scores(new) | _scores(old), key=_order), *TRACED):
        a, b = _values(new, metric), _values(old, metric)
        kind = "cost" if metric in RELATIVE else metric.partition(" ")[0]
        if a and b:
            rows.append(judge(name, metric, a, b, getattr(tolerances, kind)))
    (a, b), note = _times(new, old)
    if a and b:
        rows.append(judge(name, "time", a, b, tolerances.time, note))
    return rows


def _order(metric: str) -> tuple[int, str]:
    return int(metric.rpartition(" ")[2]) if " at " in metric else 0, metric


def _values(cells: Seeds, metric: str) -> dict[int, float]:
    return {seed: cell.numbers[metric] for seed, cell in cells.items() if metric in cell.numbers}


def _times(new: Seeds, old: Seeds) -> tuple[tuple[dict[int, float], dict[int, float]], str]:
    """Training time per token: in calibrations where both sides have them, in seconds on equal hardware, else none."""
    sides = _values(new, "seconds"), _values(old, "seconds")
    clocks = _values(new, "calibration"), _values(old, "calibration")
    if all(side and side.keys() <= clock.keys() for side, clock in zip(sides, clocks, strict=True)):
        new_side, old_side = (
            {seed: seconds / clock[seed] for seed, seconds in side.items()}
            for side, clock in zip(sides, clocks, strict=True)
        )
        return (new_side, old_side), "in calibrations per token"
    if len({tuple(cell.machine.get(name) for name in HARDWARE) for cell in (*new.values(), *old.values())}) == 1:
        return sides, "in seconds per token; same hardware"
    return ({}, {}), ""


def judge(
    cell: str, metric: str, new: Mapping[int, float], old: Mapping[int, float], tolerance: float, note: str = ""
) -> Row:
    """One row, from the numbers by seed. Relative ones are compared in logarithms, so that twice and half count alike.

    Seeds are paired where both sides share enough of them for an interval; else the means are compared. Costs that do
    not vary over seeds need no interval.
    """
    relative = metric in RELATIVE and min(*new.values(), *old.values()) > 0
    a, b = ({seed: math.log(value) if relative else value for seed, value in side.items()} for side in (new, old))
    shared = a.keys() & b.keys()
    paired = len(shared) >= SEEDS_FOR_AN_INTERVAL
    if paired:
        a, b = ({seed: side[seed] for seed in sorted(shared)} for side in (a, b))
        found = paired_difference(a, b)
    else:
        found = difference_of_means(list(a.values()), list(b.values()))
    if metric in TRACED and len({*a.values()}) == len({*b.values()}) == 1:
        found = Interval(found.mean, found.mean, found.mean, found.n)
    limit = math.log1p(tolerance) if relative else tolerance
    verdict: Verdict = "same"
    beyond = abs(found.mean) > limit * (1 + 1e-9)
    if beyond and math.isnan(found.low):
        verdict = "unsure"
        note = "; ".join(filter(None, [note, f"beyond the tolerance, but {found.n} seeds are too few to say"]))
    elif beyond and not found.low <= 0 <= found.high:
        better = found.mean > 0 if metric.startswith("accuracy") else found.mean < 0
        verdict = "improvement" if better else "regression"
    means = [sum(side.values()) / len(side) for side in (b, a)]
    if relative:
        means = [math.exp(mean) for mean in means]
        found = Interval(math.expm1(found.mean), math.expm1(found.low), math.expm1(found.high), found.n)
    return Row(cell, metric, means[0], means[1], found, tolerance, relative, paired, verdict, note)


# What else differs.


def _ignored(pairs: Iterable[tuple[Seeds, Seeds]], ignore: Sequence[str]) -> list[str]:
    """The fields that differ because --ignore lets them, with their values."""
    found: Counter[str] = Counter()
    for new, old in pairs:
        a, b = (next(iter(side.values())).config for side in (new, old))
        found.update(_against(name, a, b) for name in _differing(a, b))
    return [f"config: {text} (in {count} configurations, as --ignore allows)" for text, count in sorted(found.items())]


def _codes(results: Side, baseline: Side, pairs: Mapping[str, tuple[Seeds, Seeds]]) -> list[str]:
    """The configurations whose seeds, on one side, were computed by different code."""
    return [
        f"{name} in {side.name}: {codes}"
        for name, both in pairs.items()
        for side, seeds in zip((results, baseline), both, strict=True)
        if (codes := by_code({seed: cell.digest for seed, cell in seeds.items()}))
    ]


def _machines(results: Side, baseline: Side) -> list[str]:
    """The versions and hardware that differ between the sides."""
    notes = []
    for name in MACHINE:
        values = [{cell.machine.get(name) for cell in side.cells if cell.machine} for side in (results, baseline)]
        if values[0] != values[1] and all(values):
            new, old = (", ".join(sorted(str(value) for value in side)) for side in values)
            notes.append(f"{name}: {new} against {old}")
    return notes


def _seeds(pairs: Iterable[tuple[Seeds, Seeds]]) -> list[str]:
    """How seeds were matched where not all are paired, and which times were not compared."""
    notes = []
    done = [(_done(new), _done(old)) for new, old in pairs]
    apart = sum(len(new.keys() & old.keys()) < SEEDS_FOR_AN_INTERVAL for new, old in done if new and old)
    some = sum(
        SEEDS_FOR_AN_INTERVAL <= len(new.keys() & old.keys()) < len(new.keys() | old.keys()) for new, old in done
    )
    if apart:
        notes.append(
            f"seeds: {apart} configurations share fewer than {SEEDS_FOR_AN_INTERVAL}: means compared, unpaired"
        )
    if some:
        notes.append(f"seeds: of {some} configurations only the seeds that both sides have were compared, in pairs")
    untimed = sum(bool(new and old and not _times(new, old)[1]) for new, old in done)
    if untimed:
        notes.append(
            f"time: not compared for {untimed} configurations: other hardware, and no calibration on both sides"
        )
    return notes
