"""The report: a pure function of results folders. It imports no task and no method, and runs nothing.

frame = summary("results/quick")                  one row per cell group, scored predictor and test length
print_summary(frame, rich.console.Console())
write("results/quick", "report")                  index.html, summary.csv, figures/*.png, tables/*.tex, ...
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from bench.drawing import drawing  # before anything that imports matplotlib
from bench.report import curves, formats, lines, page
from bench.report.data import Data
from bench.report.data import load as read
from bench.report.data import uncounted as not_counted
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.figures import _file_name
from bench.report.style import RC
from bench.report.tables import _clean, load, markdown, print_summary, streamed, summarise
from bench.results import Paths, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["print_summary", "summary", "uncounted", "write"]

T = TypeVar("T")

SECTIONS = {
    "complexity": "Cost of a training step and of inference",
    "synthetic": "Synthetic tasks",
    "lengths": "Length generalisation",
    "efficiency": "Efficiency",
    "scaling": "Scaling and compression",
    "dynamics": "Dynamics",
    "diagnosis": "Diagnosis",
    "samples": "Samples",
    "ablations": "Ablations",
    "claims": "Claims",
    "provenance": "Provenance",
}
"""Modules of this package with a function `section`, in the order of the page; each with the title of its place there
where it fails."""

DPI = 160
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": DPI, "metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}


def summary(paths: Paths) -> pd.DataFrame:
    """The table of results folders; `summarise` tells its columns. Raises `BadInput` when no run is there."""
    return summarise(load(paths))


def uncounted(path: Path | str) -> str:
    """A sentence on the operators that no rule counts in the traced steps of runs; nothing where there are none."""
    return lines.uncounted(not_counted(Path(path))).strip()


def write(paths: Paths, out: Path | str) -> list[Path]:
    """Write the whole report on one or several results folders below `out`.

    - index.html: everything, in one file that needs no other
    - summary.csv, summary.md, summary.tex, and a learning curve per task (PNG and PDF) beside them
    - figures/NAME.png and .pdf, tables/NAME.csv (every digit), .md and .tex (booktabs) for every other exhibit

    The same results give the same bytes. Every file is written whole or not at all. A part that cannot be made is named
    on the page with its reason. Returns what was written, the page first. Raises `BadInput` when nothing was found.
    """
    data = read([paths] if isinstance(paths, Path | str) else list(paths))
    frame = summarise(data.results) if len(data.results) else pd.DataFrame()
    made = _Made()
    judged = _attempt(lambda: import_module("bench.report.claims").judged(data), "claims", SECTIONS["claims"])
    with drawing(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # (in no font of this machine: drawn as a box)
        sections = [made.learning_curves(data, frame)]
        sections += [made.section(_section(name, title, data, judged)) for name, title in SECTIONS.items()]
    html = page.render(data, sections, judged, made.images, DPI)
    files = {"index.html": html.encode(), **made.files}
    for name, content in files.items():
        write_atomically(Path(out) / name, lambda handle: handle.write(content))  # noqa: B023 (called at once)
    return [Path(out) / name for name in files]


def _section(name: str, title: str, data: Data, judged: Any) -> Section:
    given = {"pairs": judged} if name == "claims" and not isinstance(judged, Missing) else {}
    made = _attempt(lambda: import_module(f"bench.report.{name}").section(data, **given), name, title)
    return Section(name, title, (made,)) if isinstance(made, Missing) else made


def _attempt(make: Callable[[], T], name: str, title: str) -> T | Missing:
    """What `make` returns, or why it could not: no part of the report may end the others."""
    try:
        return make()
    except Exception as error:
        line = _clean(next(iter(str(error).splitlines()), ""))
        return Missing(name, title, f"it could not be made from these results ({type(error).__name__}: {line})")


class _Made:
    """Files of the report by their names, and pictures for the page by exhibit. What cannot be made is Missing."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.images: dict[str, bytes] = {}
        self._taken = set(page.IDS)

    def learning_curves(self, data: Data, frame: pd.DataFrame) -> Section:
        """The first section, and summary.*: its figures stand beside these, which show them."""
        title = "Final scores and learning curves"
        drawn = _attempt(lambda: list(curves.exhibits(data.results, data.curves, frame)), "curves", title)
        found = [] if isinstance(drawn, Missing) else drawn
        if len(frame):
            links = {key: name for key, name, exhibit in found if exhibit.figure is not None}
            whole = Exhibit("summary", title, streamed(frame), "", table=curves.table(frame))
            texts = {
                "summary.csv": frame.to_csv(index=False),
                "summary.md": markdown(frame, data.results, links),
                "summary.tex": formats.latex(whole),
            }
            self.files |= {name: text.encode() for name, text in texts.items()}
        parts = [self._part(exhibit, partial(self._figure, path=name)) for _, name, exhibit in found]
        parts += [drawn] if isinstance(drawn, Missing) else []
        online = _attempt(
            lambda: import_module("bench.report.online").exhibits(data), "online", "Online loss and regret"
        )
        parts += [self._part(one, self._all) for one in ([online] if isinstance(online, Missing) else online)]
        return Section("summary", title, tuple(parts))

    def section(self, section: Section) -> Section:
        """The section with every exhibit's files made, and no two exhibits of one name."""
        return replace(section, exhibits=tuple(self._part(one, self._all) for one in section.exhibits))

    def _part(self, one: Exhibit | Missing, make: Callable[[Exhibit], None]) -> Exhibit | Missing:
        named = replace(one, name=_file_name(one.name, self._taken))
        if isinstance(named, Missing):
            return named
        failed = _attempt(lambda: make(named), named.name, named.title)
        return named if failed is None else failed

    def _all(self, exhibit: Exhibit) -> None:
        self._figure(exhibit, f"figures/{exhibit.name}")
        if exhibit.table is not None:
            kinds = {"csv": formats.csv(exhibit.table), "md": formats.markdown(exhibit), "tex": formats.latex(exhibit)}
            self.files |= {f"tables/{exhibit.name}.{kind}": text.encode() for kind, text in kinds.items()}

    def _figure(self, exhibit: Exhibit, path: str) -> None:
        if exhibit.figure is not None:
            saved = {kind: _saved(exhibit.figure, kind) for kind in FORMATS}
            self.files |= {f"{path}.{kind}": content for kind, content in saved.items()}
            self.images[exhibit.name] = page.quantised(saved["png"])


def _saved(figure: Figure, kind: str) -> bytes:
    file = BytesIO()
    figure.savefig(file, format=kind, **FORMATS[kind])
    figure.set_layout_engine("none")  # places are found; finding them again takes as long as drawing
    return file.getvalue()
