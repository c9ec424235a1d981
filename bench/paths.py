"""Paths as users write them, and as they are told; names that become folders; files that may be anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bench.errors import BadInput, shown

LONGEST_NAME = 200
"""Bytes of a folder's name; file systems take 255."""


def at_home(path: str | Path) -> Path:
    """The path with ~ or ~USER at its beginning resolved. Raises `BadInput` where that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{path}: there is no such home folder; give the path in full") from None


def as_text(path: str | Path) -> str:
    """The path in letters, also where the locale has not all of them: Python then keeps bytes, which no file takes."""
    return os.fsencode(path).decode("utf-8", "replace")


def folder_name(name: object, what: str, most: int = LONGEST_NAME) -> str:
    """The name of a grid, a plugin, a run, if it can be that of a folder, wherever it is made, and of no other place.

    Raises `BadInput`, which calls it `what`, where it is no text, or an empty or a long one, begins with a dot or a
    space, or has a separator or a control character in it.
    """
    problem = None
    if not isinstance(name, str):
        problem = "should be a text"
    elif not name or name[0] in ". " or name[-1] == " ":
        problem = "should not be empty, nor begin with a dot, nor begin or end with a space"
    elif "/" in name or "\\" in name:
        problem = "should have no / or \\ in it"
    elif not name.isprintable():
        problem = "should have no control characters in it"
    elif len(os.fsencode(name)) > most:
        problem = f"should be at most {most} bytes long"
    if problem:
        raise BadInput(f"{what}: {shown(name)} given; it names a folder, and {problem}")
    return str(name)


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes; a pipe or a device is not opened to be waited for.

    Raises `OSError` where it cannot be read, and `BadInput` (without the path) where it is another kind of file or
    larger.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError:
        raise BadInput("has a name that no file can have") from None
    with os.fdopen(number, "rb") as file:
        about = os.fstat(number)
        if stat.S_ISDIR(about.st_mode):
            raise BadInput("is a folder")
        if not stat.S_ISREG(about.st_mode):
            raise BadInput("is no regular file")
        if about.st_size > most:
            raise BadInput(f"has {about.st_size:,} bytes; may have up to {most:,}")
        content = file.read(most + 1)  # (what is in /proc has no size)
        if len(content) > most:
            raise BadInput(f"may have up to {most:,} bytes, and has more")
        return content
