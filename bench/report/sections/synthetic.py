"""Synthetic tasks: accuracy against each task's difficulty, with chance and ceiling, and what it comes to over all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, command, exhibit
from bench.report.query import (
    CONFIG,
    LINE,
    along_length,
    free,
    names_of,
    scores,
    titled,
    worded,
    worded_apart,
)
from bench.report.sweeps import pairs
from bench.report.tables import in_order, per_seed, tabulate, without_idle
from bench.statistics import interquartile_mean

TITLE = "Synthetic tasks"
RIVAL = "bptt"
"""What every other method's accuracy is compared with, paired by seed."""
NATURAL = "bits"
"""The unit in which losses of natural tasks are told."""
PLACE = ["grid", "task", "where", "knob", "value"]
"""A setting of a task: `where` are knobs besides the one along the axis, in words."""


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """Accuracy along each task's difficulty, and the interquartile mean over all settings."""
    name, title = "synthetic", "Accuracy against difficulty"
    total, heading = "synthetic-aggregate", "Share of the ceiling over all synthetic settings"
    brings = f"`{command('synthetic-small')}` brings them"
    rows = along(data)
    missing = f"no finished cells of a synthetic task whose difficulty varies within one grid; {brings}"
    caption = "Accuracy at the end of training as each task gets harder, between chance and ceiling."
    yield exhibit(data, name, title, caption, rows, missing, panels=panels, table=scores_along)
    seeds, table = aggregated(rows)
    if len(rows):
        missing = f"no setting with a known ceiling that all methods of a grid have finished; {brings}"
    caption = "Interquartile mean over settings of the share of the ceiling, of settings that all lines have finished."
    drawn = [
        _points(part, seeds, str(grid) if len(set(table["grid"])) > 1 else "")
        for grid, part in table.groupby("grid", sort=False)
    ]
    about = rows if len(table) else table
    yield exhibit(data, total, heading, caption, about, missing, panels=drawn, across=2, table=table)


# Along the axes.


def along(data: Data) -> pd.DataFrame:
    """Scores along each task's difficulty, other knobs still: `PLACE`, `LINE`, `share`, `difference` to the rival."""
    rows = scores(data)
    rows = rows[rows["trained"] & (rows["unit"] != NATURAL)]
    found = [rows[:0].assign(where="", knob="", value=0.0, setting="", share=0.0, difference=0.0)]
    for _, part in rows.groupby(["grid", "task"], sort=True):
        if (knob := difficulty(part)) is None:
            continue
        knobs = names_of(part, "task.")
        own = [name for name in names_of(part, CONFIG) if name not in knobs]
        where = worded(part, free(part, knob, knobs))
        part = along_length(part)
        part = part.assign(where=where, knob=knob.removeprefix("task."), value=part[knob].astype(float))
        for _, axis in part.groupby("where", sort=False):
            if len(set(axis["value"])) > 1:
                share, setting = axis["accuracy"] / axis["accuracy_ceiling"], worded_apart(axis, ["method"], knob, own)
                found.append(axis.assign(share=share, setting=setting, difference=_minus(axis)))
    return pd.concat(found, ignore_index=True)


def difficulty(rows: pd.DataFrame) -> str | None:
    """The numeric knob of one task that has most values, of several the one that is not the length, which follows."""
    counts = {}
    for name in names_of(rows, "task."):
        values = pd.to_numeric(rows[name], errors="coerce")
        flags = rows[name].map(lambda value: isinstance(value, bool)).any()
        if values.notna().all() and len(set(values)) > 1 and not flags:
            counts[name] = values.nunique()
    return max(counts, key=lambda name: (counts[name], name != "task.length")) if counts else None


