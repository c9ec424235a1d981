"""The engine: what each form of method gets and gives, when it steps, and what survives from one batch to the next."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench import registry
from bench.build import build_method, build_task
from bench.engine import Engine, column_counts, form_of
from bench.errors import BadInput
from bench.methods import RecurrentMethod
from bench.methods.bptt import BPTT
from bench.phases import batch_length
from bench.results import load_tensors, read_json
from bench.tasks.base import IGNORED, Batch, hide_in_stream
from bench.training import Trainer
from tests.helpers import folder_of, tiny_run

B, T = 3, 12


def built(name, **fields):
    """A method in float64, its only phase, and random sequences with every third label not scored."""
    run = tiny_run(name, {"name": "parity", "length": T}, precision="float64", **fields)
    method = build_method(run, build_task(run))
    (phase,) = method.phases(run.training)
    method.train_only(phase)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(2, (2, B, T), generator=generator)
    y = torch.where(torch.arange(T) % 3 == 1, IGNORED, y)
    return method, phase, Batch(x, y, (torch.arange(T) == 0).expand(B, -1))


def gradient(method):
    found = {
        name: parameter.grad.clone() for name, parameter in method.named_parameters() if parameter.grad is not None
    }
    method.zero_grad()
    return found


def near(a, b):
    assert a.keys() == b.keys()
    for name, gradient in a.items():
        torch.testing.assert_close(
            gradient, b[name], rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("backbone", registry.backbones.names())
def test_rtrl_is_the_gradient_of_bptt(backbone):
    """Exact on every backbone, parameter by parameter."""
    model = {"backbone": backbone, "d": 8, "heads": 2, "memory_tokens": 2, "updater_layers": 1, "decoder_layers": 1}
    online, phase, batch = built("rtrl", model=model)
    whole, other, _ = built("bptt", model=model)
    whole.load_state_dict(online.state_dict())
    (ready,) = Engine(online, phase).stretches(batch)
    (once,) = Engine(whole, other).stretches(batch)
    near(gradient(online), gradient(whole))
    torch.testing.assert_close(ready.scalars["loss"], once.scalars["loss"])


def test_one_estimator_serves_another_objective(monkeypatch):
    """What earns credit is told apart from how it is assigned: a squared error on probabilities, weighted by label."""

    def brier(self, logits, y):
        wanted = torch.nn.functional.one_hot(y.clamp(min=0), logits.shape[-1])
        each = (logits.softmax(-1) - wanted).square().sum(-1) * (y != IGNORED) * (1 + y)
        return each.sum(), (y != IGNORED).sum()

    monkeypatch.setattr(RecurrentMethod, "objective", brier)
    online, phase, batch = built("rtrl")
    whole, other, _ = built("bptt")
    whole.load_state_dict(online.state_dict())
    (ready,) = Engine(online, phase).stretches(batch)
    list(Engine(whole, other).stretches(batch))
    near(gradient(online), gradient(whole))
    logits, scored = whole.predict(batch.x), batch.y != IGNORED
    torch.testing.assert_close(ready.scalars["loss"], brier(whole, logits, batch.y)[0] / scored.sum())


def test_tbptt_through_all_of_a_sequence_is_bptt():
    truncated, phase, batch = built({"name": "tbptt", "k1": T, "k2": T})
    whole, other, _ = built("bptt")
    whole.load_state_dict(truncated.state_dict())
    list(Engine(truncated, phase).stretches(batch))
    list(Engine(whole, other).stretches(batch))
    near(gradient(truncated), gradient(whole))


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (3, 5), (4, 12)])
def test_tbptt_goes_back_through_k2_columns_from_a_state_that_was_made_before(k1, k2):
    """Against a loop by hand: the state before the last k2 columns is a constant."""
    method, phase, batch = built({"name": "tbptt", "k1": k1, "k2": k2})
    by_hand, _, _ = built({"name": "tbptt", "k1": k1, "k2": k2})
    by_hand.load_state_dict(method.state_dict())
    first = 0
    for ready in Engine(method, phase).stretches(batch):
        first += ready.columns
        begin = max(0, first - k2)
        with torch.no_grad():
            state = by_hand.initial_state(B)
            if begin:
                _, state = by_hand.rnn.scan(state, batch.x[:, :begin])
        logits, _ = by_hand.advance(state, batch.x[:, begin:first])
        y = batch.y[:, first - ready.columns : first]
        loss = torch.nn.functional.cross_entropy(
            logits[:, -ready.columns :].flatten(0, 1), y.flatten(), ignore_index=IGNORED
        )
        loss.backward()
        near(gradient(method), gradient(by_hand))


def test_a_stretch_in_which_nothing_is_scored_takes_no_step_and_is_carried_through():
    method, phase, batch = built({"name": "tbptt", "k1": 4, "k2": 4})
    y = batch.y.clone()
    y[:, 4:8] = IGNORED
    found = list(Engine(method, phase).stretches(batch._replace(y=y)))
    assert [ready.scalars is not None for ready in found] == [True, False, True]
    assert [ready.labels for ready in found] == [(part != IGNORED).sum() for part in y.split(4, 1)]
    run = tiny_run({"name": "rtrl", "update_every": 1}, {"name": "retrieval", "length": 6, "symbols": 3})
    method = build_method(run, build_task(run))
    (phase,) = method.phases(run.training)
    batch, _ = build_task(run).stream("train", 4, 6, torch.Generator().manual_seed(0))
    assert [ready.scalars is not None for ready in Engine(method, phase).stretches(batch)] == [False] * 5 + [True]


class Assigns(BPTT):
    """Sets its gradients instead of adding to them."""

    name = "assigns"

    def gradients(self, batch, phase):
        for scalars in super().gradients(batch, phase):
            found = [parameter.grad for parameter in self.parameters()]
            self.zero_grad()
            for parameter, made in zip(self.parameters(), found, strict=True):
                parameter.grad = made
            yield scalars
            self.zero_grad()


@pytest.mark.parametrize("cls", [BPTT, Assigns])
def test_gradients_of_several_batches_become_their_mean(cls):
    run = tiny_run("bptt", {"name": "parity", "length": T}, precision="float64")
    task = build_task(run)
    method = cls(run.method_config, task, run.model, torch.Generator()).double()
    (phase,) = method.phases(run.training)
    batches = [task.sample("train", 4, T, torch.Generator().manual_seed(seed)) for seed in range(4)]
    each = []
    for batch in batches:
        each += [gradient(method) for ready in Engine(method, phase).stretches(batch) if ready.scalars is not None]
    phase = dataclasses.replace(phase, optimiser=phase.optimiser.model_copy(update={"clip": None}))
    engine, seen = Engine(method, phase, accumulate=4), []
    engine.optimiser.step = lambda: seen.append(  # type: ignore[method-assign]
        {name: parameter.grad.clone() for name, parameter in method.named_parameters() if parameter.grad is not None}
    )
    took = [engine.take(1.0) for batch in batches for ready in engine.stretches(batch) if ready.scalars is not None]
    assert took == [False, False, False, True]
    near(seen[0], {name: sum(gradients[name] for gradients in each) / 4 for name in each[0]})


def test_what_is_carried_has_no_graph_and_goes_on_from_what_was_kept():
    method, phase, batch = built({"name": "tbptt", "k1": 4, "k2": 6})
    engine = Engine(method, phase)
    list(engine.stretches(batch))
    kept = engine.state_dict()
    assert not any(part.requires_grad for part in kept["carry"][0] if isinstance(part, torch.Tensor))
    later = batch._replace(start=torch.zeros(B, T, dtype=torch.bool))
    method.zero_grad()
    list(engine.stretches(later))
    on = gradient(method)
    other = Engine(method, phase)
    other.load_state_dict(kept)
    list(other.stretches(later))
    near(gradient(method), on)


def test_where_a_stream_scores_and_begins_is_looked_up_by_column():
    y = torch.tensor([[IGNORED, 1, IGNORED], [IGNORED, IGNORED, IGNORED]])
    start = torch.tensor([[True, False, False], [True, False, True]])
    assert column_counts(Batch(torch.zeros_like(y), y, start)) == ([0, 1, 0], [True, False, True])


def test_labels_are_hidden_by_their_place_in_a_lane_and_not_in_a_piece():
    x = y = torch.arange(6).repeat(2, 1)
    start = torch.tensor([[False, False, True, False, False, False], [False] * 6])
    hidden, position = hide_in_stream(Batch(x, y, start), 2, torch.tensor([5, 1]))
    assert hidden.y.tolist() == [[0, 1, -1, -1, 4, 5], [-1, 1, 2, 3, 4, 5]]
    assert position.tolist() == [4, 7] and torch.equal(hidden.x, x)


@pytest.mark.parametrize("start", [None, torch.zeros(2, dtype=torch.bool)])
def test_a_stream_of_the_old_contract_is_told_what_changed(start):
    x = torch.zeros(2, 6, dtype=torch.long)
    with pytest.raises(BadInput, match=r"since 0\.2 it says at each column .* \(2, 6\); see docs/add-a-task\.md"):
        hide_in_stream(Batch(x, x, start), 0, torch.zeros(2, dtype=torch.long))


def test_a_method_trains_by_the_form_that_its_class_defines_last():
    class Both(BPTT):
        def gradients(self, batch, phase):
            yield from super().gradients(batch, phase)

    class Neither(RecurrentMethod):
        name = "neither"

    assert form_of(BPTT) == "losses" and form_of(Both) == "gradients"
    assert form_of(registry.methods.get("rtrl")) == "step"
    with pytest.raises(BadInput, match="neither: defines none of losses, step, gradients"):
        form_of(Neither)


def test_tokens_are_charged_as_columns_are_seen(tmp_path):
    """So that no point of the curve claims a column that no step has seen."""
    run = tiny_run(
        {"name": "tbptt", "k1": 4, "k2": 4},
        {"name": "parity", "length": T},
        training={"batch_size": 2, "budget": {"tokens": 2 * T * 3}},
        evaluation={"sequences": 8, "every": 1 / 9, "stream": {"lanes": 2, "burn_in": 4, "columns": 8}},
    )
    folder = folder_of(run, tmp_path)
    Trainer(run, folder).train()
    points = [(point["steps"], point["tokens"]) for point in read_json(folder / "curve.json")]
    assert points == [(n, n * 2 * 4) for n in range(10)]


def test_batches_of_a_stream_are_whole_pieces():
    for k1, columns, wanted in ((8, None, 16), (5, None, 10), (8, 3, 8), (3, 10, 9)):
        training = {"batch_size": 2, "budget": {"steps": 1}, "columns": columns}
        run = tiny_run({"name": "tbptt", "k1": k1, "k2": k1}, {"name": "parity", "length": T}, training=training)
        method = build_method(run, build_task(run))
        assert batch_length(run, method, method.phases(run.training)[0]) == wanted


def test_the_average_of_the_weights_is_what_is_scored_and_kept(tmp_path):
    training = {"batch_size": 4, "budget": {"steps": 6}, "optimiser": {"lr": 1e-2, "ema": 0.5}}
    run = tiny_run("bptt", {"name": "parity", "length": 6}, training=training)
    folder = folder_of(run, tmp_path)
    trainer = Trainer(run, folder)
    trainer.train()
    raw = tiny_run("bptt", {"name": "parity", "length": 6}, training={**training, "optimiser": {"lr": 1e-2}})
    plain = Trainer(raw, folder_of(raw, tmp_path))
    plain.train()
    kept, last = (load_tensors(owner.folder.weights("train")) for owner in (trainer, plain))
    assert all(torch.equal(kept[name], weight) for name, weight in trainer.method.state_dict().items())
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
