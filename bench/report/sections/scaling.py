"""Scaling: loss against context, memory and parameters with fitted power laws; and how small a memory will do."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.report import plot, style
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, command, exhibit, uncounted
from bench.report.query import LINE, aggregate, curve_points, having, number, scores, titled, without_idle
from bench.report.sweeps import sweeps, with_settings
from bench.report.words import few_seeds, sentences
from bench.results.frames import scale_of
from bench.statistics import power_law

NAME, TITLE = "scaling", "Loss against context, memory and parameters"
COMPRESSION, COMPRESSION_TITLE = "compression", "The smallest memory that reaches a loss"
GRID = "scaling-small"
RUNGS_OF_A_LAW = 3
"""A power law passes through any two points; it says something from three on."""
LEVELS = 4
COMPUTES = 6
"""So many losses, and amounts of training, are asked for the smallest memory."""
CURVE = ["grid", "task", "method", "setting", "unit"]


class Axis(NamedTuple):
    """What the loss is drawn against."""

    name: str
    label: str
    column: str | None
    """The column of its values; None: the field itself."""
    fields: tuple[str, ...]
    """Config columns whose sweeps belong here."""


AXES = (
    Axis("context", "context (tokens)", None, ("method.context",)),
    Axis("memory", "memory M (numbers)", "memory", ("model.memory_tokens",)),
    Axis(
        *("parameters", "parameters of the predictor", "predictor_parameters"),
        ("model.d", "model.updater_layers", "model.parameters"),
    ),
)


def section(data: Data) -> Section:
    """Power laws along the sweeps of all grids, and what more training saves in memory."""
    rows = ladders(data)
    if rows.empty:
        fields = ", ".join(field for axis in AXES for field in axis.fields)
        missing = f"no finished cells of one task and method that differ in just one of {fields}"
        reason = f"{missing}; `{command(GRID)}` brings them"
        gone = (Missing(NAME, TITLE, reason), Missing(COMPRESSION, COMPRESSION_TITLE, reason))
        return Section("scaling", "Scaling and compression", gone)
    table = laws(rows)
    caption = "Loss on the test set, and dotted the power law fitted to it; a teacher stands at its RNN's parameters."
    gaps = [name for name in ("gap", "gap_low", "gap_high") if table[name].isna().all()]
    made = exhibit(
        data,
        NAME,
        TITLE,
        sentences(caption, few_seeds(table["seeds"])),
        rows,
        panels=_panels(rows, table),
        table=without_idle(table, *gaps, keep_grid=True),
    )
    return Section("scaling", "Scaling and compression", (made, _compression(data, rows)))


def ladders(data: Data) -> pd.DataFrame:
    """Final scores of the cells of all sweeps: `axis` and `field`, `value` along it, `score` (loss in its unit).

    A cell stands in as many as it belongs to. `gap` is the score minus the teacher's of the same cell.
    """
    rows = scores(data)
    rows = rows[rows["trained"] & np.isfinite(rows["loss"])]
    rows = having(rows, *(field for axis in AXES for field in axis.fields))
    unit = rows["unit"].astype(object).where(rows["unit"].notna(), "nats")
    rows = rows.assign(unit=unit, score=rows["loss"] * unit.map(scale_of).astype(float), memory=_memory(data, rows))
    context = number(rows["method.context"])
    rows["method.context"] = context.where(~(context > rows["task.length"]), rows["task.length"])  # no more is there
    teacher = rows[rows["reference"] & (rows["predictor"] == "teacher")].groupby(["grid", "id"])["score"].mean()
    rows = rows.join(teacher.rename("teacher"), on=["grid", "id"])
    rows["gap"] = (rows["score"] - rows["teacher"]).where(~rows["reference"])
    found = [
        own.assign(axis=axis.name, field=field, value=number(own[axis.column or field]))
        for axis in AXES
        for field in axis.fields
        for own in with_settings(sweeps(data, rows.assign(**{field: number(rows[field])}), [field]))
    ]
    whole = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["value"])
    return whole[whole["value"] > 0].reset_index(drop=True)


def _memory(data: Data, rows: pd.DataFrame) -> pd.Series:
    """M = K d of every row; columns that are the same everywhere are not in the scores."""
    sizes = having(data.results, "grid", "id", "model.memory_tokens", "model.d").drop_duplicates(["grid", "id"])
    sizes = sizes.set_index(["grid", "id"])
    product = (number(sizes["model.memory_tokens"]) * number(sizes["model.d"])).rename("memory")
    return rows[["grid", "id"]].join(product, on=["grid", "id"])["memory"]


# Scaling.

KEYS = ["grid", "task", "axis", "field", *LINE, "unit"]


def laws(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per rung and line: loss, gap to the teacher (means and intervals), and the line's power law on all rungs.

    Where there are fewer than three rungs, the law's columns are NaN.
    """
    table = aggregate(rows, [*KEYS, "value"], "score", "loss")
    gaps = aggregate(rows, [*KEYS, "value"], "gap", "gap").drop(columns="seeds")
    table = table.merge(gaps, on=[*KEYS, "value"], how="left")
    table[["exponent", "exponent_error", "factor", "r2"]] = float("nan")
    for _, part in table.groupby(KEYS, sort=False):
        law = power_law(part["value"].to_numpy(), part["loss"].to_numpy())
        if part["value"].nunique() >= RUNGS_OF_A_LAW:
            names = ["exponent", "exponent_error", "factor", "r2"]
            table.loc[part.index, names] = [law.exponent, law.error, law.factor, law.r2]
    axes = {axis.name: place for place, axis in enumerate(AXES)}
    ranks = table.assign(rank=table["axis"].map(axes), who=table["method"].map(style.order))
    order = ranks.sort_values(["grid", "task", "rank", "field", "who", "setting", "reference", "value"], kind="stable")
    return table.loc[order.index].reset_index(drop=True)


