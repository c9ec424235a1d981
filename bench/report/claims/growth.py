"""Claims about what more of something buys: compute, context, memory, parameters, training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import BITS, Finding, Part, Said, beyond, decide, exponential, finding, inside
from bench.report.claims.learning import TENTH, final
from bench.report.data import Data
from bench.report.query import base, curve_points, mean_of, numbers_by_seed
from bench.report.sweeps import Ladder, Pair, ladders, pairs
from bench.statistics import Interval, mean_interval, paired_difference, power_law

EQUAL_BITS = 0.05
"""Losses that differ by less are equal; wider than `BITS`, as a whole interval has to fit in."""
FAR = 2.0
"""Far ahead: the other needs at least so many times the sequential FLOPs."""
PAPERS = {"tinystories": "equal", "mnist": "ahead"}
"""How SMT->DMT and BPTT compare per token in the paper."""
STAND_IN = {"digits": "not behind"}
"""Where neither is there. The paper has no digits: the weaker of the two statements is asked of them."""
RUNGS = 3
SIZES = ("model.d", "model.updater_layers", "model.parameters")
"""Fields along which parameters grow."""
EARLY = 0.5
"""Of the training: what a memory reached by then, a smaller one may reach by the end."""

Curves = dict[Any, tuple[np.ndarray, np.ndarray]]
"""(grid, id) -> what had been spent at each evaluation, loss in bits there."""


@register_claim(
    "8",
    "Per sequential FLOP SMT->DMT is far ahead of BPTT; per token it is equal on tinystories and ahead on mnist.",
    figure="efficiency",
    grids=["natural", "scaling-small", "dynamics-small", "scaling"],
)
def efficiency(data: Data) -> Verdict:
    """BPTT's loss minus SMT->DMT's, in bits, at the largest spend that both reached, per pair of seeds.

    Losses between evaluations are read off straight lines in the logarithm of the spend; a spend before a method's
    first evaluation takes that one's loss, in that method's favour. Sequential FLOPs: ahead by 0.02 bits or more,
    interval above zero, and BPTT spends at least twice as much for the loss that SMT->DMT ends with. Tokens: on
    tinystories equal within 0.05 bits, on mnist ahead by 0.02 bits or more. Where there is neither, digits stand in,
    and SMT->DMT is to be no more than 0.02 bits behind per token. A method that is behind per token and was still
    learning fast enough to draw level in as much training again decides nothing.
    """
    runs = base(final(data))
    runs = runs[~runs["reference"]]
    asked = {task: how for task, how in PAPERS.items() if (runs["task"] == task).any()} or STAND_IN
    runs = runs[runs["task"].isin(asked)]
    smt, bptt = (runs[runs["method"] == name] for name in ("smt+dmt", "bptt"))
    matched = pairs(smt, bptt)
    sequential, tokens = (_spending(data, name) for name in ("spent.sequential_flops", "spent.tokens"))
    ahead = [one for pair in matched for one in _per_flop(pair, sequential)]
    level = [one for pair in matched for one in _per_token(pair, tokens, asked[str(pair.a["task"].iloc[0])])]
    none = f"no finished runs of smt+dmt and bptt at equal settings on {', '.join([*PAPERS, *STAND_IN])}"
    effect = "bits that BPTT's loss is above SMT->DMT's, at equal {}"
    rule = f"{BITS} or more, interval above zero, and {FAR:g} times the sequential FLOPs"
    told = {"equal": f"within {EQUAL_BITS}", "ahead": f"{BITS} or more", "not behind": f"above -{BITS}"}
    asks = ", ".join(f"{task}: {told[how]}" for task, how in asked.items())
    parts = [
        Part(
            "SMT->DMT is far ahead per sequential FLOP",
            effect.format("sequential FLOPs"),
            rule,
            ahead,
            f"{none} whose cost was traced (measure: [cost]).",
        ),
        Part("per token it compares as claimed", effect.format("tokens"), asks, level, f"{none}."),
    ]
    absent = [task for task in PAPERS if task not in asked]
    also = f"Not tested: {' and '.join(absent)}" if absent else ""
    also += ("; digits stand in for them." if asked is STAND_IN else ".") if absent else ""
    return decide(
        parts,
        "SMT also trains a teacher, on which it may spend what an RNN over short sequences does not need, and a small "
        "budget may end long before either method is done.",
        also,
    )


def _spending(data: Data, column: str) -> Curves:
    """Curves of loss against one kind of spend, from the first evaluation with a spend above zero."""
    points = curve_points(data, column, "loss").dropna(subset=[column, "loss"])
    points = points[points[column] > 0]
    return {
        key: (part[column].to_numpy(), part["loss"].to_numpy() / math.log(2))
        for key, part in points.groupby(["grid", "id"], sort=False)
    }


def _loss_at(curve: tuple[np.ndarray, np.ndarray], spend: float) -> float:
    return float(np.interp(math.log(spend), np.log(curve[0]), curve[1]))


def _matched(pair: Pair, curves: Curves) -> dict[int, tuple[Any, Any]]:
    """seed -> the curves of both."""
    found = {}
    for seed in pair.a.index.intersection(pair.b.index):
        a, b = (curves.get((runs.loc[seed, "grid"], runs.loc[seed, "id"])) for runs in (pair.a, pair.b))
        if a and b:
            found[int(seed)] = (a, b)
    return found


def _difference(curves: dict[int, tuple[Any, Any]]) -> tuple[Interval, Interval, Interval]:
    """b's loss minus a's at the largest common spend; a's there; b's there."""
    common = {seed: min(a[0][-1], b[0][-1]) for seed, (a, b) in curves.items()}
    mine = {seed: _loss_at(a, common[seed]) for seed, (a, _) in curves.items()}
    other = {seed: _loss_at(b, common[seed]) for seed, (_, b) in curves.items()}
    return paired_difference(other, mine), mean_interval(list(mine.values())), mean_interval(list(other.values()))


def _per_flop(pair: Pair, curves: Curves) -> list[Finding]:
    """Nothing where the cost was not traced."""
    matched = _matched(pair, curves)
    if not matched:
        return []
    effect, mine, other = _difference(matched)
    factor = exponential(mean_interval([_times_more(b, a) for a, b in matched.values()]))
    beside = (
        ("bits of smt+dmt at equal sequential FLOPs", mine),
        ("bits of bptt at equal sequential FLOPs", other),
        (
            "times the sequential FLOPs that bptt spends for smt+dmt's last loss (or more, where it never gets there)",
            factor,
        ),
    )
    said = beyond(effect, BITS)
    return [finding(pair.where, effect, said, beside, (said == "for" and not factor.mean >= FAR, "ahead, but not far"))]


def _times_more(other: tuple[np.ndarray, np.ndarray], mine: tuple[np.ndarray, np.ndarray]) -> float:
    """Log of what `other` had spent when it first reached mine's last loss, over all that mine spent; at least that."""
    spent, loss = other
    reached = np.flatnonzero(loss <= mine[1][-1])
    at = spent[reached[0]] if len(reached) else spent[-1]
    if len(reached) and reached[0]:
        before = reached[0] - 1
        at = math.exp(np.interp(-mine[1][-1], -loss[[before, reached[0]]], np.log(spent[[before, reached[0]]])))
    return math.log(at / mine[0][-1])


