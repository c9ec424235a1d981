"""Efficiency: loss against what was spent, in sequential FLOPs, total FLOPs, tokens and seconds of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.claims.findings import LEARNED
from bench.report.curves import Curve, loss_at, on_common_spends, spend_to
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, exhibit, uncounted
from bench.report.query import RUN, base, cells, curve_points, facts, number, varying
from bench.report.tables import in_order, with_ends, without_idle
from bench.report.words import sentences
from bench.results.frames import scale_of
from bench.statistics import SEEDS_FOR_AN_INTERVAL, band, mean_interval

TITLE = "Efficiency"
NAME, HEADING = "efficiency", "Loss against what was spent"
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
"""A share of the way from knowing only how common each label is to the best loss: methods that get so far set the
target."""
COST = "`measure: [cost]` in a grid, or `run GRID --measure cost`, brings FLOPs."
ABOUT = ["order", "length", "place", "grid", "task", "method", "setting"]


class Line(NamedTuple):
    """A method in a setting, without evaluations before anything was spent; losses in the task's unit."""

    about: dict[str, Any]  # who and where it is: `ABOUT`, unit, loss_floor, unigram_loss
    seeds: dict[str, list[Curve]]
    """For each currency the losses of the seeds, at what had been spent of it; NaN where that is not known."""
    common: dict[str, Curve]  # what `on_common_spends` makes of them

    def losses(self, at: int) -> np.ndarray:
        """The loss of each seed at one of its evaluations."""
        return np.array([loss[at] for _, loss in self.seeds["tokens"]])

    def mean(self, currency: str) -> Curve:
        """Spends and the mean loss there."""
        return self.common[currency][0], self.common[currency][1].mean(0)


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """A figure for every few tasks and a table of all; of finished runs in the default setting of their grids."""
    places: dict[int, list[Line]] = {}
    for line in _lines(data, comparable(cells(data))):
        places.setdefault(line.about["order"], []).append(line)
    if not places:
        brings = "`python run_bench.py run dynamics-small` brings some"
        yield Missing(NAME, HEADING, f"no finished run has a learning curve with its loss; {brings}")
        return
    table = pd.DataFrame([row for here in places.values() for row in _rows(here)])
    known = [name for name in CURRENCIES if table[name].notna().any()]
    costs = "" if {"sequential_flops", "flops"} <= set(known) else f"FLOPs are not known: {COST}"
    unknown = [str(name) for name in table if table[name].isna().all()]
    shown = without_idle(table.rename(columns={"place": "where"}), *dict.fromkeys(["order", "length", *unknown]))
    shown.insert(0, "task", shown.pop("task"))
    drawn = _drawn(table)
    pages = [part.tolist() for part in np.array_split(drawn, -(-len(drawn) // ROWS))]
    for turn, page in enumerate(pages, 1):
        kept = table if turn == 1 else table[table["order"].isin(page)]
        caption = "Loss on the test set against each currency, at the hardest setting of each task that was learned."
        yield exhibit(
            data,
            NAME if turn == 1 else f"{NAME}-{turn}",
            HEADING if len(pages) == 1 else f"{HEADING} ({turn} of {len(pages)})",
            sentences(caption, costs, uncounted(data.uncounted, kept)),
            kept,
            panels=[panel for order in page for panel in _panels(places[order], known)],
            across=len(known),
            table=shown if turn == 1 else None,
        )


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of `cells` that compare methods: no ablations, and of the model and budget that most of a place have."""
    kept = []
    for _, part in runs.groupby("order", sort=False):
        commonest = {name: part[name].map(repr).mode().iloc[0] for name in varying(part, ("model.", "training."))}
        for _, own in base(part).groupby("method", sort=False):
            for name, value in commonest.items():
                same = own[name].map(repr) == value
                own = own[same] if same.any() else own
            kept += own.index.tolist()
    return runs.loc[kept]


def _lines(data: Data, runs: pd.DataFrame) -> Iterator[Line]:
    """Every method and setting of every place, with its curve."""
    if runs.empty or data.curves.empty:
        return
    runs = runs[["id", "seed", *ABOUT]].merge(facts(data, "unit", "loss_floor", "unigram_loss"), on=RUN, how="left")
    spent = [f"spent.{name}" for name in CURRENCIES]
    points = curve_points(data, "unit_loss", *spent)
    points = points[np.isfinite(points["unit_loss"]) & (points["spent.tokens"] > 0)]
    points = points.drop_duplicates([*RUN, "spent.tokens"], keep="last").merge(runs, on=RUN)
    points = in_order(points, "order", "method", "setting", "seed", "spent.tokens")
    for key, part in points.groupby(ABOUT, sort=False, dropna=False):
        unit = next(iter(part["unit"].dropna()), "nats")
        levels = {name: number(part[name]).mean() * scale_of(unit) for name in ("loss_floor", "unigram_loss")}
        own = [run for _, run in part.groupby("id", sort=False)]
        seeds = {
            name: [(run[f"spent.{name}"].to_numpy(), run["unit_loss"].to_numpy()) for run in own] for name in CURRENCIES
        }
        common = {name: on_common_spends(curves) for name, curves in seeds.items()}
        yield Line({**dict(zip(ABOUT, key)), "unit": unit, **levels}, seeds, common)


# The table.


def _rows(here: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """A row per line: last loss, spends, spends until the target was reached, and losses at equal spends."""
    target = _target(here)
    equal = {
        name: min(line.mean(name)[0][-1] for line in here)
        for name in CURRENCIES
        if len(here) > 1 and all(len(line.mean(name)[0]) for line in here)
    }
    for line in here:
        loss = mean_interval(line.losses(-1))
        yield {
            **{name: line.about[name] for name in (*ABOUT, "unit")},
            **with_ends("loss", loss),
            **{"loss_floor": line.about["loss_floor"], "seeds": loss.n},
            **{name: float(np.mean([spent[-1] for spent, _ in curves])) for name, curves in line.seeds.items()},
            "target": target,
            **{f"{name}_to_target": spend_to(*line.mean(name), target) for name in CURRENCIES},
            **{f"loss_at_equal_{name}": loss_at(*line.mean(name), spend) for name, spend in equal.items()},
        }


def _target(here: Sequence[Line]) -> float:
    """The worst mean last loss of the lines that got at least `HALFWAY` to the best one, from the unigram model's loss,
    or where that is not known from their first.

    NaN where none learned: where the floor is known, the best has to be a fifth of the way to it.
    """
    first, last = ([float(line.losses(at).mean()) for line in here] for at in (0, -1))
    unigram = [line.about["unigram_loss"] for line in here]
    starts = [known if np.isfinite(known) else loss for known, loss in zip(unigram, first)]
    best = int(np.argmin(last))
    start, floor = starts[best], here[best].about["loss_floor"]
    if not start - last[best] > (LEARNED * (start - floor) if np.isfinite(floor) else 0):
        return math.nan
    return max(loss for loss, begin in zip(last, starts) if loss <= begin - HALFWAY * (begin - last[best]))


def _drawn(table: pd.DataFrame) -> list[int]:
    """The place that is drawn for each task, natural tasks first.

    It is one that compares methods, at which some method learned, with the most methods; of several such the hardest,
    which is the longest, then the last in its knobs.
    """
    by_place = table.groupby("order")
    places = by_place[["task", "unit", "length"]].first()
    places["methods"], places["learned"] = by_place["method"].nunique(), by_place["target"].count() > 0
    places = places.assign(compares=places["methods"] > 1, natural=places["unit"] != "bits").reset_index()
    hardest = places.sort_values(["compares", "learned", "methods", "length", "order"]).groupby("task").tail(1)
    return hardest.sort_values(["natural", "task"])["order"].tolist()


def _panels(here: Sequence[Line], known: Sequence[str]) -> Iterator[plot.Panel]:
    """A row of panels of one place, one for each currency."""
    about = here[0].about
    floors = [line.about["loss_floor"] for line in here if np.isfinite(line.about["loss_floor"])]
    levels = [plot.Level("floor (Bayes-optimal)", np.array(floors[:1]))] if floors else []
    for name in known:
        lines = [drawn for line in here if len((drawn := _line(here, line, name)).x)]
        title = about["place"] if name == known[0] else ""
        loss = f"loss ({about['unit']})"
        yield plot.Panel(title, CURRENCIES[name], loss, lines, levels if lines else (), ticks="log", note="not traced")


def _line(here: Sequence[Line], line: Line, currency: str) -> plot.Line:
    x, losses = line.common[currency]
    method, setting = line.about["method"], line.about["setting"]
    settings = [other.about["setting"] for other in here if other.about["method"] == method]
    word = plot.legend_name(method, setting if len(settings) > 1 else "")
    seeds = tuple(line.seeds[currency]) if 1 < len(losses) < SEEDS_FOR_AN_INTERVAL else ()
    return plot.Line(word, x, *band(losses), seeds, method, settings.index(setting))
