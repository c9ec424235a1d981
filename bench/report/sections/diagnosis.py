"""Why networks that learn from a teacher's memories fail, as `bench.measure.diagnosis` found; panels of the worst."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, exhibit
from bench.report.query import GROUP, cells, recorded
from bench.report.style import styles
from bench.report.tables import tabulate, tidy
from bench.report.words import clean

TITLE = "Diagnosis"
COMMAND = "`python run_bench.py run GRID --measure diagnosis`"
MOST_ROWS = 3
SCORES = ("teacher", "one_step", "rollout", "ceiling", "chance")
BY_TIME = ("t", "teacher", "rollout", "error", "between", "spread")
LIMITS = {
    "solved": "solved",
    "teacher": "limited by the teacher",
    "follows": "as good as the teacher, with no ceiling known",
    "transition": "limited by single transitions",
    "drift": "limited by drift",
}


class Found(NamedTuple):
    """A record's numbers, checked; gaps are NaN."""

    limit: str
    verdict: str
    scores: dict[str, float]
    by_time: dict[str, np.ndarray]  # each (n,)
    ahead: tuple[np.ndarray, np.ndarray]  # places, accuracy
    after: tuple[np.ndarray, np.ndarray]  # steps, accuracy


def _read(record: Any) -> Found | None:
    """None where the record is damaged."""
    try:
        by_time = {name: np.array(record[name], dtype=float) for name in BY_TIME}
        ahead, after = (
            (np.array(record[name][x], dtype=float), np.array(record[name]["accuracy"], dtype=float))
            for name, x in (("ahead", "j"), ("after_steps", "k"))
        )
        values = {name: record["scores"][name] for name in SCORES}
        scores = {name: float("nan" if value is None else value) for name, value in values.items()}
        limit, verdict = (clean(record[name]) for name in ("limit", "verdict"))
    except (KeyError, TypeError, ValueError):
        return None
    if len({values.shape for values in by_time.values()}) > 1 or by_time["t"].ndim != 1:
        return None
    if any(x.ndim != 1 or x.shape != y.shape for x, y in (ahead, after)):
        return None
    return Found(limit, verdict, scores, by_time, ahead, after)


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """The diagnoses of finished runs, the settings whose rollout is worst first."""
    own = recorded(cells(data), data.diagnoses, _read)
    facts = [{**found.scores, "limit": found.limit, "verdict": found.verdict} for found in own["record"]]
    own = own.assign(**pd.DataFrame(facts, own.index, [*SCORES, "limit", "verdict"]))
    own = own.assign(left=_left(own)).sort_values(["left", "seed"], ascending=[False, True], kind="stable")
    worst = own.drop_duplicates(GROUP)  # of each setting
    shown = worst[:MOST_ROWS].sort_values(["order", "method", "setting"], kind="stable")
    panels = [
        panel
        for run in shown.to_dict("records")
        for panel in panels_of(
            f"{run['where']}: {LIMITS.get(run['limit'], run['limit'])}", run["record"], run["method"]
        )
    ]
    caption = (
        "Accuracy of teacher and rollout; of the decoder at labels ahead; the error of one step beside the variance of "
        "the teacher's memories; accuracy after so many steps from the teacher's memory. Panels are of the worst seed."
    )
    title = "What limits networks that learn from a teacher's memories"
    missing = f"no finished run of a method with a teacher has a diagnosis; {COMMAND} makes them"
    yield exhibit(data, "diagnosis", title, caption, own, missing, panels=panels, across=4, table=_table)


def _table(own: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, how many of them each limit has, and the verdict of the worst, which comes first."""
    limits = own.groupby(GROUP, dropna=False)["limit"].transform(_counted)
    how = {**dict.fromkeys(SCORES, "mean"), "limit": "first", "verdict": "first"}
    table = tidy(tabulate(own.assign(limit=limits), GROUP, **how))
    table["verdict"] = table.pop("verdict")  # to the end
    return table


def _counted(limits: pd.Series) -> str:
    counts = limits.value_counts()
    return ", ".join(str(limit) if len(counts) == 1 else f"{limit} ({count})" for limit, count in counts.items())


def _left(own: pd.DataFrame) -> pd.Series:
    """What the rollout lacks of the ceiling, or of the teacher where that is not known, on the scale from chance."""
    reach = own["ceiling"].fillna(own["teacher"])
    return 1 - (own["rollout"] - own["chance"]) / (reach - own["chance"]).where(reach > own["chance"])


def panels_of(title: str, found: Found, method: str) -> list[plot.Panel]:
    """The panels of one record; the first has the title, which is as wide as all."""
    t, teacher, rollout, error, between, spread = (found.by_time[name] for name in BY_TIME)
    chance = [plot.Level("chance", np.array([found.scores["chance"]]), dashes=":")]
    reached = plot.Level("teacher", np.array([found.scores["teacher"]]), dashes="--")
    scored = [_line(method, t, rollout, method), _line("teacher", t, teacher, reference=True)]
    variances = [
        _line(method, t, np.where(error > 0, error, np.nan), method),
        _line("variance between classes", t, np.where(between > 0, between, np.nan)),
        _line("variance of memories", t, np.where(spread > 0, spread, np.nan), kind="fit"),
    ]
    known = [line for line in variances if len(line.x)]
    ahead, after = [_line("teacher", *found.ahead, reference=True)], [_line(method, *found.after, method)]
    how: dict[str, Any] = {"ylim": (-0.03, 1.05)}
    return [
        plot.Panel(title, "t (column)", "accuracy", scored, chance, ticks="linear", **how),
        plot.Panel("", "steps ahead of t", "accuracy", ahead, chance, ticks="linear", **how),
        plot.Panel("", "t (column)", "MSE, variance", known, ticks="linear", ylog=True),
        plot.Panel("", "steps from the teacher", "accuracy", after, [*chance, reached], **how),
    ]


def _line(word: str, x: np.ndarray, y: np.ndarray, method: str = "", **how: Any) -> plot.Line:
    known = np.isfinite(y)
    return plot.Line(word, x[known], y[known], method=method, **how)


def save_png(record: dict[str, Any], method: str, path: Path) -> None:
    """Write the four panels of a record as a PNG file, whole or not at all."""
    found = _read(record)
    assert found is not None
    panels = panels_of(f"{method}: {found.verdict}", found, method)
    plot.save_png(lambda: plot.draw(panels, styles([method]), across=4), path)
