"""Statements of this project: the dense form beside the published one, and both beside BPTT at its best known."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from bench.report.claims.accuracy import FAR, KEEPS, SYNTHETIC, fall_of, holding, lead, lost, to_far
from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import BITS, MARGIN, Case, Part, ahead, apart, decide, means
from bench.report.claims.growth import bits_at, with_curves
from bench.report.claims.learning import every_final, of_method
from bench.report.curves import Curve
from bench.report.data import Data
from bench.report.query import CURRICULUM, RUN, base, curve_points, names_of, scores
from bench.report.sweeps import pairs
from bench.statistics import exponential, mean_interval

GATED = ("gru", "lstm")
CELL = ("model.backbone", "model.updater_width", "model.readout", "model.chrono")
"""What comes with a cell."""
REACHED = 0.95
"""The share of the ceiling to which CPU seconds are counted."""
SHARES = (0.25, 0.5, 1.0)
"""The shares of training at which losses after equally many steps are compared."""


def concerned(data: Data) -> bool:
    """Whether there is what the paper does not have: the dense form, or BPTT of a gated cell."""
    runs = every_final(data)
    return "smt-dense+dmt" in set(runs["method"]) or len(_best_bptt(runs)) > 0


claim = partial(register_claim, when=concerned)


def _synthetic(data: Data, *but: str) -> pd.DataFrame:
    """The runs of the five tasks that depart from their grids' default setting in nothing, or only in these fields."""
    runs = base(every_final(data), *but)
    return runs[runs["task"].isin(SYNTHETIC)]


def _best_bptt(runs: pd.DataFrame) -> pd.DataFrame:
    """BPTT of gated cells, with whatever else it had."""
    own = of_method(runs, "bptt")
    return own[own["backbone"].isin(GATED)]


@claim(
    "ours-1",
    "Dense SMT->DMT is ahead of the published form at equal tokens.",
    figure="synthetic",
    grids=["synthetic-small", "medium-retrieval"],
)
def dense(data: Data) -> Verdict:
    """Accuracy at every setting of the five synthetic tasks, paired by seed, by the rule of the first claim."""
    runs = _synthetic(data)
    ours, published = of_method(runs, "smt-dense+dmt"), of_method(runs, "smt+dmt")
    cases = [lead(pair, "smt-dense+dmt", "smt+dmt") for pair in pairs(ours, published)]
    effect = "accuracy, smt-dense+dmt minus smt+dmt"
    return decide(
        [Part("the dense form is ahead", effect, ahead(MARGIN), cases)],
        "Where the published form already solves a task there is nothing to gain, and a teacher that sees every prefix "
        "in one pass has fewer parameters to do it with.",
        of_method(runs, "smt-dense+dmt", "smt+dmt"),
    )


@claim(
    "ours-2",
    "BPTT at its best known, a gated cell and lengths that open one after another, keeps its accuracy on retrieval as "
    "sequences lengthen.",
    figure="synthetic",
    grids=["medium-retrieval", "baselines"],
)
def keeps(data: Data) -> Verdict:
    """The fall from the shortest to the longest length, 128 or more: interval below 0.05; against: above 0.02.

    A cell whose shortest length is not learned tells nothing.
    """
    runs = _best_bptt(_synthetic(data, "training.curriculum"))
    runs = runs[(runs["task"] == "retrieval") & runs[names_of(runs, CURRICULUM)].notna().any(axis=1)]
    cases = [fall_of(ladder, "bptt") for ladder in to_far(data, runs)]
    return decide(
        [Part("it keeps its accuracy", "fall in accuracy", KEEPS, cases, f"retrieval of {FAR}")],
        "A budget may end before the longest length has opened.",
        runs,
    )


@claim(
    "ours-3",
    "To 0.95 of the ceiling, BPTT of a gated cell takes fewer CPU seconds than SMT->DMT in either form.",
    figure="efficiency",
    grids=["synthetic-small", "medium-retrieval"],
)
def seconds(data: Data) -> Verdict:
    """SMT's CPU seconds over BPTT's at the first evaluation at 0.95 of the ceiling, as a geometric mean over seeds.

    Fewer: interval above 1; not fewer: below. A run that never gets there counts with all that it spent, in its favour;
    where neither does there is nothing to compare, and where it is SMT that does not, that many times is the least.
    """
    runs = _synthetic(data)
    runs = runs.merge(_seconds(data, runs), on=RUN, how="left").astype({"there": float})
    gated = _best_bptt(runs)
    rule = apart("interval above 1", lambda times: times.low > 1, lambda times: times.high < 1)
    parts = []
    for method in ("smt+dmt", "smt-dense+dmt"):
        own = of_method(runs, method)
        cases = [_times(method, *pair) for pair in pairs(own, gated, CELL)]
        effect = f"CPU seconds of {method}, in multiples of BPTT's"
        parts.append(Part(f"fewer than {method}", effect, rule, cases, "learning curves", digits=1))
    return decide(
        parts,
        "A rollout costs as many steps as the sequence is long, whatever the credit: short sequences favour BPTT.",
        pd.concat([gated, of_method(runs, "smt+dmt", "smt-dense+dmt")]),
    )


