"""The first table: how well each method did at each task, beside what guessing, a shortcut and an oracle reach.

A row is a group of cells that differ in nothing but their seed, one scored predictor of theirs, and one test length.
Numbers are final ones, never maxima over training. Cells that are not done keep their row, with status and reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from bench.report import style
from bench.report.data import Data
from bench.report.published import published
from bench.report.query import Setting, label, remembered, settings, short_names
from bench.report.words import clean, sortable, whole_as_int
from bench.results import by_code
from bench.results.frames import scale_of
from bench.state import State
from bench.statistics import mean_interval

FACTS = ("chance", "shortcut", "accuracy_ceiling")
SPENT = ("steps", "tokens", "training_seconds")
COLUMNS = (
    *("method", "setting", "predictor", "reference", "length", "seeds"),
    *("accuracy", "accuracy_se", "accuracy_low", "accuracy_high", "start_accuracy", *FACTS),
    *("share_of_ceiling", "unit", "loss", "start_loss", "loss_floor", "loss_above_floor", "unigram_loss"),
    *("published", *SPENT, "predictor_parameters", "status", "reason"),
)
"""The columns of `summarise` that people read."""

READ = {
    *("id", "backbone", "predictor", "reference", "length", "accuracy", "start_accuracy", *FACTS, "shortcut_rule"),
    *("unit", "loss", "start_loss", "loss_floor", "unigram_loss", *SPENT, *(f"inherited.{name}" for name in SPENT)),
    *("compile_seconds", "predictor_parameters", "state", "reason", "seed", "progress", "uncounted", "digest"),
    "published",
}
"""Columns of results that it is made of, besides those of settings."""

Parts = list[tuple[tuple[str, str], pd.DataFrame]]


def order_of(grid: str, task: str, method: str, setting: Setting) -> tuple[Any, ...]:
    """Sorts rows by grid, task and the task's knobs, so that the methods to be compared stand together."""
    knobs = [sortable(value) for name, value in setting if name.startswith("task.")]
    others = [sortable(value) for name, value in setting if not name.startswith("task.")]
    return grid, task, knobs, style.order(method), others


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """One row per group of cells that differ by their seed alone, scored predictor and test length.

    Columns: grid, task, method, backbone, setting (in which config fields the group differs from others of its task and
    method; these fields follow as columns at the end), predictor, reference, length (of the test sequences), seeds (how
    many cells are in the means); accuracy, accuracy_se (from two seeds on), accuracy_low and accuracy_high (95 %
    bootstrap interval of the mean, from three seeds on); start_accuracy; chance, shortcut, shortcut_rule,
    accuracy_ceiling, share_of_ceiling; unit (nats or bits), and in it loss, start_loss, loss_floor, loss_above_floor,
    unigram_loss; published (a figure that another source has for the same row, and this source); steps (of the
    optimiser), tokens and training_seconds, what phases taken over by `init_from` had cost included; compile_seconds
    (in no other); predictor_parameters; status, reason. Accuracy and loss of a method that learns from streams are
    those on held-out streams with its memory carried on, and start_accuracy and start_loss those on sequences from
    their start; other methods have no such.
    """
    results = results.assign(published=published(results))
    at = settings(results)
    names = short_names(name for setting in at.values() for name, _ in setting)
    groups: dict[tuple[str, str, str, Setting], list[int]] = {}
    for row, (grid, name, task, method) in enumerate(
        zip(*(results[column] for column in ("grid", "id", "task", "method")))
    ):
        groups.setdefault((grid, task, method, at[grid, name]), []).append(row)
    rows = []
    results = results[[name for name in results if name in READ]]  # (taking rows of few columns is quick)
    for key in sorted(groups, key=lambda key: order_of(*key)):
        grid, task, method, setting = key
        cells = results.iloc[groups[key]]
        fields = {"grid": grid, "task": task, "method": method, "backbone": cells["backbone"].iloc[0]}
        rows += [
            {**fields, "setting": label(setting, names), **scores, **_status(cells), **dict(setting)}
            for scores in _scores(cells)
        ]
    frame = pd.DataFrame(rows)
    for name in names:
        frame[name] = frame[name].astype(object).map(whole_as_int)
    return frame


