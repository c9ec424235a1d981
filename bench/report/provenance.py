"""What ran where: states and reasons of all cells, commits, versions and machines, and every cell's configuration."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pandas as pd

from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.tables import _names, _plain, _sortable

CONFIG = ("task.", "method.", "model.", "training.", "evaluation.", "init_from.")
SINGLE = ("device", "precision", "threads")
PRIVATE = ("provenance.host", "provenance.seed")
"""Not told: a host's name is nobody's business, and seeds have a column of their own."""
STATES = ("done", "running", "pending", "stopped", "lost", "skipped", "diverged", "oom", "failed", "damaged")
MOST_ROWS = 200
"""Of the table of configurations; more cells are told by groups that differ in nothing but their seed."""


def section(data: Data) -> Section:
    """Counts and commands per grid, cells without scores and why, machines, and the configurations whole."""
    runs = data.results.drop_duplicates(["grid", "id"]).reset_index(drop=True)
    title = "Provenance"
    if runs.empty:
        reason = "the results folders hold measured costs alone, no runs; `python run_bench.py run GRID` makes some"
        return Section("provenance", title, (Missing("cells", "Cells", reason),))
    exhibits = [_cells(runs), *_unfinished(runs), _machines(runs), *_configurations(runs)]
    return Section("provenance", title, tuple(exhibits))


def _about(runs: pd.DataFrame) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tasks and the methods of these cells."""
    tasks, methods = (tuple(sorted(set(map(str, runs[name])))) for name in ("task", "method"))
    return tasks, methods


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# Cells and their states.


def command(grid: str) -> str:
    """The command that runs a grid: by its name where it is shipped, else by the file of that name."""
    name = grid.rpartition("/")[2]
    shipped = (files("bench") / "grids" / f"{name}.yaml").is_file()
    return f"python run_bench.py run {shlex.quote(name if shipped else f'{name}.yaml')}"


def _cells(runs: pd.DataFrame) -> Exhibit:
    counts = pd.crosstab(runs["grid"], runs["state"])
    counts = counts[sorted(counts, key=lambda state: (STATES.index(state) if state in STATES else len(STATES), state))]
    counts.insert(0, "cells", counts.sum(axis=1))
    table = counts.reset_index().rename_axis(columns=None)
    table["command"] = table["grid"].map(command)
    done = int((runs["state"] == "done").sum())
    grids = _counted(len(table), "grid")
    caption = f"{done:,} of {_counted(len(runs), 'cell')} of {grids} are done"
    caption += "." if done == len(runs) else "; the others follow below, each with its reason."
    caption += " The command makes a grid as shipped; what --set changed in it shows in the configurations below."
    return Exhibit("cells", "Cells", caption, _grids(runs), table=table)


def _unfinished(runs: pd.DataFrame) -> Iterator[Exhibit]:
    """Every cell that has no scores, with its reason; nothing when all are done."""
    part = runs[runs["state"] != "done"]
    if part.empty:
        return
    columns = ["grid", "id", "task", "method", "backbone", "seed", "state", "reason", "progress"]
    table = part[columns].rename(columns={"id": "cell"}).sort_values(["state", "grid", "cell"], ignore_index=True)
    table["seed"] = table["seed"].map(_plain)
    reasons = table["reason"].dropna().value_counts()
    most = f" Most often, {_counted(int(reasons.iloc[0]), 'time')}: {reasons.index[0]}." if len(reasons) else ""
    caption = f"{_counted(len(table), 'cell')} without final scores; no figure or mean counts them.{most}"
    yield Exhibit("unfinished", "Cells without scores", caption, _grids(part), None, table, *_about(part))


def _grids(runs: pd.DataFrame) -> str:
    return f"{_counted(len(runs), 'cell')} of {', '.join(dict.fromkeys(runs['grid']))}."


# Machines.


