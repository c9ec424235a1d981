"""modular-arithmetic: find a hidden rule from examples, in context, and apply it.

    the hidden rule y = (3 x + 1) mod 8:
    x = 2 7 5 0 2 7  ->  y = 7 . 0 . 7 .

Every sequence has its own rule y = (w x + b) mod V; the inputs are x_1 y_1 x_2 y_2 ..., and every x is scored with its
y. The first answers cannot be predicted, so compare with the ceiling. Source: the paper, arXiv 2606.06479 (its
in-context-learning task).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from bench.config import Natural, TaskConfig
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks.base import IGNORED, Batch, Split, Task

Range = tuple[Natural, Natural]


class ModularArithmeticConfig(TaskConfig):
    """Knobs of modular-arithmetic; length / 2 is the number of examples."""

    length: Annotated[int, Field(ge=2)] = Field(32, description="two inputs per example; an odd length is cut")
    modulus: Annotated[int, Field(ge=2)] = Field(8, description="V: symbols are 0..V - 1")
    w: Range | None = Field(None, description="first and last factor of the rules; null: all residues")
    b: Range | None = Field(None, description="first and last offset of the rules; null: all residues")

    @model_validator(mode="after")
    def _ranges_are_residues(self) -> ModularArithmeticConfig:
        for name, (first, last) in (("w", self.factors), ("b", self.offsets)):
            if not first <= last < self.modulus:
                limit = self.modulus - 1
                raise ValueError(f"{name}: [{first}, {last}] given; should be [first, last] within 0..{limit}")
        return self

    @property
    def factors(self) -> Range:
        return self.w or (0, self.modulus - 1)

    @property
    def offsets(self) -> Range:
        return self.b or (0, self.modulus - 1)


@register_task("modular-arithmetic")
class ModularArithmetic(Task):
    """A rule of modular arithmetic, learned from the sequence itself."""

    Config = ModularArithmeticConfig
    config: ModularArithmeticConfig
    axis = "modulus"

    @property
    def vocab_size(self) -> int:
        return self.config.modulus

    def _examples(self, length: int) -> int:
        if length < 2:
            raise BadInput(f"{self.name}: length {length} given; should be at least 2")
        return length // 2

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        n, device = self._examples(length), generator.device
        w, b = (
            torch.randint(first, last + 1, (batch_size, 1), generator=generator, device=device)
            for first, last in (self.config.factors, self.config.offsets)
        )
        inputs = torch.randint(self.config.modulus, (batch_size, n), generator=generator, device=device)
        outputs = (w * inputs + b) % self.config.modulus
        x = torch.stack([inputs, outputs], 2).flatten(1)  # (B, 2 n)
        y = torch.stack([outputs, torch.full_like(outputs, IGNORED)], 2).flatten(1)
        return Batch(x, y)

    def scored_columns(self, length: int) -> range:
        return range(0, length // 2 * 2, 2)

    def chance(self, length: int, score_from: int = 0) -> float:
        counts = _blank(self.config.modulus, self.config.factors, self.config.offsets)
        return 1 / int(counts.any(1).sum())

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return self._bayes(length, score_from)[0]

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return self._bayes(length, score_from)[1]

    def _bayes(self, length: int, score_from: int) -> tuple[float, float]:
        """Loss and accuracy of the Bayes-optimal predictor, averaged over the examples that are scored."""
        modulus = self.config.modulus
        scored = range(self._examples(length))[(score_from + 1) // 2 :]
        after = bayes_after(modulus, self.config.factors, self.config.offsets)
        loss = accuracy = 0.0
        for seen in scored:
            for g, share in gcd_shares(modulus, seen).items():
                loss += share * after[g][0]
                accuracy += share * after[g][1]
        return loss / len(scored), accuracy / len(scored)

    def rules(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"echo the last symbol": lambda x: x, "the last answer again": lambda x: x.roll(1, 1)}

    def oracle(self, x: Tensor) -> Tensor:
        """For each answer, the share of the rules that give it, among those that agree with all examples so far."""
        modulus, (first, last) = self.config.modulus, self.config.offsets
        w = torch.arange(self.config.factors[0], self.config.factors[1] + 1, device=x.device)
        b = torch.arange(first, last + 1, device=x.device)
        every = (w[:, None] * torch.arange(modulus, device=x.device)[:, None, None] + b) % modulus
        shares = [_votes(every.flatten(1), modulus)[x[:, 0]]]  # over all rules
        b = (x[:, 1, None] - w * x[:, 0, None]) % modulus  # for each w, after one example: (B, number of w)
        possible = ((b >= first) & (b <= last)).double()
        for i in range(2, x.shape[1], 2):
            answers = (w * x[:, i, None] + b) % modulus
            shares.append(_votes(answers, modulus, possible))
            possible *= answers == x[:, i + 1, None]
        return torch.stack(shares, 1).repeat_interleave(2, 1)


def _votes(answers: Tensor, modulus: int, weight: Tensor | None = None) -> Tensor:
    """The weighted share of each answer in the rows of answers (N, M): (N, V)."""
    weight = torch.ones((), dtype=torch.float64, device=answers.device).expand_as(answers) if weight is None else weight
    votes = weight.new_zeros(len(answers), modulus).scatter_add_(1, answers, weight)
    return votes / votes.sum(1, keepdim=True).clamp(min=1)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def gcd_shares(modulus: int, seen: int) -> dict[int, float]:
    """The probability that gcd(V, x_2 - x_1, .., x_seen - x_1) is each divisor of V, for independent uniform x.

    The gcd is 0 before the first example, as in `bayes_after`.
    """
    if seen == 0:
        return {0: 1.0}
    shares: dict[int, float] = {}
    for d in reversed(_divisors(modulus)):  # all differences are multiples of d, less those of a multiple of d
        shares[d] = d ** -(seen - 1.0) - sum(share for g, share in shares.items() if g % d == 0)
    return shares


def _firsts(modulus: int, offsets: Range) -> range:
    """The first inputs to count over. They only shift y_1, which changes no count while all offsets are possible."""
    return range(1) if offsets == (0, modulus - 1) else range(modulus)


def _answers(modulus: int, factors: Range, offsets: Range, x: int) -> np.ndarray:
    """The answer of every rule to x: (number of w, number of b)."""
    w, b = (np.arange(first, last + 1) for first, last in (factors, offsets))
    return (w[:, None] * x + b) % modulus


@lru_cache
def _blank(modulus: int, factors: Range, offsets: Range) -> np.ndarray:
    """The number of rules that give each answer to each first input: (V, first inputs)."""
    answers = [_answers(modulus, factors, offsets, x).ravel() for x in _firsts(modulus, offsets)]
    return np.stack([np.bincount(answer, minlength=modulus) for answer in answers], 1)


@lru_cache
def bayes_after(modulus: int, factors: Range, offsets: Range) -> dict[int, tuple[float, float]]:
    """Expected loss (nats) and accuracy of the Bayes-optimal next answer, by the gcd g of the examples so far.

    Examples (x_i, y_i) agree with exactly the rules that share y_1 and w mod V / g, where g = gcd(V, all x_i - x_1).
    The next answer, at x, reveals w mod h V / g, where h = g / gcd(g, x - x_1). So the rules that share (w mod V / g,
    y_1) are those still possible, and those of them that share w mod h V / g give the same answer: count both. Key 0
    stands for no examples, where the answer itself is counted. Takes a second or two at V = 256.
    """
    factor = np.arange(factors[0], factors[1] + 1)
    firsts = _firsts(modulus, offsets)
    result = {0: _expected(_blank(modulus, factors, offsets))}
    for g in _divisors(modulus):
        known = modulus // g
        total = np.zeros(2)
        for h in _divisors(g):
            share = sum(math.gcd(h, i) == 1 for i in range(1, h + 1)) / g  # phi(h) of the g residues of x - x_1
            known_w = factor % (known * h) * modulus  # w mod h V / g leads the index, y_1 follows
            for x in firsts:
                index = known_w[:, None] + _answers(modulus, factors, offsets, x)
                counts = np.bincount(index.ravel(), minlength=known * h * modulus)
                total += share / len(firsts) * np.array(_expected(counts.reshape(h, known * modulus)))
        result[g] = (float(total[0]), float(total[1]))
    return result


def _expected(counts: np.ndarray) -> tuple[float, float]:
    """Loss and accuracy of the best guess of the row from the column, for counts of (row, column)."""
    column = counts.sum(0)
    some = counts > 0
    nats = (counts * np.log(np.where(some, column / np.maximum(counts, 1), 1))).sum()
    return float(nats / column.sum()), float(counts.max(0).sum() / column.sum())