def _panels(rows: pd.DataFrame, table: pd.DataFrame) -> list[plot.Panel]:
    found = []
    for grid, task, axis in dict.fromkeys(zip(table["grid"], table["task"], table["axis"])):
        here = rows[(rows["grid"] == grid) & (rows["task"] == task)]
        part, own = here[here["axis"] == axis], table[(table["grid"] == grid) & (table["task"] == task)]
        if len(set(part["field"])) > 1:
            along = "along " + part["field"].str.rpartition(".")[2] + ", " + part["setting"]
            part = part.assign(setting=along.str.rstrip(", "))
        lines = [*plot.sweep_lines(part, "value", "score"), *_laws(own[own["axis"] == axis])]
        low, high = here["score"].min(), here["score"].max()
        room = 0.06 * (high - low) + 1e-3
        label = next(one.label for one in AXES if one.name == axis)
        loss = f"test loss ({part['unit'].iloc[0]} per token)"
        title = titled(rows, grid, task)
        found.append(plot.Panel(title, label, loss, lines, ylim=(low - room, high + room)))
    return found


def _laws(table: pd.DataFrame) -> list[plot.Line]:
    found = []
    for _, line in table.dropna(subset="exponent").groupby(KEYS, sort=False):
        x = np.geomspace(line["value"].min(), line["value"].max(), 50)
        y = line["factor"].iloc[0] * x ** line["exponent"].iloc[0]
        found.append(plot.Line("", x, y, method=line["method"].iloc[0], kind="fit"))
    return found


# Compression.


