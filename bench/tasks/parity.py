"""parity: whether the number of ones so far is odd.

    x = 1 0 1 1 0 1  ->  y = 1 1 0 1 1 0

Every one flips a single bit of state: the smallest task that needs the whole sequence, long a standard test of
recurrent networks. From the paper's reference code (arXiv 2606.06479).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from bench.config import TaskConfig
from bench.registry import register_task
from bench.tasks.base import IGNORED, Batch, Split, Task, corrupted_oracle


class ParityConfig(TaskConfig):
    """Knobs of parity."""

    every_step: bool = Field(True, description="score every position; false: only the last, which is much harder")


@register_task("parity")
class Parity(Task):
    """The parity of the bits so far."""

    Config = ParityConfig
    config: ParityConfig
    vocab_size = 2

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        x = torch.randint(2, (batch_size, length), generator=generator, device=generator.device)
        y = x.cumsum(1) % 2
        if not self.config.every_step:
            y[:, :-1] = IGNORED
        return Batch(x, y)

    def scored_columns(self, length: int) -> range:
        return range(length) if self.config.every_step else range(length - 1, length)

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return 0.0

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return 1.0

    def oracle(self, x: Tensor) -> Tensor:
        return corrupted_oracle(x.cumsum(1) % 2, 2, range(2))
