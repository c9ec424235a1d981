"""Which cells are compared: finished runs with their scores, pairs of methods at equal settings, ladders of a field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report.claims.findings import MARGIN, SOLVED
from bench.report.data import Data
from bench.report.statistics import Interval, mean_interval
from bench.report.tables import _plain, label, short_names

TENTH = 0.1
"""The last part of the budget, over which learning is looked at."""


def having(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The frame with these columns, empty where they were missing."""
    return frame.reindex(columns=[*frame, *(name for name in columns if name not in frame)])


def number(values: pd.Series) -> pd.Series:
    """As floats, NaN for what is no number."""
    return pd.to_numeric(values, errors="coerce").astype(float)


def scores(data: Data, from_start: bool = False) -> pd.DataFrame:
    """The rows of results that have an accuracy, of finished runs, with `share` (of the ceiling) and `skill`.

    Skill is 0 at chance and 1 at the ceiling. What learns from streams is scored on streams; with `from_start`, at the
    trained length too as at all others, on sequences from the start state.
    """
    columns = ["grid", "id", "task", "method", "backbone", "seed", "state", "predictor", "reference", "length", "unit"]
    values = ("accuracy", "loss", "chance", "accuracy_ceiling", "task.length", "predictor_parameters")
    rows = having(data.results, *columns, *values, "init_from.run", "start_accuracy", "start_loss")
    rows = rows[rows["state"] == "done"]
    if from_start:
        rows = rows.assign(**{name: rows[f"start_{name}"].fillna(rows[name]) for name in ("accuracy", "loss")})
    names = [str(name) for name in rows if str(name).startswith(CONFIG)]
    fields = rows[names].astype(object).where(rows[names].notna(), None)  # gaps are equal to one another
    varying = set(config(fields))
    kept = [name for name in names if name in varying or name.startswith("method.") or name == "task.length"]
    others = [name for name in (*columns, *values, "init_from.run") if name not in names]
    rows = pd.concat([rows[others], fields[kept]], axis=1)  # without fields that tell nothing apart
    for name in (*values, "length", "seed"):
        rows[name] = number(rows[name])
    rows["reference"] = rows["reference"].eq(True)
    ceiling, chance = rows["accuracy_ceiling"].fillna(1.0), rows["chance"].fillna(0.0)
    rows["share"] = rows["accuracy"] / ceiling
    rows["skill"] = (rows["accuracy"] - chance) / (ceiling - chance)
    rows["trained"] = rows["task.length"].isna() | rows["length"].isna() | (rows["length"] == rows["task.length"])
    return rows[rows["accuracy"].notna() & rows["seed"].notna()].copy()


def final(data: Data) -> pd.DataFrame:
    """`scores` at the trained length, with how fast each trained predictor still learned at its end.

    `rise` is how much its accuracy rose, and `fall` its loss fell, over the last tenth of the curve; NaN for reference
    lines, and where the last phase has a single evaluation.
    """
    rows, pace, unknown = scores(data), _pace(data), (float("nan"), float("nan"))
    rows = rows[rows["trained"]]
    both = [pace.get(run, unknown) for run in keys(rows)]
    return rows.assign(rise=[rise for rise, _ in both], fall=[fall for _, fall in both])


def keys(rows: pd.DataFrame) -> list[tuple[Any, Any]]:
    """(grid, id) of every row."""
    return list(zip(rows["grid"], rows["id"]))