def _scores(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """A record per scored predictor and test length of one group; one without scores when none of it is done."""
    done = cells[cells["state"] == State.DONE]
    if done.empty:
        return [{"predictor": None, "reference": False, "length": float("nan"), "seeds": 0, **_means(cells, False)}]
    scored = done.groupby(["predictor", "reference", "length"], sort=False, dropna=False)
    return [
        {**dict(zip(("predictor", "reference", "length"), key)), "seeds": len(part), **_means(part, bool(key[1]))}
        for key, part in scored
    ]


def _means(part: pd.DataFrame, reference: bool) -> dict[str, Any]:
    """Means over the seeds of one predictor at one length; a reference line's own parameters are not known."""
    accuracies = part["accuracy"].dropna().to_numpy()
    interval, n = mean_interval(accuracies), len(accuracies)
    unit = next(iter(part["unit"].dropna()), None)
    losses = {name: part[name].mean() * scale_of(unit) for name in ("loss", "start_loss", "loss_floor", "unigram_loss")}
    spent = {name: (part[name] + part[f"inherited.{name}"].fillna(0)).mean() for name in SPENT}
    return {
        "accuracy": part["accuracy"].mean(),
        "accuracy_se": accuracies.std(ddof=1) / math.sqrt(n) if n > 1 else float("nan"),
        **{"accuracy_low": interval.low, "accuracy_high": interval.high},
        **{name: part[name].mean() for name in ("start_accuracy", "chance", "shortcut")},
        "shortcut_rule": next(iter(part["shortcut_rule"].dropna()), None),
        "accuracy_ceiling": part["accuracy_ceiling"].mean(),
        "share_of_ceiling": (part["accuracy"] / part["accuracy_ceiling"]).mean(),
        "unit": unit,
        **{name: losses[name] for name in ("loss", "start_loss", "loss_floor")},
        "loss_above_floor": (part["loss"] - part["loss_floor"]).mean() * scale_of(unit),
        "unigram_loss": losses["unigram_loss"],
        "published": next(iter(part["published"].dropna()), None),
        **spent,
        "compile_seconds": part["compile_seconds"].mean(),
        "predictor_parameters": float("nan") if reference else part["predictor_parameters"].mean(),
    }


def _status(cells: pd.DataFrame) -> dict[str, str]:
    """How many cells of the group are in which state, and why; and whether their means are over several codes."""
    runs = cells.drop_duplicates("id")
    counted = sorted(Counter(runs["state"]).items(), key=lambda item: (item[0] != State.DONE, item[0]))
    status = ", ".join(f"{count} {state}" for state, count in counted) if len(runs) > 1 else runs["state"].iloc[0]
    reasons: dict[str, list[str]] = {}
    columns = ("state", "reason", "seed", "progress", "uncounted")
    for state, reason, seed, progress, uncounted in zip(*(runs[name] for name in columns)):
        if state == State.RUNNING and pd.notna(progress):
            reason = f"{progress:.0%} of its budget used"
        elif state == State.DONE and pd.notna(uncounted) and uncounted:
            reason = f"its budget of FLOPs bought too much: no rule counts {uncounted}"
        if pd.notna(reason):
            reasons.setdefault(f"{state}: {reason}", []).append(f"{seed:g}" if isinstance(seed, int | float) else "?")
    texts = [f"{text} (seed {', '.join(seeds)})" if len(runs) > 1 else text for text, seeds in reasons.items()]
    if codes := by_code(dict(zip(runs["seed"].map(whole_as_int), runs["digest"]))):
        status += ", not by one code"
        texts.append(codes)
    return {"status": status, "reason": "; ".join(texts)}


@remembered
def first_table(data: Data) -> pd.DataFrame:
    """`summarise` of all results; empty where there are no runs."""
    return summarise(data.results) if len(data.results) else pd.DataFrame()


# Parts of it.


def by_task(frame: pd.DataFrame) -> Parts:
    """((grid, task), its rows), in order."""
    return list(frame.groupby(["grid", "task"], sort=False)) if len(frame) else []  # type: ignore[arg-type]


def table_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of `summarise` that people read, without those that are empty throughout."""
    empty = {name for name in frame if frame[name].isin([None, "", float("nan")]).all()}
    return frame[[name for name in ("grid", "task", *COLUMNS) if name not in empty]]


def heading(key: tuple[str, str], frame: pd.DataFrame) -> str:
    """A task, with its grid where there are several."""
    grid, task = key
    return clean(task if len(set(frame["grid"])) == 1 else f"{grid}: {task}")


def about(part: pd.DataFrame) -> str:
    """What the columns of one task's table mean there."""
    rules = _distinct(part["shortcut_rule"])
    units = _distinct(part["unit"])
    words = [f"shortcut: {' or '.join(rules)}"] if rules else []
    words += [f"loss in {' or '.join(units)} per scored token"] if units else []
    words += [streams] if (streams := streamed(part)) else []
    return clean("; ".join(words))


def _distinct(values: pd.Series) -> list[str]:
    return [str(value) for value in dict.fromkeys(values.dropna())]


def streamed(part: pd.DataFrame) -> str:
    """What the two scores of methods that learn from streams are; nothing where there is none."""
    methods = dict.fromkeys(part["method"][part["start_accuracy"].notna()])
    if not methods:
        return ""
    scores = "scores are on held-out streams, memory carried on; from start, and at other lengths: on whole sequences"
    return f"{', '.join(methods)}: {scores}"


def reasons(part: pd.DataFrame) -> Iterable[str]:
    """Each reason once, with the methods that it holds for."""
    by_reason: dict[str, dict[str, None]] = {}
    for method, setting, reason in zip(part["method"], part["setting"], part["reason"]):
        if reason:
            by_reason.setdefault(reason, {})[f"{method} ({setting})" if setting else method] = None
    return [clean(f"{', '.join(who)}: {reason}") for reason, who in by_reason.items()]
