"""The claims' verdicts on fabricated data: clear cases either way, too little data, and what a plugin may do wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bench
from bench.errors import BadInput
from bench.grid import SHIPPED
from bench.registry import load_plugin
from bench.report import data as reading
from bench.report import query
from bench.report.claims import VERDICTS, Verdict, base, judged, register_claim
from bench.report.claims.findings import Case, Part, Said, ahead, decide, within
from bench.report.claims.growth import times_more
from bench.report.claims.inside import shared_ends, silhouette
from bench.report.claims.learning import final
from bench.report.data import Data
from bench.report.exhibit import Exhibit
from bench.report.sections import estimators
from bench.report.sections.claims import exhibits
from bench.report.sweeps import ladders, pairs
from bench.statistics import Interval
from tests.helpers import TINY
from tests.report.fabricated import only

EMPTY = pd.DataFrame()
PAPERS = [str(number) for number in range(1, 15)]


class Lab:
    """Fabricated results, with a record of each kind for every run."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("results", "curves", "steps", "credit", "inference", "gradients", "drift")
        }
        self.geometry: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def add(
        self,
        method: str,
        accuracies: Sequence[float],
        task: str = "retrieval",
        *,
        grid: str = "g",
        losses: Sequence[float] | float = 1.0,
        teacher: dict[str, float] | None = None,
        longer: float | None = None,
        longer_teacher: float | None = None,
        before_dmt: float | None = None,
        rising: bool = False,
        unit: str = "nats",
        cost: float = 1.0,
        falls: float = 0.0,
        state: str = "done",
        chance: float = 0.1,
        record: Callable[[int], dict[str, Any]] | None = None,
        **fields: Any,
    ) -> Lab:
        """Runs of seeds 0, 1, .. with these final accuracies and losses; `fields` are config columns, `__` for dots."""
        config = {name.replace("__", "."): value for name, value in fields.items()}
        config = {"task.length": 16, "model.d": 32, "model.backbone": "transformer"} | config
        each = [losses] * len(accuracies) if isinstance(losses, float) else losses
        for seed, (accuracy, loss) in enumerate(zip(accuracies, each)):
            name = f"{task}-{method}-{seed}-{sorted(config.items())}-{len(self.rows['results'])}"
            run = {"grid": grid, "id": name, "task": task, "method": method, "seed": seed} | config
            run["backbone"] = config["model.backbone"]
            facts = {"state": state, "chance": chance, "accuracy_ceiling": 1.0, "unit": unit}
            facts |= {"predictor_parameters": 100.0 * config["model.d"], "traits.teacher": method.startswith("smt")}
            scored = [("rnn", config["task.length"], accuracy, loss)]
            scored += [("teacher", config["task.length"], teacher["accuracy"], teacher["loss"])] if teacher else []
            scored += [("rnn", 2 * config["task.length"], longer, loss)] if longer is not None else []
            if longer_teacher is not None:
                scored.append(("teacher", 2 * config["task.length"], longer_teacher, loss))
            for predictor, length, right, its_loss in scored:
                score = {"predictor": predictor, "reference": predictor != "rnn", "length": length}
                self.rows["results"].append({**run, **facts, **score, "accuracy": right, "loss": its_loss})
            for part in np.linspace(0, 1, 11).round(1).tolist():
                phase = "train" if method != "smt+dmt" else "smt" if part <= 0.7 else "dmt"
                now = accuracy * part if rising else accuracy
                now = before_dmt if before_dmt is not None and phase == "smt" else now
                point = {"phase": phase, "tokens": 1000 * part, "predictor": "rnn", "reference": False}
                spent = {"spent.tokens": 1000 * part, "spent.sequential_flops": 1000 * part * cost}
                now_loss = loss + falls * max(0.0, 0.8 - part)
                self.rows["curves"].append({**run, **point, **spent, "accuracy": now, "loss": now_loss})
            for kind, found in (record(seed) if record else {}).items():
                if kind == "geometry":
                    self.geometry.append((run, found))
                else:
                    self.rows[kind] += [{**run, **entry} for entry in found]
        return self

    def data(self) -> Data:
        return Data(
            **{name: pd.DataFrame(rows) for name, rows in self.rows.items()}, geometry=self.geometry, samples=[]
        )


HIGH, MIDDLE, LOW = [0.9, 0.91, 0.92], [0.5, 0.52, 0.51], [0.3, 0.31, 0.29]
CHANCE = [0.1, 0.11, 0.1]


def verdict(key: str, data: Data) -> Verdict:
    return next(claim for claim in base.registered() if claim.key == key).judge(data)


def row(found: Verdict, what: str) -> dict[str, float]:
    """The one number of that name, with its interval."""
    return only(found.numbers, what=what)


def value(found: Verdict, what: str) -> float:
    return row(found, what)["value"]


def cut(lab: Lab, seeds: int) -> Data:
    """The same data, of the first seeds alone."""
    data = lab.data()
    kept = {name: frame[frame["seed"] < seeds] for name in lab.rows if "seed" in (frame := getattr(data, name))}
    return replace(data, **kept, geometry=[(run, record) for run, record in data.geometry if run["seed"] < seeds])


# One laboratory for each claim: what supports it, and what contradicts it.


def synthetic(smt: Sequence[float], bptt: Sequence[float], harder: float = 0.2) -> Lab:
    """keys-values is `harder` for both."""
    lab = Lab()
    for task in ("retrieval", "string-copy", "stack", "modular-arithmetic", "keys-values"):
        for length in (8, 16):
            ours = smt if task != "keys-values" else [accuracy - harder for accuracy in smt]
            theirs = bptt if task != "keys-values" else [accuracy - harder for accuracy in bptt]
            lab.add("smt+dmt", ours, task, task__length=length).add("bptt", theirs, task, task__length=length)
    return lab


