"""`cost`, `sample`, `diagnose`: what methods cost, what models write, why they fail."""

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
    warn_of_failures,
)
from bench.errors import BadInput

if TYPE_CHECKING:
    from bench.grid import Grid


def cost(
    grid: GridName,
    sets: Sets = None,
    results: Results = "results",
    lengths: Annotated[
        str | None, typer.Option(metavar="LIST", help="Sequence lengths to trace.", show_default="8,16,32,...,512")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Trace anew what is there.")] = False,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Trace what training steps and inference of a grid's configurations cost, as a function of length.

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
    for one in record["skipped"]:
        at = "" if one["length"] is None else f" at length {one['length']}"
        print(f"not traced: {one['task']}, {one['method']}, {one['backbone']}{at}: {one['reason']}")


def _lengths(text: str) -> tuple[int, ...]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise BadInput(f"cost: --lengths: {text!r} given; should be whole numbers, such as 8,16,32") from None
    if found[0] < 1:
        raise BadInput(f"cost: --lengths: {found[0]} given; should be 1 or more")
    return tuple(found)


def trace_cost(
    grid: Grid, folder: Path, lengths: tuple[int, ...] | None, *, force: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """The cost table of a grid, from its folder if it is there and the code is the same."""
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


def sample(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    count: Annotated[int, typer.Option(min=1, help="How many to write.")] = 8,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest symbol.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
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


def diagnose(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a finished run of an SMT method.")],
    sequences: Annotated[int, typer.Option(min=2, help="Test sequences to look at.")] = 128,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Also draw the figure, as a PNG file.")] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Say why a network that learned from a teacher's memories fails, or that it does not."""
    load(plugin)
    from bench.build import autocast
    from bench.measure import diagnosis, trained
    from bench.results import Folder

    folder = Folder(run)
    described = folder.run()
    method, task = trained(folder)
    with autocast(described):
        record = diagnosis.measure(described, task, method, sequences)
    found = record["diagnosis"]
    if found is None:
        raise BadInput(f"diagnose: {run} given; should be a run of a method with a teacher, not of {described.method}")
    if out is not None:
        from bench.report.sections import diagnosis as drawn

        drawn.save_png(found, described.method, Path(out))
    if as_json:
        print(json.dumps(record, indent=1))
        return
    _print_diagnosis(found)
    where = f"written to {out}" if out is not None else "given --out FILE; `report` shows it where a grid is measured"
    print(f"the figure is {where}" + ("" if out is not None else f": {program()} run GRID --measure diagnosis"))


WORST = 5
"""Transitions that `diagnose` lists."""


def _print_diagnosis(found: dict[str, Any]) -> None:
    """The verdict, accuracy by steps, and the transitions that lose most."""
    print(found["verdict"], end="\n\n")
    steps = found["after_steps"]
    rows = [[f"{count}", f"{accuracy:.3f}"] for count, accuracy in zip(steps["k"], steps["accuracy"])]
    print_table("the network's answers", ["steps from the teacher's memory", "accuracy"], rows)
    columns = ("lost", "error", "between", "spread", "drift")
    known = [place for place, lost in enumerate(found["lost"]) if lost is not None]
    worst = sorted(known, key=lambda place: -found["lost"][place])[:WORST]
    values = [[found["t"][place], *(found[name][place] for name in columns)] for place in worst]
    texts = [["-" if value is None else f"{value:.3g}" for value in row] for row in values]
    heads = ("t", "probability lost", "one-step error", "variance between classes", "of all", "drift")
    print_table("transitions that lose most", heads, texts)
