"""Efficiency: loss against what was spent, in sequential FLOPs, total FLOPs, tokens and seconds of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator
from scipy.stats import bootstrap

from bench.report import lines, style
from bench.report.claims.cells import config, curve_points, having, number
from bench.report.claims.findings import LEARNED
from bench.report.claims.growth import BITS
from bench.report.data import Data
from bench.report.dynamics import cells
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.statistics import RESAMPLES, SEEDS_FOR_AN_INTERVAL, mean_interval
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
ROWS = 3
"""Tasks in one figure."""
HALFWAY = 0.5
"""Of the way from knowing only how common each label is to the best loss: who gets there says what to reach."""
MARKS = 10
"""Markers on a line, or so."""
TICK_GAP = 0.24
"""Of these narrow axes: ticks closer than that are left out, as their numbers would touch."""
COST = "`measure: [cost]` in a grid, or `run GRID --measure cost`, brings FLOPs"


class Curve(NamedTuple):
    """One line: a method in a setting, without evaluations before anything was spent."""

    seeds: list[tuple[dict[str, np.ndarray], np.ndarray]]
    """Of each: what was spent at its evaluations, by currency, NaN where it is not known; its losses there."""
    common: dict[str, tuple[np.ndarray, np.ndarray]]
    """By currency, what `together` makes of them."""

    def spent(self, name: str) -> float:
        """At the end, mean over seeds."""
        return float(np.mean([spent[name][-1] for spent, _ in self.seeds]))

    @property
    def final(self) -> np.ndarray:
        """The last loss of each seed."""
        return np.array([loss[-1] for _, loss in self.seeds])

    @property
    def first(self) -> float:
        """The first loss, mean over seeds."""
        return float(np.mean([loss[0] for _, loss in self.seeds]))


Line = tuple[dict[str, Any], Curve]
"""Who and where it is, and its curve."""


def section(data: Data) -> Section:
    """A figure for every few tasks and a table of all; of finished runs at each field's commonest value."""
    found = list(_lines(data, base(cells(data))))
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


def _lines(data: Data, runs: pd.DataFrame) -> Iterator[Line]:
    """Every method and setting of every place, with its curve; losses in bits where the task's unit is that."""
    if runs.empty or data.curves.empty:
        return
    facts = having(data.results, "grid", "id", "reference", "unit", "loss_floor", "unigram_loss")
    facts = facts[~facts["reference"].eq(True)].drop_duplicates(["grid", "id"])
    about = ["order", "place", "grid", "task", "length", "method", "setting"]
    facts = facts[["grid", "id", "unit", "loss_floor", "unigram_loss"]]
    runs = runs[["id", "seed", *about]].merge(facts, on=["grid", "id"], how="left")
    spent = [f"spent.{name}" for name in CURRENCIES]
    points = curve_points(data, "loss", *spent)[["grid", "id", "loss", *spent]]
    points = points[np.isfinite(points["loss"]) & (points["spent.tokens"] > 0)]
    points = points.drop_duplicates(["grid", "id", "spent.tokens"], keep="last")
    points = points.merge(runs, on=["grid", "id"])
    points["rank"] = points["method"].map(style.order)
    points = points.sort_values(["order", "rank", "setting", "seed", "spent.tokens"], kind="stable")
    for key, part in points.groupby(about, sort=False, dropna=False):
        unit = next(iter(part["unit"].dropna()), "nats")
        scale = 1 / math.log(2) if unit == "bits" else 1.0
        levels = {name: number(part[name]).mean() * scale for name in ("loss_floor", "unigram_loss")}
        yield {**dict(zip(about, key)), "unit": unit, **levels}, _curve(part.assign(loss=part["loss"] * scale))


def _curve(part: pd.DataFrame) -> Curve:
    seeds = [
        ({name: one[f"spent.{name}"].to_numpy() for name in CURRENCIES}, one["loss"].to_numpy())
        for _, one in part.groupby("id", sort=False)
    ]
    return Curve(seeds, {name: together([(spent[name], loss) for spent, loss in seeds]) for name in CURRENCIES})


