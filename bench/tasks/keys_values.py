"""keys-values: store pairs of a key and a value, then recall the value of one key.

    keys of 2 symbols from 0..3, values of 2 symbols from 4..7:
    x = 1 3 6 4 2 0 5 5 1 3 6  ->  y = . . . . . . . . . 6 4

The pairs come first, then one of the keys again, then its value, teacher-forced: the value's first symbol is the label
at the last symbol of the query. The keys of a sequence are distinct (in the paper's reference code they may repeat,
which makes the answer ambiguous). With n pairs of span L there are 2 n L + 2 L - 1 inputs. Source: the paper, arXiv
2606.06479 (its associative-recall task).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bench.config import Positive, TaskConfig
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks.base import IGNORED, Batch, Split, Task, corrupted_oracle

SMALL_KEY_SPACE = 1024  # up to this, a random number for every possible key costs less than a wait for the device


class KeysValuesConfig(TaskConfig):
    """Knobs of keys-values. Longer sequences hold more pairs, unless `pairs` fixes their number at every length."""

    length: Positive = Field(32, description="the sequence is the longest that fits")
    pairs: Positive | None = Field(None, description="pairs in every sequence; null: as many as fit the length")
    span: Positive = Field(2, description="L: symbols in a key and in a value")
    key_symbols: Positive = Field(16, description="alphabet of the keys")
    value_symbols: Annotated[int, Field(ge=2)] = Field(16, description="alphabet of the values; apart from the keys'")

    @model_validator(mode="after")
    def _fits(self) -> KeysValuesConfig:
        if self.keys >= 2**62:
            raise ValueError(f"key_symbols ** span ({self.key_symbols} ** {self.span}) should be below 2 ** 62")
        self.pairs_at(self.length)
        return self

    @property
    def keys(self) -> int:
        """The number of different keys."""
        return self.key_symbols**self.span

    def pairs_at(self, length: int) -> int:
        """n, the number of pairs in a sequence of at most this length. Raises `ValueError` where none fits."""
        pairs = self.pairs or max(1, (length + 1) // (2 * self.span) - 1)
        needed = 2 * self.span * (pairs + 1) - 1
        if needed > length:
            raise ValueError(f"length {length} given; {pairs} pairs of span {self.span} need at least {needed}")
        if pairs > self.keys:
            fewer = "fewer pairs" if self.pairs else f"a length of at most {2 * self.span * (self.keys + 2) - 2}"
            raise ValueError(
                f"length {length} has {pairs} pairs, but there are only {self.keys} different keys; "
                f"raise key_symbols or span, or give {fewer}"
            )
        return pairs


@register_task("keys-values")
class KeysValues(Task):
    """The value that was stored with a key."""

    Config = KeysValuesConfig
    config: KeysValuesConfig

    @property
    def vocab_size(self) -> int:
        return self.config.key_symbols + self.config.value_symbols

    def _pairs(self, length: int) -> int:
        try:
            return self.config.pairs_at(length)
        except ValueError as error:
            raise BadInput(f"{self.name}: {error}") from None

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        n, span, device = self._pairs(length), self.config.span, generator.device
        numbers = distinct(self.config.keys, (batch_size, n), generator)
        powers = [self.config.key_symbols**i for i in range(span)]
        keys = torch.stack([numbers // power % self.config.key_symbols for power in powers], 2)  # (B, n, L)
        values = torch.randint(
            self.config.key_symbols, self.vocab_size, (batch_size, n, span), generator=generator, device=device
        )
        pairs = torch.cat([keys, values], 2)  # (B, n, 2 L)
        asked = torch.randint(n, (batch_size, 1, 1), generator=generator, device=device).expand(-1, 1, 2 * span)
        query = pairs.gather(1, asked)[:, 0]  # (B, 2 L)
        x = torch.cat([pairs.flatten(1), query[:, :-1]], 1)
        y = torch.full_like(x, IGNORED)
        y[:, -span:] = query[:, span:]
        return Batch(x, y)

    def scored_columns(self, length: int) -> range:
        width = 2 * self.config.span * (self._pairs(length) + 1) - 1
        return range(width - self.config.span, width)

    def chance(self, length: int, score_from: int = 0) -> float:
        return 1 / self.config.value_symbols

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return 0.0

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return 1.0

    def rules(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {**super().rules(), "the value stored last": lambda x: x.roll(2 * self.config.span - 1, 1)}

    def oracle(self, x: Tensor) -> Tensor:
        span = self.config.span
        pairs = x[:, : -(2 * span - 1)].unflatten(1, (-1, 2 * span))  # (B, n, 2 L)
        query = x[:, pairs.shape[1] * 2 * span :][:, None, :span]  # (B, 1, L)
        asked = (pairs[..., :span] == query).all(2).int().argmax(1)
        value = pairs[torch.arange(len(x), device=x.device), asked, span:]  # (B, L)
        labels = torch.cat([x[:, span:], value], 1)
        return corrupted_oracle(labels, self.output_size, range(self.output_size))


def distinct(options: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Rows of different numbers below `options`: (B, n), every ordered choice of n equally likely."""
    rows, n = shape
    if options <= max(SMALL_KEY_SPACE, 2 * n):
        return torch.rand((rows, options), generator=generator, device=generator.device).topk(n).indices
    drawn = torch.randint(options, shape, generator=generator, device=generator.device)
    while True:  # draw repeats again; all numbers are treated alike, so all choices stay equally likely
        ordered, order = drawn.sort(dim=1, stable=True)
        repeats = torch.zeros_like(drawn, dtype=torch.bool)
        repeats.scatter_(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])
        if not repeats.any():
            return drawn
        again = torch.randint(options, shape, generator=generator, device=generator.device)
        drawn = torch.where(repeats, again, drawn)
