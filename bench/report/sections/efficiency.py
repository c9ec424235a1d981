"""Efficiency: loss against what was spent, in sequential FLOPs, total FLOPs, tokens and seconds of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report import plot, style
from bench.report.claims.findings import LEARNED
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, exhibit, uncounted
from bench.report.query import RUN, base, cells, curve_points, having, number, varying, without_idle
from bench.report.words import few_seeds, sentences
from bench.results.frames import scale_of
from bench.statistics import SEEDS_FOR_AN_INTERVAL, band, mean_interval

NAME, TITLE = "efficiency", "Loss against what was spent"
CURRENCIES = {
    "sequential_flops": "sequential FLOPs",
    "flops": "total FLOPs",
    "tokens": "training tokens",
    "training_seconds": "seconds of training",
}
"""Columns `spent.*` of curves, and their names on axes."""
ROWS = 3
"""Tasks in one figure."""
HALFWAY = 0.5
"""Of the way from knowing only how common each label is to the best loss: who gets there says what to reach."""
COST = "`measure: [cost]` in a grid, or `run GRID --measure cost`, brings FLOPs."


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
    """A figure for every few tasks and a table of all; of finished runs in the default setting of their grids."""
    found = list(_lines(data, alike(cells(data))))
    if not found:
        reason = (
            "no finished run has a learning curve with its loss; `python run_bench.py run dynamics-small` brings some"
        )
        return Section("efficiency", "Efficiency", (Missing(NAME, TITLE, reason),))
    table = pd.DataFrame(_rows(found))
    known = [name for name in CURRENCIES if table[name].notna().any()]
    return Section("efficiency", "Efficiency", tuple(_exhibits(data, found, table, known)))


def alike(runs: pd.DataFrame) -> pd.DataFrame:
    """Of `cells`, those that compare methods: no ablations, and models and budgets as most runs of the place have them.

    A method that has none such keeps all that it has.
    """
    kept = []
    for _, part in runs.groupby("order", sort=False):
        commonest = {name: part[name].map(repr).mode().iloc[0] for name in varying(part, ("model.", "training."))}
        for _, own in base(part).groupby("method", sort=False):
            for name, value in commonest.items():
                same = own[name].map(repr) == value
                own = own[same] if same.any() else own
            kept += own.index.tolist()
    return runs.loc[kept]


# Curves.


def _lines(data: Data, runs: pd.DataFrame) -> Iterator[Line]:
    """Every method and setting of every place, with its curve; losses in the task's unit."""
    if runs.empty or data.curves.empty:
        return
    facts = having(data.results, *RUN, "reference", "unit", "loss_floor", "unigram_loss")
    facts = facts[~facts["reference"].eq(True)].drop_duplicates(RUN)[[*RUN, "unit", "loss_floor", "unigram_loss"]]
    about = ["order", "place", "grid", "task", "length", "method", "setting"]
    runs = runs[["id", "seed", *about]].merge(facts, on=RUN, how="left")
    spent = [f"spent.{name}" for name in CURRENCIES]
    points = curve_points(data, "unit_loss", *spent)[[*RUN, "unit_loss", *spent]]
    points = points[np.isfinite(points["unit_loss"]) & (points["spent.tokens"] > 0)]
    points = points.drop_duplicates([*RUN, "spent.tokens"], keep="last").merge(runs, on=RUN)
    points["rank"] = points["method"].map(style.order)
    points = points.sort_values(["order", "rank", "setting", "seed", "spent.tokens"], kind="stable")
    for key, part in points.groupby(about, sort=False, dropna=False):
        unit = next(iter(part["unit"].dropna()), "nats")
        levels = {name: number(part[name]).mean() * scale_of(unit) for name in ("loss_floor", "unigram_loss")}
        yield {**dict(zip(about, key)), "unit": unit, **levels}, _curve(part)


def _curve(part: pd.DataFrame) -> Curve:
    seeds = [
        ({name: one[f"spent.{name}"].to_numpy() for name in CURRENCIES}, one["unit_loss"].to_numpy())
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
    drawn = _drawn(table)
    pages = [part.tolist() for part in np.array_split(drawn, -(-len(drawn) // ROWS))]
    for turn, page in enumerate(pages, 1):
        kept = table if turn == 1 else table[table["order"].isin(page)]
        caption = "Loss on the test set against each currency, at the hardest setting of each task that was learned."
        costs = "" if {"sequential_flops", "flops"} <= set(known) else f"FLOPs are not known: {COST}"
        yield exhibit(
            data,
            NAME if turn == 1 else f"{NAME}-{turn}",
            TITLE if len(pages) == 1 else f"{TITLE} ({turn} of {len(pages)})",
            sentences(caption, costs, uncounted(data.uncounted, kept), few_seeds(kept["seeds"])),
            kept,
            panels=[panel for order in page for panel in _panels(found, order, known)],
            across=len(known),
            table=_tidy(table) if turn == 1 else None,
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
    """Without what is not known of any line."""
    gone = [str(name) for name in table if table[name].isna().all()]
    shown = without_idle(table.rename(columns={"place": "where"}), *dict.fromkeys(["order", "length", *gone]))
    return shown[["task", *(name for name in shown if name != "task")]]


def _panels(found: Sequence[Line], order: int, known: Sequence[str]) -> Iterator[plot.Panel]:
    """A row of panels, one for each currency."""
    here = [(about, curve) for about, curve in found if about["order"] == order]
    floors = [about["loss_floor"] for about, _ in here if np.isfinite(about["loss_floor"])]
    levels = [plot.Level("floor (Bayes-optimal)", np.array(floors[:1]))] if floors else []
    for name in known:
        lines = [line for line in (_line(here, about, curve, name) for about, curve in here) if len(line.x)]
        title = here[0][0]["place"] if name == known[0] else ""
        loss = f"loss ({here[0][0]['unit']})"
        yield plot.Panel(title, CURRENCIES[name], loss, lines, levels if lines else (), ticks="log", note="not traced")


def _line(here: Sequence[Line], about: dict[str, Any], curve: Curve, currency: str) -> plot.Line:
    x, losses = curve.common[currency]
    settings = [one["setting"] for one, _ in here if one["method"] == about["method"]]
    word = plot.who(about["method"], about["setting"] if len(settings) > 1 else "")
    few = 1 < len(losses) < SEEDS_FOR_AN_INTERVAL
    seeds = tuple((spent[currency], loss) for spent, loss in curve.seeds) if few else ()
    variant = settings.index(about["setting"])
    return plot.Line(word, x, *band(losses), seeds, about["method"], variant)
