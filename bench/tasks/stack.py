"""stack: track a stack as it grows and shrinks, and predict what is popped.

    x = 3 1 0 2 0 0  ->  y = . . 1 . 2 3

An input is a symbol, which is pushed, or 0, which pops; a pop is scored with the symbol that is popped. Pushes and pops
are equally likely, except that an empty stack is pushed to and a full one is popped. What must be remembered changes at
every step, so the task shows state tracking. Source: the paper, arXiv 2606.06479 (its state-tracking task).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.config import Positive, TaskConfig
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks.base import IGNORED, Batch, Split, Task, corrupted_oracle


class StackConfig(TaskConfig):
    """Knobs of stack."""

    length: Annotated[int, Field(ge=2)] = 24
    symbols: Annotated[int, Field(ge=2)] = Field(4, description="symbols that are pushed, 1..symbols; 0 pops")
    depth: Positive = Field(8, description="the stack never holds more symbols than this")


@register_task("stack")
class Stack(Task):
    """The symbols popped from a stack."""

    Config = StackConfig
    config: StackConfig

    @property
    def vocab_size(self) -> int:
        return self.config.symbols + 1

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        if length < 2:
            raise BadInput(f"{self.name}: length {length} given; should be at least 2")
        shape, device = (batch_size, length), generator.device
        levels = self._levels(torch.randint(0, 2, shape, generator=generator, device=device) * 2 - 1)
        before, after = levels[:, :-1], levels[:, 1:]  # (B, T) each
        pushes = after > before
        symbols = torch.randint(1, self.config.symbols + 1, shape, generator=generator, device=device)
        x = torch.where(pushes, symbols, 0)
        return Batch(x, torch.where(pushes, IGNORED, popped(x, torch.maximum(before, after))))

    def _levels(self, steps: Tensor) -> Tensor:
        """The stack's height before, between and after the inputs: steps (B, T) of +-1 -> (B, T + 1) in 0..depth.

        A free random walk, folded at 0 and at the depth, is the walk that is reflected there.
        """
        depth = self.config.depth
        walk = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(1)], 1)
        return ((walk + depth) % (2 * depth) - depth).abs()

    def scored_columns(self, length: int) -> range:
        return range(1, length, 2 if self.config.depth == 1 else 1)

    def chance(self, length: int, score_from: int = 0) -> float:
        return 1 / self.config.symbols

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return 0.0

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return 1.0

    def rules(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {**super().rules(), "the symbol pushed last": pushed_last}

    def oracle(self, x: Tensor) -> Tensor:
        full = torch.where(x > 0, 1, -1).cumsum(1)  # after each input
        slot = torch.where(x > 0, full, full + 1)
        return corrupted_oracle(popped(x, slot), self.output_size, range(self.output_size))


def popped(x: Tensor, slot: Tensor) -> Tensor:
    """The symbol that each pop in x (B, T) takes, where `slot` (B, T) is the slot that an input fills or empties.

    Every second event at a slot is a pop of the symbol that was pushed before it: with events sorted by slot, then by
    time, every pop finds its symbol one step earlier.
    """
    length = x.shape[1]
    order = (slot * length + torch.arange(length, device=x.device)).argsort(1)
    return torch.empty_like(x).scatter_(1, order, x.gather(1, order).roll(1, 1))


def pushed_last(x: Tensor) -> Tensor:
    """The latest symbol other than 0 at every position of x (B, T)."""
    columns = torch.arange(x.shape[1], device=x.device)
    return x.gather(1, torch.where(x > 0, columns, 0).cummax(1).values)
