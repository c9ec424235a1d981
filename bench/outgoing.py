"""Texts of any origin on their way out: a function for each place where a text could be more than that.

    terminal      escape sequences would move, hide or colour what others wrote
    clean         the same, on one line
    message       the same, and not too long to be read
    markdown      a cell of a GitHub table: HTML, links, bars
    spreadsheet   a cell of a CSV file that a spreadsheet would compute

HTML is escaped by the page's template, JSON by Python.
"""

from __future__ import annotations

import html
import re
from typing import Any

LONGEST = 400
"""Characters of a message."""
GUARDED = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet."""


def terminal(text: object) -> str:
    """Text as it is, its lines too, but no control characters: each is shown as the replacement character."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def clean(value: object) -> str:
    """Text on one line, with spaces for control characters."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def message(text: object) -> str:
    """Text on one line of at most `LONGEST` characters: of a longer one the beginning, and the end, which says what to
    do.
    """
    words = " ".join(clean(text).split())
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 155]} ... {words[-150:]}"


def markdown(text: object) -> str:
    """Text as plain words in a cell of a GitHub table."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(clean(text), quote=False))


def spreadsheet(value: Any) -> Any:
    """A text on one line, with an apostrophe before it where it would be a formula; all else as it is."""
    if not isinstance(value, str):
        return value
    return f"'{clean(value)}" if value.startswith(GUARDED) else clean(value)