def _per_token(pair: Pair, curves: Curves, asked: str) -> list[Finding]:
    matched = _matched(pair, curves)
    if not matched:
        return []
    effect, mine, other = _difference(matched)
    said: Said
    if asked == "equal":
        said = inside(effect, -EQUAL_BITS, EQUAL_BITS)
    elif asked == "ahead":
        said = beyond(effect, BITS)
    else:
        said = inside(effect, -BITS, math.inf)
    behind, name = (pair.a, "smt+dmt") if effect.mean < 0 else (pair.b, "bptt")
    lagging = said in ("against", "level") or (said == "for" and asked == "ahead")
    unfinished = lagging and _still_falling(behind, abs(effect.mean)), f"{name} was still learning"
    beside = (("bits of smt+dmt at equal tokens", mine), ("bits of bptt at equal tokens", other))
    return [finding(pair.where, effect, said, beside, unfinished)]


def _still_falling(runs: pd.DataFrame, gap: float) -> bool:
    """As `still_learning`, for a loss in bits."""
    fall = float(runs["fall"].mean()) / math.log(2)
    return fall > BITS and fall / TENTH >= gap


@register_claim(
    "9",
    "Loss falls smoothly with context length, memory size and parameters, and the RNN nears its teacher as it grows.",
    figure="scaling",
    grids=["scaling-small", "scaling"],
)
def scaling(data: Data) -> Verdict:
    """Along each ladder of smt+dmt on natural tasks with three rungs or more: method.context, memory, model size.

    Loss falls: from the smallest to the largest by 0.02 bits or more, interval over seeds above zero, the exponent of a
    power law below zero, and no rung's mean above the one before by 0.02 bits or more (if one is, it is unclear). Level
    counts against. The gap of the RNN to its teacher, along the sizes: smaller at the largest than at the smallest by
    0.02 bits or more, interval above zero.
    """
    runs = final(data)
    runs = runs[(runs["method"] == "smt+dmt") & runs["unit"].eq("bits")]
    runs = runs.assign(bits=runs["loss"] / math.log(2))
    rnn = runs[~runs["reference"]]
    missing = "no natural task has finished runs of smt+dmt at three or more values of {}."
    parts = []
    for words, columns in (("context", ("method.context",)), ("memory", ("model.memory_tokens",)), ("size", SIZES)):
        found = [_falls(one, words) for column in columns for one in ladders(data, rnn, column, RUNGS)]
        parts.append(
            Part(
                f"loss falls with {words}",
                "bits from the smallest to the largest",
                f"by {BITS} or more, without a rise",
                found,
                missing.format(", ".join(columns)),
            )
        )
    teacher = runs[runs["reference"] & (runs["predictor"] == "teacher")].set_index(["grid", "id"])["bits"]
    gaps = rnn.join(teacher.rename("teacher")[~teacher.index.duplicated()], on=["grid", "id"])
    gaps = gaps.assign(gap=gaps["bits"] - gaps["teacher"]).dropna(subset="gap")
    parts.append(
        Part(
            "the gap to the teacher shrinks with size",
            "bits by which the gap shrinks",
            f"by {BITS} or more, interval above zero",
            [_nears(one) for column in SIZES for one in ladders(data, gaps, column, RUNGS)],
            missing.format("size, with its teacher's loss"),
        )
    )
    return decide(
        parts,
        "With a small budget a larger model may be further from the end of its training than a small one, and short "
        "pictures may ask little of memory or context.",
    )


