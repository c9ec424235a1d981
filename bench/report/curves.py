"""The first exhibits: for each task its learning curves, and a table of what every method reached at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from bench.report import figures
from bench.report.exhibit import Exhibit
from bench.report.tables import _about, _heading, _parts, _what

COLUMNS = [
    *("method", "setting", "predictor", "reference", "length", "seeds"),
    *("accuracy", "accuracy_se", "accuracy_low", "accuracy_high", "start_accuracy"),
    *("chance", "shortcut", "accuracy_ceiling"),
    *("share_of_ceiling", "unit", "loss", "start_loss", "loss_floor", "loss_above_floor", "unigram_loss"),
    *("steps", "tokens"),
    *("training_seconds", "predictor_parameters", "status", "reason"),
]
"""Of `summarise`, as far as they say something."""


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of `summarise` that people read, without those that are empty throughout."""
    kept = [name for name in ("grid", "task", *COLUMNS) if not frame[name].isin([None, "", float("nan")]).all()]
    return frame[kept]


def exhibits(
    results: pd.DataFrame, curves: pd.DataFrame, frame: pd.DataFrame
) -> Iterator[tuple[figures.Key, str, Exhibit]]:
    """For each (grid, task) of the summary `frame`: itself, a name for the files of its figure, the exhibit."""
    drawn = {key: (name, figure) for key, name, figure in figures.draw(results, curves)}
    runs = results.drop_duplicates(["grid", "id"])
    for number, (key, part) in enumerate(_parts(frame) if len(frame) else [], 1):
        name, figure = drawn.get(key, (f"task-{number}", None))
        own = runs[(runs["grid"] == key[0]) & (runs["task"] == key[1])]
        about = f" {_sentence(_about(part))}" if _about(part) else ""
        yield (
            key,
            name,
            Exhibit(
                f"curves-{name}",
                _heading(key, frame),
                f"{_reached(part)}{about}",
                f"{len(own)} {'cell' if len(own) == 1 else 'cells'} of {key[0]}: {_what(own) or 'config not known'}.",
                figure,
                table(part).drop(columns=["grid", "task"]),
                (key[1],),
                tuple(dict.fromkeys(part["method"])),
            ),
        )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _reached(part: pd.DataFrame) -> str:
    """Final accuracies, best first: of each method's trained predictor, the mean over its settings."""
    scored = part[(part["seeds"] > 0) & ~part["reference"]]
    means = scored.groupby("method")["accuracy"].mean().dropna().sort_values(ascending=False, kind="stable")
    if means.empty:
        return "No cell is done, so nothing is scored."
    words = ", ".join(f"{method} {accuracy:.3f}" for method, accuracy in means.items())
    settings = scored["setting"].nunique()
    over = f", mean over {settings} settings" if settings > 1 else ""
    ceilings = scored["accuracy_ceiling"].dropna().unique()
    ceiling = f"; the ceiling is {ceilings[0]:.3f}" if len(ceilings) == 1 else ""
    return f"Accuracy at the end of training{over}: {words}{ceiling}."
