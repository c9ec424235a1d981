"""Figures from data: a `Panel` says what is drawn, `draw` draws any number of them with one legend.

    line = over_seeds(rows, "task.length", "accuracy", "bptt")      a mean and its interval at each x
    figure = draw([Panel("retrieval", "length", "accuracy", [line])], looks)

Tests look at panels. Places are computed in inches from what the panels hold, so that titles and legends never overlap.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.drawing import drawing
from bench.report import query, tables
from bench.report.curves import on_common_x
from bench.report.exhibit import MOST_PANELS
from bench.report.style import GREY, RC, Style, order, tick_text
from bench.report.words import clean
from bench.results import write_atomically
from bench.statistics import SEEDS_FOR_AN_INTERVAL, band

REFERENCES = {"accuracy_ceiling": ("ceiling", "-"), "shortcut": ("shortcut", (0, (4, 2))), "chance": ("chance", ":")}
"""Columns that are drawn as levels: what they are called there, and how they are dashed."""
VARIANTS: Sequence[Any] = ("-", (0, (5, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
"""Dashes that tell several settings of one method apart; plain dashes are a reference's."""
GEOMETRIC = 4.0
"""Values that span this ratio or more stand on a logarithmic axis: sweeps double."""
LEAST_DECADES = 0.8
"""The fewest decades of a logarithmic y axis, so that what is flat looks flat."""
MARKS = 10
"""Markers on a line, or so."""
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 2.6, 1.9, 0.72, 0.16, 0.5
"""The size of a panel, and the space around it, in inches."""
FEW = 6
"""With more lines than these in a panel, the bands of their intervals are fainter."""
LETTER, LETTERS_HIGH = 0.076, 0.165
"""A letter's width and a line's height, in inches, at the size of titles and legends."""
TIP = 7.5
"""The size of words at the ends of lines, in points."""
HANDLE = 0.6
"""The width of a legend's sample of a line and of the space around it, in inches."""


@dataclass(frozen=True)
class Line:
    """A mean over seeds against x, with its interval."""

    word: str  # in the legend; empty: not there
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray = field(default_factory=lambda: np.empty(0))
    high: np.ndarray = field(default_factory=lambda: np.empty(0))
    """Ends of the interval, NaN where there is none; or empty."""
    seeds: tuple[tuple[np.ndarray, np.ndarray], ...] = ()  # x and y of single seeds, where they are shown
    method: str = ""  # whose colour it has; none: grey
    variant: int = 0  # which of its method's settings it is
    reference: bool = False  # such as SMT's teacher: dashed, or hollow
    kind: Literal["line", "curve", "points", "steps", "fit", "end"] = "line"
    """A curve shows its seeds as thin lines, the others as points; an end is a cross."""
    tip: str = ""  # a word at its end


@dataclass(frozen=True)
class Level:
    """A grey line that is no method's: y along x, or one y throughout."""

    word: str
    y: np.ndarray
    x: np.ndarray = field(default_factory=lambda: np.empty(0))
    dashes: Any = "-"


@dataclass(frozen=True)
class Mark:
    """A vertical line; with `until`, the panel is shaded from there on."""

    word: str
    x: float
    until: float | None = None
    method: str = ""  # whose colour it has; none: grey


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    marks: Sequence[Mark] = ()
    ticks: Literal["values", "log", "linear"] = "values"
    """x has ticks at the lines' own values, or over a logarithmic or linear range."""
    names: Sequence[str] = ()
    """What stands at x = 0, 1, .. instead of numbers."""
    zero: float | None = None  # the x that stands for 0 on a logarithmic axis
    ylim: tuple[float, float] | None = None
    ylog: bool = False
    note: str = ""  # where nothing is drawn: why


# From frames to lines.


def over_seeds(rows: pd.DataFrame, x: str, y: str, method: str, word: str | None = None, **how: Any) -> Line:
    """The mean over seeds of column `y` at each `x`; single seeds where they are too few for an interval."""
    points = tables.tabulate(rows.dropna(subset=y), [x], **{y: "interval"}).sort_values(x)
    few = set(points.loc[(points["seeds"] > 1) & (points["seeds"] < SEEDS_FOR_AN_INTERVAL), x])
    single = tables.per_seed(rows, [x], y)
    shown = [part for _, part in single[single[x].isin(few)].groupby("seed")]
    seeds = tuple((part[x].to_numpy(dtype=float), part[y].to_numpy(dtype=float)) for part in shown)
    return of_table(points, x, y, method, method if word is None else word, seeds=seeds, **how)


