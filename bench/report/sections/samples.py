"""What trained models write: pictures and their completions, texts, answers to questions; an exhibit for each task.

Of every method the first seed is shown, baselines too; the numbers beside it are of all seeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.report import style
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, exhibit
from bench.report.query import base, cells, keys
from bench.report.sections.dynamics import COMMAND
from bench.report.style import GREY, PURPLE
from bench.report.words import clean, plain, sentences
from bench.statistics import mean_interval

WRITTEN, COMPLETED = 6, 4
"""Pictures of a method that are shown."""
TEXTS, SEQUENCES = 2, 3
"""Texts of each kind, and sequences, that are shown of a method."""
MOST_ROWS = 8
FULL = 255
"""The grey level of full ink."""
UNSCORED = -1
GAP = 0.14
"""Between pictures, in widths of a picture; three of them between those written freely and completions."""
METHOD = ["order", "method", "setting"]


class Samples(NamedTuple):
    """A record's contents, checked."""

    written: list[Any]
    """Pictures (H, W), texts; of symbols none."""
    completed: list[tuple[Any, Any, Any]]
    """(given, truth, written): of pictures `given` is how many rows were."""


def section(data: Data) -> Section:
    """Samples of the finished runs that have a samples.json, without ablations; pictures first."""
    runs = _readable(data)
    exhibits: list[Exhibit | Missing] = []
    taken: set[str] = set()
    for kind, (_, make) in KINDS.items():
        for task, part in runs[runs["kind"] == kind].groupby("task", sort=True):
            bad = int(((runs["task"] == task) & runs["samples"].isna()).sum())
            caption, figure, table = make(part)
            told = sentences(caption, f"{bad} samples.json cannot be read." if bad else "")
            named = _name(str(task), taken), f"Samples: {clean(task)}"
            exhibits.append(exhibit(data, *named, told, part, figure=figure, table=table))
    if not exhibits:
        reason = f"{len(runs)} samples.json cannot be read" if len(runs) else "no finished run has written samples"
        exhibits.append(Missing("samples", "Samples", f"{reason}; {COMMAND} makes some"))
    return Section("samples", "Samples", tuple(exhibits))


def _name(task: str, taken: set[str]) -> str:
    slug = re.sub("[^a-z0-9]+", "-", task.lower()).strip("-") or "task"
    base = name = f"samples-{slug}" if taken else "samples"
    while name in taken:
        name = f"{base}-{len(taken)}"
    taken.add(name)
    return name


def _readable(data: Data) -> pd.DataFrame:
    """The `cells` that have a record, in order, with its kind, temperature and `samples` (None: it is damaged)."""
    runs = cells(data)
    at = dict(zip(keys(runs), runs.index))
    records = {at[key]: one for run, one in data.samples if (key := (run.get("grid"), run.get("id"))) in at}
    own = runs.loc[list(records)]
    rank = {name: place for place, name in enumerate(sorted(set(own["method"]), key=style.order))}
    kinds = [str(record.get("kind")) for record in records.values()]
    own = own.assign(
        rank=own["method"].map(rank),
        kind=pd.Series(kinds, own.index, dtype=object),
        temperature=pd.Series([record.get("temperature") for record in records.values()], own.index, dtype=object),
        samples=pd.Series([_read(*pair) for pair in zip(kinds, records.values())], own.index, dtype=object),
    )
    own = base(own).sort_values(["order", "rank", "setting", "seed"], kind="stable")
    return own.assign(kind=own["kind"].where(own["samples"].notna(), None))


def _read(kind: str, record: dict[str, Any]) -> Samples | None:
    """None for a record that is damaged or empty."""
    try:
        samples = KINDS[kind][0](record)
    except (KeyError, TypeError, ValueError):
        return None
    return samples if samples.written or samples.completed else None


def _first_seeds(part: pd.DataFrame) -> pd.DataFrame:
    return part.drop_duplicates(METHOD)


def _who(run: Any, part: pd.DataFrame) -> dict[str, Any]:
    """What tells this run's rows of a table from others of the task: as little as does."""
    told = {"where": run["place"]} if len(set(part["order"])) > 1 else {}
    told["method"] = run["method"]
    return told | ({"setting": run["setting"]} if part["setting"].any() else {})


