"""Claims about what more of something buys: compute, context, memory, parameters, training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import BITS, Beside, Case, Part, ahead, apart, decide, means, stated, within
from bench.report.claims.learning import TENTH, final, of_method
from bench.report.curves import Curve, loss_at, spend_to
from bench.report.data import Data
from bench.report.query import RUN, base, curve_points, keys
from bench.report.sweeps import Ladder, Pair, ladders, pairs
from bench.report.tables import difference
from bench.statistics import Interval, exponential, mean_interval, power_law

EQUAL_BITS = 0.05
"""Losses that differ by less are equal; wider than `BITS`, as a whole interval has to fit in."""
FAR = 2.0
"""Far ahead: the other needs at least so many times the sequential FLOPs."""
PER_TOKEN = {"tinystories": within(-EQUAL_BITS, EQUAL_BITS), "mnist": ahead(BITS), "digits": within(low=-BITS)}
"""How SMT->DMT and BPTT compare per token in the paper. It has no digits: where neither of the others is there, the
weaker of the two statements is asked of them."""
STAND_IN = "digits"
RUNGS = 3
SIZES = ("model.d", "model.updater_layers", "model.parameters")
"""Fields along which parameters grow."""
EARLY = 0.5
"""A share of the training: what a memory reached by then, a smaller one may reach by the end."""


@register_claim(
    "8",
    "Per sequential FLOP SMT->DMT is far ahead of BPTT; per token it is equal on tinystories and ahead on mnist.",
    figure="efficiency",
    grids=["natural", "medium-natural", "scaling-small", "dynamics-small", "scaling"],
)
def efficiency(data: Data) -> Verdict:
    """BPTT's loss minus SMT->DMT's, in bits, at the largest spend that both reached, per pair of seeds.

    Losses between evaluations are read off straight lines in the logarithm of the spend; a spend before a method's
    first evaluation takes that one's loss, in that method's favour. Sequential FLOPs, of which an operator counts
    with all that it computes at once, over batch and positions: ahead by 0.02 bits or more, interval above zero, and
    BPTT spends at least twice as much for the loss that SMT->DMT ends with. Tokens: on tinystories equal within 0.05
    bits, on mnist ahead by 0.02 bits or more. Where there is neither, digits stand in, and SMT->DMT is to be no more
    than 0.02 bits behind per token. A method that is behind per token and was still learning fast enough to draw level
    in as much training again decides nothing.
    """
    runs = base(final(data))
    asked = [task for task in PER_TOKEN if task != STAND_IN and (runs["task"] == task).any()] or [STAND_IN]
    runs = runs[runs["task"].isin(asked)]
    found = pairs(of_method(runs, "smt+dmt"), of_method(runs, "bptt"))
    far = ahead(BITS)._replace(words=f"{ahead(BITS).words}, and {FAR:g} times the sequential FLOPs")
    rule = stated("; ".join(f"{task}: {PER_TOKEN[task].words}" for task in asked))
    effect = "bits that BPTT's loss is above SMT->DMT's, at equal {}"
    stands = f" (for {' and '.join(task for task in PER_TOKEN if task != STAND_IN)})" if asked == [STAND_IN] else ""
    per_flop = [_per_flop(*matched) for matched in with_curves(data, found, "spent.sequential_flops")]
    per_token = [_per_token(*matched) for matched in with_curves(data, found, "spent.tokens")]
    says = f"per token it compares as claimed on {' and '.join(asked)}{stands}"
    return decide(
        [
            Part(
                *("SMT->DMT is far ahead per sequential FLOP", effect.format("sequential FLOPs"), far),
                per_flop,
                "measure: [cost]",
            ),
            Part(says, effect.format("tokens"), rule, per_token),
        ],
        "SMT also trains a teacher, on which it may spend what an RNN over short sequences does not need, and a small "
        "budget may end long before either method is done.",
        of_method(runs, "smt+dmt", "bptt"),
    )


def _spending(data: Data, column: str) -> dict[Any, Curve]:
    """(grid, id) -> its loss in bits against one kind of spend, from the first evaluation with a spend above zero."""
    points = curve_points(data, column, "loss").dropna(subset=[column, "loss"])
    return {
        key: (part[column].to_numpy(), part["loss"].to_numpy() / math.log(2))
        for key, part in points[points[column] > 0].groupby(RUN, sort=False)
    }


def with_curves(data: Data, found: list[Pair], column: str) -> Iterator[tuple[Pair, list[Curve], list[Curve]]]:
    """Each pair with the curves of both, by the seeds that have them, where there are such seeds."""
    curves = _spending(data, column)
    for pair in found:
        seeds = pair.a.index.intersection(pair.b.index)
        sides = zip(keys(pair.a.loc[seeds]), keys(pair.b.loc[seeds]))
        both = [(curves[a], curves[b]) for a, b in sides if a in curves and b in curves]
        if both:
            yield pair, [a for a, _ in both], [b for _, b in both]


def bits_at(a: list[Curve], b: list[Curve], share: float = 1.0) -> tuple[list[np.ndarray], list[float]]:
    """The losses (seeds,) of both after a share of the largest spend that both of a seed reached, and these spends."""
    spends = [share * min(mine[0][-1], other[0][-1]) for mine, other in zip(a, b)]
    return [np.array([loss_at(*curve, at) for curve, at in zip(side, spends)]) for side in (a, b)], spends


def _difference(a: list[Curve], b: list[Curve], currency: str) -> tuple[Interval, Beside]:
    """SMT->DMT's loss below BPTT's at the largest spend that both reached, and the losses there."""
    bits, _ = bits_at(a, b)
    names = (f"bits of {name} at equal {currency}" for name in ("smt+dmt", "bptt"))
    return mean_interval(bits[1] - bits[0]), tuple(zip(names, map(mean_interval, bits)))


def _per_flop(pair: Pair, a: list[Curve], b: list[Curve]) -> Case:
    effect, beside = _difference(a, b, "sequential FLOPs")
    factor = exponential(mean_interval([times_more(other, mine) for mine, other in zip(a, b)]))
    words = "times the sequential FLOPs that bptt spends for smt+dmt's last loss (or more, where it never gets there)"
    unless = {"for": [(not factor.mean >= FAR, "ahead, but not far")]}
    return Case(pair.where, effect, (*beside, (words, factor)), unless)


def times_more(other: Curve, mine: Curve) -> float:
    """Log of what `other` had spent when it first reached mine's last loss, over all that mine spent; at least that."""
    spent = spend_to(*other, mine[1][-1])
    return math.log((other[0][-1] if math.isnan(spent) else spent) / mine[0][-1])


