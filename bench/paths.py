"""Paths as users write them, and as messages show them; names that become folders; files that may be anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bench.errors import BadInput, shown

LONGEST_NAME = 200
"""Bytes of a folder's name; file systems take 255."""


def at_home(path: str | Path) -> Path:
    """The path with a leading ~ or ~USER resolved. Raises `BadInput` where that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{path}: there is no such home folder; give the path in full") from None


def as_text(path: str | Path) -> str:
    """The path as text that any file can hold, even where the locale lacks some of its characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def folder_name(name: object, what: str, most: int = LONGEST_NAME) -> str:
    """The name of a grid, a plugin, a run, if it can be that of a folder, wherever it is made, and of no other place.

    Raises `BadInput`, which calls it `what`, where it is no text, or an empty or a long one, begins with a dot or a
    space, or has a separator or a control character in it.
    """
    if fault := folder_fault(name, most):
        raise BadInput(f"{what}: {shown(name)} given; {fault}")
    return str(name)


def folder_fault(name: object, most: int = LONGEST_NAME) -> str | None:
    """Why a name cannot be that of a folder; None when it can."""
    problem = None
    if not isinstance(name, str):
        problem = "be a text"
    elif not name or name[0] in ". " or name[-1] == " ":
        problem = "not be empty, nor begin with a dot, nor begin or end with a space"
    elif "/" in name or "\\" in name:
        problem = "have no / or \\ in it"
    elif not name.isprintable():
        problem = "have no control characters in it"
    elif len(os.fsencode(name)) > most:
        problem = f"be at most {most} bytes long"
    return problem and f"it names a folder, and should {problem}"


def grid_name(given: str) -> str:
    """What a grid is called, and its folder: a file by its name without the suffix. Raises `BadInput`."""
    return folder_name(Path(given).stem if is_grid_file(given) else given, f"grid {shown(given)}")


def is_grid_file(given: str) -> bool:
    """Whether a grid is given as a file, rather than by the name of a shipped one."""
    return Path(given).suffix in (".yaml", ".yml") or "/" in given


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes; a pipe or a device is not waited for.

    Raises `OSError` where it cannot be read, and `BadInput` (without the path) where it is another kind of file or
    larger.
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
        content = b"" if about.st_size > most else file.read(most + 1)  # (what is in /proc has no size)
    if max(about.st_size, len(content)) > most:
        raise BadInput(f"has {max(about.st_size, len(content)):,} bytes; may have up to {most:,}")
    return content
