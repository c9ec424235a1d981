"""Experiments on methods that learn online, which `diagnose NAME` leaves in a results folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.drawing import drawing
from bench.report import plot, style
from bench.report.data import Data
from bench.report.exhibit import Exhibit
from bench.report.style import RC
from bench.results import read_json, write_atomically
from bench.statistics import Interval, exponential, mean_interval, power_law

TITLE = "Gradients of online methods"
BEST, AIM = -1 / 6, 0.01
"""theta at the optimum of influence balancing, and how near it counts as there."""
UNSURE = 0.25
"""The standard error of a bias, relative to the exact gradient, above which it is not shown."""
AXES = {"units": "n (units)", "distance": "columns back to the cue"}
COSTS = {"flops": "FLOPs", "bytes": "bytes"}
MEASURED = {"bias": "bias / |exact gradient|", "variance": "variance / |exact gradient|²", "cosine": "cosine"}


def exhibits(data: Data) -> Iterator[Exhibit]:
    """An exhibit for each record that is there."""
    yield from map(shown, records(data))


def records(data: Data) -> Iterator[dict[str, Any]]:
    """The first of each kind in the folders, or one level below them."""
    for name in EXHIBITS:
        files = (file for folder in data.folders for file in (folder / f"{name}.json", *folder.glob(f"*/{name}.json")))
        found = next(
            (
                record
                for record in map(read_json, files)
                if isinstance(record, dict) and record.get("experiment") == name
            ),
            None,
        )
        if found is not None:
            yield found


def shown(record: dict[str, Any]) -> Exhibit:
    """The exhibit of one record."""
    return EXHIBITS[record["experiment"]](record)


def save_png(record: dict[str, Any], path: Path) -> None:
    """The figure of a record as a PNG file, written whole or not at all."""
    with drawing(RC):
        figure = shown(record).figure
        assert figure is not None
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _exhibit(
    record: dict[str, Any],
    title: str,
    caption: str,
    run: str,
    panels: list[plot.Panel],
    table: pd.DataFrame,
    across: int,
) -> Exhibit:
    name = record["experiment"]
    looks = style.styles(set(table["method"]), record.get("methods"))
    methods = tuple(sorted(set(table["method"]), key=style.order))
    figure = plot.draw(panels, looks, across)
    return Exhibit(name, title, caption, f"diagnose {name}: {run}", figure=figure, table=table, methods=methods)


def _variants(rows: pd.DataFrame) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
    """Method, setting, its number among the method's, and its rows; in the order of legends."""
    for method in sorted(set(rows["method"]), key=style.order):
        own = rows[rows["method"] == method]
        for number, (setting, part) in enumerate(own.groupby("setting", sort=False)):
            yield method, str(setting), number, part


