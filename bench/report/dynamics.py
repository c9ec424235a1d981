"""What happens inside: gradient norms through time, drift of the rollout from its teacher, geometry of the memory.

|dL/dm_t|, delta_t and their ratios are positive and span orders of magnitude: over seeds their means are geometric.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.stats import bootstrap

from bench.report import lines, style
from bench.report.claims.cells import config, having, keys, number, place, usual
from bench.report.claims.findings import powers
from bench.report.claims.inside import SMALLEST, silhouette
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.statistics import RESAMPLES, SEEDS_FOR_AN_INTERVAL, Interval, mean_interval
from bench.report.style import GREY, Style
from bench.report.tables import _clean, _plain, _sortable, label, settings, short_names

COMMAND = "`python run_bench.py run dynamics-small` (of another grid: `run GRID --measure dynamics,samples`)"
"""What brings the records that this section and the samples are made of."""
WHEN = {"init": "at initialisation", "trained": "after training"}
MOST_ROWS = 4
MOST_PANELS = 6
ACROSS = 3
MOST_COLOURS = 10
"""Labels that a reader can tell apart by colours alone; more get a scale."""
PLACE = ["order", "grid", "task", "length", "place"]
GROUP = [*PLACE, "method", "setting", "usual"]


def section(data: Data) -> Section:
    """Gradient norms, drift and geometry, of the finished runs that have a dynamics.json."""
    runs = cells(data)
    exhibits = (_gradients(data, runs), _drift(data, runs), _geometry(data, runs))
    return Section("dynamics", "Dynamics", exhibits)


# Runs and where they stand.


def cells(data: Data) -> pd.DataFrame:
    """A row per finished run: grid, id, task, method, seed, and where it stands among the others.

    `length` is the trained one; `place` the task with the knobs in which its runs differ, in words, and `order` its
    number; `setting` in which other fields the run differs from others of its method, in words; `usual` whether these
    are the commonest ones, so that it is no ablation.
    """
    columns = ["grid", "id", "task", "method", "seed", "state", "task.length"]
    runs = having(data.results, *columns)
    runs = runs[runs["state"] == "done"].drop_duplicates(["grid", "id"]).reset_index(drop=True)
    runs["length"] = number(runs["task.length"])
    if runs.empty:
        return runs.assign(place=None, order=0, setting=None, usual=False)
    found = settings(runs)
    names = short_names(found.values())
    others = [tuple(one for one in found[run] if not one[0].startswith("task.")) for run in keys(runs)]
    plain = runs.astype(object).where(runs.notna(), None)  # gaps are equal to one another
    several = len(set(runs["grid"])) > 1
    places: dict[tuple[Any, ...], str] = {}
    at = pd.Series([()] * len(runs), index=runs.index, dtype=object)
    for (grid, task), part in plain.groupby(["grid", "task"], sort=True):
        knobs = ["task.length", *(name for name in config(part, ("task.",)) if name != "task.length")]
        for row, values in zip(part.index, part[knobs].itertuples(index=False, name=None)):
            told = [(name, _plain(value)) for name, value in zip(knobs, values)]
            at[row] = (str(grid), str(task), *(_sortable(value) for _, value in told))
            places[at[row]] = place(str(grid) if several else None, str(task), told)
    rank = {one: count for count, one in enumerate(sorted(places))}
    return runs.assign(
        place=[_clean(places[one]) for one in at],
        order=[rank[one] for one in at],
        setting=[_clean(label(one, names)) for one in others],
        usual=runs.index.isin(usual(plain).index),
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _placed(rows: pd.DataFrame, runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of the rows of finished runs, beside where each run stands."""
    wanted = having(rows, "grid", "id", *columns)[["grid", "id", *columns]]
    return wanted.astype({"grid": object, "id": object}).merge(runs[["id", "seed", *GROUP]], on=["grid", "id"])


