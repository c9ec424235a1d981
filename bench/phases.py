"""The division of a run's budget among the phases of its method, which is known before training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench import streams
from bench.build import build_method, build_task
from bench.config import Run
from bench.engine import Engine
from bench.errors import unknown
from bench.methods.base import Method, Phase
from bench.tasks.base import Batch, StreamState, Task, hide, hide_in_stream


def phases_brought(run: Run, phases: Sequence[Phase]) -> int:
    """The number of finished phases that `init_from` takes over. Raises `BadInput` for an unknown or the last phase."""
    if not run.init_from:
        return 0
    names = [phase.name for phase in phases][:-1]
    if run.init_from.phase not in names:
        raise unknown("init_from.phase", run.init_from.phase, names)
    return names.index(run.init_from.phase) + 1


def phase_ends(run: Run, phases: Sequence[Phase]) -> list[float]:
    """The amount spent at the end of each phase; phases taken over by `init_from` have no share."""
    brought = phases_brought(run, phases)
    shares = [0.0 if i < brought else phase.share for i, phase in enumerate(phases)]
    total = sum(shares)
    return [run.training.budget.amount * sum(shares[: i + 1]) / total for i in range(len(shares))]


def idle_phase(run: Run, prices: Mapping[str, float] | None = None) -> str | None:
    """Why a phase of this run would take no step; None when each takes one, or only training can tell.

    A budget in steps gives every phase one, and a budget in seconds is known only once it is spent. `prices` are
    the prices of a token in each phase, where the budget is stated in FLOPs.
    """
    every, budget = run.training.accumulate, run.training.budget
    if every == 1 or run.training.curriculum or not (prices or budget.currency == "tokens"):
        return None
    task = build_task(run)
    method = build_method(run, task, device="meta")
    phases = method.phases(run.training)
    ends, spent = phase_ends(run, phases), 0.0
    for index in range(phases_brought(run, phases), len(phases)):
        phase = phases[index]
        price = prices[phase.name] if prices else 1
        batch = phase.batch_size * batch_length(run, method, phase) * price
        batches = max(1, math.ceil((ends[index] - spent) / batch))
        spent += batches * batch
        if batches < every:
            gradients = batches * _gradients_per_batch(run, task, index)
            if gradients < every:
                return no_step(phase, gradients, every)
    return None


def batch_length(run: Run, method: Method, phase: Phase) -> int:
    """The length of a phase's batches: its own, the run's or the task's; for streams, whole pieces of the method."""
    streams = method.data == "streams"
    length = phase.length or (run.training.columns if streams else None) or run.task_config.length
    piece = method.piece if streams else None
    return length if piece is None else piece * max(1, round(length / piece))


class Lanes(NamedTuple):
    """The position of lanes in a stream."""

    state: StreamState | None
    position: Tensor
    """The number of columns since each lane started, (B,)."""


def draw(
    run: Run,
    task: Task,
    method: Method,
    phase: Phase,
    generator: torch.Generator,
    lanes: Lanes | None = None,
    length: int | None = None,
) -> tuple[Batch, Lanes | None]:
    """The next batch to train on, and the lanes of a stream after it. `lanes` is None at the start.

    A `length`, from a curriculum, replaces the phase's own.
    """
    length, hidden = length or batch_length(run, method, phase), run.evaluation.score_from
    if method.data == "sequences":
        return hide(task.sample("train", phase.batch_size, length, generator), hidden), None
    if lanes is None:
        lanes = Lanes(None, torch.zeros(phase.batch_size, dtype=torch.long, device=generator.device))
    batch, state = task.stream("train", phase.batch_size, length, generator, lanes.state)
    batch, position = hide_in_stream(batch, hidden, lanes.position)
    return batch, Lanes(state, position)


def no_step(phase: Phase, gradients: int, every: int) -> str:
    """The message that a phase takes no step, as it has `gradients` gradients and a step needs `every`."""
    return (
        f"phase {phase.name} takes no step: its share of the budget gives {gradients} of the {every} gradients "
        "that training.accumulate averages into one"
    )


def _gradients_per_batch(run: Run, task: Task, index: int) -> int:
    """The number of gradients that the method yields for a batch of a phase, counted on one batch on the CPU."""
    method = build_method(run, task, device="cpu")
    phase = method.phases(run.training)[index]
    method.train_only(phase)
    batch, _ = draw(run, task, method, phase, streams.generator(run.seed, "idle"))
    return sum(ready.scalars is not None for ready in Engine(method, phase).stretches(batch))
