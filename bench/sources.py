"""The sources of imported modules, as they were at import.

A digest of the files at the time of the call would describe the disk, not the code that runs. So a source is read once:
when its module registers a class, else once plugins are loaded, else for its first digest.
"""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec, resolve_name
from itertools import pairwise
from pathlib import Path
from types import ModuleType

BETWEEN_STATEMENTS = (tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)
STDLIB = Path(sysconfig.get_path("stdlib")).resolve()

_read: dict[str, bytes] = {}  # file -> its source


def note(name: str) -> None:
    """Read the source of a module that is being imported, also when it is imported again."""
    if file := _file(name):
        _read[file] = Path(file).read_bytes()


def of(*roots: type | ModuleType) -> dict[str, bytes]:
    """Module name -> source, for the modules on which these classes and modules depend.

    It follows the modules whose names they use, as far as these are in `bench`, in a root's own package, or below the
    folder of a plugin's file. So neither a new task nor a change in the report makes a finished cell stale.
    """
    waiting = [root.__name__ if isinstance(root, ModuleType) else root.__module__ for root in roots]
    packages = {"bench", *map(_package, waiting)}
    folders = {Path(file).resolve().parent for name in waiting if _package(name) != "bench" and (file := _file(name))}
    waiting += [base.__module__ for root in roots if isinstance(root, type) for base in root.__mro__]
    found: dict[str, bytes] = {}
    seen = set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        file = _file(name)
        if file is None or not (_package(name) in packages or _neighbour(Path(file).resolve(), folders)):
            continue
        if file not in _read:
            note(name)
        found[name] = _read[file]
        for attribute, value in vars(sys.modules[name]).items() if name in sys.modules else ():
            other = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if other == f"{name}.{attribute}":
                continue  # (submodules are attributes of a package whoever has imported them)
            if isinstance(other, str) and other in sys.modules:
                waiting.append(other)
        if _package(name) != "bench":
            waiting += _imports(name, file)
    return found


def digest(*roots: type | ModuleType) -> str:
    """A hash, 16 hexadecimal digits, over what computes in the sources `of` these classes and modules."""
    each = sorted(hashlib.sha256(computing(source)).digest() for source in of(*roots).values())
    return hashlib.sha256(b"".join(each)).hexdigest()[:16]


@cache
def computing(source: bytes) -> bytes:
    """The lines of a source without comments, docstrings and empty lines; all of one that has no tokens of Python."""
    try:
        text = source.decode()
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return source
    lines = text.split("\n")
    begins = True  # a statement
    for token, following in pairwise(tokens):
        first, last = token.start[0] - 1, token.end[0]
        if token.type == tokenize.COMMENT:
            lines[first] = lines[first][: token.start[1]]
        elif begins and token.type == tokenize.STRING and following.type == tokenize.NEWLINE:
            lines[first:last] = [""] * (last - first)
        begins = token.type in BETWEEN_STATEMENTS
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()


def _package(name: str) -> str:
    return name.partition(".")[0]


def _file(name: str) -> str | None:
    """The source file of a module, which need not be imported yet; None where there is none."""
    file = None
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    elif (parent := name.rpartition(".")[0]) in sys.modules or not parent:  # (finding a spec would import the parent)
        with suppress(ImportError, ValueError):
            spec = find_spec(name)
            file = spec and spec.origin
    known = isinstance(file, str) and file.endswith(".py") and (file in _read or Path(file).is_file())
    return file if known else None


def _neighbour(file: Path, folders: set[Path]) -> bool:
    """Whether a file lies below one of these folders and belongs neither to Python nor to an installed package."""
    installed = "site-packages" in file.parts or "dist-packages" in file.parts or STDLIB in file.parents
    return not installed and not folders.isdisjoint(file.parents)


def _imports(name: str, file: str) -> Iterator[str]:
    """The imports in a module's source, as plain numbers do not name their module, and some imports are deferred."""
    package = name if Path(file).stem == "__init__" else name.rpartition(".")[0]
    try:
        tree = ast.parse(_read[file])
    except (SyntaxError, ValueError):  # in a neighbour that nothing has imported yet
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            with suppress(ImportError):
                base = resolve_name(base, package) if node.level else base
                yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
