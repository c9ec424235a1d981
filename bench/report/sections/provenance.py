"""What ran where: states and reasons of all cells, commits, versions and machines, and every cell's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, command, exhibit
from bench.report.query import names_of, one_per_run, provenance
from bench.report.words import counted, sentences, sortable, whole_as_int
from bench.state import State, rank

TITLE = "Provenance"
CONFIG = ("task.", "method.", "model.", "training.", "evaluation.", "init_from.")
SINGLE = ("device", "precision", "threads")
MOST_ROWS = 200
"""The most rows of the table of configurations; more cells are told by groups that differ only in their seed."""
OWNED = ("task.", "method.")


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """Counts and commands per grid, cells without scores and why, machines, and the configurations whole."""
    runs = one_per_run(data)
    if runs.empty:
        reason = "the results folders hold measured costs alone, no runs; `python run_bench.py run GRID` makes some"
        yield Missing("cells", "Cells", reason)
        return
    for name, title, caption, rows, table in (
        *(_cells(runs), _unfinished(runs[runs["state"] != State.DONE])),
        *(machines(runs), *_configurations(runs[runs["seed"].notna()], len(runs))),
    ):
        if len(rows):
            about = f"{counted(len(rows), 'cell')} of {', '.join(dict.fromkeys(rows['grid']))}."
            yield exhibit(data, name, title, caption, rows, run=about, table=table)


Made = tuple[str, str, str, pd.DataFrame, pd.DataFrame]
"""Name, title and caption of an exhibit, its runs and its table."""


def _cells(runs: pd.DataFrame) -> Made:
    counts = pd.crosstab(runs["grid"], runs["state"])
    counts = counts[sorted(counts, key=lambda state: (state != State.DONE, rank(str(state)), state))]
    counts.insert(0, "cells", counts.sum(axis=1))
    table = counts.reset_index().rename_axis(columns=None)
    table["command"] = table["grid"].map(command)
    done = int((runs["state"] == State.DONE).sum())
    caption = (
        f"{done:,} of {counted(len(runs), 'cell')} of {counted(len(table), 'grid')} are done. The command makes a grid "
        "as shipped; what --set changed in it shows in the configurations below."
    )
    return "cells", "Cells", caption, runs, table


def _unfinished(runs: pd.DataFrame) -> Made:
    """Every cell that has no scores, with its reason."""
    columns = ["grid", "id", "task", "method", "backbone", "seed", "state", "reason", "progress"]
    table = runs[columns].rename(columns={"id": "cell"}).sort_values(["state", "grid", "cell"], ignore_index=True)
    table["seed"] = table["seed"].map(whole_as_int)
    caption = f"{counted(len(table), 'cell')} without final scores; no figure or mean counts them."
    return "unfinished", "Cells without scores", caption, runs, table


def machines(runs: pd.DataFrame) -> Made:
    """What computed finished cells: commit, versions and hardware, and how many cells and seconds of training."""
    known = provenance(runs)
    runs = runs.loc[known.index]
    counts = known.assign(cells=1, seconds=runs["training_seconds"])
    table = counts.groupby([runs["grid"], *known], dropna=False).sum().reset_index()
    table = table.rename(columns={"dirty": "changed since", "seconds": "training seconds"})
    words = [counted(known[noun].nunique(), noun) for noun in ("commit", "processor", "device") if noun in known]
    changed = int(known["dirty"].eq(True).sum()) if "dirty" in known else 0
    caption = sentences(
        f"Finished cells come from {', '.join(words) or 'unknown code'}.",
        f"{counted(changed, 'cell')} ran with changes that the commit does not hold." if changed else "",
    )
    return "machines", "Code, versions and hardware", caption, runs, table


def _configurations(runs: pd.DataFrame, count: int) -> Iterator[Made]:
    """What all cells share is told once; what is left is what differs."""
    shared, differing = _factored(runs)
    caption = (
        "Fields that have one value throughout a grid, or its cells of one task (task.*) or one method (method.*); "
        "together with what differs, below, this is every cell's whole configuration."
    )
    yield "shared-configuration", "What cells share", caption, runs, shared
    table = runs[["grid", "id", "task", "method", "seed", *differing]].astype(object).rename(columns={"id": "cell"})
    for name in ("seed", *differing):
        table[name] = pd.Series([whole_as_int(value) for value in table[name]], index=table.index, dtype=object)
    table, rows = table.sort_values(["grid", "task", "method", "cell"], kind="stable", ignore_index=True), "cell"
    if len(table) > MOST_ROWS:
        table, rows = _per_group(table), "group of cells that differ in nothing but their seed"
    gap = (
        f"{counted(count - len(runs), 'cell')} whose run.json cannot be read are not in it."
        if count > len(runs)
        else ""
    )
    yield "configurations", "What differs", sentences(f"A row for each {rows}.", gap), runs, table


def _factored(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A row for each field that does not vary where it could, and the columns that vary in some grid."""
    columns = [*names_of(runs, CONFIG), *(name for name in SINGLE if name in runs)]
    rows: list[dict[str, Any]] = []
    varying: set[str] = set()
    for grid, part in runs.groupby("grid", sort=True):
        for prefix, owner in (("task.", "task"), ("method.", "method"), ("", None)):
            own = [name for name in columns if (name.startswith(prefix) if owner else not name.startswith(OWNED))]
            for value, cells in [(None, part)] if owner is None else part.groupby(owner, sort=True):
                for name in own:
                    found = cells[name].dropna().unique()
                    if len(found) == 1 and cells[name].notna().all():
                        row = {"grid": grid, "task": None, "method": None} | ({owner: value} if owner else {})
                        rows.append({**row, "field": name, "value": _in_yaml(found[0])})
                    elif len(found):
                        varying.add(name)
    shared = pd.DataFrame(rows, columns=["grid", "task", "method", "field", "value"])
    return shared, [name for name in columns if name in varying]


def _in_yaml(value: Any) -> str:
    """As it would stand in a grid file."""
    return str(value).lower() if isinstance(value, bool) else str(whole_as_int(value))


def _per_group(table: pd.DataFrame) -> pd.DataFrame:
    keys = [name for name in table if name not in ("cell", "seed")]
    groups = table.groupby(keys, dropna=False, sort=False)
    seeds = groups["seed"].agg(lambda part: ", ".join(str(seed) for seed in sorted(part, key=sortable)))
    found = seeds.rename("seeds").reset_index().assign(cells=groups.size().to_numpy())
    first = ["grid", "task", "method", "seeds", "cells"]
    return found[[*first, *(name for name in found if name not in first)]]
