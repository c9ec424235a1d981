"""What a reader came for: at each setting of the tasks, how well each method did, beside chance and ceiling.

One setting of a task is one row: runs in the default setting of their grids, scored at the trained length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from bench.report import style
from bench.report.claims.findings import SOLVED
from bench.report.data import Data
from bench.report.query import RUN, WAYS, base, cells, names_of, recorded, scores, with_columns
from bench.report.tables import in_order, tabulate
from bench.report.words import clean, counted, fixed

PLACE = ["order", "place", "grid", "task"]
LIMITS = {"teacher": "the teacher limits it", "transition": "single steps limit it", "drift": "drift limits it"}
"""What a diagnosis says, where a method fails."""
NO_SETTING = "no setting has finished runs of two methods"
TOO_FEW = "No setting has seeds enough for an interval, so that nothing is said of who is ahead."


class Cell(NamedTuple):
    """What one method reached at one setting; bold where no other's mean is higher."""

    text: str
    further: tuple[
        str, ...
    ]  # its interval, where the task is natural its loss, and where it fails what a diagnosis says
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

    columns: list[str]  # methods; one that was run in several ways has a column for each
    rows: list[Row]
    answer: str


def compared(data: Data) -> pd.DataFrame:
    """A row per setting and column, where two methods or more were run: accuracy with interval, seeds, chance, ceiling.

    A column is a method, with its backbone where it was run with several, and with a curriculum or chrono gates where
    it had them. Of several default settings in one column, as along an axis of a model's field, the first is taken.
    A setting that several grids have is that of the grid with most settings of its task.
    """
    runs = base(cells(data))
    rows = scores(data)
    rows = rows[rows["trained"] & ~rows["reference"]]
    facts = ["accuracy", "unit_loss", "chance", "accuracy_ceiling", "unit"]
    units = with_columns(data.results, "unit_loss")[[*RUN, "predictor", "length", "unit_loss"]]
    rows = rows.merge(units, on=[*RUN, "predictor", "length"], how="left")
    if runs.empty or rows.empty:
        return pd.DataFrame(columns=[*PLACE, "method", "accuracy"])
    limits = recorded(runs, data.diagnoses, lambda record: LIMITS.get(str(record.get("limit"))))
    runs = runs.assign(column=_columns(runs), limit=limits["record"])
    about = ["id", *PLACE, "length", "method", "column", "setting", "seed", "limit"]
    rows = rows[[*RUN, *facts]].merge(runs[about], on=RUN)
    first = rows.groupby([*PLACE, "column"])["setting"].transform("min")
    rows = rows[rows["setting"] == first]
    rows = rows[rows.groupby("order")["method"].transform("nunique") > 1]
    rows["settings"] = rows.groupby(["task", "grid"])["order"].transform("nunique")
    rows["words"] = [_words(place, grid) for place, grid in zip(rows["place"], rows["grid"])]
    most = rows.sort_values("settings", ascending=False, kind="stable").drop_duplicates("words")
    rows = rows[rows["order"].isin(most["order"])]
    by = [*PLACE, "length", "method", "column"]
    rows = rows.rename(columns={"unit_loss": "loss", "accuracy_ceiling": "ceiling"})
    how = {"accuracy": "interval", "loss": "mean", "chance": "mean", "ceiling": "mean", "unit": "first"}
    table = tabulate(rows, by, **how, limit="first")
    return in_order(table, "task", "length", "order", "method", "column").drop(columns="length")


def _columns(runs: pd.DataFrame) -> pd.Series:
    """The column of each run. A way is named where all of a column have it, or where some have it at the same place."""
    several = runs.groupby("method")["backbone"].transform("nunique") > 1
    column = runs["method"].where(~several, runs["method"] + ", " + runs["backbone"])
    for way, field in WAYS.items():
        has = runs[names_of(runs, field)].notna().any(axis=1)
        both = has.groupby([runs["order"], column]).transform("nunique") > 1
        told = has & (both.groupby(column).transform("any") | has.groupby(column).transform("all"))
        column = column.where(~told, column + f", {way}")
    return column


def _words(place: Any, grid: Any) -> str:
    """A place without its grid."""
    return str(place).removeprefix(f"{clean(grid)}: ")


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
        rows.append(Row(_words(place, grid), str(task), shown, fixed(chance), fixed(ceiling)))
    ahead = [f"{name} at {count}" for name, count in sorted(clear.items(), key=lambda item: -item[1]) if count]
    if table["accuracy_low"].isna().all():
        return Main(columns, rows, TOO_FEW if rows else NO_SETTING)
    answer = (
        f"Of {counted(len(rows), 'setting')}, ahead of all others with intervals that do not overlap: "
        f"{'; '.join([*ahead, f'at {len(rows) - sum(clear.values())} no method'])}."
    )
    return Main(columns, rows, answer)


def _cell(row: dict[Any, Any], best: float) -> Cell:
    interval = "" if pd.isna(row["accuracy_low"]) else f"[{row['accuracy_low']:.2f}, {row['accuracy_high']:.2f}]"
    loss = f"{row['loss']:.2f} bits" if row["unit"] == "bits" and pd.notna(row["loss"]) else ""
    limit = row["limit"] if isinstance(row["limit"], str) and row["accuracy"] < SOLVED * row["ceiling"] else ""
    return Cell(f"{row['accuracy']:.3f}", tuple(filter(None, (interval, loss, limit))), row["accuracy"] == best)
