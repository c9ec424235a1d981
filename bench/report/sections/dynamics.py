"""What happens inside: gradient norms through time, drift of the rollout from its teacher, geometry of the memory.

|dL/dm_t|, delta_t and their ratios are positive and span orders of magnitude: over seeds their means are geometric.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report import plot
from bench.report.claims.inside import SMALLEST, silhouette
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, exhibit
from bench.report.query import GROUP, RUN, base, cells, chosen, keys, number, placed, recorded, scores, with_columns
from bench.report.style import GREY
from bench.report.tables import grouped, in_order, tabulate, tidy
from bench.report.words import clean, sentences, sortable

TITLE = "Dynamics"
COMMAND = "`python run_bench.py run dynamics-small` (of another grid: `run GRID --measure dynamics,samples`)"
"""What brings the records that this section and the samples are made of."""
WHEN = {"init": "at initialisation", "trained": "after training"}
MOST_ROWS = 4
MOST_PANELS = 6
MOST_COLOURS = 10
"""Labels that a reader can tell apart by colours alone; more get a scale."""


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """Gradient norms, drift and geometry, of the finished runs that have a dynamics.json."""
    runs = cells(data)
    yield from (make(data, runs) for make in (_gradients, _drift, _geometry))


# Gradient norms.


def _gradients(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    rows = placed(data.gradients, runs, ["when", "t", "norm", "through"])
    rows = rows[rows["when"].isin(list(WHEN))].assign(t=number(rows["t"]), norm=number(rows["norm"]))
    rows = rows.dropna(subset=["t", "norm"])
    zero = int((rows["norm"] == 0).sum())
    gone = f"{zero} norms of exactly 0 are not drawn; in the table they count as {SMALLEST:g}." if zero else ""
    caption = sentences("Norm of the loss's gradient at the memory of each step: flat, vanishing or exploding.", gone)
    missing = f"no finished run has gradient norms; {COMMAND} measures them"
    parts = {"panels": _norms, "across": 2, "table": _slopes}
    return exhibit(data, "gradient-norms", "Gradient norms through time", caption, rows, missing, **parts)


def _norms(rows: pd.DataFrame) -> list[plot.Panel]:
    """A panel for each of the places that are drawn, before training and after."""
    return [
        _panel(f"{place}, {words}", "|dL/dm_t|", _lines(here[here["when"] == when], "norm"))
        for place, here in chosen(rows[rows["base"] & (rows["norm"] > 0)], MOST_ROWS)
        for when, words in WHEN.items()
    ]


def _panel(title: str, y: str, lines: list[plot.Line], marks: Sequence[plot.Mark] = ()) -> plot.Panel:
    return plot.Panel(title, "t (time step)", y, lines, marks=marks, ticks="linear", ylog=True)


def _lines(rows: pd.DataFrame, value: str, *further: str) -> list[plot.Line]:
    """Geometric means over time; those after the phase smt alone are dashed."""
    found = []
    for (method, setting, variant, *phase), part in grouped(rows, "method", "setting", "variant", *further):
        word = " after ".join([plot.legend_name(method, setting), *phase])
        how = {"logs": True, "variant": variant, "reference": phase == ["smt"]}
        found.append(plot.over_time(part, "t", value, method, word, **how))
    return found


def _slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Per place, method and setting, before and after training: how fast the norm changes in t."""
    run = [*RUN, "when"]
    rows = rows.assign(log=np.log10(rows["norm"].clip(lower=SMALLEST))).sort_values("t", kind="stable")
    centred = rows[["t", "log"]] - rows.groupby(run)[["t", "log"]].transform("mean")
    squares = rows[run].assign(both=centred["t"] * centred["log"], t=centred["t"] ** 2)
    sums, ends = squares.groupby(run)[["both", "t"]].sum(), rows.groupby(run)["log"]
    spanned = sums["t"].where(sums["t"] > 0)  # NaN where there is but one t
    fall = 10 ** (ends.first() - ends.last()).where(spanned > 0)
    changes = pd.DataFrame({"slope": sums["both"] / spanned, "first_to_last": fall})
    merged = rows.drop_duplicates(run).merge(changes.reset_index(), on=run).sort_values("when", kind="stable")
    merged["when"] = merged["when"].map(WHEN)
    through = merged.groupby([*GROUP, "when"])["through"].transform(
        lambda names: clean(" or ".join(sorted(set(names.dropna().map(str)))))
    )
    how = {"through": "first", "slope": "interval", "first_to_last": "geometric"}
    return tidy(tabulate(merged.assign(through=through), [*GROUP, "when"], **how))


