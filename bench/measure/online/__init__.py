"""Experiments on online methods that need no trained run: `diagnose NAME`.

    influence-balancing   a gradient whose sign depends on how far back it goes
    convergence           whether online learning reaches a stationary point
    gradient-quality      bias, variance and cosine against the exact gradient
    credit-costs          work and memory per column, as functions of n and T

A record is plain data: `schema`, `experiment`, `methods` (the index of each among the registered, by which the report
chooses colours) and `found`, the output of the experiment's `measure`. It is kept as NAME.json in a results folder,
where the report looks for it.
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
"""The experiments by name: the modules of this package whose `measure` runs them."""


def measure(name: str, **sizes: Any) -> dict[str, Any]:
    """The record of an experiment; `sizes` replace the defaults of its `measure`."""
    found = import_module(f"{__name__}.{EXPERIMENTS[name]}").measure(**sizes)
    methods = {method: place for place, method in enumerate(registry.methods.registered())}
    return {"schema": SCHEMA, "experiment": name, "methods": methods, "found": found}


def keep(record: dict[str, Any], folder: Path) -> Path:
    """Write the record to where the report on the folder looks for it, and return the path."""
    file = folder / f"{record['experiment']}.json"
    write_json(file, record)
    return file