def lengths(smt: Sequence[float], bptt: Sequence[float]) -> Lab:
    lab = Lab()
    for method, last in (("smt+dmt", smt), ("bptt", bptt)):
        lab.add(method, HIGH, task__length=8).add(method, HIGH, task__length=16).add(method, last, task__length=32)
    return lab


def traced(smt: float, bptt: float, transformer: float = 0.0, dmt: float = 1.0) -> Lab:
    """Sequential operations that grow with these exponents; credit paths and streams to match."""
    lab = Lab()
    cases = {("smt+dmt", "smt"): smt, ("smt+dmt", "dmt"): dmt}
    cases |= {("bptt", "train"): bptt, ("transformer", "train"): transformer}
    for (method, phase), exponent in cases.items():
        about = {"grid": "c", "task": "retrieval", "method": method, "backbone": "transformer", "phase": phase}
        lab.rows["steps"] += [
            {**about, "length": length, "whole.sequential_operations": 7.0 * length**exponent}
            for length in (8, 16, 32, 64, 128, 256, 512)
        ]
        if phase != "dmt":
            lab.rows["credit"] += [
                {**about, "length": 32, "distance": distance, "shortest": 20.0 + 9 * distance * exponent}
                for distance in range(32)
            ]
            grows = method == "transformer"
            lab.rows["inference"] += [
                {**about, "state": "growing" if grows else "constant", "position": position, "elementwise": 10.0}
                | {"state_bytes": 64.0 * (position if grows else 1), "flops": 1000.0 + 2.0 * position * grows}
                for position in (8, 16, 32, 64, 128, 256, 512)
            ]
    return lab


def streams_swapped() -> Lab:
    """The RNNs stream as the Transformer should, and the other way round."""
    lab = traced(0, 1)
    swapped = {"growing": "constant", "constant": "growing"}
    for row in lab.rows["inference"]:
        row["state"] = swapped[row["state"]]
    return lab


def norms(smt: float, bptt: float) -> Lab:
    """ln |dL/dm_t| with these slopes, at initialisation and after training."""

    def record(slope: float, through: str) -> Callable[[int], dict[str, Any]]:
        return lambda seed: {
            "gradients": [
                {"when": when, "t": t, "norm": math.exp((slope + 0.001 * seed) * t), "loss_at": 31, "through": through}
                for when in ("init", "trained")
                for t in range(32)
            ]
        }

    lab = Lab().add("smt+dmt", HIGH, record=record(smt, "the decoder"))
    return lab.add("bptt", HIGH, record=record(bptt, "the unrolled updater"))


def drifting(factor: float, before: float) -> Lab:
    def record(seed: int) -> dict[str, Any]:
        return {
            "drift": [
                {"phase": phase, "t": t, "delta": delta * (1 + t) * (1 + 0.01 * seed), "accuracy": math.nan}
                for phase, delta in (("smt", 0.2), ("dmt", 0.2 * (factor + 0.01 * seed)))
                for t in range(32)
            ]
        }

    return Lab().add("smt+dmt", MIDDLE, before_dmt=before, record=record)


def beyond_training(rnn: float, others: float) -> Lab:
    shared = {"accuracy": 0.9, "loss": 1.0}
    return (
        Lab()
        .add("smt+dmt", HIGH, longer=rnn, teacher=shared, longer_teacher=others)
        .add("transformer", HIGH, longer=others)
    )


def natural(smt: float, bptt: float, cheaper: float, task: str = "mnist") -> Lab:
    """Final losses in bits; the curves fall by two bits on the way there."""
    lab = Lab()
    for method, loss, cost in (("smt+dmt", smt, 1.0), ("bptt", bptt, cheaper)):
        losses = [(loss + 0.001 * seed) * math.log(2) for seed in range(3)]
        falls = 2 * math.log(2)
        lab.add(method, LOW, task, losses=losses, unit="bits", cost=cost, falls=falls, grid=task)
    return lab


def ladder(*losses: float, gaps: Sequence[float] = (0.5, 0.3, 0.1)) -> Lab:
    """Three rungs each of context, memory and size with these losses in bits; the teacher is ahead by `gaps`."""
    lab = Lab()
    rungs = {"method__context": (2, 8, 24), "model__memory_tokens": (1, 2, 8), "model__d": (8, 16, 32)}
    for column, values in rungs.items():
        for rung, loss, gap in zip(values, losses, gaps):
            fields = {"method__context": 64, "model__memory_tokens": 4, "model__d": 24} | {column: rung}
            each = [(loss + 0.001 * seed) * math.log(2) for seed in range(3)]
            teacher = {"accuracy": 0.5, "loss": (loss - gap) * math.log(2)}
            lab.add("smt+dmt", LOW, "digits", losses=each, unit="bits", teacher=teacher, **fields)
    return lab


def memories(small_late: float) -> Lab:
    """Memories 1, 2 and 8: the large one has 3 bits at half time; those of 1 and 2 end at `small_late`."""
    lab = Lab()
    for size, end, falls in ((1, small_late, 2.0), (2, small_late, 2.0), (8, 2.9, 0.2)):
        losses = [(end + 0.001 * seed) * math.log(2) for seed in range(3)]
        fields = {"model__memory_tokens": size}
        lab.add("smt+dmt", LOW, "digits", losses=losses, unit="bits", falls=falls * math.log(2), **fields)
    return lab


