"""Errors that a user can act on: one line, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class BadInput(ValueError):
    """The user's input cannot be used. The message is one line that says what to change."""


class DamagedFile(UserWarning):
    """Warns of a damaged file of the results, where the program can go on."""


def cut(text: str, most: int = 80) -> str:
    """A text for a message, cut to its first `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def shown(value: Any, most: int = 80) -> str:
    """A value for a message: its `repr`, which is on one line, cut to its first `most` characters."""
    return cut(repr(value), most)


def line(error: BaseException, otherwise: str | None = None) -> str:
    """The first line of an error's message; `otherwise`, or the error's type, where it has none."""
    try:
        text = str(error).strip()
    except Exception:
        text = ""
    return next(iter(text.splitlines()), otherwise or type(error).__name__)


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to `given`, or None when none is close."""
    close = difflib.get_close_matches(given[:100], list(allowed), n=1, cutoff=0.5)
    return close[0] if close else None


def unknown(field: str, given: str, allowed: Iterable[str]) -> BadInput:
    """A `BadInput` for a name that is not allowed, with the closest one that is."""
    names = list(allowed)
    guess = nearest(given, names)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return BadInput(f"{field}: {shown(given)} is unknown; allowed: {', '.join(names) or 'nothing'}{hint}")
