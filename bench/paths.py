"""Paths as users write them, and as they are told."""

from __future__ import annotations

import os
from pathlib import Path

from bench.errors import BadInput


def at_home(path: str | Path) -> Path:
    """The path with ~ or ~USER at its beginning resolved. Raises `BadInput` where that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{path}: there is no such home folder; give the path in full") from None


def as_text(path: str | Path) -> str:
    """The path in letters, also where the locale has not all of them: Python then keeps bytes, which no file takes."""
    return os.fsencode(path).decode("utf-8", "replace")
