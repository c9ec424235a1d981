"""Claims about methods that learn online, from their papers: judged from experiments and from grids of streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import BITS, Case, Part, Rule, ahead, decide, within
from bench.report.data import Data
from bench.report.query import cells, having, number, scores
from bench.report.sections import estimators, frontier
from bench.results.frames import scale_of
from bench.statistics import Interval, exponential, mean_interval, paired_difference

UNBIASED = ("rtrl", "kf-rtrl", "nobacktrack", "uoro", "artbp")
EVERY_COLUMN = ("kf-rtrl", "uoro", "nobacktrack", "rtrl")
AWAY = 1.0
"""From the optimum of influence balancing: who ends further off has gone the wrong way."""
FLAT, LINEAR = (float("-inf"), 0.05), (0.9, float("inf"))
LEVEL = 1.0
"""Of a curriculum: a smaller difference does not matter."""
NAN = float("nan")


def concerned(data: Data) -> bool:
    """Whether there are experiments on methods that learn online, or runs of those that carry credit forward."""
    methods = set(data.results["method"]) if len(data.results) else set()
    return bool(methods & set(EVERY_COLUMN)) or next(estimators.records(data), None) is not None


def _record(data: Data, name: str) -> dict[str, Any] | None:
    return next((record for record in estimators.records(data) if record["experiment"] == name), None)


def _run(name: str) -> str:
    return f"`diagnose {name} --results DIR`"


def _certainly(words: str) -> Rule:
    """A rule for cases that say themselves what they say."""
    return Rule(words, lambda _: "unclear")


def _gone(what: str, name: str) -> Part:
    """What no record is there of."""
    return Part(what, "", _certainly(""), (), _run(name))


def _sure(value: float) -> Interval:
    """A number that no seed changes."""
    return Interval(value, NAN, NAN, 1)


@register_claim(
    "online-1",
    "Methods whose gradients are unbiased converge where truncated BPTT runs away.",
    figure="influence-balancing",
    grids=[],
    when=concerned,
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
        table = estimators.balanced(record)
        told = table[table["method"].isin(UNBIASED)].groupby("method", sort=False)
        near = [_certain(str(method), part["off"], part["off"].max() < estimators.AIM) for method, part in told]
        cut = table[table["setting"].isin(["k 1", "k 10"])]
        gone = cut.groupby("setting", sort=False)
        far = [_certain(f"tbptt, {setting}", part["off"], part["off"].min() > AWAY) for setting, part in gone]
        close, away = _certainly(f"below {estimators.AIM:g}"), _certainly(f"above {AWAY:g}")
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
    """A case of numbers that are what they are: all seeds, or none, decide."""
    return Case(where, mean_interval(values.to_numpy(dtype=float)), said="for" if holds else "against")


@register_claim(
    "online-2",
    "The variance of KF-RTRL's gradients is below that of UORO's by a factor of about n, the units.",
    figure="gradient-quality",
    grids=[],
    when=concerned,
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


@register_claim(
    "online-3",
    "OK ties with TBPTT on characters of text.",
    figure="frontier-shakespeare",
    grids=["online-text"],
    when=concerned,
)
def kronecker_sums(data: Data) -> Verdict:
    """No method of this project is OK."""
    return Verdict("not tested", "OK is not among the methods.")


@register_claim(
    "online-4",
    "With a step at every column, methods that carry credit forward reach higher levels of the curriculum than TBPTT.",
    figure="frontier-copy-curriculum",
    grids=["online-copy"],
    when=concerned,
)
def curriculum(data: Data) -> Verdict:
    """Levels of copy-curriculum, paired by seed: each method against the window of TBPTT that is best on average, at
    equal CPU seconds and at equal tokens (the least that two of them spent); an effect is a level or more.
    """
    rows = frontier.told(data)
    rows = rows[rows["level"].notna()] if len(rows) else rows
    ways: dict[str, tuple[str, list[Case]]]
    ways = {"cpu": ("at equal CPU seconds", []), "tokens": ("at equal tokens", [])}
    for where, part in rows.groupby(frontier.WHERE) if len(rows) else ():
        found = list(frontier.curves(part, "level"))
        windows = [curve for curve in found if curve.who["method"] == "tbptt"]
        for curve in found if windows else ():
            if curve.who["method"] in EVERY_COLUMN:
                for name, (_, kept) in ways.items():
                    kept.append(_higher(f"{where[2]}, {curve.who['method']}", curve, windows, name))
    parts = [
        Part(f"levels are higher {says}", "levels more", ahead(LEVEL), kept, "`run online-copy`", 1)
        for says, kept in ways.values()
    ]
    return decide(parts, "Noise slows down what lets credit through; a window of some columns has neither.")


def _higher(where: str, own: frontier.Curve, windows: Sequence[frontier.Curve], name: str) -> Case:
    def levels(curve: frontier.Curve, until: float) -> dict[int, float]:
        return dict(zip(curve.seeds, frontier.at(curve, getattr(curve, name), until)))

    def gap(other: frontier.Curve) -> Interval:
        until = min(getattr(own, name)[-1], getattr(other, name)[-1])
        return paired_difference(levels(own, until), levels(other, until))

    effect = min(map(gap, windows), key=lambda interval: interval.mean)
    return Case(where, effect)


@register_claim(
    "online-5",
    "Training memory stands still as T grows for methods that carry credit forward; BPTT's grows with T.",
    figure="credit-costs",
    grids=[],
    when=concerned,
)
def memory(data: Data) -> Verdict:
    """Exponents of traced bytes in T, over the larger half: at most 0.05; for BPTT at least 0.9."""
    record = _record(data, "credit-costs")
    if record is None:
        return decide([_gone("traced costs", "credit-costs")], "")
    table = estimators.grown(record)
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
        parts.append(Part(says, "exponent", _certainly(rule), found, _run("credit-costs"), 2))
    return decide(parts, "What does not depend on T may weigh more than what does, at lengths that are too small.")


@register_claim(
    "online-6",
    "Exact element-wise RTRL learns what BPTT of the same cell learns, at equal tokens.",
    figure="frontier-anbn",
    grids=["online-anbn"],
    when=concerned,
)
def elementwise(data: Data) -> Verdict:
    """Losses from the start state at the trained length, paired by seed: the whole interval within 0.02 bits, of RTRL
    that steps once a sequence as BPTT does.
    """
    runs = having(cells(data), "method.update_every", "model.backbone", "tokens")
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


@register_claim(
    "online-7",
    "Stacked layers that are trained by their own traces lose to BPTT where credit has to cross them.",
    figure="frontier-anbn",
    grids=[],
    when=concerned,
)
def stacked(data: Data) -> Verdict:
    """No cell of this project with traces has several layers."""
    return Verdict("not tested", "Cells with traces have one recurrent layer.")
