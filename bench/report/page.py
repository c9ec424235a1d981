"""The page: everything of a report in one HTML file, which asks the network for nothing.

Text of any origin passes jinja2's autoescaping; a Content-Security-Policy forbids requests, and scripts but its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.report import formats, overview, style
from bench.report.claims import Claim, Verdict, judged
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, attempt, command
from bench.report.query import one_per_run
from bench.report.sections import LAST
from bench.report.words import clean, count, counted, file_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS_WHOLE = 200
"""A table with more rows than this is not whole on the page; the rest is in its CSV."""
ROWS_SHOWN = 50
"""The rows of such a table that the page shows."""
ROWS_OPEN = 12
"""A table beside a figure with no more rows than this stands open."""
BYTES_EMBEDDED = 30_000
"""CSV files above this size are not embedded; the page names them."""

IDS = ("main", "filter", "theme", "shown", "reset", "overview", "answer", "large")
"""Anchors of the page's own, which no exhibit may have."""

VERDICTS = {"supported": "✓", "contradicted": "✗", "mixed": "±", "inconclusive": "?", "not tested": "○"}
"""Every verdict with its symbol, so that no reader depends on its colour."""


class Row(NamedTuple):
    """A row of a table on the page, and what the filter finds it by."""

    cells: list[tuple[str, str | None]]  # text, and what it sorts by where the text does not say so
    task: str | None
    method: str | None


class Table(NamedTuple):
    """A table on the page."""

    columns: list[formats.Shown]
    rows: list[Row]  # the first of them
    length: int
    csv: str | None  # as a data: URI; None when it is too large to be embedded


class Image(NamedTuple):
    """A figure on the page."""

    uri: str
    width: int
    height: int  # in pixels of the page: a figure is as wide as it would be on paper, where there is room


