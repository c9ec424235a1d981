"""grid.json: what a grid says of its cells, kept beside them.

    results/<grid>/grid.json
        name, about, measures    the grid's
        launches                 each grid file that was launched into this folder, with its `--set`
        compare                  the tolerances
        stated                   fields that the grid varies, by axes and ladders: [["task.length"], ["model.d"], ...];
                                 those of a `case` vary together. All other fields follow from these
        cells                    id -> group (the same but for the seed), seed, at (values on the axes), rung (the field
                                 of the ladder that it is on, or null), off (the fields in which it departs from the
                                 grid's default setting; none: it is the base, and no ablation)
        methods                  name -> number of its colour

Several launches into one folder merge: cells by id, the later launch's word last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.results.files import read_json, write_record
from bench.results.measured import GRID

NAME = "grid.json"
SCHEMA = 1
TRIES = 5
"""So often a launch writes again what another, at the same moment, has overwritten."""


def read_grid(folder: Path) -> dict[str, Any] | None:
    """The record of a grid's folder; None in one from before there was such a record, or where it is damaged.

    The user is told of a damaged one; the next launch writes it anew.
    """
    record: dict[str, Any] | None = read_json(folder / NAME, GRID)
    return record


def write_grid(folder: Path, record: Mapping[str, Any]) -> None:
    """Merge the record of a launch into the folder's; the file is replaced whole. Raises `CannotWrite`."""
    for _ in range(TRIES):
        there = read_grid(folder)
        merged = _merged(there or {}, record)
        if merged == there:
            return
        write_record(folder / NAME, merged)


def _merged(there: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    launches = [launch for launch in there.get("launches", ()) if launch not in record["launches"]]
    stated = list(there.get("stated", ()))
    return {
        **record,
        "schema": SCHEMA,
        "launches": [*launches, *record["launches"]],
        "stated": stated + [fields for fields in record["stated"] if fields not in stated],
        "cells": {**there.get("cells", {}), **record["cells"]},
        "methods": {**there.get("methods", {}), **record["methods"]},
    }
