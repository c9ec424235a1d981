"""The base of text tasks with few symbols: a symbol is an index into an alphabet that comes with the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench.config import Positive, TaskConfig
from bench.errors import BadInput
from bench.tasks import data
from bench.tasks.windows import WindowTask

MOST = 1 << 28
"""The largest size of a text in bytes; the real ones have a few million."""


class CharactersConfig(TaskConfig):
    """Knobs of a text task."""

    length: Positive = 256


class CharacterTask(WindowTask):
    """Characters of a text, each to be predicted from those before it."""

    Config = CharactersConfig

    @property
    def alphabet(self) -> str:
        """The characters, in the order of their symbols."""
        alphabet = self.about["settings"].get("alphabet")
        if not isinstance(alphabet, str):
            raise BadInput(f"{self.name}: its prepared.json has no alphabet; fetch or import {self.name} again")
        return alphabet

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet)

    def text(self, x: Tensor) -> list[str]:
        return ["".join(self.alphabet[symbol] for symbol in row) for row in x.tolist()]


def read(path: Path) -> str:
    """The text of a file, gzipped or not. Raises `BadInput` in one line for a file without text."""
    try:
        text = data.unpacked(path, MOST).decode("ascii")
    except UnicodeDecodeError:
        raise BadInput(f"{path.name} is not plain ASCII text") from None
    if odd := sorted(character for character in set(text) if not (character.isprintable() or character.isspace())):
        raise BadInput(f"{path.name} is not plain text: it has the control character {odd[0]!r}")
    return text


def save(into: Path, parts: Mapping[Any, str], alphabet: str) -> dict[str, Any]:
    """Write each split's text as symbols, and return their counts.

    Raises `BadInput` for a split without text, and for characters outside the alphabet.
    """
    counts = {}
    for split, text in parts.items():
        if len(text) < 2:
            raise BadInput(f"the {split} split has {len(text)} characters; should have two or more")
        if foreign := sorted(set(text) - set(alphabet)):
            raise BadInput(f"the {split} split has {foreign[0]!r}, which is not among the {len(alphabet)} symbols")
        index = np.zeros(128, np.uint8)
        index[np.frombuffer(alphabet.encode(), np.uint8)] = np.arange(len(alphabet))
        np.save(into / f"{split}.npy", index[np.frombuffer(text.encode(), np.uint8)])
        counts[split] = {"tokens": len(text)}
    return counts
