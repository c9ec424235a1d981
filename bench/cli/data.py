"""`data`: the data sets of the natural tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.parts import AsJson, Plugins, bar, load, print_table, say, warn_of_failures

if TYPE_CHECKING:
    from bench.tasks.data import Entry


def data_list(as_json: AsJson = False, plugin: Plugins = None) -> None:
    """Show each data set: source, size, licence, and where it is."""
    load(plugin, needed=False)
    from bench.tasks import data

    entries = data.catalogue()
    if as_json:
        print(
            json.dumps([entry._asdict() if hasattr(entry, "_asdict") else vars(entry) for entry in entries], indent=1)
        )
        warn_of_failures()
        return
    rows = [[entry.name, entry.source, entry.size, entry.licence, entry.here or entry.hint] for entry in entries]
    print_table("data sets", ["name", "source", "size", "licence", "here"], rows)
    warn_of_failures()


DataName = Annotated[str, typer.Argument(metavar="NAME", help="A data set's name; see `data list`.")]


def data_fetch(name: DataName, plugin: Plugins = None) -> None:
    """Download, verify and prepare a data set. Can be interrupted and repeated."""
    load(plugin)
    from bench.tasks import data

    with bar() as progress:
        entry = data.fetch(name, progress)
    print_splits(entry)


def data_import(
    name: DataName,
    source: Annotated[str, typer.Option("--from", metavar="PATH", help="Your files: a file or a folder.")],
    plugin: Plugins = None,
) -> None:
    """Check and prepare a data set from files that you have."""
    load(plugin)
    from bench.tasks import data

    with bar() as progress:
        entry = data.import_(name, source, progress)
    print_splits(entry)


def print_splits(entry: Entry) -> None:
    """Print where the data is, the size and source of each split, and the other settings."""
    say(f"{entry.name} is in {entry.here}")
    settings = dict(entry.settings)
    for split, counts in entry.counts.items():
        held = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        origin = settings.pop(split, None)
        say(f"  {split}: {held}" + (f" ({origin})" if origin else ""))
    for what, value in settings.items():
        say(f"  {what.replace('_', ' ')}: {format(value, ',') if isinstance(value, int) else value}")
