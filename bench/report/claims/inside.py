"""Claims about what happens inside: gradients through time, drift from the teacher, the geometry of memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist
from scipy.stats import linregress, spearmanr

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import LEARNED, MARGIN, SOLVED, Case, Part, ahead, apart, decide, means, within
from bench.report.claims.learning import final, of_method, still_learning
from bench.report.data import Data
from bench.report.query import RUN, cells, curve_points, keys, number, with_columns
from bench.report.tables import mean_of
from bench.statistics import exponential, mean_interval

FAR_BACK = ("retrieval", "string-copy")
"""Tasks whose last answer needs an input from the first half of the sequence."""
FACTOR = 3.0
"""A gradient norm that changes by less over half a sequence is flat, by more it vanishes or explodes."""
SMALLEST = 1e-45
"""A norm below float32's smallest number is counted as that."""
LESS_DRIFT = 0.95
"""A ratio of drifts from which on the smaller one counts as less."""
APART, TOGETHER = 0.5, 0.25
"""Silhouettes: above 0.5 a structure is reasonable, up to 0.25 there is no substantial one (Kaufman & Rousseeuw,
*Finding Groups in Data*, 1990)."""
TREE, NO_TREE = -0.3, -0.1
"""Rank correlations of distance with common prefix. Many pairs tie at a prefix of 0, so that -1 is out of reach."""


