"""brackets: a word in brackets, some letters, and the word again, without end; each label is the next character.

    [ a b ] d c a [ a b ] | [ c a ] ...        (| is the newline)

All letters are random, `word` of them in brackets and `between` after them; only the repeated word can be predicted.
From the code of Tallec & Ollivier, arXiv 1702.05043 ("distant brackets").
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.config import Positive, TaskConfig
from bench.registry import register_task
from bench.tasks.base import Batch, Split, StreamState
from bench.tasks.endless import EndlessTask, by_column, started


class BracketsConfig(TaskConfig):
    """Knobs of brackets."""

    length: Positive = 256
    word: Positive = Field(1, description="letters of the word")
    between: Positive = Field(5, description="letters between the word and its repetition")
    letters: Annotated[int, Field(ge=2)] = Field(10, description="size of the alphabet")


@register_task("brackets")
class Brackets(EndlessTask):
    """Repeating a word, in an endless text whose entropy is known."""

    Config = BracketsConfig
    config: BracketsConfig
    axis = "between"
    unit = "bits"

    @property
    def vocab_size(self) -> int:
        """The letters, an opening bracket, a closing bracket and a newline."""
        return self.config.letters + 3

    @property
    def period(self) -> int:
        """The number of characters from one newline to the next."""
        return 2 * self.config.word + self.config.between + 5

    @property
    def apart(self) -> int:
        """The number of characters from a letter of the word to its repetition."""
        return self.config.word + self.config.between + 2

    def stream(
        self, split: Split, lanes: int, length: int, generator: torch.Generator, state: StreamState | None = None
    ) -> tuple[Batch, StreamState]:
        letters, device = self.config.letters, generator.device

        def drawn() -> Tensor:
            return torch.randint(letters, (lanes,), generator=generator, device=device)

        begins = state is None
        if state is None:
            nothing = torch.zeros(lanes, self.apart, dtype=torch.long, device=device)
            state = (torch.cat([nothing, drawn()[:, None]], 1), torch.zeros(lanes, dtype=torch.long, device=device))
        past, position = state  # letters up to the first column; each column has one, shown or not
        letters_drawn = torch.cat([past, by_column(length, drawn)], 1)
        positions = (position[:, None] + torch.arange(length + 1, device=device)) % self.period
        mark = self._marks.to(device)[positions]
        letter = torch.where(self._again(positions), letters_drawn[:, : length + 1], letters_drawn[:, self.apart :])
        text = torch.where(mark < 0, letter, mark)
        x = text[:, :-1].contiguous()
        state = (letters_drawn[:, length:].clone(), positions[:, -1].clone())
        return Batch(x, text[:, 1:].contiguous(), started(x, begins)), state

    @property
    def _marks(self) -> Tensor:
        """The bracket or newline at each position in a line; -1 where there is a letter."""
        letters, word = self.config.letters, self.config.word
        marks = torch.full((self.period,), -1)
        for position, mark in ((0, 0), (word + 1, 1), (self.apart, 0), (self.apart + word + 1, 1), (-1, 2)):
            marks[position] = letters + mark
        return marks

    def _again(self, positions: Tensor) -> Tensor:
        """Whether a letter at a position repeats an earlier one."""
        return positions > self.apart

    def _unknown(self, length: int, score_from: int) -> float:
        """The share of labels that are unpredictable letters."""
        positions = (torch.arange(score_from, length) + 1) % self.period
        return ((self._marks[positions] < 0) & ~self._again(positions)).double().mean().item()

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return self._unknown(length, score_from) * math.log(self.config.letters)

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return 1 - self._unknown(length, score_from) * (1 - 1 / self.config.letters)

    def stream_facts(self) -> dict[str, float]:
        unknown, letters = (self.config.word + self.config.between) / self.period, self.config.letters
        return {"loss_floor": unknown * math.log(letters), "accuracy_ceiling": 1 - unknown * (1 - 1 / letters)}

    def oracle(self, x: Tensor) -> Tensor:
        """The probabilities in a text that begins a lane, so that counting gives each position in a line."""
        positions = (torch.arange(x.shape[1], device=x.device) + 1) % self.period
        mark = self._marks.to(x.device)[positions]
        earlier = torch.cat([x.new_zeros(len(x), self.apart - 1), x], 1)[:, : x.shape[1]]
        certain = torch.where(mark < 0, earlier, mark)
        probabilities = torch.nn.functional.one_hot(certain, self.vocab_size).double()
        probabilities[:, (mark < 0) & ~self._again(positions)] = torch.cat(
            [torch.full((self.config.letters,), 1 / self.config.letters), torch.zeros(3)]
        ).to(probabilities)
        return probabilities
