"""What a reader came for: at each setting of the tasks, how well each method did, beside chance and ceiling.

One setting of a task is one row: runs in the default setting of their grids, scored at the trained length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from bench.report import style
from bench.report.data import Data
from bench.report.query import RUN, base, cells, scores, with_columns
from bench.report.tables import in_order, tabulate
from bench.report.words import clean, counted, fixed

PLACE = ["order", "place", "grid", "task"]
NO_SETTING = "no setting has finished runs of two methods"
TOO_FEW = "No setting has seeds enough for an interval, so that nothing is said of who is ahead."


class Cell(NamedTuple):
    """What one method reached at one setting; bold where no other's mean is higher."""

    text: str
    further: str  # its interval, and where the task is natural its loss
    best: bool


class Row(NamedTuple):
    """A row of the main table."""

    place: str
    task: str
    cells: list[Cell | None]
    chance: str
    ceiling: str


class Main(NamedTuple):
    """The main table, and what it comes to in one sentence."""

    columns: list[str]  # methods; one that was run with several backbones has a column for each
    rows: list[Row]
    answer: str


def compared(data: Data) -> pd.DataFrame:
    """A row per setting and column, where two methods or more were run: accuracy with interval, seeds, chance, ceiling.

    A column is a method, or a method and a backbone where it was run with several. Of several default settings in one
    column, as along an axis of a model's field, the first is taken. Where several grids have a task, only the settings
    of the one with most settings.
    """
    runs = base(cells(data))
    rows = scores(data)
    rows = rows[rows["trained"] & ~rows["reference"]]
    facts = ["accuracy", "unit_loss", "chance", "accuracy_ceiling", "unit"]
    units = with_columns(data.results, "unit_loss")[[*RUN, "predictor", "length", "unit_loss"]]
    rows = rows.merge(units, on=[*RUN, "predictor", "length"], how="left")
    if runs.empty or rows.empty:
        return pd.DataFrame(columns=[*PLACE, "method", "accuracy"])
    several = runs.groupby("method")["backbone"].transform("nunique") > 1
    runs = runs.assign(column=runs["method"].where(~several, runs["method"] + ", " + runs["backbone"]))
    rows = rows[[*RUN, *facts]].merge(runs[["id", *PLACE, "method", "column", "setting", "seed"]], on=RUN)
    first = rows.groupby([*PLACE, "column"])["setting"].transform("min")
    rows = rows[rows["setting"] == first]
    rows = rows[rows.groupby("order")["method"].transform("nunique") > 1]
    settings = rows.groupby(["task", "grid"])["order"].nunique().reset_index()
    most = settings.sort_values("order", ascending=False, kind="stable").drop_duplicates("task")
    rows = rows.merge(most[["task", "grid"]], on=["task", "grid"])
    by = [*PLACE, "method", "column"]
    rows = rows.rename(columns={"unit_loss": "loss", "accuracy_ceiling": "ceiling"})
    how = {"accuracy": "interval", "loss": "mean", "chance": "mean", "ceiling": "mean", "unit": "first"}
    return in_order(tabulate(rows, by, **how), "order", "method", "column")


def main(table: pd.DataFrame) -> Main:
    """The table as a reader sees it; `table` as `compared` gives it."""
    methods = dict(zip(table["column"], table["method"]))
    columns = sorted(methods, key=lambda column: (style.order(methods[column]), column))
    rows, clear = [], dict.fromkeys(columns, 0)
    for (_, place, grid, task), part in table.groupby(PLACE, sort=False):
        of = {row["column"]: row for row in part.to_dict("records")}
        best = part["accuracy"].max()
        winners = part[part["accuracy"] == best]
        others = part[part["accuracy"] < best]
        if len(winners) == 1 and (others["accuracy_high"] < winners["accuracy_low"].iloc[0]).all() and len(others):
            clear[winners["column"].iloc[0]] += 1
        shown = [_cell(of[name], best) if name in of else None for name in columns]
        chance, ceiling = (part[name].mean() for name in ("chance", "ceiling"))
        words = str(place).removeprefix(f"{clean(grid)}: ")
        rows.append(Row(words, str(task), shown, fixed(chance), fixed(ceiling)))
    ahead = [f"{name} at {clear[name]}" for name in columns]
    if table["accuracy_low"].isna().all():
        return Main(columns, rows, TOO_FEW if rows else NO_SETTING)
    answer = (
        f"Of {counted(len(rows), 'setting')}, ahead of all others with intervals that do not overlap: "
        f"{', '.join(ahead)}; at {len(rows) - sum(clear.values())} no method is."
    )
    return Main(columns, rows, answer)


def _cell(row: dict[Any, Any], best: float) -> Cell:
    interval = "" if pd.isna(row["accuracy_low"]) else f"[{row['accuracy_low']:.2f}, {row['accuracy_high']:.2f}]"
    loss = f"{row['loss']:.2f} bits" if row["unit"] == "bits" and pd.notna(row["loss"]) else ""
    return Cell(f"{row['accuracy']:.3f}", " ".join(filter(None, (interval, loss))), row["accuracy"] == best)
