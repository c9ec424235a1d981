"""Claims about what happens inside: gradients through time, drift from the teacher, the geometry of memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist
from scipy.stats import linregress, spearmanr

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import (
    LEARNED,
    MARGIN,
    SOLVED,
    Finding,
    Part,
    Said,
    beyond,
    decide,
    exponential,
    finding,
    inside,
    minus,
    opposite,
)
from bench.report.claims.learning import final, still_learning
from bench.report.data import Data
from bench.report.query import curve_points, finished, having, keys, mean_of, number, place, remembered, settings
from bench.statistics import mean_interval

FAR_BACK = ("retrieval", "string-copy")
"""Tasks whose last answer needs an input from the first half of the sequence."""
FACTOR = 3.0
"""A gradient norm that changes by less over half a sequence is flat, by more it vanishes or explodes."""
SMALLEST = 1e-45
"""A norm below float32's smallest number is counted as that."""
LESS_DRIFT = -math.log(0.95)
APART, TOGETHER = 0.5, 0.25
"""Silhouettes: above 0.5 a structure is reasonable, up to 0.25 there is no substantial one (Kaufman & Rousseeuw,
*Finding Groups in Data*, 1990)."""
TREE, NO_TREE = -0.3, -0.1
"""Rank correlations of distance with common prefix. Many pairs tie at a prefix of 0, so that -1 is out of reach."""


@register_claim(
    "5",
    "The gradient norm |dL/dm_t| is flat in t under SMT, at initialisation as after training; under BPTT it vanishes "
    "or explodes.",
    figure="gradient-norms",
    grids=["dynamics-small", "dynamics"],
)
def gradients(data: Data) -> Verdict:
    """The factor by which the norm changes: from the slope of ln |dL/dm_t| in t, times the steps it spans.

    Judged on retrieval and string-copy, whose last answer needs an early input; elsewhere a memory long before the
    loss may rightly not matter. Only over the sequence's second half, since before a memory need not hold yet what the
    answer needs, and without the last memory, which is read and not carried on. SMT is every method whose gradient was
    measured through a decoder, BPTT every one where it was through the unrolled updater. Flat: the interval over seeds,
    which are different initialisations, lies within a factor of three either way; vanishing or exploding: it lies
    outside.
    """
    rows = having(data.gradients, "grid", "id", "task", "method", "seed", "when", "t", "norm", "loss_at", "through")
    rows = finished(data, rows[rows["task"].isin(FAR_BACK)])
    t, end = number(rows["t"]), number(rows["loss_at"])
    rows = rows[(t >= end / 2) & (t < end)]
    places, slopes = _settings(data), []
    for (grid, name, when), part in rows.groupby(["grid", "id", "when"], sort=False):
        t, norm = number(part["t"]), number(part["norm"]).clip(lower=SMALLEST)
        usable = t.notna() & np.isfinite(norm)
        if t[usable].nunique() > 2:
            fit = linregress(t[usable], np.log(norm[usable]))
            factor = fit.slope * (t[usable].max() - t[usable].min())
            at, through = f"{places[grid, name]}, {when}", part["through"].iloc[0]
            slopes.append({"where": at, "through": through, "log_factor": factor, "slope": fit.slope})
    frame = pd.DataFrame(slopes, columns=["where", "through", "log_factor", "slope"])
    parts = []
    for says, through, flat in (
        ("SMT's gradient norms are flat in t", "the decoder", True),
        ("BPTT's vanish or explode", "the unrolled updater", False),
    ):
        found = []
        own = frame[frame["through"] == through]
        for setting, part in own.groupby("where", sort=False):
            effect = exponential(mean_of(part, "log_factor"))
            within = inside(effect, 1 / FACTOR, FACTOR)
            beside = (("change of ln |dL/dm_t| per step", mean_of(part, "slope")),)
            found.append(finding(str(setting), effect, within if flat else opposite(within), beside))
        rule = f"interval {'within' if flat else 'outside'} 1/{FACTOR:g} to {FACTOR:g}"
        missing = f"no gradient norms through {through} on {' or '.join(FAR_BACK)} (measure: [dynamics])."
        parts.append(
            Part(says, "|dL/dm_t| changes over the second half by a factor of", rule, found, missing, digits=2)
        )
    return decide(
        parts,
        "Over a few tens of steps a memory that is normalised after every update may carry gradients well, and what "
        "training finds useful to remember shapes the norms as much as the number of steps does.",
    )


@remembered
def _settings(data: Data) -> dict[Any, str]:
    """(grid, id) of every finished run -> its setting and method in words."""
    runs = having(data.results, "grid", "id", "task", "method", "state")
    runs = runs[runs["state"] == "done"].drop_duplicates(["grid", "id"])
    found = settings(runs) if len(runs) else {}
    several = len(set(runs["grid"])) > 1
    return {
        run: f"{place(str(run[0]) if several else None, str(task), found[run])}, {method}"
        for run, task, method in zip(keys(runs), runs["task"], runs["method"])
    }


