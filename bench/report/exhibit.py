"""What a section of the report is made of: exhibits, and notes on those that could not be made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from bench.report import style
from bench.report.words import clean, few_seeds, sentences, sortable, whole_as_int

if TYPE_CHECKING:
    from bench.report.data import Data
    from bench.report.plot import Panel

T = TypeVar("T")
MOST_PANELS = 12
"""The most panels of one figure."""
TOLD = ("task.", "model.", "training.budget.", "training.batch_size", "training.optimiser.lr")
"""Fields whose values say what was run."""


@dataclass(frozen=True)
class Exhibit:
    """A figure, a table, or both, with what to see in it and what was run for it."""

    name: str  # the name of its files: lower-case words with dashes, no two alike in a report
    title: str
    caption: str  # what is plotted; two sentences at most, plain text
    run: str  # what was run: grids, tasks, sizes, budgets, seeds; plain text
    figure: Figure | None = None  # one that is no panels
    table: pd.DataFrame | None = None  # tidy and at full precision; written as CSV whole, and shown rounded
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()  # what the page's filter finds it by
    panels: Sequence[Panel] = ()
    across: int = 3  # panels beside one another, at most
    grids: tuple[str, ...] = ()  # whose runs made the data


@dataclass(frozen=True)
class Missing:
    """An exhibit that could not be made."""

    name: str
    title: str
    reason: str  # what is missing, and which grid or command would bring it


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    name: str
    title: str
    exhibits: tuple[Exhibit | Missing, ...] = field(default=())


def attempt(make: Callable[[], T], name: str, title: str) -> T | Missing:
    """What `make` returns, or why it could not: no part of the report may end the others."""
    try:
        return make()
    except Exception as error:
        line = clean(next(iter(str(error).splitlines()), ""))
        return Missing(name, title, f"it could not be made from these results ({type(error).__name__}: {line})")


def exhibit(
    data: Data, name: str, title: str, caption: str, rows: pd.DataFrame, missing: str = "", **parts: Any
) -> Exhibit | Missing:
    """An exhibit on these rows, whose columns grid, task and method say what it is about; without rows, a missing one.

    A part may be a function of the rows. Where only the panels that are drawn are given, `count` is how many there are.
    """
    if missing and rows.empty:
        return Missing(name, title, missing)
    parts |= {key: part(rows) for key, part in parts.items() if callable(part)}
    tasks, methods = tuple(dict.fromkeys(rows["task"])), tuple(sorted(set(rows["method"]), key=style.order))
    count = max(parts.pop("count", 0), len(parts.get("panels", ())))
    many = f"The figure shows the first {MOST_PANELS} of {count} panels." if count > MOST_PANELS else ""
    few = few_seeds(parts.get("table"))
    run = parts.pop("run", None) or ran(data, zip(rows["grid"], rows["task"]))
    grids = tuple(dict.fromkeys(rows["grid"]))
    return Exhibit(name, title, sentences(caption, few, many), run, tasks=tasks, methods=methods, grids=grids, **parts)


def ran(data: Data, parts: Iterable[tuple[str, str]]) -> str:
    """What was run for these (grid, task): how many cells are done, and their sizes and budgets, grid by grid."""
    keys = set(parts)
    runs = data.results.drop_duplicates(["grid", "id"])
    runs = runs[pd.Series([pair in keys for pair in zip(runs["grid"], runs["task"])], index=runs.index, dtype=bool)]
    texts = []
    for grid, own in runs.groupby("grid", sort=True):
        done = int((own["state"] == "done").sum())
        rest = f", the other {len(own) - done} left out" if done < len(own) else ""
        texts.append(f"{grid}, {done} of {len(own)} cells done{rest}: {sizes(own) or 'config not known'}.")
    return clean(" ".join(texts))


def sizes(runs: pd.DataFrame) -> str:
    """The sizes and budgets of some cells: each field with all its values."""
    texts = []
    for name in (name for name in map(str, runs) if name == "seed" or name.startswith(TOLD)):
        values = sorted({whole_as_int(value) for value in runs[name].dropna()}, key=sortable)
        words = ", ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in values)
        short = name.removeprefix("task.").removeprefix("model.").removeprefix("training.")
        texts += [f"{short} {words}"] if values else []
    return clean("; ".join(texts))


def command(grid: str) -> str:
    """The command that runs a grid: by its name where it is shipped, else by the file of that name."""
    name = grid.rpartition("/")[2].removesuffix(".yaml")
    shipped = (files("bench") / "grids" / f"{name}.yaml").is_file()
    return f"python run_bench.py run {quote(name if shipped else f'{name}.yaml')}"


def uncounted(rows: pd.DataFrame, among: pd.DataFrame | None = None) -> str:
    """A sentence on operators that no rule counts, by whose work FLOPs are too low, of what `among` has; or nothing."""
    uncounted_by: dict[str, dict[str, None]] = {}
    if "uncounted" in rows:
        if among is not None:
            keys = [pd.MultiIndex.from_frame(table[["grid", "task", "method"]]) for table in (rows, among)]
            rows = rows[keys[0].isin(keys[1])]
        for who, names in rows.dropna(subset="uncounted").groupby(["method", "backbone"], sort=False)["uncounted"]:
            operators = [name for text in names.unique() for name in text.split(", ") if name]
            uncounted_by |= {" on ".join(map(str, who)): dict.fromkeys(operators)} if operators else {}
    words = "; ".join(f"{who} ({', '.join(operators)})" for who, operators in uncounted_by.items())
    return clean(f"FLOPs are too low where no rule counts an operator: {words}.") if words else ""
