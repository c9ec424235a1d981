"""`report` and `compare`: a page on results, and a comparison with a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.parts import AsJson, print_table, say, terminal
from bench.errors import BadInput, cut, shown, unknown
from bench.outgoing import clean

if TYPE_CHECKING:
    from bench.tolerances import Tolerances


def report(
    results: Annotated[
        list[str], typer.Argument(metavar="RESULTS", help="Results folders of grids, or folders above them.")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where to write.", show_default="RESULTS/report")
    ] = None,
) -> None:
    """Write the report of results folders: a page, figures, tables, and the paper's claims with a verdict each."""
    from bench import report as reports

    folders = [Path(folder) for folder in results]
    files = reports.write(folders, Path(out) if out else folders[0] / "report")
    with suppress(BadInput):  # (a folder with traced costs only)
        reports.print_summary(reports.summary(folders), terminal())
    print(f"{len(files)} files; open {files[0]}")


def compare(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="A grid's results folder.")],
    baseline: Annotated[str, typer.Argument(metavar="BASELINE", help="A baseline file, or another results folder.")],
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="A field that is meant to differ, e.g. model.backbone; repeatable."),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Tolerance for accuracy, loss, cost or time; repeatable.",
            show_default="what the baseline keeps, or the grid says",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="GRID", help="The grid whose tolerances apply.", show_default="the one RESULTS is named for"
        ),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="RESULTS may lack some of what BASELINE has.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Write RESULTS as the new BASELINE file.")] = False,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="Also write Markdown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare results with a baseline: accuracy, loss, traced cost and time of every configuration.

    Cells are matched by their whole configuration except the seed; seeds are paired. Exit code 1 when something is
    worse, or missing; 2 when nothing can be compared.
    """
    from bench.compare import judge, show, sides

    new = sides.read(Path(results))
    if update:
        if Path(baseline).is_dir():
            raise BadInput(f"compare: --update: {baseline} is a folder; should be a file such as {baseline}.json")
        sides.write(Path(baseline), new, _tolerances(results, grid, None, tolerance))
        print(f"{baseline} now holds {len(new.cells)} cells of {results}")
        return
    old = sides.read(Path(baseline))
    found = judge.compare(new, old, _tolerances(results, grid, old.tolerances, tolerance), ignore or (), partial)
    if markdown is not None:
        Path(markdown).write_text(show.markdown(found), "utf-8")
    if as_json:
        print(json.dumps(show.plain(found), indent=1))
    else:
        print_table(f"{results} against {baseline}", show.COLUMNS, [show.cells(row) for row in found.rows])
        for heading, lines in show.sections(found).items():
            say("\n  ".join([heading, *map(clean, lines)]) + "\n")
        print(show.verdict(found))
    raise typer.Exit(1 if found.failed else 0)


def _tolerances(results: str, grid: str | None, kept: Tolerances | None, given: Sequence[str] | None) -> Tolerances:
    """The tolerances of the command line, else of --grid, of the baseline, or of RESULTS' own grid."""
    from bench.grid import grid_names, load_collection
    from bench.read_yaml import parse_yaml
    from bench.results import read_grid
    from bench.tolerances import Tolerances

    name = Path(results).resolve().name
    record = read_grid(Path(results))
    if grid is None and kept is None and record is not None:
        kept = Tolerances.parse(record.get("compare", {}), f"{results}/grid.json: compare")
    elif grid is not None or (kept is None and name in grid_names()):  # an older folder without grid.json
        kept = load_collection(grid or name).grids[0].compare
    fields = (kept or Tolerances()).model_dump()
    for item in given or ():
        key, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"compare: --tolerance: {shown(item)} given; should be NAME=VALUE, such as accuracy=0.05")
        if key not in fields:
            raise unknown("compare: --tolerance", key, fields)
        fields[key] = parse_yaml(value, f"--tolerance {cut(item)}")
    return Tolerances.parse(fields, "compare: --tolerance")
