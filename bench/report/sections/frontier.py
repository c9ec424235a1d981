"""Methods that learn online against CPU seconds: whose are best spent, and when levels are passed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report import plot, style
from bench.report.data import Data
from bench.report.exhibit import Exhibit, exhibit
from bench.report.published import published_bits
from bench.report.query import RUN, cells, curve_points, having, number, titled, varying, worded
from bench.results.frames import scale_of
from bench.statistics import Interval, band, mean_interval

TITLE = "Online learning against CPU seconds"
LEVELS = (0.1, 0.02)
"""Above the floor, in the task's unit: when a curve is first below them is told."""
LEAST = 1e-3
"""Above the floor: what is less, or below it as the drawn labels happen to be, is drawn here."""
WHERE = ["grid", "task", "model"]
WHO = ["method", "setting"]


class Curve(NamedTuple):
    """A method in a setting, over seeds, at the evaluations that all of them have."""

    who: dict[str, Any]
    cpu: np.ndarray  # (n,) mean CPU seconds of training
    tokens: np.ndarray  # (n,)
    steps: np.ndarray  # (n,)
    found: np.ndarray  # (seeds, n)
    seeds: tuple[int, ...]


def exhibits(data: Data) -> Iterator[Exhibit]:
    """An exhibit for each task of each grid with methods that learn from streams; none where there are no such runs."""
    rows = told(data) if len(data.curves) else data.curves
    for (_, task), part in rows.groupby(["grid", "task"], sort=True) if len(rows) else ():
        yield _exhibit(data, str(task), part)


def told(data: Data) -> pd.DataFrame:
    """A row per point of the curves: where and who (`WHERE`, `WHO`), seed, cpu, tokens, steps, loss, above, level.

    loss is in the task's unit, `above` less the floor, or where that is not known less the best mean loss at an end;
    `zero` is which of them; `level` is that of a curriculum, else NaN. Of the tasks of a grid that some method learns
    from a stream.
    """
    runs = cells(data)
    facts = having(data.results, *RUN, "reference", "loss_floor", "unit", "traits.data", "length", "task.length")
    facts = facts[~facts["reference"].eq(True) & (number(facts["length"]) == number(facts["task.length"]))]
    facts = facts.drop_duplicates(RUN)[[*RUN, "loss_floor", "unit", "traits.data"]]
    points = curve_points(data, "cpu_seconds", "tokens", "steps", "unit_loss", "train_level")
    points = points[[*RUN, "cpu_seconds", "tokens", "steps", "unit_loss", "train_level"]].dropna(
        subset=["cpu_seconds", "unit_loss"]
    )
    rows = points[points["cpu_seconds"] > 0].merge(_named(runs), on=RUN).merge(facts, on=RUN)
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
    runs = having(runs, "model.backbone", "model.updater_width", "method.k1", "method.k2", "task.most")
    model = runs["model.backbone"].astype(str) + " " + number(runs["model.updater_width"]).map("{:g}".format)
    setting = pd.Series("", index=runs.index)
    for _, part in runs.groupby(["grid", "task", "method"], sort=False):
        fields = [
            name for name in varying(part, ("method.",)) if name != "method.k2" or part["method.k1"].nunique() < 2
        ]
        if fields:
            setting[part.index] = worded(part, fields).str.replace("k1 ", "k ")
    kept = ["id", "grid", "task", "method", "seed", "method.k1", "method.k2", "task.most"]
    return runs[kept].assign(model=model, setting=setting)


def curves(rows: pd.DataFrame, value: str) -> Iterator[Curve]:
    """A curve of `value` for each method and setting of the rows, in the order of legends."""
    for method in sorted(set(rows["method"]), key=style.order):
        for _, part in rows[rows["method"] == method].groupby("setting", sort=True):
            wide = {
                name: part.pivot_table(index="seed", columns="tokens", values=name) for name in ("cpu", "steps", value)
            }
            shared = wide[value].columns[wide[value].notna().all()]
            if len(shared):
                cpu, steps, values = (wide[name][shared].to_numpy(dtype=float) for name in ("cpu", "steps", value))
                first = part.iloc[0]
                who = {
                    name: first[name] for name in (*WHERE, *WHO, "method.k1", "method.k2", "task.most", "zero", "floor")
                }
                seeds = tuple(int(seed) for seed in wide[value].index)
                yield Curve(who, cpu.mean(0), shared.to_numpy(dtype=float), steps.mean(0), values, seeds)


