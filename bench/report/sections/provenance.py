"""What ran where: states and reasons of all cells, commits, versions and machines, and every cell's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, command, exhibit
from bench.report.query import names_of, one_per_run
from bench.report.words import counted, plain, sentences, sortable
from bench.state import State, rank

CONFIG = ("task.", "method.", "model.", "training.", "evaluation.", "init_from.")
SINGLE = ("device", "precision", "threads")
PRIVATE = ("provenance.host", "provenance.seed")
"""Not told: a host's name is nobody's business, and seeds have a column of their own."""
MOST_ROWS = 200
"""Of the table of configurations; more cells are told by groups that differ in nothing but their seed."""
OWNED = ("task.", "method.")


def section(data: Data) -> Section:
    """Counts and commands per grid, cells without scores and why, machines, and the configurations whole."""
    runs = one_per_run(data)
    if runs.empty:
        reason = "the results folders hold measured costs alone, no runs; `python run_bench.py run GRID` makes some"
        return Section("provenance", "Provenance", (Missing("cells", "Cells", reason),))
    exhibits = [_cells(data, runs), *_unfinished(data, runs), _machines(data, runs), *_configurations(data, runs)]
    return Section("provenance", "Provenance", tuple(exhibits))


def _exhibit(data: Data, name: str, title: str, caption: str, runs: pd.DataFrame, table: pd.DataFrame) -> Exhibit:
    about = f"{counted(len(runs), 'cell')} of {', '.join(dict.fromkeys(runs['grid']))}."
    return exhibit(data, name, title, caption, runs, run=about, table=table)


# Cells and their states.


def _cells(data: Data, runs: pd.DataFrame) -> Exhibit:
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
    return _exhibit(data, "cells", "Cells", caption, runs, table)


def _unfinished(data: Data, runs: pd.DataFrame) -> Iterator[Exhibit]:
    """Every cell that has no scores, with its reason; nothing when all are done."""
    part = runs[runs["state"] != State.DONE]
    if len(part):
        columns = ["grid", "id", "task", "method", "backbone", "seed", "state", "reason", "progress"]
        table = part[columns].rename(columns={"id": "cell"}).sort_values(["state", "grid", "cell"], ignore_index=True)
        table["seed"] = table["seed"].map(plain)
        caption = f"{counted(len(table), 'cell')} without final scores; no figure or mean counts them."
        yield _exhibit(data, "unfinished", "Cells without scores", caption, part, table)


# Machines.


def _machines(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    columns = [name for name in names_of(runs, "provenance.") if name not in PRIVATE]
    known = runs[runs[columns].notna().any(axis=1)] if columns else runs.iloc[:0]
    title = "Code, versions and hardware"
    if known.empty:
        return Missing("machines", title, "no finished cell says what computed it; cells say so when they are done")
    told = known.assign(**{name: known[name].map(plain, na_action="ignore") for name in columns})
    groups = told.groupby(["grid", *columns], dropna=False, sort=True)
    table = groups.agg(cells=("id", "size"), seconds=("training_seconds", "sum")).reset_index()
    table.columns = [str(name).removeprefix("provenance.").removeprefix("packages.") for name in table]
    table = table.rename(columns={"dirty": "changed since", "seconds": "training seconds"})
    facts = {"provenance.commit": "commit", "provenance.processor": "processor", "provenance.device": "device"}
    words = [counted(told[name].nunique(), noun) for name, noun in facts.items() if name in told]
    changed = int(told["provenance.dirty"].eq(True).sum()) if "provenance.dirty" in told else 0
    caption = sentences(
        f"Finished cells come from {', '.join(words) or 'unknown code'}.",
        f"{counted(changed, 'cell')} ran with changes that the commit does not hold." if changed else "",
    )
    return _exhibit(data, "machines", title, caption, known, table)


# Configurations. What all cells share is told once; what is left is what differs.


def _configurations(data: Data, runs: pd.DataFrame) -> Iterator[Exhibit | Missing]:
    readable = runs[runs["seed"].notna()]
    if readable.empty:
        yield Missing(
            "configurations", "Configurations", "no run.json can be read; `python run_bench.py run GRID` anew"
        )
        return
    shared, differing = _factored(readable)
    unread = len(runs) - len(readable)
    caption = (
        "Fields that have one value throughout a grid, or its cells of one task (task.*) or one method (method.*); "
        "together with what differs, below, this is every cell's whole configuration."
    )
    yield _exhibit(data, "shared-configuration", "What cells share", caption, readable, shared)
    table, rows = _per_cell(readable, differing), "cell"
    if len(table) > MOST_ROWS:
        table, rows = _per_group(table), "group of cells that differ in nothing but their seed"
    gap = f"{counted(unread, 'cell')} whose run.json cannot be read are not in it." if unread else ""
    yield _exhibit(data, "configurations", "What differs", sentences(f"A row for each {rows}.", gap), readable, table)


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
                        rows.append({**row, "field": name, "value": _told(found[0])})
                    elif len(found):
                        varying.add(name)
    shared = pd.DataFrame(rows, columns=["grid", "task", "method", "field", "value"])
    return shared, [name for name in columns if name in varying]


def _told(value: Any) -> str:
    """As it would stand in a grid file."""
    return str(value).lower() if isinstance(value, bool) else str(plain(value))


def _per_cell(runs: pd.DataFrame, differing: list[str]) -> pd.DataFrame:
    table = runs[["grid", "id", "task", "method", "seed", *differing]].astype(object).rename(columns={"id": "cell"})
    for name in ("seed", *differing):
        table[name] = pd.Series([plain(value) for value in table[name]], index=table.index, dtype=object)
    return table.sort_values(["grid", "task", "method", "cell"], kind="stable", ignore_index=True)


def _per_group(table: pd.DataFrame) -> pd.DataFrame:
    keys = [name for name in table if name not in ("cell", "seed")]
    groups = table.groupby(keys, dropna=False, sort=False)
    seeds = groups["seed"].agg(lambda part: ", ".join(str(one) for one in sorted(part, key=sortable)))
    found = seeds.rename("seeds").reset_index().assign(cells=groups.size().to_numpy())
    first = ["grid", "task", "method", "seeds", "cells"]
    return found[[*first, *(name for name in found if name not in first)]]