# Drift.


def _drift(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    rows = placed(data.drift, runs, ["phase", "t", "delta", "accuracy"])
    rows = rows.assign(**{column: number(rows[column]) for column in ("t", "delta", "accuracy")})
    rows = rows.dropna(subset=["t", "delta", "phase"]).astype({"phase": str})
    caption = "delta_t is the mean squared distance of the rollout's memory from the teacher's; dashed before DMT."
    missing = f"no finished run with a teacher has its drift; {COMMAND} measures it"
    parts = {"panels": _deltas, "table": partial(_drifts, data)}
    return exhibit(data, "drift", "Drift of the rollout from its teacher", caption, rows, missing, **parts)


def _deltas(rows: pd.DataFrame) -> list[plot.Panel]:
    panels = []
    for place, here in chosen(rows[rows["base"] & (rows["delta"] > 0)], MOST_PANELS):
        length, end = here["length"].iloc[0], here["t"].max()
        beyond = [plot.Mark("trained length, and beyond", length - 0.5, end + 0.5)] if length <= end else []
        panels.append(_panel(place, "delta_t", _lines(here, "delta", "phase"), beyond))
    return panels


def _drifts(data: Data, rows: pd.DataFrame) -> pd.DataFrame:
    """Drift and accuracy after a phase, within and beyond the trained length; `less`: drift after SMT alone over it."""
    run = [*RUN, "phase"]
    within = rows["t"] < rows["length"].fillna(np.inf)
    how: dict[str, str] = {}
    means = rows.drop_duplicates(run)
    for word, part in (("within", rows[within]), ("beyond", rows[~within])):
        names = {"delta": f"drift_{word}", "accuracy": f"accuracy_{word}"}
        own = part.groupby(run)[list(names)].mean().rename(columns=names).reset_index()
        means = means.merge(own, on=run, how="left")
        how |= {f"drift_{word}": "geometric", f"less_{word}": "geometric", f"accuracy_{word}": "mean"}
    source = with_columns(data.results, *RUN, "init_from.run").drop_duplicates(RUN).set_index(RUN)["init_from.run"]
    smt = means[means["phase"] == "smt"].set_index(RUN)
    before = [run if run in smt.index else (run[0], source.get(run)) for run in keys(means)]
    for word in ("within", "beyond"):
        drifts = smt[f"drift_{word}"].to_dict()
        less = pd.Series([drifts.get(run, np.nan) for run in before], index=means.index) / means[f"drift_{word}"]
        means[f"less_{word}"] = less.where(means["phase"] != "smt")
    return tidy(tabulate(means, [*GROUP, "phase"], **how))


# Geometry.


class Plane(NamedTuple):
    """What is drawn of one run's memories, and the numbers about them."""

    points: np.ndarray  # (n, 2)
    labels: list[Any]  # (n,)
    colour_by: str
    origin: np.ndarray  # (g, 2)
    field: np.ndarray  # (g, 2)
    explained: tuple[float, float]
    effective_rank: float


def _plane(record: Any) -> Plane | None:
    """None where the record is damaged."""
    try:
        points, origin, field = (np.array(record[name], dtype=float) for name in ("points", "origin", "field"))
        labels = list(record["label"])
        first, second, *_ = (float(share) for share in record["explained"])
        rank = float(record["effective_rank"])
        hash(tuple(labels))
    except (KeyError, TypeError, ValueError):
        return None
    flat = all(array.shape[1:] == (2,) and np.isfinite(array).all() for array in (points, origin, field))
    if not flat or len(labels) != len(points) or len(points) < 2 or len(origin) != len(field):
        return None
    return Plane(points, labels, clean(record.get("colour_by")), origin, field, (first, second), rank)


def _geometry(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    own = recorded(runs, data.geometry, _plane)
    rows = scores(data)
    rows = rows[rows["trained"] & ~rows["reference"]]
    accuracies = dict(zip(keys(rows), rows["accuracy"]))
    own = own.assign(
        effective_rank=[plane.effective_rank for plane in own["record"]],
        explained1=[plane.explained[0] for plane in own["record"]],
        explained2=[plane.explained[1] for plane in own["record"]],
        silhouette=[silhouette(plane.points, list(map(str, plane.labels))) for plane in own["record"]],
        colour_by=[plane.colour_by for plane in own["record"]],
        accuracy=[accuracies.get(run, np.nan) for run in keys(own)],
    )
    how = {"effective_rank": "interval", "explained1": "mean", "explained2": "mean", "silhouette": "interval"}
    table = tidy(tabulate(own, [*GROUP, "colour_by"], **how, accuracy="mean"))
    panels = base(own).sort_values("seed", kind="stable").drop_duplicates(GROUP)
    best = panels.sort_values(["accuracy", "order"], ascending=[False, True], kind="stable").head(MOST_PANELS)
    drawn = in_order(best, "order", "method", "setting")
    caption = (
        "Memories in the plane of their first two principal components, of the first seed of the settings with the "
        "highest accuracy; arrows show where one update moves a memory."
    )
    missing = f"no finished run has the geometry of its memories; {COMMAND} measures it"
    figure = _figure(drawn) if len(drawn) else None
    return exhibit(data, "geometry", "Geometry of the memory", caption, own, missing, figure=figure, table=table)


def _figure(shown: pd.DataFrame) -> Figure:
    across = min(len(shown), 2 if len(shown) in (2, 4) else 3)
    down = -(-len(shown) // across)
    figure = Figure(figsize=(3.3 * across, 0.2 + 3.1 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for run, panel in zip(shown.to_dict("records"), axes):
        plane: Plane = run["record"]
        arrows = {"angles": "xy", "color": GREY, "alpha": 0.55, "width": 0.004, "headwidth": 4, "zorder": 1}
        panel.quiver(*plane.origin.T, *plane.field.T, **arrows)
        colours, scale, ticks = _colours(plane.labels)
        panel.scatter(*plane.points.T, c=colours, s=10, lw=0.3, edgecolors="white", zorder=2)
        if len(ticks) > 1:
            bar = figure.colorbar(scale, ax=panel, fraction=0.05, pad=0.02)
            bar.set_label(plane.colour_by)
            bar.set_ticks(list(ticks), labels=[clean(tick) for tick in ticks.values()])
            bar.minorticks_off()
            bar.ax.tick_params(length=0 if len(set(plane.labels)) <= MOST_COLOURS else 2, labelsize=7)
            bar.outline.set_visible(False)
        where = textwrap.shorten(run["place"], 40, placeholder="…")
        who = textwrap.shorten(clean(plot.legend_name(run["method"], run["setting"])), 22, placeholder="…")
        panel.set_title(f"{where}\n{who}: effective rank {plane.effective_rank:.3g}", loc="left")
        panel.set_xlabel(f"component 1 ({plane.explained[0]:.0%} of variance)")
        panel.set_ylabel(f"component 2 ({plane.explained[1]:.0%})")
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.yaxis.set_major_locator(MaxNLocator(4))
    for panel in axes[len(shown) :]:
        panel.remove()
    return figure


def _colours(labels: Sequence[Any]) -> tuple[Any, ScalarMappable, dict[float, str]]:
    """Every label's colour (n, 4), the scale beside the panel, and its ticks: a colour each, or many along a scale."""
    found = sorted(set(labels), key=sortable)
    place = {label: number for number, label in enumerate(found)}
    few = len(found) <= MOST_COLOURS
    colours: Colormap = sns.color_palette("viridis", as_cmap=True)
    norm: Normalize = Normalize(0, len(found) - 1)
    if few:
        colours = ListedColormap(sns.color_palette("colorblind", len(found)))
        norm = BoundaryNorm(np.arange(len(found) + 1) - 0.5, len(found))
    shown = range(len(found)) if few else np.linspace(0, len(found) - 1, 5).round().astype(int)
    ticks = {float(number): str(found[number]) for number in shown}
    return colours(norm([place[label] for label in labels])), ScalarMappable(norm, colours), ticks
