"""One file of a results folder: written completely or not at all, and read by one function.

That is `read`. It takes regular files of up to `LIMIT` bytes and checks their form, the checksum that `write_record`
gave them, and the cell that they belong to. If a check fails it raises `Damaged`, which names the file and says why.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from bench.errors import BadInput, DamagedFile

LIMIT = 64 * 2**20
"""The largest size of a JSON file, in bytes."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
SEAL = re.compile(rb'\{"checksum": "([0-9a-f]{8})",\n')
"""The first line of a file with a checksum: the CRC-32 of all bytes after this line."""


class CannotWrite(OSError):
    """A file of the results cannot be written: the disk is full, or the folder is read-only or gone."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))
        self.path = path

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"


class Damaged(BadInput):
    """A file of the results is not as it should be; `reason` says why."""

    how = "damaged"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {self.how}: {reason}")
        self.path, self.reason = path, reason


class Unreached(Damaged):
    """The system cannot read a file, which may be intact: it must not be replaced."""

    how = "cannot be read"


class InTheWay(Damaged):
    """Something other than a folder is where a folder should be."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "should be a folder")


def warn_of(error: Damaged, then: str = "") -> None:
    """Warn the user of a damaged file, and say what was done about it."""
    warnings.warn(f"{error}{f'; {then}' if then else ''}", DamagedFile, stacklevel=2)


# Writing.


class _ErrorKeepingFile(io.FileIO):
    """A file that keeps the error of a write, which a library that writes to it may hide behind its own."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        view, written = memoryview(data).cast("B"), 0
        try:
            while written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.failure = error
            raise
        return written


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file completely or not at all: to a temporary file beside it, flushed to disk, then renamed.

    Raises `CannotWrite`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")  # with the permissions of the user's umask
    file: _ErrorKeepingFile | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _ErrorKeepingFile(temporary, "xb") as file:
            write(file)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if failure := file.failure if file and file.failure else error if isinstance(error, OSError) else None:
            raise CannotWrite(path, failure) from error
        raise


def create_once(path: Path, source: Path) -> bool:
    """Give a complete file its final name, unless that name is taken. Returns whether it did.

    A hard link either creates the name or fails, in one step, also on network file systems. Where there are no hard
    links the file is created exclusively and then written: a reader may for a moment see an incomplete file.
    """
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in NO_SPACE:
            raise CannotWrite(path, error) from error
        return _create_by_copy(path, source)
    return True


def _create_by_copy(path: Path, source: Path) -> bool:
    data = source.read_bytes()
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    except OSError as error:
        raise CannotWrite(path, error) from error
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise CannotWrite(path, error) from error
    return True


def share(source: Path, path: Path) -> None:
    """Give a file a second name, by a hard link where possible: files are only ever replaced by renaming."""
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:  # not on every file system
        with source.open("rb") as whole:
            write_atomically(path, lambda file: shutil.copyfileobj(whole, file))


def put_aside(path: Path, to: Path) -> Path:
    """Move what is in the way into a folder as damaged-<its name>, and return its new path.

    Raises `CannotWrite`.
    """
    aside = to / f"damaged-{path.name}"
    if os.path.lexists(aside):
        aside = to / f"damaged-{path.name}-{secrets.token_hex(4)}"
    try:
        path.rename(aside)
    except OSError as error:
        raise CannotWrite(aside, error) from error
    return aside


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. Floats keep every digit; NaN and infinities are written as null."""
    text = json.dumps(_kept(value), indent=1, allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode()))


def write_record(path: Path, value: Mapping[str, Any] | Sequence[Any], identity: str | None = None) -> None:
    """Write JSON atomically with a checksum, and the identity of the cell that it belongs to, if any.

    The value is a non-empty record, or a list, which is stored under "records".
    """
    record = value if isinstance(value, Mapping) else {"records": value}
    owned = {"cell": identity, **record} if identity else dict(record)
    text = json.dumps(_kept(owned), indent=1, allow_nan=False).encode()
    body = text.removeprefix(b"{\n")
    sealed = b'{"checksum": "%08x",\n%s' % (zlib.crc32(body), body)
    write_atomically(path, lambda file: file.write(sealed))


def _kept(value: Any) -> Any:
    """The value as JSON can hold it: without infinities, and without lone surrogates from undecodable file names."""
    if isinstance(value, dict):
        return {key: _kept(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_kept(item) for item in value]
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


# Reading.


def read_bytes(path: Path, limit: int = LIMIT) -> bytes | None:
    """The content of a regular file; None where there is none. Raises `Damaged`, also for a pipe, without waiting."""
    number = _open(path, limit)
    if number is None:
        return None
    try:
        with os.fdopen(number, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise Unreached(path, error.strerror or str(error)) from None


def open_regular(path: Path) -> BinaryIO | None:
    """Open a regular file of any size to read; None where there is none. Raises `Damaged`."""
    number = _open(path)
    return None if number is None else os.fdopen(number, "rb")


def _open(path: Path, limit: int | None = None) -> int | None:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise Damaged(path, "is a broken link") from None
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Damaged(path, "is not a regular file") from None
        raise Unreached(path, error.strerror or str(error)) from None
    found = os.fstat(number)
    if stat.S_ISREG(found.st_mode) and (limit is None or found.st_size <= limit):
        return number
    os.close(number)
    if stat.S_ISREG(found.st_mode):
        raise Damaged(path, f"has {found.st_size / 2**20:.0f} MiB; should have {LIMIT >> 20} at most")
    raise Damaged(path, "is a folder, should be a file" if stat.S_ISDIR(found.st_mode) else "is not a regular file")


def read(path: Path, form: TypeAdapter[Any] | None = None, identity: str | None = None) -> Any:
    """The contents of a JSON file without its checksum and cell; None where there is no such file.

    Raises `Damaged` when it does not match `form`, its checksum, or the cell of this identity.
    """
    data = read_bytes(path)
    if data is None:
        return None
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        reason = "is empty" if not data.strip() else f"is not JSON: {error}"
        raise Damaged(path, reason) from None
    if isinstance(value, dict):
        value = _unsealed(path, data, value, identity)
    if form is not None:
        check(path, value, form)
    return value


def _unsealed(path: Path, data: bytes, value: dict[str, Any], identity: str | None) -> Any:
    """The value that `write_record` was given. Raises `Damaged` where the checksum or the cell does not match."""
    seal = SEAL.match(data)
    owner = value.pop("cell", None)
    if seal is None:
        if owner is not None:  # every file that names its cell has a checksum
            raise Damaged(path, "has lost its checksum")
        return value
    if zlib.crc32(memoryview(data)[seal.end() :]) != int(seal[1], 16):
        raise Damaged(path, "does not match its checksum")
    if identity is not None and owner is not None and owner != identity:
        raise Damaged(path, f"belongs to another cell, {owner!r:.40}")
    del value["checksum"]
    return value["records"] if value.keys() == {"records"} else value


def check(path: Path, value: Any, form: TypeAdapter[Any]) -> None:
    """Raise `Damaged` when the value does not have this form."""
    try:
        form.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        problem = first["msg"].replace("Input should", "should").replace("Field required", "is missing")
        problem = re.sub(r" or instance of \w+", "", problem)
        raise Damaged(path, f"has an unexpected form: {place}{': ' if place else ''}{problem}"[:200]) from None


def read_json(path: Path, form: TypeAdapter[Any] | None = None) -> Any:
    """Like `read`, but warn the user of a damaged file and return None for it."""
    try:
        return read(path, form)
    except Damaged as error:
        warn_of(error)
        return None