def _minus(rows: pd.DataFrame) -> pd.Series:
    """Each score minus the rival's of the same seed and setting; NaN where there is none, or more than one."""
    rival = rows[~rows["reference"] & (rows["method"] == RIVAL)]
    found: dict[tuple[str, str], list[float]] = {}
    for (method, predictor, _), own in rows.groupby(["method", "predictor", "reference"], sort=False):
        for pair in pairs(own, rival) if method != RIVAL and len(rival) else ():
            both = pair.a.join(pair.b["accuracy"].rename("rival"), how="inner")
            for name, minus in zip(both["id"], both["accuracy"] - both["rival"]):
                found.setdefault((str(name), str(predictor)), []).append(float(minus))
    single = {key: values[0] for key, values in found.items() if len(values) == 1}
    keys = zip(rows["id"].astype(str), rows["predictor"].astype(str))
    return pd.Series([single.get(key, float("nan")) for key in keys], index=rows.index, dtype=float)


def panels(rows: pd.DataFrame) -> list[plot.Panel]:
    """One for each axis; two where a curriculum of lengths is apart."""
    found = []
    for (grid, task, where, knob), part in rows.groupby(PLACE[:-1], sort=False):
        label = "length (tokens)" if knob == "length" else str(knob).replace("_", " ")
        found += plot.accuracies_by_way(titled(rows, grid, task, where), label, part, "value", rows)
    return found


def scores_along(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per setting and line: accuracy, share of the ceiling, difference to the rival; means and intervals."""
    by, other = [*PLACE, *LINE], f"minus_{RIVAL}"
    names = {"accuracy_ceiling": "ceiling", "share": "share_of_ceiling", "difference": other}
    rows = rows.rename(columns=names)
    facts = dict.fromkeys(("chance", "ceiling", "share_of_ceiling"), "mean")
    table = tabulate(rows, by, accuracy="interval", **facts, **{other: "interval"})
    counts = per_seed(rows, by, other).groupby(by, dropna=False).size().rename(f"{other}_seeds").reset_index()
    table = table.merge(counts, on=by, how="left").fillna({f"{other}_seeds": 0}).astype({f"{other}_seeds": int})
    return without_idle(in_order(table, *PLACE, "method", "setting", "reference"), keep_grid=True)


# Over all settings.


def aggregated(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interquartile means over settings that all lines of a grid have finished: of seeds with all, and over seeds."""
    known = per_seed(rows, [*PLACE, *LINE], "share")
    known["line"] = known.groupby(LINE).ngroup()
    lines_of = [known.groupby(by)["line"].transform("nunique") for by in (PLACE, ["grid"])]
    common = known[lines_of[0] == lines_of[1]]
    seeds = common.groupby(["grid", *LINE, "seed"], as_index=False).agg(
        share_of_ceiling=("share", interquartile_mean), settings=("share", "size"), tasks=("task", "nunique")
    )
    every = common.drop_duplicates(PLACE).groupby("grid").size()
    seeds = seeds[seeds["settings"] == seeds["grid"].map(every)]
    table = tabulate(seeds, ["grid", *LINE, "settings", "tasks"], share_of_ceiling="interval")
    return seeds, in_order(table, "grid", "reference", "method", "setting")


def _points(part: pd.DataFrame, seeds: pd.DataFrame, title: str) -> plot.Panel:
    """A point for each line of a grid, beside one another."""
    lines, names, value = [], [], "share_of_ceiling"
    for at, row in enumerate(part.to_dict("records")):
        who, method = plot.legend_name(*(row[name] for name in LINE)), row["method"]
        own = seeds.merge(part.iloc[[at]][["grid", *LINE]], on=["grid", *LINE]).assign(at=float(at))
        lines.append(plot.over_seeds(own, "at", value, method, who, reference=bool(row["reference"]), kind="points"))
        names.append("\n".join(who.replace(" (reference)", "").split(", ")))
    top = max(1.04, 1.02 * seeds[value].max())
    ceiling = [plot.Level("ceiling", np.array([1.0]))]
    return plot.Panel(title, "", "share of the ceiling", lines, ceiling, names=names, ylim=(0, top))
