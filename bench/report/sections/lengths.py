"""Length generalisation: accuracy against the length of test sequences, and its mean over lengths never trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, command, exhibit
from bench.report.query import CONFIG, LINE, names_of, scores, titled, worded_apart
from bench.report.tables import in_order, tabulate, without_idle

TITLE = "Length generalisation"
NAME, HEADING = "length-generalisation", "Accuracy against test length"
PLACE = ["grid", "task", "where", "trained_length"]
"""A setting of a task: `where` are the knobs that vary besides the trained length, in words."""


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """Accuracy at every test length, a panel per task, and what is left of it at lengths never trained on."""
    caption = "Accuracy on test sequences of each length; vertical lines are the trained lengths."
    missing = "no finished cells with scores at several test lengths (evaluation.lengths); "
    missing += f"`{command('length-small')}` brings them"
    yield exhibit(data, NAME, HEADING, caption, tested(data), missing, panels=panels, table=scores_beyond)


def tested(data: Data) -> pd.DataFrame:
    """Scores at several test lengths, from the start state, so that they compare; with columns `PLACE` and `LINE`."""
    rows = scores(data, from_start=True).dropna(subset=["length", "task.length"])
    rows = rows[rows.groupby(["grid", "id"])["length"].transform("nunique") > 1]
    rows = rows.assign(trained_length=rows["task.length"])
    knobs = names_of(rows, "task.")
    others = [name for name in names_of(rows, CONFIG) if name not in knobs]
    rows = rows.assign(where=worded_apart(rows, ["grid", "task"], "trained_length", knobs))
    return rows.assign(setting=worded_apart(rows, [*PLACE, "method"], "length", others))


def panels(rows: pd.DataFrame) -> list[plot.Panel]:
    """One for each setting of a task that was trained at one length; two where a curriculum is apart."""
    found = []
    several = rows.groupby("task")["trained_length"].nunique().max() > 1
    for (grid, task, where, trained), part in rows.groupby(PLACE, sort=True):
        title = titled(rows, grid, task, where, f"trained at {trained:g}" if several else "")
        marks = [plot.Mark("trained length", float(part["trained_length"].iloc[0]))]
        found += plot.accuracies_by_way(title, "test length (tokens)", part, "length", rows, marks=marks)
    return found


def scores_beyond(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per setting and line. Its score is the mean accuracy over all longer lengths than the trained one.

    Columns: accuracy (at the trained length), longer (the score), shorter (the mean over shorter lengths) and drop
    (the part of the accuracy that is lost at longer lengths, 1 - longer / accuracy), each with `_low` and `_high`, and
    seeds. Means are over lengths first, of each seed, then over seeds. longer_lengths and shorter_lengths tell which
    these were; chance_longer and ceiling_longer are what to judge the score by.
    """
    by = [*PLACE, *LINE]
    at = np.sign(rows["length"] - rows["trained_length"])
    parts = {
        name: rows["accuracy"].where(at == sign) for name, sign in (("accuracy", 0), ("longer", 1), ("shorter", -1))
    }
    facts = {"chance_longer": "chance", "ceiling_longer": "accuracy_ceiling"}
    split = rows.assign(**parts, **{name: rows[column].where(at > 0) for name, column in facts.items()})
    seeds = split.groupby([*by, "seed"], sort=False, dropna=False)[[*parts, *facts]].mean().reset_index()
    seeds["drop"] = 1 - seeds["longer"] / seeds["accuracy"]
    for name, sign in (("longer", 1), ("shorter", -1)):
        lengths = rows[at == sign].groupby(by)["length"].unique()
        lengths = lengths.map(lambda found: ", ".join(map("{:g}".format, sorted(found))))
        seeds = seeds.merge(lengths.rename(f"{name}_lengths").reset_index(), on=by, how="left")
    how = dict.fromkeys(("accuracy", "longer", "shorter", "drop"), "interval")
    listed = dict.fromkeys(("longer_lengths", "shorter_lengths"), "first")
    table = tabulate(seeds, by, **how, **listed, **dict.fromkeys(facts, "mean"))
    return without_idle(in_order(table, *PLACE, "method", "setting", "reference"), keep_grid=True)