def render(data: Data, sections: Sequence[Section], files: Mapping[str, bytes], dpi: int) -> str:
    """The whole page. `files` holds figures/NAME.png at `dpi` for every exhibit with a figure."""
    script, sheet = _part("page.js"), _part("page.css")
    environment = Environment(loader=PackageLoader("bench", "report"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    sections = [section for section in sections if section.exhibits or section.name == "claims"]
    exhibits = [exhibit for section in sections for exhibit in section.exhibits]
    whole = [exhibit for exhibit in exhibits if isinstance(exhibit, Exhibit)]
    pictures = {exhibit.name: files[name] for exhibit in exhibits if (name := f"figures/{exhibit.name}.png") in files}
    answers = attempt(lambda: overview.main(overview.compared(data)), "main", "")
    verdicts = attempt(lambda: _judged(judged(data)), "claims", "")
    return environment.get_template("page.html.j2").render(
        title=_title(data),
        about=_about(data),
        facts=_facts(data),
        sections=sections,
        anchors={exhibit.name for exhibit in exhibits},
        images={name: _image(png, dpi) for name, png in pictures.items()},
        tables={exhibit.name: _table(exhibit.table) for exhibit in whole if exhibit.table is not None},
        is_missing=lambda exhibit: isinstance(exhibit, Missing),
        main=None if isinstance(answers, Missing) or not answers.rows else answers,
        made_by=_made_by,
        judged=None if isinstance(verdicts, Missing) else verdicts,
        unjudged=verdicts.reason if isinstance(verdicts, Missing) else None,
        verdicts=VERDICTS,
        folded=LAST,
        tasks=sorted({task for exhibit in whole for task in exhibit.tasks}),
        methods=sorted({method for exhibit in whole for method in exhibit.methods}, key=style.order),
        looks=data.looks,
        rows_open=ROWS_OPEN,
        clean=clean,
        words=_words,
        listed=lambda names: json.dumps([clean(name) for name in names]),
        script=script,
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        sheet=sheet,
    )


def _made_by(grids: Sequence[str]) -> list[str]:
    """The commands that make the data of grids, of which one is traced and not trained."""
    return ["python run_bench.py cost complexity" if grid == "complexity" else command(grid) for grid in grids]


def _words(text: str) -> Markup:
    """Plain text, escaped; what stands in backquotes is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(clean(text)))))


def _part(name: str) -> str:
    return (files("bench.report") / name).read_text(encoding="utf-8")


# What stands at the top.


def _title(data: Data) -> str:
    return clean(", ".join(data.names[:4]) + (f" and {len(data.names) - 4} more" if len(data.names) > 4 else ""))


def _about(data: Data) -> str:
    """One line: what the numbers of this page come from."""
    runs = one_per_run(data)
    if runs.empty:
        return "Measured costs alone; nothing was trained for them."
    states = Counter(runs["state"])
    done = states.pop("done", 0)
    others = "".join(f", {count:,} {state}" for state, count in sorted(states.items()))
    return clean(f"{counted(len(runs), 'cell')} of {counted(runs['grid'].nunique(), 'grid')}: {done:,} done{others}.")


def _facts(data: Data) -> list[tuple[str, str]]:
    """Key numbers, each with what it counts."""
    runs = one_per_run(data)
    done = runs[runs["state"] == "done"]
    if done.empty:
        return []
    seconds, tokens = done["training_seconds"].sum(), done["tokens"].sum()
    return [
        (f"{len(done):,} / {len(runs):,}", "cells done"),
        (str(done["task"].nunique()), "tasks"),
        (str(done["method"].nunique()), "methods"),
        (str(done["seed"].nunique()), "seeds"),
        (_duration(seconds), "of training"),
        (count(tokens), "tokens drawn"),
    ]


def _duration(seconds: float) -> str:
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= size)
    return f"{seconds / (size or 1):.3g} {unit}"


# Claims.


class Judged(NamedTuple):
    """A claim as the page shows it."""

    claim: Claim
    found: Verdict
    anchor: str
    table: Table | None


def _judged(pairs: Sequence[tuple[Claim, Verdict]]) -> list[Judged]:
    taken: set[str] = set()
    tables = (None if found.numbers.empty else _table(found.numbers) for _, found in pairs)
    return [Judged(*pair, file_name(f"claim-{pair[0].key}", taken), table) for pair, table in zip(pairs, tables)]


# Figures and tables.


def _image(png: bytes, dpi: int) -> Image:
    """The same pixels as WebP, which takes three quarters of the space."""
    from PIL import Image as Pillow

    file = BytesIO()
    with Pillow.open(BytesIO(png)) as image:
        width, height = (round(size * 96 / dpi) for size in image.size)
        image.convert("RGB").save(file, "webp", lossless=True, method=2, quality=50)
    return Image(f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}", width, height)


def picture(figure: Figure, dpi: int) -> bytes:
    """The figure as a PNG with a palette of 256 colours, which looks the same and takes half of the space."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image as Pillow

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = Pillow.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = BytesIO()
    colours = whole.quantize(256, method=Pillow.Quantize.MEDIANCUT, dither=Pillow.Dither.NONE)
    colours.save(file, "png", dpi=(dpi, dpi))
    return file.getvalue()


def _key(text: str, key: float | None) -> str | None:
    """What a cell sorts by, in seven digits, unless its text says it: a page has tens of thousands of them."""
    if key is None:
        return None
    short = f"{key:.7g}"
    return None if re.fullmatch("-?[0-9.]+", text) and float(text) == float(short) else short


def _table(table: pd.DataFrame) -> Table:
    part = table if len(table) <= ROWS_WHOLE else table.iloc[:ROWS_SHOWN]
    columns = formats.shown(part)
    keyed = ((column.texts, column.keys or [None] * len(column.texts)) for column in columns)
    cells = zip(*(zip(texts, map(_key, texts, keys)) for texts, keys in keyed))
    named = part.reindex(columns=["task", "method"]).astype(object)
    tasks, methods = ([None if pd.isna(value) else str(value) for value in named[name]] for name in named)
    rows = [Row(list(row), task, method) for row, task, method in zip(cells, tasks, methods)]
    content = formats.csv(table).encode()
    uri = f"data:text/csv;charset=utf-8;base64,{b64encode(content).decode()}"
    return Table(columns, rows, len(table), uri if len(content) <= BYTES_EMBEDDED else None)