def _with_ends(part: pd.DataFrame, x: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, and a column with the ends of its interval."""
    at, mean, low, high = (part[column].to_numpy(dtype=float) for column in (x, name, f"{name}_low", f"{name}_high"))
    return at, mean, low, high


# Influence balancing.


def balanced(record: dict[str, Any]) -> pd.DataFrame:
    """A row per method and seed: theta at the end, how far it is from the best one, and whether that is there."""
    rows = [
        {"method": run["method"], "setting": run["setting"], "seed": run["seed"], "steps": run["steps"][-1]}
        | {"theta": run["theta"][-1], "off": abs(run["theta"][-1] - BEST)}
        for run in record["found"]
    ]
    return pd.DataFrame(rows).assign(arrived=lambda table: table["off"] < AIM)


def _balance(record: dict[str, Any]) -> Exhibit:
    table = balanced(record)
    lines = []
    for method, setting, number, part in _variants(pd.DataFrame(record["found"])):
        steps, *_ = (np.array(values[1:], dtype=float) for values in part["steps"])
        theta = np.array([values[1:] for values in part["theta"]], dtype=float).clip(-10, 10)
        seeds = tuple((steps, values) for values in theta) if len(theta) > 1 else ()
        word = plot.who(method, setting)
        lines.append(plot.Line(word, steps, theta.mean(0), seeds=seeds, method=method, variant=number, kind="curve"))
    levels = [plot.Level("optimum, -1/6", np.array([BEST]))]
    panel = plot.Panel("", "steps", "θ", lines, levels, ticks="log", ylim=(-1.0, 2.0))
    caption = "The parameter θ of a loss whose gradient turns its sign with the columns that it goes back through."
    run = f"{table['steps'].max():,} steps of SGD, one lane."
    return _exhibit(record, "Influence balancing", caption, run, [panel], table, 1)


# Convergence.


def converged(record: dict[str, Any]) -> pd.DataFrame:
    """A row per method and number of steps: the median loss over seeds, its quartiles, and how many seeds."""
    rows = []
    for run in record["found"]["methods"]:
        for steps, losses in zip(run["steps"], run["loss"]):
            low, median, high = np.quantile(losses, [0.25, 0.5, 0.75])
            at = {"method": run["method"], "setting": "k 1" if run["method"] == "tbptt" else "", "steps": steps}
            rows.append({**at, "loss": median, "loss_low": low, "loss_high": high, "seeds": len(losses)})
    return pd.DataFrame(rows)


def _convergence(record: dict[str, Any]) -> Exhibit:
    table = converged(record)
    lines = [
        plot.Line(plot.who(method, setting), *_with_ends(part, "steps", "loss"), method=method)
        for method, setting, _, part in _variants(table)
    ]
    levels = [plot.Level("variance of the target / 2", np.array([record["found"]["target"]]))]
    panel = plot.Panel("", "steps", "loss", lines, levels, ticks="log", ylog=True)
    caption = "The loss over one period of a cycle of 97 inputs: median of the seeds, and their middle half."
    run = f"{table['steps'].max():,} steps of SGD, {table['seeds'].max()} seeds."
    return _exhibit(record, "Convergence", caption, run, [panel], table, 1)


# Quality of gradients.


def graded(record: dict[str, Any]) -> pd.DataFrame:
    """A row per method, setting, axis and value: bias, variance, cosine, each with its interval over networks.

    `error` is the standard error that noise leaves in a bias. The mean of variances is geometric.
    """
    rows = pd.DataFrame(record["found"])
    by, table = ["method", "setting", "axis", "value"], []
    for key, part in rows.groupby(by, sort=False):
        square = mean_interval(part["squared_bias"].to_numpy(dtype=float))
        noise = part["variance"].to_numpy(dtype=float)
        found = {
            "bias": Interval(_root(square.mean), _root(square.low), _root(square.high), square.n),
            "variance": exponential(mean_interval(np.log(noise))) if (noise > 0).all() else mean_interval(noise),
            "cosine": mean_interval(part["cosine"].to_numpy(dtype=float)),
        }
        spreads = {
            f"{name}{end}": value
            for name, interval in found.items()
            for end, value in zip(("", "_low", "_high"), interval)
        }
        error = math.sqrt(float((noise / part["draws"]).mean()))
        more = {"error": error, "draws": int(part["draws"].max()), "networks": square.n}
        table.append({**dict(zip(by, key)), **spreads, **more})
    return pd.DataFrame(table)


def _root(square: float) -> float:
    """Of an estimate that may be below 0, with its sign."""
    return math.copysign(math.sqrt(abs(square)), square)


def _quality(record: dict[str, Any]) -> Exhibit:
    table = graded(record)
    panels = [
        _panel(table[table["axis"] == axis], axis, value)
        for axis in AXES
        for value in MEASURED
        if (table["axis"] == axis).any()
    ]
    caption = (
        "Gradients of networks that are not trained, against the exact one: above by the number of units, below by the "
        "distance to the only symbol whose credit is looked at. A bias is left out where noise hides it."
    )
    run = f"tanh, {table['networks'].max()} networks, {table['draws'].max():,} draws of noise for each."
    return _exhibit(record, "Quality of gradients", caption, run, panels, table, len(MEASURED))


def _panel(rows: pd.DataFrame, axis: str, name: str) -> plot.Panel:
    lines = []
    for method, setting, number, part in _variants(rows):
        kept = part.sort_values("value")
        if name == "bias":
            kept = kept[kept["error"] < UNSURE]
        if name == "variance":
            kept = kept[kept["variance"] > 0]
        if len(kept):
            ends = _with_ends(kept, "value", name)
            lines.append(plot.Line(plot.who(method, setting), *ends, method=method, variant=number))
    bounds = {"bias": (-0.35, 1.15), "cosine": (-0.05, 1.05)}.get(name)
    return plot.Panel("", AXES[axis], MEASURED[name], lines, ylim=bounds, ylog=name == "variance")


# Costs.


def grown(record: dict[str, Any]) -> pd.DataFrame:
    """A row per method, setting and axis: the exponents of FLOPs and bytes over the larger half, and their last values.

    An exponent has the standard error of its fit beside it.
    """
    table = []
    for key, part in pd.DataFrame(record["found"]).groupby(["method", "setting", "axis"], sort=False):
        part = part.sort_values("value")
        half = part[len(part) // 2 :] if len(part) > 3 else part
        row = dict(zip(("method", "setting", "axis"), key)) | {"at": int(part["value"].iloc[-1])}
        for name in COSTS:
            fit = power_law(half["value"].to_numpy(dtype=float), half[name].to_numpy(dtype=float))
            row |= {name: part[name].iloc[-1], f"{name}_exponent": fit.exponent, f"{name}_error": fit.error}
        table.append(row)
    return pd.DataFrame(table)


def _costs(record: dict[str, Any]) -> Exhibit:
    rows, panels = pd.DataFrame(record["found"]), []
    for axis, x in (("units", "n (units)"), ("columns", "T (columns of a batch)")):
        for name, y in COSTS.items():
            lines = [
                plot.Line(plot.who(method, setting), *_of(part, name), method=method, variant=number)
                for method, setting, number, part in _variants(rows[rows["axis"] == axis])
            ]
            panels.append(plot.Panel("", x, y, lines, ylog=True))
    caption = "What a column of a stream costs for a lane, traced from a step that ran; an update at every column."
    run = "tanh and elstm, linear readout, three symbols."
    return _exhibit(record, "Costs of carrying credit", caption, run, panels, grown(record), 2)


def _of(part: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    part = part.sort_values("value")
    return part["value"].to_numpy(dtype=float), part[name].to_numpy(dtype=float)


EXHIBITS: dict[str, Callable[[dict[str, Any]], Exhibit]] = {
    "gradient-quality": _quality,
    "influence-balancing": _balance,
    "convergence": _convergence,
    "credit-costs": _costs,
}
