"""copy-curriculum: repeat a string of bits; the strings grow longer as the task is learned.

    x = 2 1 0 1 3 3 3 3  ->  y = 3 3 3 3 2 1 0 1        (a string of T = 3; 2 begins it, 3 is blank)

A stream has a level L, 1 at first, and strings of T = max(1, L - u) bits, u uniform on 0 to 4; the lane restarts with
each string. Once the mean loss over about a thousand columns is below `pass_below` bits a label, the next string raises
the level to L + 1. Every label can be predicted; the loss is over all labels, most of which are easy. From the code of
Benzing et al., arXiv 1902.03993 (string memorisation).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.config import Positive, TaskConfig
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks.base import Batch, Split, StreamState, Task, corrupted_oracle
from bench.tasks.endless import by_column, chain, since

BEGIN, NOTHING = 2, 3
SPREAD = 5
KEPT = 0.999
"""The decay per column of the moving average of the loss."""


class CopyCurriculumConfig(TaskConfig):
    """Knobs of copy-curriculum."""

    length: Annotated[int, Field(ge=4)] = Field(
        34, description="columns of a string for evaluation: 2 T + 2; held-out streams have the level T"
    )
    pass_below: Annotated[float, Field(gt=0)] = Field(0.15, description="bits per label below which the level rises")
    then: Annotated[float, Field(gt=0)] = Field(0.3, description="the mean loss is set to this when the level rises")
    highest: Positive = Field(128, description="the level rises no further")


@register_task("copy-curriculum")
class CopyCurriculum(Task):
    """Repeating a whole string, at a level that rises as the stream is learned."""

    Config = CopyCurriculumConfig
    config: CopyCurriculumConfig
    unit = "bits"
    vocab_size = 4

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        if length < 4:
            raise BadInput(f"{self.name}: length {length} given; should be at least 4")
        size = (length - 2) // 2
        bits = torch.randint(2, (batch_size, size), generator=generator, device=generator.device)
        begin, nothing = bits.new_full((batch_size, 1), BEGIN), bits.new_full((batch_size, size + 1), NOTHING)
        return Batch(torch.cat([begin, bits, nothing], 1), torch.cat([nothing, begin, bits], 1))

    def stream(
        self, split: Split, lanes: int, length: int, generator: torch.Generator, state: StreamState | None = None
    ) -> tuple[Batch, StreamState]:
        device = generator.device

        def drawn() -> Tensor:
            return torch.randint(2 * SPREAD, (lanes,), generator=generator, device=device)  # a bit and u

        if state is None:
            level = torch.tensor(1 if split == "train" else (self.config.length - 2) // 2, device=device)
            first = drawn()
            size, position = (level - first // 2).clamp(min=1), torch.zeros_like(first)
            past = torch.cat([first.new_zeros(lanes, self.config.highest + 1), first[:, None] % 2], 1)
            mean, columns = torch.ones((), dtype=torch.float64, device=device), torch.zeros_like(level)
        else:
            level, mean, columns, size, position, past = state
        rises = (
            (mean < self.config.pass_below) & (2 * size + 2 - position <= length).any() & (level < self.config.highest)
        )
        level, mean = level + rises, torch.where(rises, self.config.then, mean)
        numbers = by_column(length, drawn)
        sizes = torch.cat(
            [size[:, None], (level - numbers // 2).clamp(min=1)], 1
        )  # the size of a string that begins there
        steps = 2 * sizes + 2
        steps[:, 0] -= position
        last, ago = since(chain(steps))
        size, position = sizes.gather(1, last), ago + torch.where(last == 0, position[:, None], 0)  # (B, T + 1)
        bits = torch.cat([past, numbers % 2], 1)  # each column has one, shown or not
        here = torch.arange(length + 1, device=device) + self.config.highest + 1
        x = torch.where(position == 0, BEGIN, torch.where(position <= size, bits[:, here], NOTHING))
        repeated = bits.gather(1, here - size - 1)
        y = torch.where(position <= size, NOTHING, torch.where(position == size + 1, BEGIN, repeated))
        state = (
            *(level, mean, torch.full_like(columns, length)),
            *(size[:, -1].clone(), position[:, -1].clone(), bits[:, length:].clone()),
        )
        return Batch(*(part[:, :-1].contiguous() for part in (x, y, position == 0))), state

    def advance(self, state: StreamState, loss: Tensor) -> StreamState:
        level, mean, columns, *rest = state
        kept = KEPT ** columns.double()
        return (level, kept * mean + (1 - kept) * loss.double() / math.log(2), columns, *rest)

    def standing(self, state: StreamState) -> dict[str, Tensor]:
        return {"level": state[0]}

    def scored_columns(self, length: int) -> range:
        return range(length // 2 * 2)

    def loss_floor(self, length: int, score_from: int = 0) -> float:
        return 0.0

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float:
        return 1.0

    def oracle(self, x: Tensor) -> Tensor:
        """The probabilities in a string that begins a lane."""
        columns = torch.arange(x.shape[1], device=x.device)
        after = (x == NOTHING).long().cumsum(1).clamp(max=1).cumsum(1)  # columns since the first NOTHING
        size = columns - after  # the size of the string, once it has ended
        repeated = x.gather(1, (columns - size - 1).clamp(min=0))
        y = torch.where(after == 0, NOTHING, torch.where(after == 1, BEGIN, repeated))
        return corrupted_oracle(y, 4, range(4))
