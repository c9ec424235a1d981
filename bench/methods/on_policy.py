"""Memories that an updater computes itself, some steps after a memory of its teacher: DMT trains on these.

There are two ways to compute them, for T columns and k steps:

    rolled_out   from the teacher's memory at every k-th column, k steps one after another, all pieces at once
    swept        from the teacher's memories at all columns, k times: each is replaced by the update of the one before

After k sweeps a memory is k steps away from the teacher's, and T sweeps give the rollout from the beginning. Memories
of pieces are 0 to k - 1 steps away and cost T updates for any k. Both are this project's, after DAgger (Ross et al.,
arXiv 1011.0686).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.models.rnn import RNN


def draw_offset(steps: int, length: int, noise: torch.Generator) -> Tensor:
    """The column at which the first piece begins, (1,): below `steps`; 0 where a piece is the whole sequence."""
    return torch.randint(steps if steps < length else 1, (1,), generator=noise, device=noise.device)


def cyclic(length: int, offset: Tensor) -> Tensor:
    """The columns from `offset` (1,) on, then those before it: (length,)."""
    return (offset + torch.arange(length, device=offset.device)) % length


def rolled_out(rnn: RNN, starts: Tensor, x: Tensor, columns: Tensor, steps: int) -> Tensor:
    """The memory before each column, rolled out in pieces of k `steps`: (B, T, K, d).

    x (B, T); `columns` (T,) as `cyclic` orders them; `starts` (B, n, K, d) are the teacher's memories before every k-th
    of these. A piece that passes the end of the sequence restarts at its beginning.
    """
    (lanes, length), pieces = x.shape, starts.shape[1]
    padded = torch.cat([columns, columns[: pieces * steps - length]]).view(pieces, steps)
    step, inputs = rnn.updater.prepare(rnn.embedding(x[:, padded].flatten(0, 1)))  # (B n, k, ...)
    beginning: Any = rnn.initial_state(1)
    restarts = (padded == 0).repeat(lanes, 1)[..., None, None]  # (B n, k, 1, 1)
    memory = starts.flatten(0, 1)
    made = [memory]
    for input_t, restart in zip(inputs.unbind(1)[:-1], restarts.unbind(1)[1:], strict=True):
        memory = torch.where(restart, beginning, step(memory, input_t))
        made.append(memory)
    return torch.stack(made, 1).view(lanes, -1, *starts.shape[2:])[:, :length]


def swept(rnn: RNN, memories: Tensor, x: Tensor, sweeps: int) -> Tensor:
    """The memory before each column of x (B, T) after `sweeps` sweeps from `memories` (B, T + 1, K, d): (B, T, K, d).

    The first of `memories` is the one before any input.
    """
    shape = x.shape
    step, inputs = rnn.updater.prepare(rnn.embedding(x.flatten())[:, None])
    first, before = memories[:, :1], memories[:, :-1]
    for _ in range(min(sweeps, x.shape[1])):
        after = step(before.flatten(0, 1), inputs[:, 0]).unflatten(0, shape)
        before = torch.cat([first, after[:, :-1]], 1)
    return before
