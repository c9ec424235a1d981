"""How a run's budget is shared among the phases of its method; known before anything is trained."""

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
    """How many phases `init_from` brings finished. Raises `BadInput` for one that is not the method's, or its last."""
    if not run.init_from:
        return 0
    names = [phase.name for phase in phases][:-1]
    if run.init_from.phase not in names:
        raise unknown("init_from.phase", run.init_from.phase, names)
    return names.index(run.init_from.phase) + 1


def phase_ends(run: Run, phases: Sequence[Phase]) -> list[float]:
    """How much is spent at the end of each phase; those that `init_from` brings have no share."""
    brought = phases_brought(run, phases)
    shares = [0.0 if i < brought else phase.share for i, phase in enumerate(phases)]
    total = sum(shares)
    return [run.training.budget.amount * sum(shares[: i + 1]) / total for i in range(len(shares))]


def idle_phase(run: Run, prices: Mapping[str, float] | None = None) -> str | None:
    """Why a phase of this run would take no step; None when all take one, or only training can tell.

    A budget in steps gives every phase one, and what seconds give is known when they are spent. `prices` are those of a
    token in each phase, where the budget is stated in work.
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
    """Columns of a phase's batches: its own, or the run's or the task's; of a stream, whole pieces of the method's."""
    streams = method.data == "streams"
    length = phase.length or (run.training.columns if streams else None) or run.task_config.length
    piece = method.piece if streams else None
    return length if piece is None else piece * max(1, round(length / piece))


class Lanes(NamedTuple):
    """Where the lanes of a stream stand."""

    state: StreamState | None
    position: Tensor
    """How many columns each lane has had since it began (B,)."""


def draw(
    run: Run,
    task: Task,
    method: Method,
    phase: Phase,
    generator: torch.Generator,
    lanes: Lanes | None = None,
    length: int | None = None,
) -> tuple[Batch, Lanes | None]:
    """The next batch to train on, and where the lanes of a stream then stand; None: they begin, or there are none.

    A `length`, of a curriculum, takes the place of the phase's.
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
    """That a phase takes no step, in a line: it has so many gradients, and needs so many for one."""
    return (
        f"phase {phase.name} takes no step: its share of the budget gives {gradients} of the {every} gradients "
        "that training.accumulate averages into one"
    )


def _gradients_per_batch(run: Run, task: Task, index: int) -> int:
    """How often the method hands over gradients for one batch of a phase, from one that it is given on the CPU."""
    method = build_method(run, task, device="cpu")
    phase = method.phases(run.training)[index]
    method.train_only(phase)
    batch, _ = draw(run, task, method, phase, streams.generator(run.seed, "idle"))
    return sum(ready.scalars is not None for ready in Engine(method, phase).stretches(batch))
