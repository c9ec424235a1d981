"""Final scores, and learning curves: a panel for each setting of a task, a line for each method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import MOST_PANELS, Exhibit, Missing, exhibit
from bench.report.query import Setting, keys, label, number, settings, short_names
from bench.report.summary import about, by_task, first_table, heading, order_of, table_of
from bench.report.tables import in_order
from bench.report.words import sentences

Key = tuple[str, str]
"""A (grid, task), or a (grid, id)."""


TITLE = "Final scores and learning curves"


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """An exhibit for each (grid, task) that has runs."""
    frame = first_table(data)
    if frame.empty:
        return
    points, found = _points(data), settings(data.results)
    names = short_names(name for setting in found.values() for name, _ in setting)
    for key, part in by_task(frame):
        runs, own = (rows[(rows["grid"] == key[0]) & (rows["task"] == key[1])] for rows in (data.results, points))
        panels, count = _panels(runs, own, found, names) if len(own) else ([], 0)
        caption = sentences("Accuracy on the test set while training; thin lines are single seeds.", about(part))
        table, title = table_of(part).drop(columns=["grid", "task"]), heading(key, frame)
        name = f"curves-{title.replace(': ', '-')}"
        yield exhibit(data, name, title, caption, part, panels=panels, count=count, table=table)


def _points(data: Data) -> pd.DataFrame:
    """The points that can be drawn, with `x`, the tokens since the beginning, those before `init_from` included."""
    wanted = ("grid", "id", "task", "method", "phase", "predictor", "reference", "spent.tokens", "accuracy", "seed")
    points = data.curves.reindex(columns=list(wanted))
    points = points.assign(x=number(points["spent.tokens"]), accuracy=number(points["accuracy"]))
    done = set(keys(data.results[data.results["state"] == "done"]))
    points = points.assign(reference=points["reference"].eq(True), done=[run in done for run in keys(points)])
    return points.dropna(subset=["x", "accuracy", "predictor"])


def _panels(
    runs: pd.DataFrame, points: pd.DataFrame, found: Mapping[Key, Setting], names: Mapping[str, str]
) -> tuple[list[plot.Panel], int]:
    """One for each setting that has a curve, methods of one setting in all; those that are drawn, and the count."""
    at = {run: found[run] for run in keys(runs)}
    ranks = {at[run]: order_of("", "", method, at[run]) for run, method in zip(keys(runs), runs["method"]) if at[run]}
    ordered = sorted(ranks, key=ranks.__getitem__) or [()]
    panels = {setting: [name for (_, name), own in at.items() if own in (setting, ())] for setting in ordered}
    highest = np.nanmax([points["accuracy"].max(), runs["shortcut"].max(), 0.01])
    top = 1.0 if runs["accuracy_ceiling"].notna().any() else min(1.0, 1.15 * highest)
    drawn = {setting: ids for setting, ids in panels.items() if points["id"].isin(ids).any()}
    shown = []
    for setting, ids in list(drawn.items())[:MOST_PANELS]:
        own, levels = points[points["id"].isin(ids)], _levels(runs[runs["id"].isin(ids)])
        axes = (label(setting, names), "training tokens", "accuracy on the test set")
        ylim = -0.02 * top, 1.03 * top
        shown.append(plot.Panel(*axes, _lines(own), levels, _phases(own), ticks="linear", ylim=ylim))
    return shown, len(drawn)


def _lines(points: pd.DataFrame) -> list[plot.Line]:
    """Every method's mean over its finished seeds, with a thin line for each seed; all seeds where none is finished."""
    lines = []
    rows: Any = in_order(points, "reference", "method").groupby(["method", "predictor", "reference"], sort=False)
    for (method, predictor, reference), part in rows:
        whole = part[part["done"]] if part["done"].any() else part
        word = plot.legend_name(method, "", predictor, reference)
        lines.append(plot.over_curves(whole, "x", "accuracy", method, word, reference=bool(reference)))
        ends = part[~part["done"]].sort_values(["id", "x"]).drop_duplicates("id", keep="last")
        if len(ends) and not reference:
            lines.append(plot.of_table(ends, "x", "accuracy", method, "not finished", kind="end"))
    return lines


def _phases(points: pd.DataFrame) -> list[plot.Mark]:
    """Where a phase after a run's first begins, mean over runs: at the last point of the one before."""
    own = points[~points["reference"]].sort_values(["id", "x"], kind="stable")
    first = own["id"].ne(own["id"].shift())
    begins = own.assign(begin=own["x"].shift())[own["phase"].ne(own["phase"].shift()) & ~first]
    means = begins.groupby(["method", "phase"], sort=False)["begin"].mean()
    words = [f"{method}: phase {phase}" for method, phase in means.index]
    return [plot.Mark(word, float(begin)) for word, begin in zip(words, means)]


def _levels(cells: pd.DataFrame) -> list[plot.Level]:
    """Chance, best shortcut and ceiling at the trained length."""
    trained = cells[cells["length"] == number(cells["task.length"])]
    names = [name for name in plot.REFERENCES if trained[name].notna().any()]
    return plot.levels(trained.assign(all=0), "all", names)
