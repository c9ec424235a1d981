"""Efficiency: loss against what was spent, in sequential FLOPs, total FLOPs, tokens and seconds of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import bootstrap

from bench.report import lines, style
from bench.report.claims.cells import config, curve_points, having, number
from bench.report.claims.findings import LEARNED
from bench.report.claims.growth import BITS
from bench.report.data import Data
from bench.report.dynamics import cells
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.statistics import RESAMPLES, SEEDS_FOR_AN_INTERVAL
from bench.report.style import GREY, Style
from bench.report.tables import _clean

NAME, TITLE = "efficiency", "Loss against what was spent"
CURRENCIES = {
    "sequential_flops": "sequential FLOPs",
    "flops": "total FLOPs",
    "tokens": "training tokens",
    "training_seconds": "seconds of training",
}
"""Columns `spent.*` of curves, and their names on axes."""
TRACED = ("sequential_flops", "flops")
ROWS = 4
"""Tasks in one figure."""
COST = "`measure: [cost]` in a grid, or `run GRID --measure cost`, brings FLOPs"


class Curve(NamedTuple):
    """The mean over the seeds of one line, evaluation by evaluation, without those before anything was spent."""

    spent: dict[str, np.ndarray]
    """By currency; NaN where it is not known."""
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """95 % intervals; NaN for too few seeds."""
    single: np.ndarray
    """(seeds, evaluations)"""


def section(data: Data) -> Section:
    """A figure for every few tasks and a table of all; of finished runs at each field's commonest value."""
    runs = base(cells(data))
    found = list(_lines(data, runs))
    if not found:
        reason = (
            "no finished run has a learning curve with its loss; `python run_bench.py run dynamics-small` brings some"
        )
        return Section("efficiency", "Efficiency", (Missing(NAME, TITLE, reason),))
    table = pd.DataFrame(_rows(found))
    known = [name for name in CURRENCIES if table[name].notna().any()]
    return Section("efficiency", "Efficiency", tuple(_exhibits(data, found, table, known)))


def base(runs: pd.DataFrame) -> pd.DataFrame:
    """Of `cells`, those that compare methods: no ablations, and models and budgets as most runs of the place have them.

    A method that has none such keeps all that it has.
    """
    kept = []
    plain = runs.astype(object).where(runs.notna(), None)  # gaps are equal to one another
    for _, part in plain.groupby("order", sort=False):
        fields = config(part, ("model.", "training."))
        commonest = {name: part[name].map(repr).mode().iloc[0] for name in fields}
        for _, own in part[part["usual"].eq(True)].groupby("method", sort=False):
            for name, value in commonest.items():
                same = own[name].map(repr) == value
                own = own[same] if same.any() else own
            kept += own.index.tolist()
    return runs.loc[kept]


# Curves.


def _lines(data: Data, runs: pd.DataFrame) -> Iterator[tuple[dict[str, Any], Curve]]:
    """Every method and setting of every place, with its mean curve; losses in bits where the task's unit is that."""
    facts = having(data.results, "grid", "id", "reference", "unit", "loss_floor", "unigram_loss")
    facts = facts[~facts["reference"].eq(True)].drop_duplicates(["grid", "id"])
    about = ["order", "place", "grid", "task", "length", "method", "setting"]
    facts = facts[["grid", "id", "unit", "loss_floor", "unigram_loss"]]
    runs = runs[["id", "seed", *about]].merge(facts, on=["grid", "id"], how="left")
    spent = [f"spent.{name}" for name in CURRENCIES]
    points = curve_points(data, "loss", *spent)[["grid", "id", "loss", *spent]]
    points = points[np.isfinite(points["loss"]) & (points["spent.tokens"] > 0)]
    points["at"] = points.groupby(["grid", "id"]).cumcount()
    points = points.merge(runs, on=["grid", "id"])
    points["rank"] = points["method"].map(style.order)
    points = points.sort_values(["order", "rank", "setting", "seed", "at"], kind="stable")
    for key, part in points.groupby(about, sort=False, dropna=False):
        unit = next(iter(part["unit"].dropna()), "nats")
        scale = 1 / math.log(2) if unit == "bits" else 1.0
        levels = {name: number(part[name]).mean() * scale for name in ("loss_floor", "unigram_loss")}
        curve = _curve(part.assign(loss=part["loss"] * scale))
        yield {**dict(zip(about, key)), "unit": unit, **levels, "seeds": len(curve.single)}, curve


