"""Gradient norms and drift against what autograd says when it is asked in another way."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

from bench.build import build_method, build_task
from bench.measure import dynamics
from bench.measure.geometry import geometry
from bench.methods import Method
from bench.methods.smt import SMT
from bench.results import Folder
from bench.training import Trainer
from tests.helpers import folder_of, tiny_run


def built(method, task="retrieval", precision="float64"):
    run = tiny_run(method, {"name": task, "length": 12} if isinstance(task, str) else task, precision=precision)
    task = build_task(run)
    return run, task, build_method(run, task).eval()


def test_gradient_norms_under_bptt_are_those_of_perturbed_memories():
    run, task, method = built("bptt")
    x, y, _ = dynamics.sequences(run, task, 12, 4)
    found = dynamics.gradient_norms(method, task, x, y)
    assert found["loss_at"] == 11 and found["t"] == list(range(12)) and found["through"] == "the unrolled updater"
    for t in (0, 5, 11):
        _, memory = method.rnn.scan(method.rnn.initial_state(4), x[:, : t + 1])

        def loss(memory, t=t):
            last = memory if t == 11 else method.rnn.scan(memory, x[:, t + 1 :])[1]
            return F.cross_entropy(method.rnn.read(last.flatten(1)), y[:, -1], reduction="none")

        jacobian = torch.autograd.functional.jacobian(lambda m: loss(m).sum(), memory.detach())
        expected = jacobian.flatten(1).norm(dim=1).mean().item()
        assert found["norm"][t] == pytest.approx(expected, rel=1e-9)


def test_gradient_norms_under_smt_go_through_the_decoder_alone():
    run, task, method = built("smt")
    x, y, _ = dynamics.sequences(run, task, 12, 3)
    found = dynamics.gradient_norms(method, task, x, y)
    assert found["through"] == "the decoder" and found["t"] == list(range(12))
    t, memory = 4, method.teacher.encode(x[:, :5]).detach().requires_grad_()
    logits = method.teacher.decoder(torch.cat([memory, method.teacher.future_embedding(x[:, 5:])], 1))[:, 0]
    F.cross_entropy(logits, y[:, -1], reduction="sum").backward()
    assert found["norm"][t] == pytest.approx(memory.grad.flatten(1).norm(dim=1).mean().item(), rel=1e-9)


def test_under_smt_norms_begin_where_the_future_reaches_the_loss():
    run, task, method = built({"name": "smt", "future": 4})
    found = dynamics.gradient_norms(method, task, *dynamics.sequences(run, task, 12, 3)[:2])
    assert found["t"] == [8, 9, 10, 11]


def test_a_method_without_a_memory_has_no_norms():
    run, task, method = built("transformer")
    assert dynamics.gradient_norms(method, task, *dynamics.sequences(run, task, 12, 3)[:2]) is None


class Stranger(Method):
    """No class of ours: it says what it has, an RNN and a teacher of its memories."""

    recurrences = ("dense",)
    losses = None  # never trained

    def __init__(self, smt):
        super().__init__(smt.config, smt.task, smt.model, smt.noise)
        self.others = smt

    def initial_state(self, lanes):
        return self.others.initial_state(lanes)

    def advance(self, *given):
        return self.others.advance(*given)

    def recurrent_network(self):
        return self.others.rnn

    def teaching(self):
        return self.others.teaching()


def test_what_is_measured_depends_on_what_a_method_says_it_has_and_not_on_its_class():
    run, task, smt = built("smt")
    stranger, (x, y, _) = Stranger(smt), dynamics.sequences(run, task, 12, 3)
    assert dynamics.gradient_norms(stranger, task, x, y) == dynamics.gradient_norms(smt, task, x, y)
    assert dynamics.drift(stranger, x, y)["delta"] == dynamics.drift(smt, x, y)["delta"]
    assert geometry(stranger, task, sequences=8) == geometry(smt, task, sequences=8)
    assert (
        stranger.traits()
        == smt.traits()
        == {
            "state": "constant",
            "data": "sequences",
            "recurrent": True,
            "teacher": True,
        }
    )
    bptt, transformer = built("bptt")[2], built("transformer")[2]
    assert dynamics.drift(bptt, x, y) is None
    assert bptt.traits() == {"state": "constant", "data": "sequences", "recurrent": True, "teacher": False}
    assert transformer.traits() == {"state": "growing", "data": "sequences", "recurrent": False, "teacher": False}


@pytest.mark.parametrize("method", ["smt", "smt+dmt"])
def test_drift_is_the_distance_from_the_memory_of_each_context(method):
    run, task, built_method = built({"name": method, "context": 5}, "stack")
    x, y, _ = dynamics.sequences(run, task, 12, 4)
    found = dynamics.drift(built_method, x, y)
    memory = built_method.rnn.initial_state(4)
    for t in range(12):
        memory = built_method.rnn.update(memory, x[:, t])
        teacher = built_method.teacher.encode(x[:, max(0, t - 4) : t + 1])
        assert found["delta"][t] == pytest.approx(F.mse_loss(memory, teacher).item(), rel=1e-9)
        scored = y[:, t] >= 0
        right = (built_method.rnn.read(memory.flatten(1)).argmax(-1) == y[:, t])[scored].double().mean().item()
        assert found["accuracy"][t] == pytest.approx(right, nan_ok=True)


def test_an_rnn_that_copies_its_teacher_does_not_drift():
    run, task, method = built("smt")
    method.rollout = lambda x: torch.stack([method.teacher.encode(x[:, : t + 1]) for t in range(x.shape[1])], 1)
    assert max(dynamics.drift(method, *dynamics.sequences(run, task, 12, 4)[:2])["delta"]) < 1e-20


def test_logits_that_are_not_finite_have_no_accuracy(monkeypatch):
    run, task, method = built("smt", "parity")
    x, y, _ = dynamics.sequences(run, task, 12, 4)
    read = method.rnn.read
    monkeypatch.setattr(method.rnn, "read", lambda memories: read(memories).index_fill(1, torch.tensor([3]), math.nan))
    accuracy = dynamics.drift(method, x, y)["accuracy"]
    assert [t for t, share in enumerate(accuracy) if math.isnan(share)] == [3]


def test_with_a_given_context_drift_begins_at_the_first_memory():
    fields = {"evaluation": {"sequences": 8, "reference_sequences": 8, "score_from": 3}, "precision": "float64"}
    run = tiny_run({"name": "smt", "start": "context", "context": 4}, {"name": "digits", "length": 12}, **fields)
    task = build_task(run)
    method = build_method(run, task).eval()
    found = dynamics.drift(method, *dynamics.sequences(run, task, 12, 4)[:2])
    assert found["t"] == list(range(3, 12)) and found["delta"][0] == pytest.approx(0, abs=1e-20)


def test_the_record_of_a_trained_run(tmp_path):
    run = tiny_run({"name": "smt+dmt", "dmt": {"share": 0.5, "every": 3, "batch_size": 8}})
    folder: Folder = folder_of(run, tmp_path)
    Trainer(run, folder).train()
    from bench import measure

    record = measure.measure(folder, "dynamics")
    assert json.loads((folder / "dynamics.json").read_text())["trained_length"] == 12
    assert [part["when"] for part in record["gradients"]] == ["init", "trained"]
    assert [part["phase"] for part in record["drift"]] == ["smt", "dmt"]
    assert all(len(part["delta"]) == 24 for part in record["drift"])  # to twice the trained length
    assert record["drift"][0]["delta"] != record["drift"][1]["delta"]  # DMT has moved the RNN, not the teacher
    first, last = (part["norm"] for part in record["gradients"])
    assert first != last and all(math.isfinite(norm) for norm in first + last)
    assert isinstance(measure.trained(folder)[0], SMT)


def test_a_run_that_ended_early_is_measured_as_it_was_at_its_end(tmp_path):
    """Good enough in its first phase: there are no weights of the last."""
    training = {"batch_size": 8, "budget": {"steps": 12}, "stop_at": 0.01}
    run = tiny_run({"name": "smt+dmt", "dmt": {"share": 0.5, "every": 3, "batch_size": 8}}, training=training)
    folder = folder_of(run, tmp_path)
    trainer = Trainer(run, folder)
    trainer.train()
    folder.set_status("done")
    from bench import measure

    assert not folder.weights("dmt").is_file()
    method, _ = measure.trained(folder)
    for name, value in trainer.method.state_dict().items():
        assert torch.equal(value, method.state_dict()[name]), name
