"""Errors that a user can act on: one line, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """The user's input cannot be used. The message is one line that says what to change."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to `given`, or None when none is close."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return close[0] if close else None


def unknown(field: str, given: str, allowed: Iterable[str]) -> BadInput:
    """A `BadInput` for a name that is not allowed, with the closest one that is."""
    names = list(allowed)
    guess = nearest(given, names)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return BadInput(f"{field}: {given!r} is unknown; allowed: {', '.join(names) or 'nothing'}{hint}")