def _curve(part: pd.DataFrame) -> Curve:
    """The mean as far as all seeds reach."""
    end = part.groupby("id")["at"].max().min()
    part = part[part["at"] <= end]
    single = part.pivot_table(index="id", columns="at", values="loss").to_numpy(dtype=float)
    spent = part.groupby("at")[[f"spent.{name}" for name in CURRENCIES]].mean()
    low = high = np.full(single.shape[1], np.nan)
    if len(single) >= SEEDS_FOR_AN_INTERVAL:
        made = bootstrap((single,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=0, axis=0)
        low, high = made.confidence_interval
    return Curve({name: spent[f"spent.{name}"].to_numpy() for name in CURRENCIES}, single.mean(0), low, high, single)


def loss_at(x: np.ndarray, loss: np.ndarray, spend: float) -> float:
    """The loss (n) after a spend, on straight lines in the logarithm of x (n, increasing).

    Before the first evaluation it is that one's, in favour of the method, as in claim 8.
    """
    usable = np.isfinite(x) & (x > 0)
    x, loss = x[usable], loss[usable]
    return float(np.interp(math.log(spend), np.log(x), loss)) if len(x) else math.nan


def spend_to(x: np.ndarray, loss: np.ndarray, target: float) -> float:
    """The first spend at which the loss is at most the target, on straight lines in log x; NaN where it never is."""
    usable = np.isfinite(x) & (x > 0)
    x, loss = x[usable], loss[usable]
    reached = np.flatnonzero(loss <= target)
    if not len(reached):
        return math.nan
    at = int(reached[0])
    if at == 0:
        return float(x[0])
    share = (loss[at - 1] - target) / (loss[at - 1] - loss[at])
    return float(x[at - 1] * (x[at] / x[at - 1]) ** share)


# The table.


def _rows(found: Sequence[tuple[dict[str, Any], Curve]]) -> Iterator[dict[str, Any]]:
    """A row per line: its last loss, what it spent, what it had spent when it first reached the target of its place.

    And its loss at the largest spend that all lines of the place reached.
    """
    for order in dict.fromkeys(about["order"] for about, _ in found):
        here = [(about, curve) for about, curve in found if about["order"] == order]
        target = _target(here)
        common = {name: min(curve.spent[name][-1] for _, curve in here) for name in CURRENCIES}  # NaN if one is
        for about, curve in here:
            spends = {name: curve.spent[name][-1] for name in CURRENCIES}
            reach = {f"{name}_to_target": spend_to(curve.spent[name], curve.loss, target) for name in CURRENCIES}
            level = {
                f"loss_at_equal_{name}": loss_at(curve.spent[name], curve.loss, common[name])
                for name in CURRENCIES
                if len(here) > 1 and all(np.isfinite(curve.spent[name]).all() for _, curve in here)
            }
            last = {"loss": curve.loss[-1], "loss_low": curve.low[-1], "loss_high": curve.high[-1]}
            names = {name: about[name] for name in ("order", "place", "grid", "task", "method", "setting", "unit")}
            facts = {"loss_floor": about["loss_floor"], "seeds": about["seeds"]}
            yield {**names, **last, **facts, **spends, "target": target, **reach, **level}


def _target(here: Sequence[tuple[dict[str, Any], Curve]]) -> float:
    """The worst last loss of the lines that learned; NaN where none did.

    To learn is to get a fifth of the way or more from the unigram model's loss (where it is not known, from the first
    evaluation's) to the floor (where it is not known, to the best line's last loss).
    """
    last = [float(curve.loss[-1]) for _, curve in here]
    learned = []
    for (about, curve), loss in zip(here, last):
        floor = about["loss_floor"] if np.isfinite(about["loss_floor"]) else min(last)
        start = about["unigram_loss"] if np.isfinite(about["unigram_loss"]) else float(curve.loss[0])
        if start > floor and loss <= start - LEARNED * (start - floor):
            learned.append(loss)
    return max(learned, default=math.nan)


# Exhibits.


def _exhibits(
    data: Data,
    found: Sequence[tuple[dict[str, Any], Curve]],
    table: pd.DataFrame,
    known: Sequence[str],
) -> Iterator[Exhibit]:
    looks = style.styles(data.methods)
    drawn, places = _places(table)
    note = f" Of a task with several settings the figures show the largest: {len(drawn)} of {places} settings."
    pages = [part.tolist() for part in np.array_split(drawn, -(-len(drawn) // ROWS))]
    for turn, page in enumerate(pages, 1):
        kept = table if turn == 1 else table[table["order"].isin(page)]
        yield Exhibit(
            NAME if turn == 1 else f"{NAME}-{turn}",
            TITLE if len(pages) == 1 else f"{TITLE} ({turn} of {len(pages)})",
            _clean(_caption(kept, known) + (note if turn == 1 and len(drawn) < places else "")),
            lines.ran(data, zip(kept["grid"], kept["task"])),
            _figure([one for one in found if one[0]["order"] in page], page, known, looks),
            _tidy(table) if turn == 1 else None,
            tuple(dict.fromkeys(kept["task"])),
            tuple(sorted(set(kept["method"]), key=style.order)),
        )


def _places(table: pd.DataFrame) -> tuple[list[int], int]:
    """Of each (grid, task) the last place (the largest knobs), natural tasks first; and how many places there are.

    Places of a single line compare nothing, and are drawn only where there are no others.
    """
    found = table.groupby(["grid", "task", "order"]).agg(count=("method", "size"), unit=("unit", "first")).reset_index()
    found = found[found["count"] > 1] if (found["count"] > 1).any() else found
    last = found.sort_values("order").drop_duplicates(["grid", "task"], keep="last")
    last = last.assign(natural=last["unit"] != "bits").sort_values(["natural", "order"])
    return last["order"].tolist(), len(found)


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Without what is not known of any line, or the same for all."""
    idle = [str(name) for name in table if table[name].isna().all() or (table[name] == "").all()]
    idle += ["grid"] if len(set(table["grid"])) == 1 else []
    shown = table.drop(columns=list(dict.fromkeys(["order", *idle]))).rename(columns={"place": "where"})
    return shown[["task", *(name for name in shown if name != "task")]]


def _caption(table: pd.DataFrame, known: Sequence[str]) -> str:
    """How often each method is ahead at equal spend; and which currencies are missing."""
    words = [
        f"{CURRENCIES[name]} {counts}"
        for name in known
        if (counts := _ahead(table, f"loss_at_equal_{name}")) is not None
    ]
    text = "No setting has two methods to compare."
    if words:
        text = (
            f"Lowest loss, or within {BITS} of it, at the largest spend that all methods of a setting reached, out of "
            f"{table['order'].nunique()} settings: {'; '.join(words)}."
        )
    if not set(TRACED) <= set(known):
        text += f" FLOPs are not known: {COST}."
    text += " The table's target is the worst last loss among the methods that learned"
    unreached = int(table.loc[table["target"].isna(), "order"].nunique())
    text += f" (at {unreached} settings none did)." if unreached else "."
    return f"{text} {lines.few_seeds(table['seeds'])}"


def _ahead(table: pd.DataFrame, column: str) -> str | None:
    """`smt+dmt 3, bptt 5`: at how many settings; None where nothing can be compared."""
    known = table.dropna(subset=[column]) if column in table else table[:0]
    if known.empty:
        return None
    best = known.groupby("order")[column].transform("min")
    ahead = known[known[column] <= best + BITS].drop_duplicates(["order", "method"])["method"]
    return ", ".join(f"{one} {(ahead == one).sum()}" for one in sorted(set(known["method"]), key=style.order))


# Drawing.


def _figure(
    found: Sequence[tuple[dict[str, Any], Curve]], page: Sequence[int], known: Sequence[str], looks: dict[str, Style]
) -> Figure:
    figure = Figure(figsize=(0.9 + 2.25 * len(known), 0.9 + 2.0 * len(page)), layout="constrained")
    grid = figure.subplots(len(page), len(known), sharey="row", squeeze=False)
    drawn: dict[str, Any] = {}
    for name, panel in zip(known, grid[-1]):
        panel.set_xlabel(CURRENCIES[name])
    for row, order in zip(grid, page):
        here = [(about, curve) for about, curve in found if about["order"] == order]
        for panel, name in zip(row, known):
            drawn |= _panel(panel, here, name, looks)
        row[0].set_title(here[0][0]["place"], loc="left")
        row[0].set_ylabel(f"loss ({here[0][0]['unit']})")
        row[0].yaxis.set_major_locator(MaxNLocator(4))
    lines.legend(figure, drawn, most=5)
    return figure


def _panel(
    panel: Axes, here: Sequence[tuple[dict[str, Any], Curve]], name: str, looks: dict[str, Style]
) -> dict[str, Any]:
    """Draw every line against one currency; returns them for the legend."""
    drawn: dict[str, Any] = {}
    settings: dict[str, list[str]] = {}
    several = pd.Series([about["method"] for about, _ in here]).duplicated(keep=False)
    for (about, curve), variant in zip(here, several):
        x, look = curve.spent[name], looks[about["method"]]
        if not np.isfinite(x).any():
            continue
        others = settings.setdefault(about["method"], [])
        others.append(about["setting"])
        dashes = lines.VARIANTS[(len(others) - 1) % len(lines.VARIANTS)]
        (line,) = panel.plot(x, curve.loss, color=look.color, marker=look.marker, ms=3.5, lw=1.5, ls=dashes, zorder=3)
        panel.fill_between(x, curve.low, curve.high, color=look.color, alpha=0.16, lw=0, zorder=2)
        if 1 < len(curve.single) < SEEDS_FOR_AN_INTERVAL:
            for one in curve.single:
                panel.plot(x, one, ls="", marker=look.marker, ms=2.5, mew=0, color=look.color, alpha=0.6, zorder=3)
        words = f"{about['method']}, {about['setting']}" if variant else str(about["method"])
        drawn[words] = line
    floors = [about["loss_floor"] for about, _ in here if np.isfinite(about["loss_floor"])]
    if floors:
        panel.axhline(floors[0], color=GREY, lw=1.0, zorder=1)
        drawn["floor (Bayes-optimal)"] = Line2D([], [], color=GREY, lw=1.0)
    if any(np.isfinite(curve.spent[name]).any() for _, curve in here):
        style.logarithmic(panel.xaxis, most=4)
    else:
        panel.annotate("not traced", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        panel.set_xticks([])
    return drawn
