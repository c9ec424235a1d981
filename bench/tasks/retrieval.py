"""retrieval: remember the one symbol that was marked, and output it when asked, however long ago it came.

    x = 3 1 0 7 4 2 5 0  ->  y = . . . . . . . 7

The id symbol 0 stands at a random position in the first half and once more at the end; the symbol after its first
appearance, the needle, is the label of the last position. A single symbol must cross the whole sequence, so the task
shows whether a method's gradients do. Source: the paper, arXiv 2606.06479 (its gradient-stability task).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, model_validator
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

SHORTEST = 3  # the id symbol, the needle, the id symbol
ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996, which means 29


class RetrievalConfig(TaskConfig):
    """Knobs of retrieval."""

    length: Annotated[int, Field(ge=SHORTEST)] = 32
    symbols: Annotated[int, Field(ge=2)] = Field(8, description="ordinary symbols, 1..symbols; 0 is the id symbol")
    corruption: Share = Field(0.0, description="probability that the label is a uniformly random symbol instead")
    needle_from: Share = Field(0.0, description="earliest position of the first id symbol, as a share of the length")
    needle_to: Share = Field(0.5, description="its latest position, exclusive; equal to needle_from: always that one")

    @model_validator(mode="after")
    def _range_in_order(self) -> RetrievalConfig:
        if self.needle_from > self.needle_to:
            raise ValueError(f"needle_from ({self.needle_from}) should not be above needle_to ({self.needle_to})")
        return self


@register_task("retrieval")
class Retrieval(Task):
    """The symbol after the id symbol, asked for at the end."""

    Config = RetrievalConfig
    config: RetrievalConfig

    @property
    def vocab_size(self) -> int:
        return self.config.symbols + 1

    def positions(self, length: int) -> range:
        """The positions of the first id symbol: within its range, and at least two before the last one."""
        if length < SHORTEST:
            raise BadInput(f"{self.name}: length {length} given; should be at least {SHORTEST}")
        first, stop = (int(share * length + ROUNDING) for share in (self.config.needle_from, self.config.needle_to))
        first = min(first, length - SHORTEST)
        return range(first, max(first + 1, min(stop, length - SHORTEST + 1)))

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        positions, symbols, device = self.positions(length), self.config.symbols, generator.device
        x = torch.randint(1, symbols + 1, (batch_size, length), generator=generator, device=device)
        position = torch.randint(positions.start, positions.stop, (batch_size, 1), generator=generator, device=device)
        x.scatter_(1, position, 0)
        x[:, -1] = 0
        y = torch.full_like(x, IGNORED)
        needle = x.gather(1, position + 1)  # (B, 1)
        y[:, -1:] = corrupt(needle, range(1, symbols + 1), self.config.corruption, generator)
        return Batch(x, y)

    def scored_columns(self, length: int) -> range:
        return range(length - 1, length)

    def chance(self, length: int, score_from: int = 0) -> float:
        return 1 / self.config.symbols

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return corrupted_floor(self.config.symbols, self.config.corruption)

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return corrupted_ceiling(self.config.symbols, self.config.corruption)

    def oracle(self, x: Tensor) -> Tensor:
        after = (x == 0).int().argmax(1, keepdim=True) + 1
        needle = x.gather(1, after.clamp(max=x.shape[1] - 1))  # (B, 1)
        symbols = range(1, self.config.symbols + 1)
        return corrupted_oracle(needle.expand_as(x), self.output_size, symbols, self.config.corruption)
