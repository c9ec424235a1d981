"""`run` and `cancel`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from bench.cli.measure import trace_cost
from bench.cli.parts import (
    GridName,
    Plugins,
    Results,
    Sets,
    arguments,
    load,
    program,
    results_folder,
    say,
    terminal,
    warn,
    warn_of_failures,
)
from bench.cli.plan import print_plan
from bench.errors import BadInput, cut, shown, unknown
from bench.outgoing import message

if TYPE_CHECKING:
    from bench.grid import Collection, Grid, Site
    from bench.launch import LaunchOptions, Outcome
    from bench.launch.slurm import Launch

LAUNCHERS = ("local", "inline", "slurm")


def run(
    grid: GridName,
    sets: Sets = None,
    launcher: Annotated[
        str,
        typer.Option(
            metavar="local|inline|slurm",
            help="Worker processes on this machine, this process (to debug), or jobs of a cluster.",
        ),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time.", show_default="one per core or GPU")
    ] = None,
    results: Results = "results",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and what would be done; do nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete what is done and run every cell again.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Run again what was done by code that has changed since.")
    ] = False,
    retry: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How often to resume a cell whose worker or job died, was stuck, or ran out of memory.",
            show_default="1",
        ),
    ] = None,
    slurm_profile: Annotated[
        str | None, typer.Option("--slurm-profile", metavar="FILE", help="A YAML file with settings of jobs.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="On a cluster: return once the jobs are submitted.")] = False,
    stuck: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Kill a worker that makes no step for this long; 0: never."),
    ] = 1800,
    lease: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Take over the cell of a process that is silent for this long; kill a worker that is.",
        ),
    ] = 60,
    plugin: Plugins = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard events beside results.")
    ] = False,
    measures: Annotated[
        str | None,
        typer.Option(
            "--measure",
            metavar="LIST",
            help="What to measure in finished cells: cost, dynamics, samples, diagnosis, calibration, or none.",
            show_default="what the grid says",
        ),
    ] = None,
) -> None:
    """Run the cells of a grid; finished cells are skipped, stopped ones are resumed.

    Ends with a table of all cells. Ctrl-C stops cleanly; the same command continues from there. The same command given
    twice, here or on another machine that sees DIR, shares the cells. A grid that gathers others runs them one after
    another and ends with their report. On a cluster Ctrl-C, or --detach, leaves the jobs running: see `status` and
    `cancel`.
    """
    if launcher not in LAUNCHERS:
        raise unknown("run: --launcher", launcher, LAUNCHERS)
    wanted = None if measures is None else _measures(measures)
    sets, asked = _split_sets(sets)
    if launcher != "slurm" and (asked or slurm_profile or detach):
        given = "--slurm-profile" if slurm_profile else "--detach" if detach else f"--set slurm.{asked[0][0]}"
        raise BadInput(f"run: {given}: is for --launcher slurm")
    load(plugin)
    from bench.grid import load_collection

    collection = load_collection(grid, sets, _site(slurm_profile, asked, dry_run) if launcher == "slurm" else None)
    for loaded in collection.grids:
        if loaded.slurm and launcher != "slurm":  # not used now, but checked
            from bench.launch.slurm import gather

            gather(loaded.slurm, None, ())
    from bench.launch import LaunchOptions

    options = LaunchOptions(
        launcher=cast(Literal["local", "inline", "slurm"], launcher),
        workers=workers,
        retry=1 if retry is None else retry,
        force=force,
        stale=stale,
        tensorboard=tensorboard,
        lease_seconds=lease,
        stuck_seconds=stuck or None,
    )
    warn_of_failures()
    exit_code = 0
    if launcher == "slurm":
        from bench.launch import slurm

        launches = [
            slurm.Launch(
                loaded.runs,
                collection.folder(Path(results), loaded),
                dataclasses.replace(options, measures=loaded.measures if wanted is None else wanted),
                loaded.slurm,
                insist=retry is not None,
                grid=loaded.record(),
            )
            for loaded in collection.grids
        ]
        exit_code = _run_on_slurm(grid, Path(results), launches, dry_run, detach)
    for loaded in collection.grids if launcher != "slurm" else ():
        folder = collection.folder(Path(results), loaded)
        own = dataclasses.replace(options, measures=loaded.measures if wanted is None else wanted)
        if not collection.single:
            say(f"== {loaded.name}: {loaded.about}")
        if dry_run:
            from bench.launch.plan import plan

            print_plan(loaded, plan(loaded.runs, folder, own))
        else:
            exit_code = max(exit_code, _run_one(loaded, folder, own))
    if not (collection.single or dry_run or detach):
        _finish_collection(collection, Path(results))
    raise typer.Exit(exit_code)


def cancel(grid: GridName, results: Results = "results") -> None:
    """Cancel a grid's jobs on a cluster. What they computed stays; `run` continues from it."""
    from bench.launch import slurm

    slurm.require()
    folders = _slurm_folders(grid, Path(results))
    numbers = [number for folder in folders for number in slurm.cancel(folder)]
    print(f"cancelled: {', '.join(numbers)}" if numbers else f"no jobs of {grid} wait or run")


def _measures(text: str) -> tuple[str, ...]:
    """The names in `--measure cost,samples`."""
    from bench.measure import NAMES

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*NAMES, "none"):
            raise unknown("run: --measure", name, (*NAMES, "none"))
    return tuple(name for name in names if name != "none")