def _groups(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Groups of rows in the order of the tables: by place, then method."""
    if rows.empty:
        return
    rank = {name: place for place, name in enumerate(sorted(set(rows["method"]), key=style.order))}
    rows = rows.assign(rank=rows["method"].map(rank)).sort_values(["order", "rank", "setting"], kind="stable")
    for values, part in rows.groupby(list(columns), sort=False, dropna=False):
        yield dict(zip(columns, values)), part


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """The table without columns that tell nothing or only served to order it."""
    table = table.drop(columns=["order", "place", "usual"])
    idle = [] if table["setting"].any() else ["setting"]
    idle += ["grid"] if len(set(table["grid"])) == 1 else []
    return table.drop(columns=idle)


def _mean(values: pd.Series) -> Interval:
    return mean_interval(values.to_numpy(dtype=float))


def _spread(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _geometric(values: pd.Series) -> Interval:
    """Geometric mean over seeds of what is positive, with its interval."""
    kept = np.asarray(values, dtype=float)
    return powers(mean_interval(np.log(kept[(kept > 0) & np.isfinite(kept)])))


# Lines with bands.


def _line(panel: Axes, part: pd.DataFrame, y: str, look: Style, dashes: Any, variant: int) -> Line2D:
    """The geometric mean over seeds against t with its 95 % bootstrap interval; of too few seeds their points.

    Returns the line, for the legend.
    """
    wide = part.pivot_table(index="seed", columns="t", values=y)  # seeds x times; gaps where not positive
    logs, t = np.log(wide.to_numpy(dtype=float)), wide.columns.to_numpy(dtype=float)
    marks = {**_marks(look, variant), "markevery": max(1, len(t) // 8)}
    (line,) = panel.plot(t, np.exp(logs.mean(0)), color=look.color, ls=dashes, lw=1.6, **marks)
    if len(logs) >= SEEDS_FOR_AN_INTERVAL:
        interval = bootstrap((logs,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=0, axis=0)
        panel.fill_between(t, *np.exp(interval.confidence_interval), color=look.color, alpha=0.15, lw=0)
    elif len(logs) > 1:
        panel.plot(t, np.exp(logs.T), ls="", marker=look.marker, color=look.color, ms=2, mew=0, alpha=0.7)
    return line


def _marks(look: Style, variant: int) -> dict[str, Any]:
    """Markers are hollow for a method's further settings."""
    return {"marker": look.marker, "ms": 3.5, "mfc": "white" if variant else look.color}


def _variants(rows: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(method, setting) -> its number among the settings of the method."""
    found = rows[["method", "setting"]].drop_duplicates().sort_values(["method", "setting"])
    return dict(zip(zip(found["method"], found["setting"]), found.groupby("method").cumcount()))


def _word(key: Any) -> str:
    return f"{key['method']}, {key['setting']}" if key["setting"] else str(key["method"])


def _few_seeds(rows: pd.DataFrame) -> str:
    seeds = rows.groupby(["order", "method", "setting"])["seed"].nunique()
    few = int((seeds < SEEDS_FOR_AN_INTERVAL).sum())
    return f" {few} of {len(seeds)} lines have fewer than 3 seeds: no interval, points for seeds." if few else ""


def _chosen(rows: pd.DataFrame, most: int) -> tuple[list[int], int]:
    """The places (their order) that are shown, at most so many, and how many there are.

    First those of the grid that has most places, since it was made to compare them, then those with most methods.
    """
    found = rows.groupby(["grid", "order"])["method"].nunique().reset_index()
    found["places"] = found.groupby("grid")["order"].transform("size")
    best = found.sort_values(["places", "method", "order"], ascending=[False, False, True])["order"].tolist()
    return sorted(best[:most]), len(best)


def _first_of(shown: int, count: int, noun: str) -> str:
    return f" The figure shows {shown} of {count} {noun}." if count > shown else ""


# Gradient norms.


def _gradients(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    name, title = "gradient-norms", "Gradient norms through time"
    rows = _placed(data.gradients, runs, ["when", "t", "norm", "loss_at", "through"])
    rows = rows.assign(t=number(rows["t"]), norm=number(rows["norm"])).dropna(subset=["t", "norm"])
    rows = rows[np.isfinite(rows["norm"]) & rows["when"].isin(list(WHEN))]
    if rows.empty:
        return Missing(name, title, f"no finished run has gradient norms; {COMMAND} measures them")
    table = pd.DataFrame(_slopes(rows))
    drawn = rows[rows["usual"] & (rows["norm"] > 0)]
    shown, count = _chosen(drawn, MOST_ROWS) if len(drawn) else ([], 0)
    own = runs[keys_in(runs, rows)]
    return Exhibit(
        name,
        title,
        _gradients_caption(rows, table) + _few_seeds(drawn) + _first_of(len(shown), count, "settings of the tasks"),
        lines.ran(data, zip(own["grid"], own["task"])),
        _gradients_figure(drawn, shown, style.styles(data.methods)) if shown else None,
        _tidy(table),
        tuple(dict.fromkeys(own["task"])),
        tuple(dict.fromkeys(own["method"])),
    )


def keys_in(runs: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Which runs have some of the rows."""
    wanted = set(keys(rows))
    return np.array([run in wanted for run in keys(runs)], dtype=bool)


def _slopes(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Per place, method and setting, before and after training: how fast the norm changes in t."""
    run = ["grid", "id", "when"]
    rows = rows.assign(log=np.log10(rows["norm"].clip(lower=SMALLEST))).sort_values("t", kind="stable")
    centred = rows[["t", "log"]] - rows.groupby(run)[["t", "log"]].transform("mean")
    squares = rows[run].assign(both=centred["t"] * centred["log"], t=centred["t"] ** 2)
    sums, ends = squares.groupby(run)[["both", "t"]].sum(), rows.groupby(run)["log"]
    spanned = sums["t"].where(sums["t"] > 0)  # NaN where there is but one t
    changes = pd.DataFrame({"slope": sums["both"] / spanned, "fall": (ends.first() - ends.last()).where(spanned > 0)})
    merged = rows.drop_duplicates(run).merge(changes.reset_index(), on=run)
    merged["when"] = pd.Categorical(merged["when"], list(WHEN))
    found = []
    for key, part in _groups(merged.sort_values("when"), [*GROUP, "when"]):
        through = sorted(set(part["through"].dropna().map(str)))
        found.append(
            {
                **key,
                "when": WHEN[str(key["when"])],
                "through": _clean(" or ".join(through)),
                **_spread("slope", _mean(part["slope"])),
                **_spread("first_to_last", powers(_mean(part["fall"] * np.log(10)))),
                "seeds": part["seed"].nunique(),
            }
        )
    return found


def _gradients_caption(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    trained = table[(table["when"] == WHEN["trained"]) & table["usual"]].dropna(subset="first_to_last")
    words = []
    for method in sorted(set(trained["method"]), key=style.order):
        own = trained[trained["method"] == method]
        ratios = own["first_to_last"]
        span = f", {ratios.min():.2g} to {ratios.max():.2g} by setting" if len(own) > 1 else ""
        words.append(f"{method} {np.exp(np.log(ratios).mean()):.2g}{span} ({', '.join(dict.fromkeys(own['through']))})")
    zero = int((rows["norm"] == 0).sum())
    text = (
        f"|dL/dm_t| at the first t over that at the last, after training, geometric means: {'; '.join(words)}; in "
        f"brackets what the gradient goes through. 1 is flat, below 1 vanishes, above 1 explodes."
        if words
        else "No run has norms after training."
    )
    text += " Slopes in the table are of log10 norm per step, over all t of the record."
    gone = f" {_counted(zero, 'norm')} of exactly 0 cannot be drawn; in the table they count as {SMALLEST:g}."
    return _clean(text + (gone if zero else ""))


def _gradients_figure(rows: pd.DataFrame, shown: Sequence[int], looks: dict[str, Style]) -> Figure:
    figure = Figure(figsize=(7.2, 0.9 + 1.9 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(WHEN), sharey="row", sharex="row", squeeze=False)
    variants = _variants(rows)
    drawn: dict[str, Any] = {}
    for both, order in zip(axes, shown):
        here = rows[rows["order"] == order]
        for panel, when in zip(both, WHEN):
            for key, part in _groups(here[here["when"] == when], ["method", "setting"]):
                variant = variants[key["method"], key["setting"]]
                dashes = lines.VARIANTS[variant % len(lines.VARIANTS)]
                drawn[_word(key)] = _line(panel, part, "norm", looks[key["method"]], dashes, variant)
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            lines.title(panel, f"{here['place'].iloc[0]}: {'initial' if when == 'init' else when}", 46)
        style.logarithmic(both[0].yaxis)
        both[0].set_ylabel("|dL/dm_t|")
    for panel in axes[-1]:
        panel.set_xlabel("t (time step of the memory)")
    lines.legend(figure, drawn)
    return figure


# Drift.


def _drift(data: Data, runs: pd.DataFrame) -> Exhibit | Missing:
    name, title = "drift", "Drift of the rollout from its teacher"
    rows = _placed(data.drift, runs, ["phase", "t", "delta", "accuracy"])
    for column in ("t", "delta", "accuracy"):
        rows[column] = number(rows[column])
    rows = rows.dropna(subset=["t", "delta", "phase"])
    rows = rows[np.isfinite(rows["delta"])].assign(phase=rows["phase"].map(str))
    if rows.empty:
        return Missing(name, title, f"no finished run with a teacher has its drift; {COMMAND} measures it")
    table = pd.DataFrame(_drifts(rows, _sources(data)))
    drawn = rows[rows["usual"] & (rows["delta"] > 0)]
    shown, count = _chosen(drawn, MOST_PANELS) if len(drawn) else ([], 0)
    own = runs[keys_in(runs, rows)]
    return Exhibit(
        name,
        title,
        _drift_caption(table) + _few_seeds(drawn) + _first_of(len(shown), count, "settings of the tasks"),
        lines.ran(data, zip(own["grid"], own["task"])),
        _drift_figure(drawn, shown, style.styles(data.methods)) if shown else None,
        _tidy(table),
        tuple(dict.fromkeys(own["task"])),
        tuple(dict.fromkeys(own["method"])),
    )


def _sources(data: Data) -> dict[tuple[Any, Any], tuple[Any, Any]]:
    """(grid, id) -> that of the run whose first phase it took over."""
    runs = having(data.results, "grid", "id", "init_from.run").drop_duplicates(["grid", "id"])
    linked = runs[runs["init_from.run"].notna()]
    return dict(zip(keys(linked), zip(linked["grid"], linked["init_from.run"])))


def _drifts(rows: pd.DataFrame, sources: dict[Any, Any]) -> list[dict[str, Any]]:
    """Per place, method, setting and phase: drift and accuracy within and beyond the trained length.

    `less` is the drift after SMT alone over that after this phase, paired by run.
    """
    spans = rows.assign(within=rows["t"] < rows["length"].fillna(np.inf))
    run = ["grid", "id", "phase"]
    means = spans.pivot_table(index=run, columns="within", values=["delta", "accuracy"], aggfunc="mean")
    first = rows.drop_duplicates(run).set_index(run)
    for column in ("delta", "accuracy"):
        for within, word in ((True, "within"), (False, "beyond")):
            known = means[column, within] if (column, within) in means else pd.Series(np.nan, means.index)
            first[f"{column}_{word}"] = known.reindex(first.index)
    for word in ("within", "beyond"):
        drift = first[f"delta_{word}"]
        before = [drift.get((*_smt_of((grid, name), drift, sources), "smt"), np.nan) for grid, name, _ in first.index]
        first[f"less_{word}"] = np.where(first.index.get_level_values("phase") == "smt", np.nan, before / drift)
    found = []
    for key, part in _groups(first.reset_index(), [*GROUP, "phase"]):
        values: dict[str, float] = {}
        for word in ("within", "beyond"):
            values |= _spread(f"drift_{word}", _geometric(part[f"delta_{word}"]))
            values |= _spread(f"less_{word}", _geometric(part[f"less_{word}"]))
            values[f"accuracy_{word}"] = part[f"accuracy_{word}"].mean()
        found.append({**key, **values, "seeds": part["seed"].nunique()})
    return found


def _smt_of(run: tuple[Any, Any], drift: pd.Series, sources: dict[Any, Any]) -> tuple[Any, Any]:
    """The run that has this run's phase smt: itself, or the one that it began from."""
    return run if (*run, "smt") in drift.index else sources.get(run, run)


def _drift_caption(table: pd.DataFrame) -> str:
    after = table[(table["phase"] == "dmt") & table["usual"]]
    known = after.dropna(subset="less_within")
    if known.empty:
        means = table.groupby("phase", sort=False)["drift_within"].mean()
        told = ", ".join(f"after {phase} {drift:.3g}" for phase, drift in means.items())
        text = f"Mean delta_t within the trained length: {told}. No run has it both before and after DMT."
    else:
        words = [f"{np.exp(np.log(known['less_within']).mean()):.2g} within the trained length"]
        if known["less_beyond"].notna().any():
            words.append(f"{np.exp(np.log(known['less_beyond'].dropna()).mean()):.2g} beyond it")
        lower, higher = int((known["less_within_low"] > 1).sum()), int((known["less_within_high"] < 1).sum())
        text = (
            f"DMT divides the drift delta_t by {' and by '.join(words)} (geometric means over "
            f"{_counted(len(known), 'setting')}); within it, drift is lower with an interval that excludes equality in "
            f"{lower} of {len(known)}, higher in {higher}."
        )
    text += " Dashed before DMT, solid after; delta_t is the mean squared distance from the teacher's memory."
    return _clean(text)


def _drift_figure(rows: pd.DataFrame, shown: Sequence[int], looks: dict[str, Style]) -> Figure:
    across = min(len(shown), ACROSS)
    down = -(-len(shown) // across)
    figure = Figure(figsize=(max(4.2, 0.6 + 2.7 * across), 1.1 + 2.1 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    variants = _variants(rows)
    drawn: dict[str, Any] = {}
    for at, (order, panel) in enumerate(zip(shown, axes)):
        here = rows[rows["order"] == order]
        for key, part in _groups(here, ["method", "setting", "phase"]):
            dashes, variant = "--" if key["phase"] == "smt" else "-", variants[key["method"], key["setting"]]
            _line(panel, part, "delta", looks[key["method"]], dashes, variant)
            look = looks[key["method"]]
            drawn[_word(key)] = Line2D([], [], color=look.color, lw=1.6, **_marks(look, variant))
        style.logarithmic(panel.yaxis)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        length, end = here["length"].iloc[0], here["t"].max()
        if pd.notna(length) and length <= end:
            panel.axvline(length - 0.5, color=GREY, lw=0.9, ls=":")
            panel.axvspan(length - 0.5, end + 0.5, color=GREY, alpha=0.1, lw=0)
        panel.set_xlim(here["t"].min() - 0.5, end + 0.5)
        lines.title(panel, here["place"].iloc[0])
        if at % across == 0:
            panel.set_ylabel("delta_t")
        if at + across >= len(shown):
            panel.set_xlabel("t (time step)")
    for panel in axes[len(shown) :]:
        panel.remove()
    drawn["after SMT"] = Line2D([], [], color=GREY, ls="--", lw=1.6)
    drawn["after DMT"] = Line2D([], [], color=GREY, lw=1.6)
    drawn["beyond the trained length"] = Patch(color=GREY, alpha=0.15, lw=0)
    lines.legend(figure, drawn)
    return figure


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
    values = {
        "effective_rank": [planes[row].effective_rank for row in own.index],
        "explained1": [planes[row].explained[0] for row in own.index],
        "explained2": [planes[row].explained[1] for row in own.index],
        "silhouette": [silhouette(planes[row].points, list(map(str, planes[row].labels))) for row in own.index],
        "accuracy": _accuracies(data, own),
    }
    own = own.assign(**values, colour_by=[_clean(planes[row].colour_by) for row in own.index])
    table = [
        {
            **key,
            **_spread("effective_rank", _mean(part["effective_rank"])),
            **{column: part[column].mean() for column in ("explained1", "explained2")},
            **_spread("silhouette", _mean(part["silhouette"])),
            "accuracy": part["accuracy"].mean(),
            "seeds": part["seed"].nunique(),
        }
        for key, part in _groups(own, [*GROUP, "colour_by"])
    ]
    panels = own[own["usual"]].sort_values("seed", kind="stable").drop_duplicates([*GROUP])
    best = panels.sort_values(["accuracy", "order"], ascending=[False, True], kind="stable").index[:MOST_PANELS]
    shown = [part for _, one in _groups(panels.loc[best], ["order", "method", "setting"]) for part in one.index]
    return Exhibit(
        name,
        title,
        _geometry_caption(pd.DataFrame(table)) + _first_of(len(shown), len(panels), "settings, the most accurate"),
        lines.ran(data, zip(own["grid"], own["task"])),
        _geometry_figure([(own.loc[row], planes[row]) for row in shown]) if shown else None,
        _tidy(pd.DataFrame(table)),
        tuple(dict.fromkeys(own["task"])),
        tuple(dict.fromkeys(own["method"])),
    )


def _accuracies(data: Data, own: pd.DataFrame) -> list[float]:
    """Of each run's trained predictor at the trained length; NaN where it is not known."""
    rows = having(data.results, "grid", "id", "reference", "length", "task.length", "accuracy")
    length, trained = number(rows["length"]), number(rows["task.length"])
    rows = rows[~rows["reference"].eq(True) & (length.isna() | trained.isna() | (length == trained))]
    found = dict(zip(keys(rows), number(rows["accuracy"])))
    return [found.get(run, float("nan")) for run in keys(own)]


def _geometry_caption(table: pd.DataFrame) -> str:
    table = table[table["usual"]]
    known = table.dropna(subset="silhouette").sort_values("silhouette").to_dict("records")
    told = [f"under {_word(one)} on {one['place']} (silhouette {one['silhouette']:.2f})" for one in known]
    words = ["All labels of a run are one or all different, so that there are no groups to look for."]
    if told:
        words = [f"Memories lie grouped by their label most clearly {told[-1]}"]
        words[0] += f", least {told[0]}." if len(told) > 1 else "."
    ranks = table["effective_rank"]
    words.append(f"Their effective rank is {ranks.min():.3g} to {ranks.max():.3g}.")
    words.append(
        "A panel is the first seed of a setting; arrows show, relative to one another, where one update moves a "
        "memory of the plane."
    )
    return _clean(" ".join(words))


def _geometry_figure(shown: Sequence[tuple[pd.Series, Plane]]) -> Figure:
    across = min(len(shown), 2 if len(shown) in (2, 4) else ACROSS)
    down = -(-len(shown) // across)
    figure = Figure(figsize=(3.3 * across, 0.2 + 3.0 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for (run, plane), panel in zip(shown, axes):
        panel.quiver(
            *plane.origin.T, *plane.field.T, angles="xy", color=GREY, alpha=0.55, width=0.004, headwidth=4, zorder=1
        )
        colours, scale, ticks = _colours(plane.labels)
        panel.scatter(*plane.points.T, c=colours, s=10, lw=0.3, edgecolors="white", zorder=2)
        bar = figure.colorbar(scale, ax=panel, fraction=0.05, pad=0.02)
        bar.set_label(_clean(plane.colour_by))
        bar.set_ticks(list(ticks), labels=[_clean(one) for one in ticks.values()])
        bar.minorticks_off()
        bar.ax.tick_params(length=0 if len(set(plane.labels)) <= MOST_COLOURS else 2, labelsize=7)
        bar.outline.set_visible(False)
        where, who = textwrap.shorten(run["place"], 42, placeholder="…"), _clean(_word(run))
        who = textwrap.shorten(who, 22, placeholder="…")
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
    found = sorted(set(labels), key=_sortable)
    place = {one: number for number, one in enumerate(found)}
    few = len(found) <= MOST_COLOURS
    colours: Colormap
    norm: Normalize
    if few:
        colours = ListedColormap(sns.color_palette("colorblind", len(found)))
        norm = BoundaryNorm(np.arange(len(found) + 1) - 0.5, len(found))
    else:
        colours, norm = sns.color_palette("viridis", as_cmap=True), Normalize(0, len(found) - 1)
    chosen = range(len(found)) if few else np.linspace(0, len(found) - 1, 5).round().astype(int)
    ticks = {float(one): str(found[one]) for one in chosen}
    return colours(norm([place[one] for one in labels])), ScalarMappable(norm, colours), ticks