def of_table(table: pd.DataFrame, x: str, y: str, method: str, word: str, **how: Any) -> Line:
    """A line through the rows that have a `y`; with the ends of its interval where the table has them."""
    known = table.dropna(subset=y)
    names = {"x": x, "mean": y, "low": f"{y}_low", "high": f"{y}_high"}
    columns: dict[str, Any] = {at: known[name].to_numpy(dtype=float) for at, name in names.items() if name in known}
    return Line(word, method=method, **columns, **how)


def over_time(rows: pd.DataFrame, x: str, y: str, method: str, word: str, logs: bool = False, **how: Any) -> Line:
    """As `over_seeds`, of many x at which all seeds have a value; with `logs` the mean is geometric."""
    wide = rows.pivot_table(index="seed", columns=x, values=y)
    values, at = wide.to_numpy(dtype=float), wide.columns.to_numpy(dtype=float)
    mean, low, high = band(np.log(values) if logs else values)
    seeds = tuple((at, seed) for seed in values) if 1 < len(values) < SEEDS_FOR_AN_INTERVAL else ()
    mean, low, high = (np.exp(end) if logs else end for end in (mean, low, high))
    return Line(word, at, mean, low, high, seeds, method, **how)


def over_curves(rows: pd.DataFrame, x: str, y: str, method: str, word: str, hold: bool = False, **how: Any) -> Line:
    """The mean of curves, which `id` tells apart, at their common x, and where there are several every single one.

    With `hold` a curve keeps its last value until the last one ends, as that of a run that ended once it was solved.
    """
    seeds = [seed.sort_values(x)[[x, y]].to_numpy(dtype=float).T for _, seed in rows.groupby("id", sort=True)]
    curves = tuple((at, values) for at, values in seeds)
    end = [max(at[-1] for at, _ in curves)] if hold else []
    common, values = on_common_x([(np.r_[at, end], np.r_[values, values[-1:][: len(end)]]) for at, values in curves])
    seen = curves if len(curves) > 1 else ()
    return Line(word, common, values.mean(0), seeds=seen, method=method, kind="curve", **how)


def legend_name(method: Any, setting: Any = "", predictor: Any = "", reference: Any = False) -> str:
    """A line's name in a legend."""
    return (f"{method} {predictor} (reference)" if reference else str(method)) + (f", {setting}" if setting else "")


def by_setting(rows: pd.DataFrame, among: pd.DataFrame | None = None) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
    """Method, name in the legend, number among the method's settings, and rows of each, in the order of legends.

    Settings are numbered among all those of `among`, of the whole figure; without it among those of the rows.
    """
    among = rows if among is None else among
    for method in sorted(set(rows["method"]), key=order):
        settings = list(dict.fromkeys(among.loc[among["method"] == method, "setting"]))
        for setting, part in rows[rows["method"] == method].groupby("setting", sort=False):
            yield method, legend_name(method, setting), settings.index(setting), part


def sweep_lines(rows: pd.DataFrame, x: str, y: str, among: pd.DataFrame | None = None) -> list[Line]:
    """A line for each of the groups `query.LINE`, in the order of legends; told apart from those of `among`, too."""
    found: list[Line] = []
    among = rows if among is None else among
    ordered: Any = tables.in_order(rows, "reference", "method", "setting").groupby(query.LINE, sort=False)
    for (method, setting, predictor, reference), part in ordered:
        settings = sorted(set(among.loc[among["method"] == method, "setting"]))
        word = legend_name(method, setting, predictor, reference)
        how = {"variant": settings.index(setting), "reference": bool(reference)}
        found.append(over_seeds(part, x, y, method, word, **how))
    return found


