"""Synthetic tasks: accuracy against each task's difficulty, with chance and ceiling, and what it comes to over all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report import plot, style
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, command, exhibit
from bench.report.query import CONFIG, LINE, aggregate, free, names_of, per_seed, scores, titled, without_idle, worded
from bench.report.sweeps import pairs
from bench.report.words import few_seeds, sentences
from bench.statistics import interquartile_mean

NAME, TITLE = "synthetic", "Accuracy against difficulty"
TOTAL, TOTAL_TITLE = "synthetic-aggregate", "Share of the ceiling over all synthetic settings"
RIVAL = "bptt"
"""What every other method's accuracy is compared with, paired by seed."""
NATURAL = "bits"
"""The unit in which losses of natural tasks are told."""
PLACE = ["grid", "task", "where", "knob", "value"]
"""A setting of a task: `where` are knobs besides the one along the axis, in words."""


class Axis(NamedTuple):
    """The cells of one task along the knob that makes it harder, all its other knobs held still."""

    grid: str
    task: str
    knob: str
    where: str
    rows: pd.DataFrame
    """Scores at the trained length; with the columns `PLACE` and `LINE`."""


def section(data: Data) -> Section:
    """Accuracy along each task's difficulty, and the interquartile mean over all settings."""
    found = axes(data)
    if not found:
        reason = (
            "no finished cells of a synthetic task whose difficulty varies within one grid; "
            f"`{command('synthetic-small')}` brings them"
        )
        gone = (Missing(NAME, TITLE, reason), Missing(TOTAL, TOTAL_TITLE, reason))
        return Section("synthetic", "Synthetic tasks", gone)
    rows = pd.concat([one.rows for one in found], ignore_index=True)
    table = scores_along(rows)
    caption = "Accuracy at the end of training as each task gets harder, between chance and ceiling."
    along = exhibit(
        data, NAME, TITLE, sentences(caption, few_seeds(table["seeds"])), rows, panels=panels(found), table=table
    )
    return Section("synthetic", "Synthetic tasks", (along, _over_all(data, rows)))


# Which cells.


def axes(data: Data) -> list[Axis]:
    """The axes of all grids: at least two values of a knob, finished cells of synthetic tasks alone."""
    rows = scores(data)
    rows = rows[rows["trained"] & (rows["unit"] != NATURAL)]
    found = []
    for (grid, task), part in rows.groupby(["grid", "task"], sort=True):
        knob = difficulty(part)
        if knob:
            found += list(_axes(str(grid), str(task), knob, part))
    return found


def difficulty(rows: pd.DataFrame) -> str | None:
    """The numeric knob of one task that has most values, of several the one that is not the length, which follows."""
    counts = {}
    for name in names_of(rows, "task."):
        values = pd.to_numeric(rows[name], errors="coerce")
        flags = rows[name].map(lambda one: isinstance(one, bool)).any()
        if values.notna().all() and len(set(values)) > 1 and not flags:
            counts[name] = values.nunique()
    return max(counts, key=lambda name: (counts[name], name != "task.length")) if counts else None


def _axes(grid: str, task: str, knob: str, part: pd.DataFrame) -> Iterator[Axis]:
    knobs = names_of(part, "task.")
    own = [name for name in names_of(part, CONFIG) if name not in knobs]
    short = knob.removeprefix("task.")
    where = worded(part, free(part, knob, knobs))
    part = part.assign(where=where, knob=short, value=part[knob].astype(float), setting="")
    for words, rows in part.groupby("where", sort=False):
        if rows["value"].nunique() < 2:
            continue
        for _, runs in rows.groupby("method", sort=False):
            rows.loc[runs.index, "setting"] = worded(runs, free(runs, knob, own))
        share = rows["accuracy"] / rows["accuracy_ceiling"]
        yield Axis(grid, task, short, str(words), rows.assign(share=share, difference=_minus(rows)))


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


# Along the axes.


def panels(found: list[Axis]) -> list[plot.Panel]:
    """One for each axis."""
    rows = pd.DataFrame({"grid": [one.grid for one in found]})
    return [
        plot.Panel(
            titled(rows, one.grid, one.task, one.where),
            f"{one.knob} (tokens)" if one.knob == "length" else one.knob.replace("_", " "),
            "accuracy on the test set",
            plot.sweep_lines(one.rows, "value", "accuracy"),
            plot.levels(one.rows, "value"),
            ylim=(-0.03, 1.04),
        )
        for one in found
    ]


