"""A phase that would take no step is found before anything is trained."""

from __future__ import annotations

import pytest

from bench import registry
from bench.errors import BadInput
from bench.launch import LaunchOptions
from bench.launch.plan import plan
from bench.methods.bptt import BPTT
from bench.phases import idle_phase, phase_ends
from bench.training import Trainer
from tests.helpers import folder_of, tiny_run

BATCH = 8 * 12  # tokens


def accumulating(every, method="bptt", **budget):
    return tiny_run(method, training={"batch_size": 8, "accumulate": every, "budget": budget})


def dmt(share):
    return {"name": "smt+dmt", "dmt": {"share": share, "batch_size": 8}}


@pytest.mark.parametrize(
    ("run", "beginning"),
    [
        (accumulating(5, tokens=5 * BATCH), None),
        (accumulating(6, tokens=5 * BATCH), "phase train takes no step: its share of the budget gives 5 of the 6"),
        (accumulating(6, tokens=5 * BATCH + 1), None),  # a batch that is begun is taken whole
        (accumulating(9, steps=1), None),  # as many batches as the step needs
        (accumulating(9, seconds=1.0), None),  # only training can tell
        (accumulating(3, dmt(0.25), tokens=12 * BATCH), None),
        (accumulating(4, dmt(0.25), tokens=12 * BATCH), "phase dmt takes no step: its share of the budget gives 3"),
        (accumulating(2, dmt(0.01), tokens=12 * BATCH), "phase dmt takes no step: its share of the budget gives 1"),
    ],
)
def test_a_phase_with_fewer_gradients_than_one_step_averages_is_idle(run, beginning):
    reason = idle_phase(run)
    assert reason is None if beginning is None else reason.startswith(beginning)


def test_work_tells_it_by_the_price_of_a_token():
    run = accumulating(6, flops=5.0 * BATCH * 100)
    assert idle_phase(run) is None  # prices have to be traced
    assert idle_phase(run, {"train": 100.0}) == idle_phase(accumulating(6, tokens=5 * BATCH))
    assert idle_phase(run, {"train": 80.0}) is None  # 6.25 batches


def test_a_method_that_steps_at_every_input_needs_fewer_batches(monkeypatch):
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))

    @registry.register_method("stepping")
    class Stepping(BPTT):
        def gradients(self, batch, phase):
            for _ in range(4):
                yield from super().gradients(batch, phase)

    assert idle_phase(accumulating(20, "stepping", tokens=5 * BATCH)) is None
    assert "gives 20 of the 21" in idle_phase(accumulating(21, "stepping", tokens=5 * BATCH))


def test_an_idle_phase_is_refused_before_training(tmp_path):
    run = accumulating(100, tokens=5 * BATCH)
    (cell,) = plan([run], tmp_path, LaunchOptions())
    assert cell.decision.action == "skip" and "5 of the 100" in cell.decision.reason
    with pytest.raises(BadInput, match="takes no step"):
        Trainer(run, folder_of(run, tmp_path))


def test_an_idle_phase_that_only_training_can_tell_has_no_result(tmp_path):
    run = accumulating(10**6, seconds=0.05)
    folder = folder_of(run, tmp_path)
    with pytest.raises(BadInput, match="phase train takes no step"):
        Trainer(run, folder).train()
    assert folder.result is None and not folder.weights("train").exists()


def test_a_phase_whose_share_of_steps_is_used_up_has_a_step_of_as_many_gradients_as_any(tmp_path):
    run = accumulating(3, dmt(0.01), steps=4)  # the first phase ends at 3.96 steps
    result = Trainer(run, folder_of(run, tmp_path)).train()
    assert (result["costs"]["steps"], result["costs"]["tokens"]) == (5, 5 * 3 * BATCH)


def test_phases_that_another_run_brings_have_no_share():
    run = tiny_run(dmt(0.25), init_from={"run": "other", "phase": "smt"})
    phases = Trainer(run, folder=None).phases
    assert phase_ends(run, phases) == [0.0, 12.0]
