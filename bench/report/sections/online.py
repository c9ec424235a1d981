"""Online loss and regret of methods that learn from streams: what labels cost when they were predicted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Section, exhibit
from bench.report.query import GROUP, cells, grouped, having, mean_of, number, placed, titled, without_idle
from bench.report.sections.dynamics import MOST_ROWS, chosen, spread, variants
from bench.results.frames import scale_of

VALUES = ("online_loss", "regret")


def section(data: Data) -> Section:
    """An exhibit for each (grid, task) that has finished runs with an online loss."""
    parts = told(data).groupby(["grid", "task"], sort=True)
    exhibits = [_exhibit(data, str(grid), str(task), part) for (grid, task), part in parts]
    return Section("online", "Online loss and regret", tuple(exhibits))


def told(data: Data) -> pd.DataFrame:
    """A row per point of a finished run's curve that has an online loss: where the run stands, x, and the losses.

    x are the tokens since the beginning, those before `init_from` included. online_loss, loss_floor and regret are in
    the task's unit.
    """
    points = having(data.curves, "grid", "id", "predictor", "reference", "spent.tokens", *VALUES)
    points = points[~points["reference"].eq(True)].drop_duplicates(["grid", "id", "spent.tokens"])
    points = points.assign(x=number(points["spent.tokens"]), **{name: number(points[name]) for name in VALUES})
    rows = placed(points.dropna(subset=["x", "online_loss"]), cells(data), ["x", *VALUES])
    scores = having(data.results, "grid", "id", "reference", "length", "task.length", "loss_floor", "unit")
    scores = scores[~scores["reference"].eq(True) & (number(scores["length"]) == number(scores["task.length"]))]
    scores = scores.drop_duplicates(["grid", "id"])[["grid", "id", "loss_floor", "unit"]]
    rows = rows.merge(scores.astype({"grid": object, "id": object}), on=["grid", "id"], how="left")
    scale = rows["unit"].map(scale_of, na_action=None).astype(float)
    losses = {name: number(rows[name]) * scale for name in (*VALUES, "loss_floor")}
    return rows.assign(**losses, unit=rows["unit"].where(rows["unit"].notna(), "nats"))


def at_the_end(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per setting: means over seeds, with intervals, of the last online loss and the regret of the whole run."""
    last = rows.sort_values("x", kind="stable").groupby(["grid", "id"], sort=False).tail(1)
    table = [
        {
            **key,
            **spread("online_loss", mean_of(part, "online_loss")),
            "loss_floor": part["loss_floor"].mean(),
            **spread("regret", mean_of(part, "regret")),
            "unit": part["unit"].iloc[0],
            "tokens": part["x"].mean(),
            "seeds": part["seed"].nunique(),
        }
        for key, part in grouped(last, GROUP)
    ]
    return pd.DataFrame(table)


def _exhibit(data: Data, grid: str, task: str, rows: pd.DataFrame) -> Exhibit:
    table = at_the_end(rows)
    drawn = rows[rows["base"]]
    values = [value for value in VALUES if rows[value].notna().any()]
    panels = list(_panels(drawn, chosen(drawn, MOST_ROWS), values))
    name = titled(data.results, grid, task)
    caption = (
        "What labels cost when they were predicted, before the step that learned from them; regret is the sum of what "
        "was above the floor."
    )
    title = f"Online loss and regret: {name}"
    tidy = without_idle(table, "order", "place", "base")
    return exhibit(data, f"online-{name}", title, caption, rows, panels=panels, across=len(values), table=tidy)


def _panels(rows: pd.DataFrame, shown: list[int], values: list[str]) -> Iterator[plot.Panel]:
    """A row of panels for each setting of the task."""
    dashes = variants(rows)
    for order in shown:
        here = rows[rows["order"] == order]
        unit, floor = here["unit"].iloc[0], here["loss_floor"].mean()
        for value, label in zip(values, (f"online loss ({unit} a label)", f"regret ({unit} a lane)")):
            lines = [
                plot.over_curves(
                    [one.sort_values("x") for _, one in part.groupby("id", sort=True)],
                    *("x", value, key["method"], plot.who(**key)),
                    variant=dashes[key["method"], key["setting"]],
                )
                for key, part in grouped(here.dropna(subset=value), ["method", "setting"])
            ]
            level = [plot.Level("floor", np.array([floor]))] if value == "online_loss" and np.isfinite(floor) else []
            title = here["place"].iloc[0] if value == values[0] else ""
            yield plot.Panel(title, "training tokens", label, lines, level, ticks="linear")
