"""`cost` and `sample`: the cost of methods, and samples of models."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.parts import (
    AsJson,
    GridName,
    Plugins,
    Results,
    Sets,
    bar,
    load,
    print_table,
    program,
    say,
    warn_of_failures,
)
from bench.errors import BadInput, shown

if TYPE_CHECKING:
    from bench.grid import Grid


def cost(
    grid: GridName,
    sets: Sets = None,
    results: Results = "results",
    lengths: Annotated[
        str | None, typer.Option(metavar="LIST", help="Sequence lengths to trace.", show_default="8,16,32,...,512")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Trace again what is there.")] = False,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Trace the cost of training steps and inference of a grid's configurations, as a function of length.

    Nothing is trained: one real step of each phase is traced. The table is kept in DIR/<grid name>/cost.json, where
    `report` finds it.
    """
    from bench.grid import load_grid

    chosen = None if lengths is None else _lengths(lengths)
    load(plugin)
    loaded = load_grid(grid, sets or ())
    warn_of_failures()
    folder = Path(results) / loaded.name
    record = trace_cost(loaded, folder, chosen, force=force, quiet=as_json)
    if as_json:
        print(json.dumps(record, indent=1))
        return
    _print_cost(folder)
    for row in record["skipped"]:
        at = "" if row["length"] is None else f" at length {row['length']}"
        say(f"not traced: {row['task']}, {row['method']}, {row['backbone']}{at}: {row['reason']}")


LONGEST = 1 << 20
"""The longest sequence that `cost` traces; with attention, a step on it takes memory that is quadratic in length."""


def _lengths(text: str) -> tuple[int, ...]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise BadInput(f"cost: --lengths: {shown(text)} given; should be whole numbers, such as 8,16,32") from None
    if found[0] < 1:
        raise BadInput(f"cost: --lengths: {found[0]} given; should be 1 or more")
    if found[-1] > LONGEST:
        raise BadInput(f"cost: --lengths: {shown(found[-1])} given; should be up to {LONGEST:,}")
    return tuple(found)


def trace_cost(
    grid: Grid, folder: Path, lengths: tuple[int, ...] | None, *, force: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """The cost table of a grid, from its folder where the same code has traced it."""
    from bench.measure import cost as measured

    with bar(quiet) as progress:
        return measured.keep_table(grid.runs, folder, lengths or measured.LENGTHS, force=force, progress=progress)


def _print_cost(folder: Path) -> None:
    """The fitted exponents, as the report shows them."""
    from bench.report import data, formats
    from bench.report.exhibit import Exhibit
    from bench.report.sections import complexity

    overview = next(complexity.exhibits(data.load([folder])))
    if isinstance(overview, Exhibit) and overview.table is not None:
        columns = [column for column in formats.shown(overview.table) if not column.head.startswith("token seconds")]
        rows = [list(row) for row in zip(*(column.texts for column in columns), strict=True)]
        print_table(overview.title, [column.head for column in columns], rows)
        print(overview.caption)
    print(f"the table is in {folder / 'cost.json'}; for figures: {program()} report {shlex.quote(str(folder))}")


HOTTEST = 1e6
"""A temperature at which all symbols are equally likely."""


def sample(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many samples to write.")] = 8,
    temperature: Annotated[float, typer.Option(min=0, max=HOTTEST, help="0 always takes the likeliest symbol.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, show_default="0", help="Seed of the draws.")] = 0,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Also write pictures as a PNG file.")] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Show pictures or text that a trained model writes, and how it completes given beginnings."""
    load(plugin)
    from bench.build import autocast
    from bench.measure import samples, trained
    from bench.results import Folder

    folder = Folder(run)
    with autocast(folder.run()):
        record = samples.write(*trained(folder), count=count, temperature=temperature, seed=seed)
    if out is not None:
        samples.save_png(record, Path(out))
    print(json.dumps(record, indent=1) if as_json else samples.render(record))
    if out is not None and not as_json:
        print(f"written to {out}")
