"""What a section of the report is made of: exhibits, and notes on those that could not be made."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Exhibit:
    """A figure, a table, or both, with what to see in it and what was run for it."""

    name: str
    """Of its files: lower-case words with dashes, no two alike in a report."""
    title: str
    caption: str
    """What to see; whole sentences, plain text."""
    run: str
    """What was run: grids, tasks, sizes, budgets, seeds; plain text."""
    figure: Figure | None = None
    table: pd.DataFrame | None = None
    """Tidy and at full precision; written as CSV whole, and shown rounded."""
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    """What the page's filter finds it by."""


@dataclass(frozen=True)
class Missing:
    """An exhibit that could not be made."""

    name: str
    title: str
    reason: str
    """What is missing, and which grid or command would bring it."""


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    name: str
    title: str
    exhibits: tuple[Exhibit | Missing, ...] = field(default=())