@register_claim(
    "6",
    "DMT after SMT lowers the rollout's drift from its teacher and raises accuracy, at every SMT setting.",
    figure="drift",
    grids=["dynamics-small", "ablation-small", "synthetic-small", "dynamics"],
)
def dagger(data: Data) -> Verdict:
    """Two parts, at every setting of smt+dmt, ablations included.

    Drift: the mean of delta_t up to the trained length after DMT over that before; lower where the interval of the log
    ratio is below zero and the mean ratio below 0.95. Accuracy: the last point of the phase dmt minus that of the phase
    smt, per run; higher by 0.02 or more with an interval above zero, and no higher where the interval is within 0.02.
    Accuracy tells nothing where SMT alone solves the task (0.98 of the ceiling), where neither is above chance, or
    where it fell but was still rising at the end.
    """
    drift = having(data.drift, "grid", "id", "phase", "t", "delta", "task.length")
    length = number(drift["task.length"]).fillna(math.inf)
    drift = drift[number(drift["t"]) < length]
    drifts = drift.assign(delta=number(drift["delta"])).groupby(["grid", "id", "phase"])["delta"].mean()
    points = curve_points(data, "tokens", "accuracy")
    accuracies = points.dropna(subset="accuracy").groupby(["grid", "id", "phase"])["accuracy"].last()
    runs = final(data)
    runs = runs[~runs["reference"] & (runs["method"] == "smt+dmt")]
    where = _settings(data)
    runs = runs.assign(where=[where[run] for run in keys(runs)])
    lower = [_lowered(where, part) for where, part in _both_phases(runs, drifts.to_dict())]
    raised = [_raised(where, part) for where, part in _both_phases(runs, accuracies.to_dict())]
    missing = "no run of smt+dmt has {} after both phases ({})."
    return decide(
        [
            Part(
                "DMT lowers drift",
                "drift after DMT over drift after SMT",
                "0.95 or less, interval below 1",
                lower,
                missing.format("its drift", "measure: [dynamics]"),
            ),
            Part(
                "DMT raises accuracy",
                "accuracy after DMT minus after SMT",
                f"by {MARGIN} or more, interval above zero",
                raised,
                missing.format("its accuracy", "curve.json"),
            ),
        ],
        "DMT here is short and has a learning rate of its own; where SMT alone already follows its teacher, there is "
        "little for DMT to mend.",
    )


def _both_phases(runs: pd.DataFrame, ends: dict[Any, float]) -> Iterator[tuple[str, pd.DataFrame]]:
    """(setting, its runs with `before` and `after`), from (grid, id, phase) -> what the phase ended with.

    The phase smt may be another run's, which `init_from` names. Settings that two grids share, with the very same
    numbers, come once.
    """
    source = runs["init_from.run"].where(runs["init_from.run"].notna(), runs["id"])
    before = [ends.get((grid, run, "smt"), math.nan) for grid, run in zip(runs["grid"], source)]
    after = [ends.get((grid, run, "dmt"), math.nan) for grid, run in keys(runs)]
    known: dict[Any, Any] = {}
    both = runs.assign(before=before, after=after).dropna(subset=["before", "after"])
    for (grid, task, where), part in both.groupby(["grid", "task", "where"], sort=False):
        values = (task, *part[["seed", "before", "after"]].itertuples(index=False, name=None))
        if known.setdefault(values, grid) == grid:
            yield str(where), part


def _lowered(where: str, runs: pd.DataFrame) -> Finding:
    positive = (runs["before"] > 0) & (runs["after"] > 0)
    logs = mean_interval(np.log((runs["after"] / runs["before"])[positive].to_numpy()))
    beside = (("drift after SMT", mean_of(runs, "before")), ("drift after DMT", mean_of(runs, "after")))
    return finding(where, exponential(logs), beyond(minus(logs), LESS_DRIFT), beside)


def _raised(where: str, runs: pd.DataFrame) -> Finding:
    before, after = runs["before"], runs["after"]
    chance, ceiling = runs["chance"].fillna(0), runs["accuracy_ceiling"].fillna(1)
    effect = mean_interval((after - before).to_numpy())
    beside = (("accuracy after SMT", mean_of(runs, "before")), ("accuracy after DMT", mean_of(runs, "after")))
    said = beyond(effect, MARGIN)
    fell = said in ("against", "level")
    return finding(
        where,
        effect,
        said,
        beside,
        (said != "for" and (before / ceiling).mean() >= SOLVED, "SMT alone solves it"),
        (said != "for" and max((before - chance).mean(), (after - chance).mean()) < MARGIN, "neither is above chance"),
        (fell and still_learning(runs, -effect.mean), "DMT was still learning"),
    )