def levels(rows: pd.DataFrame, x: str, names: Iterable[str] = ("accuracy_ceiling", "chance")) -> list[Level]:
    """What the columns `names` of `REFERENCES` say along `x`; one value where they say the same throughout."""
    found = []
    for name in names:
        known = rows.groupby(x)[name].mean().dropna()
        if len(known):
            same = len(set(known)) == 1
            y, at = (known.to_numpy()[:1], np.empty(0)) if same else (known.to_numpy(), known.index.to_numpy(float))
            found.append(Level(REFERENCES[name][0], y, at, REFERENCES[name][1]))
    return found


def accuracies(
    title: str, label: str, rows: pd.DataFrame, x: str, among: pd.DataFrame | None = None, **how: Any
) -> Panel:
    """Accuracy along `x`, a line for each of the groups `query.LINE`, between chance and ceiling.

    `among` are the rows of all panels of a figure, where a line is to look the same in each.
    """
    shown = {"ylim": (-0.03, 1.05), "levels": levels(rows, x), "lines": sweep_lines(rows, x, "accuracy", among), **how}
    return Panel(title, label, "accuracy on the test set", **shown)


def accuracies_by_way(
    title: str, label: str, rows: pd.DataFrame, x: str, among: pd.DataFrame | None = None, **how: Any
) -> list[Panel]:
    """`accuracies` in one panel; in two of many lines, if some method was trained both on a curriculum and without."""
    grown = rows[query.names_of(rows, query.CURRICULUM)].notna().any(axis=1)
    both = grown.groupby([rows[name] for name in ("method", "backbone", x)], dropna=False).nunique().gt(1).any()
    if len(rows.drop_duplicates(query.LINE)) <= FEW or not both:
        return [accuracies(title, label, rows, x, among, **how)]
    own = [name for name in query.names_of(rows, query.CONFIG) if not name.startswith(("task.", query.CURRICULUM))]
    rows = rows.assign(setting=query.worded_apart(rows.assign(grown=grown), ["method", "grown"], x, own))
    ways = {"one length": rows[~grown], "a curriculum of lengths": rows[grown]}
    return [accuracies(f"{title}, {way}", label, shown, x, rows, **how) for way, shown in ways.items()]


# Drawing.


