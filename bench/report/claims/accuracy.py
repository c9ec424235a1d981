"""Claims about accuracy: against BPTT, against length, beyond the trained length."""

from __future__ import annotations

import pandas as pd

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import (
    EQUAL,
    LEARNED,
    MARGIN,
    SOLVED,
    Beside,
    Finding,
    Part,
    Said,
    beyond,
    decide,
    finding,
    inside,
    untested,
)
from bench.report.claims.learning import final, still_learning
from bench.report.data import Data
from bench.report.query import base, mean_of, numbers_by_seed, scores
from bench.report.sweeps import Ladder, Pair, ladders, pairs
from bench.statistics import mean_interval, paired_difference

SYNTHETIC = ("retrieval", "string-copy", "stack", "keys-values", "modular-arithmetic")
"""The paper's five."""
HOLDS = 0.1
"""Of skill (0 chance, 1 ceiling): what may be lost on longer sequences by one that holds."""
BACKBONE = ("model.backbone",)
AHEAD = f"by {MARGIN} of accuracy or more, interval over seeds above zero"


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
    runs = runs[~runs["reference"] & runs["task"].isin(SYNTHETIC)]
    smt, bptt = (runs[runs["method"] == name] for name in ("smt+dmt", "bptt"))
    compared = pairs(smt, bptt)
    found = [lead(pair, "smt+dmt", "bptt") for pair in compared]
    missing = "no synthetic task has finished runs of smt+dmt and bptt at equal settings."
    main = Part("SMT->DMT is ahead of BPTT", "accuracy, smt+dmt minus bptt", AHEAD, found, missing)
    second = Part(
        "keys-values is its hardest task",
        "share of the ceiling on the hardest other task minus that on keys-values",
        AHEAD,
        _hardest(smt, "keys-values"),
        "no finished smt+dmt on keys-values and another task.",
    )
    seen = {task for pair in compared for task in pair.a["task"]}
    absent = ", ".join(task for task in SYNTHETIC if task not in seen)
    rest = [untested(f"{absent}: no finished runs of both.")] if absent else []
    return decide(
        [main, second, *rest] if found else [main],
        "Small models and short budgets may favour either method: SMT trains a teacher besides the RNN on the same "
        "tokens, and at short lengths BPTT's gradients need not vanish, which is what SMT is meant to mend.",
    )


def _hardest(runs: pd.DataFrame, task: str) -> list[Finding]:
    """How far the share of the ceiling there is below that of the hardest of the others, paired by seed."""
    runs = runs.drop_duplicates(["id", "accuracy", "loss"])  # what several grids have in common counts once
    shares = {str(name): part.groupby("seed")["share"].mean() for name, part in runs.groupby("task", sort=False)}
    if task not in shares or len(shares) < 2:
        return []
    own = shares.pop(task)
    rival = min(shares, key=lambda name: float(shares[name].mean()))
    effect = paired_difference(*(dict(one) for one in (shares[rival], own)))
    beside = tuple(
        (f"share on {name}", mean_interval(one.to_numpy())) for name, one in ((task, own), (rival, shares[rival]))
    )
    return [finding(f"{task} and {rival}", effect, beyond(effect, MARGIN), beside)]


def lead(pair: Pair, a: str, b: str) -> Finding:
    """Whether a's accuracy is above b's: by `MARGIN`, with an interval of the paired differences above zero.

    Nothing is told where both solve the task (0.98 of the ceiling), where neither is above chance by the margin, or
    where the one behind was still learning (see `still_learning`).
    """
    effect = paired_difference(*(numbers_by_seed(runs, "accuracy") for runs in (pair.a, pair.b)))
    sides = ((a, pair.a), (b, pair.b))
    said = beyond(effect, MARGIN)
    behind = {"for": sides[1:], "against": sides[:1], "level": sides, "unclear": ()}[said]
    gap = 0.0 if said == "level" else abs(effect.mean)
    learning = [name for name, runs in behind if still_learning(runs, gap)]
    above = [(runs["accuracy"] - runs["chance"].fillna(0)).mean() >= MARGIN for _, runs in sides]
    return finding(
        pair.where,
        effect,
        said,
        tuple((f"accuracy of {name}", mean_of(runs, "accuracy")) for name, runs in sides),
        (said != "unclear" and all(runs["share"].mean() >= SOLVED for _, runs in sides), "both solve it"),
        (said != "unclear" and not any(above), "neither is above chance"),
        (bool(learning), f"{' and '.join(learning)} was still learning"),
    )


