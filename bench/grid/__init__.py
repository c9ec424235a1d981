"""Grids: YAML files that say which runs to make.

    about: one line for `list grids`
    include: tuned                   # base and overrides of a recipe, below those of this file; shipped, or a YAML file
    base:                            # fields of a run, nested or dotted
      model: {d: 32, heads: 4}
      training.batch_size: 64
    axes:                            # every combination
      task: [retrieval, stack]       # a name stands for {name: ...}
      method: [smt+dmt, bptt]
      seed: [0, 1, 2]
      case: [{task.length: 16, model.d: 32}, {task.length: 32, model.d: 64}]      # several fields at once
    ladders:                         # one at a time: the base cell, and this one field changed
      model.memory_tokens: [2, 8]
    overrides:                       # for the cells that match, see below; axes and ladders win over them
      - where: {task: stack, method: bptt}
        set: {training.optimiser.lr: 1e-3}
    parts:                           # further grids that share the above; each has its own axes
      - axes: {...}
    measure: [cost, dynamics]        # what `bench.measure` looks at in every finished cell
    compare: {accuracy: 0.03}        # how far a cell may fall before `compare` calls it a regression
    slurm: {gpus: 1, minutes: 720}   # what its jobs ask for on a cluster; see `bench/launch/slurm/settings.py`

A file may instead gather other grids, each of which keeps a folder of its own:

    grids: [synthetic-small, length-small]
    cost: [complexity]               # grids whose cost is traced, as `cost GRID` does, and not trained

Conditions are on a cell as it would be without overrides, with the defaults of what it does not say. A list matches any
of its values; of a field that itself takes a list, a flat list is its value, and a list of lists is several.

A cell may start from another cell's finished phase: `init_from: {method: smt, phase: smt}` is the one cell of the grid
that has this task, model and seed, and that method. `device` and `precision` are `auto` where not given: a GPU with
bfloat16 autocast if there is one, else the CPU in float32. Cells that come out equal are one cell.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from bench import registry
from bench.config import Run
from bench.errors import BadInput, shown, unknown
from bench.grid.cells import GridFile, Place, cells_of, require_some_use, varied_fields
from bench.grid.nested import Fields, parse_sets
from bench.grid.runs import linked, resolve, take_selector
from bench.measure import NAMES as MEASURES
from bench.paths import folder_name, grid_name, is_grid_file
from bench.read_yaml import parse_yaml, read_yaml
from bench.results.folder import groups
from bench.tolerances import Tolerances

SHIPPED = files("bench") / "grids"
RECIPES = SHIPPED / "recipes"
Site = Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], bool]]
"""Maps the `slurm` section of a grid to the settings of a launch, and whether its jobs have GPUs."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A named list of runs, no two alike."""

    name: str
    about: str
    runs: tuple[Run, ...]
    measures: tuple[str, ...] = ()
    compare: Tolerances = dataclasses.field(default_factory=Tolerances)
    slurm: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    places: Mapping[str, Place] = dataclasses.field(default_factory=dict)
    """Id -> place. A cell of several parts has the place with the fewest fields off."""
    stated: tuple[tuple[str, ...], ...] = ()
    """The fields that axes and ladders vary; those of a case together."""
    launch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The grid's file and what `--set` changed in it, as plain data."""

    def record(self) -> dict[str, Any]:
        """The grid's record, which `bench.results.places` keeps beside its cells."""
        group_of = groups({run.id: run.describe() for run in self.runs})
        cells = {
            run.id: {"group": group_of[run.id], "seed": run.seed, **self.places[run.id]._asdict()} for run in self.runs
        }
        named = {
            "name": self.name,
            "about": self.about,
            "measures": self.measures,
            "launches": [self.launch],
            "compare": self.compare.model_dump(),
            "stated": self.stated,
            "cells": cells,
            "methods": {name: place for place, name in enumerate(registry.methods.registered())},
        }
        plain: dict[str, Any] = json.loads(json.dumps(named, default=str))
        return plain


@dataclasses.dataclass(frozen=True)
class Collection:
    """Grids that are run one after another, and grids whose cost is traced; a single grid is a collection of one."""

    name: str
    grids: tuple[Grid, ...]
    cost: tuple[Grid, ...] = ()
    single: bool = False

    def folder(self, results: Path, grid: Grid) -> Path:
        """The folder in which one of the grids keeps its results."""
        return results / grid.name if self.single else results / self.name / grid.name


def grid_names() -> dict[str, str]:
    """The shipped grids: name -> description."""
    return {name: parse_yaml(file.read_text("utf-8"), file.name).get("about", "").strip() for name, file in _shipped()}


