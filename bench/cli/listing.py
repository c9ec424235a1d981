"""`list`: the tasks, methods, backbones and grids."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from bench.cli.parts import AsJson, Plugins, load, print_table, warn_of_failures
from bench.errors import unknown

KINDS = ("tasks", "methods", "backbones", "grids")


def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="[tasks|methods|backbones|grids]", help="All when omitted.")
    ] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Show the available tasks, methods, backbones and grids, and plugins that could not be loaded."""
    if kind is not None and kind not in KINDS:
        raise unknown("list", kind, KINDS)
    load(plugin, needed=False)
    from bench import registry

    wanted = KINDS if kind is None else (kind,)
    listing: dict[str, Any] = {name: _listing(name) for name in wanted}
    failures = dict(registry.failures)
    if as_json:
        print(json.dumps({**listing, "failures": failures}, indent=1))
        return
    for name, entries in listing.items():
        columns = [key for key in dict.fromkeys(key for entry in entries for key in entry) if key != "place"]
        print_table(name, columns, [[_cell(entry.get(key)) for key in columns] for entry in entries])
    warn_of_failures()


def _listing(kind: str) -> list[dict[str, Any]]:
    from bench import registry
    from bench.config import ModelConfig
    from bench.engine import form_of
    from bench.grid import grid_names

    if kind == "grids":
        return [{"name": name, "about": about} for name, about in grid_names().items()]
    found: registry.Registry[Any] = getattr(registry, kind)
    entries = []
    for name in found.names():
        cls = found.get(name)
        entry: dict[str, Any] = {"name": name, "about": _about(cls)}
        if kind == "tasks":
            entry |= {"axis": cls.axis, "continues": cls.continues, "missing": cls.missing()}
        if kind == "methods":
            entry |= {"form": form_of(cls), "data": cls.data}
            entry |= {"recurrences": list(cls.recurrences), "targets": list(cls.targets)}
        if kind == "backbones":
            smt = cls.memory(ModelConfig(backbone=name)) is not None
            entry |= {"recurrence": cls.recurrence, "smt": smt}
        entries.append({**entry, "place": registry.place(cls)})
    return entries


def _about(cls: type) -> str:
    """A description of a class in a line: the first of its docstring, or of its module's."""
    own = cls.__dict__.get("__doc__") or sys.modules[cls.__module__].__doc__ or ""
    return next(iter(own.strip().splitlines()), "")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
