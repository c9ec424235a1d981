"""The report: a pure function of results folders. It imports no task and no method, and runs nothing.

frame = summary("results/quick")                  one row per cell group, scored predictor and test length
print_summary(frame, rich.console.Console())
write("results/quick", "report")                  index.html, summary.csv, figures/*.png, tables/*.tex, ...
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import pandas as pd

from bench.drawing import drawing  # before anything that imports matplotlib
from bench.report import exhibit, formats, page, plot, sections
from bench.report.data import Data, load, read_results
from bench.report.data import uncounted as not_counted
from bench.report.exhibit import Exhibit, Missing, Section, attempt
from bench.report.style import RC
from bench.report.summary import first_table, streamed, summarise, table_of
from bench.report.text import markdown, print_summary
from bench.report.words import file_name
from bench.results import Paths, write_atomically

__all__ = ["print_summary", "summary", "uncounted", "write"]

DPI = 144


def summary(paths: Paths) -> pd.DataFrame:
    """The table of results folders; `summarise` tells its columns. Raises `BadInput` when no run is there."""
    return summarise(read_results(paths))


def uncounted(path: Path | str) -> str:
    """A sentence on the operators that no rule counts in the traced steps of runs; nothing where there are none."""
    return exhibit.uncounted(not_counted(Path(path)))


def write(paths: Paths, out: Path | str) -> list[Path]:
    """Write the whole report on one or several results folders below `out`.

    - index.html: everything, in one file that needs no other
    - summary.csv, summary.md, summary.tex: the first table
    - figures/NAME.png and .pdf, tables/NAME.csv (every digit), .md and .tex (booktabs) for every exhibit

    The same results give the same bytes. Every file is written whole or not at all. A part that cannot be made is named
    on the page with its reason. Returns what was written, the page first. Raises `BadInput` when nothing was found.
    """
    data = load([paths] if isinstance(paths, Path | str) else list(paths))  # type: ignore[arg-type]
    files: dict[str, bytes] = {}
    taken = set(page.IDS)
    with drawing(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # (in no font of this machine: drawn as a box)
        made = [_made(sections.section(name, data), data, files, taken) for name in sections.names()]
    files = {"index.html": page.render(data, made, files, DPI).encode()} | _summary(data, made) | files
    for name, content in files.items():
        write_atomically(Path(out) / name, lambda handle: handle.write(content))  # noqa: B023 (called at once)
    return [Path(out) / name for name in files]


def _summary(data: Data, made: list[Section]) -> dict[str, bytes]:
    """The first table as files, beside the learning curves that belong to it."""
    frame = first_table(data)
    if frame.empty:
        return {}
    curves = [exhibit for section in made if section.name == "summary" for exhibit in section.exhibits]
    links = {
        (shown.grids[0], shown.tasks[0]): shown.name for shown in curves if isinstance(shown, Exhibit) and shown.panels
    }
    whole = Exhibit("summary", "Final scores", streamed(frame), "", table=table_of(frame))
    texts = {
        "summary.csv": formats.csv(frame),
        "summary.md": markdown(frame, data.results, links),
        "summary.tex": formats.latex(whole),
    }
    return {name: text.encode() for name, text in texts.items()}


def _made(section: Section, data: Data, files: dict[str, bytes], taken: set[str]) -> Section:
    """The section, with every exhibit's files made; no two exhibits have one name."""
    found: list[Exhibit | Missing] = []
    for made in section.exhibits:
        named = replace(made, name=file_name(made.name, taken))
        own = {} if isinstance(named, Missing) else attempt(partial(_files, named, data), named.name, named.title)
        found.append(own if isinstance(own, Missing) else named)
        files |= {} if isinstance(own, Missing) else own
    return replace(section, exhibits=tuple(found))


def _files(shown: Exhibit, data: Data) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    figure = plot.draw(shown.panels, data.looks, shown.across) if shown.panels else shown.figure
    if figure is not None:
        found[f"figures/{shown.name}.png"] = page.picture(figure, DPI)
        file = BytesIO()
        figure.set_layout_engine("none")  # places are found; finding them again takes as long as drawing
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        found[f"figures/{shown.name}.pdf"] = file.getvalue()
    if shown.table is not None:
        kinds = {"csv": formats.csv(shown.table), "md": formats.markdown(shown), "tex": formats.latex(shown)}
        found |= {f"tables/{shown.name}.{kind}": text.encode() for kind, text in kinds.items()}
    return found