def smallest(data: Data, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """When each memory has first reached each loss, and from that the smallest memory by each amount of training.

    `rows` as `ladders` gives them. The first frame has a row per method, level and memory: spent, when the mean curve
    over seeds was at the level or below (inf: never), and `end`, where the longest curve ends. The second has a row per
    method, level and compute: memory, the smallest that was there by then (NaN: none). Compute is in FLOPs where all
    cells of the ladder were traced, else in tokens (`currency`). Levels lie evenly from what the worst memory reaches
    to what the best one does; amounts of compute, geometrically, from when the first level is reached to the end.
    """
    cells = rows[(rows["axis"] == "memory") & ~rows["reference"]]
    cells = cells[[*CURVE, "id", "seed", "value"]].drop_duplicates()
    points = curve_points(data, "spent.flops", "spent.tokens", "unit_loss").rename(columns={"unit_loss": "score"})
    points = points[["grid", "id", "spent.flops", "spent.tokens", "score"]].merge(cells, on=["grid", "id"])
    points = points[np.isfinite(points["score"]) & (points["spent.tokens"] > 0)]
    passages, answers = [], []
    for key, part in sorted(points.groupby(CURVE), key=lambda one: (*one[0][:2], style.order(one[0][2]), *one[0][3:])):
        currency = "FLOPs" if part["spent.flops"].gt(0).all() else "tokens"
        curves = {
            float(memory): _mean_curve([one for _, one in own.groupby("id")], f"spent.{currency.lower()}")
            for memory, own in part.groupby("value")
        }
        if len(curves) < 2:
            continue
        end = max(float(spent[-1]) for spent, _ in curves.values())
        lowest = [float(reached[-1]) for _, reached in curves.values()]
        levels = {math.ceil(one * 1000 - 1e-6) / 1000 for one in np.linspace(max(lowest), min(lowest), LEVELS)}
        firsts = {level: {memory: _passage(*curve, level) for memory, curve in curves.items()} for level in levels}
        begin = min(spent for first in firsts.values() for spent in first.values())
        for level, first in sorted(firsts.items(), reverse=True):
            passages += [(*key, currency, level, memory, spent, end) for memory, spent in first.items()]
            for compute in np.geomspace(begin, end, COMPUTES):
                there = [memory for memory, spent in first.items() if spent <= compute]
                answers.append((*key, currency, level, compute, min(there, default=float("nan"))))
    head = [*CURVE, "currency", "level"]
    return (
        pd.DataFrame(passages, columns=[*head, "memory", "spent", "end"]),
        pd.DataFrame(answers, columns=[*head, "compute", "smallest_memory"]),
    )


def _mean_curve(seeds: list[pd.DataFrame], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Spend, as far as all seeds reach, and the lowest that the mean loss has been until then."""
    curves = [one.sort_values(column).drop_duplicates(column, keep="last") for one in seeds]
    begin, end = max(one[column].iloc[0] for one in curves), min(one[column].iloc[-1] for one in curves)
    spent = np.unique(np.concatenate([one[column].to_numpy() for one in curves]))
    spent = spent[(spent >= min(begin, end)) & (spent <= end)]
    mean = np.mean([np.interp(spent, one[column], one["score"]) for one in curves], axis=0)
    return spent, np.minimum.accumulate(mean)


def _passage(spent: np.ndarray, reached: np.ndarray, level: float) -> float:
    there = np.flatnonzero(reached <= level)
    return float(spent[there[0]]) if len(there) else math.inf


def _compression(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    passages, table = smallest(data, rows)
    if table.empty:
        reason = (
            "no finished cells with learning curves that differ in just model.memory_tokens; "
            f"`{command(GRID)}` brings them"
        )
        return Missing(COMPRESSION, COMPRESSION_TITLE, reason)
    found = []
    for key, part in passages.groupby(CURVE, sort=False):
        grid, task, method, setting, unit = map(str, key)
        title = titled(table, grid, task, method, setting)
        lines = [
            _steps(one, f"{level:.3f} {unit}", method, variant)
            for variant, (level, one) in enumerate(part.groupby("level", sort=False))
        ]
        spend = "training FLOPs" if part["currency"].iloc[0] == "FLOPs" else "training tokens"
        span = part["memory"].min() / 1.4, part["memory"].max() * 1.4
        found.append(plot.Panel(title, spend, "smallest memory M (numbers)", lines, ticks="log", ylog=True, ylim=span))
    caption = "The smallest memory whose mean curve has reached each loss by then, at an evaluation."
    return exhibit(
        data,
        COMPRESSION,
        COMPRESSION_TITLE,
        sentences(caption, uncounted(data.uncounted, table)),
        table,
        panels=found,
        across=2,
        table=without_idle(table.rename(columns={"level": "loss"}), keep_grid=True),
    )


def _steps(level: pd.DataFrame, tip: str, method: str, variant: int) -> plot.Line:
    """Down wherever a smaller memory than before has reached the level; until the end."""
    steps: list[tuple[float, float]] = []
    for spent, memory in sorted(zip(level["spent"], level["memory"])):
        if math.isfinite(spent) and (not steps or memory < steps[-1][1]):
            steps = [step for step in steps if step[0] < spent] + [(spent, memory)]
    x, y = (np.array(one, dtype=float) for one in zip(*steps, (level["end"].iloc[0], steps[-1][1])))
    return plot.Line("", x, y, method=method, variant=variant, kind="steps", tip=tip)
