"""The command line.

Exit codes: 0 done; 1 some cell or check failed, or something is worse than it was; 2 bad input, with one line on stderr
and no traceback; 130 after Ctrl-C. What is heavy to import is imported where it is used, so that `--help` and most
mistakes answer at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
import typer.core
from rich.console import Console
from rich.table import Table

from bench import __version__
from bench.errors import BadInput, unknown

if TYPE_CHECKING:
    from bench.config import Run
    from bench.grid import Collection, Grid, Site, Tolerances
    from bench.launch import LaunchOptions, Outcome
    from bench.launch.plan import Cell
    from bench.launch.slurm import Launch
    from bench.launch.slurm.ledger import Sight

# typer brings its own copy of click or uses the installed one, by version; its public BadParameter knows which.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

KINDS = ("tasks", "methods", "backbones", "grids")
LAUNCHERS = ("local", "inline", "slurm")
MANY = 200
"""Cells; of a larger grid only those are listed with which something is yet to happen."""


class Group(typer.core.TyperGroup):
    """A group of commands that answers a wrong name in one line, and no name with its help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begins with. Raises `BadInput` when there is none of that name."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown(f"{_command(ctx)}command", args[0], self.commands)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 some cell or check failed or is worse, 2 bad input, 130 stopped by Ctrl-C.",
)
data_app = typer.Typer(cls=Group, invoke_without_command=True)
app.add_typer(data_app, name="data")
new_app = typer.Typer(cls=Group, invoke_without_command=True)
app.add_typer(new_app, name="new")

