"""Experiments on methods that learn online, which need no trained run: `diagnose NAME`.

    influence-balancing   a gradient whose sign turns with how far back it goes
    convergence           does online learning reach a stationary point?
    gradient-quality      bias, variance and cosine against the exact gradient
    credit-costs          work and memory of a column, as functions of n and of T

A record is plain data: `schema`, `experiment`, `methods` (the place of each among the registered, by which the report
chooses colours) and `found`, as the experiment's `measure` gives it. It is kept as NAME.json in a results folder, where
the report looks for it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from bench import registry
from bench.results import write_json

SCHEMA = 1
EXPERIMENTS = {
    "influence-balancing": "balance",
    "convergence": "convergence",
    "gradient-quality": "quality",
    "credit-costs": "costs",
}
"""Names, and the modules of this package whose `measure` does them."""


def measure(name: str, **sizes: Any) -> dict[str, Any]:
    """The record of an experiment; `sizes` are arguments of its `measure` in the place of the defaults."""
    found = import_module(f"{__name__}.{EXPERIMENTS[name]}").measure(**sizes)
    methods = {method: place for place, method in enumerate(registry.methods.registered())}
    return {"schema": SCHEMA, "experiment": name, "methods": methods, "found": found}


def keep(record: dict[str, Any], folder: Path) -> Path:
    """Write the record where the report of the folder's runs finds it."""
    file = folder / f"{record['experiment']}.json"
    write_json(file, record)
    return file