def _per_token(pair: Pair, a: list[Curve], b: list[Curve]) -> Case:
    effect, beside = _difference(a, b, "tokens")
    task = str(pair.a["task"].iloc[0])
    behind, name = (pair.a, "smt+dmt") if effect.mean < 0 else (pair.b, "bptt")
    fall = float(behind["fall"].mean()) / math.log(2)
    learning = [(fall > BITS and fall / TENTH >= abs(effect.mean), f"{name} was still learning")]
    unless = {"against": learning, "level": learning} | ({"for": learning} if task == "mnist" else {})
    return Case(pair.where, effect, beside, unless, PER_TOKEN[task].says(effect))


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
    runs = _natural(data)
    rnn = of_method(runs, "smt+dmt")
    teacher = runs[runs["reference"] & (runs["predictor"] == "teacher")].set_index(RUN)["bits"]
    gaps = rnn.join(teacher.rename("teacher")[~teacher.index.duplicated()], on=RUN)
    gaps = gaps.assign(gap=gaps["bits"] - gaps["teacher"]).dropna(subset="gap")
    parts = []
    for words, columns in (("context", ("method.context",)), ("memory", ("model.memory_tokens",)), ("size", SIZES)):
        cases = [_falls(ladder, words) for column in columns for ladder in ladders(data, rnn, column, RUNGS)]
        says, needs = f"loss falls with {words}", f"{RUNGS} values of {' or '.join(columns)} on a natural task"
        parts.append(Part(says, "bits from the smallest to the largest", ahead(BITS), cases, needs))
    nears = [_nears(ladder) for column in SIZES for ladder in ladders(data, gaps, column, RUNGS)]
    says = "the gap to the teacher shrinks with size"
    parts.append(Part(says, "bits by which the gap shrinks", ahead(BITS), nears, parts[-1].needs))
    return decide(
        parts,
        "With a small budget a larger model may be further from the end of its training than a small one, and short "
        "pictures may ask little of memory or context.",
        rnn,
    )


