"""Output of text from any source, escaped for the place where it is shown.

    terminal      without escape sequences, which move, hide or colour other text
    clean         the same, on one line
    message       the same, not too long to read
    markdown      a cell of a GitHub table, without HTML, links and bars
    spreadsheet   a cell of a CSV file, which a spreadsheet does not take for a formula

HTML is escaped by the page's template, JSON by Python.
"""

from __future__ import annotations

import html
import re
from typing import Any

LONGEST = 400
"""The largest number of characters in a message."""
GUARDED = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins with one of these for a formula."""


def terminal(text: object) -> str:
    """Text with its line breaks, where other control characters become the replacement character."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def clean(value: object) -> str:
    """Text on one line, with spaces for control characters."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def message(text: object) -> str:
    """Text on one line of at most `LONGEST` characters; the middle is cut out, as the end says what to do."""
    words = " ".join(clean(text).split())
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 155]} ... {words[-150:]}"


def markdown(text: object) -> str:
    """Text as plain words for a cell of a GitHub table."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(clean(text), quote=False))


def spreadsheet(value: Any) -> Any:
    """Text on one line, after an apostrophe where it would be a formula; other values unchanged."""
    if not isinstance(value, str):
        return value
    return f"'{clean(value)}" if value.startswith(GUARDED) else clean(value)
