"""`diagnose`: why a network that learned from a teacher fails, or the quality of online methods' gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.parts import AsJson, Plugins, load, print_table, program
from bench.errors import BadInput, nearest, shown

SEQUENCES = 128


def diagnose(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The folder of a finished run of an SMT method; or an experiment on methods that learn online, which "
            "takes minutes: influence-balancing, convergence, gradient-quality or credit-costs.",
        ),
    ],
    sequences: Annotated[
        int | None,
        typer.Option(min=2, max=100_000, help="Test sequences of the run to look at.", show_default=str(SEQUENCES)),
    ] = None,
    results: Annotated[
        str | None,
        typer.Option("--results", metavar="DIR", help="Keep an experiment's record where `report DIR` shows it."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Also draw the figure, as a PNG file.")] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Say why a network that learned from a teacher's memories fails, or how good gradients of online methods are."""
    load(plugin)
    from bench.measure.online import EXPERIMENTS

    if what in EXPERIMENTS:
        if sequences is not None:
            raise BadInput(f"diagnose: --sequences: {sequences} given; is for runs, not for {what}")
        _experiment(what, results, out, as_json)
        return
    if not Path(what).exists():
        guess = nearest(what, EXPERIMENTS)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise BadInput(f"diagnose: {shown(what)} is not a run's folder, nor one of {', '.join(EXPERIMENTS)}{hint}")
    if results is not None:
        raise BadInput(
            f"diagnose: --results: {shown(results)} given; is for one of {', '.join(EXPERIMENTS)}, not for runs"
        )
    _run(what, sequences or SEQUENCES, out, as_json)


def _experiment(name: str, results: str | None, out: str | None, as_json: bool) -> None:
    """Run an experiment, keep its record, and show what the report would."""
    from bench.measure import online
    from bench.report.sections import estimators

    record = online.measure(name)
    kept = "" if results is None else f"the record is in {online.keep(record, Path(results))}"
    if out is not None:
        estimators.save_png(record, Path(out))
    if as_json:
        print(json.dumps(record, indent=1))
        return
    from bench.report import formats

    exhibit = estimators.shown(record)
    assert exhibit.table is not None
    columns = formats.shown(exhibit.table)
    rows = [list(row) for row in zip(*(column.texts for column in columns), strict=True)]
    print_table(exhibit.title, [column.head for column in columns], rows)
    print(exhibit.caption)
    print(kept or f"given --results DIR, it is kept where `{program()} report DIR` shows it")


def _run(run: str, sequences: int, out: str | None, as_json: bool) -> None:
    """The diagnosis of a run's teacher, updater and rollout."""
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
"""The number of transitions that `diagnose` lists."""


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