def _natural(data: Data) -> pd.DataFrame:
    """The final scores of smt+dmt on natural tasks, with the loss in bits."""
    runs = final(data)
    runs = runs[(runs["method"] == "smt+dmt") & runs["unit"].eq("bits")]
    return runs.assign(bits=runs["loss"] / math.log(2))


def _falls(ladder: Ladder, words: str) -> Case:
    """Against parameters of the predictor along sizes, else against the field's value."""
    rungs = [ladder.at(value) for value in ladder.rungs]
    sizes = [float(rung["predictor_parameters"].mean()) for rung in rungs]
    x, unit = (np.array(ladder.rungs), words) if words != "size" else (np.array(sizes), "parameters")
    x = np.where(x > 0, x, ladder.rungs)
    drop = difference(rungs[0], rungs[-1], "bits")
    table = pd.DataFrame({place: rung["bits"] for place, rung in enumerate(rungs)})  # (seeds, rungs)
    each = mean_interval([power_law(x, losses).exponent for losses in table.to_numpy()])
    worst = float(table.mean().diff().max())
    at = {f"{size:g}": rung for size, rung in zip(x, rungs)}
    beside = ((f"exponent of bits in {unit}", each), *means(at, "bits", f"bits at {unit} {{}}"))
    unless = [
        (not each.high < 0, "the exponent's interval reaches zero"),
        (worst >= BITS, f"it falls, but rises by {worst:.3f} bits between two rungs"),
    ]
    return Case(ladder.where, drop, beside, {"for": unless})


def _nears(ladder: Ladder) -> Case:
    small, *_, large = ladder.by_rung.values()
    beside = means(ladder.by_rung, "gap", f"gap in bits, {ladder.column.rpartition('.')[2]} {{}}")
    return Case(ladder.where, difference(small, large, "gap"), beside)


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
    runs, curves = of_method(_natural(data), "smt+dmt"), _spending(data, "spent.tokens")
    cases = []
    for ladder in ladders(data, runs, "model.memory_tokens", RUNGS):
        halvings = [_halvings(rows, curves) for _, rows in ladder.rows.groupby("seed")]
        idle = mean_interval([float(halving is None) for halving in halvings])
        unless = {"unclear": [(idle.mean > 0, "the smallest memory had the target at half time")]}
        beside = (("share of seeds whose smallest memory had the target at half time", idle),)
        effect = mean_interval([halving for halving in halvings if halving is not None])
        cases.append(Case(ladder.where, effect, beside, unless))
    rule = apart(
        "one or more, interval above zero",
        lambda effect: effect.low > 0 and effect.mean >= 1,
        lambda effect: effect.low == effect.high == 0,
    )
    needs = f"{RUNGS} memory sizes on a natural task"
    return decide(
        [Part("a smaller memory catches up", "halvings of the memory", rule, cases, needs, digits=2)],
        "In a short training every memory may improve alike, and small pictures may need little memory.",
        runs,
    )


def _halvings(rows: pd.DataFrame, curves: dict[Any, Curve]) -> float | None:
    """log2 of the smallest memory with the target at half time over that at the end; None where it asks nothing."""
    by_size = {
        size: curve
        for grid, name, size in zip(rows["grid"], rows["id"], rows["model.memory_tokens"])
        if (curve := curves.get((grid, name)))
    }
    if len(by_size) < RUNGS:
        return None
    then = {size: loss_at(*curve, EARLY * curve[0][-1]) for size, curve in by_size.items()}
    target = min(then.values()) + BITS
    early = min(size for size, loss in then.items() if loss <= target)
    late = min([size for size, curve in by_size.items() if curve[1][-1] <= target], default=early)
    return None if early == min(by_size) else math.log2(early / min(late, early))
