"""What happens inside: gradient norms through time, drift of the rollout from its teacher, geometry of the memory.

|dL/dm_t|, delta_t and their ratios are positive and span orders of magnitude: over seeds their means are geometric.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report import plot
from bench.report.claims.findings import exponential
from bench.report.claims.inside import SMALLEST, silhouette
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, exhibit
from bench.report.query import GROUP, RUN, cells, grouped, having, keys, mean_of, number, placed, scores, without_idle
from bench.report.style import GREY
from bench.report.words import clean, sentences, sortable
from bench.statistics import Interval, mean_interval

COMMAND = "`python run_bench.py run dynamics-small` (of another grid: `run GRID --measure dynamics,samples`)"
"""What brings the records that this section and the samples are made of."""
WHEN = {"init": "at initialisation", "trained": "after training"}
MOST_ROWS = 4
MOST_PANELS = 6
MOST_COLOURS = 10
"""Labels that a reader can tell apart by colours alone; more get a scale."""
HIDDEN = ("order", "place", "base")


def section(data: Data) -> Section:
    """Gradient norms, drift and geometry, of the finished runs that have a dynamics.json."""
    runs = cells(data)
    exhibits = (_gradients(data, runs), _drift(data, runs), _geometry(data, runs))
    return Section("dynamics", "Dynamics", exhibits)


def spread(name: str, interval: Interval) -> dict[str, float]:
    """Columns of a mean and the ends of its interval."""
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _geometric(values: pd.Series) -> Interval:
    """Geometric mean over seeds of what is positive, with its interval."""
    kept = np.asarray(values, dtype=float)
    return exponential(mean_interval(np.log(kept[(kept > 0) & np.isfinite(kept)])))


def chosen(rows: pd.DataFrame, most: int) -> list[int]:
    """The places (their order) that are shown, at most so many.

    First those of the grid that has most places, since it was made to compare them, then those with most methods.
    """
    if rows.empty:
        return []
    found = rows.groupby(["grid", "order"])["method"].nunique().reset_index()
    found["places"] = found.groupby("grid")["order"].transform("size")
    best = found.sort_values(["places", "method", "order"], ascending=[False, False, True])["order"].tolist()
    return sorted(best[:most])


def variants(rows: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(method, setting) -> its number among the settings of the method."""
    found = rows[["method", "setting"]].drop_duplicates().sort_values(["method", "setting"])
    return dict(zip(zip(found["method"], found["setting"]), found.groupby("method").cumcount()))


# Gradient norms.