Made = tuple[str, Figure | None, pd.DataFrame]
"""A caption, a figure, a table."""


# Pictures.


def _read_pictures(record: dict[str, Any]) -> Samples:
    written = [_picture(one) for one in record["written"]]
    completed = [(int(one["given"]), _picture(one["truth"]), _picture(one["written"])) for one in record["completed"]]
    for given, truth, done in completed:
        if truth.shape != done.shape or not 0 <= given < len(truth):
            raise ValueError(f"{given} rows given of {truth.shape}, completed to {done.shape}")
    return Samples(written, completed)


def _picture(levels: Any) -> np.ndarray:
    picture = np.array(levels, dtype=float)
    if picture.ndim != 2 or 0 in picture.shape or not np.isfinite(picture).all():
        raise ValueError(f"no picture: {picture.shape}")
    return picture


def _error(samples: Samples) -> float:
    """Mean |written - truth| over the pixels that were not given, in grey levels."""
    return _over_the_rest(samples, lambda truth, written: np.abs(written - truth))


def _blank(samples: Samples) -> float:
    """The error of leaving them blank."""
    return _over_the_rest(samples, lambda truth, _: np.abs(truth))


def _over_the_rest(samples: Samples, value: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    values = [value(truth[given:], written[given:]).mean() for given, truth, written in samples.completed]
    return float(np.mean(values)) if values else float("nan")


def _ink(pictures: Sequence[np.ndarray]) -> float:
    return float(np.mean([one.mean() for one in pictures])) if pictures else float("nan")


def _pictures(part: pd.DataFrame) -> Made:
    rows = []
    for _, group in part.groupby(METHOD, sort=False):
        every = group["samples"].tolist()
        errors = mean_interval([_error(one) for one in every])
        means = {
            "ink_written": [_ink(one.written) for one in every],
            "ink_test": [_ink([truth for _, truth, _ in one.completed]) for one in every],
            "blank_error": [_blank(one) for one in every],
        }
        rows.append(
            {
                **_who(group.iloc[0], part),
                **{column: mean_interval(values).mean for column, values in means.items()},
                "completion_error": errors.mean,
                "completion_error_low": errors.low,
                "completion_error_high": errors.high,
                "seeds": errors.n,
            }
        )
    shown = _first_seeds(part)
    many = f" The figure shows {MOST_ROWS} of {len(shown)} settings." if len(shown) > MOST_ROWS else ""
    caption = (
        "Pictures written freely, and completions of what stands above the line; a completion is one of many that a "
        f"model may draw. Errors are in grey levels of {FULL} per pixel that was not given.{many}"
    )
    return (
        caption,
        _sheet([(run, run["samples"]) for _, run in shown.iloc[:MOST_ROWS].iterrows()], part),
        pd.DataFrame(rows),
    )


def _sheet(shown: Sequence[tuple[Any, Samples]], part: pd.DataFrame) -> Figure:
    """A row of pictures for each method; above it the true ones, unless the row above was completed from them too."""
    strips: list[tuple[str, list[np.ndarray], list[tuple[int, np.ndarray]]]] = []
    before: list[np.ndarray] = []
    for run, samples in shown:
        completed = samples.completed[:COMPLETED]
        truths = [truth for _, truth, _ in completed]
        if truths and not (len(truths) == len(before) and all(map(np.array_equal, truths, before))):
            strips.append(("test pictures", [], [(given, truth) for given, truth, _ in completed]))
        before = truths or before
        words = "\n".join(clean(one) for one in _who(run, part).values() if one)
        strips.append((words, samples.written[:WRITTEN], [(given, written) for given, _, written in completed]))
    free = max(len(written) for _, written, _ in strips)
    after = free * (1 + GAP) + (2 * GAP if free else 0)
    across = after + max(len(done) for _, _, done in strips) * (1 + GAP) - GAP
    first = next(picture for _, written, done in strips for picture in [*written, *(one for _, one in done)])
    height = first.shape[0] / first.shape[1]
    size = min(0.85, 8.6 / across)  # inches that a picture is wide
    figure = Figure(figsize=(across * size + 1.3, len(strips) * (height + GAP) * size + 0.4), layout="constrained")
    axes = figure.subplots()
    for row, (_, written, done) in enumerate(strips):
        top = row * (height + GAP)
        for place, picture in enumerate(written):
            _draw(axes, picture, place * (1 + GAP), top, height)
        for place, (given, picture) in enumerate(done):
            left, line = after + place * (1 + GAP), top + height * given / len(picture)
            _draw(axes, picture, left, top, height)
            if given:
                axes.plot([left - GAP / 3, left + 1 + GAP / 3], [line, line], color=PURPLE, lw=1.1, clip_on=False)
    axes.set_xlim(-0.02, across + 0.02)
    axes.set_ylim(len(strips) * (height + GAP) - GAP + 0.02, -0.02)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([row * (height + GAP) + height / 2 for row in range(len(strips))], [words for words, *_ in strips])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for left, head, column in ((0.0, "written freely", 1), (after, "completed below the line", 2)):
        filled = [row for row, strip in enumerate(strips) if strip[column]]
        if filled:
            at, offset = (left, filled[0] * (height + GAP)), (0, 3)
            axes.annotate(head, at, xytext=offset, textcoords="offset points", va="bottom", annotation_clip=False)
    return figure


def _draw(axes: Axes, picture: np.ndarray, left: float, top: float, height: float) -> None:
    """The picture in its frame, a unit wide; 255 is ink."""
    extent = (left, left + 1, top + height, top)
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=FULL, interpolation="nearest", extent=extent)
    axes.add_patch(Rectangle((left, top), 1, height, fill=False, edgecolor=GREY, lw=0.5))


