"""Why networks that learn from a teacher's memories fail: four panels for each of the worst settings, a line for all.

The numbers are told in `bench.measure.diagnosis`.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.drawing import drawing
from bench.report import lines, style
from bench.report.claims.cells import keys
from bench.report.data import Data
from bench.report.dynamics import GROUP, _first_of, _groups, _tidy, _word, cells
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.style import GREY, RC, Style
from bench.report.tables import _clean
from bench.results import write_atomically

COMMAND = "`python run_bench.py run GRID --measure diagnosis`"
MOST_ROWS = 5
WIDE = 120
"""Characters of a title over four panels."""
SCORES = ("teacher", "one_step", "rollout", "ceiling", "chance")
BY_TIME = ("t", "teacher", "rollout", "error", "between", "spread")


class Found(NamedTuple):
    """A record's numbers, checked; gaps are NaN."""

    limit: str
    verdict: str
    scores: dict[str, float]
    by_time: dict[str, np.ndarray]  # each (n,)
    ahead: tuple[np.ndarray, np.ndarray]  # places, accuracy
    after: tuple[np.ndarray, np.ndarray]  # steps, accuracy


def section(data: Data) -> Section:
    """The diagnoses of finished runs, the settings whose rollout is worst first."""
    return Section("diagnosis", "Diagnosis", (_exhibit(data),))


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
        limit, verdict = (_clean(record[name]) for name in ("limit", "verdict"))
    except (KeyError, TypeError, ValueError):
        return None
    if len({one.shape for one in by_time.values()}) > 1 or by_time["t"].ndim != 1:
        return None
    if any(x.ndim != 1 or x.shape != y.shape for x, y in (ahead, after)):
        return None
    return Found(limit, verdict, scores, by_time, ahead, after)


def _exhibit(data: Data) -> Exhibit | Missing:
    name, title = "diagnosis", "What limits networks that learn from a teacher's memories"
    runs = cells(data)
    place_of = dict(zip(keys(runs), runs.index))
    found = {
        place_of[own_key]: one
        for run, record in data.diagnoses
        if (own_key := (run.get("grid"), run.get("id"))) in place_of and (one := _read(record))
    }
    if not found:
        return Missing(name, title, f"no finished run of a method with a teacher has a diagnosis; {COMMAND} makes them")
    own = runs.loc[sorted(found)]
    own = own.assign(**{score: [found[row].scores[score] for row in own.index] for score in SCORES})
    own = own.assign(left=_left(own), limit=[found[row].limit for row in own.index])
    table, worst = [], []
    for key, part in _groups(own, GROUP):
        row = part.sort_values(["left", "seed"], ascending=[False, True], kind="stable").index[0]
        limits = Counter(part["limit"]).most_common()
        told = ", ".join(limit if len(limits) == 1 else f"{limit} ({count})" for limit, count in limits)
        means = {score: part[score].mean() for score in SCORES}
        table.append({**key, **means, "limit": told, "verdict": found[row].verdict, "seeds": part["seed"].nunique()})
        worst.append(row)
    order = own.loc[worst].sort_values("left", ascending=False, kind="stable").index[:MOST_ROWS]
    shown = [row for row in worst if row in order]
    looks = style.styles(data.methods)
    rows = [
        (
            f"{run['place']}, {_word(run)}: {WORDS.get(found[row].limit, found[row].limit)}",
            found[row],
            looks[run["method"]],
        )
        for row, run in zip(shown, own.loc[shown].to_dict("records"))
    ]
    return Exhibit(
        name,
        title,
        _caption(own["limit"]) + _first_of(len(shown), len(worst), "settings, the worst"),
        lines.ran(data, zip(own["grid"], own["task"])),
        draw(rows),
        _tidy(pd.DataFrame(table)),
        tuple(dict.fromkeys(own["task"])),
        tuple(dict.fromkeys(own["method"])),
    )


def _left(own: pd.DataFrame) -> pd.Series:
    """What the rollout lacks of the ceiling, or of the teacher where that is not known, on the scale from chance."""
    reach = own["ceiling"].fillna(own["teacher"])
    return 1 - (own["rollout"] - own["chance"]) / (reach - own["chance"]).where(reach > own["chance"])


