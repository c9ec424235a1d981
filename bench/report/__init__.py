"""The report: a pure function of results folders. It imports no task and no method, and runs nothing.

frame = summary("results/quick")                  one row per cell group, scored predictor and test length
print_summary(frame, rich.console.Console())
write("results/quick", Path("report"))            summary.csv, summary.md and a figure per task
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context

from bench.report.figures import draw
from bench.report.style import RC
from bench.report.tables import load, markdown, print_summary, summarise
from bench.results import load_curves, write_atomically

__all__ = ["print_summary", "summary", "write"]

FORMATS: dict[str, dict[str, Any]] = {"png": {"dpi": 160}, "pdf": {"metadata": {"CreationDate": None}}}


def summary(path: Path | str) -> pd.DataFrame:
    """The table of a results folder; `summarise` tells its columns. Raises `BadInput` when no run is there."""
    return summarise(load(path))


def write(path: Path | str, out: Path | str) -> list[Path]:
    """Write summary.csv (full precision), summary.md and a figure per task (PNG and PDF) below `out`.

    Every file is written whole or not at all. Returns what was written. Raises `BadInput` when no run is there.
    """
    results, out = load(path), Path(out)
    frame = summarise(results)
    drawn: dict[tuple[str, str], str] = {}
    files = []
    with rc_context(RC):
        for key, name, figure in draw(results, load_curves(path)):
            drawn[key] = name
            for kind, options in FORMATS.items():
                file = out / f"{name}.{kind}"
                write_atomically(file, lambda handle: figure.savefig(handle, format=kind, **options))  # noqa: B023
                files.append(file)
    texts = {"summary.csv": frame.to_csv(index=False), "summary.md": markdown(frame, results, drawn)}
    for file_name, text in texts.items():
        write_atomically(out / file_name, lambda handle: handle.write(text.encode()))  # noqa: B023 (called at once)
    return [*(out / file_name for file_name in texts), *files]