def together(seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Spends (n), and the losses (seeds, n) after them, of curves (spends, losses) whose evaluations may differ.

    The spends are those of all the evaluations, from where every curve has begun; between its own evaluations a curve
    is straight in the logarithm of the spend, and after its end it keeps its last loss. Empty where a spend is not
    known.
    """
    if not all((np.isfinite(x) & (x > 0)).all() for x, _ in seeds):
        return np.empty(0), np.empty((len(seeds), 0))
    common = np.unique(np.concatenate([x for x, _ in seeds]))
    common = common[common >= max(x[0] for x, _ in seeds)]
    return common, np.stack([np.interp(np.log(common), np.log(x), loss) for x, loss in seeds])


def loss_at(x: np.ndarray, loss: np.ndarray, spend: float) -> float:
    """The loss (n) after a spend, on straight lines in the logarithm of x (n, increasing).

    Before the first evaluation it is that one's, in favour of the method, as in claim 8.
    """
    return float(np.interp(math.log(spend), np.log(x), loss)) if len(x) else math.nan


def spend_to(x: np.ndarray, loss: np.ndarray, target: float) -> float:
    """The first spend at which the loss is at most the target, on straight lines in log x; NaN where it never is."""
    reached = np.flatnonzero(loss <= target)
    if not len(reached):
        return math.nan
    at = int(reached[0])
    if at == 0:
        return float(x[0])
    share = (loss[at - 1] - target) / (loss[at - 1] - loss[at])
    return float(x[at - 1] * (x[at] / x[at - 1]) ** share)


# The table.


def _rows(found: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """A row per line: its last loss, what it spent, and what until its mean curve first reached its place's target.

    And its loss at the largest spend that all lines of the place reached.
    """
    for order in dict.fromkeys(about["order"] for about, _ in found):
        here = [(about, curve) for about, curve in found if about["order"] == order]
        target = _target(here)
        means = [{name: (x, loss.mean(0)) for name, (x, loss) in curve.common.items()} for _, curve in here]
        equal = {
            name: min(mean[name][0][-1] for mean in means)
            for name in CURRENCIES
            if len(means) > 1 and all(len(mean[name][0]) for mean in means)
        }
        for (about, curve), mean in zip(here, means):
            names = {name: about[name] for name in ("order", "length", "place", "grid", "task", "method", "setting")}
            last = mean_interval(curve.final)
            yield {
                **names,
                **{"unit": about["unit"], "loss": last.mean, "loss_low": last.low, "loss_high": last.high},
                **{"loss_floor": about["loss_floor"], "seeds": last.n},
                **{name: curve.spent(name) for name in CURRENCIES},
                "target": target,
                **{f"{name}_to_target": spend_to(*mean[name], target) for name in CURRENCIES},
                **{f"loss_at_equal_{name}": loss_at(*mean[name], spend) for name, spend in equal.items()},
            }


def _target(here: Sequence[Line]) -> float:
    """The worst mean last loss of the lines that got at least `HALFWAY` to the best one, from the unigram model's loss,
    or where that is not known from their first.

    NaN where none learned: where the floor is known, the best has to be a fifth of the way to it.
    """
    last = [float(curve.final.mean()) for _, curve in here]
    starts = [about["unigram_loss"] if np.isfinite(about["unigram_loss"]) else curve.first for about, curve in here]
    best = int(np.argmin(last))
    start, floor = starts[best], here[best][0]["loss_floor"]
    if not start - last[best] > (LEARNED * (start - floor) if np.isfinite(floor) else 0):
        return math.nan
    return max(loss for loss, begin in zip(last, starts) if loss <= begin - HALFWAY * (begin - last[best]))


# Exhibits.


def _exhibits(data: Data, found: Sequence[Line], table: pd.DataFrame, known: Sequence[str]) -> Iterator[Exhibit]:
    looks = style.styles(data.methods)
    drawn = _drawn(table)
    pages = [part.tolist() for part in np.array_split(drawn, -(-len(drawn) // ROWS))]
    for turn, page in enumerate(pages, 1):
        shown = table[table["order"].isin(page)]
        kept = table if turn == 1 else shown
        yield Exhibit(
            NAME if turn == 1 else f"{NAME}-{turn}",
            TITLE if len(pages) == 1 else f"{TITLE} ({turn} of {len(pages)})",
            _clean(_caption(kept, shown, known) + lines.uncounted(data.uncounted, kept)),
            lines.ran(data, zip(kept["grid"], kept["task"])),
            _figure([one for one in found if one[0]["order"] in page], page, known, looks),
            _tidy(table) if turn == 1 else None,
            tuple(dict.fromkeys(kept["task"])),
            tuple(sorted(set(kept["method"]), key=style.order)),
        )


def _drawn(table: pd.DataFrame) -> list[int]:
    """Of each task the place that is drawn, natural tasks first.

    It is one that compares methods, at which some method learned, with the most methods; of several such the hardest,
    which is the longest, then the last in its knobs.
    """
    places = table.groupby("order").agg(
        task=("task", "first"),
        unit=("unit", "first"),
        length=("length", "first"),
        methods=("method", "nunique"),
        learned=("target", "count"),
    )
    places = places.assign(compares=places["methods"] > 1, learned=places["learned"] > 0).reset_index()
    hardest = places.sort_values(["compares", "learned", "methods", "length", "order"]).groupby("task").tail(1)
    return hardest.assign(natural=hardest["unit"] != "bits").sort_values(["natural", "task"])["order"].tolist()


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Without what is not known of any line, or the same for all."""
    idle = [str(name) for name in table if table[name].isna().all() or (table[name] == "").all()]
    idle += ["grid"] if len(set(table["grid"])) == 1 else []
    shown = table.drop(columns=list(dict.fromkeys(["order", "length", *idle]))).rename(columns={"place": "where"})
    return shown[["task", *(name for name in shown if name != "task")]]


# Words.


def _caption(table: pd.DataFrame, shown: pd.DataFrame, known: Sequence[str]) -> str:
    """Who is ahead at equal spend where the figure looks, and how often throughout the table; what is missing."""
    ahead = [
        f"{place}: {words}" for place, part in shown.groupby("place", sort=False) if (words := _ahead(part, known))
    ]
    text = "No setting has two methods to compare."
    if ahead:
        text = (
            f"Lowest loss, or within {BITS} of it, at the largest spend that all methods reached: {'; '.join(ahead)}."
        )
    places = table["order"].nunique()
    if places > shown["order"].nunique():
        counts = [f"per {CURRENCIES[name]} {count}" for name in known if (count := _counts(table, name))]
        text += f" Over all {places} settings of the table: {'; '.join(counts)}." if counts else ""
        text += " The figure shows the hardest setting of each task at which some method learned."
    if not set(TRACED) <= set(known):
        text += f" FLOPs are not known: {COST}."
    text += " The table's target is the worst last loss among methods that got at least halfway to the best"
    unreached = int(table.loc[table["target"].isna(), "order"].nunique())
    text += f"; at {unreached} of {places} settings none learned." if unreached else "."
    return f"{text} {lines.few_seeds(table['seeds'])}"


def _leaders(table: pd.DataFrame, currency: str) -> pd.DataFrame:
    """(order, method) of every place's lowest loss at equal spend, with those that are as low."""
    column = f"loss_at_equal_{currency}"
    known = having(table, column).dropna(subset=[column])
    best = known.groupby("order")[column].transform("min")
    return known.loc[known[column] <= best + BITS, ["order", "method"]].drop_duplicates()


def _ahead(part: pd.DataFrame, known: Sequence[str]) -> str:
    """`smt+dmt and bptt per training tokens, bptt per total FLOPs`, of one place; nothing where none is compared."""
    told: dict[str, list[str]] = {}
    compared = {name: " and ".join(_leaders(part, name)["method"]) for name in known}
    for name, who in compared.items():
        told.setdefault(who, []).append(CURRENCIES[name])
    told.pop("", None)
    if len(told) == 1 and "" not in compared.values():
        return f"{next(iter(told))} in every currency"
    return ", ".join(f"{who} per {' and '.join(names)}" for who, names in told.items())


def _counts(table: pd.DataFrame, currency: str) -> str:
    """`smt+dmt 3, bptt 5`: at how many places; nothing where none is compared."""
    ahead = _leaders(table, currency)["method"]
    if ahead.empty:
        return ""
    compared = table.loc[table[f"loss_at_equal_{currency}"].notna(), "method"]
    return ", ".join(f"{one} {(ahead == one).sum()}" for one in sorted(set(compared), key=style.order))


# Drawing.


def _figure(found: Sequence[Line], page: Sequence[int], known: Sequence[str], looks: dict[str, Style]) -> Figure:
    figure = Figure(figsize=(0.9 + 2.25 * len(known), 1.0 + 2.0 * len(page)), layout="constrained")
    grid = figure.subplots(len(page), len(known), sharey="row", squeeze=False)
    drawn: dict[str, Any] = {}
    for row, order in zip(grid, page):
        here = [(about, curve) for about, curve in found if about["order"] == order]
        for panel, name in zip(row, known):
            drawn |= _panel(panel, here, name, looks)
        row[0].set_title(_clean(here[0][0]["place"]), loc="left")
        row[0].set_ylabel(f"loss ({here[0][0]['unit']})")
        row[0].yaxis.set_major_locator(MaxNLocator(4))
    for name, panel in zip(known, grid[-1]):
        panel.set_xlabel(CURRENCIES[name])
    ranked = sorted(drawn, key=lambda words: (words not in looks, style.order(words)))
    lines.legend(figure, {words: drawn[words] for words in ranked}, most=5)
    return figure


def _panel(panel: Axes, here: Sequence[Line], name: str, looks: dict[str, Style]) -> dict[str, Any]:
    """Draw every line against one currency; returns them for the legend."""
    drawn: dict[str, Any] = {}
    methods = [about["method"] for about, _ in here]
    for place, (about, curve) in enumerate(here):
        (x, losses), method = curve.common[name], about["method"]
        if not len(x):
            continue
        look, dashes = looks[method], lines.VARIANTS[methods[:place].count(method) % len(lines.VARIANTS)]
        mark: dict[str, Any] = {"marker": look.marker, "ms": 3.5, "markevery": max(1, len(x) // MARKS)}
        (line,) = panel.plot(x, losses.mean(0), color=look.color, lw=1.5, ls=dashes, zorder=3, **mark)
        if len(losses) >= SEEDS_FOR_AN_INTERVAL:
            made = bootstrap((losses,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=0, axis=0)
            panel.fill_between(x, *made.confidence_interval, color=look.color, alpha=0.16, lw=0, zorder=2)
        elif len(losses) > 1:
            for spent, loss in curve.seeds:
                panel.plot(spent[name], loss, ls="", marker=look.marker, ms=2.5, mew=0, color=look.color, alpha=0.6)
        drawn[f"{method}, {about['setting']}" if methods.count(method) > 1 else method] = line
    floors = [about["loss_floor"] for about, _ in here if np.isfinite(about["loss_floor"])]
    if floors:
        panel.axhline(floors[0], color=GREY, lw=1.0, zorder=1)
        drawn["floor (Bayes-optimal)"] = Line2D([], [], color=GREY, lw=1.0)
    if any(len(curve.common[name][0]) for _, curve in here):
        style.logarithmic(panel.xaxis)
        _thin(panel.xaxis)
    else:
        panel.annotate("not traced", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        panel.set_xticks([])
    return drawn


def _thin(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10 .. that do not touch; powers of ten first."""
    low, high = np.log10(axis.get_view_interval())
    kept: list[float] = []
    for factor in (1, 5, 2):
        for power in range(math.floor(low), math.ceil(high)):
            at = power + math.log10(factor)
            if low <= at <= high and all(abs(at - other) >= TICK_GAP * (high - low) for other in kept):
                kept.append(at)
    axis.set_major_locator(FixedLocator([10**at for at in sorted(kept)]))