SOLVED = [0.97, 0.96, 0.98]


def futures(joint: Sequence[float], detached: Sequence[float], detached_whole: Sequence[float]) -> Lab:
    """Accuracies with T_f = 1, joint and detached, and with all of the future."""
    lab = Lab()
    for future, detach, found in (
        (1, False, joint),
        (64, False, SOLVED),
        (1, True, detached),
        (64, True, detached_whole),
    ):
        lab.add("smt+dmt", found, method__future=future, method__detach=detach)
    return lab


def weighted(rank_without: float, without: Sequence[float], larger: Sequence[float], papers: Sequence[float]) -> Lab:
    """Effective rank and accuracy without L_unif, accuracies with 0.1 of it, and with the paper's lambda_dyn."""

    def record(rank: float) -> Callable[[int], dict[str, Any]]:
        return lambda seed: {"geometry": {"effective_rank": rank + 0.01 * seed}}

    lab = Lab()
    for unif, dyn, found, rank in (
        (0.0, 1.0, without, rank_without),
        (0.001, 1.0, [0.8, 0.81, 0.79], 10.0),
        (0.1, 1.0, larger, 12.0),
        (0.001, 0.1, papers, 10.0),
        (0.001, 10.0, MIDDLE, 10.0),
    ):
        lab.add("smt+dmt", found, record=record(rank), method__lambda_unif=unif, method__lambda_dyn=dyn)
    return lab


def arranged(clustered: bool, branching: bool) -> Lab:
    """Points of five needles, in clusters or not; of strings, at places that their first symbols tell or not."""

    def needles(seed: int) -> dict[str, Any]:
        noise = np.random.default_rng(seed)
        labels = np.arange(50) % 5
        centres = np.stack([np.cos(labels), np.sin(labels)], 1) if clustered else np.zeros((50, 2))
        return {
            "geometry": {"points": (centres + 0.05 * noise.normal(size=(50, 2))).tolist(), "label": labels.tolist()}
        }

    def strings(seed: int) -> dict[str, Any]:
        noise = np.random.default_rng(seed)
        prefix = noise.integers(1, 4, size=(60, 4))
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.9]])
        points = sum(corners[prefix[:, place] - 1] * 0.4**place for place in range(4))
        points = points if branching else noise.normal(size=(60, 2))
        return {"geometry": {"points": points.tolist(), "label": prefix[:, 0].tolist(), "prefix": prefix.tolist()}}

    return Lab().add("smt+dmt", HIGH, record=needles).add("smt+dmt", HIGH, "string-copy", record=strings)


def backbones(gru_smt: Sequence[float], gru_bptt: Sequence[float]) -> Lab:
    lab = Lab()
    for method, found in (("smt+dmt", gru_smt), ("bptt", gru_bptt)):
        lab.add(method, HIGH).add(method, found, model__backbone="gru").add(method, HIGH, model__backbone="mlp")
    return lab


LABS: dict[str, tuple[Lab, Lab]] = {
    "1": (synthetic(HIGH, LOW), synthetic(LOW, HIGH, 0.0)),
    "2": (lengths(HIGH, LOW), lengths(LOW, HIGH)),
    "3": (traced(0, 1), traced(1, 0, 1, 0)),
    "4": (traced(0, 1), streams_swapped()),
    "5": (norms(0.0, 0.5), norms(0.5, 0.0)),
    "6": (drifting(0.5, 0.3), drifting(2.0, 0.9)),
    "7": (beyond_training(0.9, 0.4), beyond_training(0.2, 0.85)),
    "8": (natural(2.0, 2.2, 10.0), natural(2.5, 2.0, 0.1)),
    "9": (ladder(3.0, 2.5, 2.2), ladder(2.2, 2.5, 3.0, gaps=(0.1, 0.3, 0.5))),
    "10": (memories(2.5), memories(3.5)),
    "11": (futures(SOLVED, LOW, SOLVED), futures(LOW, SOLVED, LOW)),
    "12": (weighted(2.0, [0.77, 0.78, 0.76], MIDDLE, HIGH), weighted(10.0, LOW, HIGH, LOW)),
    "13": (arranged(True, True), arranged(False, False)),
    "14": (backbones(CHANCE, MIDDLE), backbones(MIDDLE, MIDDLE)),
}


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], Verdict]:
    """Of each claim: in the laboratory that supports it, in the one that contradicts it, and with two seeds only."""
    found = {}
    for key, (good, bad) in LABS.items():
        found[key, "supported"] = verdict(key, good.data())
        found[key, "contradicted"] = verdict(key, bad.data())
        found[key, "few"] = verdict(key, cut(good, 2))
    return found


@pytest.mark.parametrize("key", PAPERS)
@pytest.mark.parametrize("word", ["supported", "contradicted"])
def test_clear_data_gives_a_clear_verdict(verdicts: dict[tuple[str, str], Verdict], key: str, word: str) -> None:
    found = verdicts[key, word]
    assert found.verdict == word, found.because
    assert (found.why is None) == (word == "supported")
    assert list(found.numbers) == ["what", "value", "low", "high", "n"] and len(found.numbers)
    assert found.numbers["what"].is_unique, "no two numbers are called the same"
    assert found.because.endswith(".") and len(found.because) < 2000


@pytest.mark.parametrize("key", [key for key in PAPERS if key not in ("3", "4")])
def test_two_seeds_decide_nothing(verdicts: dict[tuple[str, str], Verdict], key: str) -> None:
    found = verdicts[key, "few"]
    assert found.verdict == "inconclusive"
    assert "fewer than 3 seeds" in found.because
    assert found.numbers["low"].isna().all() and set(found.numbers["n"]) <= {0, 2}