def scores_along(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per setting and line: accuracy, share of the ceiling, difference to the rival; means and intervals."""
    by = [*PLACE, *LINE]
    table = aggregate(rows, by, "accuracy", "accuracy")
    facts = rows.groupby(by, dropna=False, sort=False)[["chance", "accuracy_ceiling", "share"]].mean().reset_index()
    facts = facts.rename(columns={"accuracy_ceiling": "ceiling", "share": "share_of_ceiling"})
    other = f"minus_{RIVAL}"
    difference = aggregate(rows, by, "difference", other).rename(columns={"seeds": f"{other}_seeds"})
    table = table.merge(facts, on=by, how="left").merge(difference, on=by, how="left")
    table = table.assign(rank=table["method"].map(style.order))
    table = table.sort_values([*PLACE, "rank", "setting", "reference"], kind="stable")
    table[f"{other}_seeds"] = table[f"{other}_seeds"].fillna(0).astype(int)
    return without_idle(table, "rank", keep_grid=True)


# Over all settings.


def _over_all(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    seeds, table = aggregated(rows)
    if table.empty:
        reason = (
            "no setting with a known ceiling that all methods of a grid have finished; "
            f"`{command('synthetic-small')}` brings them"
        )
        return Missing(TOTAL, TOTAL_TITLE, reason)
    found = []
    for grid, part in table.groupby("grid", sort=False):
        part = part.reset_index(drop=True)
        lines = []
        for at, row in part.iterrows():
            own = seeds.merge(part.loc[[at]], on=["grid", *LINE])["share"].to_numpy()
            few = () if np.isfinite(row["low"]) else ((np.full(len(own), at), own),)
            mean, low, high = (np.array([row[name]], dtype=float) for name in ("share_of_ceiling", "low", "high"))
            how: dict[str, Any] = {"seeds": few, "method": row["method"], "reference": bool(row["reference"])}
            lines.append(plot.Line(_who(row), np.array([at]), mean, low, high, kind="points", **how))
        names = ["\n".join(_who(row).replace(" (reference)", "").split(", ")) for row in part.to_dict("records")]
        title = str(grid) if len(set(table["grid"])) > 1 else ""
        top = max(1.04, 1.02 * seeds["share"].max())
        ceiling = [plot.Level("ceiling", np.array([1.0]))]
        found.append(plot.Panel(title, "", "share of the ceiling", lines, ceiling, names=names, ylim=(0, top)))
    caption = "Interquartile mean over settings of the share of the ceiling, of settings that all lines have finished."
    return exhibit(
        data,
        TOTAL,
        TOTAL_TITLE,
        sentences(caption, few_seeds(table["seeds"])),
        rows,
        panels=found,
        across=2,
        table=table,
    )


def _who(row: Any) -> str:
    return plot.who(row["method"], row.get("setting"), row["predictor"], row["reference"])


def aggregated(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interquartile means over settings of the share of the ceiling: per seed, and their means with intervals.

    Only settings that every line of the grid has finished count, and of a line only seeds that have all of these.
    """
    known = per_seed(rows, [*PLACE, *LINE], "share")
    known["at"] = pd.MultiIndex.from_frame(known[PLACE]).to_flat_index()
    found = []
    for grid, part in known.groupby("grid", sort=True):
        own = list(part.groupby(LINE, sort=False))
        common = set.intersection(*(set(one["at"]) for _, one in own))
        for key, one in own:
            for seed, cells in one[one["at"].isin(common)].groupby("seed"):
                if len(cells) == len(common):
                    share = interquartile_mean(cells["share"].to_numpy())
                    found.append((grid, *key, seed, share, len(common), cells["task"].nunique()))
    seeds = pd.DataFrame(found, columns=["grid", *LINE, "seed", "share", "settings", "tasks"])
    table = aggregate(seeds, ["grid", *LINE, "settings", "tasks"], "share")
    table = table.rename(columns={"mean": "share_of_ceiling"}).assign(rank=table["method"].map(style.order))
    order = ["grid", "reference", "rank", "setting"]
    return seeds, table.sort_values(order, kind="stable").drop(columns="rank").reset_index(drop=True)