def _grown(ladder: Ladder, value: float, words: str) -> float:
    """What the loss is drawn against: parameters of the predictor along sizes, else the field's value."""
    parameters = float(ladder.at(value)["predictor_parameters"].mean())
    return parameters if words == "size" and parameters > 0 else value


def _falls(ladder: Ladder, words: str) -> Finding:
    rungs = {_grown(ladder, value, words): ladder.at(value) for value in ladder.rungs}
    unit = "parameters" if words == "size" else words
    first, *_, last = rungs.values()
    drop = paired_difference(*(numbers_by_seed(rung, "bits") for rung in (first, last)))
    table = pd.DataFrame({x: rung["bits"] for x, rung in rungs.items()})  # (seeds, rungs)
    each = mean_interval([power_law(row.index.to_numpy(), row.to_numpy()).exponent for _, row in table.iterrows()])
    means = table.mean()
    worst = float(means.diff().max())
    beside = (
        (f"exponent of bits in {unit}", each),
        *((f"bits at {unit} {x:g}", mean_interval(table[x].to_numpy())) for x in rungs),
    )
    said = beyond(drop, BITS)
    return finding(
        ladder.where,
        drop,
        said,
        beside,
        (said == "for" and not each.high < 0, "the exponent's interval reaches zero"),
        (said == "for" and worst >= BITS, f"it falls, but rises by {worst:.3f} bits between two rungs"),
    )


def _nears(ladder: Ladder) -> Finding:
    small, large = ladder.at(ladder.rungs[0]), ladder.at(ladder.rungs[-1])
    effect = paired_difference(*(numbers_by_seed(rung, "gap") for rung in (small, large)))
    name = ladder.column.rpartition(".")[2]
    beside = tuple((f"gap in bits, {name} {value:g}", mean_of(ladder.at(value), "gap")) for value in ladder.rungs)
    return finding(ladder.where, effect, beyond(effect, BITS), beside)


@register_claim(
    "10",
    "More training buys compression: what a large memory reaches early, a smaller one reaches later.",
    figure="compression",
    grids=["scaling-small", "scaling"],
)
def compression(data: Data) -> Verdict:
    """Along each ladder of memory sizes of smt+dmt on natural tasks, per seed.

    The target is the lowest loss that any memory had after half of the training. How many times smaller is the smallest
    memory that has it (within 0.02 bits) at the end than the smallest that had it then? Compression: at least twice as
    small on average, interval of the binary logarithm above zero; none: always the same memory. Where the smallest of
    all had it at half time already, the target asks nothing of memory, and the seed tells nothing.
    """
    runs = final(data)
    runs = runs[(runs["method"] == "smt+dmt") & runs["unit"].eq("bits") & ~runs["reference"]]
    curves = _spending(data, "spent.tokens")
    found = []
    for ladder in ladders(data, runs, "model.memory_tokens", RUNGS):
        halvings = [_halvings(rows, curves) for _, rows in ladder.rows.groupby("seed")]
        effect = mean_interval([one for one in halvings if one is not None])
        told = mean_interval([float(one is None) for one in halvings])
        said: Said = "for" if effect.low > 0 and effect.mean >= 1 else "unclear"
        said = "against" if effect.low == effect.high == 0 else said
        idle = said == "unclear" and told.mean > 0, "the smallest memory had the target at half time"
        beside = (("share of seeds whose smallest memory had the target at half time", told),)
        found.append(finding(ladder.where, effect, said, beside, idle))
    missing = "no natural task has finished runs of smt+dmt with three or more memory sizes."
    return decide(
        [
            Part(
                "a smaller memory catches up",
                "halvings of the memory",
                "one or more, interval above zero",
                found,
                missing,
                digits=2,
            )
        ],
        "In a short training every memory may improve alike, and small pictures may need little memory.",
    )


def _halvings(rows: pd.DataFrame, curves: Curves) -> float | None:
    """log2 of the smallest memory with the target at half time over that at the end; None where it asks nothing."""
    by_size = {
        size: curve
        for grid, name, size in zip(rows["grid"], rows["id"], rows["model.memory_tokens"])
        if (curve := curves.get((grid, name)))
    }
    if len(by_size) < RUNGS:
        return None
    then = {size: _loss_at(curve, EARLY * curve[0][-1]) for size, curve in by_size.items()}
    target = min(then.values()) + BITS
    early = min(size for size, loss in then.items() if loss <= target)
    late = min([size for size, curve in by_size.items() if curve[1][-1] <= target], default=early)
    return None if early == min(by_size) else math.log2(early / min(late, early))