@pytest.mark.parametrize("key", ["3", "4"])
def test_traced_costs_need_no_seeds(verdicts: dict[tuple[str, str], Verdict], key: str) -> None:
    assert verdicts[key, "few"].verdict == "supported"


@pytest.mark.parametrize("key", PAPERS)
def test_no_data_is_not_tested(key: str) -> None:
    nothing = Data(EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, [], [])
    for data in (nothing, Lab().add("my-method", HIGH, "my-task").data()):
        found = verdict(key, data)
        assert found.verdict == "not tested" and found.numbers.empty and found.why is None
        assert found.because[0].isupper()


@pytest.mark.parametrize("key", [key for key in PAPERS if key not in ("3", "4")])
def test_only_finished_runs_count(key: str) -> None:
    data = LABS[key][0].data()
    assert verdict(key, replace(data, results=data.results.assign(state="failed"))).verdict == "not tested"


# Comparing cells.


def compared(lab: Lab) -> list[str]:
    runs = query.base(final(lab.data()))
    runs = runs[~runs["reference"]]
    return [pair.where for pair in pairs(runs[runs["method"] == "smt+dmt"], runs[runs["method"] == "bptt"])]


def test_ablations_are_no_settings_of_a_comparison() -> None:
    lab = Lab().add("bptt", LOW)
    for dyn, unif in ((1.0, 0.001), (0.1, 0.001), (10.0, 0.001), (1.0, 0.0), (1.0, 0.1)):
        lab.add("smt+dmt", HIGH, method__lambda_dyn=dyn, method__lambda_unif=unif)
    assert compared(lab) == ["retrieval"]
    found = verdict("1", lab.data())
    assert row(found, "retrieval: accuracy of smt+dmt")["n"] == 3


def test_an_axis_of_a_method_is_compared_at_each_value() -> None:
    lab = Lab().add("bptt", LOW)
    for every in (4, 16):
        lab.add("smt+dmt", HIGH, method__dmt__every=every)
    assert compared(lab) == ["retrieval, every 4", "retrieval, every 16"]


def test_only_equal_settings_are_compared() -> None:
    lab = Lab().add("smt+dmt", HIGH, task__length=8).add("bptt", LOW, task__length=16)
    assert compared(lab) == []
    lab.add("bptt", LOW, task__length=8)
    assert compared(lab) == ["retrieval, length 8"]
    lab = Lab().add("smt+dmt", HIGH, training__budget__tokens=100).add("bptt", LOW, training__budget__tokens=200)
    assert compared(lab) == [], "equal settings have equal budgets"


def test_what_two_grids_share_counts_once_and_what_differs_twice() -> None:
    lab = Lab()
    for grid, bptt in (("one", LOW), ("two", LOW), ("three", MIDDLE)):
        lab.add("smt+dmt", HIGH, grid=grid).add("bptt", bptt, grid=grid)
    assert compared(lab) == ["one: retrieval", "three: retrieval"]


def test_a_ladder_varies_in_one_field_and_in_what_follows_from_it() -> None:
    lab = Lab()
    for size, context in ((1, 64), (2, 64), (4, 64), (4, 8)):
        lab.add("smt+dmt", HIGH, model__memory_tokens=size, method__context=context, training__batch_size=8 * size)
    (found,) = ladders(lab.data(), final(lab.data()), "model.memory_tokens", 3)
    assert found.rungs == (1, 2, 4) and found.where == "retrieval, context 64, smt+dmt"
    assert found.at(2)["accuracy"].tolist() == HIGH
    assert ladders(lab.data(), final(lab.data()), "method.context", 3) == []


# Verdicts.


@pytest.mark.parametrize(
    ("rule", "effect", "said"),
    [
        (ahead(0.02), (0.1, 0.05, 0.2), "for"),
        (ahead(0.02), (0.01, 0.005, 0.03), "unclear"),
        (ahead(0.02), (-0.1, -0.2, -0.05), "against"),
        (ahead(0.02), (0.01, -0.01, 0.02), "level"),
        (ahead(0.02), (0.1, -0.05, 0.2), "unclear"),
        (within(0, 1), (0.5, 0, 1), "for"),
        (within(0, 1), (1, 0.5, 1.5), "unclear"),
        (within(0, 1), (2, 1.5, 3), "against"),
        (within(high=1), (-9, -10, 0), "for"),
        (within(0, 1).opposite(), (0.5, 0, 1), "against"),
        (within(0, 1).opposite(), (2, 1.5, 3), "for"),
        (within(0, 1), (0.5, math.nan, math.nan), "unclear"),
    ],
)
def test_what_an_interval_says(rule: Any, effect: tuple[float, float, float], said: str) -> None:
    assert rule.says(Interval(*effect, 3)) == said


def part(*said: Said) -> Part:
    cases = [Case(f"setting {i}", Interval(0.1, 0.05, 0.2, 3), said=word) for i, word in enumerate(said)]
    return Part("it is so", "effect", ahead(0.02), cases)


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([part("for")], "supported"),
        ([part("against")], "contradicted"),
        ([part("unclear")], "inconclusive"),
        ([part()], "not tested"),
        ([part("for", "for", "unclear")], "supported"),
        ([part("for", "unclear")], "inconclusive"),
        ([part("for", "for", "against")], "mixed"),
        ([part("for"), part("against")], "mixed"),
        ([part("for"), part("for", "against")], "mixed"),
        ([part("for"), part("unclear")], "inconclusive"),
        ([part("against"), part("unclear")], "contradicted"),
        ([part("for"), part()], "inconclusive"),
        ([part("against"), part()], "contradicted"),
    ],
)
def test_a_claim_falls_with_one_part_and_stands_with_all(parts: list[Part], word: str) -> None:
    found = decide(parts, "why")
    assert found.verdict == word
    assert (found.why == "why") == (word in ("contradicted", "mixed"))
    if any(not statement.cases for statement in parts):
        assert "No finished runs: it is so" in found.because


