"""Lines over seeds: what figures of a score against a quantity have in common.

points = aggregate(rows, ["method", "task.length"], "accuracy")     a mean and its interval per group
figure, panels = grid_of(5)                                         panels with room for a legend below
line = draw(panels[0], rows, "task.length", "accuracy", look)       mean, and band or single seeds
legend(figure, {"bptt": line})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.report import style
from bench.report.data import Data
from bench.report.figures import REFERENCES
from bench.report.statistics import SEEDS_FOR_AN_INTERVAL, Interval, mean_interval
from bench.report.style import GREY, Style
from bench.report.tables import _clean, _count, _plain, _what, label, short_names

ACROSS = 3
MOST_PANELS = 12
GEOMETRIC = 4.0
"""Values that span this ratio or more stand on a logarithmic axis: sweeps double."""
TICK_GAP = 0.1
"""Of the axis: ticks closer than that are left out, as their numbers would touch."""
VARIANTS: Sequence[Any] = ("-", (0, (5, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
"""Dashes that tell several settings of one method apart; plain dashes are a reference's."""


LINE = ["method", "setting", "predictor", "reference"]
"""What tells lines apart; `setting` is in words, empty where a method has but one."""


# Numbers.


def per_seed(rows: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """One row per group and seed: the columns `by`, seed, and `value` averaged over the group's rows of that seed.

    Rows in which the value is no number are left out; gaps in `by` are a value like others.
    """
    values = pd.to_numeric(rows[value], errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    kept = rows.assign(**{value: values}).dropna(subset=[value, "seed"])
    return kept.groupby([*by, "seed"], dropna=False, sort=False)[value].mean().reset_index()


def aggregate(rows: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """One row per group: the columns `by`, then mean, low, high (`mean_interval` over seeds) and seeds, how many."""
    seeds = per_seed(rows, by, value)
    groups = seeds.groupby(list(by), dropna=False, sort=False)[value]
    found = [(*key, *mean_interval(part.to_numpy())) for key, part in groups] if len(seeds) else []
    return pd.DataFrame(found, columns=[*by, "mean", "low", "high", "seeds"])


def free(rows: pd.DataFrame, axis: str, columns: Iterable[str]) -> list[str]:
    """Those of the columns that take several values at one value of `axis`, so that they do not follow from it."""
    at = rows.groupby(axis, dropna=False)
    return [name for name in columns if name != axis and at[name].nunique(dropna=False).gt(1).any()]


def worded(rows: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """What every row says in these config columns, in words: `length 16, backbone gru`. Gaps are left out."""
    names = short_names([tuple((name, None) for name in columns)])
    values = rows[list(columns)].astype(object).where(rows[list(columns)].notna(), None)
    told = [
        label(tuple((name, _plain(value)) for name, value in zip(columns, row) if value is not None), names)
        for row in values.itertuples(index=False, name=None)
    ]
    return pd.Series(told, index=rows.index, dtype=object)


def shown(interval: Interval | Sequence[float], digits: int = 3) -> str:
    """`0.412 [0.380, 0.450]`; without brackets where there is no interval."""
    mean, low, high = (round(float(one), digits) + 0.0 for one in interval[:3])  # + 0.0: no minus zero
    return f"{mean:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


# Drawing.


def grid_of(count: int, ylabel: str = "", across: int = ACROSS, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of that many panels, row by row, at most `across` beside one another; `ylabel` left of each row."""
    across = max(1, min(count, across))
    down = -(-count // across)
    size = (6.6, 4.1) if count == 1 else (1.0 + 3.0 * across, 0.9 + 2.5 * down)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(down, across, sharey=share_y, squeeze=False).flatten())
    for panel in panels[count:]:
        panel.remove()
    for place, panel in enumerate(panels[:count]):
        panel.tick_params(labelleft=place % across == 0 or not share_y)
        if place % across == 0:
            panel.set_ylabel(ylabel)
    return figure, panels[:count]


def draw(
    panel: Axes, rows: pd.DataFrame, x: str, y: str, look: Style, reference: bool = False, variant: int = 0
) -> Line2D:
    """The mean over seeds of column `y` at each `x`, a band where seeds make an interval, else the seeds as points.

    A reference, such as SMT's teacher, is dashed and without markers; `variant` numbers the settings of one method.
    Returns the line, for the legend.
    """
    points = aggregate(rows, [x], y).sort_values(x)
    dashes = "--" if reference else VARIANTS[variant % len(VARIANTS)]
    mark: dict[str, Any] = {} if reference else {"marker": look.marker, "ms": 4.5}
    if variant:
        mark["mfc"] = "white"
    (line,) = panel.plot(
        points[x], points["mean"], color=look.color, ls=dashes, lw=1.2 if reference else 1.7, zorder=3, **mark
    )
    panel.fill_between(
        points[x], points["low"], points["high"], color=look.color, alpha=0.06 if reference else 0.15, lw=0
    )
    few = set(points.loc[(points["seeds"] > 1) & (points["seeds"] < SEEDS_FOR_AN_INTERVAL), x])
    single = per_seed(rows, [x], y)
    single = single[single[x].isin(few)]
    panel.plot(single[x], single[y], ls="", marker=look.marker, ms=3, mew=0, color=look.color, alpha=0.6, zorder=3)
    return line


def draw_all(panel: Axes, rows: pd.DataFrame, x: str, y: str, looks: Mapping[str, Style]) -> dict[str, Line2D]:
    """A line for each of the groups `LINE` of the rows, in the order of legends; returns them by their names there."""
    drawn: dict[str, Line2D] = {}
    found: dict[tuple[str, str, str, bool], pd.DataFrame] = {}
    for (method, setting, predictor, reference), part in rows.groupby(LINE, sort=False):
        found[str(method), str(setting), str(predictor), bool(reference)] = part
    last_first = sorted(found, key=lambda one: (one[3], style.order(one[0]), one[1]), reverse=True)
    for key in last_first:  # so that the first lie on top
        method, setting, predictor, reference = key
        word = f"{method} {predictor} (reference)" if reference else method
        word += f", {setting}" if setting else ""
        others = sorted(set(rows.loc[rows["method"] == method, "setting"]))
        drawn[word] = draw(panel, found[key], x, y, looks[method], reference, others.index(setting))
    return dict(reversed(drawn.items()))


def levels(panel: Axes, rows: pd.DataFrame, x: str, names: Iterable[str]) -> dict[str, Line2D]:
    """Grey lines of what the columns `names` of `REFERENCES` say along `x`; across the panel where they say the same.

    Returns them by what they are called, for the legend.
    """
    drawn = {}
    for name in names:
        known = rows.groupby(x)[name].mean().dropna()
        if len(known):
            word, dashes = REFERENCES[name]
            grey: dict[str, Any] = {"color": GREY, "lw": 1.0, "ls": dashes, "zorder": 1}
            if len(set(known)) == 1:
                drawn[word] = panel.axhline(known.iloc[0], **grey)
            else:
                (drawn[word],) = panel.plot(known.index, known.to_numpy(), **grey)
    return drawn


def spread(axis: Axis, values: Iterable[float]) -> None:
    """Put an axis' ticks at these values, as plain numbers that do not touch; logarithmic where they span much."""
    places = sorted({float(value) for value in values if np.isfinite(value)})
    if not places:
        return
    logarithmic = places[0] > 0 and places[-1] >= GEOMETRIC * places[0]
    if logarithmic:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    at = np.log(places) if logarithmic else np.array(places)
    kept: list[int] = []
    for place in sorted(range(len(at)), key=lambda place: (place not in (0, len(at) - 1), place)):  # the ends first
        if all(abs(at[place] - at[other]) >= TICK_GAP * (at[-1] - at[0]) for other in kept):
            kept.append(place)
    axis.set_major_locator(FixedLocator([places[place] for place in sorted(kept)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if abs(value) < 1e4 else _count(value)))


def legend(figure: Figure, lines: Mapping[str, Any], most: int = 4) -> None:
    """One legend below all panels, with at most that many words beside one another."""
    if lines:
        words = [f" {_clean(word)}" for word in lines]  # a word that begins with _ would be left out
        longest = max(map(len, words))
        columns = max(1, min(most, len(words), int(figure.get_figwidth() * 11) // (longest + 6)))
        figure.legend(list(lines.values()), words, loc="outside lower center", ncols=columns)


def title(panel: Axes, text: str, width: int = 42) -> None:
    """A panel's title, cut where it would run into the next panel's."""
    text = _clean(text)
    panel.set_title(text if len(text) <= width else f"{text[: width - 1]}…", loc="left")


# Words.


def ran(data: Data, parts: Iterable[tuple[str, str]]) -> str:
    """What was run for these (grid, task): how many cells are done, and their sizes and budgets, grid by grid."""
    keys = set(parts)
    runs = data.results.drop_duplicates(["grid", "id"])
    runs = runs[pd.Series([one in keys for one in zip(runs["grid"], runs["task"])], index=runs.index, dtype=bool)]
    words = []
    for grid, own in runs.groupby("grid", sort=True):
        done = int((own["state"] == "done").sum())
        rest = f", the other {len(own) - done} left out" if done < len(own) else ""
        words.append(f"{grid}, {done} of {len(own)} cells done{rest}: {_what(own) or 'config not known'}.")
    return _clean(" ".join(words))


def uncounted(rows: pd.DataFrame, among: pd.DataFrame | None = None) -> str:
    """A sentence on the operators that no rule counts, by whose work FLOPs are too low; nothing where there are none.

    `among`: only of the grids, tasks and methods that this table has.
    """
    told: dict[str, dict[str, None]] = {}
    if "uncounted" in rows:
        if among is not None:
            keys = [pd.MultiIndex.from_frame(one[["grid", "task", "method"]]) for one in (rows, among)]
            rows = rows[keys[0].isin(keys[1])]
        for who, names in rows.dropna(subset="uncounted").groupby(["method", "backbone"], sort=False)["uncounted"]:
            operators = [name for text in names.unique() for name in text.split(", ") if name]
            told |= {" on ".join(map(str, who)): dict.fromkeys(operators)} if operators else {}
    words = "; ".join(f"{who} ({', '.join(operators)})" for who, operators in told.items())
    return _clean(f" FLOPs are too low where no rule counts an operator: {words}.") if words else ""


def few_seeds(seeds: pd.Series) -> str:
    """A sentence on intervals: over how many seeds they are, or how many means have too few for one."""
    few = int((seeds < SEEDS_FOR_AN_INTERVAL).sum())
    if not few:
        return f"Intervals: 95 %, bootstrapped over {int(seeds.min())} seeds or more."
    which = "No mean has" if few == len(seeds) else f"{few} of {len(seeds)} means have no"
    return f"{which} {'an ' if few == len(seeds) else ''}interval, which takes {SEEDS_FOR_AN_INTERVAL} seeds: points."
