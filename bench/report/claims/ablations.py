"""Claims that ablations test: the future that the decoder predicts, the weights of SMT's losses, the updater."""

from __future__ import annotations

import math

import numpy as np

from bench.report.claims.accuracy import BACKBONE
from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import EQUAL, LEARNED, MARGIN, Case, Part, ahead, decide, means, within
from bench.report.claims.learning import final, of_method, still_learning
from bench.report.data import Data
from bench.report.query import base, effective_rank, number, with_columns
from bench.report.sections.ablations import DYNAMICS, PAPERS, UNIFORMITY
from bench.report.sweeps import Ladder, ladders, pairs
from bench.report.tables import difference, mean_of
from bench.statistics import exponential

SOLVES = 0.9
"""The share of the ceiling from which on a task is solved."""
DEPENDENT = ("retrieval", "string-copy")
"""Tasks whose answers depend on inputs far back: up to the whole length."""
COLLAPSED = 0.5
"""A memory space whose effective rank is less than half as large has collapsed."""
WEIGHTS = (DYNAMICS, UNIFORMITY)


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
    runs = with_columns(of_method(final(data), "smt+dmt"), "method.future", "method.detach")
    runs = runs.assign(**{"method.future": number(runs["method.future"])}).dropna(subset="method.future")
    runs = base(runs[runs["task"].isin(DEPENDENT)], "method.future", "method.detach")
    detached, length = runs["method.detach"].eq(True), runs["task.length"]
    where = ["grid", "task", "task.length"]
    joint = runs[~detached]
    longest = joint[joint["method.future"] == joint.groupby(where)["method.future"].transform("max")]
    shares = longest.groupby(where)["share"].mean().to_dict()  # of joint training with the longest future
    parts = []
    for says, chosen, solves in (
        ("joint training solves with T_f = 1", ~detached & (runs["method.future"] == 1), True),
        ("detached training fails with T_f below half the length", detached & (runs["method.future"] < length / 2), 0),
        ("detached training solves with T_f of the whole length", detached & (runs["method.future"] >= length), True),
    ):
        cases = []
        for span, part in runs[chosen].groupby("method.future"):
            for place, cells, _ in pairs(part, part):
                hopeless = not shares.get(tuple(cells[where].iloc[0]), math.inf) > SOLVES
                unless = [
                    (hopeless, "joint training with the longest future does not solve it either"),
                    (still_learning(cells), "still learning"),
                ]
                at, beside = f"{place}, T_f {span:g}, {says.split()[0]}", means({"": cells}, "accuracy", "accuracy")
                cases.append(Case(at, mean_of(cells, "share"), beside, {"against" if solves else "for": unless}))
        rule = within(low=SOLVES) if solves else within(low=SOLVES).opposite()
        parts.append(Part(says, "share of the ceiling", rule, cases))
    return decide(
        parts,
        "In a short sequence every position is drawn often, so that even a short future may do without joint training, "
        "and a small budget may end before the harder of two objectives is learned.",
        runs,
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
    interval of the ratio below 0.5. The RNN does not collapse: the interval of its accuracy at 0 minus that there is
    above -0.05. Both tell nothing where it has not learned the task with L_unif (0.2 of the way from chance to the
    ceiling). Best: the paper's weight is ahead of the best other one by 0.02 or more (of accuracy; of bits on natural
    tasks) with an interval above zero; not the best: behind likewise, unless it was still learning. Ties leave it open.
    """
    runs = of_method(final(data), "smt+dmt")
    rank = effective_rank(data, runs)
    merit = runs["accuracy"].where(runs["unit"].ne("bits"), -runs["loss"] / math.log(2))
    runs = runs.assign(rank=np.log(rank.where(rank > 0)), merit=merit)
    swept = {column: ladders(data, runs, column, 2) for column in WEIGHTS}
    uniform = [ladder for ladder in swept["method.lambda_unif"] if ladder.rungs[0] == 0]
    best = [_best(ladder) for found in swept.values() for ladder in found if PAPERS[ladder.column] in ladder.rungs]
    ranks = [_without(ladder, "rank") for ladder in uniform if ladder.rows["rank"].notna().any()]
    accuracies = [_without(ladder, "accuracy") for ladder in uniform]
    collapse = ("its effective rank at lambda_unif 0 over that with it", within(0.0, COLLAPSED), ranks)
    survive = ("accuracy at lambda_unif 0 minus that with it", within(low=-EQUAL), accuracies)
    merits = ("accuracy (natural tasks: bits) ahead of the best other weight", ahead(MARGIN), best)
    needs = "lambda_unif 0 beside another value"
    return decide(
        [
            Part("memory collapses without L_unif", *collapse, f"{needs}, measure: [dynamics]", digits=2),
            Part("the RNN does not", *survive, needs),
            Part("the paper's weight is the best", *merits, "the paper's weight beside another"),
        ],
        "The weights trade off against sizes and learning rates: in a small model with few steps, a larger lambda_dyn "
        "may be what it takes for the RNN to keep up with a teacher that changes fast.",
        runs,
    )


def _without(ladder: Ladder, column: str) -> Case:
    """What is without L_unif beside what is with the weight nearest the paper's; ranks as ratios."""
    paper = PAPERS[ladder.column]
    near = min((rung for rung in ladder.rungs if rung > 0), key=lambda rung: abs(math.log(rung / paper)))
    without, usual = ladder.at(0.0), ladder.at(near)
    sides = {"at lambda_unif 0": without, "with it": usual}
    effect, beside = difference(without, usual, column), means(sides, column, f"{column} {{}}")
    if column == "rank":  # in logarithms
        names = (f"effective rank {side} (geometric mean)" for side in sides)
        effect, beside = exponential(effect), tuple((name, exponential(logs)) for name, (_, logs) in zip(names, beside))
    unlearned = usual["skill"].mean() < LEARNED
    unless = {"": [(unlearned, "not learned with it either")]}
    return Case(f"{ladder.where}, lambda_unif 0 and {near:g}", effect, beside, unless)


