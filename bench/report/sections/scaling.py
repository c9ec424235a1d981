"""Scaling: loss against context, memory and parameters with fitted power laws; and how small a memory will do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.curves import first_at, on_common_x
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, command, exhibit, uncounted
from bench.report.query import LINE, RUN, curve_points, number, one_per_run, scores, titled, with_columns
from bench.report.sweeps import sweeps, with_settings
from bench.report.tables import in_order, tabulate, without_idle
from bench.report.words import sentences
from bench.results.frames import scale_of
from bench.statistics import power_law

TITLE = "Scaling and compression"
BRINGS = f"`{command('scaling-small')}` brings them"
RUNGS_OF_A_LAW = 3
"""A power law passes through any two points; it says something from three on."""
LEVELS = 4
COMPUTES = 6
"""So many losses, and amounts of training, are asked for the smallest memory."""
CURVE = ["grid", "task", "method", "setting", "unit"]
KEYS = ["grid", "task", "axis", "field", *LINE, "unit"]
LAW = ["exponent", "exponent_error", "factor", "r2"]


class Axis(NamedTuple):
    """What the loss is drawn against."""

    label: str
    column: str | None  # the column of its values; None: the field itself
    fields: tuple[str, ...]  # config columns whose sweeps belong here


AXES = {
    "context": Axis("context (tokens)", None, ("method.context",)),
    "memory": Axis("memory M (numbers)", "memory", ("model.memory_tokens",)),
    "parameters": Axis(
        *("parameters of the predictor", "predictor_parameters"),
        ("model.d", "model.updater_layers", "model.parameters"),
    ),
}
FIELDS = [field for axis in AXES.values() for field in axis.fields]


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """Power laws along the sweeps of all grids, and what more training saves in memory."""
    rows = sweep_scores(data)
    table = laws(rows)
    gaps = [name for name in ("gap", "gap_low", "gap_high") if table[name].isna().all()]
    shown = without_idle(table, *gaps, keep_grid=True)
    title = "Loss against context, memory and parameters"
    caption = "Loss on the test set, and dotted the power law fitted to it; a teacher stands at its RNN's parameters."
    missing = f"no finished cells of one task and method that differ in just one of {', '.join(FIELDS)}; {BRINGS}"
    yield exhibit(data, "scaling", title, caption, rows, missing, panels=list(_panels(rows, table)), table=shown)
    passages, answers = smallest(data, rows)
    steps = [_steps(key, part, answers) for key, part in passages.groupby(CURVE, sort=False)]
    shown = without_idle(answers.rename(columns={"level": "loss"}), keep_grid=True)
    title = "The smallest memory that reaches a loss"
    caption = "The smallest memory whose mean curve has reached each loss by then, at an evaluation."
    caption = sentences(caption, uncounted(data.uncounted, answers))
    if len(rows):
        missing = f"no finished cells with learning curves that differ in just model.memory_tokens; {BRINGS}"
    yield exhibit(data, "compression", title, caption, answers, missing, panels=steps, across=2, table=shown)


def sweep_scores(data: Data) -> pd.DataFrame:
    """Scores of each sweep: `axis`, `field`, `value`, `score` in the task's unit, and `gap` to the cell's teacher."""
    rows = scores(data)
    rows = with_columns(rows[rows["trained"] & np.isfinite(rows["loss"])], *FIELDS)
    unit = rows["unit"].astype(object).where(rows["unit"].notna(), "nats")
    rows = rows.assign(unit=unit, score=rows["loss"] * unit.map(scale_of).astype(float))
    runs = with_columns(one_per_run(data), *RUN, "model.memory_tokens", "model.d").set_index(
        RUN
    )  # (scores have what differs)
    memory = number(runs["model.memory_tokens"]) * number(runs["model.d"])
    rows = rows.join(memory.rename("memory"), on=RUN)
    context = number(rows["method.context"])
    rows["method.context"] = context.where(~(context > rows["task.length"]), rows["task.length"])  # no more is there
    teacher = rows[rows["reference"] & (rows["predictor"] == "teacher")].groupby(RUN)["score"].mean()
    rows = rows.join(teacher.rename("teacher"), on=RUN)
    rows["gap"] = (rows["score"] - rows["teacher"]).where(~rows["reference"])
    none = rows[:0].assign(axis="", field="", value=0.0, setting="")
    found = [
        own.assign(axis=name, field=field, value=number(own[axis.column or field]))
        for name, axis in AXES.items()
        for field in axis.fields
        for own in with_settings(sweeps(data, rows.assign(**{field: number(rows[field])}), [field]))
    ]
    whole = pd.concat([none, *found], ignore_index=True)
    return whole[whole["value"] > 0].reset_index(drop=True)


# Scaling.


def laws(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per rung and line: loss, gap to the teacher, and the line's power law, NaN for fewer than three rungs."""
    table = tabulate(rows.assign(loss=rows["score"]), [*KEYS, "value"], loss="interval", gap="interval")
    table[LAW] = float("nan")
    for _, part in table.groupby(KEYS, sort=False):
        if part["value"].nunique() >= RUNGS_OF_A_LAW:
            law = power_law(part["value"].to_numpy(), part["loss"].to_numpy())
            table.loc[part.index, LAW] = [law.exponent, law.error, law.factor, law.r2]
    table = table.assign(place=table["axis"].map(list(AXES).index))
    by = ["grid", "task", "place", "field", "method", "setting", "reference", "value"]
    return in_order(table, *by).drop(columns="place")


