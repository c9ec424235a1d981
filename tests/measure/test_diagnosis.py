"""Diagnoses of networks whose fault is known by construction, and numbers against plain loops, in float64."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from bench import measure, streams
from bench.build import build_method, build_task
from bench.config import ModelConfig
from bench.measure import dynamics
from bench.measure.diagnosis import _between, _walked, diagnose, judge, reached
from bench.methods import Method, MethodConfig
from bench.methods.base import Teaching
from bench.methods.on_policy import swept
from bench.results import read_json
from bench.tasks.base import IGNORED
from bench.tasks.retrieval import Retrieval
from bench.training import Trainer
from tests.helpers import folder_of, tiny_run

SYMBOLS, LENGTH = 8, 32
STATES = 2 + SYMBOLS  # nothing seen; the needle is next; each needle


def exact():
    """For each input the matrix that takes a state, as a row, to the next."""
    steps = torch.eye(STATES, dtype=torch.float64).repeat(SYMBOLS + 1, 1, 1)
    steps[0, 0] = torch.eye(STATES)[1]
    for symbol in range(1, SYMBOLS + 1):
        steps[symbol, 1] = torch.eye(STATES)[1 + symbol]
    return steps


class Network(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def initial_state(self, lanes):
        return torch.eye(STATES, dtype=torch.float64)[:1].repeat(lanes, 1, 1)

    def update(self, memory, x_t):
        return memory @ self.steps[x_t]

    def read(self, features):
        return nn.functional.pad(20 * features[..., 2:], (1, 0))

    def through(self, memory, x):
        """The memory, and those after each of the inputs."""
        memories = [memory]
        for x_t in x.unbind(1):
            memories.append(self.update(memories[-1], x_t))
        return torch.stack(memories, 1)


class Automaton(Method):
    """A linear automaton that solves retrieval; teacher and network have steps of their own."""

    recurrences = ()
    losses = None  # never trained
    advance = None
    first = 0

    def __init__(self, task, own, teacher):
        super().__init__(MethodConfig(), task, ModelConfig(), torch.Generator())
        self.own, self.teacher = Network(own), Network(teacher)

    def initial_state(self, lanes):
        return self.own.initial_state(lanes)

    def recurrent_network(self):
        return self.own

    def teaching(self):
        def every(network, x):
            return network.through(network.initial_state(len(x)), x)[:, 1:]

        def decode(memory, future):
            return self.teacher.read(self.teacher.through(memory, future).flatten(2))

        def memories(x, columns):
            return every(self.teacher, x)[:, list(columns)]

        return Teaching(memories, decode, LENGTH, lambda x: every(self.own, x))


def found(own, teacher=None, **knobs):
    task = Retrieval(Retrieval.Config(length=LENGTH, symbols=SYMBOLS, **knobs))
    x, y, _ = task.sample("test", 256, LENGTH, streams.generator(0, "diagnosis"))
    record = diagnose(Automaton(task, own, exact() if teacher is None else teacher), task, x, y)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    return record, x, y


def test_a_network_that_does_as_its_teacher_is_solved():
    record, _, _ = found(exact())
    assert record["limit"] == "solved" and record["verdict"].startswith("solved: accuracy 1.000 (ceiling 1.000")
    assert record["rare"] is None and record["single"] == 0 and set(record["after_steps"]["accuracy"]) == {1.0}
    assert record["scores"] == {"teacher": 1.0, "one_step": 1.0, "rollout": 1.0, "ceiling": 1.0, "chance": 1 / 8}


def test_a_teacher_that_knows_nothing_is_the_limit():
    blank = torch.zeros_like(exact())
    record, _, _ = found(blank, blank)
    assert record["limit"] == "teacher" and record["verdict"].startswith("the teacher is the limit: it answers 0.000")
    assert max(record["spread"]) == 0 == max(record["between"])


@pytest.mark.parametrize("place", [None, 5])
def test_a_transition_that_fails_at_one_symbol_is_named(place):
    own = exact()
    own[3] = torch.eye(STATES)
    knobs = {} if place is None else {"needle_from": place / LENGTH, "needle_to": place / LENGTH}
    record, x, y = found(own, **knobs)
    after = x.gather(1, (x == 0).int().argmax(1, keepdim=True) + 2)  # what the decoder then takes for the needle
    lost = ((y[:, -1:] == 3) & (after != 3)).double().mean().item()
    assert record["single"] == pytest.approx(lost, abs=1e-6) and 0.05 < lost <= 1 - record["scores"]["rollout"]
    assert record["limit"] == "transition"
    assert record["scores"]["one_step"] == 1
    assert "; 100% of the worst are at symbol 3, 1" in record["verdict"]
    assert record["rare"]["share"] == pytest.approx(1)
    assert "; 100% of the worst are after symbol 0, 3% of all" in record["verdict"]
    if place:
        assert f"the transition at t = {place + 1} is not learned" in record["verdict"]
        assert record["rare"]["column"]["value"] == place + 1 and record["rare"]["column"]["share"] == 1
        assert record["error"][place + 1] > record["between"][place + 1] * 0.1 > 0
        assert record["between"][place] == 0


def test_what_fails_after_a_symbol_is_told_of_the_symbol_before():
    own = exact()
    own[1:, 1] = own[1:, 0]  # no needle is stored
    record, _, _ = found(own)
    assert record["limit"] == "transition" and "; 100% of the worst are after symbol 0" in record["verdict"]
    assert "at symbol" not in record["verdict"], "any symbol may be the needle"


def test_errors_that_accumulate_are_drift():
    own = exact()
    needles = torch.eye(SYMBOLS, dtype=torch.float64)
    own[:, 2:, 2:] = 0.92 * needles + 0.08 * needles.roll(1, 1)  # each step leaks a little into the next needle
    record, _, _ = found(own)
    assert record["limit"] == "drift" and record["single"] < 1e-3 and record["scores"]["one_step"] == 1
    steps = dict(zip(record["after_steps"]["k"], record["after_steps"]["accuracy"]))
    assert list(steps) == [1, 2, 4, 8, 16, 32] and steps[8] == 1 and steps[16] == 0
    verdict = "the rollout drifts: accuracy 1.000 after 1 step, 1.000 after 8, 0.000 after 16, "
    assert record["verdict"].startswith(verdict)
    assert record["drift"][-1] > 10 * record["error"][-1] > 0


def judged(teacher, rollout, ceiling, single=0.0):
    scores = {"teacher": teacher, "rollout": rollout, "ceiling": ceiling, "chance": 0.1}
    columns = {"t": [4, 5], "lost": [None, single], "error": [0.1, 0.1], "between": [None, None]}
    steps = {"k": [1, 2], "accuracy": [teacher, rollout]}
    return judge({"scores": scores, "single": single, "after_steps": steps, "rare": None, **columns})[0]


def test_what_is_lost_most_is_the_limit():
    assert judged(0.9, 0.985, 1.0) == "solved" and judged(0.9, 0.97, 1.0) == "teacher"
    assert judged(0.6, 0.3, 1.0, 0.3) == "teacher" and judged(0.6, 0.1, 1.0, 0.3) == "transition"
    assert judged(0.9, 0.5, 1.0, 0.19) == "drift" and judged(0.9, 0.5, 1.0, 0.21) == "transition"


def test_a_single_step_is_judged_too():
    scores = {"teacher": 0.9, "rollout": 0.5, "ceiling": 1.0, "chance": 0.1}
    record = {"scores": scores, "single": 0.0, "after_steps": {"k": [1], "accuracy": [0.5]}}
    assert judge(record)[1] == "the rollout drifts: accuracy 0.500 after 1 step (teacher 0.900, chance 0.100)"


def test_without_a_known_ceiling_the_teacher_is_what_is_reached():
    assert judged(0.12, 0.1, None) == "teacher" and judged(0.6, 0.59, None) == "follows"
    assert judged(0.6, 0.7, None) == "follows"
    assert judged(0.6, 0.5, None, 0.01) == "drift" and judged(0.6, 0.5, None, 0.09) == "transition"


# Numbers.

CONTEXT = {"evaluation": {"sequences": 8, "reference_sequences": 8, "score_from": 3}}
CASES = {
    "smt": ({"name": "smt", "context": 5, "future": 4}, "stack", {}),
    "dense": ("smt-dense", "retrieval", {}),
    "given": ({"name": "smt", "start": "context", "context": 4}, "digits", CONTEXT),
}


@pytest.fixture(params=CASES)
def case(request):
    method, task, fields = CASES[request.param]
    run = tiny_run(method, {"name": task, "length": 12}, precision="float64", **fields)
    task = build_task(run)
    built = build_method(run, task).eval()
    built.sync_predictor("smt")
    return run, task, built, *dynamics.sequences(run, task, 12, 6)[:2]


def test_numbers_are_those_of_plain_loops(case):
    run, task, method, x, y = case
    record = diagnose(method, task, x, y, run.evaluation.score_from)
    first, rnn, teaching, scored = max(method.first - 1, 0), method.rnn, method.teaching(), y >= 0
    times = record["t"]
    assert times == list(range(first, 12))

    def accuracy(right):
        counts = scored.sum(0)
        return [(right[:, t].sum() / counts[t]).item() if counts[t] else None for t in times]

    assert record["rollout"] == accuracy((method.predict(x).argmax(-1) == y) & scored)
    assert record["teacher"] == accuracy((method.predict_teacher(x).argmax(-1) == y) & scored)
    drift = dynamics.drift(method, x, y)
    assert record["drift"] == pytest.approx(drift["delta"], rel=1e-9, abs=1e-18)

    memories = {t: teaching.memories(x, [t])[:, 0] for t in times}
    before = {t: memories[t - 1] if t else rnn.initial_state(6) for t in times[method.first > 0 :]}
    after = {t: rnn.update(before[t], x[:, t]) for t in before} | ({} if not method.first else {first: memories[first]})
    hits = torch.stack([rnn.read(after[t].flatten(1)).argmax(-1) == y[:, t] for t in times], 1)
    assert record["one_step"] == accuracy(nn.functional.pad(hits, (first, 0)))
    labels, single, ahead = scored.sum().item(), 0.0, {}
    for place, t in enumerate(times):
        assert record["spread"][place] == pytest.approx(memories[t].flatten(1).var(0, correction=0).mean().item())
        if t not in before:
            assert record["error"][place] is None and record["lost"][place] is None
            continue
        assert record["error"][place] == pytest.approx((after[t] - memories[t]).square().mean().item())
        lost = 0.0
        for row in range(6):
            for j in range(min(teaching.future, 12 - t)):
                if y[row, t + j] < 0:
                    continue
                lane = slice(row, row + 1)
                logits, others = (
                    teaching.decode(m[t][lane], x[lane, t + 1 : t + 1 + j])[0, -1] for m in (memories, after)
                )
                lost += (logits.softmax(-1) - others.softmax(-1))[y[row, t + j]].item()
                ahead.setdefault(j, []).append((logits.argmax() == y[row, t + j]).item())
        assert record["lost"][place] == (pytest.approx(lost / labels) if t + teaching.future > 11 or lost else None)
        single += lost / labels
    assert record["single"] == pytest.approx(single)
    assert record["ahead"]["j"] == sorted(ahead)
    assert record["ahead"]["accuracy"] == pytest.approx([sum(ahead[j]) / len(ahead[j]) for j in sorted(ahead)])


def test_after_so_many_steps_memories_are_those_of_sweeps_and_at_last_the_rollout(case):
    run, task, method, x, y = case
    walk = _walked(method, method.rnn, method.teaching(), x, y)
    every, most = torch.arange(walk.x.shape[1]), walk.before.shape[1]
    inputs = walk.x[:, walk.given :]
    memories = torch.cat([walk.before, walk.teacher[:, -1:]], 1)
    for steps in (1, 2, 5, most):
        before = swept(method.rnn, memories, inputs, steps - 1)
        after = method.rnn.update(before.flatten(0, 1), inputs.flatten()).unflatten(0, inputs.shape)
        torch.testing.assert_close(reached(walk, every, steps)[:, walk.given :], after, rtol=0, atol=1e-12)
    torch.testing.assert_close(reached(walk, every, most), walk.rollout, rtol=0, atol=1e-12)
    record = diagnose(method, task, x, y, run.evaluation.score_from)
    assert record["after_steps"]["k"][-1] == most
    assert record["after_steps"]["accuracy"][0] == pytest.approx(record["scores"]["one_step"])
    assert record["after_steps"]["accuracy"][-1] == pytest.approx(record["scores"]["rollout"])


def test_long_sequences_are_looked_at_in_places_that_stand_for_all(case, monkeypatch):
    run, task, method, x, y = case
    whole = diagnose(method, task, x, y, run.evaluation.score_from)
    monkeypatch.setattr("bench.measure.diagnosis.MOST_TIMES", 3)
    monkeypatch.setattr("bench.measure.diagnosis.MOST_DECODED", 5)
    part = diagnose(method, task, x, y, run.evaluation.score_from)
    kept = [place for place, loss in enumerate(part["lost"]) if loss is not None]
    assert len(kept) <= 3 and [part["lost"][i] for i in kept] == pytest.approx([whole["lost"][i] for i in kept])
    transitions = len(whole["t"]) - (method.first > 0)
    assert part["single"] == pytest.approx(sum(part["lost"][i] for i in kept) * transitions / 3)


def test_the_variance_between_classes_is_without_what_chance_puts_there():
    torch.manual_seed(0)
    labels = torch.arange(40) % 4
    noise = torch.randn(40, 5000, dtype=torch.float64)
    raw = torch.stack([noise[labels == label].mean(0) for label in range(4)]).var(0, correction=0).mean().item()
    assert raw == pytest.approx(3 / 40, rel=0.1) and _between(noise, labels) < 0.01
    centres = 2 * torch.randn(4, 5000, dtype=torch.float64)
    expected = centres.var(0, correction=0).mean().item()
    assert _between(centres[labels] + noise, labels) == pytest.approx(expected, rel=0.02)
    assert math.isnan(_between(noise, torch.zeros(40))) and math.isnan(_between(noise[:7], labels[:7]))


def test_sequences_without_a_label_to_come_are_in_no_class(case):
    run, task, method, x, y = case
    y = y.clone()
    y[0] = IGNORED
    record = diagnose(method, task, x, y, run.evaluation.score_from)
    rest = diagnose(method, task, x[1:], y[1:], run.evaluation.score_from)
    assert [value is None for value in record["between"]] == [value is None for value in rest["between"]]
    known = [[value for value in found["between"] if value is not None] for found in (record, rest)]
    assert known[0] == pytest.approx(known[1], rel=1e-9, abs=1e-15) and record["spread"] != rest["spread"]
    assert record["scores"] == rest["scores"]


@pytest.mark.parametrize("method", ["bptt", "transformer"])
def test_without_a_teacher_there_is_nothing_to_diagnose(method, tmp_path):
    run = tiny_run(method)
    task = build_task(run)
    assert diagnose(build_method(run, task), task, *dynamics.sequences(run, task, 12, 3)[:2]) is None


def test_the_record_of_a_trained_run(tmp_path):
    run = tiny_run("smt-dense+dmt")
    folder = folder_of(run, tmp_path)
    Trainer(run, folder).train()
    record = measure.measure(folder, "diagnosis")
    assert read_json(folder / "diagnosis.json") == record and record["sequences"] == 128
    assert record["diagnosis"]["t"] == list(range(12)) and measure.lacking(folder, ["diagnosis"]) == []
    assert measure.measure(folder, "diagnosis") == record
