"""The program: its commands, and its messages on a command line that it cannot use."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from bench import __version__
from bench.cli.data import data_fetch, data_import, data_list
from bench.cli.diagnose import diagnose
from bench.cli.listing import list_
from bench.cli.measure import cost, sample
from bench.cli.parts import Group, arguments, command_path, tell_of_damage
from bench.cli.plugins import check, new_backbone, new_method, new_task
from bench.cli.report import compare, report
from bench.cli.run import cancel, run
from bench.cli.status import status
from bench.errors import BadInput, shown, unknown
from bench.outgoing import message
from bench.paths import at_home

# typer brings its own copy of click or uses the installed one, by version; its public BadParameter knows which.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 some cell or check failed or is worse, 2 bad input, 130 stopped by Ctrl-C.",
)


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


app.command("list")(list_)
for command in (run, cancel, cost, sample, diagnose, status, report, compare, check):
    app.command()(command)

new_app = typer.Typer(cls=Group, invoke_without_command=True)
new_app.command("method")(new_method)
new_app.command("task")(new_task)
new_app.command("backbone")(new_backbone)

data_app = typer.Typer(cls=Group, invoke_without_command=True)
data_app.command("list")(data_list)
data_app.command("fetch")(data_fetch)
data_app.command("import")(data_import)

app.add_typer(data_app, name="data")
app.add_typer(new_app, name="new")


@new_app.callback()
def _new(ctx: typer.Context) -> None:
    """Write a small working plugin, to start from."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@data_app.callback()
def _data(ctx: typer.Context) -> None:
    """Data sets of the natural tasks: what is here, and how to bring the rest."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    try:
        _have_streams()
        tell_of_damage()
        arguments[:] = map(_at_home, sys.argv[1:] if argv is None else argv)
        code = typer.main.get_command(app).main(list(arguments), prog_name="run_bench.py", standalone_mode=False)
        sys.stdout.flush()
    except BadInput as error:
        return _complain(str(error))
    except UsageError as error:
        return _complain(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the reader of our output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}")
    return code if isinstance(code, int) else 0


def script() -> None:
    """The console script `bench`."""
    code = 130
    with suppress(KeyboardInterrupt):  # a second Ctrl-C, while the first is handled
        code = main()
    with suppress(ValueError):  # (not the main thread)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program has ended; Ctrl-C would interrupt its exit
    sys.exit(code)


def _have_streams() -> None:
    """Open standard streams that the shell has closed, as the next opened file would get their descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal may lack a character


def _at_home(word: str) -> str:
    """Expand a path that begins with ~, alone or as in --results=~/x, which the shell leaves alone."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{at_home(value)}" if value.startswith("~") else word


def _complain(text: str) -> int:
    print(message(f"error: {text}"), file=sys.stderr)
    return 2


def _usage(error: Any) -> str:
    """A usage error of typer in one line, with the allowed values and the nearest of them."""
    prefix = command_path(error.ctx)
    param: Any = getattr(error, "param", None)
    name = "" if param is None else param.metavar if param.param_type_name == "argument" else max(param.opts, key=len)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        options = [option for known in error.ctx.command.params for option in known.opts if option.startswith("--")]
        return str(unknown(f"{prefix}option", error.option_name, [*options, "--help"]))
    if kind == "MissingParameter":
        return f"{prefix}{name} is missing: {param.help}"
    if kind == "BadOptionUsage":
        takes = any(word.startswith(f"{error.option_name}=") for word in arguments)
        return f"{prefix}{error.option_name} {'takes no' if takes else 'needs a'} value"
    if param is not None:
        return f"{prefix}{name}: {_given(name)}{error.message.replace('Input should', 'should')}"
    return f"{prefix}{error.format_message()}"


def _given(option: str) -> str:
    """The value that the command line gives for an option, as a phrase."""
    for word, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == option or word.startswith(f"{option}="):
            return f"{shown(after if word == option else word.partition('=')[2])} given; "
    return ""