def _panels(rows: pd.DataFrame, table: pd.DataFrame) -> Iterator[plot.Panel]:
    for (grid, task, axis), own in table.groupby(["grid", "task", "axis"], sort=False):
        here = rows[(rows["grid"] == grid) & (rows["task"] == task)]
        part = here[here["axis"] == axis]
        if len(set(part["field"])) > 1:
            along = "along " + part["field"].str.rpartition(".")[2] + ", " + part["setting"]
            part = part.assign(setting=along.str.rstrip(", "))
        lines = plot.sweep_lines(part, "value", "score")
        for _, law in own.dropna(subset="exponent").groupby(KEYS, sort=False):
            x = np.geomspace(law["value"].min(), law["value"].max(), 50)
            y = law["factor"].iloc[0] * x ** law["exponent"].iloc[0]
            lines.append(plot.Line("", x, y, method=law["method"].iloc[0], kind="fit"))
        low, high = here["score"].min(), here["score"].max()
        room = 0.06 * (high - low) + 1e-3
        loss = f"test loss ({part['unit'].iloc[0]} per token)"
        yield plot.Panel(titled(rows, grid, task), AXES[str(axis)].label, loss, lines, ylim=(low - room, high + room))


# Compression.


def smallest(data: Data, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """When each memory has first reached each loss, and from that the smallest memory by each amount of training.

    `rows` are `sweep_scores`. The first frame has a row per method, level and memory: spent, when the mean curve over
    seeds was at the level or below (inf: never), and `end`, where the longest curve ends. The second has a row per
    method, level and compute: memory, the smallest that was there by then (NaN: none). Compute is in FLOPs where all
    cells of the ladder were traced, else in tokens (`currency`). Levels lie evenly from what the worst memory reaches
    to what the best one does; amounts of compute, geometrically, from when the first level is reached to the end.
    """
    cells = rows[(rows["axis"] == "memory") & ~rows["reference"]]
    cells = cells[[*CURVE, "id", "seed", "value"]].drop_duplicates()
    points = curve_points(data, "spent.flops", "spent.tokens", "unit_loss").rename(columns={"unit_loss": "score"})
    points, cells = (frame.astype(dict.fromkeys(RUN, object)) for frame in (points, cells))  # (either may be empty)
    points = points.merge(cells, on=RUN)
    points = points[np.isfinite(points["score"]) & (points["spent.tokens"] > 0)]
    passages, answers = [], []
    by_curve: Any = in_order(points, *CURVE).groupby(CURVE, sort=False)
    for key, part in by_curve:
        currency = "FLOPs" if part["spent.flops"].gt(0).all() else "tokens"
        curves = {
            float(memory): _mean_curve([run for _, run in own.groupby("id")], f"spent.{currency.lower()}")
            for memory, own in part.groupby("value")
        }
        if len(curves) < 2:
            continue
        end = max(float(spent[-1]) for spent, _ in curves.values())
        lowest = [float(reached[-1]) for _, reached in curves.values()]
        levels = {math.ceil(loss * 1000 - 1e-6) / 1000 for loss in np.linspace(max(lowest), min(lowest), LEVELS)}
        firsts = {
            level: {memory: first_at(*curve, level, math.inf) for memory, curve in curves.items()} for level in levels
        }
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
    curves = [seed.sort_values(column).drop_duplicates(column, keep="last") for seed in seeds]
    spent, losses = on_common_x([(curve[column].to_numpy(), curve["score"].to_numpy()) for curve in curves])
    return spent, np.minimum.accumulate(losses.mean(0))


def _steps(key: Any, part: pd.DataFrame, table: pd.DataFrame) -> plot.Panel:
    """A line for each loss: down wherever a smaller memory than before has reached it, until the end."""
    grid, task, method, setting, unit = key
    lines = []
    for variant, (level, own) in enumerate(part.groupby("level", sort=False)):
        steps: list[tuple[float, float]] = []
        for spent, memory in sorted(zip(own["spent"], own["memory"])):
            if math.isfinite(spent) and (not steps or memory < steps[-1][1]):
                steps = [step for step in steps if step[0] < spent] + [(spent, memory)]
        x, y = (np.array(values, dtype=float) for values in zip(*steps, (own["end"].iloc[0], steps[-1][1])))
        lines.append(plot.Line("", x, y, method=method, variant=variant, kind="steps", tip=f"{level:.3f} {unit}"))
    spend = "training FLOPs" if part["currency"].iloc[0] == "FLOPs" else "training tokens"
    span = part["memory"].min() / 1.4, part["memory"].max() * 1.4
    title = titled(table, grid, task, method, setting)
    return plot.Panel(title, spend, "smallest memory M (numbers)", lines, ticks="log", ylog=True, ylim=span)
