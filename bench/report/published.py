"""Figures that a paper or another source published for the same row, from published.yaml beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from bench.report.query import with_columns

NOT_READ = "quoted from memory"


def published(results: pd.DataFrame) -> pd.Series:
    """The published figure with its source for each row of results, or None.

    Only a trained predictor at its trained length has one: no reference line, and no other test length.
    """
    found = pd.Series(None, index=results.index, dtype=object)
    columns = {name for entry in _entries() for name in entry["where"]}
    known = with_columns(results, "task.length", *columns)
    trained = known["reference"].eq(False) & known["length"].eq(known["task.length"])
    for entry in _entries():
        rows = trained.copy()
        for name, allowed in entry["where"].items():
            rows &= known[name].isin(allowed)
        source = entry["source"] if entry.get("read", True) else f"{entry['source']}; {NOT_READ}"
        found[rows] = f"{entry['figure']} ({source})"
    return found


def published_bits(row: Mapping[str, Any]) -> float | None:
    """The published bits of a row with these columns, or None."""
    for entry in _entries():
        value, _, unit = entry["figure"].partition(" ")
        if unit == "bits" and all(row.get(name) in allowed for name, allowed in entry["where"].items()):
            return float(value)
    return None


@cache
def _entries() -> list[dict[str, Any]]:
    """The entries, with a list of the values that each column may have."""
    entries = yaml.safe_load((files("bench.report") / "published.yaml").read_text("utf-8"))
    for entry in entries:
        where = entry["where"].items()
        entry["where"] = {name: allowed if isinstance(allowed, list) else [allowed] for name, allowed in where}
    return entries