GridName = Annotated[
    str, typer.Argument(metavar="GRID", help="A shipped grid's name (see `list grids`) or a YAML file.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field of every cell, e.g. training.optimiser.lr=1e-3."),
]
Results = Annotated[
    str, typer.Option("--results", metavar="DIR", help="Where results are kept; a grid's own are in DIR/<grid name>.")
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE", help="A Python file that registers tasks or methods.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


@app.callback()
def _main(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Train recurrent networks in many ways on many tasks, side by side.

    Begin with `run quick`; `list grids` shows what else is there.
    """
    if version:
        print(f"recurbench {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="[tasks|methods|backbones|grids]", help="All when omitted.")
    ] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Show the tasks, methods, backbones and grids that there are, and plugins that could not be loaded."""
    if kind is not None and kind not in KINDS:
        raise unknown("list", kind, KINDS)
    _load(plugin)
    from bench import registry

    wanted = KINDS if kind is None else (kind,)
    listing: dict[str, Any] = {name: _listing(name) for name in wanted}
    failures = dict(registry.failures)
    if as_json:
        print(json.dumps({**listing, "failures": failures}, indent=1))
        return
    console = _console()
    for name, entries in listing.items():
        columns = [key for key in dict.fromkeys(key for entry in entries for key in entry) if key != "place"]
        _print_table(console, name, columns, [[_cell(entry.get(key)) for key in columns] for entry in entries])
    _warn_of_failures()


def _listing(kind: str) -> list[dict[str, Any]]:
    from bench import registry
    from bench.grid import grid_names

    if kind == "grids":
        return [{"name": name, "about": about} for name, about in grid_names().items()]
    found: registry.Registry[Any] = getattr(registry, kind)
    entries = []
    for name in found.names():
        cls = found.get(name)
        entry: dict[str, Any] = {"name": name, "about": _about(cls)}
        if kind == "tasks":
            entry |= {"axis": cls.axis, "missing": cls.missing()}
        if kind == "methods":
            entry |= {"backbones": list(cls.backbones), "targets": list(cls.targets), "data": cls.data}
        entries.append({**entry, "place": registry.place(cls)})
    return entries


def _about(cls: type) -> str:
    """What a class is, in a line: its own docstring's first, or its file's, which has one idea."""
    own = cls.__dict__.get("__doc__") or sys.modules[cls.__module__].__doc__ or ""
    return next(iter(own.strip().splitlines()), "")


@app.command()
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
    force: Annotated[bool, typer.Option("--force", help="Forget what is done and run every cell anew.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Run anew what was done by code that has changed since.")
    ] = False,
    retry: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How often to go on with a cell whose worker or job died, stuck, or ran out of memory.",
            show_default="1",
        ),
    ] = None,
    slurm_profile: Annotated[
        str | None, typer.Option("--slurm-profile", metavar="FILE", help="YAML: what jobs ask of this cluster.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="On a cluster: return once the jobs are submitted.")] = False,
    stuck: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Kill a worker that makes no step for so long; 0: never."),
    ] = 1800,
    lease: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Take over the cell of a process that gives no sign of life for so long; kill a worker that does not.",
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
            help="What to look at in finished cells: cost, dynamics, samples, calibration, or none.",
            show_default="what the grid says",
        ),
    ] = None,
) -> None:
    """Run the cells of a grid; what is done is skipped, what was stopped goes on.

    Ends with a table of all cells. Ctrl-C stops cleanly; the same command goes on from there. The same command given
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
    _load(plugin)
    collection = _collection(grid, sets, _site(slurm_profile, asked) if launcher == "slurm" else None)
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
    _warn_of_failures()
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
            )
            for loaded in collection.grids
        ]
        exit_code = _run_on_slurm(grid, Path(results), launches, dry_run, detach)
    for loaded in collection.grids if launcher != "slurm" else ():
        folder = collection.folder(Path(results), loaded)
        own = dataclasses.replace(options, measures=loaded.measures if wanted is None else wanted)
        if not collection.single:
            print(f"== {loaded.name}: {loaded.about}", flush=True)
        if dry_run:
            from bench.launch.plan import plan

            _print_plan(loaded, plan(loaded.runs, folder, own))
        else:
            exit_code = max(exit_code, _run_one(loaded, folder, own))
    if not (collection.single or dry_run or detach):
        _finish_collection(collection, Path(results))
    raise typer.Exit(exit_code)


def _measures(text: str) -> tuple[str, ...]:
    """`--measure cost,samples` as names."""
    from bench.measure import NAMES

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*NAMES, "none"):
            raise unknown("run: --measure", name, (*NAMES, "none"))
    return tuple(name for name in names if name != "none")


def _run_one(grid: Grid, folder: Path, options: LaunchOptions) -> int:
    """Run one grid into its folder and show its table. Returns the exit code; leaves at once after Ctrl-C."""
    from bench.launch import run_cells

    outcome = run_cells(grid.runs, folder, options)
    if outcome.interrupted:
        print(f"stopped; go on with: {_same_command()}")
        raise typer.Exit(outcome.exit_code)
    if outcome.halted:
        print(f"error: {outcome.halted}", file=sys.stderr)
        print(f"when that is mended, go on with: {_same_command()}")
        raise typer.Exit(outcome.exit_code)
    return _show_outcome(folder, outcome)


def _show_outcome(folder: Path, outcome: Outcome) -> int:
    """The table of a grid that has been run. Returns the exit code."""
    from bench import report as reports

    if any(end.state == "done" for end in outcome.ends.values()):
        reports.print_summary(reports.summary(folder), _console())
    _tell_of_stale(outcome.stale)
    print(f"results are in {folder}; for tables and figures: {_program()} report {shlex.quote(str(folder))}")
    return outcome.exit_code


def _split_sets(sets: Sequence[str] | None) -> tuple[list[str], list[tuple[str, Any]]]:
    """`--set` for the cells, and those that are for the cluster: `slurm.gpus=1` as ("gpus", 1)."""
    from bench.grid import parse_yaml

    cells, asked = [], []
    for one in sets or ():
        key, equals, value = one.partition("=")
        if key.strip().startswith("slurm.") and equals:
            asked.append((key.strip().removeprefix("slurm."), parse_yaml(value, f"--set {one}")))
        else:
            cells.append(one)
    return cells, asked


def _site(profile: str | None, asked: Sequence[tuple[str, Any]]) -> Site:
    """From a grid's `slurm` section to the settings of this command."""
    from bench.launch import slurm

    slurm.require()

    def settings(section: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        merged = slurm.gather(section, profile, asked)
        return merged, slurm.has_gpus(merged)

    return settings


def _run_on_slurm(name: str, results: Path, launches: Sequence[Launch], dry_run: bool, detach: bool) -> int:
    """Submit the cells of some grids, all or none; follow them until they have ended. Returns the exit code."""
    if dry_run:
        for text in [text for launch in launches for text in launch.dry()] or ["nothing to submit"]:
            print(text)
        return 0
    from bench.launch.local import Interrupts

    with Interrupts() as interrupts:
        for i, launch in enumerate(launches):
            try:
                launch.submit()
            except Exception:
                for before in launches[:i]:
                    before.withdraw()
                if interrupts.count:  # Ctrl-C is for sbatch too
                    print("stopped; nothing was submitted")
                    return 130
                raise
            print(launch.told(), flush=True)
        followers = [word for word in _arguments if word not in ("--force", "--stale", "--detach")]
        follow = shlex.join([*_program().split(), *followers])
        place = [] if results == Path("results") else ["--results", str(results)]
        cancel_command = shlex.join([*_program().split(), "cancel", name, *place])
        if detach:
            print(f"follow with: {follow}\ncancel with: {cancel_command}")
            return 0
        exit_code = 0
        for launch in launches:
            launch.begin(interrupts)
        for i, launch in enumerate(launches):
            outcome = launch.follow(launches[i + 1 :])
            if outcome.interrupted:
                print(f"the jobs go on; follow them with: {follow}\ncancel them with: {cancel_command}")
                return outcome.exit_code
            exit_code = max(exit_code, _show_outcome(launch.folder, outcome))
    return exit_code


@app.command()
def cancel(grid: GridName, results: Results = "results") -> None:
    """Cancel a grid's jobs on a cluster. What they computed stays; `run` goes on from it."""
    from bench.launch import slurm

    slurm.require()
    folders = _slurm_folders(grid, Path(results))
    numbers = [number for folder in folders for number in slurm.cancel(folder)]
    print(f"cancelled: {', '.join(numbers)}" if numbers else f"no jobs of {grid} wait or run")


def _slurm_folders(name: str, results: Path) -> list[Path]:
    """The folders of a grid, or of the grids that it gathers, that have sent jobs."""
    folder = _folder(name, results)
    if not folder.is_dir():
        raise BadInput(f"cancel: no results folder {str(folder)!r}")
    return [one for one in (folder, *sorted(folder.iterdir())) if (one / "slurm" / "jobs").is_dir()]


def _finish_collection(collection: Collection, results: Path) -> None:
    """Trace the cost that a collection asks for, and write its report."""
    from bench import report as reports

    for loaded in collection.cost:
        print(f"== cost of {loaded.name}: {loaded.about}", flush=True)
        _trace_cost(loaded, collection.folder(results, loaded), None)
    folder = results / collection.name
    written = reports.write([folder], folder / "report")
    print(f"report of all: {next((file for file in written if file.suffix == '.html'), folder / 'report')}")


@app.command()
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
    chosen = None if lengths is None else _lengths(lengths)
    _load(plugin)
    loaded = _grid(grid, sets)
    _warn_of_failures()
    folder = Path(results) / loaded.name
    record = _trace_cost(loaded, folder, chosen, force=force, quiet=as_json)
    if as_json:
        print(json.dumps(record, indent=1))
        return
    _print_cost(folder)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise BadInput(f"cost: --lengths: {text!r} given; should be whole numbers, such as 8,16,32") from None
    if found[0] < 1:
        raise BadInput(f"cost: --lengths: {found[0]} given; should be 1 or more")
    return tuple(found)


def _trace_cost(
    grid: Grid, folder: Path, lengths: tuple[int, ...] | None, *, force: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """The cost table of a grid, from its folder if it is there and the code is the same."""
    from bench.measure import cost as measured

    with _progress(quiet) as progress:
        return measured.keep_table(grid.runs, folder, lengths or measured.LENGTHS, force=force, progress=progress)


def _print_cost(folder: Path) -> None:
    """The fitted exponents, as the report shows them."""
    from bench.report import complexity, data, formats
    from bench.report.exhibit import Exhibit

    overview = complexity.section(data.load([folder])).exhibits[0]
    if isinstance(overview, Exhibit) and overview.table is not None:
        columns = [column for column in formats.shown(overview.table) if not column.head.startswith("token seconds")]
        rows = [list(row) for row in zip(*(column.texts for column in columns), strict=True)]
        _print_table(_console(), overview.title, [column.head for column in columns], rows)
        print(overview.caption)
    print(f"the table is in {folder / 'cost.json'}; for figures: {_program()} report {shlex.quote(str(folder))}")


@app.command()
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
    _load(plugin)
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


def _tell_of_stale(stale: Sequence[str]) -> None:
    if stale:
        print(f"{len(stale)} kept that other code computed than is here now; --stale runs them anew:")
        for name in stale:
            print(f"  {name}")


def _same_command() -> str:
    """The command that goes on after a stop. Without --force: what that was to forget is forgotten by then."""
    return shlex.join([*_program().split(), *(word for word in _arguments if word != "--force")])


def _print_plan(grid: Grid, cells: Sequence[Cell]) -> None:
    rows = []
    parameters: dict[str, str] = {}  # of cells that differ in their seeds alone
    for cell in cells:
        if len(cells) > MANY and cell.decision.action == "keep":
            continue  # it is counted
        run = cell.run
        budget = run.training.budget
        like = dataclasses.replace(run, seed=0).id
        if like not in parameters:
            parameters[like] = _predictor_parameters(run)
        rows.append(
            [
                run.id,
                run.task,
                run.method,
                run.model.backbone if _uses_backbone(run) else "-",
                parameters[like],
                f"{budget.amount:,g} {budget.currency}",
                f"{run.device}/{run.precision}",
                _verdict(cell),
            ]
        )
    columns = ["cell", "task", "method", "backbone", "parameters", "budget", "device", "what happens"]
    if rows:
        _print_table(_console(), f"{grid.name}: {grid.about}" if grid.about else grid.name, columns, rows)
    counts = Counter[str](
        "measure" if (cell.decision.action, cell.decision.state) == ("run", "done") else cell.decision.action
        for cell in cells
    )
    told = {"run": "would run", "measure": "would be measured", "keep": "are kept", "skip": "would be skipped"}
    print(f"{len(cells)} cells: {', '.join(f'{counts[name]} {text}' for name, text in told.items() if counts[name])}")


def _verdict(cell: Cell) -> str:
    decision = cell.decision
    if decision.action == "skip":
        return f"is skipped: {decision.reason}"
    if decision.action == "keep":
        reason = f": {decision.reason}" if decision.reason else ""
        return "is stale, kept (--stale reruns it)" if decision.stale else f"is {decision.state}{reason}"
    if decision.fresh:
        return "runs anew"
    if decision.state == "done":
        return "is done, will be measured"
    return "runs" if decision.state == "pending" else f"runs on (was {decision.state})"


def _uses_backbone(run: Run) -> bool:
    from bench import registry

    return bool(registry.methods.get(run.method).backbones)


def _predictor_parameters(run: Run) -> str:
    """How many numbers the predictor trains; a dash when it cannot be built here."""
    from bench.build import build_method, build_task
    from bench.models.updaters import count_parameters

    try:
        method = build_method(run, build_task(run), device="meta")
        return f"{sum(count_parameters(module) for module in method.predictor_modules()):,}"
    except Exception:  # (data that is not here, a plugin's fault: the verdict or the run itself says more)
        return "-"


@app.command()
def status(
    grid: GridName,
    sets: Sets = None,
    results: Results = "results",
    as_json: AsJson = False,
    every: Annotated[bool, typer.Option("--all", help=f"List done cells also where there are over {MANY}.")] = False,
    plugin: Plugins = None,
) -> None:
    """Show the cells of a grid by state, with their last progress; also while it runs."""
    _load(plugin)
    rows = [row for folder, runs in _members(grid, sets, Path(results)) for row in _statuses(folder, runs)]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    sent = any(row["job"] for row in rows)
    columns = [
        "cell",
        "state",
        *(["job"] if sent else []),
        "phase",
        "progress",
        "loss",
        "accuracy",
        "last word",
        "reason",
    ]
    order = ["running", "lost", "failed", "oom", "diverged", "stopped", "pending", "skipped", "done"]
    rows.sort(key=lambda row: order.index(row["state"]) if row["state"] in order else -1)
    shown = []
    listed = [row for row in rows if every or len(rows) <= MANY or row["state"] != "done"]
    for row in listed:
        progress = "" if row["progress"] is None else f"{row['progress']:.0%}"
        numbers = ["" if row[name] is None else f"{row[name]:.3f}" for name in ("loss", "accuracy")]
        job = [row["job"] or ""] if sent else []
        facts = [row["phase"] or "", progress, *numbers, _age(row["updated"] or row["submitted"])]
        shown.append([row["id"], row["state"], *job, *facts, row["reason"] or ""])
    if shown:
        _print_table(_console(), grid, columns, shown)
    counts = Counter(row["state"] for row in rows)
    hidden = " (list them with --all)" if len(listed) < len(rows) else ""
    print(f"{len(rows)} cells: {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}{hidden}")
    _warn_of_failures()


def _folder(name: str, results: Path) -> Path:
    """Where a grid, or a collection of grids, keeps its results."""
    return results / (Path(name).stem if Path(name).suffix in (".yaml", ".yml") else name)


def _members(name: str, sets: Sequence[str] | None, results: Path) -> list[tuple[Path, Sequence[Run]]]:
    """The folder and the runs of each grid that this one gathers, or of itself."""
    from bench.results import read_json

    folder = _folder(name, results)
    sent = list(folder.glob("slurm/jobs/*.json")) + list(folder.glob("*/slurm/jobs/*.json"))
    gpu = any((read_json(file) or {}).get("gpu") for file in sent)
    try:
        collection = _collection(name, sets, (lambda section: (section, True)) if gpu else None)
    except BadInput:
        if sets or not folder.is_dir():
            raise
        return [(folder, ())]  # a grid from Python, or whose plugin is not given: what is there can still be told
    return [(collection.folder(results, grid), grid.runs) for grid in collection.grids]


def _statuses(grid_folder: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One record per run of a grid, and per other folder beside them (from another --set)."""
    from bench.launch.plan import seen_state
    from bench.results import Folder, run_folders

    folders = {one.id: Folder(grid_folder / one.id) for one in runs}
    if grid_folder.is_dir():
        folders |= {folder.path.name: folder for folder in run_folders(grid_folder)}
    statuses = {identifier: folder.status for identifier, folder in folders.items()}
    sights: dict[str, Sight] = {}
    if (grid_folder / "slurm" / "jobs").is_dir():
        from bench.launch import slurm

        sights, silence = slurm.sights(grid_folder, statuses)
        if silence:
            print(f"warning: the cluster was not asked: {silence}", file=sys.stderr)
    rows = []
    for identifier, folder in folders.items():
        told = statuses[identifier]
        state, reason = seen_state(folder, told)
        job = sights.get(identifier)
        if job is not None:
            state, reason = job.state, job.reason
        keys = ("phase", "progress", "steps", "tokens", "training_seconds", "loss", "accuracy", "attempt", "updated")
        facts = {key: told.get(key) for key in keys}
        placed = {key: getattr(job, key, None) for key in ("job", "job_state", "submitted")}
        rows.append({"id": identifier, "state": state, "reason": reason, **facts, **placed})
    return rows


def _age(then: float | None) -> str:
    """How long ago, in words."""
    if then is None:
        return ""
    seconds = max(0.0, time.time() - then)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@app.command()
def report(
    results: Annotated[
        list[str], typer.Argument(metavar="RESULTS", help="Results folders: grids', or ones above them.")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where to write.", show_default="RESULTS/report")
    ] = None,
) -> None:
    """Write the report of results folders: a page, figures, tables, and the paper's claims with a verdict each."""
    from bench import report as reports

    folders = [Path(folder) for folder in results]
    files = reports.write(folders, Path(out) if out else folders[0] / "report")
    for folder in folders:
        with suppress(BadInput):  # a folder that holds traced costs alone
            reports.print_summary(reports.summary(folder), _console())
    print(f"{len(files)} files; open {files[0]}")


@app.command()
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
            help="Of accuracy, loss, cost, time; repeatable.",
            show_default="what the baseline keeps, or the grid says",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(metavar="GRID", help="Whose tolerances hold.", show_default="the one RESULTS is named for"),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write RESULTS as the new BASELINE file.")] = False,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="Also write Markdown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether results are worse than a baseline: accuracy, loss, traced cost and time of every configuration.

    Cells are matched by their whole configuration but the seed; seeds go in pairs. Exit code 1 when something is worse.
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
    found = judge.compare(new, old, _tolerances(results, grid, old.tolerances, tolerance), ignore or ())
    if markdown is not None:
        Path(markdown).write_text(show.markdown(found))
    if as_json:
        print(json.dumps(show.plain(found), indent=1))
    else:
        _print_table(_console(), f"{results} against {baseline}", show.COLUMNS, [show.cells(row) for row in found.rows])
        for heading, told in show.sections(found).items():
            print("\n  ".join([heading, *told]) + "\n")
        print(show.verdict(found))
    raise typer.Exit(1 if found.regressed else 0)


def _tolerances(results: str, grid: str | None, kept: Tolerances | None, given: Sequence[str] | None) -> Tolerances:
    """Those of the command line, else of --grid, of the baseline, of the shipped grid that RESULTS is named for."""
    from bench.grid import Tolerances, grid_names, parse_yaml

    name = Path(results).resolve().name
    if grid is not None or (kept is None and name in grid_names()):
        kept = _collection(grid or name, None).grids[0].compare
    fields = (kept or Tolerances()).model_dump()
    for one in given or ():
        key, equals, value = one.partition("=")
        if not equals:
            raise BadInput(f"compare: --tolerance: {one!r} given; should be NAME=VALUE, such as accuracy=0.05")
        if key not in fields:
            raise unknown("compare: --tolerance", key, fields)
        fields[key] = parse_yaml(value, f"--tolerance {one}")
    return Tolerances.parse(fields, "compare: --tolerance")


@new_app.callback()
def _new(ctx: typer.Context) -> None:
    """Write a small working plugin, to start from."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


NewName = Annotated[str, typer.Argument(metavar="NAME", help="What grids will call it, such as truncated-bptt.")]
NewFolder = Annotated[str, typer.Option("--dir", metavar="DIR", help="Where its folder is made.")]


@new_app.command("method")
def new_method(name: NewName, folder: NewFolder = ".") -> None:
    """A training method: a package with its class, its test and an entry point."""
    _write_plugin("method", name, folder)


@new_app.command("task")
def new_task(name: NewName, folder: NewFolder = ".") -> None:
    """A task: a package with its class, its test and an entry point."""
    _write_plugin("task", name, folder)


def _write_plugin(kind: Literal["method", "task"], name: str, folder: str) -> None:
    from bench import scaffold

    written = scaffold.write(kind, name, Path(folder))
    plugin, program = shlex.quote(str(written[0].parent)), _program()
    print(f"wrote {', '.join(map(str, written))}")
    print(f"try it:      {program} check {name} --plugin {shlex.quote(str(written[0]))}")
    print(f"install it:  pip install -e {plugin}, then: {program} list {kind}s")


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Methods, tasks, backbones.", show_default=False)
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="FILE", help="A Python file; without NAME all that it registers is checked."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="method|task|backbone", help="For a name that several kinds of thing have.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Check everything that there is.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the small runs, e.g. method.window=4."),
    ] = None,
    junit: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write JUnit XML, which CI services show.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a method, task or backbone keeps the contract: a table, with what to mend in each failed row.

    Exit code 1 when a row fails, or when nothing could be checked.
    """
    from bench import registry
    from bench.testing import check as examine
    from bench.testing.suite import write_junit

    kinds = {one.kind: one for one in registry.REGISTRIES}
    if kind is not None and kind not in kinds:
        raise unknown("check: --kind", kind, kinds)
    before = {one.kind: set(one.names()) for one in registry.REGISTRIES}
    _load(plugin)
    _warn_of_failures()
    looked = [one for one in registry.REGISTRIES if kind in (None, one.kind)]
    there = [(one.kind, name) for one in looked for name in one.names()]
    if names:
        known = {name for _, name in there}
        for name in names:
            if name not in known:
                raise unknown("check", name, sorted(known))
        subjects = [one for one in there if one[1] in names]
    elif all_:
        subjects = there
    elif plugin:
        subjects = [one for one in there if one[1] not in before[one[0]]]
    else:
        raise BadInput("check: nothing is named; give NAME, --plugin FILE, or --all")
    outcomes = []
    for one, name in subjects:
        found = []
        with _status(f"{one} {name}", quiet=as_json) as tell:
            for outcome in examine(one, name, sets or ()):  # type: ignore[arg-type]
                found.append(outcome)
                tell(outcome.row)
        outcomes += found
        if not as_json:
            rows = [[each.row, each.state, each.detail, f"{each.seconds:.1f}"] for each in found]
            _print_table(_console(), f"{one} {name}", ["row", "outcome", "what was found", "seconds"], rows)
            for each in found:
                if each.state == "failed":
                    print(f"to mend {each.row!r}: {each.mend}")
    if junit is not None:
        write_junit(outcomes, Path(junit))
    counts = Counter(outcome.state for outcome in outcomes)
    if as_json:
        print(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=1))
    elif not counts["passed"] + counts["failed"]:
        print("nothing could be checked")
    else:
        print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} not applicable")
    raise typer.Exit(0 if counts["passed"] and not counts["failed"] else 1)


@data_app.callback()
def _data(ctx: typer.Context) -> None:
    """Data sets of the natural tasks: what is here, and how to bring the rest."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@data_app.command("list")
def data_list(as_json: AsJson = False, plugin: Plugins = None) -> None:
    """Show each data set: source, size, licence, whether it is here."""
    _load(plugin)
    from bench.tasks import data

    entries = data.catalogue()
    if as_json:
        print(
            json.dumps([entry._asdict() if hasattr(entry, "_asdict") else vars(entry) for entry in entries], indent=1)
        )
        return
    rows = [[one.name, one.source, one.size, one.licence, one.here or one.hint] for one in entries]
    _print_table(_console(), "data sets", ["name", "source", "size", "licence", "here"], rows)


DataName = Annotated[str, typer.Argument(metavar="NAME", help="A data set's name; see `data list`.")]


@data_app.command("fetch")
def data_fetch(name: DataName, plugin: Plugins = None) -> None:
    """Download, verify and prepare a data set. Can be interrupted and repeated."""
    _load(plugin)
    from bench.tasks import data

    with _progress() as progress:
        entry = data.fetch(name, progress)
    print(f"{name} is in {entry.here}")


@data_app.command("import")
def data_import(
    name: DataName,
    source: Annotated[str, typer.Option("--from", metavar="PATH", help="Your files: a file or a folder.")],
    plugin: Plugins = None,
) -> None:
    """Check and prepare a data set from files that you have."""
    _load(plugin)
    from bench.tasks import data

    with _progress() as progress:
        entry = data.import_(name, source, progress)
    print(f"{name} is in {entry.here}")


@contextmanager
def _progress(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar in a terminal; elsewhere a line for each piece of work that begins. Nothing where `quiet`."""
    if quiet:
        yield lambda what, done, total: None
        return
    if sys.stdout.isatty():
        from rich.progress import Progress

        with Progress(console=_console(), transient=True) as bars:
            task = bars.add_task("")
            yield lambda what, done, total: bars.update(task, description=what, completed=done, total=total or None)
        return
    begun: list[str] = []

    def say(what: str, done: int, total: int) -> None:
        if what not in begun:
            begun.append(what)
            print(what, flush=True)

    yield say


# What the commands share.


def _load(plugins: Sequence[str] | None) -> None:
    from bench import registry

    for file in plugins or ():
        registry.load_plugin(file)


def _grid(name: str, sets: Sequence[str] | None) -> Grid:
    from bench.grid import load_grid

    return load_grid(name, sets or ())


def _collection(name: str, sets: Sequence[str] | None, site: Site | None = None) -> Collection:
    from bench.grid import load_collection

    return load_collection(name, sets or (), site)


def _warn_of_failures() -> None:
    from bench import registry

    for name, reason in registry.failures.items():
        print(f"warning: plugin {name} could not be loaded: {reason}", file=sys.stderr)


def _console() -> Console:
    """The terminal as it is; elsewhere wide enough that no line is cut."""
    return Console() if sys.stdout.isatty() else Console(width=250, color_system=None)


def _print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table)
    console.print()


