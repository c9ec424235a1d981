"""What a claim is, what a verdict is, and how a claim is registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import pandas as pd

from bench.errors import BadInput
from bench.report.data import Data

Word = Literal["supported", "contradicted", "mixed", "inconclusive", "not tested"]
VERDICTS: tuple[Word, ...] = get_args(Word)
NUMBERS = ("what", "value", "low", "high", "n")
"""Columns of a verdict's numbers: a value with its 95 % interval (NaN: none) over n seeds."""


def no_numbers() -> pd.DataFrame:
    """The numbers of a claim that was not tested."""
    return pd.DataFrame(columns=list(NUMBERS))


@dataclass(frozen=True)
class Verdict:
    """What the data says about a claim. Raises `BadInput` for a verdict that is not one of `VERDICTS`."""

    verdict: Word
    because: str
    """One to three plain sentences: the decisive numbers, and what they are judged by."""
    numbers: pd.DataFrame = field(default_factory=no_numbers)
    """A row per number: what, value, low, high, n (seeds; 1 for what is traced, which no seed changes)."""
    why: str | None = None
    """Where the data contradicts the claim or disagrees with itself: why that may be."""
    regime: str = ""
    """At which lengths and budgets, and of which methods, it was judged; it holds for no other."""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise BadInput(f"verdict: {self.verdict!r} given; should be one of {', '.join(VERDICTS)}")


Judge = Callable[[Data], Verdict]


@dataclass(frozen=True)
class Claim:
    """A statement that data can support or contradict, and the function that asks the data."""

    key: str
    text: str
    figure: str
    """Name of the exhibit that shows it."""
    grids: tuple[str, ...]
    """Shipped grids that test it."""
    judge: Judge
    when: Callable[[Data], bool] = lambda data: True
    """Whether data is about the claim at all: of other data it is not listed."""


_claims: dict[str, Claim] = {}


def register_claim(
    key: str, text: str, figure: str, grids: Sequence[str], when: Callable[[Data], bool] = lambda data: True
) -> Callable[[Judge], Judge]:
    """Decorator of a claim's judge. Raises `BadInput`, naming both places, when the key is taken.

    `key`: "1" .. "14" are the paper's; a plugin brings a name of its own. `figure`: an exhibit's name. `grids`: those
    that would test it. `when`: whether data is about it at all, so that it is listed.
    """

    def add(judge: Judge) -> Judge:
        other = _claims.get(key)
        if other is not None and _place(other.judge) != _place(judge):
            raise BadInput(f"claim {key!r} is registered twice: at {_place(other.judge)} and at {_place(judge)}")
        _claims[key] = Claim(key, text, figure, tuple(grids), judge, when)
        return judge

    return add


def _place(judge: Judge) -> str:
    code = getattr(judge, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(judge)


def registered() -> list[Claim]:
    """All claims: the paper's in their order, then the others by key."""
    return sorted(_claims.values(), key=lambda claim: (not claim.key.isdecimal(), claim.key.zfill(9), claim.key))
