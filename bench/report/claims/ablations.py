"""Claims that ablations test: the future that the decoder predicts, the weights of SMT's losses, the updater."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bench.report.claims.accuracy import BACKBONE
from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import (
    EQUAL,
    LEARNED,
    MARGIN,
    Finding,
    Part,
    beyond,
    decide,
    exponential,
    finding,
    inside,
    opposite,
)
from bench.report.claims.learning import final, still_learning
from bench.report.data import Data
from bench.report.query import base, having, keys, mean_of, number, numbers_by_seed
from bench.report.sweeps import Ladder, ladders, pairs
from bench.statistics import paired_difference

SOLVES = 0.9
"""Of the ceiling."""
DEPENDENT = ("retrieval", "string-copy")
"""Tasks whose answers depend on inputs far back: up to the whole length."""
COLLAPSED = 0.5
"""A memory space whose effective rank is less than half as large has collapsed."""
PAPERS = {"method.lambda_dyn": 0.1, "method.lambda_unif": 0.001}


@register_claim(
    "11",
    "Trained jointly, teacher and RNN solve the tasks even with a future of one output (T_f = 1); with the RNN's "
    "gradient kept out of the teacher, T_f has to span the dependency.",
    figure="ablation-future",
    grids=["ablation-small", "ablation"],
)
def future(data: Data) -> Verdict:
    """Share of the ceiling of smt+dmt on retrieval and string-copy, by method.future and method.detach.

    Solved: the interval over seeds is above 0.9; failed: it is below, and the method was not still learning. Joint with
    T_f = 1 is to solve; detached is to fail with T_f below half the length, and to solve with T_f of the whole length
    or more (in between, dependencies are partly spanned, and nothing is asked). A failure tells nothing where joint
    training fails with the longest future too.
    """
    runs = having(final(data), "method.future", "method.detach")
    runs = runs[~runs["reference"] & (runs["method"] == "smt+dmt") & runs["task"].isin(DEPENDENT)]
    runs = runs.assign(**{"method.future": number(runs["method.future"])}).dropna(subset="method.future")
    runs = base(runs, "method.future", "method.detach")
    detached = runs["method.detach"].eq(True)
    short = runs["method.future"] < runs["task.length"] / 2
    whole = runs["method.future"] >= runs["task.length"]
    able = _solvable(runs[~detached])
    asked = (
        ("joint training solves with T_f = 1", ~detached & (runs["method.future"] == 1), True),
        ("detached training fails with T_f below half the length", detached & short, False),
        ("detached training solves with T_f of the whole length", detached & whole, True),
    )
    parts = []
    for says, chosen, solves in asked:
        found = [
            _solved(f"{where}, T_f {future_:g}, {says.split()[0]}", cells, solves, able)
            for future_, part in runs[chosen].groupby("method.future")
            for where, cells, _ in pairs(part, part)
        ]
        rule = f"interval {'above' if solves else 'below'} {SOLVES}"
        missing = f"no finished smt+dmt on {' or '.join(DEPENDENT)} for “{says}”."
        parts.append(Part(says, "share of the ceiling", rule, found, missing))
    return decide(
        parts,
        "In a short sequence every position is drawn often, so that even a short future may do without joint training, "
        "and a small budget may end before the harder of two objectives is learned.",
    )


def _task_of(cells: pd.DataFrame) -> tuple[str, str, float]:
    row = cells.iloc[0]
    return str(row["grid"]), str(row["task"]), float(row["task.length"])


def _solvable(joint: pd.DataFrame) -> dict[tuple[str, str, float], bool]:
    """(grid, task, length) -> whether joint training with the longest future solves it."""
    longest = joint[
        joint["method.future"] == joint.groupby(["grid", "task", "task.length"])["method.future"].transform("max")
    ]
    shares = longest.groupby(["grid", "task", "task.length"])["share"].mean()
    return {key: share > SOLVES for key, share in shares.items()}  # type: ignore[misc]


def _solved(where: str, cells: pd.DataFrame, solves: bool, able: dict[tuple[str, str, float], bool]) -> Finding:
    share = mean_of(cells, "share")
    said = inside(share, SOLVES, math.inf)
    failed, hopeless = said == "against", not able.get(_task_of(cells), True)
    return finding(
        where,
        share,
        said if solves else opposite(said),
        (("accuracy", mean_of(cells, "accuracy")),),
        (failed and hopeless, "joint training with the longest future does not solve it either"),
        (failed and still_learning(cells), "still learning"),
    )


@register_claim(
    "12",
    "Without L_unif the memory space collapses, but not the RNN; the best weights are lambda_dyn 0.1 and lambda_unif "
    "0.001.",
    figure="ablation-lambda",
    grids=["ablation-small", "ablation"],
)
def weights(data: Data) -> Verdict:
    """Ladders of smt+dmt along method.lambda_unif and method.lambda_dyn, all else equal, paired by seed.

    Collapse: the effective rank of memories at lambda_unif 0 is less than half that at the value nearest 0.001,
    interval of the ratio below 0.5. The RNN does not collapse: the interval of its accuracy at 0 minus that
    there is above -0.05. Both tell nothing where it has not learned the task with L_unif (0.2 of the way from chance to
    the ceiling). Best: the
    paper's weight is ahead of the best other one by 0.02 or more (of accuracy; of bits on natural tasks) with an
    interval above zero; not the best: behind likewise, unless it was still learning. Ties leave it open.
    """
    runs = final(data)
    runs = runs[~runs["reference"] & (runs["method"] == "smt+dmt")]
    ranks = {(run.get("grid"), run.get("id")): record.get("effective_rank") for run, record in data.geometry}
    rank = number(pd.Series([ranks.get(run) for run in keys(runs)], index=runs.index, dtype=object))
    bits = runs["unit"].eq("bits")
    runs = runs.assign(rank=rank, merit=runs["accuracy"].where(~bits, -runs["loss"] / math.log(2)))
    uniform = [one for one in ladders(data, runs, "method.lambda_unif", 2) if one.rungs[0] == 0]
    collapses = [one for one in uniform if one.rows["rank"].notna().any()]
    best = [
        found
        for column, paper in PAPERS.items()
        for ladder in ladders(data, runs, column, 2)
        for found in _best(ladder, paper)
    ]
    missing = "no finished smt+dmt with lambda_unif 0 beside another value, all else equal"
    return decide(
        [
            Part(
                "memory collapses without L_unif",
                "its effective rank at lambda_unif 0 over that with it",
                f"interval below {COLLAPSED}",
                [_collapses(one) for one in collapses],
                f"{missing}, and with a geometry (measure: [dynamics]).",
                digits=2,
            ),
            Part(
                "the RNN does not",
                "accuracy at lambda_unif 0 minus that with it",
                f"interval above -{EQUAL}",
                [_survives(one) for one in uniform],
                f"{missing}.",
            ),
            Part(
                "the paper's weight is the best",
                "accuracy (natural tasks: bits) ahead of the best other weight",
                f"by {MARGIN} or more, interval above zero",
                best,
                "no finished smt+dmt with lambda_dyn 0.1 or lambda_unif 0.001 beside other values, all else equal.",
            ),
        ],
        "The weights trade off against sizes and learning rates: in a small model with few steps, a larger lambda_dyn "
        "may be what it takes for the RNN to keep up with a teacher that changes fast.",
    )


def _zero_and_usual(ladder: Ladder) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """The runs without L_unif, and those at the weight nearest the paper's, with both weights in words."""
    near = min((one for one in ladder.rungs if one > 0), key=lambda one: abs(math.log(one / PAPERS[ladder.column])))
    return f"{ladder.where}, lambda_unif 0 and {near:g}", ladder.at(0.0), ladder.at(near)


