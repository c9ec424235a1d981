"""anbn: n times a, a newline, n times b, a newline, and so on without end; each label is the next character.

    x = a a | b b | a | b  ->  y = a | b b | a | b |        (| is the newline)

n is uniform on 1 to `most`. The number of a's cannot be predicted; the rest follows from counting them. From
the code of Tallec & Ollivier, arXiv 1702.05043, where `most` is 32.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor

from bench.config import Positive, TaskConfig
from bench.registry import register_task
from bench.tasks.base import Batch, Split, StreamState
from bench.tasks.endless import EndlessTask, by_column, chain, run_lengths, since, started

A, B, NEWLINE = range(3)


class AnBnConfig(TaskConfig):
    """Knobs of anbn."""

    length: Positive = 256
    most: Positive = Field(8, description="n is uniform on 1 to this")


@register_task("anbn")
class AnBn(EndlessTask):
    """Counting, on an endless text whose entropy is known."""

    Config = AnBnConfig
    config: AnBnConfig
    axis = "most"
    unit = "bits"
    vocab_size = 3

    def stream(
        self, split: Split, lanes: int, length: int, generator: torch.Generator, state: StreamState | None = None
    ) -> tuple[Batch, StreamState]:
        def drawn() -> Tensor:
            return torch.randint(1, self.config.most + 1, (lanes,), generator=generator, device=generator.device)

        begins = state is None
        n, position = state or (drawn(), torch.zeros(lanes, dtype=torch.long, device=generator.device))
        counts = torch.cat([n[:, None], by_column(length, drawn)], 1)  # the n of a pair of lines that begins there
        steps = 2 * counts + 2
        steps[:, 0] -= position
        last, ago = since(chain(steps))
        n, position = counts.gather(1, last), ago + torch.where(last == 0, position[:, None], 0)
        ends = (position == n) | (position == 2 * n + 1)
        text = torch.where(ends, NEWLINE, torch.where(position < n, A, B))  # (B, T + 1)
        x = text[:, :-1].contiguous()
        state = (n[:, -1].clone(), position[:, -1].clone())
        return Batch(x, text[:, 1:].contiguous(), started(x, begins)), state

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return _least(length, self.config.most, score_from)[0]

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return _least(length, self.config.most, score_from)[1]

    def stream_facts(self) -> dict[str, float]:
        most = self.config.most
        return {"loss_floor": math.log(most) / (most + 3), "accuracy_ceiling": 1 - (most - 1) / (most * (most + 3))}

    def oracle(self, x: Tensor) -> Tensor:
        count_a, back = run_lengths(x, A), run_lengths(x, B)
        columns = torch.arange(x.shape[1], device=x.device)
        last = torch.where(x == A, columns, -1).cummax(1).values
        n = count_a.gather(1, last.clamp(min=0)) * (last >= 0)  # the length of the last line of a's
        before = torch.cat([torch.full_like(x[:, :1], B), x[:, :-1]], 1)
        stops = 1 / (self.config.most + 1 - count_a).clamp(min=1).double()
        probabilities = torch.zeros(*x.shape, 3, dtype=torch.float64, device=x.device)
        probabilities[..., NEWLINE] = torch.where(x == A, stops, ((x == B) & (back >= n)).double())
        probabilities[..., A] = torch.where(x == A, 1 - stops, ((x == NEWLINE) & (before != A)).double())
        probabilities[..., B] = 1 - probabilities[..., NEWLINE] - probabilities[..., A]
        return probabilities


@lru_cache(maxsize=256)
def _least(length: int, most: int, score_from: int) -> tuple[float, float]:
    """Loss (nats) and accuracy of the best predictor at columns `score_from` to `length` of a text.

    After k of n a's, the next character is a newline with probability 1 / (most - k + 1), if n is k or more.
    """
    begin = [1.0]  # the probability that a pair of lines begins at a column
    for t in range(1, length):
        begin.append(sum(begin[t - 2 * n - 2] for n in range(1, most + 1) if t >= 2 * n + 2) / most)
    loss = errors = 0.0
    for t in range(score_from, length):
        for k in range(1, min(most, t + 1) + 1):
            p, here = 1 / (most - k + 1), begin[t - k + 1] * (most - k + 1) / most
            loss -= here * (p * math.log(p) + ((1 - p) * math.log(1 - p) if p < 1 else 0.0))
            errors += here * min(p, 1 - p)
    return loss / (length - score_from), 1 - errors / (length - score_from)
