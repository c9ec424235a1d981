"""Methods that learn online against CPU seconds: whose are best spent, and when levels are passed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.curves import first_at
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, exhibit
from bench.report.published import published_bits
from bench.report.query import RUN, cells, curve_points, number, titled, varying, with_columns, worded
from bench.report.tables import with_ends
from bench.results.frames import scale_of
from bench.statistics import band, mean_interval

TITLE = "Online learning against CPU seconds"
LEVELS = (0.1, 0.02)
"""Above the floor, in the task's unit: when a curve is first below them is told."""
LEAST = 1e-3
"""Above the floor: what is less, or below it as the drawn labels happen to be, is drawn here."""
WHERE = ["grid", "task", "model"]
WHO = ["method", "setting"]
FALLS = (
    "Loss above the floor, or the best where no floor is known, against CPU seconds of training, and their front; "
    "seconds until it is first within a level. Means over seeds."
)
RISES = "Levels of the curriculum against updates and CPU seconds, mean over seeds; equal: at the least that any spent."


class Curve(NamedTuple):
    """A method in a setting, over seeds, at the evaluations that all of them have."""

    who: dict[Any, Any]
    word: str  # in the legend
    variant: int  # the number of the setting among the method's
    spent: dict[str, np.ndarray]  # (n,) each: `SPENT`, means over seeds
    y: np.ndarray  # (seeds, n)
    seeds: tuple[int, ...]

    def last_spent(self) -> dict[str, float]:
        """What it had spent at its last evaluation."""
        return {name: x[-1] for name, x in self.spent.items()}

    def line(self, name: str) -> plot.Line:
        """The mean against what was spent."""
        how: dict[str, Any] = {"method": self.who["method"], "variant": self.variant}
        return plot.Line(self.word, self.spent[name], *band(self.y), **how)


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """An exhibit for each task of each grid with methods that learn from streams; none where there are no such runs."""
    if data.curves.empty:
        return
    for (grid, task), part in points(data).groupby(["grid", "task"], sort=True):
        rises, name = bool(part["level"].notna().any()), titled(data.results, grid, task)
        value, make = ("level", _levels) if rises else ("above", _losses)
        table, panels, part = [], [], part.sort_values("setting", kind="stable")
        for model, own in part.groupby("model", sort=True):
            more, drawn = make(list(curves(own, value, part)), str(model))
            table += [{"model": model, **row} for row in more]
            panels += drawn
        how: dict[str, Any] = {"panels": panels, "across": 2 if rises else 3, "table": pd.DataFrame(table)}
        yield exhibit(data, f"frontier-{name}", f"{TITLE}: {name}", RISES if rises else FALLS, part, **how)


def points(data: Data) -> pd.DataFrame:
    """A row per point of the curves: where and who (`WHERE`, `WHO`), seed, cpu, tokens, steps, loss, above, level.

    loss is in the task's unit, `above` less the floor, or where that is not known less the best mean loss at an end;
    `zero` is which of them; `level` is that of a curriculum, else NaN. Of the tasks of a grid that some method learns
    from a stream.
    """
    runs = cells(data)
    facts = with_columns(data.results, *RUN, "reference", "loss_floor", "unit", "traits.data", "length", "task.length")
    facts = facts[~facts["reference"].eq(True) & (number(facts["length"]) == number(facts["task.length"]))]
    facts = facts.drop_duplicates(RUN)[[*RUN, "loss_floor", "unit", "traits.data"]]
    found = curve_points(data, "cpu_seconds", "tokens", "steps", "unit_loss", "train_level").dropna(subset="unit_loss")
    rows = found[found["cpu_seconds"] > 0].merge(_named(runs), on=RUN).merge(facts, on=RUN)
    streams = rows[rows["traits.data"] == "streams"].groupby(["grid", "task"]).size().index
    rows = rows[pd.MultiIndex.from_frame(rows[["grid", "task"]]).isin(streams)]
    if rows.empty:
        return rows.assign(above=None)
    floor = number(rows["loss_floor"]) * rows["unit"].map(scale_of).astype(float)
    last = rows[rows["tokens"] == rows.groupby(RUN)["tokens"].transform("max")]
    ends = last.groupby([*WHERE, *WHO])["unit_loss"].mean().groupby(WHERE).min()
    best = rows[WHERE].merge(ends.rename("best").reset_index(), on=WHERE, how="left")["best"].to_numpy()
    zero = floor.fillna(pd.Series(best, rows.index))
    rows = rows.assign(above=rows["unit_loss"] - zero, zero=zero, floor=floor)
    return rows.rename(columns={"cpu_seconds": "cpu", "unit_loss": "loss", "train_level": "level"})


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with their model and their method's settings in words."""
    runs = with_columns(runs, "model.backbone", "model.updater_width", "method.k1", "method.k2", "task.most")
    model = runs["model.backbone"].astype(str) + " " + number(runs["model.updater_width"]).map("{:g}".format)
    setting = pd.Series("", index=runs.index)
    for _, part in runs.groupby(["grid", "task", "method"], sort=False):
        fields = varying(part, ("method.",))
        fields = [name for name in fields if name != "method.k2" or part["method.k1"].nunique() < 2]
        if fields:
            setting[part.index] = worded(part, fields).str.replace("k1 ", "k ")
    kept = ["id", "grid", "task", "method", "seed", "method.k1", "method.k2", "task.most"]
    return runs[kept].assign(model=model, setting=setting)