def _collapses(ladder: Ladder) -> Finding:
    where, zero, with_it = _zero_and_usual(ladder)
    zero, with_it = (one.assign(rank=np.log(one["rank"].where(one["rank"] > 0))) for one in (zero, with_it))
    ratio = exponential(paired_difference(*(numbers_by_seed(runs, "rank") for runs in (zero, with_it))))
    told = (("at lambda_unif 0", zero), ("with it", with_it))
    beside = tuple(
        (f"effective rank {words} (geometric mean)", exponential(mean_of(runs, "rank"))) for words, runs in told
    )
    return finding(where, ratio, inside(ratio, 0.0, COLLAPSED), beside, _unlearned(with_it))


def _survives(ladder: Ladder) -> Finding:
    where, zero, with_it = _zero_and_usual(ladder)
    effect = paired_difference(*(numbers_by_seed(runs, "accuracy") for runs in (zero, with_it)))
    told = (("accuracy at lambda_unif 0", zero), ("accuracy with it", with_it))
    beside = tuple((words, mean_of(runs, "accuracy")) for words, runs in told)
    return finding(where, effect, inside(effect, -EQUAL, math.inf), beside, _unlearned(with_it))


def _unlearned(runs: pd.DataFrame) -> tuple[bool, str]:
    return runs["skill"].mean() < LEARNED, "not learned with it either"