def finished(data: Data, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that belong to runs that are done."""
    runs = having(data.results, "grid", "id", "state")
    done = set(keys(runs[runs["state"] == "done"]))
    return rows[pd.Series([run in done for run in keys(rows)], index=rows.index, dtype=bool)]


def curve_points(data: Data, *columns: str) -> pd.DataFrame:
    """The curves' points of finished runs' trained predictors, with these columns as numbers, in order."""
    points = having(data.curves, "grid", "id", "phase", "reference", *columns)
    points = finished(data, points[~points["reference"].eq(True)]).copy()
    for name in columns:
        points[name] = number(points[name])
    return points


def _pace(data: Data) -> dict[Any, tuple[float, float]]:
    """(grid, id) -> rise and fall, between evaluations on straight lines."""
    run, values = ["grid", "id"], ["tokens", "accuracy", "loss"]
    points = curve_points(data, *values).dropna(subset="tokens").astype({"phase": str})
    points = points[points["phase"] == points.groupby(run)["phase"].transform("last")]
    begin = (1 - TENTH) * points.groupby(run)["tokens"].transform("last")
    before = points[points["tokens"] <= begin].groupby(run)[values].last()
    after = points[points["tokens"] >= begin].groupby(run)[values].first()
    before = before.reindex(after.index).fillna(after)
    begin = begin.groupby([points["grid"], points["id"]]).first()
    share = ((begin - before["tokens"]) / (after["tokens"] - before["tokens"])).fillna(0).clip(lower=0)
    last, count = points.groupby(run)[values].last(), points.groupby(run).size()
    gain = (last - before.add((after - before).mul(share, axis=0))).where(count > 1)
    return dict(zip(gain.index, zip(gain["accuracy"], -gain["loss"])))


# Which cells are compared.

CONFIG = ("task.", "method.", "model.", "training.", "evaluation.score_from", "device", "precision")
SHARED = ("task.", "model.", "training.budget.", "evaluation.score_from", "device", "precision")
"""Fields in which two methods must agree to be compared; in the others each has values of its own."""


def config(rows: pd.DataFrame, starts: Sequence[str] = CONFIG) -> list[str]:
    """The config columns that vary among the rows."""
    names = [str(name) for name in rows if str(name).startswith(tuple(starts))]
    values = rows[names].to_numpy(dtype=object)
    varies = (values != values[:1]).any(axis=0)
    return [name for name, one in zip(names, varies) if one]


def usual(runs: pd.DataFrame) -> pd.DataFrame:
    """Without ablations: of each grid, task with its knobs, and method, the cells at each field's commonest value.

    Where several values are equally common, as along an axis, all stay.
    """
    kept = []
    for _, part in runs.groupby(["grid", "task", "method"], sort=False):
        knobs = config(part, ("task.",))
        for _, cells in part.groupby(knobs, dropna=False, sort=False) if knobs else [((), part)]:
            mask = pd.Series(True, index=cells.index)
            for name in config(cells, ("method.", "model.", "training.")):
                codes, _ = pd.factorize(cells[name], use_na_sentinel=False)
                count = np.bincount(codes)[codes]
                mask &= count == count.max()
            kept.append(cells[mask])
    return pd.concat(kept) if kept else runs


class Pair(NamedTuple):
    """Runs of two methods at one setting, a row per seed."""

    where: str
    a: pd.DataFrame
    b: pd.DataFrame


def pairs(a: pd.DataFrame, b: pd.DataFrame, apart: Sequence[str] = ()) -> list[Pair]:
    """Runs that differ in nothing but method and seed, as far as both methods have the field.

    They may differ in the columns `apart` too. A method that comes in several variants is paired in each. Settings that
    two grids have in common, with the very same runs, count once.
    """
    found: list[Pair] = []
    known: dict[Any, str] = {}
    several = len({*a["grid"], *b["grid"]}) > 1
    for grid, task in dict.fromkeys(zip(a["grid"], a["task"])):
        left, right = (one[(one["grid"] == grid) & (one["task"] == task)] for one in (a, b))
        both = pd.concat([left, right])
        varying = config(both)
        common = [name for name in varying if name.startswith(SHARED) or _alike(left[name], right[name])]
        shared = [name for name in common if name not in apart]
        own = [name for name in varying if name not in shared]
        for setting, part in _groups(left, shared):
            match = dict(_groups(right, shared)).get(setting, right[:0])
            for mine, one in _groups(part, own):
                for other, two in _groups(match, own):
                    extra = [item for item in (*mine, *other) if _several(left, right, item[0])]
                    where = place(grid if several else None, task, (*setting, *extra))
                    pair = Pair(where, _by_seed(one), _by_seed(two))
                    if known.setdefault((task, *map(_numbers_of, pair[1:])), grid) == grid:
                        found.append(pair)
    return found


def settings(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(setting in words, its runs by seed), for runs of one method."""
    return [(pair.where, pair.a) for pair in pairs(runs, runs)]


def _alike(a: pd.Series, b: pd.Series) -> bool:
    return set(a) == set(b)


def _several(left: pd.DataFrame, right: pd.DataFrame, name: str) -> bool:
    return max(left[name].nunique(), right[name].nunique()) > 1


def _groups(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[tuple[tuple[str, Any], ...], pd.DataFrame]]:
    """(setting, its rows), by the values of the columns; gaps are a value."""
    if rows.empty:
        return
    if not columns:
        yield (), rows
        return
    keys = [rows[name].astype(object).where(rows[name].notna(), None).map(_hashable) for name in columns]
    places: dict[tuple[Any, ...], list[int]] = {}
    for row, values in enumerate(zip(*keys)):
        places.setdefault(values, []).append(row)
    for values, at in places.items():
        yield tuple(zip(columns, values)), rows.iloc[at]


def _hashable(value: Any) -> Any:
    return _plain(value) if isinstance(value, int | float | str | bool) or value is None else str(value)


def _by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates("seed").set_index("seed").sort_index()


def _numbers_of(frame: pd.DataFrame) -> tuple[Any, ...]:
    return tuple(zip(frame.index, frame["accuracy"], frame["loss"]))


def place(grid: str | None, task: str, setting: Iterable[tuple[str, Any]]) -> str:
    """A setting in words: `retrieval, length 16`, with its grid where there are several."""
    told = tuple((name, value) for name, value in setting if value is not None)
    words = [task, *([label(told, short_names([told]))] if told else [])]
    return (f"{grid}: " if grid is not None else "") + ", ".join(words)


@dataclass(frozen=True)
class Ladder:
    """Runs of one method that differ in one field and their seed; a row per value and seed."""

    where: str
    column: str
    rows: pd.DataFrame
    rungs: tuple[float, ...]
    """The values of the field, in order."""

    def at(self, value: float) -> pd.DataFrame:
        """The runs at one value, by seed."""
        return _by_seed(self.rows[self.rows[self.column] == value])


def ladders(runs: pd.DataFrame, column: str, least: int) -> list[Ladder]:
    """Every set of runs along which only `column`, a number, and fields that follow from it vary: `least` values."""
    if column not in runs:
        return []
    runs = runs.assign(**{column: number(runs[column])}).dropna(subset=column)
    found: list[Ladder] = []
    known: dict[Any, Any] = {}
    several = len(set(runs["grid"])) > 1
    for (grid, task, method), part in runs.groupby(["grid", "task", "method"], sort=False):
        others = [name for name in config(part) if name != column]
        free = [name for name in others if part.groupby(column)[name].nunique(dropna=False).max() > 1]
        for setting, cells in _groups(part, free):
            values = tuple(sorted(set(cells[column])))
            if len(values) >= least:
                where = f"{place(str(grid) if several else None, str(task), setting)}, {method}"
                ladder = Ladder(where, column, cells.sort_values([column, "seed"]), values)
                rows = ladder.rows[[column, "seed", "accuracy", "loss"]].itertuples(index=False, name=None)
                if known.setdefault((task, method, *rows), grid) == grid:
                    found.append(ladder)
    return found


# What they reached.


def by_seed(runs: pd.DataFrame, name: str) -> dict[int, float]:
    """Of a frame indexed by seed: what `paired_difference` takes."""
    return {int(seed): float(value) for seed, value in runs[name].items() if pd.notna(value)}  # type: ignore[call-overload]


def mean_of(runs: pd.DataFrame, name: str) -> Interval:
    """Mean of a column over seeds."""
    return mean_interval(runs[name].to_numpy(dtype=float))


def still_learning(runs: pd.DataFrame, gap: float = 0.0) -> bool:
    """Whether accuracy rose over the last tenth by more than the margin, below the ceiling, on average over seeds.

    A gap in accuracy that as much training again would not close at this pace does not count as unfinished.
    """
    rise, share = float(runs["rise"].mean()), float(runs["share"].mean())
    return rise > MARGIN and share < SOLVED and rise / TENTH >= gap