def test_what_leaves_a_case_undecided_is_told_and_the_first_reason_counts() -> None:
    effect = Interval(0.1, 0.05, 0.2, 3)
    unless = {"": [(False, "never")], "for": [(True, "not yet"), (True, "later")], "against": [(True, "no")]}
    (found,) = Part("", "", ahead(0.02), [Case("here", effect, (), unless)]).findings
    assert (found.outcome, found.note) == ("unclear", "not yet")
    (found,) = Part("", "", ahead(0.02), [Case("here", Interval(0.01, -0.01, 0.02, 3), (), unless)]).findings
    assert (found.outcome, found.note) == ("against", "level")


def test_the_sentence_names_where_it_is_otherwise() -> None:
    because = decide([part("for", "for", "against", "unclear")], "why").because
    assert "it is so at 2 of 4 settings" in because and "setting 2 with 0.100 [0.050, 0.200]" in because


def test_a_lead_does_not_count_while_the_other_may_catch_up() -> None:
    lab = Lab().add("smt+dmt", MIDDLE, chance=0.0).add("bptt", [0.45, 0.44, 0.46], rising=True, chance=0.0)
    assert "bptt was still learning" in verdict("1", lab.data()).because
    lab = Lab().add("smt+dmt", MIDDLE).add("bptt", [0.45, 0.44, 0.46])
    assert "still learning" not in verdict("1", lab.data()).because
    lab = Lab().add("smt+dmt", HIGH, chance=0.0).add("bptt", LOW, rising=True, chance=0.0)
    assert "still learning" not in verdict("1", lab.data()).because, "0.03 a tenth do not close a gap of 0.61"


def test_who_falls_behind_while_still_learning_is_not_contradicted() -> None:
    lab = Lab().add("smt+dmt", [0.8, 0.81, 0.79], before_dmt=0.0, rising=True).add("bptt", HIGH)
    found = verdict("1", lab.data())
    assert found.verdict == "inconclusive" and "smt+dmt was still learning" in found.because


@pytest.mark.parametrize(
    ("smt", "bptt", "word", "note"),
    [
        ([1.0, 1.0, 1.0], [0.99, 0.99, 1.0], "inconclusive", "both solve it"),
        (CHANCE, CHANCE, "inconclusive", "neither is above chance"),
        (MIDDLE, MIDDLE, "contradicted", "level"),
        ([0.9, 0.3, 0.5], MIDDLE, "inconclusive", "too wide"),
    ],
)
def test_what_is_no_lead(smt: Sequence[float], bptt: Sequence[float], word: str, note: str) -> None:
    found = verdict("1", Lab().add("smt+dmt", smt).add("bptt", bptt).data())
    assert found.verdict == word and note in found.because


def test_settings_that_disagree_are_mixed() -> None:
    lab = synthetic(HIGH, LOW).add("smt+dmt", LOW, task__length=99).add("bptt", HIGH, task__length=99)
    found = verdict("1", lab.data())
    assert found.verdict == "mixed" and "retrieval, length 99 with -0.610" in found.because and found.why


def test_some_of_the_five_tasks_do_not_support_a_claim_of_all() -> None:
    lab = Lab().add("smt+dmt", HIGH, "stack").add("bptt", LOW, "stack")
    found = verdict("1", lab.data())
    assert found.verdict == "inconclusive"
    assert "retrieval, string-copy, keys-values, modular-arithmetic" in found.because


def test_what_a_new_phase_changes_at_once_is_no_learning_pace() -> None:
    data = Lab().add("smt+dmt", [0.8]).data()
    curves = data.curves.iloc[[0, 0, 0, 0]].assign(
        phase=["smt", "smt", "dmt", "dmt"], tokens=[0, 940, 960, 1000], accuracy=[0.1, 0.3, 0.78, 0.8]
    )
    assert final(replace(data, curves=curves))["rise"].tolist() == pytest.approx([0.02])
    alone = replace(data, curves=curves.iloc[:3])
    assert final(alone)["rise"].isna().all(), "one evaluation of a phase has no pace"


def test_the_pace_is_that_of_the_last_tenth() -> None:
    data = Lab().add("bptt", [0.5, 0.6], rising=True, falls=1.0).data()
    assert final(data)["rise"].tolist() == pytest.approx([0.05, 0.06])
    assert final(data)["fall"].tolist() == pytest.approx([0.0, 0.0])
    between = data.curves[data.curves["tokens"].isin([0, 800, 1000])]
    found = final(replace(data, curves=between))
    assert found["rise"].tolist() == pytest.approx([0.05, 0.06]), "between evaluations, on a straight line"


# The numbers.


def test_the_hardest_task_is_compared_with_the_next_hardest() -> None:
    lab = synthetic(HIGH, LOW)
    lab.add("smt+dmt", [0.4, 0.41, 0.42], "stack", task__length=4)
    found = verdict("1", lab.data())
    told = "keys-values and stack: share of the ceiling on the hardest other task minus that on keys-values"
    assert value(found, told) == pytest.approx((0.91 + 0.91 + 0.41) / 3 - 0.71)