def _best(ladder: Ladder, paper: float) -> list[Finding]:
    """Nothing where the paper's weight was not run."""
    if paper not in ladder.rungs:
        return []
    name = ladder.column.rpartition(".")[2]
    rival = max((one for one in ladder.rungs if one != paper), key=lambda one: ladder.at(one)["merit"].mean())
    ours, other = ladder.at(paper), ladder.at(rival)
    effect = paired_difference(*(numbers_by_seed(runs, "merit") for runs in (ours, other)))
    beside = tuple((f"accuracy at {name} {value:g}", mean_of(ladder.at(value), "accuracy")) for value in ladder.rungs)
    said = beyond(effect, MARGIN)
    return [
        finding(
            f"{ladder.where}, {name} {paper:g} against {rival:g}",
            effect,
            said,
            beside,
            (said == "level", "others are as good"),
            (said == "against" and still_learning(ours, -effect.mean), "still learning"),
        )
    ]


@register_claim(
    "14",
    "With a GRU as its updater, SMT training collapses.",
    figure="ablation-backbone",
    grids=["ablation-small", "ablation"],
)
def gru(data: Data) -> Verdict:
    """Skill (0 at chance, 1 at the ceiling) of smt and smt+dmt with a GRU, where the transformer updater learned.

    Collapsed: the interval is below 0.2, while that of the same method with the transformer updater is above 0.2, so
    that the GRU is to blame, and BPTT's GRU, if it was trained, is above 0.2, so that SMT is. Not collapsed: above 0.2.
    A GRU that was still learning, fast enough to get there in as much training again, has not collapsed.
    """
    runs = base(final(data), "model.backbone")
    runs = runs[~runs["reference"]]
    found, backbones = [], {}
    for method in ("smt", "smt+dmt", "bptt"):
        own = runs[runs["method"] == method]
        for pair in pairs(own[own["backbone"] == "gru"], own[own["backbone"] == "transformer"], BACKBONE):
            backbones[method, pair.where] = pair
    for (method, where), pair in backbones.items():
        if method == "bptt":
            continue
        bptt = backbones.get(("bptt", where))
        skill, transformer = mean_of(pair.a, "skill"), mean_of(pair.b, "skill")
        beside = [("skill with a transformer updater", transformer)]
        beside += [("skill of bptt with a GRU", mean_of(bptt.a, "skill"))] if bptt else []
        said = inside(skill, float("-inf"), LEARNED)
        collapsed = said == "for"
        found.append(
            finding(
                f"{where}, {method}",
                skill,
                said,
                tuple(beside),
                (collapsed and not transformer.low > LEARNED, "the transformer updater did not learn it either"),
                (
                    collapsed and bptt is not None and not beside[-1][1].low > LEARNED,
                    "the GRU did not learn it under bptt either",
                ),
                (collapsed and still_learning(pair.a, LEARNED - skill.mean), "the GRU was still learning"),
            )
        )
    missing = "no task has finished runs of smt or smt+dmt with the gru and the transformer updater at equal settings."
    return decide(
        [Part("the GRU collapses under SMT", "its skill", f"interval below {LEARNED}", found, missing)],
        "How wide the GRU is, and that its memory is normalised after each update, is this project's choice; in a "
        "small memory and over short sequences one matrix may be enough to follow the teacher.",
    )
