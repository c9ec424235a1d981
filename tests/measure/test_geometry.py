"""Memory geometry: the components, ranks, labels and arrows of memories whose geometry is known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.build import build_method, build_task
from bench.config import ModelConfig
from bench.errors import BadInput
from bench.measure import geometry as measured
from bench.measure.geometry import choose, geometry, memories_at, principal_plane, vector_field
from bench.methods.base import RecurrentMethod
from bench.methods.smt import SMT
from bench.models import Updater
from bench.tasks.base import Task
from tests.helpers import tiny_run


def built(method: Any = "bptt", task: Any = "retrieval", **fields: Any) -> tuple[RecurrentMethod, Task]:
    run = tiny_run(method, task, **fields)
    task = build_task(run)
    made = build_method(run, task)
    made.sync_predictor("smt")
    assert isinstance(made, RecurrentMethod)
    return made, task


class OneHot(nn.Module):
    """An embedding by hand."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols = symbols

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x, self.symbols).float()


class Needle(Updater):
    """An updater by hand: two tokens, whether the last symbol was the first 0, and the symbol that came after it."""

    def __init__(self, symbols: int) -> None:
        super().__init__(ModelConfig(d=symbols, memory_tokens=2, heads=1))

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        armed, held = state.unbind(1)
        empty = (held == 0).all(1, keepdim=True)
        taken = torch.where(empty & (armed[:, :1] == 1), u, held)
        arms = (u[:, :1] == 1) & empty
        return torch.stack([arms.float().expand_as(u), taken], 1)


class Still(nn.Module):
    """An updater that changes nothing."""

    def update(self, memory: Tensor, x_t: Tensor) -> Tensor:
        return memory


def test_components_are_those_of_the_singular_value_decomposition():
    memories = torch.randn(40, 3, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 5)
    plane = principal_plane(memories)
    flat = memories.double().flatten(1).numpy()
    centred = flat - flat.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(plane.explained, spread**2 / (spread**2).sum(), rtol=1e-10)
    np.testing.assert_allclose(np.abs(plane.axes @ axes[:2].T), np.eye(2), atol=1e-10)
    np.testing.assert_allclose(plane.project(memories), centred @ plane.axes.T, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_effective_rank_of_equal_variances_is_their_number(rank):
    corners = torch.cat([torch.eye(6)[:rank], -torch.eye(6)[:rank]])  # the same variance along each axis
    assert principal_plane(3 + corners.view(-1, 2, 3)).effective_rank == pytest.approx(rank, rel=1e-6)


def test_the_effective_rank_is_the_exponential_of_the_entropy_of_the_shares():
    points = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).view(-1, 1, 2)
    plane = principal_plane(points)
    np.testing.assert_allclose(plane.explained, [0.9, 0.1], rtol=1e-6)
    assert plane.effective_rank == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)), rel=1e-6)


def test_memories_that_differ_by_rounding_are_all_one():
    memory = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(0))
    plane = principal_plane(memory * (1 + 1e-7 * torch.randn(50, 1, 1, generator=torch.Generator().manual_seed(1))))
    assert plane.effective_rank == 0 and not plane.explained.any()


def test_a_memory_that_holds_the_needle_has_a_cluster_for_each():
    method, task = built(task={"name": "retrieval", "length": 12, "symbols": 3, "corruption": 0.9})
    method.rnn.updater, method.rnn.embedding = Needle(4), OneHot(4)
    record = geometry(method, task)
    assert record is not None and record["colour_by"] == "needle"
    assert len(record["points"]) == len(record["label"]) == 256 and set(record["label"]) == {1, 2, 3}
    places = {(label, tuple(point)) for label, point in zip(record["label"], record["points"], strict=True)}
    assert len(places) == 3 and len({point for _, point in places}) == 3
    assert sum(record["explained"]) == pytest.approx(1, abs=1e-4)
    assert record["effective_rank"] == pytest.approx(2, abs=0.1)  # three points, about equally often


def test_strings_come_with_their_first_symbol_and_all_others():
    method, task = built(task={"name": "string-copy", "length": 10, "symbols": 4})
    x, y, _ = task.sample("test", 20, 10, torch.Generator().manual_seed(0))
    shown = choose(task, x, y)
    assert shown.prefix is not None and torch.equal(shown.prefix, x[:, :5]) and torch.equal(shown.label, x[:, 0])
    assert (x[torch.arange(20), shown.column] == 0).all()  # the delimiter
    record = geometry(method, task)
    assert record is not None and record["colour_by"] == "first symbol of the string"
    assert record["label"] == [prefix[0] for prefix in record["prefix"]]


