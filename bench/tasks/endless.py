"""The base of tasks with endless lanes: strings follow one another, and their lengths are drawn as they begin.

Each column of a stream has its own random numbers, used or not, so that any cut into pieces gives the same data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.tasks.base import Batch, Split, Task


class EndlessTask(Task):
    """A task whose sequences are the beginnings of its streams; a subclass implements `stream`."""

    continues = True

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        return self.stream(split, batch_size, length, generator)[0]._replace(start=None)


def started(x: Tensor, begins: bool) -> Tensor:
    """The `start` of a piece of lanes that never restart: true at the first column of x (B, T) where they begin."""
    return ((torch.arange(x.shape[1], device=x.device) == 0) & begins).expand(len(x), -1)


def by_column(length: int, draw: Callable[[], Tensor]) -> Tensor:
    """Call `draw`, which gives a column (B,), for each of `length` columns: (B, T)."""
    return torch.stack([draw() for _ in range(length)], 1)


def chain(steps: Tensor) -> Tensor:
    """The columns reached from the first one, where column c leads to c + steps[:, c]: (B, T), bool.

    This is pointer jumping: after k rounds, columns less than 2^k steps away are reached.
    """
    lanes, length = steps.shape
    columns = torch.arange(length, device=steps.device)
    beyond = columns.new_full((lanes, 1), length)
    jump = torch.cat([(columns + steps).clamp(max=length), beyond], 1)
    reached = torch.zeros_like(jump)
    reached[:, 0] = 1
    for _ in range(length.bit_length()):
        reached = reached.scatter_add(1, jump, reached).clamp_(max=1)
        jump = jump.gather(1, jump)
    return reached[:, :length] > 0


def since(begins: Tensor) -> tuple[Tensor, Tensor]:
    """For each column, the last column that begins a string, and the distance to it; column 0 begins one."""
    columns = torch.arange(begins.shape[1], device=begins.device)
    last = torch.where(begins, columns, 0).cummax(1).values
    return last, columns - last


def run_lengths(x: Tensor, symbol: int) -> Tensor:
    """The length of the run of a symbol up to each column of x (B, T); 0 at any other symbol."""
    columns = torch.arange(x.shape[1], device=x.device)
    return columns - torch.where(x != symbol, columns, -1).cummax(1).values
