"""What happens inside: how far gradients reach, how far a rollout drifts from its teacher.

Gradient norms |dL/dm_t| are those of the loss L at the last scored position, per sequence, against t. Of a recurrent
method L is reached through the unrolled updater; under SMT through the decoder from m_t, as its training does.
Drift delta_t = MSE(m^_t, m_t) is the distance of the RNN's own memories from its teacher's (Kumar & Isola, arXiv
2606.06479), to twice the trained length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import streams
from bench.config import Run
from bench.errors import BadInput
from bench.measure.geometry import geometry
from bench.methods.base import Method, Teaching
from bench.models.backbone import leaves, map_tree
from bench.models.rnn import RNN
from bench.tasks.base import IGNORED, Batch, Task, hide

SCHEMA = 1
SEQUENCES = 32
MOST_POINTS = 48
"""Times t at which a gradient norm is measured; of longer sequences, evenly spread ones."""
BEYOND = 2
"""Drift is followed to this multiple of the trained length."""


def gradient_norms(method: Method, task: Task, x: Tensor, y: Tensor) -> dict[str, Any] | None:
    """Mean over the sequences x, y (B, T) of |dL/dm_t|, L in nats: `t`, `norm`, `loss_at`, and `through` what it goes.

    None for a method that has no memory. With a teacher, t begins where the decoder's future reaches the loss.
    """
    rnn, teaching = method.recurrent_network(), method.teaching()
    if rnn is None:
        return None
    scored = (y != IGNORED).any(0).nonzero().flatten()
    at = int(scored[-1])
    x, y = x[:, : at + 1], y[:, at]
    if teaching:
        earliest = max(0, method.first - 1, at + 1 - teaching.future)
        times = _spread(earliest, at)
        norms = [_through_decoder(teaching, x, y, t) for t in times]
        through = "the decoder"
    else:
        times = _spread(0, at)
        every = _through_updater(rnn, x, y)
        norms = [every[t] for t in times]
        through = "the unrolled updater"
    return {"t": times, "norm": norms, "loss_at": at, "through": through}


def _spread(first: int, last: int) -> list[int]:
    count = min(MOST_POINTS, last - first + 1)
    return [int(t) for t in torch.linspace(first, last, count).round()]


def _mean_norm(gradients: Sequence[Tensor]) -> float:
    """Of the gradients of a state's parts, each (B, ...)."""
    real = [torch.view_as_real(one) if one.is_complex() else one for one in gradients]
    return torch.cat([one.double().flatten(1) for one in real], 1).norm(dim=1).mean().item()


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    """Summed over sequences, so that each one's gradient is its own; unscored rows add nothing."""
    return F.cross_entropy(logits, y, ignore_index=IGNORED, reduction="sum")


def _through_updater(rnn: RNN, x: Tensor, y: Tensor) -> list[float]:
    """|dL/dm_t| for every t, by BPTT from the first memory."""
    state, states = rnn.initial_state(len(x)), []
    with torch.enable_grad():
        for x_t in x.unbind(1):
            token = rnn.embedding(x_t)
            state = map_tree(lambda one: one if one.requires_grad else one.requires_grad_(), rnn.step(state, token))
            states.append(state)
        loss = _loss(rnn.read(rnn.updater.features(state, token)), y)
        every = [leaves(state) for state in states]
        gradients = iter(torch.autograd.grad(loss, [one for tree in every for one in tree], materialize_grads=True))
    return [_mean_norm([next(gradients) for _ in tree]) for tree in every]


def _through_decoder(teaching: Teaching, x: Tensor, y: Tensor, t: int) -> float:
    """|dL/dm_t|, m_t the teacher's memory and L the loss of the decoder that reads on from it."""
    with torch.no_grad():
        memory = teaching.memories(x, [t])[:, 0]
    with torch.enable_grad():
        memory = memory.requires_grad_()
        logits = teaching.decode(memory, x[:, t + 1 :])[:, -1]
        (gradient,) = torch.autograd.grad(_loss(logits, y), memory)
    return _mean_norm([gradient])


@torch.no_grad()
def drift(method: Method, x: Tensor, y: Tensor) -> dict[str, list[float]] | None:
    """At each t from the first memory on: `delta`, and `accuracy` of the readout at m^_t.

    None for a method without a teacher. The accuracy is NaN where nothing is scored, or logits are not finite.
    """
    rnn, teaching = method.recurrent_network(), method.teaching()
    if rnn is None or teaching is None:
        return None
    first, length = max(method.first - 1, 0), x.shape[1]
    memories = teaching.rollout(x)[:, first:]  # (B, n, K, d)
    teacher = teaching.memories(x, range(first, length))
    delta = (memories.double() - teacher.double()).square().mean((0, 2, 3))
    logits, labels = rnn.read(memories.flatten(-2)), y[:, first:]
    scored = labels != IGNORED
    accuracy = ((logits.argmax(-1) == labels) & scored).sum(0) / scored.sum(0)
    accuracy[~logits.logsumexp(-1).isfinite().all(0)] = math.nan
    return {"t": list(range(first, length)), "delta": delta.tolist(), "accuracy": accuracy.double().tolist()}


def sequences(run: Run, task: Task, length: int, count: int = SEQUENCES) -> Batch:
    """Test sequences for these measures, from a stream of their own."""
    generator = streams.generator(run.seed, "dynamics", length)
    x, y, _ = hide(task.sample("test", count, length, generator), run.evaluation.score_from)
    return Batch(x.to(run.device), y.to(run.device))


def measure(run: Run, task: Task, initial: Method, phases: dict[str, Method]) -> dict[str, Any]:
    """The record of a run's dynamics.json, from its method at initialisation and at the end of each phase.

    `gradients`: as `gradient_norms`, `when` init and trained; `drift`: one for each `phase`; `geometry` of the last.
    """
    length = run.task_config.length
    x, y, _ = sequences(run, task, length)
    trained = list(phases.values())[-1]
    further = _further(run, task) if trained.teaching() else Batch(x, y)
    drifts = {phase: drift(method, *further[:2]) for phase, method in phases.items()}
    named = {"init": initial, "trained": trained}
    norms = {when: gradient_norms(method, task, x, y) for when, method in named.items()}
    return {
        "schema": SCHEMA,
        "trained_length": length,
        "gradients": [{"when": when, **found} for when, found in norms.items() if found],
        "drift": [{"phase": phase, **found} for phase, found in drifts.items() if found],
        "geometry": geometry(trained, task),
    }


def _further(run: Run, task: Task) -> Batch:
    """Sequences of more than the trained length, where the task has them."""
    length = run.task_config.length
    try:
        return sequences(run, task, BEYOND * length)
    except BadInput:  # no instance so long, or too little data for it
        return sequences(run, task, length)
