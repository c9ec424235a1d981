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
from bench.report import exhibit, formats, page, plot
from bench.report.data import Data, load, read_results
from bench.report.data import uncounted as not_counted
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.sections import TITLES
from bench.report.style import RC
from bench.report.summary import streamed, summarise, table_of
from bench.report.text import markdown, print_summary
from bench.report.words import clean, file_name
from bench.results import Paths, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["print_summary", "summary", "uncounted", "write"]

T = TypeVar("T")

CLAIMS, CURVES = "Claims", "Final scores and learning curves"
DPI = 160
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": DPI, "metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}


def summary(paths: Paths) -> pd.DataFrame:
    """The table of results folders; `summarise` tells its columns. Raises `BadInput` when no run is there."""
    return summarise(read_results(paths))


def uncounted(path: Path | str) -> str:
    """A sentence on the operators that no rule counts in the traced steps of runs; nothing where there are none."""
    return exhibit.uncounted(not_counted(Path(path)))


def write(paths: Paths, out: Path | str) -> list[Path]:
    """Write the whole report on one or several results folders below `out`.

    - index.html: everything, in one file that needs no other
    - summary.csv, summary.md, summary.tex, and a learning curve per task (PNG and PDF) beside them
    - figures/NAME.png and .pdf, tables/NAME.csv (every digit), .md and .tex (booktabs) for every other exhibit

    The same results give the same bytes. Every file is written whole or not at all. A part that cannot be made is named
    on the page with its reason. Returns what was written, the page first. Raises `BadInput` when nothing was found.
    """
    data = load([paths] if isinstance(paths, Path | str) else list(paths))  # type: ignore[arg-type]
    frame = summarise(data.results) if len(data.results) else pd.DataFrame()
    made = _Made(data)
    claims = partial(import_module, "bench.report.claims")
    judged = _attempt(lambda: claims().judged(data), "claims", CLAIMS)
    with drawing(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # (in no font of this machine: drawn as a box)
        found = {name: made.section(_section(name, title, data)) for name, title in TITLES.items()}
        verdicts = _attempt(
            lambda: claims().section(data, None if isinstance(judged, Missing) else judged), "claims", CLAIMS
        )
        found["claims"] = made.section(
            Section("claims", CLAIMS, (verdicts,)) if isinstance(verdicts, Missing) else verdicts
        )
        found["summary"] = made.learning_curves(frame)
    first = ("synthetic", "complexity", "efficiency")
    rest = (name for name in TITLES if name not in (*first, "provenance"))
    order = [*first, "claims", *rest, "summary", "provenance"]
    sections = [found[name] for name in order if name in found and (found[name].exhibits or name == "summary")]
    html = page.render(data, sections, judged, made.images, DPI)
    beside = sorted(made.files, key=lambda name: ("/" in name, not name.startswith("summary.")))
    files = {"index.html": html.encode(), **{name: made.files[name] for name in beside}}
    for name, content in files.items():
        write_atomically(Path(out) / name, lambda handle: handle.write(content))  # noqa: B023 (called at once)
    return [Path(out) / name for name in files]


def _section(name: str, title: str, data: Data) -> Section:
    made = _attempt(lambda: import_module(f"bench.report.sections.{name}").section(data), name, title)
    return Section(name, title, (made,)) if isinstance(made, Missing) else made


def _attempt(make: Callable[[], T], name: str, title: str) -> T | Missing:
    """What `make` returns, or why it could not: no part of the report may end the others."""
    try:
        return make()
    except Exception as error:
        line = clean(next(iter(str(error).splitlines()), ""))
        return Missing(name, title, f"it could not be made from these results ({type(error).__name__}: {line})")


class _Made:
    """Files of the report by their names, and pictures for the page by exhibit. What cannot be made is Missing."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.files: dict[str, bytes] = {}
        self.images: dict[str, bytes] = {}
        self._taken = set(page.IDS)

    def learning_curves(self, frame: pd.DataFrame) -> Section:
        """Final scores and curves, and summary.*: the figures stand beside these, which show them."""
        curves = import_module("bench.report.sections.curves")
        drawn = _attempt(lambda: curves.exhibits(self.data, frame), "curves", CURVES)
        found = [] if isinstance(drawn, Missing) else drawn
        if len(frame):
            links = {key: name for key, name, one in found if one.panels}
            whole = Exhibit("summary", CURVES, streamed(frame), "", table=table_of(frame))
            texts = {
                "summary.csv": formats.csv(frame),
                "summary.md": markdown(frame, self.data.results, links),
                "summary.tex": formats.latex(whole),
            }
            self.files |= {name: text.encode() for name, text in texts.items()}
        parts = [self._part(one, partial(self._figure, path=name)) for _, name, one in found]
        return Section("summary", CURVES, (*parts, *([drawn] if isinstance(drawn, Missing) else [])))

    def section(self, section: Section) -> Section:
        """The section with every exhibit's files made, and no two exhibits of one name."""
        return replace(section, exhibits=tuple(self._part(one, self._all) for one in section.exhibits))

    def _part(self, one: Exhibit | Missing, make: Callable[[Exhibit], None]) -> Exhibit | Missing:
        named = replace(one, name=file_name(one.name, self._taken))
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
        figure = exhibit.figure
        if exhibit.panels:
            figure = plot.draw(exhibit.panels, self.data.looks, exhibit.across)
        if figure is not None:
            saved = {kind: _saved(figure, kind) for kind in FORMATS}
            self.files |= {f"{path}.{kind}": content for kind, content in saved.items()}
            self.images[exhibit.name] = page.quantised(saved["png"])


def _saved(figure: Figure, kind: str) -> bytes:
    file = BytesIO()
    figure.savefig(file, format=kind, **FORMATS[kind])
    figure.set_layout_engine("none")  # places are found; finding them again takes as long as drawing
    return file.getvalue()