def curves(rows: pd.DataFrame, value: str, among: pd.DataFrame | None = None) -> Iterator[Curve]:
    """A curve of `value` for each method and setting of the rows, in the order of legends; told apart from `among`."""
    for _, word, variant, part in plot.by_setting(rows, among):
        wide = {name: part.pivot_table(name, "seed", "tokens") for name in ("cpu", "steps", value)}
        shared = wide[value].columns[wide[value].notna().all()]
        if len(shared):
            cpu, steps, values = (wide[name][shared].to_numpy(dtype=float) for name in ("cpu", "steps", value))
            spent = {"cpu": cpu.mean(0), "tokens": shared.to_numpy(dtype=float), "steps": steps.mean(0)}
            seeds = tuple(int(seed) for seed in wide[value].index)
            yield Curve(part.iloc[0].to_dict(), word, variant, spent, values, seeds)


def front(found: list[Curve]) -> pd.DataFrame:
    """CPU seconds (x), the least mean value that some curve has reached until then (y), and which curve it was."""
    every = [(x, y, which) for which, curve in enumerate(found) for x, y in zip(curve.spent["cpu"], curve.y.mean(0))]
    table = pd.DataFrame(sorted(every), columns=["x", "y", "which"])
    return table[table["y"] < table["y"].cummin().shift(fill_value=np.inf)]


def values_at(curve: Curve, name: str, spent: float) -> np.ndarray:
    """The values of the seeds (seeds,) at the last evaluation until so much was spent; NaN before the first."""
    before = np.flatnonzero(curve.spent[name] <= spent * (1 + 1e-9))
    return curve.y[:, before[-1]] if len(before) else np.full(len(curve.y), np.nan)


# Rows of the table, and panels, of the curves of one model.

Made = tuple[list[dict[str, Any]], list[plot.Panel]]


def _losses(found: list[Curve], model: str) -> Made:
    fronts, rows = front(found), []
    for place, curve in enumerate(found):
        best, last = fronts["x"][fronts["which"] == place], mean_interval(curve.y[:, -1])
        row = {name: curve.who[name] for name in WHO} | with_ends("above", last)
        row |= {"seeds": last.n, "floor": curve.who["floor"], "loss": last.mean + curve.who["zero"]}
        bits = published_bits(curve.who)
        row |= ({} if bits is None else {"published": bits}) | curve.last_spent()
        row |= {"best_from": best.min(), "best_to": best.max()}
        for level in LEVELS:
            when = {name: [first_at(curve.spent[name], y, level) for y in curve.y] for name in ("cpu", "tokens")}
            row |= {f"{name}_to_{level:g}": mean_interval(values).mean for name, values in when.items()}
            row[f"reached_{level:g}"] = int(np.isfinite(when["cpu"]).sum())
        rows.append(row)
    drawn = [curve._replace(y=curve.y.clip(min=LEAST)) for curve in found]
    x, y = front(drawn)[["x", "y"]].to_numpy().T
    below, lines = [plot.Level("front", y, x, (0, (2, 2)))], [curve.line("cpu") for curve in drawn]
    return rows, [plot.Panel(model, "CPU seconds", "loss above the floor", lines, below, ticks="log", ylog=True)]


def _levels(found: list[Curve], model: str) -> Made:
    """Levels of a curriculum; equal is what all curves have spent."""
    equal = {name: min(curve.spent[name][-1] for curve in found) for name in ("cpu", "tokens")}
    rows = []
    for curve in found:
        row = {name: curve.who[name] for name in WHO} | with_ends("level", mean_interval(curve.y[:, -1]))
        for name, spent in equal.items():
            row |= with_ends(f"level_at_equal_{name}", mean_interval(values_at(curve, name, spent)))
        rows.append(row | {"seeds": len(curve.y)} | curve.last_spent())
    return rows, [
        plot.Panel(title, label, "level", [curve.line(name) for curve in found], ticks="linear")
        for title, label, name in ((model, "updates", "steps"), ("", "CPU seconds", "cpu"))
    ]
