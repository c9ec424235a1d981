"""Synthetic tasks: accuracy against each task's difficulty, with chance and ceiling, and what it comes to over all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.lines import Line2D

from bench.report import lines, style
from bench.report.claims.cells import CONFIG, pairs, scores
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.lines import LINE
from bench.report.provenance import _counted, command
from bench.report.statistics import Interval, interquartile_mean

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
    return Section("synthetic", "Synthetic tasks", (_along(data, found, rows), _over_all(data, rows)))


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
    for name in (str(name) for name in rows if str(name).startswith("task.")):
        values = pd.to_numeric(rows[name], errors="coerce")
        if (
            values.notna().all()
            and len(set(values)) > 1
            and not rows[name].map(lambda one: isinstance(one, bool)).any()
        ):
            counts[name] = values.nunique()
    return max(counts, key=lambda name: (counts[name], name != "task.length")) if counts else None


def _axes(grid: str, task: str, knob: str, part: pd.DataFrame) -> Iterator[Axis]:
    names = [str(name) for name in part if str(name).startswith(CONFIG)]
    others = lines.free(part, knob, [name for name in names if name.startswith("task.")])
    short = knob.removeprefix("task.")
    part = part.assign(where=lines.worded(part, others), knob=short, value=part[knob].astype(float), setting="")
    for where, rows in part.groupby("where", sort=False):
        if rows["value"].nunique() < 2:
            continue
        own = [name for name in names if not name.startswith("task.")]
        for _, runs in rows.groupby("method", sort=False):
            rows.loc[runs.index, "setting"] = lines.worded(runs, lines.free(runs, knob, own))
        ceiling = rows["accuracy"] / rows["accuracy_ceiling"]
        yield Axis(grid, task, short, str(where), rows.assign(share=ceiling, difference=_minus(rows)))


def _minus(rows: pd.DataFrame) -> pd.Series:
    """Each score minus the rival's of the same seed and setting; NaN where there is none, or more than one."""
    trained = ~rows["reference"]
    rival = rows[trained & (rows["method"] == RIVAL)]
    found: dict[tuple[str, str], list[float]] = {}
    for (method, predictor, _), own in rows.groupby(["method", "predictor", "reference"], sort=False):
        if method != RIVAL and len(rival):
            for pair in pairs(own, rival):
                for seed in pair.a.index.intersection(pair.b.index):
                    key = (str(pair.a.loc[seed, "id"]), str(predictor))
                    found.setdefault(key, []).append(
                        float(pair.a.loc[seed, "accuracy"]) - float(pair.b.loc[seed, "accuracy"])
                    )
    keys = zip(rows["id"].astype(str), rows["predictor"].astype(str))
    single = {key: values[0] for key, values in found.items() if len(values) == 1}
    return pd.Series([single.get(key, float("nan")) for key in keys], index=rows.index, dtype=float)


# Along the axes.


def _along(data: Data, found: list[Axis], rows: pd.DataFrame) -> Exhibit:
    looks = style.styles(data.methods)
    shown = found[: lines.MOST_PANELS]
    figure, panels = lines.grid_of(len(shown), "accuracy on the test set")
    drawn: dict[str, Line2D] = {}
    marks: dict[str, Line2D] = {}
    several = len({one.grid for one in found}) > 1
    for panel, one in zip(panels, shown):
        marks |= lines.levels(panel, one.rows, "value", ("accuracy_ceiling", "chance"))
        drawn |= lines.draw_all(panel, one.rows, "value", "accuracy", looks)
        lines.spread(panel.xaxis, one.rows["value"])
        panel.set_ylim(-0.03, 1.04)
        panel.set_xlabel(f"{one.knob} (tokens)" if one.knob == "length" else one.knob.replace("_", " "))
        words = one.task + (f", {one.where}" if one.where else "")
        lines.title(panel, f"{one.grid}: {words}" if several else words)
    lines.legend(figure, drawn | marks)
    cut = f" The figure shows the first {len(shown)} of {len(found)} axes." if len(shown) < len(found) else ""
    table = scores_along(rows)
    return Exhibit(
        NAME,
        TITLE,
        f"{_compared(table)} {lines.few_seeds(table['seeds'])}{cut} The paper's sweep values and its numbers at them "
        "are not known: the difficulties are the house's own.",
        lines.ran(data, zip(rows["grid"], rows["task"])),
        figure,
        table,
        tuple(dict.fromkeys(one.task for one in found)),
        tuple(sorted(set(rows["method"]), key=style.order)),
    )


