"""The sources of imported modules, as they were at import.

A digest of the files as they are when it is asked for would describe the disk, not the code that runs. So a source is
read once: when its module registers a class, else as soon as plugins are loaded, else for its first digest.
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
from pathlib import Path
from types import ModuleType

STDLIB = Path(sysconfig.get_path("stdlib")).resolve()

_read: dict[str, bytes] = {}  # file -> its source


def note(name: str) -> None:
    """Read the source of a module that is being imported, also when it is imported again."""
    if file := _file(name):
        _read[file] = Path(file).read_bytes()


def of(*roots: type | ModuleType) -> dict[str, bytes]:
    """Module name -> source, for the modules that these classes and modules are made of.

    It follows the modules that they take names from, as far as these lie in `bench`, in a root's own package, or below
    the folder of a plugin's file. So a new task or a change in the report makes no finished cell stale.
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
                continue  # a package has as attributes the submodules that anything in this process has imported
            if isinstance(other, str) and other in sys.modules:
                waiting.append(other)
        if _package(name) != "bench":
            waiting += _imports(name, file)
    return found


def digest(*roots: type | ModuleType) -> str:
    """16 hexadecimal digits: a hash over the sources `of` these classes and modules, as far as they compute."""
    each = sorted(hashlib.sha256(computing(source)).digest() for source in of(*roots).values())
    return hashlib.sha256(b"".join(each)).hexdigest()[:16]


@cache
def computing(source: bytes) -> bytes:
    """The lines of a source without comments, docstrings and empty lines; all of one that cannot be parsed."""
    try:
        text = source.decode()
        statements = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return source
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in statements:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            alone = not lines[first][: node.col_offset].strip()
            lines[first:last] = [""] * (last - first) if alone else lines[first:last]
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()


def _package(name: str) -> str:
    return name.partition(".")[0]


def _file(name: str) -> str | None:
    """The source file of a module, which need not be imported yet; None where there is none."""
    file = None
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    elif (parent := name.rpartition(".")[0]) in sys.modules or not parent:  # (a look inside another would import it)
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
    """What a module's source imports: also plain numbers, which do not say where they come from, and late imports."""
    package = name if Path(file).stem == "__init__" else name.rpartition(".")[0]
    try:
        tree = ast.parse(_read[file])
    except (SyntaxError, ValueError):  # of a neighbour that nothing has imported yet
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            with suppress(ImportError):
                base = resolve_name(base, package) if node.level else base
                yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
