"""The online loss: what labels of a stream cost when they are predicted, before the step that learns from them."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from bench.build import build_method, build_task
from bench.engine import Engine
from bench.methods.tbptt import TBPTT
from bench.phases import draw
from bench.registry import register_method
from bench.results import load_curves, read_json
from bench.streams import generator
from bench.tasks.base import IGNORED
from bench.tasks.facts import task_facts
from bench.training import Options, Stopped, Trainer
from tests.helpers import TINY, few, folder_of, tiny_run

LANES, LENGTH, HIDDEN, RATE = 3, 12, 3, 0.05
METHODS = {
    "tbptt": {"name": "tbptt", "k1": 5, "k2": 5},
    "rtrl": {"name": "rtrl", "update_every": 5},
    "uoro": {"name": "uoro", "update_every": 5},
}
PENALISED = {"name": "penalised", "k1": 5, "k2": 5}


def cell(method, task="parity", accumulate=1):
    """Windows of 5 columns, of whose labels those are hidden that are in the first 3 columns of a sequence of 12."""
    return tiny_run(
        METHODS.get(method, PENALISED),
        {"name": task, "length": LENGTH},
        precision="float64",
        model={**TINY, "backbone": "tanh" if method == "uoro" else "transformer"},
        training={
            "batch_size": LANES,
            "accumulate": accumulate,
            "budget": {"tokens": LANES * 10 * 8},
            "optimiser": {"kind": "sgd", "lr": RATE, "schedule": "constant", "warmup": 0, "decay": 0.0},
        },
        evaluation={
            **{"sequences": 8, "every": 0.25, "score_from": HIDDEN},
            "stream": {"lanes": 2, "burn_in": 4, "columns": 8},
        },
    )


def trained(run, root):
    folder = folder_of(run, root)
    Trainer(run, folder).train()
    return folder


def recomputed(run):
    """Tokens -> what every label scored until then cost, under the weights that were to predict it."""
    task = build_task(run)
    method = build_method(run, task)
    (phase,) = method.phases(run.training)
    engine, data, lanes = Engine(method, phase, run.training.accumulate), generator(run.seed, "data"), None
    state, costs, tokens, found = method.initial_state(LANES), [], 0, {}
    while tokens < run.training.budget.amount:
        batch, lanes = draw(run, task, method, phase, data, lanes)
        first = 0
        for ready in engine.stretches(batch):
            for t in range(first, first + ready.columns):
                with torch.no_grad():
                    logits, state = method.advance(state, batch.x[:, t : t + 1], start=batch.start[:, t : t + 1])
                for lane in range(LANES):
                    label = batch.y[lane, t]
                    if label != IGNORED:
                        costs.append(-logits[lane, 0].log_softmax(0)[label].item())
            first += ready.columns
            tokens += LANES * ready.columns
            found[tokens] = list(costs)
            if ready.scalars is not None:
                engine.take(RATE)
    return found


@pytest.mark.parametrize("accumulate", few([3, 1], 1))
@pytest.mark.parametrize("method", METHODS)
def test_online_loss_and_regret_are_those_of_predictions_made_before_each_step(tmp_path, method, accumulate):
    run = cell(method, accumulate=accumulate)
    curve = read_json(trained(run, tmp_path) / "curve.json")
    costs = recomputed(run)
    floor = task_facts(build_task(run), LENGTH, HIDDEN)["loss_floor"]
    assert "online_loss" not in curve[0] and "regret" not in curve[0]  # nothing was predicted yet
    assert len(curve) > 4
    before = 0
    for point in curve[1:]:
        until = costs[point["tokens"]]
        since = until[before:]
        assert point["online_loss"] == pytest.approx(sum(since) / len(since), rel=1e-9)
        assert point["regret"] == pytest.approx(sum(one - floor for one in until) / LANES, rel=1e-9)
        before = len(until)
    assert {len(costs[LANES * 5]), len(costs[LANES * 10]) - len(costs[LANES * 5])} == {2 * LANES, 5 * LANES}


def test_what_a_loss_holds_beside_the_answers_is_no_part_of_the_online_loss(tmp_path, clean):
    @register_method("penalised")
    class Penalised(TBPTT):
        answers: ClassVar = {"train": "nats"}

        def losses(self, batch, drawn, carry, phase):
            scalars, carry = super().losses(batch, drawn, carry, phase)
            return {"loss": scalars["loss"] + 10, "nats": scalars["loss"]}, carry

    run = cell("tbptt")
    penalised = cell("penalised")
    names = "tokens", "online_loss", "regret"
    told = [
        [[point.get(name) for name in names] for point in read_json(trained(one, tmp_path) / "curve.json")]
        for one in (run, penalised)
    ]
    assert told[0] == told[1] and told[0][-1][1] is not None


def test_without_a_floor_there_is_no_regret(tmp_path):
    points = read_json(trained(cell("tbptt", "digits"), tmp_path) / "curve.json")
    assert points[-1]["regret"] is None and points[-1]["online_loss"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_and_continued_run_has_the_same_online_loss_and_regret(tmp_path, method):
    run = cell(method)

    def told(folder):
        return [(one["tokens"], one.get("online_loss"), one.get("regret")) for one in read_json(folder / "curve.json")]

    whole = told(trained(run, tmp_path / "whole"))
    folder = folder_of(run, tmp_path / "pieces")
    for _ in range(4):
        with pytest.raises(Stopped):  # after every batch, most of which end between two points
            Trainer(run, folder, Options(should_stop=lambda: True)).train()
    Trainer(run, folder).train()
    assert told(folder) == whole


def test_curves_of_streams_alone_have_the_columns(tmp_path):
    trained(tiny_run(), tmp_path / "grid")
    assert not {"online_loss", "regret"} & set(load_curves(tmp_path))
    trained(cell("tbptt"), tmp_path / "grid")
    curves = load_curves(tmp_path)
    known = curves.dropna(subset=["online_loss", "regret"])
    assert set(known["method"]) == {"tbptt"} and len(known) >= 4