@register_claim(
    "13",
    "The memories of SMT form a few clusters on retrieval and a tree on string-copy.",
    figure="geometry",
    grids=["dynamics-small", "dynamics"],
)
def geometry(data: Data) -> Verdict:
    """In the plane of the first two principal components, a number per run.

    Retrieval: the silhouette of memories grouped by their needle; clusters where its interval over seeds is above 0.5,
    none where it is below 0.25. String-copy: the rank correlation between two memories' distance and the length of the
    beginning that their strings share (or the end, whichever is stronger, since a tree may grow from either); a tree
    where its interval is below -0.3, none where it is above -0.1. Where a record has no strings, the silhouette of
    memories grouped by their labels stands in. Runs that have not learned their task (0.2 of the way from chance to the
    ceiling) tell nothing. SMT is every method with a teacher of memories.
    """
    names, runs = _settings(data), final(data)
    told = having(data.results, "grid", "id", "traits.teacher")
    taught = set(keys(told[told["traits.teacher"].eq(True)]))
    runs = runs[~runs["reference"]]
    skill = runs.groupby([names[run] for run in keys(runs)])["skill"].mean().to_dict() if len(runs) else {}
    clusters: dict[str, list[float]] = {}
    trees: dict[str, list[tuple[float, float]]] = {}
    branches: dict[str, list[float]] = {}
    for run, record in data.geometry:
        cell = run.get("grid"), run.get("id")
        where = names.get(cell)
        if where is None or cell not in taught:
            continue
        points, labels = _points(record)
        if run.get("task") == "retrieval":
            clusters.setdefault(where, []).append(silhouette(points, labels))
        elif run.get("task") == "string-copy" and record.get("prefix"):
            trees.setdefault(where, []).append(shared_ends(points, record["prefix"]))
        elif run.get("task") == "string-copy":
            branches.setdefault(where, []).append(silhouette(points, labels))
    tree = []
    for where, values in trees.items():
        start, end = (mean_interval(column) for column in np.array(values, dtype=float).T)
        effect, other, words = (start, end, "ends") if start.mean <= end.mean else (end, start, "beginnings")
        said: Said = "for" if effect.high < TREE else "against" if effect.low > NO_TREE else "unclear"
        weak = said == "unclear" and effect.high < NO_TREE, "weak"
        tree.append(finding(where, effect, said, ((f"rank correlation with common {words}", other),), weak))
    tree, grouped, branched = (_learned(found, skill) for found in (tree, _grouped(clusters), _grouped(branches)))
    rule = f"above {APART}, below {TOGETHER} none"
    missing = "no run with a teacher on {} has a geometry (measure: [dynamics])."
    parts = [
        Part("clusters by needle on retrieval", "silhouette", rule, grouped, missing.format("retrieval")),
        Part(
            "a tree of strings on string-copy",
            "rank correlation of distance with common beginning or end",
            f"below {TREE}, above {NO_TREE} none",
            tree,
            missing.format("string-copy"),
            digits=2,
        ),
    ]
    if branches and not tree:
        parts[1] = Part("branches by label on string-copy", "silhouette", rule, branched, "")
    return decide(
        parts,
        "Two components show part of a memory only: clusters or branches that lie apart in further ones overlap here, "
        "and a small model need not have found the same arrangement.",
    )


def _learned(found: list[Finding], skill: dict[Any, float]) -> list[Finding]:
    """The findings, with those of settings that have not learned their task unclear."""
    note = "the task is not learned"
    return [
        one if skill.get(one.where, 0.0) >= LEARNED else replace(one, outcome="unclear", note=note) for one in found
    ]


def _grouped(values: dict[str, list[float]]) -> list[Finding]:
    found = []
    for where, silhouettes in values.items():
        effect = mean_interval(silhouettes)
        said: Said = "for" if effect.low > APART else "against" if effect.high < TOGETHER else "unclear"
        found.append(finding(where, effect, said, (), (said == "unclear" and effect.low >= TOGETHER, "weak")))
    return found


def _points(record: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Empty where the record is damaged."""
    try:
        points = np.array(record.get("points") or [], dtype=float).reshape(-1, 2)
        return points, [str(one) for one in record.get("label") or []]
    except (TypeError, ValueError):
        return np.empty((0, 2)), []


def silhouette(points: np.ndarray, labels: list[str]) -> float:
    """Mean silhouette of points (n, 2) grouped by labels (n); NaN where there are not 2 to n - 1 groups."""
    from sklearn.metrics import silhouette_score  # here, because it takes a second

    if not 1 < len(set(labels)) < len(points) or len(labels) != len(points) or not np.isfinite(points).all():
        return float("nan")
    return float(silhouette_score(points, labels))


def shared_ends(points: np.ndarray, strings: Iterable[Iterable[int]]) -> tuple[float, float]:
    """Spearman's correlation of the distance of points (n, 2) with their strings' common prefix, and common suffix."""
    letters = pd.DataFrame([list(one) for one in strings]).to_numpy()
    if len(letters) != len(points) or len(points) < 3:
        return float("nan"), float("nan")
    a, b = np.triu_indices(len(points), 1)  # pairs in the order of pdist
    equal = letters[a] == letters[b]
    distance = pdist(points)
    common = (np.cumprod(one, axis=1).sum(1) for one in (equal, equal[:, ::-1]))
    first, last = (_rank_correlation(distance, one) for one in common)
    return first, last


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """NaN where one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")
