"""brackets: a word in brackets, another one, and the first again, without end; the next character is to be predicted.

    [ a b ] d c a [ a b ] | [ c a ] ...        (| is the newline)

The words are random, of `word` and `between` letters. When the word comes again it is known; nothing else tells it.
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
    word: Positive = Field(1, description="letters of the word that comes again")
    between: Positive = Field(5, description="letters between its two places")
    letters: Annotated[int, Field(ge=2)] = Field(10, description="of the alphabet")


@register_task("brackets")
class Brackets(EndlessTask):
    """A word again, on an endless text whose entropy is known."""

    Config = BracketsConfig
    config: BracketsConfig
    axis = "between"
    unit = "bits"

    @property
    def vocab_size(self) -> int:
        """The letters, an opening and a closing bracket, a newline."""
        return self.config.letters + 3

    @property
    def period(self) -> int:
        """Characters from one newline to the next."""
        return 2 * self.config.word + self.config.between + 5

    @property
    def apart(self) -> int:
        """Characters from a letter of the word to where it comes again."""
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
        past, place = state  # letters up to that of the first column; each column has one, shown or not
        drawn_ones = torch.cat([past, by_column(length, drawn)], 1)
        places = (place[:, None] + torch.arange(length + 1, device=device)) % self.period
        mark = self._marks.to(device)[places]
        letter = torch.where(self._again(places), drawn_ones[:, : length + 1], drawn_ones[:, self.apart :])
        text = torch.where(mark < 0, letter, mark)
        x = text[:, :-1].contiguous()
        state = (drawn_ones[:, length:].clone(), places[:, -1].clone())
        return Batch(x, text[:, 1:].contiguous(), started(x, begins)), state

    @property
    def _marks(self) -> Tensor:
        """By the place in a line: the bracket or newline there, -1 where there is a letter."""
        letters, word = self.config.letters, self.config.word
        marks = torch.full((self.period,), -1)
        for place, mark in ((0, 0), (word + 1, 1), (self.apart, 0), (self.apart + word + 1, 1), (-1, 2)):
            marks[place] = letters + mark
        return marks

    def _again(self, places: Tensor) -> Tensor:
        """Whether a letter there has come before."""
        return places > self.apart

    def _unknown(self, length: int, score_from: int) -> float:
        """The share of labels that are letters of which nothing is known."""
        places = (torch.arange(score_from, length) + 1) % self.period
        return ((self._marks[places] < 0) & ~self._again(places)).double().mean().item()

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return self._unknown(length, score_from) * math.log(self.config.letters)

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return 1 - self._unknown(length, score_from) * (1 - 1 / self.config.letters)

    def stream_facts(self) -> dict[str, float]:
        unknown, letters = (self.config.word + self.config.between) / self.period, self.config.letters
        return {"loss_floor": unknown * math.log(letters), "accuracy_ceiling": 1 - unknown * (1 - 1 / letters)}

    def oracle(self, x: Tensor) -> Tensor:
        """Of a text from its beginning: the places are known by counting."""
        places = (torch.arange(x.shape[1], device=x.device) + 1) % self.period
        mark = self._marks.to(x.device)[places]
        earlier = torch.cat([x.new_zeros(len(x), self.apart - 1), x], 1)[:, : x.shape[1]]
        certain = torch.where(mark < 0, earlier, mark)
        likely = torch.nn.functional.one_hot(certain, self.vocab_size).double()
        likely[:, (mark < 0) & ~self._again(places)] = torch.cat(
            [torch.full((self.config.letters,), 1 / self.config.letters), torch.zeros(3)]
        ).to(likely)
        return likely
