"""Claims about accuracy: against BPTT, against length, beyond the trained length."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import EQUAL, LEARNED, MARGIN, SOLVED, Case, Part, ahead, apart, decide, means, within
from bench.report.claims.learning import final, of_method, still_learning
from bench.report.claims.regime import as_published
from bench.report.data import Data
from bench.report.query import base, scores
from bench.report.sweeps import Ladder, Pair, ladders, pairs
from bench.report.tables import difference, mean_of

SYNTHETIC = ("retrieval", "string-copy", "stack", "keys-values", "modular-arithmetic")
"""The paper's five."""
FAR = 128
"""The length of retrieval from which on every answer is 64 steps or more away from what it needs."""
HOLDS = 0.1
"""The skill (0 at chance, 1 at the ceiling) that a method which holds may lose on longer sequences."""
BACKBONE = ("model.backbone",)
KEEPS = apart(f"interval below {EQUAL}", lambda fall: fall.high < EQUAL, lambda fall: fall.low > MARGIN)
"""Of a fall in accuracy: whether it is none."""


@register_claim(
    "1",
    "SMT->DMT beats BPTT on all five synthetic tasks at every difficulty; keys-values stays the hardest for it.",
    figure="synthetic",
    grids=["synthetic-small", "synthetic"],
)
def beats_bptt(data: Data) -> Verdict:
    """Ahead of BPTT at every setting of the five tasks, by the rule of `lead`; ablations of either method are left out.

    Its second part: averaged over its settings, the share of the ceiling that SMT->DMT reaches on keys-values is below
    that of every other task, by 0.02 or more with an interval above zero. The claim is of all five tasks, so that fewer
    can contradict it, but not support it.
    """
    runs = base(final(data))
    smt, bptt = (rows[rows["task"].isin(SYNTHETIC)] for rows in (of_method(runs, "smt+dmt"), of_method(runs, "bptt")))
    compared = pairs(smt, bptt)
    hardest = "share of the ceiling on the hardest other task minus that on keys-values"
    leads = [lead(pair, "smt+dmt", "bptt") for pair in compared]
    parts = [
        Part("SMT->DMT is ahead of BPTT", "accuracy, smt+dmt minus bptt", ahead(MARGIN), leads),
        Part("keys-values is its hardest task", hardest, ahead(MARGIN), _hardest(smt, "keys-values")),
    ]
    seen = {task for pair in compared for task in pair.a["task"]}
    absent = ", ".join(task for task in SYNTHETIC if task not in seen)
    rest = [Part(f"both on {absent}", "", ahead(MARGIN), ())] if absent else []
    return decide(
        [*parts, *rest] if compared else parts[:1],
        "Small models and short budgets may favour either method: SMT trains a teacher besides the RNN on the same "
        "tokens, and at short lengths BPTT's gradients need not vanish, which is what SMT is meant to mend.",
        pd.concat([smt, bptt]),
    )


def _hardest(runs: pd.DataFrame, task: str) -> list[Case]:
    """How far the share of the ceiling there is below that of the hardest of the others, paired by seed."""
    runs = runs.drop_duplicates(["id", "accuracy", "loss"])  # what several grids have in common counts once
    shares = {str(name): part.groupby("seed")[["share"]].mean() for name, part in runs.groupby("task", sort=False)}
    if task not in shares or len(shares) < 2:
        return []
    own = shares.pop(task)
    rival = min(shares, key=lambda name: shares[name]["share"].mean())
    beside = means({task: own, rival: shares[rival]}, "share", "share on {}")
    return [Case(f"{task} and {rival}", difference(shares[rival], own, "share"), beside)]


def lead(pair: Pair, a: str, b: str) -> Case:
    """How far a's accuracy is above b's, paired by seed.

    Nothing is told where both solve the task (0.98 of the ceiling), where neither is above chance by the margin, or
    where the one behind was still learning (see `still_learning`).
    """
    effect = difference(pair.a, pair.b, "accuracy")
    sides = {a: pair.a, b: pair.b}
    above = [(runs["accuracy"] - runs["chance"].fillna(0)).mean() >= MARGIN for runs in sides.values()]
    idle = [
        (all(runs["share"].mean() >= SOLVED for runs in sides.values()), "both solve it"),
        (not any(above), "neither is above chance"),
    ]

    def learning(name: str, gap: float) -> tuple[bool, str]:
        return still_learning(sides[name], gap), f"{name} was still learning"

    gap = abs(effect.mean)
    unless = {
        "for": [*idle, learning(b, gap)],
        "against": [*idle, learning(a, gap)],
        "level": [*idle, learning(a, 0.0), learning(b, 0.0)],
    }
    return Case(pair.where, effect, means(sides, "accuracy", "accuracy of {}"), unless)


