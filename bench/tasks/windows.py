"""Natural tasks: windows of a long token array, every next token to be predicted.

    tokens = 5 1 4 1 5 9 2, a window of length 4 from the second token:  x = 1 4 1 5 -> y = 4 1 5 9

The arrays are prepared once (see `data`) and memory-mapped, so that memory holds only what is drawn. A split that is
small enough is copied to the accelerator; windows of a larger one are gathered on the CPU and copied.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bench.config import TaskConfig
from bench.errors import BadInput
from bench.tasks import data
from bench.tasks.base import SPLITS, Batch, Split, StreamState, Task

LARGEST_ON_DEVICE = 512 * 2**20  # bytes; holds each of mnist and sketchy (278 MB), not tinystories (1.9 GB)

READ, READ_AT_ONCE = 2**24, 2**20
"""The number of tokens of a split that are searched for labels; missed ones are rarer than one in millions."""


class ImageConfig(TaskConfig):
    """Knobs of tasks whose tokens are a sequence of images."""

    start: Literal["image", "anywhere"] = "image"
    """Where windows begin. In either case a long window runs on into the next image."""


class WindowTask(Task):
    """Next-token prediction. A subclass sets `dataset`, and defines `look_up` where tokens are packed."""

    unit = "bits"
    continues = True
    dataset: ClassVar[data.Dataset]
    image_tokens: ClassVar[int] = 1
    """The number of tokens of an image, for tasks with an `ImageConfig`."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        arrays, self.about = self.load()
        self._columns = {split: tuple(map(torch.from_numpy, self.split_arrays(arrays, split))) for split in SPLITS}
        self._on_device: dict[tuple[Split, torch.device], tuple[Tensor, ...]] = {}
        anywhere = getattr(config, "start", "anywhere") == "anywhere"
        self._stride = 1 if anywhere else self.image_tokens

    @property
    def picture_symbols(self) -> int | None:
        """The number of tokens of an image, for tasks of images."""
        return self.image_tokens if isinstance(self.config, ImageConfig) else None

    @classmethod
    def missing(cls) -> str | None:
        """The commands that bring the data, when it is missing; None otherwise."""
        return data.missing(cls.name, cls.dataset)

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All arrays by name, and the contents of `prepared.json`. Raises `BadInput` when they are missing."""
        return data.arrays(self.name, self.dataset)

    def split_arrays(self, arrays: dict[str, np.ndarray], split: Split) -> tuple[np.ndarray, ...]:
        """The arrays that `look_up` needs for a split."""
        return (arrays[split],)

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """A hash of the prepared data, by which results on other data are stale."""
        return self.about["fingerprint"]

    def tokens(self, split: Split) -> int:
        """The number of tokens of a split."""
        return self._columns[split][0].shape[0]

    def look_up(self, columns: tuple[Tensor, ...], index: Tensor) -> Tensor:
        """The tokens at `index` (B, W), on the device of the columns: int64 (B, W)."""
        return columns[0][index].long()

    def chance(self, length: int, score_from: int = 0) -> float:
        """Accuracy of a blind guess among the labels that occur at the beginning of each split."""
        positions = (
            (torch.arange(score_from, length) + 1).remainder(self._stride).unique()
        )  # of the labels, in an image
        counts = torch.zeros(self.output_size, dtype=torch.long)
        for split in SPLITS:
            total = self.tokens(split)
            starts = torch.arange(0, min(total, READ), self._stride)
            for some in starts.split(max(1, READ_AT_ONCE // len(positions))):
                if counts.all():
                    break
                index = (some[:, None] + positions).remainder(total)
                labels = self.look_up(self._columns[split], index)
                counts += labels.flatten().bincount(minlength=self.output_size)
        return 1 / int(counts.count_nonzero())

    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        """Windows from random positions. Raises `BadInput` when the split is shorter than a window."""
        starts = (self._held(split, length) - length - 1) // self._stride + 1
        first = torch.randint(starts, (batch_size,), generator=generator, device=generator.device) * self._stride
        return self._windows(split, first, length)

    def stream(
        self, split: Split, lanes: int, length: int, generator: torch.Generator, state: StreamState | None = None
    ) -> tuple[Batch, StreamState]:
        """Lanes that each read on from a random position; after the last token comes the first. Only None restarts.

        The state is the lanes' positions, as nothing is drawn ahead.
        """
        total = self._held(split, length)
        begins = state is None
        if state is None:
            images = total // self._stride
            first = torch.randint(images, (lanes,), generator=generator, device=generator.device) * self._stride
            state = (first,)
        (position,) = state
        batch = self._windows(split, position, length)
        start = (torch.arange(length, device=position.device) == 0) & begins
        return batch._replace(start=start.expand(lanes, -1)), ((position + length) % total,)

    def _held(self, split: Split, length: int) -> int:
        total = self.tokens(split)
        if length >= total:
            raise BadInput(
                f"{self.name}: length {length} given; the {split} split has {total} tokens, so at most {total - 1}"
            )
        return total

    def _windows(self, split: Split, first: Tensor, length: int) -> Batch:
        """The windows that begin at `first` (B,), on its device."""
        columns = self._on(split, first.device)
        index = first.to(columns[0].device)[:, None] + torch.arange(length + 1, device=columns[0].device)  # (B, T + 1)
        window = self.look_up(columns, index % self.tokens(split)).to(first.device)
        return Batch(window[:, :-1].contiguous(), window[:, 1:].contiguous())

    def _on(self, split: Split, device: torch.device) -> tuple[Tensor, ...]:
        """The split's arrays on the device, or on the CPU where they are too large for it."""
        columns = self._columns[split]
        if device.type == "cpu" or sum(column.nbytes for column in columns) > LARGEST_ON_DEVICE:
            return columns
        if (split, device) not in self._on_device:
            self._on_device[split, device] = tuple(column.to(device) for column in columns)
        return self._on_device[split, device]
