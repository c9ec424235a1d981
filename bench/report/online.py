"""Online loss and regret of methods that learn from streams: what labels cost when they were predicted, then learned.

A figure per task: a row for each of its settings; left the online loss with the floor, right the regret against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from bench.report import lines, style
from bench.report.claims.cells import having, number
from bench.report.data import Data
from bench.report.dynamics import (
    GROUP,
    MOST_ROWS,
    _chosen,
    _first_of,
    _groups,
    _mean,
    _placed,
    _spread,
    _tidy,
    _variants,
    _word,
    cells,
)
from bench.report.exhibit import Exhibit
from bench.report.figures import mean_curve
from bench.report.style import GREY, Style
from bench.report.tables import _clean, _heading

VALUES = ("online_loss", "regret")


def exhibits(data: Data) -> list[Exhibit]:
    """One for each (grid, task) that has finished runs with an online loss."""
    found = told(data)
    parts = found.groupby(["grid", "task"], sort=True)
    return [_exhibit(data, str(grid), str(task), part) for (grid, task), part in parts]


def told(data: Data) -> pd.DataFrame:
    """A row per point of a finished run's curve that has an online loss: where the run stands, x, and the losses.

    x are the tokens since the beginning, those before `init_from` included. online_loss, loss_floor and regret are in
    the task's unit.
    """
    points = having(data.curves, "grid", "id", "predictor", "reference", "spent.tokens", *VALUES)
    points = points[~points["reference"].eq(True)].drop_duplicates(["grid", "id", "spent.tokens"])
    points = points.assign(x=number(points["spent.tokens"]), **{name: number(points[name]) for name in VALUES})
    rows = _placed(points.dropna(subset=["x", "online_loss"]), cells(data), ["x", *VALUES])
    scores = having(data.results, "grid", "id", "reference", "length", "task.length", "loss_floor", "unit")
    scores = scores[~scores["reference"].eq(True) & (number(scores["length"]) == number(scores["task.length"]))]
    scores = scores.drop_duplicates(["grid", "id"])[["grid", "id", "loss_floor", "unit"]]
    rows = rows.merge(scores.astype({"grid": object, "id": object}), on=["grid", "id"], how="left")
    scale = rows["unit"].eq("bits").map({True: 1 / math.log(2), False: 1.0})
    losses = {name: number(rows[name]) * scale for name in (*VALUES, "loss_floor")}
    return rows.assign(**losses, unit=rows["unit"].where(rows["unit"].notna(), "nats"))


def at_the_end(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per setting: means over seeds, with intervals, of the last online loss and the regret of the whole run."""
    last = rows.sort_values("x", kind="stable").groupby(["grid", "id"], sort=False).tail(1)
    table = [
        {
            **key,
            **_spread("online_loss", _mean(part["online_loss"])),
            "loss_floor": part["loss_floor"].mean(),
            **_spread("regret", _mean(part["regret"])),
            "unit": part["unit"].iloc[0],
            "tokens": part["x"].mean(),
            "seeds": part["seed"].nunique(),
        }
        for key, part in _groups(last, GROUP)
    ]
    return pd.DataFrame(table)


def _exhibit(data: Data, grid: str, task: str, rows: pd.DataFrame) -> Exhibit:
    table = at_the_end(rows)
    drawn = rows[rows["usual"]]
    shown, count = _chosen(drawn, MOST_ROWS) if len(drawn) else ([], 0)
    name = _heading((grid, task), data.results)
    return Exhibit(
        f"online-{name}",
        f"Online loss and regret: {name}",
        _caption(table) + _first_of(len(shown), count, "settings of the task"),
        lines.ran(data, [(grid, task)]),
        _figure(drawn, shown, style.styles(data.methods)) if shown else None,
        _tidy(table),
        (task,),
        tuple(dict.fromkeys(table["method"])),
    )


def _caption(table: pd.DataFrame) -> str:
    words, several = [], len(set(table["place"])) > 1
    for row in table[table["usual"]].to_dict("records"):
        floor = "" if math.isnan(row["loss_floor"]) else f" (floor {row['loss_floor']:.3f})"
        regret = "" if math.isnan(row["regret"]) else f", regret {row['regret']:.4g} a lane"
        place = f" at {row['place']}" if several else ""
        words.append(f"{_word(row)}{place} {row['online_loss']:.3f}{floor}{regret}")
    return _clean(
        f"What labels cost when they were predicted, before the step that learned from them: {'; '.join(words)}. "
        f"Losses in {table['unit'].iloc[0]} a label, over those between the last two evaluations; regret: the sum of "
        "what was above the floor, from the first label on. Thin lines are single seeds."
    )


def _figure(rows: pd.DataFrame, shown: Sequence[int], looks: Mapping[str, Style]) -> Figure:
    values = [name for name in VALUES if rows[name].notna().any()]
    unit = rows["unit"].iloc[0]
    labels = {"online_loss": f"online loss ({unit} a label)", "regret": f"regret ({unit} a lane)"}
    figure = Figure(figsize=(1.0 + 3.6 * len(values), 0.9 + 2.4 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(values), squeeze=False)
    variants, drawn = _variants(rows), {}
    for panels, order in zip(axes, shown):
        here = rows[rows["order"] == order]
        floor: dict[str, Any] = {"color": GREY, "lw": 1.0, "zorder": 1}
        if here["loss_floor"].notna().any():
            drawn["floor"] = panels[0].axhline(here["loss_floor"].mean(), **floor)
        for panel, value in zip(panels, values):
            for key, part in _groups(here.dropna(subset=value), ["method", "setting"]):
                look, variant = looks[key["method"]], variants[key["method"], key["setting"]]
                seeds = [one.sort_values("x") for _, one in part.groupby("id", sort=True)]
                line: dict[str, Any] = {"color": look.color, "ls": lines.VARIANTS[variant % len(lines.VARIANTS)]}
                mark = {"marker": look.marker, "ms": 3.5, "mfc": "white" if variant else look.color}
                (drawn[_word(key)],) = panel.plot(*mean_curve(seeds, value), lw=1.7, zorder=3, **line, **mark)
                for one in seeds if len(seeds) > 1 else []:
                    panel.plot(one["x"], one[value], lw=0.6, alpha=0.55, **line)
            panel.set_ylabel(labels[value])
            panel.set_xlabel("training tokens")
            panel.set_xlim(left=0)
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_major_locator(MaxNLocator(5))
        lines.title(panels[0], here["place"].iloc[0])
    lines.legend(figure, dict(sorted(drawn.items(), key=lambda item: item[0] == "floor")))
    return figure