@register_claim(
    "2",
    "BPTT loses accuracy as sequences lengthen, even on retrieval; SMT->DMT does not.",
    figure="synthetic",
    grids=["synthetic-small", "synthetic"],
)
def length(data: Data) -> Verdict:
    """On retrieval, the accuracy at the shortest minus that at the longest trained length, paired by seed.

    BPTT falls: by 0.02 or more, interval above zero. SMT->DMT does not: interval below 0.05. Nothing is told where the
    shortest is not learned (accuracy less than 0.2 of the way from chance to the ceiling), and a fall does not count
    where the method was still learning at the longest, fast enough to make up for it in as much training again.
    """
    runs = base(final(data))
    runs = runs[~runs["reference"] & (runs["task"] == "retrieval")]
    missing = "no grid has finished retrieval runs of {} at several lengths."
    parts = []
    for method, says, rule in (
        ("bptt", "BPTT falls with length", f"by {MARGIN} of accuracy or more, interval above zero"),
        ("smt+dmt", "SMT->DMT keeps its accuracy", f"interval of its fall below {EQUAL} of accuracy"),
    ):
        found = [_falls(one, method) for one in ladders(data, runs[runs["method"] == method], "task.length", least=2)]
        effect = f"fall in accuracy of {method} from the shortest to the longest"
        parts.append(Part(says, effect, rule, found, missing.format(method)))
    return decide(
        parts,
        "Over tens of symbols gradients through every step may still arrive, where over hundreds they do not; and with "
        "equal tokens a longer sequence means fewer steps for every method.",
    )


def _falls(ladder: Ladder, method: str) -> Finding:
    short, long = ladder.at(ladder.rungs[0]), ladder.at(ladder.rungs[-1])
    fall = paired_difference(*(numbers_by_seed(runs, "accuracy") for runs in (short, long)))
    beside = tuple(
        (f"accuracy of {method}, length {value:g}", mean_of(ladder.at(value), "accuracy")) for value in ladder.rungs
    )
    where = f"{ladder.where}, lengths {ladder.rungs[0]:g} to {ladder.rungs[-1]:g}"
    said: Said
    if method == "bptt":
        said = beyond(fall, MARGIN)
        fell = said == "for"
    else:
        said = "for" if fall.high < EQUAL else "against" if fall.low > MARGIN else "unclear"
        fell = said == "against"
    return finding(
        where,
        fall,
        said,
        beside,
        (short["skill"].mean() < LEARNED, "the shortest is not learned"),
        (fell and still_learning(long, fall.mean), f"{method} was still learning at the longest"),
    )


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
    runs = base(_lost(scores(data)))
    rnn = runs[(runs["method"] == "smt+dmt") & ~runs["reference"]]
    teacher = runs[(runs["method"] == "smt+dmt") & runs["reference"] & (runs["predictor"] == "teacher")]
    transformer = runs[(runs["method"] == "transformer") & ~runs["reference"]]
    lengths = "no finished run of {} was tested at lengths beyond the trained one (evaluation.lengths)."
    found = []
    for where, cells, _ in pairs(rnn, rnn):
        fall = mean_of(cells, "lost")
        unlearned = cells["skill"].mean() < LEARNED, "the trained length is not learned"
        found.append(finding(where, fall, inside(fall, float("-inf"), HOLDS), _kept("smt+dmt", cells), unlearned))
    effect = "skill lost, {} minus smt+dmt"
    rule = f"by {MARGIN} or more, interval above zero"
    return decide(
        [
            Part(
                "SMT->DMT holds on longer sequences",
                "skill it loses",
                f"interval below {HOLDS}",
                found,
                lengths.format("smt+dmt"),
            ),
            Part(
                "it loses less than its teacher",
                effect.format("teacher"),
                rule,
                [_loses_less(pair.where, pair.a, pair.b, "the teacher") for pair in pairs(rnn, teacher)],
                lengths.format("smt+dmt with its teacher"),
            ),
            Part(
                "it loses less than the Transformer",
                effect.format("transformer"),
                rule,
                [_loses_less(pair.where, pair.a, pair.b, "transformer") for pair in pairs(rnn, transformer, BACKBONE)],
                lengths.format("transformer"),
            ),
        ],
        "At a few times a short trained length a Transformer with relative positions may still hold, and an RNN whose "
        "rollouts were that short in training may not.",
    )


def _lost(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per run and predictor that was tested beyond its trained length: its trained score, `longer`, `lost`."""
    key = ["grid", "id", "predictor", "reference"]
    longer = rows[rows["length"] > rows["task.length"]].groupby(key)["skill"].mean().rename("longer")
    trained = rows[rows["trained"]].join(longer, on=key)
    trained = trained[trained["longer"].notna()]
    return trained.assign(lost=trained["skill"] - trained["longer"])


def _kept(name: str, runs: pd.DataFrame) -> Beside:
    told = (("skill", "skill of {} at the trained length"), ("longer", "skill of {} at longer lengths"))
    return tuple((words.format(name), mean_of(runs, column)) for column, words in told)


def _loses_less(where: str, rnn: pd.DataFrame, other: pd.DataFrame, name: str) -> Finding:
    effect = paired_difference(*(numbers_by_seed(runs, "lost") for runs in (other, rnn)))
    unlearned = min(rnn["skill"].mean(), other["skill"].mean()) < LEARNED
    beside = (*_kept("smt+dmt", rnn), *_kept(name, other))
    why = "one of them has not learned the trained length"
    return finding(where, effect, beyond(effect, MARGIN), beside, (unlearned, why))