def test_a_run_that_two_grids_share_counts_once_in_the_mean_over_a_task() -> None:
    data = synthetic(HIGH, LOW).add("smt+dmt", [0.1, 0.1, 0.1], "keys-values", grid="other").data()
    shared = data.results[(data.results["task"] == "keys-values") & (data.results["accuracy"] == 0.1)]
    twice = pd.concat([data.results, shared.assign(grid="third")], ignore_index=True)
    told = "keys-values and retrieval: share of the ceiling on the hardest other task minus that on keys-values"
    found = verdict("1", replace(data, results=twice))
    assert value(found, told) == pytest.approx(0.91 - (0.71 + 0.71 + 0.1) / 3)


def test_what_is_lost_is_over_longer_lengths_alone() -> None:
    found = verdict("7", beyond_training(0.9, 0.4).data())
    assert value(found, "retrieval: skill it loses") == pytest.approx((0.91 - 0.9) / 0.9)
    assert value(found, "retrieval: skill of transformer at longer lengths") == pytest.approx(0.3 / 0.9)
    less = value(found, "retrieval: skill lost, teacher minus smt+dmt")
    assert less == pytest.approx((0.9 - 0.4) / 0.9 - (0.91 - 0.9) / 0.9)


def test_differences_are_paired_by_seed() -> None:
    found = verdict("1", Lab().add("smt+dmt", [0.9, 0.7, 0.8]).add("bptt", [0.6, 0.3, 0.6]).data())
    minus = row(found, "retrieval: accuracy, smt+dmt minus bptt")
    assert [minus[name] for name in ("value", "low", "high", "n")] == pytest.approx([0.3, 0.2, 0.4, 3])
    assert value(found, "retrieval: accuracy of bptt") == pytest.approx(0.5)


def test_exponents_are_those_of_the_larger_half_with_those_of_all_beside() -> None:
    lab = Lab()
    lengths = (8, 16, 32, 64, 128, 256, 512)
    about = {"grid": "c", "task": "retrieval", "method": "bptt", "backbone": "gru", "phase": "train"}
    lab.rows["steps"] = [{**about, "length": T, "whole.sequential_operations": 300 + 7 * T} for T in lengths]
    found = verdict("3", lab.data())
    x = np.log(lengths)
    y = np.log(300 + 7 * np.array(lengths))
    told = "retrieval, bptt with gru: exponent of sequential operations over {}"
    half, whole = value(found, told.format("the larger half")), value(found, told.format("all 7 lengths"))
    assert half == pytest.approx(np.polyfit(x[3:], y[3:], 1)[0]) and whole == pytest.approx(np.polyfit(x, y, 1)[0])
    assert whole < half


def test_losses_are_compared_at_the_largest_common_spend() -> None:
    """BPTT spends ten times as much: at 1000 it has had a tenth of its training, its first evaluation."""
    found = verdict("8", natural(2.0, 2.2, 10.0).data())
    where = "mnist: bits of {} at equal sequential FLOPs"
    assert value(found, where.format("smt+dmt")) == pytest.approx(2.001)
    assert value(found, where.format("bptt")) == pytest.approx(2.201 + 2 * 0.7)


def test_how_many_times_more_the_other_spends() -> None:
    spent, loss = np.array([1.0, 10.0, 100.0]), np.array([3.0, 2.0, 1.0])
    mine = (np.array([1.0, 5.0]), np.array([4.0, 1.5]))
    halfway = math.sqrt(10 * 100) / 5  # in the logarithm of the spend
    assert math.exp(times_more((spent, loss), mine)) == pytest.approx(halfway)
    never = (np.array([5.0]), np.array([0.5]))
    assert math.exp(times_more((spent, loss), never)) == pytest.approx(100 / 5), "at least what it spent"
    at_once = (np.array([5.0]), np.array([3.5]))
    assert math.exp(times_more((spent, loss), at_once)) == pytest.approx(1 / 5)


def test_digits_stand_in_for_the_papers_natural_tasks() -> None:
    found = verdict("8", natural(2.0, 2.0, 10.0, "digits").data())
    assert found.verdict == "supported"
    assert "on digits (for tinystories and mnist)" in found.because
    found = verdict("8", natural(2.0, 2.3, 10.0, "tinystories").data())
    assert found.verdict == "mixed", "ahead per token, where the paper says equal"


def test_exponents_of_losses_are_per_seed_and_in_bits() -> None:
    found = verdict("9", ladder(3.0, 2.5, 2.2).data())
    name = "digits, d 24, context 64, smt+dmt: exponent of bits in memory"
    each = [np.polyfit(np.log([1, 2, 8]), np.log(np.array([3.0, 2.5, 2.2]) + 0.001 * seed), 1)[0] for seed in range(3)]
    assert value(found, name) == pytest.approx(np.mean(each))
    assert value(found, "digits, context 64, memory_tokens 4, smt+dmt: bits at parameters 3200") == pytest.approx(2.201)


def test_a_loss_that_rises_on_the_way_does_not_fall_smoothly() -> None:
    found = verdict("9", ladder(3.0, 3.2, 2.2).data())
    assert found.verdict == "inconclusive" and "rises by 0.200 bits between two rungs" in found.because


def test_a_memory_that_was_never_too_small_says_nothing_about_compression() -> None:
    lab = Lab()
    for size in (1, 2, 8):
        lab.add("smt+dmt", LOW, "digits", losses=2.0, unit="bits", falls=1.0, model__memory_tokens=size)
    found = verdict("10", lab.data())
    assert found.verdict == "inconclusive" and "the smallest memory had the target at half time" in found.because


