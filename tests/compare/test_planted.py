"""Faults, planted one at a time: the golden losses or `compare` find each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import training
from bench.compare import Comparison, Tolerances, compare, read
from bench.config import Run
from bench.launch.cell import run_cell
from bench.methods import smt
from bench.methods.bptt import BPTT
from bench.models.teacher import windows
from bench.models.updater import Updater
from bench.results import read_json
from bench.tasks.base import IGNORED, Batch
from bench.tasks.retrieval import Retrieval
from tests.compare import golden
from tests.helpers import folder_of, tiny_run

Plant = Callable[[pytest.MonkeyPatch], None]
GOLDEN = Path(__file__).parents[2] / "results" / "baselines" / "golden.json"


def wrong_sign(patch: pytest.MonkeyPatch) -> None:
    """Memories are pushed together instead of apart; the term weighs a thousandth of the loss."""
    right = smt.uniformity_loss
    patch.setattr(smt, "uniformity_loss", lambda *given: -right(*given))


def off_by_one(patch: pytest.MonkeyPatch) -> None:
    """The decoder is given y_{t+1}, ... where it should be given y_t, ..."""
    right = smt.cut_windows

    def cut(x: torch.Tensor, y: torch.Tensor, t: torch.Tensor, context: int, future: int, first: int = 0) -> Any:
        targets = windows(y, t + 1, min(future, x.shape[1]), IGNORED).flatten(0, 1)
        return right(x, y, t, context, future, first)._replace(targets=targets)

    patch.setattr(smt, "cut_windows", cut)


def detached_gradient(patch: pytest.MonkeyPatch) -> None:
    """No gradient from one step to the one before."""
    right = Updater.prepare

    def prepare(self, u):
        step, inputs = right(self, u)
        return (lambda state, input_t: step(state.detach(), input_t)), inputs

    patch.setattr(Updater, "prepare", prepare)


def doubled_learning_rate(patch: pytest.MonkeyPatch) -> None:
    right = training.rate
    patch.setattr(training, "rate", lambda settings, progress: 2 * right(settings, progress))


def leaked_label(patch: pytest.MonkeyPatch) -> None:
    """The last input is the answer instead of the question."""
    right = Retrieval.sample

    def sample(self: Retrieval, *given: Any) -> Batch:
        batch = right(self, *given)
        batch.x[:, -1] = batch.y[:, -1]
        return batch

    patch.setattr(Retrieval, "sample", sample)


def negated_loss(patch: pytest.MonkeyPatch) -> None:
    """The gradient climbs."""
    right = BPTT.gradients

    def gradients(self: BPTT, batch: Batch, phase: str) -> Iterator[dict[str, torch.Tensor]]:
        for scalars in right(self, batch, phase):
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.neg_()
            yield scalars

    patch.setattr(BPTT, "gradients", gradients)


def twice_as_slow(patch: pytest.MonkeyPatch) -> None:
    """Every gradient is computed twice; the numbers stay."""
    right = BPTT.gradients

    def gradients(self: BPTT, batch: Batch, phase: str) -> Iterator[dict[str, torch.Tensor]]:
        for _ in right(self, batch, phase):
            self.zero_grad()
        yield from right(self, batch, phase)

    patch.setattr(BPTT, "gradients", gradients)


@pytest.mark.parametrize(
    ("plant", "name"),
    [
        (wrong_sign, "retrieval smt mlp"),
        (off_by_one, "stack smt+dmt gru"),
        (detached_gradient, "retrieval bptt mlp"),
        (doubled_learning_rate, "stack transformer transformer"),
        (leaked_label, "retrieval transformer transformer"),
        (negated_loss, "stack bptt gru"),
    ],
)
def test_golden_losses_find_what_changes_a_number(plant: Plant, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    found = golden.differences(read_json(GOLDEN), {name: golden.losses(golden.runs()[name])})
    assert name in found, "the golden losses do not see it"


# `compare`, on cells that are really trained.


def one_cell(seed: int) -> Run:
    """Learns retrieval of one symbol in half a second."""
    budget = {"batch_size": 16, "budget": {"steps": 60}, "optimiser": {"lr": 1e-2}}
    return tiny_run("bptt", {"name": "retrieval", "length": 4, "symbols": 2}, seed=seed, training=budget)


def train(root: Path) -> None:
    for seed in range(3):
        end = run_cell(folder_of(one_cell(seed), root), measures=("cost", "calibration"))
        assert end.state == "done", end


class Clock:
    """A clock that the machine's other work cannot disturb: it moves when it is read and where it is advanced."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def passing(self, seconds: float, work: Iterator[Any]) -> Iterator[Any]:
        """The work, which takes so many seconds."""
        yield from work
        self.now += seconds


@contextmanager
def timed() -> Iterator[pytest.MonkeyPatch]:
    """By that clock every pass through BPTT takes a millisecond."""
    right, clock = BPTT.gradients, Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", clock)
        patch.setattr(BPTT, "gradients", lambda *given: clock.passing(1e-3, right(*given)))
        yield patch


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells with no fault."""
    root = tmp_path_factory.mktemp("sound")
    with timed():
        train(root)
    return root


def planted(plant: Plant, sound: Path, root: Path) -> Comparison:
    """Cells with this fault against those without."""
    with timed() as patch:
        plant(patch)
        train(root)
    return compare(read(root), read(sound), Tolerances())


def test_compare_finds_a_slower_step_by_time_and_by_traced_cost(sound: Path, tmp_path: Path) -> None:
    found = planted(twice_as_slow, sound, tmp_path)
    regressions = {row.metric: row for row in found.of("regression")}
    assert regressions.keys() == {
        "flops",
        "time",
    }  # the second time waits for nothing of the first: as many in sequence
    assert 0.9 < regressions["flops"].interval.mean < 1.1
    assert "in calibrations per token" in regressions["time"].note


def test_compare_finds_a_loss_that_is_climbed(sound: Path, tmp_path: Path) -> None:
    found = planted(negated_loss, sound, tmp_path)
    assert {"accuracy", "loss"} <= {row.metric for row in found.of("regression")}


def test_a_label_that_leaks_is_listed_as_an_improvement(sound: Path, tmp_path: Path) -> None:
    found = planted(leaked_label, sound, tmp_path)
    assert "loss" in {row.metric for row in found.of("improvement")}
