"""grid.json: the record of a grid, kept beside its cells.

    results/<grid>/grid.json
        name, about, measures    of the grid
        launches                 each grid file that was launched into this folder, with its `--set`
        compare                  the tolerances
        stated                   fields that the grid varies, by axes and ladders: [["task.length"], ["model.d"], ...];
                                 those of a `case` vary together. All other fields follow from these
        cells                    id -> group (equal but for the seed), seed, at (values on the axes), rung (the field
                                 of the ladder that it is on, or null), off (the fields in which it departs from the
                                 grid's default setting; none: it is the base, and no ablation)
        methods                  name -> index of its colour

Launches into the same folder are merged, cells by id; the later launch wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.results.files import put_aside, read_json, write_record
from bench.results.measured import GRID

NAME = "grid.json"
SCHEMA = 1
TRIES = 5
"""How often a launch writes again what another launch has overwritten at the same moment."""


def read_grid(folder: Path) -> dict[str, Any] | None:
    """The record of a grid's folder; None in an older folder, or where it is damaged.

    The user is warned of a damaged one; the next launch writes it again.
    """
    record: dict[str, Any] | None = read_json(folder / NAME, GRID)
    return record


def write_grid(folder: Path, record: Mapping[str, Any]) -> None:
    """Merge the record of a launch into that of the folder; what is no file is put aside. Raises `CannotWrite`."""
    for _ in range(TRIES):
        existing = read_grid(folder)
        merged = _merged(existing or {}, record)
        if merged == existing:
            return
        if (folder / NAME).is_dir():
            put_aside(folder / NAME, folder)
        write_record(folder / NAME, merged)


def _merged(existing: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    launches = [launch for launch in existing.get("launches", ()) if launch not in record["launches"]]
    stated = list(existing.get("stated", ()))
    return {
        **record,
        "schema": SCHEMA,
        "launches": [*launches, *record["launches"]],
        "stated": stated + [fields for fields in record["stated"] if fields not in stated],
        "cells": {**existing.get("cells", {}), **record["cells"]},
        "methods": {**existing.get("methods", {}), **record["methods"]},
    }