def _shipped(folder: Traversable = SHIPPED) -> list[tuple[str, Traversable]]:
    """Names and files of the shipped grids, or recipes, in alphabetical order."""
    return sorted((file.name[:-5], file) for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_collection(name: str, sets: Sequence[str] = (), site: Site | None = None) -> Collection:
    """Like `load_grid`, also for a file that gathers grids. The overrides apply to each of them that is trained."""
    stem, data = _read(name)
    if not (isinstance(data, Mapping) and "grids" in data):
        return Collection(stem, (make_grid(stem, data, sets, site),), single=True)
    where = f"grid {stem}"
    gathered = GridFile.parse(data, where)
    if others := sorted(set(data) - {"about", "grids", "cost"}):
        raise BadInput(f"{where}: {others[0]}: cannot stand beside grids; allowed: about, grids, cost")
    if not gathered.grids:
        raise BadInput(f"{where}: grids: names none; should be names of grids: {', '.join(grid_names())}")
    for key, names in (("grids", gathered.grids), ("cost", gathered.cost)):
        _require_different([grid_name(member) for member in names], f"{where}: {key}")
    trained = tuple(load_grid(member, sets, site) for member in gathered.grids)
    return Collection(stem, trained, tuple(load_grid(member) for member in gathered.cost))


def _require_different(names: Sequence[str], where: str) -> None:
    """Raise `BadInput` where two grids would share a folder, on a file system that ignores case too."""
    seen = set[str]()
    for name in names:
        if name.casefold() in seen:
            raise BadInput(f"{where}: two are called {shown(name)}, and would share a folder; rename a file")
        seen.add(name.casefold())


def load_grid(name: str, sets: Sequence[str] = (), site: Site | None = None) -> Grid:
    """Load a shipped grid, by name, or a YAML file, and apply `--set` overrides "KEY=VALUE"."""
    stem, data = _read(name)
    return make_grid(stem, data, sets, site)


def _read(given: str) -> tuple[str, Any]:
    """The name of a grid and the contents of its file."""
    own = is_grid_file(given)
    where, folder = (f"grid {shown(given)}", Path(given).parent) if own else (f"grid {given}", Path(str(SHIPPED)))
    data = _contents(given, SHIPPED, Path(), "grid (a shipped name or a YAML file)", where)
    return grid_name(given), _with_recipe(data, folder, where)


def _with_recipe(data: Any, folder: Path, where: str) -> Any:
    """The contents of a grid file, with those of the recipe in place of its name; a file's is relative to `folder`."""
    if not isinstance(data, Mapping) or isinstance(given := data.get("include", {}), Mapping):
        return data
    if not isinstance(given, str):
        named = ", ".join(name for name, _ in _shipped(RECIPES))
        raise BadInput(f"{where}: include: {shown(given)} given; should be a shipped recipe, {named}, or a YAML file")
    what = f"{where}: include (a shipped recipe or a YAML file)"
    return {**data, "include": _contents(given, RECIPES, folder, what, f"{where}: include: {shown(given)}")}


def _contents(given: str, among: Traversable, folder: Path, what: str, where: str) -> Any:
    """What the shipped file of that name holds, or the YAML file, relative to `folder`. Raises `BadInput`."""
    shipped = [name for name, _ in _shipped(among)]
    if is_grid_file(given):
        return read_yaml(folder / given, where, f"; shipped {among.name}: {', '.join(shipped)}")
    if given not in shipped:
        raise unknown(what, given, shipped)
    return read_yaml(Path(str(among / f"{given}.yaml")), where)


def make_grid(name: str, data: Any, sets: Sequence[str] = (), site: Site | None = None) -> Grid:
    """Expand the contents of a grid file into runs.

    `site` is for cells that run elsewhere: it turns the grid's `slurm` section into settings, and says whether there
    are GPUs there.
    """
    where = f"grid {folder_name(name, 'grid')}"
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: should hold keys such as base and axes, not {type(data).__name__}")
    data = _with_recipe(data, Path(), where)
    grid = GridFile.parse(data, where)
    if grid.grids or grid.cost:
        raise BadInput(f"{where}: gathers other grids: {', '.join(grid.grids)}; name one of them here")
    for measure in grid.measure:
        if measure not in MEASURES:
            raise unknown(f"{where}: measure", measure, MEASURES)
    settings, gpu = (grid.slurm, None) if site is None else site(grid.slurm)
    given = parse_sets(sets)
    cells, places = list[Fields](), list[Place]()
    for cell, place in cells_of(grid, given, where, gpu):
        cells.append(cell)
        places.append(place)
    if not cells:
        raise BadInput(f"{where}: has no cells; give axes with at least one value each")
    require_some_use(cells, given)
    selectors = [take_selector(cell) for cell in cells]
    runs = [resolve(cell, where, gpu) for cell in cells]
    runs = [
        linked(run, selector, runs, where) if selector else run for run, selector in zip(runs, selectors, strict=True)
    ]
    unique = {run.id: run for run in runs}
    order = sorted(zip(runs, places, strict=True), key=lambda pair: (-len(pair[1].off), pair[1].rung is None))
    return Grid(
        name,
        grid.about.strip(),
        tuple(unique.values()),
        tuple(grid.measure),
        grid.compare,
        settings,
        {run.id: place for run, place in order},
        varied_fields(grid, given),
        {"grid": data, "set": list(sets)},
    )
