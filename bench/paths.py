"""Paths as users write them, and as messages show them."""

from __future__ import annotations

import os
from pathlib import Path

from bench.errors import BadInput


def at_home(path: str | Path) -> Path:
    """The path with a leading ~ or ~USER resolved. Raises `BadInput` where that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{path}: there is no such home folder; give the path in full") from None


def as_text(path: str | Path) -> str:
    """The path as text that any file can hold, even where the locale lacks some of its characters."""
    return os.fsencode(path).decode("utf-8", "replace")
