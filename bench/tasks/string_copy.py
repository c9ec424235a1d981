"""string-copy: hold a whole string in memory and give it back, last symbol first.

    x = 3 1 4 0 4 1  ->  y = . . . 4 1 3

The first half is random symbols, then the delimiter 0, then the string in reverse (or, with `reverse` off, in order),
teacher-forced: at each symbol the next one is the label. The memory must hold length / 2 symbols at once, so
the task shows capacity. Source: the paper, arXiv 2606.06479 (its capacity task).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.config import Share, TaskConfig
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks.base import (
    IGNORED,
    Batch,
    Split,
    Task,
    corrupt,
    corrupted_ceiling,
    corrupted_floor,
    corrupted_oracle,
)


class StringCopyConfig(TaskConfig):
    """Knobs of string-copy."""

    length: Annotated[int, Field(ge=2)] = Field(32, description="string, delimiter and answer; an odd length is cut")
    symbols: Annotated[int, Field(ge=2)] = Field(8, description="symbols of the string, 1..symbols; 0 is the delimiter")
    corruption: Share = Field(0.0, description="probability that a label is a uniformly random symbol instead")
    reverse: bool = Field(True, description="ask for the string in reverse order")


@register_task("string-copy")
class StringCopy(Task):
    """A string and its copy."""

    Config = StringCopyConfig
    config: StringCopyConfig

    @property
    def vocab_size(self) -> int:
        return self.config.symbols + 1

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        n, symbols = length // 2, self.config.symbols
        if n == 0:
            raise BadInput(f"{self.name}: length {length} given; should be at least 2")
        string = torch.randint(1, symbols + 1, (batch_size, n), generator=generator, device=generator.device)
        answer = string.flip(1) if self.config.reverse else string
        x = torch.cat([string, torch.zeros_like(string[:, :1]), answer[:, :-1]], 1)  # (B, 2 n)
        labels = corrupt(answer, range(1, symbols + 1), self.config.corruption, generator)
        return Batch(x, torch.cat([torch.full_like(string, IGNORED), labels], 1))

    def scored_columns(self, length: int) -> range:
        n = length // 2
        return range(n, 2 * n)

    def chance(self, length: int, score_from: int = 0) -> float:
        return 1 / self.config.symbols

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return corrupted_floor(self.config.symbols, self.config.corruption)

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return corrupted_ceiling(self.config.symbols, self.config.corruption)

    def oracle(self, x: Tensor) -> Tensor:
        string = x[:, : x.shape[1] // 2]
        answer = string.flip(1) if self.config.reverse else string
        symbols = range(1, self.config.symbols + 1)
        return corrupted_oracle(torch.cat([string, answer], 1), self.output_size, symbols, self.config.corruption)
