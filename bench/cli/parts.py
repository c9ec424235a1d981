"""What the commands share: options, tables, progress, and how the program was called."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.table import Table

from bench.errors import DamagedFile, unknown


class Group(typer.core.TyperGroup):
    """A group of commands that answers a wrong name in one line, and no name with its help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begins with. Raises `BadInput` when there is none of that name."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown(f"{command_path(ctx)}command", args[0], self.commands)
        return super().resolve_command(ctx, args)


GridName = Annotated[
    str, typer.Argument(metavar="GRID", help="A shipped grid's name (see `list grids`) or a YAML file.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field of every cell, e.g. training.optimiser.lr=1e-3. A list makes an axis, as in seed=[0,1]; "
        "of a field that takes a list, a list of lists does.",
    ),
]
Results = Annotated[
    str, typer.Option("--results", metavar="DIR", help="Where results are kept; a grid's own are in DIR/<grid name>.")
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE", help="A Python file that registers tasks or methods.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


MANY = 200
"""Cells; of a larger grid only those are listed with which something is yet to happen."""


def load(plugins: Sequence[str] | None) -> None:
    """Load the files that --plugin names."""
    from bench import registry

    for file in plugins or ():
        registry.load_plugin(file)


def warn_of_failures() -> None:
    """Tell of installed plugins that could not be loaded."""
    from bench import registry

    for name, reason in registry.failures.items():
        print(f"warning: plugin {name} could not be loaded: {reason}", file=sys.stderr)


def results_folder(name: str, results: Path) -> Path:
    """Where a grid, or a collection of grids, keeps its results."""
    return results / (Path(name).stem if Path(name).suffix in (".yaml", ".yml") else name)


def terminal() -> Console:
    """The terminal as it is; elsewhere wide enough that no line is cut."""
    return Console() if sys.stdout.isatty() else Console(width=250, color_system=None)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print it, with a blank line after it. `rows` hold plain text."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console = terminal()
    console.print(table)
    console.print()


@contextmanager
def spinner(what: str, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner that tells the last thing done, in a terminal; elsewhere nothing."""
    if quiet or not sys.stdout.isatty():
        yield lambda done: None
        return
    with terminal().status(what) as status:
        yield lambda done: status.update(f"{what}: {done} done")


@contextmanager
def bar(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar in a terminal; elsewhere a line for each piece of work that begins. Nothing where `quiet`."""
    if quiet:
        yield lambda what, done, total: None
        return
    if sys.stdout.isatty():
        from rich.progress import Progress

        with Progress(console=terminal(), transient=True) as bars:
            task = bars.add_task("")
            yield lambda what, done, total: bars.update(task, description=what, completed=done, total=total or None)
        return
    begun: list[str] = []

    def say(what: str, done: int, total: int) -> None:
        if what not in begun:
            begun.append(what)
            print(what, flush=True)

    yield say


arguments: list[str] = []
"""The command line that this program was called with."""


def program() -> str:
    """How this program was called."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        return "python -m bench"
    return f"python {name}" if name.endswith(".py") else name


def command_path(ctx: Any) -> str:
    """The command that a context is in, as a prefix of messages."""
    path = ctx.command_path.split()[1:] if ctx is not None else []
    return f"{' '.join(path)}: " if path else ""


MOST_TOLD = 20
"""Damaged files that a command names; `status` has the reason of each cell that is damaged."""


def tell_of_damage() -> None:
    """From now on, each damaged file of results is named in a line, once."""
    usual, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, DamagedFile):
            usual(message, category, *place)
            return
        text = str(message)
        if text not in told and len(told) <= MOST_TOLD:
            told.add(text)
            print(f"warning: {text}" if len(told) <= MOST_TOLD else "warning: and more", file=sys.stderr)

    warnings.showwarning = show  # type: ignore[assignment]
    warnings.simplefilter("always", DamagedFile)
