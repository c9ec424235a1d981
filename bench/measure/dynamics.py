"""The dynamics of a network: how far gradients reach, and how far a rollout drifts from its teacher.

Gradient norms |dL/dm_t| are taken of the loss L at the last scored position, per sequence, against t. For a recurrent
method the gradient goes through the unrolled updater; under SMT it goes through the decoder from m_t, as in training.
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
"""The largest number of times t at which a gradient norm is measured; in longer sequences they are evenly spaced."""
BEYOND = 2
"""Drift is followed to this multiple of the trained length."""


def gradient_norms(method: Method, task: Task, x: Tensor, y: Tensor) -> dict[str, Any] | None:
    """The mean of |dL/dm_t| over sequences x, y (B, T), L in nats: `t`, `norm`, `loss_at`, and `through`, the path.

    None for a method without a memory. With a teacher, t begins where the decoder's future reaches the loss.
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
    """The mean over lanes of the norm of a gradient, given by the parts of the state, each (B, ...)."""
    real = [torch.view_as_real(part) if part.is_complex() else part for part in gradients]
    return torch.cat([part.double().flatten(1) for part in real], 1).norm(dim=1).mean().item()


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    """The loss summed over sequences, so that each has its own gradient; unscored rows add nothing."""
    return F.cross_entropy(logits, y, ignore_index=IGNORED, reduction="sum")


def _through_updater(rnn: RNN, x: Tensor, y: Tensor) -> list[float]:
    """|dL/dm_t| for every t, by BPTT to the first memory."""
    state, states = rnn.initial_state(len(x)), []
    with torch.enable_grad():
        for x_t in x.unbind(1):
            token = rnn.embedding(x_t)
            state = map_tree(lambda leaf: leaf if leaf.requires_grad else leaf.requires_grad_(), rnn.step(state, token))
            states.append(state)
        loss = _loss(rnn.read(rnn.updater.features(state, token)), y)
        every = [leaves(state) for state in states]
        gradients = iter(torch.autograd.grad(loss, [leaf for tree in every for leaf in tree], materialize_grads=True))
    return [_mean_norm([next(gradients) for _ in tree]) for tree in every]


def _through_decoder(teaching: Teaching, x: Tensor, y: Tensor, t: int) -> float:
    """|dL/dm_t| for the teacher's memory m_t, with L the loss of the decoder from there on."""
    with torch.no_grad():
        memory = teaching.memories(x, [t])[:, 0]
    with torch.enable_grad():
        memory = memory.requires_grad_()
        logits = teaching.decode(memory, x[:, t + 1 :])[:, -1]
        (gradient,) = torch.autograd.grad(_loss(logits, y), memory)
    return _mean_norm([gradient])


@torch.no_grad()
def drift(method: Method, x: Tensor, y: Tensor) -> dict[str, list[float]] | None:
    """The drift `delta`, and the `accuracy` of the readout at m^_t, for each t from the first memory on.

    None for a method without a teacher. The accuracy is NaN where nothing is scored or logits are not finite.
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
    """Test sequences for these measures, from a random stream of their own."""
    generator = streams.generator(run.seed, "dynamics", length)
    x, y, _ = hide(task.sample("test", count, length, generator), run.evaluation.score_from)
    return Batch(x.to(run.device), y.to(run.device))


def measure(run: Run, task: Task, initial: Method, phases: dict[str, Method]) -> dict[str, Any]:
    """The record of a run's dynamics.json, from its method at initialisation and at the end of each phase.

    `gradients` has `gradient_norms` for `when` init and trained, `drift` one entry per `phase`, and `geometry` the last
    phase.
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
    """Sequences longer than the trained length, where the task has them."""
    length = run.task_config.length
    try:
        return sequences(run, task, BEYOND * length)
    except BadInput:  # no instance so long, or too little data for it
        return sequences(run, task, length)