def _with_where(data: Data, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that belong to finished runs, with `where`: the setting and method of each."""
    runs = cells(data)
    where = dict(zip(keys(runs), runs["where"]))
    found = pd.Series([where.get(run) for run in keys(rows)], index=rows.index, dtype=object)
    return rows.assign(where=found)[found.notna()]


def _measured(data: Data, rows: pd.DataFrame) -> pd.DataFrame:
    """The finished runs of which there are such rows."""
    runs = cells(data)
    return runs[pd.Series(keys(runs), index=runs.index).isin(set(keys(rows)))]


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
    rows = with_columns(data.gradients, "grid", "id", "task", "when", "t", "norm", "loss_at", "through")
    rows = _with_where(data, rows[rows["task"].isin(FAR_BACK)])
    rows = rows.assign(t=number(rows["t"]), log=np.log(number(rows["norm"]).clip(lower=SMALLEST)))
    end = number(rows["loss_at"])
    rows = rows[(rows["t"] >= end / 2) & (rows["t"] < end) & np.isfinite(rows["log"])]
    slopes = []
    for (_, _, where, when, through), part in rows.groupby(["grid", "id", "where", "when", "through"], sort=False):
        if part["t"].nunique() > 2:
            slope = linregress(part["t"], part["log"]).slope
            slopes.append((f"{where}, {when}", through, slope * np.ptp(part["t"]), slope))
    frame = pd.DataFrame(slopes, columns=["where", "through", "log_factor", "slope"])
    parts = []
    for says, through, rule in (
        ("SMT's gradient norms are flat in t", "the decoder", within(1 / FACTOR, FACTOR)),
        ("BPTT's vanish or explode", "the unrolled updater", within(1 / FACTOR, FACTOR).opposite()),
    ):
        cases = []
        for where, part in frame[frame["through"] == through].groupby("where", sort=False):
            beside = means({"": part}, "slope", "change of ln |dL/dm_t| per step")
            cases.append(Case(str(where), exponential(mean_of(part, "log_factor")), beside))
        effect = "|dL/dm_t| changes over the second half by a factor of"
        parts.append(Part(says, effect, rule, cases, "measure: [dynamics]", digits=2))
    return decide(
        parts,
        "Over a few tens of steps a memory that is normalised after every update may carry gradients well, and what "
        "training finds useful to remember shapes the norms as much as the number of steps does.",
        _measured(data, rows),
    )


@register_claim(
    "6",
    "DMT after SMT lowers the rollout's drift from its teacher and raises accuracy, at every SMT setting.",
    figure="drift",
    grids=["dynamics-small", "ablation-small", "synthetic-small", "dynamics"],
)
def dagger(data: Data) -> Verdict:
    """Two parts, at every setting of smt+dmt, ablations included.

    Drift: the mean of delta_t up to the trained length after DMT over that before; lower where the interval of the
    ratio is below one and its mean 0.95 or less. Accuracy: the last point of the phase dmt minus that of the phase
    smt, per run; higher by 0.02 or more with an interval above zero, and no higher where the interval is within 0.02.
    Accuracy tells nothing where SMT alone solves the task (0.98 of the ceiling), where neither is above chance, or
    where it fell but was still rising at the end.
    """
    drift = with_columns(data.drift, "grid", "id", "phase", "t", "delta", "task.length")
    drift = drift[number(drift["t"]) < number(drift["task.length"]).fillna(math.inf)]
    drifts = drift.assign(delta=number(drift["delta"])).groupby([*RUN, "phase"])["delta"].mean()
    points = curve_points(data, "tokens", "accuracy").dropna(subset="accuracy")
    accuracies = points.groupby([*RUN, "phase"])["accuracy"].last()
    runs = _with_where(data, of_method(final(data), "smt+dmt"))
    lower = [_lowered(where, part) for where, part in _both_phases(runs, drifts.to_dict())]
    raised = [_raised(where, part) for where, part in _both_phases(runs, accuracies.to_dict())]
    less, more = LESS_DRIFT, 1 / LESS_DRIFT
    rule = apart(
        f"{less:g} or less, interval below 1",
        lambda ratio: ratio.high < 1 and ratio.mean <= less,
        lambda ratio: (ratio.low > 1 and ratio.mean >= more) or less <= ratio.low <= ratio.high <= more,
    )
    return decide(
        [
            Part("DMT lowers drift", "drift after DMT over drift after SMT", rule, lower, "measure: [dynamics]"),
            Part("DMT raises accuracy", "accuracy after DMT minus after SMT", ahead(MARGIN), raised),
        ],
        "DMT here is short and has a learning rate of its own; where SMT alone already follows its teacher, there is "
        "little for DMT to mend.",
        runs,
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


def _phases(runs: pd.DataFrame, what: str) -> tuple[Any, ...]:
    return tuple((f"{what} after {word}", mean_of(runs, name)) for word, name in (("SMT", "before"), ("DMT", "after")))


def _lowered(where: str, runs: pd.DataFrame) -> Case:
    positive = (runs["before"] > 0) & (runs["after"] > 0)
    logs = mean_interval(np.log((runs["after"] / runs["before"])[positive].to_numpy()))
    return Case(where, exponential(logs), _phases(runs, "drift"))


def _raised(where: str, runs: pd.DataFrame) -> Case:
    before, after, chance = runs["before"], runs["after"], runs["chance"].fillna(0)
    effect = mean_interval((after - before).to_numpy())
    idle = [
        ((before / runs["accuracy_ceiling"].fillna(1)).mean() >= SOLVED, "SMT alone solves it"),
        (max((before - chance).mean(), (after - chance).mean()) < MARGIN, "neither is above chance"),
    ]
    fell = [*idle, (still_learning(runs, -effect.mean), "DMT was still learning")]
    return Case(where, effect, _phases(runs, "accuracy"), {"against": fell, "level": fell, "unclear": idle})


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
    traits = with_columns(data.results, "grid", "id", "traits.teacher")
    taught = set(keys(traits[traits["traits.teacher"].eq(True)]))
    runs = final(data)
    runs = _with_where(data, runs[~runs["reference"]])
    skill = runs.groupby("where")["skill"].mean().to_dict()
    places = dict(zip(keys(runs), runs["where"]))
    found: dict[str, dict[str, list[Any]]] = {"retrieval": {}, "strings": {}, "labels": {}}
    for run, record in data.geometry:
        cell = run.get("grid"), run.get("id")
        if cell in places and cell in taught and run.get("task") in FAR_BACK:
            points, labels = _points(record)
            strings = record.get("prefix")
            kind = "retrieval" if run["task"] == "retrieval" else "strings" if strings else "labels"
            value = shared_ends(points, strings) if strings and kind == "strings" else silhouette(points, labels)
            found[kind].setdefault(places[cell], []).append(value)

    def unlearned(where: str) -> dict[str, list[tuple[bool, str]]]:
        return {"": [(not skill.get(where, 0.0) >= LEARNED, "the task is not learned")]}

    trees = []
    for where, values in found["strings"].items():
        start, end = (mean_interval(column) for column in np.array(values, dtype=float).T)
        effect, other, words = (start, end, "ends") if start.mean <= end.mean else (end, start, "beginnings")
        trees.append(Case(where, effect, ((f"rank correlation with common {words}", other),), unlearned(where)))
    clusters, labelled = (
        [Case(where, mean_interval(values), (), unlearned(where)) for where, values in found[kind].items()]
        for kind in ("retrieval", "labels")
    )
    grouped = apart(
        f"above {APART}, below {TOGETHER} none",
        lambda effect: effect.low > APART,
        lambda effect: effect.high < TOGETHER,
    )
    tree = apart(
        f"below {TREE}, above {NO_TREE} none", lambda effect: effect.high < TREE, lambda effect: effect.low > NO_TREE
    )
    what, needs = "rank correlation of distance with common beginning or end", "a teacher, measure: [dynamics]"
    last = Part("a tree of strings on string-copy", what, tree, trees, needs, digits=2)
    if labelled and not trees:
        last = Part("branches by label on string-copy", "silhouette", grouped, labelled)
    return decide(
        [Part("clusters by needle on retrieval", "silhouette", grouped, clusters, needs), last],
        "Two components show part of a memory only: clusters or branches that lie apart in further ones overlap here, "
        "and a small model need not have found the same arrangement.",
        runs[runs["where"].isin(set().union(*found.values()))],
    )


def _points(record: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Empty where the record is damaged."""
    try:
        points = np.array(record.get("points") or [], dtype=float).reshape(-1, 2)
        return points, [str(label) for label in record.get("label") or []]
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
    letters = pd.DataFrame([list(string) for string in strings]).to_numpy()
    if len(letters) != len(points) or len(points) < 3:
        return float("nan"), float("nan")
    a, b = np.triu_indices(len(points), 1)  # pairs in the order of pdist
    equal = letters[a] == letters[b]
    distance = pdist(points)
    common = (np.cumprod(alike, axis=1).sum(1) for alike in (equal, equal[:, ::-1]))
    first, last = (_rank_correlation(distance, length) for length in common)
    return first, last


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """NaN where one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")
