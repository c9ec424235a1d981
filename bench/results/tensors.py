"""Files of tensors, checkpoints and weights: written completely or not at all, and verified when they are read.

A file is a zip from `torch.save` of {"cell": identity, "tree": value}. A zip has a checksum (CRC-32) of each part,
which torch ignores: here it is verified before anything is read. Older files do not name their cell, and are taken to
belong to that of their folder.
"""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from bench.results.files import Damaged, Unreached, open_regular, write_atomically

PIECE = 1 << 20


def save_tensors(path: Path, tree: Any, identity: str | None = None) -> None:
    """Write a tree of tensors and plain values of the cell with this identity, atomically. Raises `CannotWrite`."""
    write_atomically(path, lambda file: torch.save({"cell": identity, "tree": tree}, file))


def load_tensors(path: Path, device: torch.device | str = "cpu", identity: str | None = None) -> Any:
    """Read what `save_tensors` wrote; nothing in the file is executed.

    Raises `Damaged` when it is missing, incomplete, or belongs to another cell; `MemoryError` or torch's own error
    when memory runs out.
    """
    file = open_regular(path)
    if file is None:
        raise Damaged(path, "is missing")
    with file:
        _verify(path, file)
        file.seek(0)
        try:
            saved = torch.load(file, map_location=device, weights_only=True)
        except Exception as error:
            if out_of_memory(error) or of_the_device(error):
                raise
            raise Damaged(path, f"does not hold tensors that bench wrote ({type(error).__name__})") from None
    if not isinstance(saved, dict) or saved.keys() != {"cell", "tree"}:
        return saved  # an older file
    if identity is not None and saved["cell"] not in (None, identity):
        raise Damaged(path, f"belongs to another cell, {saved['cell']!r:.40}")
    return saved["tree"]


def verify(path: Path) -> None:
    """Raise `Damaged` when a file of tensors is missing or incomplete."""
    file = open_regular(path)
    if file is None:
        raise Damaged(path, "is missing")
    with file:
        _verify(path, file)


def _verify(path: Path, file: BinaryIO) -> None:
    """Check every part against its checksum. Parts are stored uncompressed: a compressed one is not torch's."""
    try:
        with zipfile.ZipFile(file) as whole:
            size = file.seek(0, os.SEEK_END)
            for part in whole.infolist():
                size -= part.file_size
                if size < 0 or part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
                    raise Damaged(path, "is a compressed file, which bench did not write")
                with whole.open(part) as content:
                    while content.read(PIECE):
                        pass
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # a truncated zip has offsets before its beginning
            raise Unreached(path, error.strerror or str(error)) from None
        raise Damaged(path, "is truncated, or not a file of tensors") from None
    except Damaged:
        raise
    except Exception as error:  # (a damaged zip may raise anything)
        if out_of_memory(error):
            raise
        words = str(error) if "CRC" in str(error) else "is truncated, or not a file of tensors"
        raise Damaged(path, words) from None


def load_weights(
    module: nn.Module, path: Path, device: torch.device | str = "cpu", identity: str | None = None
) -> None:
    """Load the weights of the cell with this identity into a module. Raises `Damaged` where they do not match."""
    saved = load_tensors(path, device, identity)
    try:
        module.load_state_dict(saved)
    except Exception as error:
        if out_of_memory(error) or of_the_device(error):
            raise
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise Damaged(path, f"holds other tensors than the method has: {lines[-1]:.160}") from None


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch's CPU allocator says so in a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    message = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in message or "can't allocate memory" in message)


def of_the_device(error: BaseException) -> bool:
    """Whether an exception is the device's fault, and not that of the file."""
    return isinstance(error, RuntimeError) and "CUDA" in str(error)