def test_of_other_tasks_each_sequence_shows_its_last_scored_memory():
    _, task = built(task={"name": "stack", "length": 12})
    x, y, _ = task.sample("test", 50, 12, torch.Generator().manual_seed(0))
    shown = choose(task, x, y)
    for labels, column, label in zip(y, shown.column, shown.label, strict=True):
        assert label == labels[column] != -1
        assert (labels[column + 1 :] == -1).all()
    assert len(shown.column.unique()) > 1


def test_memories_are_those_of_the_rollout():
    smt = {"name": "smt", "start": "context", "context": 5}
    evaluation = {"score_from": 4, "sequences": 32, "reference_sequences": 8}
    for method, task in (built("bptt"), built("smt"), built(smt, "parity", evaluation=evaluation)):
        x, _, _ = task.sample("test", 6, 12, torch.Generator().manual_seed(0))
        column = torch.tensor([4, 5, 6, 7, 11, 11])
        if isinstance(method, SMT):
            rollout = method.rollout(x)
        else:
            rollout = method.rnn.scan(method.initial_state(6), x)[0].unflatten(-1, (method.model.memory_tokens, -1))
        torch.testing.assert_close(memories_at(method, x, column), rollout[torch.arange(6), column])


def test_no_memory_is_shown_before_there_is_one():
    smt = {"name": "smt", "start": "context", "context": 9}
    evaluation = {"score_from": 8, "sequences": 32, "reference_sequences": 8}
    method, task = built(smt, "string-copy", evaluation=evaluation)
    x, y, _ = task.sample("test", 6, 12, torch.Generator().manual_seed(0))
    assert (choose(task, x, y, method.first - 1).column == 8).all()  # type: ignore[operator]
    assert geometry(method, task) is not None


def test_the_field_of_an_updater_that_changes_nothing_is_zero():
    method, task = built()
    x, _, _ = task.sample("test", 30, 12, torch.Generator().manual_seed(0))
    with torch.no_grad():
        memories = memories_at(method, x, torch.full((30,), 11))
    plane = principal_plane(memories)
    method.rnn = Still()  # type: ignore[assignment]
    origin, field = vector_field(method.rnn, plane, measured.grid(plane.project(memories)), memories, x)
    assert origin.shape == (225, 2)
    np.testing.assert_allclose(field, 0, atol=1e-12)


def test_the_field_is_the_mean_move_over_the_symbols_as_often_as_they_come():
    class Shift(nn.Module):
        def update(self, memory: Tensor, x_t: Tensor) -> Tensor:
            return memory + x_t[:, None, None] * torch.tensor([1.0, 0.0])

    method, _ = built()
    memories = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).view(4, 1, 2)  # axes as components
    plane = principal_plane(memories)
    method.rnn = Shift()  # type: ignore[assignment]
    x = torch.tensor([[0, 0, 0, 4]])  # a mean of 1
    _, field = vector_field(method.rnn, plane, np.array([[1.0, 1.0], [0.0, 2.0]]), memories, x)
    np.testing.assert_allclose(np.abs(field), [[1, 0], [1, 0]], atol=1e-6)


def test_the_grid_covers_the_points():
    points = np.array([[-1.0, 5.0], [3.0, 6.0], [0.0, 5.5]])
    places = measured.grid(points)
    np.testing.assert_allclose([places.min(0), places.max(0)], [[-1.4, 4.9], [3.4, 6.1]])
    assert len(np.unique(places, axis=0)) == 225


@pytest.mark.parametrize("method", ["bptt", "smt", "smt+dmt"])
def test_every_method_with_a_memory_has_a_geometry_that_repeats(method):
    made, task = built(method, {"name": "digits", "length": 16})
    record = geometry(made, task, sequences=20)
    assert record is not None and record["colour_by"] == "next label"
    assert len(record["points"]) == 20 and len(record["field"]) == len(record["origin"]) == 225
    assert json.loads(json.dumps(record)) == record == geometry(made, task, sequences=20)


def test_a_transformer_has_no_memory_to_show():
    run = tiny_run("transformer")
    task = build_task(run)
    assert geometry(build_method(run, task), task) is None


def test_two_sequences_show_nothing():
    with pytest.raises(BadInput, match="sequences: 2"):
        geometry(*built(), sequences=2)
