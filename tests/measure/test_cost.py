"""The cost of whole training steps: equal to hand counts, growing as it should, traced once, priced per token."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from bench import measure, registry, report
from bench.build import build_method, build_task
from bench.errors import BadInput
from bench.measure import cost
from bench.methods.base import Method, cross_entropy
from bench.methods.bptt import BPTT
from bench.models.mlp import MLPUpdater
from bench.report import data
from bench.report.sections import complexity, efficiency
from bench.results import read_json
from bench.training import Trainer
from tests.helpers import TINY, folder_of, tiny_run

DMT = {"name": "smt+dmt", "timesteps": 2, "dmt": {"share": 0.5, "every": 3, "batch_size": 4}}


@pytest.fixture
def linear():
    """A method that is two matrix products: its cost can be counted by hand."""

    class Linear(Method):
        recurrences = ()

        def __init__(self, config, task, model, noise):
            super().__init__(config, task, model, noise)
            self.table = nn.Parameter(torch.randn(task.vocab_size, 5))
            self.head = nn.Parameter(torch.randn(5, task.output_size))

        def losses(self, batch, drawn, carry, phase):
            one_hot = nn.functional.one_hot(batch.x, self.task.vocab_size).to(self.head.dtype)
            return {"loss": cross_entropy(one_hot @ self.table @ self.head, batch.y)}, carry

        initial_state = advance = None

    Linear.__abstractmethods__ = frozenset()
    registry.methods.register("linear-by-hand")(Linear)
    yield "linear-by-hand"
    del registry.methods._classes["linear-by-hand"]


def test_flops_equal_a_hand_count(linear):
    run = tiny_run(linear)
    task = build_task(run)
    (step,) = cost.step_costs(run).values()
    rows, v, o = 8 * 12, task.vocab_size, task.output_size
    assert step["tokens"] == rows and step["batch_size"] == 8 and step["length"] == 12
    assert step["forward"]["flops"] == 2 * rows * (v * 5 + 5 * o)
    assert step["backward"]["flops"] == 2 * rows * (v * 5 + 2 * 5 * o)  # the one-hot inputs need no gradient
    assert step["whole"]["flops"] == step["forward"]["flops"] + step["backward"]["flops"]
    assert step["uncounted"] == {}


@pytest.mark.parametrize("method", ["bptt", "transformer", DMT])
def test_every_phase_has_a_record_and_equal_configs_equal_prices(method):
    run = tiny_run(method)
    first, again = cost.step_costs(run), cost.step_costs(dataclasses.replace(run, seed=0))
    assert list(first) == (["smt", "dmt"] if isinstance(method, dict) else ["train"])
    assert first == again
    for step in first.values():
        assert step["uncounted"] == {} and step["peak_bytes"] > 0 and step["whole"]["flops"] > 0


def test_sequential_operations_grow_as_the_methods_say():
    at = {
        name: [cost.step_costs(tiny_run(method), length) for length in (16, 32, 64)]
        for name, method in {"smt": DMT, "bptt": "bptt", "transformer": "transformer"}.items()
    }

    def operations(name, phase):
        return [step[phase]["whole"]["sequential_operations"] for step in at[name]]

    assert len(set(operations("smt", "smt"))) == 1
    assert len(set(operations("transformer", "train"))) == 1
    for name, phase in (("bptt", "train"), ("smt", "dmt")):
        short, middle, long = operations(name, phase)
        assert long - middle == pytest.approx(2 * (middle - short), rel=0.05) and middle - short >= 16


def carried(method, **fields):
    return cost.step_costs(tiny_run(method, **fields))["train"]["carried_bytes"]


def test_what_one_step_of_a_stream_leaves_to_the_next_is_weighed():
    lanes, state, number, symbol, flag = 8, 2 * 8, 4, 8, 1  # lanes, then numbers in a state, then bytes
    # k1 of the k2 columns have been run by then, but the tensor of all is kept alive.
    assert carried({"name": "tbptt", "k1": 2, "k2": 5}) == lanes * (state * number + 5 * (symbol + flag))
    method = build_method(tiny_run("rtrl"), build_task(tiny_run("rtrl")))
    recurrent = sum(one.numel() for part in (method.rnn.embedding, method.rnn.updater) for one in part.parameters())
    assert carried("rtrl") == lanes * (state + state * recurrent) * number
    assert carried("bptt") == carried("transformer") == 0


def test_a_view_weighs_what_it_keeps_alive_and_once(clean):
    class Keeps(BPTT):
        def gradients(self, batch, phase):
            whole = torch.zeros(100)
            self.carry = {"some": [whole[:3], whole[5:]], "mean": (torch.zeros(()).expand(7, 7),)}
            yield from Method.gradients(self, batch, phase)

    registry.methods.register("keeps-by-hand")(Keeps)
    assert carried("keeps-by-hand") == 100 * 4 + 4


def test_another_length_is_the_same_run_on_it():
    run = tiny_run("bptt", evaluation={"sequences": 8, "reference_sequences": 8, "lengths": [20]})
    longer = cost.at_length(run, 20)
    assert longer.task_config.length == 20 and longer.evaluation.lengths == ()
    assert longer.model == run.model
    with pytest.raises(BadInput):
        cost.step_costs(tiny_run("bptt", {"name": "keys-values", "length": 40}), 2)


def test_configurations_leave_out_what_a_step_does_not_cost():
    base = tiny_run("bptt")
    others = [dataclasses.replace(base, seed=3), tiny_run("bptt", {"name": "retrieval", "length": 20})]
    assert cost.configurations([base, *others, tiny_run("transformer")]) == [base, tiny_run("transformer")]
    budget = {"steps": 12}
    pieces = [tiny_run("rtrl", training={"budget": budget, "columns": columns}) for columns in (4, 8)]
    assert cost.configurations(pieces) == pieces


def test_a_configuration_is_traced_once(tmp_path, monkeypatch):
    calls = []
    real = cost.step_costs
    monkeypatch.setattr(cost, "step_costs", lambda *given: calls.append(given) or real(*given))
    for seed in (0, 1):
        run = tiny_run("bptt", seed=seed)
        folder = folder_of(run, tmp_path / "grid")
        Trainer(run, folder).train()
        measure.measure(folder, "cost")
    assert len(calls) == 1
    costs = [read_json(tmp_path / "grid" / tiny_run("bptt", seed=seed).id / "cost.json") for seed in (0, 1)]
    assert costs[0] == costs[1] and costs[0]["phases"][0]["phase"] == "train"
    measure.measure(folder_of(tiny_run("bptt", model={**TINY, "d": 16}), tmp_path / "grid"), "cost")
    assert len(calls) == 2


def test_the_table_of_a_grid_is_kept_until_the_question_changes(tmp_path):
    runs = [tiny_run("bptt"), tiny_run("transformer")]
    told = []
    record = cost.keep_table(runs, tmp_path, (8, 16), progress=lambda what, done, total: told.append((done, total)))
    assert [(row["method"], row["length"]) for row in record["steps"]] == [
        (method, length) for method in ("bptt", "transformer") for length in (8, 16)
    ]
    assert {row["method"] for row in record["credit"]} == {row["method"] for row in record["inference"]}
    assert told[-1] == (8, 8) and read_json(tmp_path / "cost.json") == record
    again = []
    assert cost.keep_table(runs, tmp_path, (8, 16), progress=lambda *given: again.append(given)) == record and not again
    other = cost.keep_table(runs, tmp_path, (8,), progress=lambda *given: again.append(given))
    assert again and len(other["steps"]) == 2


@pytest.mark.parametrize("currency", ["flops", "sequential_flops"])
def test_a_budget_of_work_ends_when_it_is_spent(tmp_path, currency):
    run = tiny_run("bptt")
    price = cost.prices(run, currency)[0]["train"] * 8 * 12  # of a batch
    bought = tiny_run("bptt", training={"batch_size": 8, "budget": {currency: 5.5 * price}})
    folder = folder_of(bought, tmp_path)
    result = Trainer(bought, folder).train()
    assert result["costs"]["steps"] == 6
    assert result["digest"] != Trainer(run, folder_of(run, tmp_path)).digest  # the tracer is part of what computed it


@pytest.fixture
def unknown_operator(monkeypatch):
    """A backbone with an operator that no rule counts."""

    class Pooled(MLPUpdater):
        def forward(self, memory, token):
            return nn.functional.adaptive_avg_pool2d(super().forward(memory, token), memory.shape[1:])

    registry.backbones.names()  # the built-in ones are loaded first
    monkeypatch.setattr(registry.backbones, "_classes", dict(registry.backbones._classes))
    registry.backbones.register("pooled-by-hand")(Pooled)
    return {**TINY, "backbone": "pooled-by-hand"}


POOLING = ["aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d_backward.default"]


def test_results_name_the_operators_that_are_not_in_the_price_of_a_budget(tmp_path, unknown_operator):
    for name, model in (("whole", TINY), ("lacking", unknown_operator)):
        run = tiny_run("bptt", model=model, training={"batch_size": 8, "budget": {"flops": 1e6}})
        result = Trainer(run, folder_of(run, tmp_path / name)).train()
        assert result["uncounted"] == (POOLING if name == "lacking" else [])
    (row,) = report.summary(tmp_path / "lacking").to_dict("records")
    assert row["status"] == "done" and all(name in row["reason"] for name in POOLING)
    assert set(report.summary(tmp_path / "whole")["reason"]) == {""}


def test_what_cost_could_not_count_is_told_of_runs_and_in_the_captions(tmp_path, unknown_operator):
    runs = [tiny_run("bptt", model=unknown_operator), tiny_run("bptt")]
    for run in runs:
        folder = folder_of(run, tmp_path / "grid")
        Trainer(run, folder).train()
        measure.measure(folder, "cost")
    told = report.uncounted(tmp_path / "grid")
    assert all(name in told for name in POOLING) and "bptt on pooled-by-hand" in told and "transformer" not in told
    cost.keep_table(runs, tmp_path / "grid", (4, 8))
    found = data.load([tmp_path / "grid"])
    captions = {one.name: one.caption for one in (*complexity.exhibits(found), *efficiency.exhibits(found))}
    for name in ("complexity", "inference", "efficiency"):
        assert POOLING[0] in captions[name]
    assert POOLING[1] in captions["complexity"] and POOLING[1] not in captions["inference"]  # nothing goes backward


def test_nothing_is_told_where_all_is_counted(tmp_path):
    run = tiny_run("bptt")
    folder = folder_of(run, tmp_path / "grid")
    Trainer(run, folder).train()
    measure.measure(folder, "cost")
    assert report.uncounted(tmp_path / "grid") == ""


def test_phases_share_a_budget_of_work_and_resume_within_it(tmp_path):
    prices, _ = cost.prices(tiny_run(DMT), "flops")
    total = 40 * 8 * 12 * prices["smt"]
    run = tiny_run(DMT, training={"batch_size": 8, "budget": {"flops": total}})
    folder = folder_of(run, tmp_path)
    Trainer(run, folder).train()
    curve = read_json(folder / "curve.json")
    at_switch = max(point["tokens"] for point in curve if point["phase"] == "smt")
    spent = at_switch * prices["smt"], (curve[-1]["tokens"] - at_switch) * prices["dmt"]
    assert at_switch == 20 * 8 * 12
    assert spent[1] == pytest.approx(total / 2, rel=0.1)


def test_prices_are_those_of_the_step_that_trains():
    run = tiny_run(DMT)
    steps = cost.step_costs(dataclasses.replace(run, seed=0))
    for name, price in cost.prices(run, "sequential_flops")[0].items():
        assert price == steps[name]["whole"]["sequential_flops"] / steps[name]["tokens"]


def test_tracing_leaves_nothing_behind():
    state = torch.random.get_rng_state()
    method = build_method(tiny_run("bptt"), build_task(tiny_run("bptt")))
    cost.step_costs(tiny_run("bptt"))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in method.parameters())
