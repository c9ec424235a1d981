"""Methods that learn from an endless stream: how they are scored on streams, and a text that tells methods apart."""

from __future__ import annotations

import math

import pytest
import torch

from bench import training
from bench.build import build_method, build_task
from bench.engine import Engine
from bench.registry import register_task
from bench.results import read_json
from bench.tasks.anbn import AnBn
from bench.tasks.base import IGNORED, Batch
from bench.training import Options, Stopped, Trainer, score_stream, stream_set
from tests.helpers import TINY, folder_of, tiny_run

MOST = 4
FLOOR = math.log(MOST) / 7
"""Nats a character: n is uniform on 1 .. 4, and of the 2 n + 2 characters of a pair of lines, 7 on average, the rest is
known."""
LANES, COLUMNS = 32, 2000


def trained(method, root):
    """A run of tanh units on the text, and the loss that it ends with on held-out streams."""
    run = tiny_run(
        method,
        {"name": "anbn", "length": 32, "most": MOST},
        model={
            **{"backbone": "tanh", "updater_width": 12, "d": 4, "heads": 1, "memory_tokens": 2},
            **{"updater_layers": 1, "decoder_layers": 1, "readout": "linear"},
        },
        training={
            "batch_size": LANES,
            "budget": {"tokens": LANES * COLUMNS},
            "optimiser": {"lr": 2e-2, "schedule": "cosine", "decay": 0.0},
        },
        evaluation={"every": 1.0, "sequences": 64, "stream": {"lanes": 64, "burn_in": 64, "columns": 2048}},
    )
    folder = folder_of(run, root)
    trainer = Trainer(run, folder)
    trainer.train()
    loss = score_stream(trainer.method, stream_set(run, trainer.task, "test"), "rnn")["loss"]
    return read_json(folder / "result.json")["scores"][0], loss


@pytest.mark.slow
def test_on_a_stream_credit_that_reaches_further_learns_more(tmp_path):
    scores, losses = {}, {}
    for method in ({"name": "rtrl", "update_every": 4}, {"name": "tbptt", "k1": 4, "k2": 4}, {"name": "bptt"}):
        scores[method["name"]], losses[method["name"]] = trained(method, tmp_path / method["name"])
    assert losses["rtrl"] < losses["tbptt"] < losses["bptt"]
    assert abs(losses["rtrl"] - FLOOR) < 0.005  # nats; below 0.0025 with each of five seeds
    for method in ("rtrl", "tbptt"):
        assert scores[method]["loss"] == losses[method]
        assert scores[method]["start_loss"] > scores[method]["loss"]  # the start was seen once
    assert "start_loss" not in scores["bptt"]


def test_a_stream_is_scored_after_the_burn_in_with_the_state_carried_on(tmp_path):
    evaluation = {"sequences": 8, "stream": {"lanes": 3, "burn_in": 5, "columns": 300}}
    run = tiny_run({"name": "tbptt"}, {"name": "parity", "length": 12}, precision="float64", evaluation=evaluation)
    task = build_task(run)
    method, batch = build_method(run, task), stream_set(run, task, "test")
    assert batch.x.shape == (3, 305) and (batch.y[:, :5] == IGNORED).all() and (batch.y[:, 5:] != IGNORED).all()
    found = score_stream(method, batch, "rnn")
    right, losses = [], []
    with torch.no_grad():
        for lane in range(3):
            state = method.initial_state(1)
            for t in range(305):
                if batch.start[lane, t]:
                    state = method.initial_state(1)
                logits, state = method.advance(state, batch.x[lane : lane + 1, t, None])
                if t >= 5:
                    right.append((logits[0, 0].argmax() == batch.y[lane, t]).item())
                    losses.append(-logits[0, 0].log_softmax(0)[batch.y[lane, t]].item())
    assert found["accuracy"] == pytest.approx(sum(right) / 900, rel=1e-12)
    assert found["loss"] == pytest.approx(sum(losses) / 900, rel=1e-9)