def _machines(runs: pd.DataFrame) -> Exhibit | Missing:
    columns = [name for name in _names(runs) if name.startswith("provenance.") and name not in PRIVATE]
    known = runs[runs[columns].notna().any(axis=1)] if columns else runs.iloc[:0]
    title = "Code, versions and hardware"
    if known.empty:
        return Missing("machines", title, "no finished cell says what computed it; cells say so when they are done")
    keys = ["grid", *columns]
    plain = known.assign(**{name: known[name].map(_plain, na_action="ignore") for name in columns})
    groups = plain.groupby(keys, dropna=False, sort=True)
    table = groups.agg(cells=("id", "size"), seconds=("training_seconds", "sum")).reset_index()
    table.columns = [str(name).removeprefix("provenance.").removeprefix("packages.") for name in table]
    table = table.rename(columns={"dirty": "changed since", "seconds": "training seconds"})
    words = [_counted(plain[name].nunique(), noun) for name, noun in _FACTS.items() if name in plain]
    changed = int(plain["provenance.dirty"].eq(True).sum()) if "provenance.dirty" in plain else 0
    caption = f"Finished cells come from {', '.join(words) or 'unknown code'}."
    if changed:
        caption += f" {_counted(changed, 'cell')} ran with changes that the commit does not hold."
    return Exhibit("machines", title, caption, _grids(known), table=table)


_FACTS = {"provenance.commit": "commit", "provenance.processor": "processor", "provenance.device": "device"}


# Configurations. What all cells share is told once; what is left is what differs.


def _configurations(runs: pd.DataFrame) -> Iterator[Exhibit | Missing]:
    readable = runs[runs["seed"].notna()]
    if readable.empty:
        yield Missing(
            "configurations", "Configurations", "no run.json can be read; `python run_bench.py run GRID` anew"
        )
        return
    shared, differing = _factored(readable)
    unread = len(runs) - len(readable)
    gap = f" {_counted(unread, 'cell')} whose run.json cannot be read are not in it." if unread else ""
    yield Exhibit(
        "shared-configuration",
        "What cells share",
        "Every field that has one value throughout a grid, throughout a grid's cells of one task (task.*) or of one "
        "method (method.*). Together with what differs, below, this is every cell's whole configuration.",
        _grids(readable),
        None,
        shared,
        *_about(readable),
    )
    table, how = _per_cell(readable, differing), "A row for each cell."
    if len(table) > MOST_ROWS:
        table, how = _per_group(table), "A row for each group of cells that differ in nothing but their seed."
    fields = ", ".join(differing) or "nothing but the seed"
    caption = f"{how} What differs within a grid: {fields}.{gap}"
    yield Exhibit("configurations", "What differs", caption, _grids(readable), None, table, *_about(readable))


def _factored(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A row for each field that does not vary where it could, and the columns that vary in some grid."""
    columns = [name for name in _names(runs) if name.startswith(CONFIG) or name in SINGLE]
    rows: list[dict[str, Any]] = []
    varying: set[str] = set()
    for grid, part in runs.groupby("grid", sort=True):
        for prefix, owner in (("task.", "task"), ("method.", "method"), ("", None)):
            own = [name for name in columns if (name.startswith(prefix) if owner else not name.startswith(_OWNED))]
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


_OWNED = ("task.", "method.")


def _told(value: Any) -> str:
    """As it would stand in a grid file."""
    return str(value).lower() if isinstance(value, bool) else str(_plain(value))


def _per_cell(runs: pd.DataFrame, differing: list[str]) -> pd.DataFrame:
    columns = ["grid", "id", "task", "method", "seed", *differing]
    table = runs[columns].astype(object).rename(columns={"id": "cell"})
    for name in ("seed", *differing):
        table[name] = pd.Series([_plain(value) for value in table[name]], index=table.index, dtype=object)
    order = [(grid, task, method, cell) for grid, task, method, cell in zip(*(table[c] for c in _ORDER))]
    return table.iloc[sorted(range(len(table)), key=order.__getitem__)].reset_index(drop=True)


_ORDER = ("grid", "task", "method", "cell")


def _per_group(table: pd.DataFrame) -> pd.DataFrame:
    keys = [name for name in table if name not in ("cell", "seed")]
    groups = table.groupby(keys, dropna=False, sort=False)
    seeds = groups["seed"].agg(lambda part: ", ".join(str(one) for one in sorted(part, key=_sortable)))
    counted = seeds.rename("seeds").reset_index().assign(cells=groups.size().to_numpy())
    first = ["grid", "task", "method", "seeds", "cells"]
    return counted[[*first, *(name for name in counted if name not in first)]]
