"""What trained models write, an exhibit for each task: of each method's first seed, beside numbers of all seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, exhibit
from bench.report.query import base, cells, recorded
from bench.report.sections.dynamics import COMMAND
from bench.report.style import GREY, PURPLE
from bench.report.tables import in_order, tabulate
from bench.report.words import clean, sentences, whole_as_int

TITLE = "Samples"
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
METHOD = ["order", "place", "method", "setting"]


class Samples(NamedTuple):
    """A record's contents, checked."""

    kind: str
    written: list[Any] = []  # pictures (H, W), texts; of symbols none
    completed: list[tuple[Any, Any, Any]] = []  # (given, truth, written): of pictures `given` is how many rows were


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """Samples of the finished runs that have a samples.json, without ablations; pictures first."""
    runs = recorded(cells(data), data.samples, _read)
    runs = in_order(base(runs), "order", "method", "setting", "seed").rename(columns={"record": "samples"})
    shown = runs.loc[[row for row, samples in runs["samples"].items() if samples.written or samples.completed]]
    kinds = [list(KINDS).index(samples.kind) for samples in shown["samples"]]
    for place, ((_, task), part) in enumerate(shown.assign(kind=kinds).groupby(["kind", "task"], sort=True)):
        bad = int((runs["task"] == task).sum()) - len(part)
        caption, figure, table = KINDS[part["samples"].iloc[0].kind][1](part)
        words = sentences(caption, f"{bad} samples.json cannot be read." if bad else "")
        name = f"samples-{str(task).lower()}" if place else "samples"
        yield exhibit(data, name, f"Samples: {clean(task)}", words, part, figure=figure, table=table)
    if shown.empty:
        reason = f"{len(runs)} samples.json cannot be read" if len(runs) else "no finished run has written samples"
        yield Missing("samples", "Samples", f"{reason}; {COMMAND} makes some")


def _read(record: Any) -> Samples:
    """The record's contents; of kind "" and empty where it is damaged."""
    try:
        kind = str(record["kind"])
        written, completed = KINDS[kind][0](record)
        return Samples(kind, written, completed)
    except (KeyError, TypeError, ValueError):
        return Samples("")


def _named(run: Any, part: pd.DataFrame) -> dict[str, Any]:
    """What tells this run's rows of a table from others of the task: as little as does."""
    where = {"where": run["place"]} if len(set(part["order"])) > 1 else {}
    return where | {"method": run["method"]} | ({"setting": run["setting"]} if part["setting"].any() else {})


Made = tuple[str, Figure | None, pd.DataFrame]
"""A caption, a figure, a table."""
Read = tuple[list[Any], list[tuple[Any, Any, Any]]]
"""What was written freely, and completions."""


# Pictures.


def _read_pictures(record: dict[str, Any]) -> Read:
    entries = record["completed"]
    completed = [(int(entry["given"]), _picture(entry["truth"]), _picture(entry["written"])) for entry in entries]
    for given, truth, done in completed:
        if truth.shape != done.shape or not 0 <= given < len(truth):
            raise ValueError(f"{given} rows given of {truth.shape}, completed to {done.shape}")
    return [_picture(picture) for picture in record["written"]], completed


def _picture(levels: Any) -> np.ndarray:
    picture = np.array(levels, dtype=float)
    if picture.ndim != 2 or 0 in picture.shape or not np.isfinite(picture).all():
        raise ValueError(f"no picture: {picture.shape}")
    return picture


def _numbers(samples: Samples) -> dict[str, float]:
    """Ink, and errors over the pixels that were not given, in grey levels; the blank error is that of no ink."""
    rest = [(truth[given:], written[given:]) for given, truth, written in samples.completed]
    values = {
        "ink_written": [picture.mean() for picture in samples.written],
        "ink_test": [truth.mean() for _, truth, _ in samples.completed],
        "blank_error": [np.abs(truth).mean() for truth, _ in rest],
        "completion_error": [np.abs(written - truth).mean() for truth, written in rest],
    }
    return {name: float(np.mean(found)) if found else float("nan") for name, found in values.items()}


