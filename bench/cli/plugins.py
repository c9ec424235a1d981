"""`new` and `check`: a plugin to start from, and a check that a plugin keeps the contract."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.parts import AsJson, load, print_table, program, say, spinner, warn_of_failures
from bench.errors import BadInput, unknown

NewName = Annotated[str, typer.Argument(metavar="NAME", help="Its name in grids, such as truncated-bptt.")]
NewFolder = Annotated[str, typer.Option("--dir", metavar="DIR", help="Where to create its folder.")]


def new_method(name: NewName, folder: NewFolder = ".") -> None:
    """A training method: a package with its class, its test and an entry point."""
    _write_plugin("method", name, folder)


def new_task(name: NewName, folder: NewFolder = ".") -> None:
    """A task: a package with its class, its test and an entry point."""
    _write_plugin("task", name, folder)


def new_backbone(name: NewName, folder: NewFolder = ".") -> None:
    """A backbone: a package with its class, its test and an entry point."""
    _write_plugin("backbone", name, folder)


def _write_plugin(kind: Literal["method", "task", "backbone"], name: str, folder: str) -> None:
    from bench import scaffold

    written = scaffold.write(kind, name, Path(folder))
    plugin, called = shlex.quote(str(written[0].parent)), program()
    print(f"wrote {', '.join(map(str, written))}")
    print(f"try it:      {called} check {name} --plugin {shlex.quote(str(written[0]))}")
    print(f"install it:  pip install -e {plugin}, then: {called} list {kind}s")


def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Methods, tasks, backbones.", show_default=False)
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="FILE", help="A Python file; without NAME all that it registers is checked."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="method|task|backbone", help="For a name that several kinds share.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Check everything.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the small runs, e.g. method.window=4."),
    ] = None,
    junit: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write JUnit XML, which CI services show.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a method, task or backbone keeps the contract, and show what to fix in each failed row.

    Exit code 1 when a row fails, or when nothing could be checked.
    """
    from bench.registry import REGISTRIES
    from bench.testing import check as examine
    from bench.testing import require_overrides
    from bench.testing.suite import write_junit

    kinds = {registry.kind: registry for registry in REGISTRIES}
    if kind is not None and kind not in kinds:
        raise unknown("check: --kind", kind, kinds)
    before = {registry.kind: set(registry.names()) for registry in REGISTRIES}
    load(plugin)
    warn_of_failures()
    looked = [registry for registry in REGISTRIES if kind in (None, registry.kind)]
    there = [(registry.kind, name) for registry in looked for name in registry.names()]
    if names:
        known = {name for _, name in there}
        for name in names:
            if name not in known:
                raise unknown("check", name, sorted(known))
        subjects = [subject for subject in there if subject[1] in names]
    elif all_:
        subjects = there
    elif plugin:
        subjects = [subject for subject in there if subject[1] not in before[subject[0]]]
    else:
        raise BadInput("check: nothing to check; give NAME, --plugin FILE, or --all")
    for part, name in subjects if sets else ():
        require_overrides(part, name, sets or ())  # type: ignore[arg-type]
    outcomes = []
    for part, name in subjects:
        found = []
        with spinner(f"{part} {name}", quiet=as_json) as tell:
            for outcome in examine(part, name, sets or ()):  # type: ignore[arg-type]
                found.append(outcome)
                tell(outcome.row)
        outcomes += found
        if not as_json:
            rows = [[each.row, each.state, each.detail, f"{each.seconds:.1f}"] for each in found]
            print_table(f"{part} {name}", ["row", "outcome", "what was found", "seconds"], rows)
            for each in found:
                if each.state == "failed":
                    say(f"to fix {each.row!r}: {each.fix}")
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
