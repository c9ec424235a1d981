"""add-lags: the label is a coin whose bias depends on two past bits, each a fixed number of steps back.

    P(y_t = 1) = 0.5 + 0.5 x_{t - near} - 0.25 x_{t - far},    x fair bits, 0 before the first

The lowest loss is 0.454 nats with both lags known, 0.519 with the near one alone and 0.662 with neither, so the loss
shows which lags credit has reached. From Marschall, Cho & Savin, arXiv 1907.02649.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bench.config import Positive, TaskConfig
from bench.registry import register_task
from bench.tasks.base import Batch, Split, StreamState
from bench.tasks.endless import EndlessTask, by_column, started


class AddLagsConfig(TaskConfig):
    """Knobs of add-lags."""

    length: Positive = 256
    near: Positive = Field(5, description="steps back to the bit that raises the chance of a 1")
    far: Positive = Field(9, description="steps back to the bit that lowers it")

    @model_validator(mode="after")
    def _in_order(self) -> AddLagsConfig:
        if self.near >= self.far:
            raise ValueError(f"near ({self.near}) should be below far ({self.far})")
        return self


@register_task("add-lags")
class AddLags(EndlessTask):
    """A random label whose probability two past bits of an endless stream decide."""

    Config = AddLagsConfig
    config: AddLagsConfig
    axis = "far"
    vocab_size = 2

    def stream(
        self, split: Split, lanes: int, length: int, generator: torch.Generator, state: StreamState | None = None
    ) -> tuple[Batch, StreamState]:
        device = generator.device
        begins = state is None
        (past,) = state or (torch.zeros(lanes, self.config.far, dtype=torch.long, device=device),)

        def drawn() -> Tensor:
            return torch.randint(2**24, (lanes,), generator=generator, device=device)  # a bit, and 23 for the coin

        numbers = by_column(length, drawn)
        bits = torch.cat([past, numbers % 2], 1)
        y = ((numbers // 2).double() / 2**23 < self._chances(bits)).long()
        x = bits[:, self.config.far :].contiguous()
        return Batch(x, y, started(x, begins)), (bits[:, length:].clone(),)

    def _chances(self, bits: Tensor) -> Tensor:
        """P(y = 1) at each column of bits but the first `far`."""
        near, far = self.config.near, self.config.far
        return 0.5 + 0.5 * bits[:, far - near : -near].double() - 0.25 * bits[:, :-far].double()

    def _chances_known(self, t: int) -> list[float]:
        """P(y = 1) at column t of a sequence, for each of the equally likely pasts."""
        seen = [(0, 1) if t >= lag else (0,) for lag in (self.config.near, self.config.far)]
        return [0.5 + 0.5 * near - 0.25 * far for near, far in product(*seen)]

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        total = 0.0
        for t in range(score_from, length):
            chances = self._chances_known(t)
            total -= sum(q * math.log(q) for p in chances for q in (p, 1 - p) if q) / len(chances)
        return total / (length - score_from)

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        best = [[max(p, 1 - p) for p in self._chances_known(t)] for t in range(score_from, length)]
        return sum(sum(right) / len(right) for right in best) / (length - score_from)

    def stream_facts(self) -> dict[str, float]:
        far = self.config.far
        return {"loss_floor": self.loss_floor(far + 1, far), "accuracy_ceiling": self.accuracy_ceiling(far + 1, far)}

    def oracle(self, x: Tensor) -> Tensor:
        chances = self._chances(torch.cat([x.new_zeros(len(x), self.config.far), x], 1))
        return torch.stack([1 - chances, chances], 2)
