"""The sections: a module each, with `TITLE` and `exhibits(data)`; what `ORDER` does not name comes after the others."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from bench.report.data import Data
from bench.report.exhibit import Section, attempt

ORDER = (
    *("synthetic", "complexity", "efficiency", "claims", "lengths", "scaling", "dynamics", "diagnosis", "samples"),
    *("ablations", "ingredients", "online", "frontier", "estimators"),
)
LAST = ("summary", "provenance")
"""After all others, and folded."""


def names() -> list[str]:
    """All sections, in the order of the page."""
    found = {module.name for module in iter_modules(__path__)}
    return [*ORDER, *sorted(found - {*ORDER, *LAST}), *LAST]


def section(name: str, data: Data) -> Section:
    """The section of that name; where it cannot be made, why."""
    made = attempt(lambda: import_module(f"{__name__}.{name}"), name, name)
    title = getattr(made, "TITLE", name)
    found = attempt(lambda: tuple(made.exhibits(data)), name, title)  # type: ignore[union-attr]
    return Section(name, title, found if isinstance(found, tuple) else (found,))