def _pictures(part: pd.DataFrame) -> Made:
    numbers = pd.DataFrame([_numbers(samples) for samples in part["samples"]], index=part.index)
    how = {str(name): "interval" if name == "completion_error" else "mean" for name in numbers}
    table = tabulate(part.join(numbers), METHOD, **how).rename(columns={"place": "where"})
    named = _named(part.iloc[0], part)
    first = part.drop_duplicates(METHOD)
    many = f" The figure shows {MOST_ROWS} of {len(first)} settings." if len(first) > MOST_ROWS else ""
    caption = (
        "Pictures written freely, and completions of what stands above the line, one of many that a model may draw. "
        f"Errors are in grey levels of {FULL} per pixel that was not given.{many}"
    )
    columns = [name for name in table if name in named or name not in ("order", "where", "setting")]
    return caption, _sheet(first.iloc[:MOST_ROWS], part), table[columns]


def _sheet(shown: pd.DataFrame, part: pd.DataFrame) -> Figure:
    """A row of pictures for each method; above it the true ones, unless the row above was completed from them too."""
    strips: list[tuple[str, list[np.ndarray], list[tuple[int, np.ndarray]]]] = []
    before: list[np.ndarray] = []
    for run in shown.to_dict("records"):
        _, written, completed = run["samples"]
        truths = [truth for _, truth, _ in completed[:COMPLETED]]
        if truths and not (len(truths) == len(before) and all(map(np.array_equal, truths, before))):
            strips.append(("test pictures", [], [(given, truth) for given, truth, _ in completed[:COMPLETED]]))
        before = truths or before
        words = "\n".join(clean(word) for word in _named(run, part).values() if word)
        strips.append((words, written[:WRITTEN], [(given, done) for given, _, done in completed[:COMPLETED]]))
    free = max(len(written) for _, written, _ in strips)
    after = free * (1 + GAP) + (2 * GAP if free else 0)
    across = after + max(len(done) for _, _, done in strips) * (1 + GAP) - GAP
    first = next(picture for _, written, done in strips for picture in [*written, *(drawn for _, drawn in done)])
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


# Texts and symbols.

FIELDS = ("given", "truth", "written")


def _read_texts(record: dict[str, Any]) -> Read:
    completed = [(entry["given"], entry["truth"], entry["written"]) for entry in record["completed"]]
    if not all(isinstance(text, str) for text in [*record["written"], *chain(*completed)]):
        raise TypeError("a text that is none")
    return list(record["written"]), completed


def _texts(part: pd.DataFrame) -> Made:
    rows = []
    for run in part.drop_duplicates(METHOD).to_dict("records"):
        texts = [("written", text) for text in run["samples"].written[:TEXTS]]
        for given, truth, written in run["samples"].completed[:TEXTS]:
            texts += [("given", given), ("continuation", written), ("truth", truth)]
        rows += [{**_named(run, part), "kind": kind, "text": text} for kind, text in texts]
    return "Texts written freely, and continuations of what was given beside how it goes on.", None, pd.DataFrame(rows)


def _read_symbols(record: dict[str, Any]) -> Read:
    completed = [tuple([int(symbol) for symbol in entry[name]] for name in FIELDS) for entry in record["completed"]]
    if any(len(set(map(len, entry))) > 1 for entry in completed):
        raise ValueError("a sequence and its answers of unlike lengths")
    return [], [(given, truth, written) for given, truth, written in completed]


def _symbols(part: pd.DataFrame) -> Made:
    rows = []
    for run in part.drop_duplicates(METHOD).to_dict("records"):
        for sequence in run["samples"].completed[:SEQUENCES]:
            scored = [truth == written for truth, written in zip(*sequence[1:]) if truth != UNSCORED]
            texts = (" ".join("." if symbol == UNSCORED else str(symbol) for symbol in symbols) for symbols in sequence)
            row = {"seed": whole_as_int(run["seed"]), **dict(zip(FIELDS, texts)), "right": sum(scored)}
            rows.append({**_named(run, part), **row, "scored": len(scored)})
    caption = "A dot stands where nothing is scored; truth and answer under a symbol are what follows upon it."
    return caption, None, pd.DataFrame(rows)


KINDS: dict[str, tuple[Callable[[dict[str, Any]], Read], Callable[[pd.DataFrame], Made]]] = {
    "image": (_read_pictures, _pictures),
    "text": (_read_texts, _texts),
    "symbols": (_read_symbols, _symbols),
}
"""How a record of each kind is read, and what is made of a task's."""