def _split_sets(sets: Sequence[str] | None) -> tuple[list[str], list[tuple[str, Any]]]:
    """Split `--set` into those for the cells, and those for the cluster: `slurm.gpus=1` as ("gpus", 1)."""
    from bench.read_yaml import parse_yaml

    cells, asked = list[str](), list[tuple[str, Any]]()
    for item in sets or ():
        key, equals, value = item.partition("=")
        if key.strip().startswith("slurm.") and equals:
            name = key.strip().removeprefix("slurm.")
            if name in dict(asked):
                raise BadInput(f"--set {cut(item)}: slurm.{cut(name)} is given twice")
            asked.append((name, parse_yaml(value, f"--set {cut(item)}")))
        else:
            cells.append(item)
    return cells, asked


def _site(profile: str | None, asked: Sequence[tuple[str, Any]], dry_run: bool) -> Site:
    """A function from a grid's `slurm` section to the settings of this command."""
    from bench.launch import slurm

    if not dry_run:
        slurm.require()

    def settings(section: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        merged = slurm.gather(section, profile, asked)
        return merged, slurm.has_gpus(merged)

    return settings


def _run_one(grid: Grid, folder: Path, options: LaunchOptions) -> int:
    """Run a grid into its folder and show its table. Returns the exit code; exits at once after Ctrl-C."""
    from bench.launch import run_cells

    outcome = run_cells(grid.runs, folder, options, grid.record())
    if outcome.interrupted:
        print(f"stopped; continue with: {_same_command()}")
        raise typer.Exit(outcome.exit_code)
    if outcome.halted:
        print(message(f"error: {outcome.halted}"), file=sys.stderr)
        print(f"once that is fixed, continue with: {_same_command()}")
        raise typer.Exit(outcome.exit_code)
    return _show_outcome(folder, outcome, options)


def _run_on_slurm(name: str, results: Path, launches: Sequence[Launch], dry_run: bool, detach: bool) -> int:
    """Submit the cells of some grids, all or none; follow them until they have ended. Returns the exit code."""
    if dry_run:
        from bench.launch import slurm

        texts = [text for launch in launches for text in launch.dry()] or ["nothing to submit"]
        if absent := slurm.missing():
            warn(f"no {absent} on PATH: no site's limits and no queue are asked")
        for text in texts:
            say(text)
        return 0
    from bench.launch.local import Interrupts

    with Interrupts() as interrupts:
        for i, launch in enumerate(launches):
            try:
                launch.submit()
            except Exception:
                for before in launches[:i]:
                    before.withdraw()
                if interrupts.count:  # (Ctrl-C stops sbatch, too)
                    print("stopped; nothing was submitted")
                    return 130
                raise
            say(launch.told())
        followers = [word for word in arguments if word not in ("--force", "--stale", "--detach")]
        follow = shlex.join([*program().split(), *followers])
        place = [] if results == Path("results") else ["--results", str(results)]
        cancel_command = shlex.join([*program().split(), "cancel", name, *place])
        if detach:
            print(f"follow with: {follow}\ncancel with: {cancel_command}")
            return 0
        exit_code = 0
        for launch in launches:
            launch.begin(interrupts)
        for i, launch in enumerate(launches):
            outcome = launch.follow(launches[i + 1 :])
            if outcome.interrupted:
                print(f"the jobs continue; follow them with: {follow}\ncancel them with: {cancel_command}")
                return outcome.exit_code
            exit_code = max(exit_code, _show_outcome(launch.folder, outcome, launch.options))
    return exit_code


def _show_outcome(folder: Path, outcome: Outcome, options: LaunchOptions) -> int:
    """Show the table of a grid that has been run. Returns the exit code."""
    from bench import report as reports

    if any(end.state == "done" for end in outcome.ends.values()):
        reports.print_summary(reports.summary(folder), terminal())
        if "cost" in (options.measures or ()) and (missed := reports.uncounted(folder)):
            say(missed)
    _tell_of_stale(outcome.stale)
    print(f"results are in {folder}; for tables and figures: {program()} report {shlex.quote(str(folder))}")
    return outcome.exit_code


def _tell_of_stale(stale: Sequence[str]) -> None:
    if stale:
        print(f"{len(stale)} kept, but computed by other code than this; --stale runs them again:")
        for name in stale:
            print(f"  {name}")


def _same_command() -> str:
    """The command that continues after a stop, without --force, which has already taken effect."""
    return shlex.join([*program().split(), *(word for word in arguments if word != "--force")])


def _finish_collection(collection: Collection, results: Path) -> None:
    """Trace the costs of a collection, and write its report."""
    from bench import report as reports

    for loaded in collection.cost:
        say(f"== cost of {loaded.name}: {loaded.about}")
        trace_cost(loaded, collection.folder(results, loaded), None)
    folder = results / collection.name
    written = reports.write([folder], folder / "report")
    print(f"report of all: {next((file for file in written if file.suffix == '.html'), folder / 'report')}")


def _slurm_folders(name: str, results: Path) -> list[Path]:
    """The folders of a grid, or of the grids that it gathers, from which jobs were sent."""
    folder = results_folder(name, results)
    if not folder.is_dir():
        raise BadInput(f"cancel: no results folder {shown(str(folder))}")
    return [path for path in (folder, *sorted(folder.iterdir())) if (path / "slurm" / "jobs").is_dir()]