@pytest.mark.parametrize(("scored", "read"), [([5], 1), ([1, 4, 7], 3), ([0, 1, 5], 8), ([*range(8)], 8)])
def test_only_columns_of_a_stream_that_are_scored_are_read(monkeypatch, scored, read):
    run = tiny_run({"name": "tbptt"}, {"name": "parity", "length": 8}, precision="float64")
    task = build_task(run)
    method = build_method(run, task)
    x, labels, start = task.stream("test", 3, 8, torch.Generator().manual_seed(0))[0]
    y = torch.full_like(labels, IGNORED)
    y[1:, scored] = labels[1:, scored]
    with torch.no_grad():
        logits, _ = method.advance(method.initial_state(3), x, start=start)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED)
    kept, found = method.rnn.read, []
    monkeypatch.setattr(method.rnn, "read", lambda features: found.append(features.shape[1]) or kept(features))
    scored = score_stream(method, Batch(x, y, start), "rnn")
    assert found == [read] and scored["loss"] == pytest.approx(expected.item(), rel=1e-12)


def test_a_stream_is_told_what_its_last_batch_cost_and_goes_on_from_there_after_a_stop(tmp_path, clean):
    heard, levels = [], []

    class Rising(AnBn):
        """The first character of a batch says how often the stream has heard of a loss."""

        def stream(self, split, lanes, length, generator, state=None):
            level = torch.zeros(lanes, dtype=torch.long) if state is None else state[0]
            if lanes == 3:  # those that train
                levels.append(level.tolist())
            x = level[:, None].expand(-1, length) % 3
            return Batch(x, x, ((torch.arange(length) == 0) & (state is None)).expand(lanes, -1)), (level,)

        def advance(self, state, loss):
            heard.append(loss.item())
            return (state[0] + 1,)

    register_task("rising")(Rising)
    training = {"batch_size": 3, "columns": 8, "budget": {"tokens": 3 * 8 * 4}}
    evaluation = {"sequences": 8, "every": 0.25, "stream": {"lanes": 2, "burn_in": 4, "columns": 8}}
    run = tiny_run({"name": "tbptt", "k1": 4, "k2": 4}, "rising", training=training, evaluation=evaluation)
    folder = folder_of(run, tmp_path)
    for _ in range(3):
        with pytest.raises(Stopped):
            Trainer(run, folder, Options(should_stop=lambda: True)).train()
    Trainer(run, folder).train()
    assert levels == [[n] * 3 for n in range(4)]
    losses = [point["online_loss"] for point in read_json(folder / "curve.json")[1:]]
    assert heard == pytest.approx(losses, rel=1e-6)


def test_what_learns_from_a_stream_ends_early_by_its_score_on_the_valid_stream(tmp_path, monkeypatch):
    seen = []

    def good(method, batch, name):
        seen.append(batch)
        return {"accuracy": 0.9, "loss": 0.1}

    monkeypatch.setattr(training, "score_stream", good)
    training_ = {"batch_size": 4, "budget": {"steps": 12}, "stop_at": 0.8}
    run = tiny_run({"name": "tbptt", "k1": 4, "k2": 4}, "parity", training=training_)
    trainer = training.Trainer(run, folder_of(run, tmp_path))
    result = trainer.train()
    assert result["costs"]["steps"] < 12  # (its score from the start state is at chance)
    assert any(batch is trainer._lanes("valid") for batch in seen)


def test_an_online_step_computes_at_the_runs_precision(tmp_path):
    run = tiny_run("rtrl", "parity", precision="bfloat16", training={"batch_size": 4, "budget": {"steps": 1}})
    inside = []
    trainer = training.Trainer(run, folder_of(run, tmp_path))
    step = trainer.method.step
    trainer.method.step = lambda *given: (inside.append(torch.is_autocast_enabled("cpu")), step(*given))[1]
    trainer.train()
    assert inside and all(inside)


@pytest.mark.parametrize("method", [{"name": "tbptt", "k1": 2, "k2": 2}, {"name": "rtrl", "update_every": 2}])
def test_a_rate_that_falls_stays_down_for_updates_of_the_last_batch_that_are_past_the_budget(
    tmp_path, monkeypatch, method
):
    rates = []
    take = Engine.take
    monkeypatch.setattr(Engine, "take", lambda self, rate: (rates.append(rate), take(self, rate))[1])
    optimiser = {"lr": 1.0, "schedule": "cosine", "warmup": 0.0}
    run = tiny_run(
        method,
        "parity",
        model={**TINY, "backbone": "tanh", "updater_width": 3},
        training={"batch_size": 2, "columns": 16, "budget": {"steps": 12}, "optimiser": optimiser},
    )
    Trainer(run, folder_of(run, tmp_path)).train()
    assert len(rates) == 16 and rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9 and max(rates[12:]) < 0.01
