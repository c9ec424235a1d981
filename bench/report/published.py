"""Figures that a paper or another source published for the same row, from published.yaml beside this file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from bench.report.query import having

NOT_READ = "quoted from memory"


def published(results: pd.DataFrame) -> pd.Series:
    """The published figure with its source for each row of results, or None.

    Only a trained predictor at its trained length has one: no reference line, and no other test length.
    """
    found = pd.Series(None, index=results.index, dtype=object)
    known = having(results, "task.length", *dict.fromkeys(name for entry in _entries() for name in entry["where"]))
    trained = known["reference"].eq(False) & known["length"].eq(known["task.length"])
    for entry in _entries():
        rows = trained.copy()
        for name, allowed in entry["where"].items():
            rows &= known[name].isin(allowed if isinstance(allowed, list) else [allowed])
        source = entry["source"] if entry.get("read", True) else f"{entry['source']}; {NOT_READ}"
        found[rows] = f"{entry['figure']} ({source})"
    return found


@cache
def _entries() -> list[dict[str, Any]]:
    return yaml.safe_load((files("bench.report") / "published.yaml").read_text("utf-8"))