def _seconds(data: Data, runs: pd.DataFrame) -> pd.DataFrame:
    """grid, id, `spent`: CPU seconds to `REACHED` or all that there were, and `there`: whether the run got so far."""
    ceilings = runs.assign(aim=REACHED * runs["accuracy_ceiling"].fillna(1.0))[[*RUN, "aim"]].drop_duplicates(RUN)
    points = curve_points(data, "cpu_seconds", "accuracy").dropna(subset=["cpu_seconds", "accuracy"])
    points = points[points["cpu_seconds"] > 0].merge(ceilings, on=RUN)
    points = points.assign(there=points["accuracy"] >= points["aim"])
    first, last = points[points["there"]].drop_duplicates(RUN), points.drop_duplicates(RUN, keep="last")
    found = pd.concat([first, last]).drop_duplicates(RUN)
    return found[[*RUN, "cpu_seconds", "there"]].rename(columns={"cpu_seconds": "spent"})


def _times(method: str, where: str, smt: pd.DataFrame, bptt: pd.DataFrame) -> Case:
    seeds = smt.index.intersection(bptt.index)
    smt, bptt = smt.loc[seeds], bptt.loc[seeds]
    ratios = np.log((smt["spent"] / bptt["spent"]).to_numpy(dtype=float))
    times = exponential(mean_interval(ratios[np.isfinite(ratios)]))
    sides = {method: smt, f"bptt beside {method}": bptt}
    beside = means(sides, "spent", "CPU seconds of {}") + means(sides, "there", "share of seeds of {} that got there")
    unless = {
        "for": [(not bptt["there"].all(), "BPTT does not always get there")],
        "against": [(not smt["there"].all(), "SMT does not always get there")],
    }
    return Case(where, times, beside, unless)


@claim(
    "ours-4",
    "After equally many optimiser steps BPTT is ahead of SMT->DMT on natural tasks, as an independent trial on text "
    "found after 1,050.",
    figure="efficiency",
    grids=["medium-natural"],
)
def steps(data: Data) -> Verdict:
    """Bits that SMT->DMT's loss is above BPTT's after a quarter, a half and all of the steps that both took, by seed.

    Ahead: by 0.02 bits or more, interval above zero. Where the order turns as training goes on, points disagree.
    """
    runs = base(every_final(data))
    smt, bptt = (of_method(runs[runs["unit"].eq("bits")], method) for method in ("smt+dmt", "bptt"))
    cases = [
        _after(share, pair.where, *curves)
        for pair, *curves in with_curves(data, pairs(smt, bptt), "steps")
        for share in SHARES
    ]
    return decide(
        [Part("BPTT is ahead", "bits that smt+dmt's loss is above bptt's", ahead(BITS), cases, "a natural task")],
        "A step of SMT trains a teacher too, and its steps in parallel over time cost less where there is parallelism.",
        pd.concat([smt, bptt]),
    )


def _after(share: float, where: str, smt: list[Curve], bptt: list[Curve]) -> Case:
    """The losses after a share of the steps that both of a seed's runs took."""
    losses, taken = bits_at(smt, bptt, share)
    beside = tuple((f"bits of {name}", mean_interval(bits)) for name, bits in zip(("smt+dmt", "bptt"), losses))
    return Case(f"{where}, {np.mean(taken):,.0f} steps", mean_interval(losses[0] - losses[1]), beside)


@claim(
    "ours-5",
    "Trained on a curriculum of lengths, dense SMT->DMT holds on sequences longer than any of them, where its teacher, "
    "the Transformer and BPTT of the same cell, trained in the same way, lose more.",
    figure="length-generalisation",
    grids=["medium-length"],
)
def beyond(data: Data) -> Verdict:
    """As the paper's claim on longer sequences, of the runs that have a curriculum, with BPTT as one more rival."""
    runs = base(lost(scores(data)))
    runs = runs[runs[names_of(runs, CURRICULUM)].notna().any(axis=1)]
    return decide(
        holding(
            runs, "smt-dense+dmt", "the dense form", {"transformer": "the Transformer", "bptt": "BPTT of the same cell"}
        ),
        "What ends once it has solved its trained length has had less practice than what takes its whole budget.",
        of_method(runs, "smt-dense+dmt", "transformer", "bptt"),
    )
