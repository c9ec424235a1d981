"""Shared parts of the commands: options, tables, progress, and the program's name."""

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
from rich.text import Text

from bench.errors import BadInput, DamagedFile, cut, line, unknown
from bench.outgoing import clean, message
from bench.outgoing import terminal as terminal_text
from bench.paths import grid_name


class Group(typer.core.TyperGroup):
    """A group of commands that answers an unknown name with one line, and no name with its help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command named first in `args`. Raises `BadInput` for an unknown name."""
        if args and (args[0] == "-" or not args[0].startswith("-")) and args[0] not in self.commands:
            raise unknown(f"{command_path(ctx)}command", args[0], self.commands)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. An unexpected end of file is reported, which click would take for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise BadInput(f"a file ends too early: {line(error)}") from error


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
"""The largest number of cells that are all listed; of a larger grid only unfinished ones are."""


def load(plugins: Sequence[str] | None, needed: bool = True) -> None:
    """Load the files given by --plugin. Raises `BadInput` where one that is `needed` cannot be loaded."""
    from bench import registry

    for file in plugins or ():
        registry.load_plugin(file)
        if needed and file in registry.failures:
            raise BadInput(f"--plugin {cut(file)} could not be loaded: {registry.failures[file]}")


def warn_of_failures() -> None:
    """Warn of installed plugins that could not be loaded."""
    from bench import registry

    for name, reason in registry.failures.items():
        warn(f"plugin {name} could not be loaded: {reason}")


def say(text: object) -> None:
    """Print text from any source for the user."""
    print(terminal_text(text), flush=True)


def warn(text: str) -> None:
    """Print a line on stderr."""
    print(message(f"warning: {text}"), file=sys.stderr)


def results_folder(name: str, results: Path) -> Path:
    """The results folder of a grid or a collection of grids."""
    return results / grid_name(name)


def terminal() -> Console:
    """A console of the terminal's width; elsewhere wide enough that no line is cut."""
    return Console() if sys.stdout.isatty() else Console(width=250, color_system=None)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table and a blank line. `rows` hold plain text."""
    table = Table(title=_text(title), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(_text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    console = terminal()
    console.print(table)
    console.print()


def _text(text: str) -> Text:
    """Text from any source for rich, without markup and control characters."""
    return Text(terminal_text(text))


@contextmanager
def spinner(what: str, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner with the last thing done, in a terminal; elsewhere nothing."""
    if quiet or not sys.stdout.isatty():
        yield lambda done: None
        return
    with terminal().status(_text(what)) as status:
        yield lambda done: status.update(_text(f"{what}: {done} done"))


@contextmanager
def bar(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar in a terminal; elsewhere a line for each piece of work that begins. Nothing where `quiet`."""
    if quiet:
        yield lambda what, done, total: None
        return
    if sys.stdout.isatty():
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        described = TextColumn("{task.description}", markup=False)
        columns = (described, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=terminal(), transient=True) as bars:
            task = bars.add_task("")
            yield lambda what, done, total: bars.update(
                task, description=clean(what), completed=done, total=total or None
            )
        return
    begun: list[str] = []

    def begin(what: str, done: int, total: int) -> None:
        if what not in begun:
            begun.append(what)
            say(what)

    yield begin


arguments: list[str] = []
"""The command line that this program was called with."""


def program() -> str:
    """The command by which this program was called."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        return "python -m bench"
    return f"python {name}" if name.endswith(".py") else name


def command_path(ctx: Any) -> str:
    """The name of a context's command, as a prefix of messages."""
    path = ctx.command_path.split()[1:] if ctx is not None else []
    return f"{' '.join(path)}: " if path else ""


MOST_NAMED = 20
"""The largest number of damaged files that a command names; `status` has the reason of each damaged cell."""


def tell_of_damage() -> None:
    """Report each damaged file of results once, in a line, from now on."""
    usual, named = warnings.showwarning, set[str]()

    def show(warning: Warning | str, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, DamagedFile):
            usual(warning, category, *place)
            return
        text = message(f"warning: {warning}")
        if text not in named and len(named) <= MOST_NAMED:
            named.add(text)
            print(text if len(named) <= MOST_NAMED else "warning: and more files", file=sys.stderr)

    warnings.showwarning = show  # type: ignore[assignment]
    warnings.simplefilter("always", DamagedFile)
