"""Imports run downwards only, and in no circle: what a module needs when it is imported is below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import bench

LAYERS = (
    *("__main__", "cli", "testing", "launch compare report", "grid training", "measure", "phases provenance", "engine"),
    *("build methods", "feasibility", "curriculum", "tasks models results fields optimiser tolerances scaffold"),
    *("config", "registry", "read_yaml", "streams sources paths statistics drawing compiling outgoing state", "errors"),
)
"""Rooms of the package, the highest first."""
ROOT = Path(bench.__file__).parent
FILES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in ROOT.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items() if name != "__init__"}


def _imports(body: list[ast.stmt]) -> Iterator[str]:
    """The modules of the package that these statements import, but for those in functions and for types alone."""
    for node in body:
        if isinstance(node, ast.ImportFrom):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                yield name if name.removeprefix("bench.") in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _imports(node.body + node.orelse)
        elif isinstance(node, ast.Try | ast.With):
            yield from _imports(node.body)


def _needed() -> dict[str, set[str]]:
    needed = {name: {other[6:] for other in _imports(ast.parse(file.read_text("utf-8")).body)
                     if other.startswith("bench.")} for name, file in MODULES.items()}  # fmt: skip
    return {name: others - {name} for name, others in needed.items()}


def test_no_module_needs_itself():
    assert len(list(TopologicalSorter(_needed()).static_order())) > 150  # (raises on a circle)


def test_every_room_needs_only_what_is_below():
    level = {room: place for place, rooms in enumerate(LAYERS) for room in rooms.split()}
    upwards = [
        f"{name} -> {other}"
        for name, others in _needed().items()
        for other in others
        if level[name.split(".")[0]] > level[other.split(".")[0]]
    ]
    assert not upwards