def _gradients(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    name, title = "gradient-norms", "Gradient norms through time"
    rows = placed(data.gradients, runs, ["when", "t", "norm", "loss_at", "through"])
    rows = rows.assign(t=number(rows["t"]), norm=number(rows["norm"])).dropna(subset=["t", "norm"])
    rows = rows[rows["when"].isin(list(WHEN))]
    if rows.empty:
        return Missing(name, title, f"no finished run has gradient norms; {COMMAND} measures them")
    drawn = rows[rows["base"] & (rows["norm"] > 0)]
    dashes, panels = variants(drawn), []
    for order in chosen(drawn, MOST_ROWS):
        here = drawn[drawn["order"] == order]
        for when in WHEN:
            lines = [
                plot.over_time(
                    *(part, "t", "norm", key["method"], plot.who(**key), True),
                    variant=dashes[key["method"], key["setting"]],
                )
                for key, part in grouped(here[here["when"] == when], ["method", "setting"])
            ]
            place = f"{here['place'].iloc[0]}, {WHEN[when]}"
            panels.append(plot.Panel(place, "t (time step)", "|dL/dm_t|", lines, ticks="linear", ylog=True))
    zero = int((rows["norm"] == 0).sum())
    gone = f"{zero} norms of exactly 0 are not drawn; in the table they count as {SMALLEST:g}." if zero else ""
    caption = sentences("Norm of the loss's gradient at the memory of each step: flat, vanishing or exploding.", gone)
    table = without_idle(pd.DataFrame(_slopes(rows)), *HIDDEN)
    return exhibit(data, name, title, caption, rows, panels=panels, across=2, table=table)


def _slopes(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Per place, method and setting, before and after training: how fast the norm changes in t."""
    run = [*RUN, "when"]
    rows = rows.assign(log=np.log10(rows["norm"].clip(lower=SMALLEST))).sort_values("t", kind="stable")
    centred = rows[["t", "log"]] - rows.groupby(run)[["t", "log"]].transform("mean")
    squares = rows[run].assign(both=centred["t"] * centred["log"], t=centred["t"] ** 2)
    sums, ends = squares.groupby(run)[["both", "t"]].sum(), rows.groupby(run)["log"]
    spanned = sums["t"].where(sums["t"] > 0)  # NaN where there is but one t
    changes = pd.DataFrame({"slope": sums["both"] / spanned, "fall": (ends.first() - ends.last()).where(spanned > 0)})
    merged = rows.drop_duplicates(run).merge(changes.reset_index(), on=run)
    merged["when"] = pd.Categorical(merged["when"], list(WHEN))
    return [
        {
            **key,
            "when": WHEN[str(key["when"])],
            "through": clean(" or ".join(sorted(set(part["through"].dropna().map(str))))),
            **spread("slope", mean_of(part, "slope")),
            **spread("first_to_last", exponential(mean_interval((part["fall"] * np.log(10)).to_numpy()))),
            "seeds": part["seed"].nunique(),
        }
        for key, part in grouped(merged.sort_values("when"), [*GROUP, "when"])
    ]


# Drift.


def _drift(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    name, title = "drift", "Drift of the rollout from its teacher"
    rows = placed(data.drift, runs, ["phase", "t", "delta", "accuracy"])
    rows = rows.assign(**{column: number(rows[column]) for column in ("t", "delta", "accuracy")})
    rows = rows.dropna(subset=["t", "delta", "phase"])
    rows = rows.assign(phase=rows["phase"].map(str))
    if rows.empty:
        return Missing(name, title, f"no finished run with a teacher has its drift; {COMMAND} measures it")
    drawn = rows[rows["base"] & (rows["delta"] > 0)]
    dashes, panels = variants(drawn), []
    for order in chosen(drawn, MOST_PANELS):
        here = drawn[drawn["order"] == order]
        lines = [
            plot.over_time(
                *(part, "t", "delta", key["method"], f"{plot.who(key['method'], key['setting'])} after {key['phase']}"),
                logs=True,
                variant=dashes[key["method"], key["setting"]],
                reference=key["phase"] == "smt",
            )
            for key, part in grouped(here, ["method", "setting", "phase"])
        ]
        length, end = here["length"].iloc[0], here["t"].max()
        beyond = [plot.Mark("trained length, and beyond", length - 0.5, end + 0.5)] if length <= end else []
        place = here["place"].iloc[0]
        panels.append(plot.Panel(place, "t (time step)", "delta_t", lines, (), beyond, ticks="linear", ylog=True))
    caption = "delta_t is the mean squared distance of the rollout's memory from the teacher's; dashed before DMT."
    table = without_idle(pd.DataFrame(_drifts(rows, _sources(data))), *HIDDEN)
    return exhibit(data, name, title, caption, rows, panels=panels, table=table)


def _sources(data: Data) -> dict[tuple[Any, Any], tuple[Any, Any]]:
    """(grid, id) -> that of the run whose first phase it took over."""
    runs = having(data.results, *RUN, "init_from.run").drop_duplicates(RUN)
    linked = runs[runs["init_from.run"].notna()]
    return dict(zip(keys(linked), zip(linked["grid"], linked["init_from.run"])))


def _drifts(rows: pd.DataFrame, sources: dict[Any, Any]) -> list[dict[str, Any]]:
    """Per place, method, setting and phase: drift and accuracy within and beyond the trained length.

    `less` is the drift after SMT alone over that after this phase, paired by run.
    """
    spans = rows.assign(within=rows["t"] < rows["length"].fillna(np.inf))
    run = [*RUN, "phase"]
    means = spans.pivot_table(index=run, columns="within", values=["delta", "accuracy"], aggfunc="mean")
    first = rows.drop_duplicates(run).set_index(run)
    for within, word in ((True, "within"), (False, "beyond")):
        for column in ("delta", "accuracy"):
            known = means[column, within] if (column, within) in means else pd.Series(np.nan, means.index)
            first[f"{column}_{word}"] = known.reindex(first.index)
        drift = first[f"delta_{word}"]
        before = [drift.get((*_smt_of((grid, name), drift, sources), "smt"), np.nan) for grid, name, _ in first.index]
        first[f"less_{word}"] = np.where(first.index.get_level_values("phase") == "smt", np.nan, before / drift)
    found = []
    for key, part in grouped(first.reset_index(), [*GROUP, "phase"]):
        values: dict[str, float] = {}
        for word in ("within", "beyond"):
            values |= spread(f"drift_{word}", _geometric(part[f"delta_{word}"]))
            values |= spread(f"less_{word}", _geometric(part[f"less_{word}"]))
            values[f"accuracy_{word}"] = part[f"accuracy_{word}"].mean()
        found.append({**key, **values, "seeds": part["seed"].nunique()})
    return found


def _smt_of(run: tuple[Any, Any], drift: pd.Series, sources: dict[Any, Any]) -> tuple[Any, Any]:
    """The run that has this run's phase smt: itself, or the one that it began from."""
    return run if (*run, "smt") in drift.index else sources.get(run, run)


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
        shares = [float(share) for share in record["explained"]][:2]
        rank = float(record["effective_rank"])
        hash(tuple(labels))
    except (KeyError, TypeError, ValueError):
        return None
    whole = all(one.ndim == 2 and one.shape[1] == 2 and np.isfinite(one).all() for one in (points, origin, field))
    if not whole or len(labels) != len(points) or len(points) < 2 or len(origin) != len(field) or len(shares) < 2:
        return None
    return Plane(points, labels, str(record.get("colour_by")), origin, field, (shares[0], shares[1]), rank)


def _geometry(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    name, title = "geometry", "Geometry of the memory"
    place_of = dict(zip(keys(runs), runs.index))
    planes = {
        place_of[run["grid"], run["id"]]: plane
        for run, record in data.geometry
        if (run.get("grid"), run.get("id")) in place_of and (plane := _plane(record))
    }
    if not planes:
        return Missing(name, title, f"no finished run has the geometry of its memories; {COMMAND} measures it")
    own = runs.loc[sorted(planes)]
    rows = scores(data)
    rows = rows[rows["trained"] & ~rows["reference"]]
    accuracies = dict(zip(keys(rows), rows["accuracy"]))
    values = {
        "effective_rank": [planes[row].effective_rank for row in own.index],
        "explained1": [planes[row].explained[0] for row in own.index],
        "explained2": [planes[row].explained[1] for row in own.index],
        "silhouette": [silhouette(planes[row].points, list(map(str, planes[row].labels))) for row in own.index],
        "accuracy": [accuracies.get(run, np.nan) for run in keys(own)],
    }
    own = own.assign(**values, colour_by=[clean(planes[row].colour_by) for row in own.index])
    table = [
        {
            **key,
            **spread("effective_rank", mean_of(part, "effective_rank")),
            **{column: part[column].mean() for column in ("explained1", "explained2")},
            **spread("silhouette", mean_of(part, "silhouette")),
            "accuracy": part["accuracy"].mean(),
            "seeds": part["seed"].nunique(),
        }
        for key, part in grouped(own, [*GROUP, "colour_by"])
    ]
    panels = own[own["base"]].sort_values("seed", kind="stable").drop_duplicates([*GROUP])
    best = panels.sort_values(["accuracy", "order"], ascending=[False, True], kind="stable").index[:MOST_PANELS]
    shown = [part for _, one in grouped(panels.loc[best], ["order", "method", "setting"]) for part in one.index]
    caption = (
        "Memories in the plane of their first two principal components, of the first seed of the settings with the "
        "highest accuracy; arrows show where one update moves a memory."
    )
    figure = _geometry_figure([(own.loc[row], planes[row]) for row in shown]) if shown else None
    return exhibit(data, name, title, caption, own, figure=figure, table=without_idle(pd.DataFrame(table), *HIDDEN))


def _geometry_figure(shown: Sequence[tuple[pd.Series, Plane]]) -> Figure:
    across = min(len(shown), 2 if len(shown) in (2, 4) else 3)
    down = -(-len(shown) // across)
    figure = Figure(figsize=(3.3 * across, 0.2 + 3.1 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for (run, plane), panel in zip(shown, axes):
        panel.quiver(
            *plane.origin.T, *plane.field.T, angles="xy", color=GREY, alpha=0.55, width=0.004, headwidth=4, zorder=1
        )
        colours, scale, ticks = _colours(plane.labels)
        panel.scatter(*plane.points.T, c=colours, s=10, lw=0.3, edgecolors="white", zorder=2)
        bar = figure.colorbar(scale, ax=panel, fraction=0.05, pad=0.02)
        bar.set_label(clean(plane.colour_by))
        bar.set_ticks(list(ticks), labels=[clean(one) for one in ticks.values()])
        bar.minorticks_off()
        bar.ax.tick_params(length=0 if len(set(plane.labels)) <= MOST_COLOURS else 2, labelsize=7)
        bar.outline.set_visible(False)
        where = textwrap.shorten(run["place"], 40, placeholder="…")
        who = textwrap.shorten(clean(plot.who(run["method"], run["setting"])), 22, placeholder="…")
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
    place = {one: number for number, one in enumerate(found)}
    few = len(found) <= MOST_COLOURS
    colours: Colormap
    norm: Normalize
    if few:
        colours = ListedColormap(sns.color_palette("colorblind", len(found)))
        norm = BoundaryNorm(np.arange(len(found) + 1) - 0.5, len(found))
    else:
        colours, norm = sns.color_palette("viridis", as_cmap=True), Normalize(0, len(found) - 1)
    chosen_ones = range(len(found)) if few else np.linspace(0, len(found) - 1, 5).round().astype(int)
    ticks = {float(one): str(found[one]) for one in chosen_ones}
    return colours(norm([place[one] for one in labels])), ScalarMappable(norm, colours), ticks