# Texts.


def _read_texts(record: dict[str, Any]) -> Samples:
    completed = [(one["given"], one["truth"], one["written"]) for one in record["completed"]]
    written = list(record["written"])
    if not all(isinstance(text, str) for text in [*written, *(text for one in completed for text in one)]):
        raise TypeError("a text that is none")
    return Samples(written, completed)


def _texts(part: pd.DataFrame) -> Made:
    rows = []
    for _, one in _first_seeds(part).iterrows():
        told = [("written", text) for text in one["samples"].written[:TEXTS]]
        for given, truth, written in one["samples"].completed[:TEXTS]:
            told += [("given", given), ("continuation", written), ("truth", truth)]
        rows += [{**_who(one, part), "kind": kind, "text": text} for kind, text in told]
    return "Texts written freely, and continuations of what was given beside how it goes on.", None, pd.DataFrame(rows)


# Symbols.


def _read_symbols(record: dict[str, Any]) -> Samples:
    completed = [tuple([int(symbol) for symbol in one[name]] for name in FIELDS) for one in record["completed"]]
    if any(len(set(map(len, one))) > 1 for one in completed):
        raise ValueError("a sequence and its answers of unlike lengths")
    return Samples([], [(given, truth, written) for given, truth, written in completed])


FIELDS = ("given", "truth", "written")


def _right(truth: Sequence[int], written: Sequence[int]) -> tuple[int, int]:
    """How many scored symbols are right, and how many there are."""
    pairs = [pair for pair in zip(truth, written) if pair[0] != UNSCORED]
    return sum(one == other for one, other in pairs), len(pairs)


def _told(symbols: Sequence[int]) -> str:
    return " ".join("." if symbol == UNSCORED else str(symbol) for symbol in symbols)


def _symbols(part: pd.DataFrame) -> Made:
    rows = []
    for _, one in _first_seeds(part).iterrows():
        for sequence in one["samples"].completed[:SEQUENCES]:
            right, scored = _right(*sequence[1:])
            texts = dict(zip(FIELDS, map(_told, sequence)))
            rows.append({**_who(one, part), "seed": plain(one["seed"]), **texts, "right": right, "scored": scored})
    caption = "A dot stands where nothing is scored; truth and answer under a symbol are what follows upon it."
    return caption, None, pd.DataFrame(rows)


KINDS = {
    "image": (_read_pictures, _pictures),
    "text": (_read_texts, _texts),
    "symbols": (_read_symbols, _symbols),
}
"""How a record of each kind is read, and what is made of a task's."""