def test_dmt_may_start_from_another_runs_smt() -> None:
    data = drifting(0.5, 0.3).data()
    curves = data.curves.assign(**{"init_from.run": None})
    moved = {name: f"source of {name}" for name in data.results["id"]}
    smt = curves["phase"] == "smt"
    curves.loc[smt, "id"] = curves.loc[smt, "id"].map(moved)
    sources = data.results.assign(id=data.results["id"].map(moved), method="smt", group="of the sources")
    results = pd.concat([data.results.assign(**{"init_from.run": data.results["id"].map(moved)}), sources])
    found = verdict("6", replace(data, results=results, curves=curves))
    assert value(found, "retrieval, length 16, smt+dmt: accuracy after DMT minus after SMT") == pytest.approx(0.21)


def test_drift_counts_up_to_the_trained_length() -> None:
    found = verdict("6", drifting(0.5, 0.3).data())
    before = np.mean([0.2 * np.mean(np.arange(16) + 1) * (1 + 0.01 * seed) for seed in range(3)])
    assert value(found, "retrieval, length 16, smt+dmt: drift after SMT") == pytest.approx(before)
    ratio = np.exp(np.mean(np.log([0.5, 0.51, 0.52])))
    assert value(found, "retrieval, length 16, smt+dmt: drift after DMT over drift after SMT") == pytest.approx(ratio)


def test_a_failure_says_nothing_about_the_future_where_all_of_it_fails_too() -> None:
    lab = Lab().add("smt+dmt", LOW, method__future=1, method__detach=False)
    lab.add("smt+dmt", LOW, method__future=64, method__detach=False)
    found = verdict("11", lab.data())
    assert found.verdict == "inconclusive" and "the longest future does not solve it either" in found.because


def test_claims_see_methods_by_what_they_declare_and_not_by_their_names() -> None:
    lab = traced(0, 1)
    for row in lab.rows["inference"]:
        row["method"] = {"bptt": "my-rnn", "transformer": "my-attention"}.get(row["method"], row["method"])
    found = verdict("4", lab.data())
    assert found.verdict == "supported" and {"my-rnn", "my-attention"} <= words(found)
    lab = norms(0.0, 0.2)
    for row in lab.rows["gradients"] + lab.rows["results"]:
        row["method"] = {"bptt": "my-rnn", "smt+dmt": "my-smt"}[row["method"]]
    found = verdict("5", lab.data())
    assert found.verdict == "supported" and {"my-rnn", "my-smt"} <= words(found)
    lab = arranged(True, True)
    for run, _ in lab.geometry:
        run["method"] = "my-smt"
    for row in lab.rows["results"]:
        row["method"] = "my-smt"
    found = verdict("13", lab.data())
    assert found.verdict == "supported" and "my-smt" in words(found)


def words(found: Verdict) -> set[str]:
    return {word.strip(",:") for what in found.numbers["what"] for word in what.split()}


def test_smt_is_not_to_blame_for_a_gru_that_fails_under_bptt_too() -> None:
    found = verdict("14", backbones(CHANCE, CHANCE).data())
    assert found.verdict == "inconclusive" and "under bptt either" in found.because


def test_the_geometry_of_what_was_not_learned_tells_nothing() -> None:
    data = arranged(False, False).data()
    found = verdict("13", replace(data, results=data.results.assign(accuracy=0.1)))
    assert found.verdict == "inconclusive" and "the task is not learned" in found.because


def test_a_setting_is_judged_by_the_norms_between_the_middle_and_the_last() -> None:
    """What comes before the middle, and the memory that the loss is read from, do not count."""
    lab = norms(0.0, 0.5)
    for row in lab.rows["gradients"]:
        if row["method"] == "smt+dmt" and (row["t"] < 15 or row["t"] == 31):
            row["norm"] *= 1e6
    found = verdict("5", lab.data())
    assert found.verdict == "supported"
    told = "retrieval, length 16, bptt, init: |dL/dm_t| changes over the second half by a factor of"
    assert value(found, told) == pytest.approx(math.exp(0.501 * 14))  # from t = 16 to 30


def test_silhouettes_and_trees() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [12.0, 0.0]])
    each = [1 - 1 / 11, 1 - 1 / 10, 1 - 2 / 9.5, 1 - 2 / 11.5]  # own group's distance over the other's
    assert silhouette(points, ["a", "a", "b", "b"]) == pytest.approx(np.mean(each))
    assert math.isnan(silhouette(points, ["a"] * 4)) and math.isnan(silhouette(points, list("abcd")))
    beginning, end = shared_ends(points, [[1, 1], [1, 2], [2, 1], [2, 2]])
    # Distances 1 10 12 9 11 2 have ranks 1 4 6 3 5 2; common beginnings 1 0 0 0 0 1 have ranks 5.5 2.5 .. 5.5.
    assert beginning == pytest.approx(-12 / math.sqrt(17.5 * 12))
    # Common ends 0 1 0 0 1 0 have ranks 2.5 5.5 2.5 2.5 5.5 2.5.
    assert end == pytest.approx(6 / math.sqrt(17.5 * 12))
    assert math.isnan(shared_ends(points, [[1, 1]])[0])


# Plugins.


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Claims that a test registers are gone after it."""
    monkeypatch.setattr(base, "_claims", dict(base._claims))
    return


PLUGIN = """
from bench.report.claims import Verdict, register_claim

@register_claim("a-plugin", "<script>alert(1)</script> & $x_1$", figure="synthetic", grids=["mine.yaml"])
def judge(data):
    return Verdict("supported", f"{len(data.results)} rows [red]*said*[/red] so.")