WORDS = {
    "solved": "solved",
    "teacher": "limited by the teacher",
    "follows": "as good as the teacher, with no ceiling known",
    "transition": "limited by single transitions",
    "drift": "limited by drift",
}


def _caption(limits: pd.Series) -> str:
    counts = Counter(limits)
    told = ", ".join(f"{counts[limit]} {words}" for limit, words in WORDS.items() if counts[limit])
    return (
        f"Of {len(limits)} runs: {told}. Panels and verdict are of the worst seed of a setting, other numbers means "
        "over seeds. From the left: accuracy of the teacher and of the rollout; of the decoder, at labels ahead of the "
        "memory that it reads; the error of one step beside the variance of the teacher's memories; accuracy after so "
        "many steps from the teacher's memory, the last of which is the rollout."
    )


def draw(rows: Sequence[tuple[str, Found, Style]]) -> Figure:
    """Four panels for each (title, numbers, look of the method)."""
    figure = Figure(figsize=(10.0, 0.9 + 2.0 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for four, (title, found, look) in zip(axes, rows):
        t, teacher, rollout, error, between, spread = (found.by_time[name] for name in BY_TIME)
        by_column, ahead, variance, after = four
        _score(by_column, t, teacher, GREY, "--")
        _score(by_column, t, rollout, look.color, "-")
        _score(ahead, *found.ahead, GREY, "--")
        for values, colour, dashes in ((spread, GREY, ":"), (between, GREY, "-"), (error, look.color, "-")):
            variance.plot(t, np.where(values > 0, values, np.nan), color=colour, ls=dashes, lw=1.4)
        if max(np.nanmax(np.append(values, 0.0)) for values in (spread, between, error)) > 0:
            style.logarithmic(variance.yaxis)
        _score(after, *found.after, look.color, "-")
        after.axhline(found.scores["teacher"], color=GREY, ls="--", lw=1.2)
        lines.spread(after.xaxis, found.after[0])
        for panel in (by_column, ahead, after):
            panel.axhline(found.scores["chance"], color=GREY, lw=0.8, ls=(0, (1, 3)))
            panel.set_ylim(-0.03, 1.05)
        for panel in (by_column, variance):
            panel.set_xlim(t.min() - 0.5, t.max() + 0.5)
        for panel in (by_column, ahead, variance):
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        by_column.set_ylabel("accuracy")
        variance.set_ylabel("MSE, variance")
        _title(by_column, title)
    for panel, words in zip(axes[-1], ("t (column)", "steps ahead of t", "t (column)", "steps from the teacher")):
        panel.set_xlabel(words)
    marks = {
        "the network (coloured)": Line2D([], [], color="black", lw=1.4),
        "teacher": Line2D([], [], color=GREY, ls="--", lw=1.4),
        "variance of memories": Line2D([], [], color=GREY, ls=":", lw=1.4),
        "between classes": Line2D([], [], color=GREY, lw=1.4),
        "chance": Line2D([], [], color=GREY, lw=0.8, ls=(0, (1, 3))),
    }
    lines.legend(figure, marks, most=5)
    return figure


def _title(panel: Axes, text: str) -> None:
    """A title that may be wider than its panel: the layout sees its height alone."""
    written = textwrap.wrap(_clean(text), WIDE)
    panel.set_title("\n".join(" " for _ in written), loc="left")
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    panel.annotate("\n".join(written), (0, 1), (0, 4), va="bottom", **place).set_in_layout(False)


def _score(panel: Axes, x: np.ndarray, accuracy: np.ndarray, colour: str, dashes: str) -> None:
    """A line through what is scored, with marks where there is little of it."""
    known = np.isfinite(accuracy)
    mark = "o" if known.sum() <= 12 else None
    panel.plot(x[known], accuracy[known], color=colour, ls=dashes, lw=1.4, marker=mark, ms=3.5, clip_on=False)


def save_png(record: dict[str, Any], method: str, path: Path) -> None:
    """The four panels of one record as a PNG file, written whole or not at all."""
    found = _read(record)
    assert found is not None
    with drawing(RC):
        figure = draw([(f"{method}: {found.verdict}", found, style.styles([method])[method])])
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))
