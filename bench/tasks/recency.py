"""recency: predict which past symbol will be asked for, where later ones are likelier.

    x = 3 1 0 2 2 4  ->  y = . . . . . 2      (4 with weight 1, 2 with 0.9 + 0.81, 0 with 0.73, ..)

The label of the last position is the symbol k steps back, k drawn with weight decay ** k and never beyond the start.
With `primacy` the k steps count from the start. The best predictor knows how often, and how recently, each symbol came;
none can know the label, so compare with the ceiling. From the paper's reference code (arXiv 2606.06479).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench import streams
from bench.config import Share, TaskConfig
from bench.registry import register_task
from bench.tasks.base import IGNORED, Batch, Split, Task

STANDARD_ERROR = 5e-4  # of floor and ceiling, computed once for every length in at most a few seconds
CHUNK = 2**20  # symbols drawn at a time: 8 MB, less for short sequences


class RecencyConfig(TaskConfig):
    """Knobs of recency."""

    symbols: Annotated[int, Field(ge=2)] = Field(8, description="symbols, 0..symbols - 1")
    decay: Share = Field(0.9, description="weight of a position relative to its neighbour nearer to the favoured end")
    primacy: bool = Field(False, description="favour the start of the sequence instead of its end")


@register_task("recency")
class Recency(Task):
    """A past symbol, most likely a recent one (or an early one)."""

    Config = RecencyConfig
    config: RecencyConfig
    axis = "decay"

    @property
    def vocab_size(self) -> int:
        return self.config.symbols

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        device = generator.device
        x = torch.randint(self.config.symbols, (batch_size, length), generator=generator, device=device)
        below = weights(length, self.config.decay, device).cumsum(0)
        u = torch.rand((batch_size, 1), generator=generator, device=device, dtype=torch.float64)
        k = torch.searchsorted(below, u, right=True).clamp(max=length - 1)  # the clamp is for rounding
        y = torch.full_like(x, IGNORED)
        y[:, -1:] = x.gather(1, k if self.config.primacy else length - 1 - k)
        return Batch(x, y)

    def scored_columns(self, length: int) -> range:
        return range(length - 1, length)

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return bayes(length, self.config.symbols, self.config.decay)[0]

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return bayes(length, self.config.symbols, self.config.decay)[1]

    def rules(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {**super().rules(), "the first symbol": lambda x: x[:, :1].expand_as(x)}

    def oracle(self, x: Tensor) -> Tensor:
        batch, length = x.shape
        weight = weights(length, self.config.decay, x.device)
        weight = weight if self.config.primacy else weight.flip(0)
        probabilities = weight.new_zeros(batch, self.config.symbols).scatter_add_(1, x, weight.expand(batch, -1))
        return probabilities[:, None].expand(-1, length, -1)  # right at the last position, the only one scored


def weights(length: int, decay: float, device: torch.device | str = "cpu") -> Tensor:
    """The probability of each number k of steps from the favoured end, (T,) float64."""
    weight = decay ** torch.arange(length, dtype=torch.float64, device=device)
    return weight / weight.sum()


@lru_cache
def bayes(length: int, symbols: int, decay: float) -> tuple[float, float]:
    """Loss (nats) and accuracy of the Bayes-optimal predictor, which gives each symbol the weight of its positions.

    There is no closed form: these are means over random sequences of a fixed stream, enough to bring both standard
    errors below `STANDARD_ERROR`. Recency and primacy have the same values. Weights below 1e-9 in sum are left out.
    """
    weight = weights(length, decay)
    weight = weight[: int((1 - weight.cumsum(0) > 1e-9).sum()) + 1]
    rows = max(128, CHUNK // max(64, len(weight)))
    generator = streams.generator(0, "recency", length, symbols)
    scores = torch.empty(0, 2, dtype=torch.float64)
    while len(scores) < 2 * rows or (scores.std(0) / len(scores) ** 0.5).max() > STANDARD_ERROR:
        x = torch.randint(symbols, (rows, len(weight)), generator=generator)
        p = torch.zeros(rows, symbols, dtype=torch.float64).scatter_add_(1, x, weight.expand(rows, -1))
        scores = torch.cat([scores, torch.stack([torch.special.entr(p).sum(1), p.max(1).values], 1)])
    loss, accuracy = scores.mean(0).tolist()
    return loss, accuracy