@register_claim(
    "2",
    "BPTT loses accuracy as sequences lengthen, even on retrieval; SMT->DMT does not.",
    figure="synthetic",
    grids=["medium-retrieval", "synthetic"],
)
def length(data: Data) -> Verdict:
    """On retrieval, the accuracy at the shortest minus that at the longest trained length, paired by seed.

    The claim speaks of gradients that have far to travel: it is not tested where the longest is shorter than 128, at
    which every answer is 64 steps or more away. BPTT falls: by 0.02 or more, interval above zero. SMT->DMT does not:
    interval below 0.05. Nothing is told where the shortest is not learned (accuracy less than 0.2 of the way from
    chance to the ceiling), and a fall does not count where the method was still learning at the longest, fast enough
    to make up for it in as much training again.
    """
    runs = base(final(data))
    runs = runs[runs["task"] == "retrieval"]
    parts = []
    for method, says, rule, fell in (
        ("bptt", "BPTT falls with length", ahead(MARGIN), "for"),
        ("smt+dmt", "SMT->DMT keeps its accuracy", KEEPS, "against"),
    ):
        cases = [fall_of(ladder, method, fell) for ladder in to_far(data, of_method(runs, method))]
        effect = f"fall in accuracy of {method} from the shortest to the longest"
        parts.append(Part(says, effect, rule, cases, f"retrieval of {FAR} or longer, and a shorter one"))
    return decide(
        parts,
        "Over tens of symbols gradients through every step may still arrive, where over hundreds they do not; and with "
        "equal tokens a longer sequence means fewer steps for every method.",
        of_method(runs, "bptt", "smt+dmt"),
    )


def to_far(data: Data, runs: pd.DataFrame) -> list[Ladder]:
    """The sweeps of lengths that reach `FAR`."""
    return [ladder for ladder in ladders(data, runs, "task.length", 2) if ladder.rungs[-1] >= FAR]


def fall_of(ladder: Ladder, method: str, fell: str = "") -> Case:
    """A fall of accuracy from the shortest length to the longest.

    Where it speaks `fell` ("for" or "against" the claim) it does not count of a method that was still learning.
    """
    short, *_, long = (ladder.at(value) for value in ladder.rungs)
    fall = difference(short, long, "accuracy")
    unless = {"": [(short["skill"].mean() < LEARNED, "the shortest is not learned")]}
    if fell:
        unless[fell] = [(still_learning(long, fall.mean), f"{method} was still learning at the longest")]
    where = f"{ladder.where}, lengths {ladder.rungs[0]:g} to {ladder.rungs[-1]:g}"
    return Case(where, fall, means(ladder.by_rung, "accuracy", f"accuracy of {method}, length {{}}"), unless)


@register_claim(
    "7",
    "On sequences longer than those trained on, SMT->DMT keeps its accuracy where its Transformer teacher and the "
    "Transformer baseline lose theirs.",
    figure="length-generalisation",
    grids=["length-small", "length"],
)
def unseen_lengths(data: Data) -> Verdict:
    """Skill (0 at chance, 1 at the ceiling) at the trained length minus its mean over all longer lengths, per run.

    Three parts. The RNN holds: the interval of its loss of skill is below 0.1. It loses less than its own teacher, and
    less than the Transformer: by 0.02 or more, interval of the paired differences above zero. Nothing is told where one
    of the two has less than 0.2 of skill at the trained length. Equal losses count against the claim.
    """
    runs = base(lost(as_published(scores(data))))
    parts = holding(runs, "smt+dmt", "SMT->DMT", {"transformer": "the Transformer"})
    return decide(
        parts,
        "At a few times a short trained length a Transformer with relative positions may still hold, and an RNN whose "
        "rollouts were that short in training may not.",
        of_method(runs, "smt+dmt", "transformer"),
    )


def holding(runs: pd.DataFrame, method: str, called: str, rivals: Mapping[str, str]) -> list[Part]:
    """A method holds on longer sequences; it loses less than its own teacher, and than each rival (name -> in words).

    `runs` are those of `lost`.
    """
    rnn = of_method(runs, method)
    teacher = runs[(runs["method"] == method) & runs["reference"] & (runs["predictor"] == "teacher")]
    needs, why = "evaluation.lengths beyond the trained one", "the trained length is not learned"
    cases = [_beyond(where, {method: own}, why) for where, own, _ in pairs(rnn, rnn)]
    parts = [Part(f"{called} holds on longer sequences", "skill it loses", within(high=HOLDS), cases, needs)]
    others = {"teacher": ("its teacher", teacher, ())} | {
        name: (words, of_method(runs, name), BACKBONE if name == "transformer" else ())
        for name, words in rivals.items()
    }
    why = "one of them has not learned the trained length"
    for name, (words, other, unlike) in others.items():
        found = pairs(rnn, other, unlike)
        cases = [_beyond(where, {method: own, name: two}, why) for where, own, two in found]
        parts.append(
            Part(f"it loses less than {words}", f"skill lost, {name} minus {method}", ahead(MARGIN), cases, needs)
        )
    return parts


def lost(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per run and predictor that was tested beyond its trained length: its trained score, `longer`, `lost`."""
    key = ["grid", "id", "predictor", "reference"]
    longer = rows[rows["length"] > rows["task.length"]].groupby(key)["skill"].mean().rename("longer")
    trained = rows[rows["trained"]].join(longer, on=key)
    trained = trained[trained["longer"].notna()]
    return trained.assign(lost=trained["skill"] - trained["longer"])


def _beyond(where: str, sides: dict[str, pd.DataFrame], why: str) -> Case:
    """What the first of the sides loses; of two, what the second loses more than the first."""
    own, *other = sides.values()
    effect = difference(other[0], own, "lost") if other else mean_of(own, "lost")
    beside = [means({name: runs}, *how) for name, runs in sides.items() for how in KEPT]
    unlearned = min(runs["skill"].mean() for runs in sides.values()) < LEARNED
    return Case(where, effect, sum(beside, ()), {"": [(unlearned, why)]})


KEPT = (("skill", "skill of {} at the trained length"), ("longer", "skill of {} at longer lengths"))
