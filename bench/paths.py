"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BadInput


def at_home(path: str | Path) -> Path:
    """The path with ~ or ~USER at its beginning resolved. Raises `BadInput` where that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{path}: there is no such home folder; give the path in full") from None
