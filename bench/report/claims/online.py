"""Claims about methods that learn online, from their papers: judged from experiments and from grids of streams."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import BITS, Case, Part, ahead, decide, stated, within
from bench.report.data import Data
from bench.report.query import cells, number, scores, with_columns
from bench.report.sections import estimators, frontier
from bench.results.frames import scale_of
from bench.statistics import Interval, exponential, mean_interval, paired_difference

UNBIASED = ("rtrl", "kf-rtrl", "nobacktrack", "uoro", "artbp")
EVERY_COLUMN = ("kf-rtrl", "uoro", "nobacktrack", "rtrl")
AWAY = 1.0
"""The distance from the optimum of influence balancing beyond which a method has gone the wrong way."""
FLAT, LINEAR = (float("-inf"), 0.05), (0.9, float("inf"))
LEVEL = 1.0
"""A smaller difference in levels of a curriculum does not matter."""
NAN = float("nan")


def concerned(data: Data) -> bool:
    """Whether there are experiments on methods that learn online, or runs of those that carry credit forward."""
    methods = set(data.results["method"]) if len(data.results) else set()
    return bool(methods & set(EVERY_COLUMN)) or next(estimators.records(data), None) is not None


online_claim = partial(register_claim, when=concerned)


def _record(data: Data, name: str) -> dict[str, Any] | None:
    return next((record for record in estimators.records(data) if record["experiment"] == name), None)


def _run(name: str) -> str:
    return f"`diagnose {name} --results DIR`"


def _gone(what: str, name: str) -> Part:
    """A part of which there is no record."""
    return Part(what, "", stated(""), (), _run(name))


def _sure(value: float) -> Interval:
    """A number that no seed changes."""
    return Interval(value, NAN, NAN, 1)


@online_claim(
    "online-1",
    "Methods whose gradients are unbiased converge where truncated BPTT runs away.",
    figure="influence-balancing",
    grids=[],
)
def balance(data: Data) -> Verdict:
    """Influence balancing, at its last step: theta within 0.01 of the optimum, of every seed; truncation to 1 and 10
    columns further than 1 from it. And, in the experiment on convergence, RTRL's loss below that of TBPTT-1, paired by
    seed, by at least half of it.
    """
    found = []
    record = _record(data, "influence-balancing")
    if record is None:
        found.append(_gone("influence balancing", "influence-balancing"))
    else:
        table = estimators.balance_table(record)
        unbiased = table[table["method"].isin(UNBIASED)].groupby("method", sort=False)["off"]
        cut = table[table["setting"].isin(["k 1", "k 10"])].groupby("setting", sort=False)["off"]
        near = [_certain(str(method), off, off.max() < estimators.AIM) for method, off in unbiased]
        far = [_certain(f"tbptt, {setting}", off, off.min() > AWAY) for setting, off in cut]
        close, away = stated(f"below {estimators.AIM:g}"), stated(f"above {AWAY:g}")
        found.append(Part("unbiased methods reach the optimum", "distance", close, near, digits=4))
        found.append(Part("truncation runs away", "distance", away, far))
    record = _record(data, "convergence")
    if record is None:
        found.append(_gone("convergence", "convergence"))
    else:
        ends = {method["method"]: dict(enumerate(method["loss"][-1])) for method in record["found"]["methods"]}
        gap = paired_difference(ends["tbptt"], ends["rtrl"])
        least = 0.5 * float(np.mean(list(ends["tbptt"].values())))
        case = Case("convergence, last look", gap)
        found.append(Part("RTRL's loss ends below TBPTT's", "difference", ahead(least), [case], digits=4))
    return decide(found, "A theta that has not arrived may be on its way: rates fall, and steps end.")


def _certain(where: str, values: pd.Series, holds: Any) -> Case:
    """A case that all seeds decide together."""
    return Case(where, mean_interval(values.to_numpy(dtype=float)), said="for" if holds else "against")


@online_claim(
    "online-2",
    "The variance of KF-RTRL's gradients is below that of UORO's by a factor of about n, the units.",
    figure="gradient-quality",
    grids=[],
)
def noise(data: Data) -> Verdict:
    """The ratio of variances, by network, as a geometric mean: within n / 2 and 2 n at each n."""
    record = _record(data, "gradient-quality")
    if record is None:
        return decide([_gone("quality of gradients", "gradient-quality")], "")
    rows = pd.DataFrame(record["found"])
    rows = rows[(rows["axis"] == "units") & (rows["setting"] == "")]
    wide = rows.pivot_table(index=["value", "seed"], columns="method", values="variance")
    found = []
    for n in map(int, wide.index.unique("value")):
        ratio = exponential(mean_interval(np.log((wide["uoro"] / wide["kf-rtrl"]).loc[n].to_numpy(dtype=float))))
        over_n = Interval(ratio.mean / n, ratio.low / n, ratio.high / n, ratio.n)
        found.append(Case(f"n {n}", over_n, (("ratio of variances", ratio),)))
    part = Part("UORO's variance over KF-RTRL's is about n", "ratio / n", within(0.5, 2.0), found)
    return decide([part], "The factor depends on how far the network is from linear, and on its inputs.")


@online_claim(
    "online-4",
    "With a step at every column, methods that carry credit forward reach higher levels of the curriculum than TBPTT.",
    figure="frontier-copy-curriculum",
    grids=["online-copy"],
)
def curriculum(data: Data) -> Verdict:
    """Levels of copy-curriculum, paired by seed: each method against the window of TBPTT that is best on average, at
    equal CPU seconds and at equal tokens (the least that two of them spent); an effect is a level or more.
    """
    rows = frontier.points(data)
    rows = rows[rows["level"].notna()] if len(rows) else rows
    cases: dict[str, list[Case]] = {"cpu": [], "tokens": []}
    for where, part in rows.groupby(frontier.WHERE) if len(rows) else ():
        found = list(frontier.curves(part, "level"))
        windows = [curve for curve in found if curve.who["method"] == "tbptt"]
        for curve in [curve for curve in found if windows and curve.who["method"] in EVERY_COLUMN]:
            for name, kept in cases.items():
                gaps = [_gap(curve, other, name) for other in windows]
                early = any(math.isnan(gap.mean) for gap in gaps), "a window of TBPTT has no evaluation so early"
                least = min(gaps, key=lambda gap: math.inf if math.isnan(gap.mean) else gap.mean)
                kept.append(Case(f"{where[2]}, {curve.who['method']}", least, unless={"": [early]}))
    parts = [
        Part(f"levels are higher at equal {words}", "levels more", ahead(LEVEL), cases[name], "`run online-copy`", 1)
        for name, words in (("cpu", "CPU seconds"), ("tokens", "tokens"))
    ]
    return decide(parts, "Noise slows down what lets credit through; a window of some columns has neither.")


def _gap(curve: frontier.Curve, other: frontier.Curve, name: str) -> Interval:
    """How much higher the first is, at the most that both have spent."""
    spent = min(curve.spent[name][-1], other.spent[name][-1])
    return paired_difference(*(dict(zip(each.seeds, frontier.values_at(each, name, spent))) for each in (curve, other)))


@online_claim(
    "online-5",
    "Training memory stands still as T grows for methods that carry credit forward; BPTT's grows with T.",
    figure="credit-costs",
    grids=[],
)
def memory(data: Data) -> Verdict:
    """Exponents of traced bytes in T, over the larger half: at most 0.05; for BPTT at least 0.9."""
    record = _record(data, "credit-costs")
    if record is None:
        return decide([_gone("traced costs", "credit-costs")], "")
    table = estimators.cost_table(record)
    table = table[table["axis"] == "columns"]
    parts = []
    for says, methods, limits, rule in (
        ("it stands still where credit is carried forward", EVERY_COLUMN, FLAT, "at most 0.05"),
        ("BPTT's grows", ("bptt",), LINEAR, "0.9 or more"),
    ):
        found = []
        kept = table[table["method"].isin(methods)]
        for method, setting, value in zip(kept["method"], kept["setting"], kept["bytes_exponent"].astype(float)):
            held = limits[0] <= value <= limits[1]
            found.append(Case(f"{method} {setting}".strip(), _sure(value), said="for" if held else "against"))
        parts.append(Part(says, "exponent", stated(rule), found, _run("credit-costs"), 2))
    return decide(parts, "What does not depend on T may weigh more than what does, at lengths that are too small.")


@online_claim(
    "online-6",
    "Exact element-wise RTRL learns what BPTT of the same cell learns, at equal tokens.",
    figure="frontier-anbn",
    grids=["online-anbn"],
)
def elementwise(data: Data) -> Verdict:
    """Losses from the start state at the trained length, paired by seed: the whole interval within 0.02 bits, of RTRL
    that steps once a sequence as BPTT does.
    """
    runs = with_columns(cells(data), "method.update_every", "model.backbone", "tokens")
    runs = runs[runs["model.backbone"].isin(["elstm", "lru"]) & runs["method.update_every"].isna()]
    rows = scores(data, from_start=True)
    rows = rows[rows["trained"] & ~rows["reference"]]
    about = ["grid", "id", "task", "length", "model.backbone", "tokens", "method", "seed"]
    rows = rows[["grid", "id", "loss", "unit"]].merge(runs[about], on=["grid", "id"])
    found = []
    by = ["grid", "task", "length", "model.backbone", "tokens"]
    for key, part in rows.groupby(by, sort=True):
        bits = number(part["loss"]) * part["unit"].map(lambda unit: scale_of("bits") if unit else NAN)
        sides = {name: dict(zip(runs["seed"], bits[runs.index])) for name, runs in part.groupby("method")}
        if {"rtrl", "bptt"} <= set(sides):
            gap = paired_difference(sides["rtrl"], sides["bptt"])
            found.append(Case(f"{key[1]}, {key[3]}", gap))
    needs = "RTRL and BPTT of an element-wise cell, one step a sequence each: `run online-anbn`"
    equal = Part("RTRL's loss is BPTT's", "bits more", within(-BITS, BITS), found, needs)
    return decide([equal], "A stream goes on where sequences begin anew, and learns from other columns.")


online_claim("online-3", "OK ties with TBPTT on characters of text.", "frontier-shakespeare", ["online-text"])(
    lambda data: Verdict("not tested", "OK is not among the methods.")
)
online_claim(
    "online-7",
    "Stacked layers that are trained by their own traces lose to BPTT where credit has to cross them.",
    *("frontier-anbn", []),
)(lambda data: Verdict("not tested", "Cells with traces have one recurrent layer."))