"""


@pytest.mark.usefixtures("claims")
def test_a_plugin_file_brings_its_own_claim_and_its_text_stays_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    load_plugin(file)
    pairs = judged(Lab().add("bptt", LOW).data())
    assert [claim.key for claim, _ in pairs] == [*PAPERS, "a-plugin"]
    made, _ = exhibits(Lab().add("bptt", LOW).data())
    assert isinstance(made, Exhibit) and made.table is not None
    row = made.table.iloc[-1]
    assert row["text"] == "<script>alert(1)</script> & $x_1$" and row["because"] == "3 rows [red]*said*[/red] so."


@pytest.mark.usefixtures("claims")
def test_a_key_belongs_to_one_claim() -> None:
    def mine(data: Data) -> Verdict:
        raise NotImplementedError

    register_claim("mine", "One.", "synthetic", [])(mine)
    register_claim("mine", "One, imported again.", "synthetic", [])(mine)
    with pytest.raises(
        BadInput, match=r"^claim '1' is registered twice: at .*accuracy\.py:\d+ and at .*test_claims\.py:\d+$"
    ):
        register_claim("1", "Another.", "synthetic", [])(mine)


@pytest.mark.usefixtures("claims")
@pytest.mark.parametrize(("returned", "told"), [(None, "None, no verdict"), ("supported", "'supported', no verdict")])
def test_what_is_no_verdict_is_inconclusive(returned: Any, told: str) -> None:
    register_claim("odd", "Odd.", "synthetic", [])(lambda data: returned)
    (found,) = [judgement for claim, judgement in judged(Lab().data()) if claim.key == "odd"]
    assert found.verdict == "inconclusive" and told in found.because


@pytest.mark.usefixtures("claims")
def test_a_judge_that_raises_stops_nothing() -> None:
    def broken(data: Data) -> Verdict:
        raise KeyError("no\nsuch <column>")

    register_claim("broken", "Broken.", "synthetic", [])(broken)
    found = {claim.key: judgement for claim, judgement in judged(Lab().data())}
    assert len(found) == 15 and found["broken"].verdict == "inconclusive"
    assert "KeyError: 'no\\nsuch <column>'" in found["broken"].because
    assert found["broken"].numbers.empty


def test_a_verdict_is_one_of_five_words() -> None:
    with pytest.raises(BadInput, match="'true' given; should be one of supported, contradicted"):
        Verdict("true", "")  # type: ignore[arg-type]


# The section.


def test_the_section_has_every_verdict_and_every_number() -> None:
    lab = synthetic(HIGH, LOW)
    verdicts, numbers = exhibits(lab.data())
    assert isinstance(verdicts, Exhibit) and isinstance(numbers, Exhibit)
    table = verdicts.table
    assert table is not None and numbers.table is not None
    assert list(table) == ["claim", "text", "verdict", "because", "why", "figure", "grids"]
    assert table["claim"].tolist() == PAPERS and set(table["verdict"]) <= set(VERDICTS)
    assert list(numbers.table) == ["claim", "what", "value", "low", "high", "n"]
    pd.testing.assert_frame_equal(
        numbers.table[numbers.table["claim"] == "1"].drop(columns="claim"), verdict("1", lab.data()).numbers
    )
    counts = table["verdict"].value_counts()
    assert f"Of 14 claims: {counts['supported']} supported" in verdicts.caption


def test_claims_name_shipped_grids_and_exhibits() -> None:
    shipped = {Path(str(file)).stem for file in SHIPPED.iterdir()}
    exhibits = (
        "complexity inference synthetic length-generalisation efficiency scaling compression gradient-norms drift"
    )
    exhibits += " geometry ablation-lambda ablation-future ablation-backbone"
    exhibits += " frontier-anbn frontier-copy-curriculum frontier-shakespeare"
    alone = estimators.EXHIBITS  # experiments need no grid
    for claim in base.registered():
        assert set(claim.grids) <= shipped and (claim.grids or claim.figure in alone or claim.key == "online-7"), (
            claim.key
        )
        assert claim.figure in (*exhibits.split(), *alone), claim.key


@pytest.mark.slow
def test_real_runs_are_judged(tmp_path: Path) -> None:
    grid = {
        "base": {
            "model": TINY,
            "training": {"batch_size": 8, "budget": {"steps": 4}},
            "evaluation": {"sequences": 16, "reference_sequences": 8, "every": 0.5, "lengths": [16]},
        },
        "axes": {"method": ["smt+dmt", "bptt", "transformer"], "seed": [0, 1, 2], "task.length": [8, 12]},
        "parts": [{"axes": {"task": ["retrieval"]}}],
    }
    bench.run(grid, results=tmp_path, launcher="inline")
    data = reading.load([tmp_path])
    found = {claim.key: judgement for claim, judgement in judged(data)}
    untested = {key for key, judgement in found.items() if judgement.verdict == "not tested"}
    assert untested == set(PAPERS) - {"1", "2", "6", "7"}
    assert not any("failed" in judgement.because for judgement in found.values())
    scores = data.results[(data.results["length"] == data.results["task.length"]) & ~data.results["reference"]]
    scores = scores[scores["task.length"] == 12].set_index(["method", "seed"])["accuracy"]
    wanted = (scores["smt+dmt"] - scores["bptt"]).mean()
    told = row(found["1"], "retrieval, length 12: accuracy, smt+dmt minus bptt")
    assert told["value"] == pytest.approx(wanted) and told["n"] == 3