@contextmanager
def _status(what: str, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner that tells the last thing done, in a terminal; elsewhere nothing."""
    if quiet or not sys.stdout.isatty():
        yield lambda done: None
        return
    with _console().status(what) as status:
        yield lambda done: status.update(f"{what}: {done} done")


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


# The door.

_arguments: list[str] = []


def _program() -> str:
    """How this program was called."""
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    _arguments[:] = sys.argv[1:] if argv is None else argv
    try:
        code = typer.main.get_command(app).main(list(_arguments), prog_name="run_bench.py", standalone_mode=False)
        sys.stdout.flush()
    except BadInput as error:
        return _complain(str(error))
    except UsageError as error:
        return _complain(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}")
    return code if isinstance(code, int) else 0


def script() -> None:
    """The console script `bench`."""
    sys.exit(main())


def _complain(message: str) -> int:
    print("error:", " ".join(message.splitlines()), file=sys.stderr)
    return 2


def _command(ctx: Any) -> str:
    """The command that a context is in, as a prefix of messages."""
    path = ctx.command_path.split()[1:] if ctx is not None else []
    return f"{' '.join(path)}: " if path else ""


def _usage(error: Any) -> str:
    """A usage error of typer in one line, with what is allowed and the nearest of it."""
    prefix = _command(error.ctx)
    param: Any = getattr(error, "param", None)
    name = "" if param is None else param.metavar if param.param_type_name == "argument" else max(param.opts, key=len)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        options = [option for one in error.ctx.command.params for option in one.opts if option.startswith("--")]
        return str(unknown(f"{prefix}option", error.option_name, [*options, "--help"]))
    if kind == "MissingParameter":
        return f"{prefix}{name} is missing: {param.help}"
    if kind == "BadOptionUsage":
        return f"{prefix}{error.option_name} needs a value"
    if param is not None:
        return f"{prefix}{name}: {_given(name)}{error.message.replace('Input should', 'should')}"
    return f"{prefix}{error.format_message()}"


def _given(option: str) -> str:
    """The word that the command line gives for an option."""
    for word, after in zip(_arguments, [*_arguments[1:], ""], strict=True):
        if word == option or word.startswith(f"{option}="):
            return f"{after if word == option else word.partition('=')[2]!r} given; "
    return ""
