"""Paths from users and in messages, names that become folders, and reading files of unknown kind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bench.errors import BadInput, shown

LONGEST_NAME = 200
"""The largest number of bytes in a folder's name; file systems allow 255."""


def at_home(path: str | Path) -> Path:
    """The path with a leading ~ or ~USER resolved. Raises `BadInput` where that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{path}: there is no such home folder; give the path in full") from None


def as_text(path: str | Path) -> str:
    """The path as text that any file can hold, even where the locale lacks some characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def folder_name(name: object, what: str, most: int = LONGEST_NAME) -> str:
    """Check that the name of a grid, a plugin or a run can be that of a folder on any system, and return it.

    Raises `BadInput`, which calls it `what`, where it is not a string, is empty or too long, begins with a dot or a
    space, or contains a separator or a control character.
    """
    if fault := folder_fault(name, most):
        raise BadInput(f"{what}: {shown(name)} given; {fault}")
    return str(name)


def folder_fault(name: object, most: int = LONGEST_NAME) -> str | None:
    """Why a name cannot be that of a folder, or None."""
    problem = None
    if not isinstance(name, str):
        problem = "be a string"
    elif not name or name[0] in ". " or name[-1] == " ":
        problem = "not be empty, nor begin with a dot, nor begin or end with a space"
    elif "/" in name or "\\" in name:
        problem = "not contain / or \\"
    elif not name.isprintable():
        problem = "not contain control characters"
    elif len(os.fsencode(name)) > most:
        problem = f"be at most {most} bytes long"
    return problem and f"it names a folder, and should {problem}"


def grid_name(given: str) -> str:
    """The name of a grid and of its folder; a file is named without its suffix. Raises `BadInput`."""
    return folder_name(Path(given).stem if is_grid_file(given) else given, f"grid {shown(given)}")


def is_grid_file(given: str) -> bool:
    """Whether a grid is given as a file, rather than by the name of a shipped one."""
    return Path(given).suffix in (".yaml", ".yml") or "/" in given


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes, without waiting for a pipe or a device.

    Raises `OSError` where it cannot be read, and `BadInput` (without the path) where it is too large or not regular.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:
        raise BadInput("has a name that no file can have") from None
    about = os.fstat(number)
    if not stat.S_ISREG(about.st_mode):
        os.close(number)
        raise BadInput("is a folder" if stat.S_ISDIR(about.st_mode) else "is not a regular file")
    with os.fdopen(number, "rb") as file:
        content = b"" if about.st_size > most else file.read(most + 1)  # (files in /proc report no size)
    if max(about.st_size, len(content)) > most:
        raise BadInput(f"has {max(about.st_size, len(content)):,} bytes; may have up to {most:,}")
    return content