def _best(ladder: Ladder) -> Case:
    paper, name = PAPERS[ladder.column], ladder.column.rpartition(".")[2]
    rival = max((rung for rung in ladder.rungs if rung != paper), key=lambda rung: ladder.at(rung)["merit"].mean())
    ours = ladder.at(paper)
    effect = difference(ours, ladder.at(rival), "merit")
    learning = (still_learning(ours, -effect.mean), "still learning")
    unless = {"level": [(True, "others are as good")], "against": [learning]}
    where = f"{ladder.where}, {name} {paper:g} against {rival:g}"
    return Case(where, effect, means(ladder.by_rung, "accuracy", f"accuracy at {name} {{}}"), unless)


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
    by_method = {
        method: pairs(own[own["backbone"] == "gru"], own[own["backbone"] == "transformer"], BACKBONE)
        for method in ("smt", "smt+dmt", "bptt")
        if len(own := of_method(runs, method))
    }
    bptt = {pair.where: pair.a for pair in by_method.pop("bptt", ())}
    cases = []
    for method, found in by_method.items():
        for where, own, usual in found:
            skill = mean_of(own, "skill")
            beside = means({"with a transformer updater": usual}, "skill", "skill {}")
            beside += means({"of bptt with a GRU": bptt[where]}, "skill", "skill {}") if where in bptt else ()
            unless = [
                (not beside[0][1].low > LEARNED, "the transformer updater did not learn it either"),
                (where in bptt and not beside[-1][1].low > LEARNED, "the GRU did not learn it under bptt either"),
                (still_learning(own, LEARNED - skill.mean), "the GRU was still learning"),
            ]
            cases.append(Case(f"{where}, {method}", skill, beside, {"for": unless}))
    return decide(
        [Part("the GRU collapses under SMT", "its skill", within(high=LEARNED), cases, "the transformer updater too")],
        "How wide the GRU is, and that its memory is normalised after each update, is this project's choice; in a "
        "small memory and over short sequences one matrix may be enough to follow the teacher.",
        of_method(runs, "smt", "smt+dmt", "bptt"),
    )
