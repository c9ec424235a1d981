"""Experiments on methods that learn online, which `diagnose NAME` leaves in a results folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.report import plot, style
from bench.report.data import Data
from bench.report.exhibit import Exhibit
from bench.report.tables import with_ends
from bench.results import read_json
from bench.statistics import Interval, exponential, mean_interval, power_law

TITLE = "Gradients of online methods"
BEST, AIM = -1 / 6, 0.01
"""theta at the optimum of influence balancing, and how near it counts as there."""
UNSURE = 0.25
"""The standard error of a bias, relative to the exact gradient, above which it is not shown."""
AXES = {"units": "n (units)", "distance": "columns back to the cue", "columns": "T (columns of a batch)"}
COSTS = {"flops": "FLOPs", "bytes": "bytes"}
MEASURED = {"bias": "bias / |exact gradient|", "variance": "variance / |exact gradient|²", "cosine": "cosine"}
BOUNDS = {"bias": (-0.35, 1.15), "cosine": (-0.05, 1.05)}
WHO = ["method", "setting", "axis"]

Record = dict[str, Any]


def exhibits(data: Data) -> Iterator[Exhibit]:
    """An exhibit for each record that is there."""
    yield from map(shown, records(data))


def records(data: Data) -> Iterator[Record]:
    """The first of each kind in the folders, or one level below them."""
    for name in EXHIBITS:
        files = (file for folder in data.folders for file in (folder / f"{name}.json", *folder.glob(f"*/{name}.json")))
        kept = (record for record in map(read_json, files) if isinstance(record, dict))
        yield from [record for record in kept if record.get("experiment") == name][:1]


def shown(record: Record) -> Exhibit:
    """The exhibit of a record."""
    return EXHIBITS[record["experiment"]](record)


def save_png(record: Record, path: Path) -> None:
    """Write the figure of a record as a PNG file, whole or not at all."""
    plot.save_png(lambda: shown(record).figure, path)


def _exhibit(
    record: Record, title: str, caption: str, table: pd.DataFrame, run: str, panels: list[plot.Panel], across: int = 1
) -> Exhibit:
    looks, name = style.styles(table["method"], record.get("methods")), record["experiment"]
    figure = plot.draw(panels, looks, across)
    return Exhibit(name, title, caption, f"diagnose {name}: {run}", figure=figure, table=table, methods=tuple(looks))


def _lines(rows: pd.DataFrame, x: str, y: str) -> list[plot.Line]:
    """A line for each method and setting, with the ends of its interval if there are any."""
    lines = [
        plot.of_table(part.sort_values(x), x, y, method, word, variant=number)
        for method, word, number, part in plot.by_setting(rows)
    ]
    return [line for line in lines if len(line.x)]


# Influence balancing.


def balance_table(record: Record) -> pd.DataFrame:
    """A row per method and seed: theta at the end, how far it is from the best one, and whether that is there."""
    table = pd.DataFrame(record["found"])[["method", "setting", "seed", "steps", "theta"]]
    table = table.assign(steps=table["steps"].str[-1], theta=table["theta"].str[-1])
    off = (table["theta"] - BEST).abs()
    return table.assign(off=off, arrived=off < AIM)


def _balance(record: Record) -> Exhibit:
    table, rows = balance_table(record), pd.DataFrame(record["found"]).explode(["steps", "theta"])
    rows = rows.assign(id=rows["seed"], theta=rows["theta"].astype(float).clip(-10, 10))[rows["steps"] > 0]
    lines = [
        plot.over_curves(part, "steps", "theta", method, word, variant=number)
        for method, word, number, part in plot.by_setting(rows)
    ]
    levels = [plot.Level("optimum, -1/6", np.array([BEST]))]
    panel = plot.Panel("", "steps", "θ", lines, levels, ticks="log", ylim=(-1.0, 2.0))
    caption = "The parameter θ of a loss whose gradient turns its sign with the columns that it goes back through."
    run = f"{table['steps'].max():,} steps of SGD, one lane."
    return _exhibit(record, "Influence balancing", caption, table, run, [panel])


# Convergence.


def convergence_table(record: Record) -> pd.DataFrame:
    """A row per method and number of steps: the median loss over seeds, its quartiles, and how many seeds."""
    rows = []
    for run in record["found"]["methods"]:
        for steps, losses in zip(run["steps"], run["loss"]):
            low, median, high = np.quantile(losses, [0.25, 0.5, 0.75])
            at = {"method": run["method"], "setting": "k 1" if run["method"] == "tbptt" else "", "steps": steps}
            rows.append(at | with_ends("loss", Interval(median, low, high, len(losses))) | {"seeds": len(losses)})
    return pd.DataFrame(rows)


def _convergence(record: Record) -> Exhibit:
    table = convergence_table(record)
    levels = [plot.Level("variance of the target / 2", np.array([record["found"]["target"]]))]
    panel = plot.Panel("", "steps", "loss", _lines(table, "steps", "loss"), levels, ticks="log", ylog=True)
    caption = "The loss over one period of a cycle of 97 inputs: median of the seeds, and their middle half."
    run = f"{table['steps'].max():,} steps of SGD, {table['seeds'].max()} seeds."
    return _exhibit(record, "Convergence", caption, table, run, [panel])


# Quality of gradients.


def quality_table(record: Record) -> pd.DataFrame:
    """A row per method, setting, axis and value: bias, variance, cosine, each with its interval over networks.

    `error` is the standard error that noise leaves in a bias. The mean of variances is geometric.
    """
    table, by = [], [*WHO, "value"]
    for key, part in pd.DataFrame(record["found"]).groupby(by, sort=False):
        noise = part["variance"].to_numpy(dtype=float)
        square = mean_interval(part["squared_bias"].to_numpy(dtype=float))
        bias, low, high = map(_signed_root, square[:3])
        row = dict(zip(by, key)) | with_ends("bias", Interval(bias, low, high, square.n))
        variance = exponential(mean_interval(np.log(noise))) if (noise > 0).all() else mean_interval(noise)
        row |= with_ends("variance", variance)
        row |= with_ends("cosine", mean_interval(part["cosine"].to_numpy(dtype=float)))
        error = math.sqrt(float((noise / part["draws"]).mean()))
        table.append(row | {"error": error, "draws": int(part["draws"].max()), "networks": square.n})
    return pd.DataFrame(table)


def _signed_root(square: float) -> float:
    """The root of an estimate that may be below 0, with its sign."""
    return math.copysign(math.sqrt(abs(square)), square)


def _quality(record: Record) -> Exhibit:
    table = quality_table(record)
    panels = [
        quality_panel(part, axis, value)
        for axis in AXES
        for value in MEASURED
        if len(part := table[table["axis"] == axis])
    ]
    run = f"tanh, {table['networks'].max()} networks, {table['draws'].max():,} draws of noise for each."
    caption = (
        "Gradients of networks that are not trained, against the exact one: above by the number of units, below by the "
        "distance to the only symbol whose credit is looked at. A bias is left out where noise hides it."
    )
    return _exhibit(record, "Quality of gradients", caption, table, run, panels, len(MEASURED))


def quality_panel(rows: pd.DataFrame, axis: str, name: str) -> plot.Panel:
    """A bias, variance or cosine, where noise does not hide it and a logarithm shows it."""
    seen = {"bias": rows["error"] < UNSURE, "variance": rows["variance"] > 0}.get(name, rows[name].notna())
    lines = _lines(rows.assign(**{name: rows[name].where(seen)}), "value", name)
    return plot.Panel("", AXES[axis], MEASURED[name], lines, ylim=BOUNDS.get(name), ylog=name == "variance")


# Costs.


def cost_table(record: Record) -> pd.DataFrame:
    """A row per method, setting, axis: exponents of FLOPs and bytes over the larger half, with errors; last values."""
    table = []
    for key, part in pd.DataFrame(record["found"]).groupby(WHO, sort=False):
        part = part.sort_values("value")
        half = part[len(part) // 2 :] if len(part) > 3 else part
        row = dict(zip(WHO, key)) | {"at": int(part["value"].iloc[-1])}
        for name in COSTS:
            fit = power_law(half["value"].to_numpy(dtype=float), half[name].to_numpy(dtype=float))
            row |= {name: part[name].iloc[-1], f"{name}_exponent": fit.exponent, f"{name}_error": fit.error}
        table.append(row)
    return pd.DataFrame(table)


def _costs(record: Record) -> Exhibit:
    rows = pd.DataFrame(record["found"])
    panels = [
        plot.Panel("", AXES[axis], label, _lines(rows[rows["axis"] == axis], "value", name), ylog=True)
        for axis in ("units", "columns")
        for name, label in COSTS.items()
    ]
    caption = "What a column of a stream costs for a lane, traced from a step that ran; an update at every column."
    run = "tanh and elstm, linear readout, three symbols."
    return _exhibit(record, "Costs of carrying credit", caption, cost_table(record), run, panels, 2)


EXHIBITS: dict[str, Callable[[Record], Exhibit]] = {
    "gradient-quality": _quality,
    "influence-balancing": _balance,
    "convergence": _convergence,
    "credit-costs": _costs,
}