def draw(panels: Sequence[Panel], looks: Mapping[str, Style], across: int = 3) -> Figure:
    """A figure of the panels, at most `across` beside one another, and one legend below them."""
    shown = list(panels[:MOST_PANELS])
    across = max(1, min(len(shown), across))
    down = -(-len(shown) // across)
    width, height = (5.2, 3.1) if len(shown) == 1 else (WIDTH, HEIGHT)
    titles = [
        _wrapped(panel, shown[place + 1 : (place // across + 1) * across], width) for place, panel in enumerate(shown)
    ]
    tops = [max(len(title) for title in titles[row * across : (row + 1) * across]) for row in range(down)]
    words = _words(shown)
    tips = max((LETTER * len(line.tip) for panel in shown for line in panel.lines if line.tip), default=0.0)
    whole = across * (LEFT + width + RIGHT + tips)
    letters = int((whole - HANDLE) / LETTER)
    wrapped = (textwrap.fill(clean(word), letters, subsequent_indent="   ") for word in words)
    texts = [f" {text}" for text in wrapped]  # a text that begins with _ would be left out
    columns = _columns(texts, whole)
    lines = max(sum(text.count("\n") + 1 for text in column) for column in np.array_split(texts, columns))
    foot = 0.12 + LETTERS_HIGH * 1.15 * lines
    below = BOTTOM + max((_upright(panel, width) for panel in shown), default=0.0)
    rows = [0.1 + LETTERS_HIGH * lines + height + below for lines in tops]
    size = (whole, sum(rows) + foot)
    figure = Figure(figsize=size)
    handles: dict[str, Line2D] = {}
    for place, panel in enumerate(shown):
        row, column = divmod(place, across)
        left = column * (LEFT + width + RIGHT + tips) + LEFT
        top = sum(rows[:row]) + 0.1 + LETTERS_HIGH * tops[row]
        axes = figure.add_axes((left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]))
        _draw(axes, panel, looks, handles, upright=_upright(panel, width) > 0)
        axes.set_title("\n".join(titles[place]), loc="left", pad=4)
        axes.set_xlabel(clean(panel.x))
        axes.set_ylabel(clean(panel.y))
    if words:
        figure.legend([handles[word] for word in words], texts, loc="lower center", ncols=columns, borderpad=0.2)
    return figure


def _wrapped(panel: Panel, after: Sequence[Panel], width: float) -> list[str]:
    """The lines of a title: as wide as its panel, and as those right of it that have none."""
    spans = 1 + next((place for place, panel in enumerate(after) if panel.title), len(after))
    letters = int((spans * (width + LEFT + RIGHT) - LEFT) / LETTER)
    return textwrap.wrap(clean(panel.title), letters, max_lines=2, placeholder=" …") if panel.title else []


def _words(panels: Sequence[Panel]) -> list[str]:
    """What the legend says: methods in their order, whichever panel they are in, their references, levels, marks."""
    lines = sorted((line for panel in panels for line in panel.lines), key=lambda at: (at.reference, order(at.method)))
    others: list[Level | Mark] = [level for panel in panels for level in panel.levels]
    others += [mark for panel in panels for mark in panel.marks]
    return list(dict.fromkeys(drawn.word for drawn in (*lines, *others) if drawn.word))


def _columns(texts: Sequence[str], width: float) -> int:
    """As many columns of a legend as fit, each as wide as the longest of its texts."""
    font = FontProperties(size=RC["font.size"])
    pixels = [
        max(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] for line in text.splitlines())
        for text in texts
    ]

    def wide(columns: int) -> float:
        return sum(max(column) / 72 + HANDLE for column in np.array_split(pixels, columns))

    return next((columns for columns in range(len(texts), 1, -1) if wide(columns) <= width), 1)


def _upright(panel: Panel, width: float) -> float:
    """The height in inches of names that do not fit beside one another and stand upright; 0 where they fit."""
    lines = [line for name in panel.names for line in name.split("\n")]
    longest = LETTER * max(map(len, lines), default=0)
    return longest - BOTTOM / 2 if longest * len(panel.names) > LEFT + width + RIGHT else 0.0


def _draw(axes: Axes, panel: Panel, looks: Mapping[str, Style], handles: dict[str, Line2D], upright: bool) -> None:
    for level in panel.levels:
        grey: dict[str, Any] = {"color": GREY, "lw": 1.0, "ls": level.dashes, "zorder": 1}
        handles[level.word] = Line2D([], [], **grey)
        axes.plot(level.x, level.y, **grey) if len(level.x) else axes.axhline(float(level.y[0]), **grey)
    for mark in panel.marks:
        color = looks[mark.method].color if mark.method else GREY
        dashed: dict[str, Any] = {"color": color, "lw": 1.1, "ls": (0, (6, 3)), "zorder": 1}
        handles[mark.word] = Line2D([], [], **dashed)
        axes.axvline(mark.x, **dashed)
        if mark.until is not None:
            axes.axvspan(mark.x, mark.until, color=GREY, alpha=0.1, lw=0)
    for line in reversed(panel.lines):  # so that the first lie on top
        shade = 0.15 if len(panel.lines) <= FEW else 0.06
        handles[line.word] = _draw_line(axes, line, looks[line.method].color if line.method else GREY, looks, shade)
    if not panel.lines:
        axes.annotate(panel.note or "nothing to show", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    if panel.names:
        axes.set_xticks(range(len(panel.names)), [clean(name) for name in panel.names], rotation=90 if upright else 0)
        axes.set_xlim(-0.6, len(panel.names) - 0.4)
    else:
        own = [line.x for line in panel.lines if line.kind != "fit" or panel.ticks != "values"]
        own += [np.array([mark.x]) for mark in panel.marks if panel.ticks == "values"]
        _ticks(axes.xaxis, np.concatenate(own), panel.ticks, panel.zero)
    if panel.ylim:
        axes.set_ylim(panel.ylim)
    if panel.ylog:
        _ticks(axes.yaxis, np.concatenate([line.mean for line in panel.lines]), "log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(tick_text))
    _draw_tips(axes, panel.lines)


def _draw_line(axes: Axes, line: Line, color: str, looks: Mapping[str, Style], shade: float) -> Line2D:
    bare = line.kind in ("fit", "steps") or not line.method or (line.reference and line.kind != "points")
    dashes = {"fit": ":", "points": "", "end": ""}.get(
        line.kind, "--" if line.reference else VARIANTS[line.variant % len(VARIANTS)]
    )
    how: dict[str, Any] = {"color": color, "ls": dashes, "lw": 1.1 if line.reference or line.kind == "fit" else 1.6}
    if line.kind == "end":
        how |= {"marker": "x", "ms": 7, "mew": 1.6}
    elif not bare:
        face = "white" if line.variant or line.reference else color
        how |= {"marker": looks[line.method].marker, "ms": 4, "mfc": face}
    every = max(1, len(line.x) // MARKS)
    steps: dict[str, Any] = {"drawstyle": "steps-post"} if line.kind == "steps" else {}
    axes.plot(line.x, line.mean, markevery=every, zorder=3, **how, **steps)
    if len(line.low) and np.isfinite(line.low).any():
        if line.kind == "points":
            axes.vlines(line.x, line.low, line.high, color=color, lw=1.5, zorder=2)
        else:
            axes.fill_between(line.x, line.low, line.high, color=color, alpha=shade, lw=0, zorder=2)
    if line.seeds:  # as one line with gaps: hundreds of them take long
        thin: dict[str, Any] = {"lw": 0.6, "ls": dashes} if line.kind == "curve" else {"ls": "", "marker": ".", "ms": 3}
        x, y = (np.concatenate([part for seed in values for part in (seed, [np.nan])]) for values in zip(*line.seeds))
        axes.plot(x, y, color=color, alpha=0.6, zorder=2, **thin)
    return Line2D([], [], **how)


def _draw_tips(axes: Axes, lines: Sequence[Line]) -> None:
    """The words at the ends of lines, one above the other where lines end together."""
    free = -math.inf
    for line in sorted((line for line in lines if line.tip), key=lambda line: float(line.mean[-1])):
        end = (float(line.x[-1]), float(line.mean[-1]))
        at = axes.transData.transform(end)[1] * 72 / axes.figure.dpi  # in points
        up = max(0.0, free - at)
        axes.annotate(line.tip, end, (4, up), textcoords="offset points", va="center", size=TIP)
        free = at + up + 1.3 * TIP


def save_png(make: Callable[[], Figure | None], path: Path) -> None:
    """Write a figure, made in the style of the report, as a PNG file, whole or not at all."""
    with drawing(RC):
        figure = make()
        assert figure is not None
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _ticks(axis: Axis, values: np.ndarray, kind: str, zero: float | None = None) -> None:
    """Ticks as plain numbers that do not touch: at the values themselves, or at round ones of their range."""
    values = np.unique(values[np.isfinite(values)])
    if not len(values):
        return
    low, high = values[0], values[-1]
    log = low > 0 and (kind == "log" or (kind == "values" and high >= GEOMETRIC * low))
    if log:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
        if kind == "log":
            more = max(0.0, LEAST_DECADES - math.log10(high / low)) / 2 + 0.04
            low, high = low / 10**more, high * 10**more
            axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})  # type: ignore[attr-defined]
    if kind == "values":
        candidates = values
    elif log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        candidates = np.array([factor * 10.0**power for factor in (1, 5, 2) for power in powers])
        candidates = candidates[(candidates >= low) & (candidates <= high)]
    else:
        axis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_major_formatter(FuncFormatter(tick_text))
        return
    at = np.log(candidates) if log else candidates
    span = (math.log(high) - math.log(low) if log else high - low) or 1.0
    first = [0, len(at) - 1] if kind == "values" else []
    gap = (0.1 if kind == "values" else 0.17) * span
    kept: list[int] = []
    for place in [*first, *range(len(at))]:
        if all(abs(at[place] - at[other]) >= gap for other in kept):
            kept.append(place)
    axis.set_major_locator(FixedLocator(sorted(float(candidates[place]) for place in kept)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, at: "0" if zero is not None and math.isclose(value, zero) else tick_text(value, at))
    )
