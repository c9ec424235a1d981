"""What runs had reached at their end, and whether they were still learning."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.report.claims.findings import MARGIN, SOLVED
from bench.report.claims.regime import as_published
from bench.report.data import Data
from bench.report.query import RUN, curve_points, keys, remembered, scores

TENTH = 0.1
"""The last part of the budget, over which learning is looked at."""


@remembered
def final(data: Data) -> pd.DataFrame:
    """`every_final` of methods as published, by which the paper's claims are judged."""
    return as_published(every_final(data))


@remembered
def every_final(data: Data) -> pd.DataFrame:
    """`scores` at the trained length, with how fast each trained predictor still learned at its end.

    `rise` is how much its accuracy rose, and `fall` its loss fell, over the last tenth of the curve; NaN for reference
    lines, and where the last phase has a single evaluation.
    """
    rows, pace, unknown = scores(data), _pace(data), (float("nan"), float("nan"))
    rows = rows[rows["trained"]]
    both = [pace.get(run, unknown) for run in keys(rows)]
    return rows.assign(rise=[rise for rise, _ in both], fall=[fall for _, fall in both])


def _pace(data: Data) -> dict[Any, tuple[float, float]]:
    """(grid, id) -> rise and fall, between evaluations on straight lines."""
    values = ["tokens", "accuracy", "loss"]
    points = curve_points(data, *values).dropna(subset="tokens").astype({"phase": str})
    points = points[points["phase"] == points.groupby(RUN)["phase"].transform("last")]
    begin = (1 - TENTH) * points.groupby(RUN)["tokens"].transform("last")
    before = points[points["tokens"] <= begin].groupby(RUN)[values].last()
    after = points[points["tokens"] >= begin].groupby(RUN)[values].first()
    before = before.reindex(after.index).fillna(after)
    begin = begin.groupby([points["grid"], points["id"]]).first()
    share = ((begin - before["tokens"]) / (after["tokens"] - before["tokens"])).fillna(0).clip(lower=0)
    last, count = points.groupby(RUN)[values].last(), points.groupby(RUN).size()
    gain = (last - before.add((after - before).mul(share, axis=0))).where(count > 1)
    return dict(zip(gain.index, zip(gain["accuracy"], -gain["loss"])))


def of_method(rows: pd.DataFrame, *methods: str) -> pd.DataFrame:
    """The trained predictors of a method, or of several, one after another."""
    own = rows[~rows["reference"]]
    return pd.concat([own[own["method"] == method] for method in methods])


def still_learning(runs: pd.DataFrame, gap: float = 0.0) -> bool:
    """Whether accuracy rose over the last tenth by more than the margin, below the ceiling, on average over seeds.

    A gap in accuracy that as much training again would not close at this pace does not count as unfinished.
    """
    rise, share = float(runs["rise"].mean()), float(runs["share"].mean())
    return rise > MARGIN and share < SOLVED and rise / TENTH >= gap