def scores_along(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per setting and line: accuracy, share of the ceiling, difference to the rival; means and intervals."""
    by = [*PLACE, *LINE]
    table = lines.aggregate(rows, by, "accuracy")
    table = table.rename(columns={"mean": "accuracy", "low": "accuracy_low", "high": "accuracy_high"})
    facts = rows.groupby(by, dropna=False, sort=False)[["chance", "accuracy_ceiling", "share"]].mean().reset_index()
    facts = facts.rename(columns={"accuracy_ceiling": "ceiling", "share": "share_of_ceiling"})
    other = f"minus_{RIVAL}"
    difference = lines.aggregate(rows, by, "difference")
    names = {"mean": other, "low": f"{other}_low", "high": f"{other}_high", "seeds": f"{other}_seeds"}
    table = table.merge(facts, on=by, how="left").merge(difference.rename(columns=names), on=by, how="left")
    ranks = table["method"].map(style.order)
    table = table.assign(rank=ranks).sort_values([*PLACE, "rank", "setting", "reference"], kind="stable")
    table = table.drop(columns="rank").reset_index(drop=True)
    table[f"{other}_seeds"] = table[f"{other}_seeds"].fillna(0).astype(int)
    table["paper"] = "not known"
    return table.drop(columns=[name for name in ("where", "setting") if not table[name].astype(bool).any()])


def _compared(table: pd.DataFrame) -> str:
    """Grid by grid: at how many settings each method is above and below the rival, and where it differs most."""
    other = f"minus_{RIVAL}"
    own = table[~table["reference"].astype(bool) & table[other].notna()]
    told = []
    for grid, ours in own.groupby("grid", sort=False):
        words = []
        for method, part in ours.groupby("method", sort=False):
            above, below = (part[f"{other}_low"] > 0).sum(), (part[f"{other}_high"] < 0).sum()
            most = part.sort_values(other, key=abs).iloc[-1]
            words.append(
                f"{method} {part[other].mean():+.3f} on average over {_counted(len(part), 'setting')} (interval above "
                f"zero at {above}, below at {below}; most at {most['task']}, {most['knob']} {most['value']:g}: "
                f"{most[other]:+.3f})"
            )
        told.append(f"{grid}, accuracy minus that of {RIVAL}, paired by seed: {'; '.join(words)}.")
    if told:
        return " ".join(told)
    means = table[~table["reference"].astype(bool)].groupby("method")["share_of_ceiling"].mean().dropna()
    ranking = ", ".join(f"{method} {share:.3f}" for method, share in means.sort_values(ascending=False).items())
    missing = f"No finished {RIVAL} to compare with at equal settings."
    return f"Share of the ceiling, mean over settings: {ranking}. {missing}" if ranking else missing


# Over all settings.


def _over_all(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    seeds, table = aggregated(rows)
    if table.empty:
        reason = (
            "no setting with a known ceiling that all methods of a grid have finished; "
            f"`{command('synthetic-small')}` brings them"
        )
        return Missing(TOTAL, TOTAL_TITLE, reason)
    looks = style.styles(data.methods)
    grids = list(dict.fromkeys(table["grid"]))[: lines.MOST_PANELS]
    figure, panels = lines.grid_of(len(grids), across=1)
    figure.set_size_inches(6.6, 0.8 + sum(0.5 + 0.3 * int((table["grid"] == grid).sum()) for grid in grids))
    for panel, grid in zip(panels, grids):
        part = table[table["grid"] == grid].reset_index(drop=True)
        for place, row in part.iterrows():
            look = looks[row["method"]]
            fill = "white" if row["reference"] else look.color
            panel.plot([row["low"], row["high"]], [place, place], color=look.color, lw=2, zorder=2)
            panel.plot(row["share_of_ceiling"], place, look.marker, color=look.color, mfc=fill, ms=7, zorder=3)
            if pd.isna(row["low"]):
                single = seeds.merge(part.iloc[[place]], on=["grid", *LINE])["share"]
                panel.plot(single, [place] * len(single), "|", color=look.color, ms=9, zorder=2)
        panel.set_yticks(range(len(part)), [_who(row) for row in part.to_dict("records")])
        panel.set_ylim(len(part) - 0.5, -0.5)
        panel.set_xlim(0, max(1.04, 1.02 * seeds["share"].max()))
        panel.axvline(1, color=style.GREY, lw=0.9, zorder=1)
        panel.tick_params(labelleft=True)
        if len(grids) > 1:
            lines.title(panel, grid, 60)
    panels[-1].set_xlabel("share of the ceiling, interquartile mean over settings")
    return Exhibit(
        TOTAL,
        TOTAL_TITLE,
        _ranked(table),
        lines.ran(data, zip(rows["grid"], rows["task"])),
        figure,
        table,
        tuple(dict.fromkeys(rows["task"])),
        tuple(sorted(set(rows["method"]), key=style.order)),
    )


def _who(row: Mapping[Any, Any]) -> str:
    words = f"{row['method']} {row['predictor']} (reference)" if row["reference"] else str(row["method"])
    return words + (f", {row['setting']}" if row.get("setting") else "")


def aggregated(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interquartile means over settings of the share of the ceiling: per seed, and their means with intervals.

    Only settings that every line of the grid has finished count, and of a line only seeds that have all of these.
    """
    known = lines.per_seed(rows, [*PLACE, *LINE], "share")
    known["at"] = pd.MultiIndex.from_frame(known[PLACE]).to_flat_index()
    found = []
    for grid, part in known.groupby("grid", sort=True):
        own = list(part.groupby(LINE, sort=False))
        common = set.intersection(*(set(one["at"]) for _, one in own))
        for key, one in own:
            for seed, cells in one[one["at"].isin(common)].groupby("seed"):
                if len(cells) == len(common):
                    share = interquartile_mean(cells["share"].to_numpy())
                    tasks = cells["task"].nunique()
                    found.append((grid, *key, seed, share, len(common), tasks))
    seeds = pd.DataFrame(found, columns=["grid", *LINE, "seed", "share", "settings", "tasks"])
    table = lines.aggregate(seeds, ["grid", *LINE, "settings", "tasks"], "share")
    table = table.rename(columns={"mean": "share_of_ceiling"}).assign(rank=table["method"].map(style.order))
    order = ["grid", "reference", "rank", "setting"]
    return seeds, table.sort_values(order, kind="stable").drop(columns="rank").reset_index(drop=True)


def _ranked(table: pd.DataFrame) -> str:
    """Grid by grid, best first."""
    told = []
    for grid, part in table.groupby("grid", sort=False):
        ranked = part.sort_values("share_of_ceiling", ascending=False, kind="stable").to_dict("records")
        words = ", ".join(
            f"{_who(row)} {lines.shown(Interval(row['share_of_ceiling'], row['low'], row['high'], row['seeds']))}"
            for row in ranked
        )
        counts = f"{_counted(part['settings'].iloc[0], 'setting')} of {_counted(part['tasks'].iloc[0], 'task')}"
        told.append(f"{grid}, over {counts}: {words}.")
    return f"{' '.join(told)} {lines.few_seeds(table['seeds'])}"
