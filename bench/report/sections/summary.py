"""Final scores, and learning curves: a panel for the knobs of a task and for each ablation, a line for each method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import MOST_PANELS, Exhibit, Missing, exhibit
from bench.report.query import (
    CONFIG,
    Setting,
    along_length,
    by_setting,
    departures,
    keys,
    label,
    number,
    settings,
    short_names,
    varying,
    worded_apart,
)
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
    for key, part in by_task(frame):
        runs, own = (rows[(rows["grid"] == key[0]) & (rows["task"] == key[1])] for rows in (data.results, points))
        panels, count = _panels(runs, own, found) if len(own) else ([], 0)
        caption = (
            "Accuracy on the test set while training; thin lines are single seeds, whose last value the mean keeps."
        )
        caption = sentences(caption, about(part))
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


def _panels(rows: pd.DataFrame, points: pd.DataFrame, found: Mapping[Key, Setting]) -> tuple[list[plot.Panel], int]:
    """The panels that are drawn, and how many there are: one for each set of knobs, and one for each ablation."""
    runs = rows.drop_duplicates("id").reset_index(drop=True)
    knobs = varying(runs, ("task.",))
    runs["off"] = departures(runs).map(bool)
    places = [setting for row in runs.index for setting, _ in by_setting(runs.loc[[row]], knobs)]
    other = [tuple(item for item in found[run] if item[0] not in knobs) for run in keys(runs)]
    at = [place + more if off else place for place, more, off in zip(places, other, runs["off"])]
    points = points.merge(_named(runs, knobs), on="id")
    highest = np.nanmax([points["accuracy"].max(), runs["shortcut"].max(), 0.01])
    top = 1.0 if runs["accuracy_ceiling"].notna().any() else min(1.0, 1.15 * highest)
    names = short_names(name for setting in at for name, _ in setting)
    panels = {
        setting: own
        for setting in sorted(set(at), key=lambda setting: order_of("", "", "", setting))
        if len(own := points[points["id"].isin(runs["id"][[spot == setting for spot in at]])])
    }
    shown = []
    for setting, own in list(panels.items())[:MOST_PANELS]:
        axes = (label(setting, names), "training tokens", "accuracy on the test set")
        ylim = -0.02 * top, 1.03 * top
        levels = _levels(rows[rows["id"].isin(own["id"])])
        shown.append(plot.Panel(*axes, _lines(own), levels, _phases(own), ticks="linear", ylim=ylim))
    return shown, len(panels)


def _named(runs: pd.DataFrame, knobs: list[str]) -> pd.DataFrame:
    """For each id `setting`, what tells it at its knobs from other runs of its method, and `variant`, its number."""
    whole = runs[~runs["off"]]
    own = [name for name in varying(whole, CONFIG) if name not in knobs]
    words = worded_apart(along_length(whole), ["method"], ["task", *knobs], own) if len(whole) else whole["id"]
    named = runs[["id", "method"]].assign(setting=words.reindex(runs.index).fillna(""))
    ranks = named.groupby("method")["setting"].rank(method="dense").astype(int) - 1
    return named[["id", "setting"]].assign(variant=ranks)


def _lines(points: pd.DataFrame) -> list[plot.Line]:
    """The mean of every method's setting over its finished seeds, and each of them thin; all where none is finished."""
    lines = []
    who = ["method", "setting", "variant", "predictor", "reference"]
    groups: Any = in_order(points, "reference", "method", "setting").groupby(who, sort=False)
    for (method, setting, variant, predictor, reference), part in groups:
        whole = part[part["done"]] if part["done"].any() else part
        word = plot.legend_name(method, setting, predictor, reference)
        line = plot.over_curves(whole, "x", "accuracy", method, word, bool(part["done"].any()), variant=variant)
        lines.append(replace(line, reference=True, seeds=()) if reference else line)
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
    return [
        plot.Mark(f"{method}: phase {phase}", float(begin), method=str(method))
        for (method, phase), begin in zip(means.index, means)
    ]


def _levels(cells: pd.DataFrame) -> list[plot.Level]:
    """Chance, best shortcut and ceiling at the trained length."""
    trained = cells[cells["length"] == number(cells["task.length"])]
    names = [name for name in plot.REFERENCES if trained[name].notna().any()]
    return plot.levels(trained.assign(all=0), "all", names)