def front(found: list[Curve]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """CPU seconds, the least mean value that some curve has reached until then, and which curve it was."""
    points = sorted((x, y, which) for which, curve in enumerate(found) for x, y in zip(curve.cpu, curve.found.mean(0)))
    kept: list[tuple[float, float, int]] = []
    for x, y, which in points:
        if not kept or y < kept[-1][1]:
            kept.append((x, y, which))
    return np.array([x for x, _, _ in kept]), np.array([y for _, y, _ in kept]), [which for _, _, which in kept]


def passed(x: np.ndarray, values: np.ndarray, level: float) -> np.ndarray:
    """Of curves (seeds, n), the first x (n,) at which each is at most the level, NaN where it never is."""
    return np.array([x[below[0]] if len(below := np.flatnonzero(seed <= level)) else np.nan for seed in values])


def at(curve: Curve, x: np.ndarray, where: float) -> np.ndarray:
    """The values of the seeds (seeds,) at the last evaluation until x = where; NaN before the first."""
    before = np.flatnonzero(x <= where * (1 + 1e-9))
    return curve.found[:, before[-1]] if len(before) else np.full(len(curve.found), np.nan)


# Exhibits.


def _exhibit(data: Data, task: str, rows: pd.DataFrame) -> Exhibit:
    rises = bool(rows["level"].notna().any())
    table = pd.DataFrame(list(_levels(rows) if rises else _losses(rows)))
    name = titled(data.results, rows["grid"].iloc[0], task)
    what = (
        "Levels of the curriculum against updates and CPU seconds, mean over seeds; equal: at the fewest that a method "
        "spent."
        if rises
        else "Loss above the floor, or the best where no floor is known, against CPU seconds of training, and their "
        "front; seconds until it is first within a level. Means over seeds."
    )
    panels = list(_panels(rows, rises))
    across = 2 if rises else min(3, len(panels))
    return exhibit(data, f"frontier-{name}", f"{TITLE}: {name}", what, rows, panels=panels, across=across, table=table)


def _losses(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A row per model, method and setting."""
    for _, part in rows.groupby("model", sort=True):
        found = list(curves(part, "above"))
        x, _, which = front(found)
        for place, curve in enumerate(found):
            best = x[[place == other for other in which]]
            last = mean_interval(curve.found[:, -1])
            row = {"model": curve.who["model"], "method": curve.who["method"], "setting": curve.who["setting"]}
            row |= {**_spread("above", last), "seeds": last.n, "floor": curve.who["floor"]}
            row |= {"loss": last.mean + curve.who["zero"], "published": published_bits(curve.who)}
            row |= {"cpu": curve.cpu[-1], "tokens": curve.tokens[-1], "steps": curve.steps[-1]}
            row |= {"best_from": best.min() if len(best) else np.nan, "best_to": best.max() if len(best) else np.nan}
            for level in LEVELS:
                when = {name: passed(getattr(curve, name), curve.found, level) for name in ("cpu", "tokens")}
                row |= {f"{name}_to_{level:g}": mean_interval(values).mean for name, values in when.items()}
                row[f"reached_{level:g}"] = int(np.isfinite(when["cpu"]).sum())
            yield {name: value for name, value in row.items() if name != "published" or value is not None}


def _levels(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The same of a curriculum."""
    for _, part in rows.groupby("model", sort=True):
        found = list(curves(part, "level"))
        spent, tokens = (min(getattr(curve, name)[-1] for curve in found) for name in ("cpu", "tokens"))
        for curve in found:
            row = {"model": curve.who["model"], "method": curve.who["method"], "setting": curve.who["setting"]}
            ends = {
                "level": curve.found[:, -1],
                "level_at_equal_cpu": at(curve, curve.cpu, spent),
                "level_at_equal_tokens": at(curve, curve.tokens, tokens),
            }
            for name, values in ends.items():
                row |= _spread(name, mean_interval(values))
            yield {
                **row,
                "seeds": len(curve.found),
                "cpu": curve.cpu[-1],
                "tokens": curve.tokens[-1],
                "steps": curve.steps[-1],
            }


def _spread(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _panels(rows: pd.DataFrame, rises: bool) -> Iterator[plot.Panel]:
    for model, part in rows.groupby("model", sort=True):
        found = list(curves(part, "level" if rises else "above"))
        if rises:
            for name, label in (("steps", "updates"), ("cpu", "CPU seconds")):
                lines = [_line(found, curve, getattr(curve, name)) for curve in found]
                yield plot.Panel(str(model) if name == "steps" else "", label, "level", lines, ticks="linear")
            continue
        drawn = [curve._replace(found=curve.found.clip(min=LEAST)) for curve in found]
        x, y, _ = front(drawn)
        lines = [_line(drawn, curve, curve.cpu) for curve in drawn]
        best = [plot.Level("front", y, x, (0, (2, 2)))]
        yield plot.Panel(str(model), "CPU seconds", "loss above the floor", lines, best, ticks="log", ylog=True)


def _line(found: list[Curve], curve: Curve, x: np.ndarray) -> plot.Line:
    method, setting = curve.who["method"], curve.who["setting"]
    number = [other.who["setting"] for other in found if other.who["method"] == method].index(setting)
    return plot.Line(plot.who(method, setting), x, *band(curve.found), method=method, variant=number)
