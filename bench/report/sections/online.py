"""Online loss and regret of methods that learn from streams: what labels cost when they were predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, exhibit
from bench.report.query import GROUP, RUN, cells, chosen, curve_points, facts, number, placed, titled
from bench.report.tables import grouped, tabulate, tidy
from bench.results.frames import scale_of

TITLE = "Online loss and regret"
MOST_ROWS = 4


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """An exhibit for each (grid, task) that has finished runs with an online loss."""
    caption = (
        "What labels cost when they were predicted, before the step that learned from them; regret is the sum of what "
        "was above the floor."
    )
    for (grid, task), rows in points(data).groupby(["grid", "task"], sort=True):
        values = [value for value in ("online_loss", "regret") if rows[value].notna().any()]
        name, drawn = titled(data.results, grid, task), chosen(rows[rows["base"]], MOST_ROWS)
        panels = [panel for place, part in drawn for panel in _panels(place, part, values)]
        how: dict[str, Any] = {"panels": panels, "across": len(values), "table": at_the_end(rows)}
        yield exhibit(data, f"online-{name}", f"{TITLE}: {name}", caption, rows, **how)


def points(data: Data) -> pd.DataFrame:
    """The points with an online loss: where the run stands, tokens since it began, and losses in the task's unit."""
    columns = ["spent.tokens", "online_loss", "regret"]
    found = curve_points(data, *columns).drop_duplicates([*RUN, "spent.tokens"])
    rows = placed(found.dropna(subset=columns[:2]), cells(data), columns).rename(columns={"spent.tokens": "tokens"})
    rows = rows.merge(facts(data, "loss_floor", "unit").astype(dict.fromkeys(RUN, object)), on=RUN, how="left")
    scale = rows["unit"].map(scale_of, na_action=None).astype(float)
    losses = {name: number(rows[name]) * scale for name in ("online_loss", "regret", "loss_floor")}
    return rows.assign(**losses, unit=rows["unit"].where(rows["unit"].notna(), "nats"))


def at_the_end(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per setting: means over seeds, with intervals, of the last online loss and the regret of the whole run."""
    last = rows.sort_values("tokens", kind="stable").groupby(RUN, sort=False).tail(1)
    how = {"online_loss": "interval", "loss_floor": "mean", "regret": "interval", "unit": "first", "tokens": "mean"}
    return tidy(tabulate(last, GROUP, **how))


def _panels(place: str, rows: pd.DataFrame, values: Sequence[str]) -> Iterator[plot.Panel]:
    """A row of panels of one setting of the task."""
    unit, floor = rows["unit"].iloc[0], rows["loss_floor"].mean()
    for value, label in zip(values, (f"online loss ({unit} a label)", f"regret ({unit} a lane)")):
        lines = [
            plot.over_curves(part, "tokens", value, method, plot.legend_name(method, setting), variant=variant)
            for (method, setting, variant), part in grouped(rows.dropna(subset=value), "method", "setting", "variant")
        ]
        level = [plot.Level("floor", np.array([floor]))] if value == "online_loss" and np.isfinite(floor) else []
        yield plot.Panel(place if value == values[0] else "", "training tokens", label, lines, level, ticks="linear")
