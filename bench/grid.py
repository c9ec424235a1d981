"""Grids: YAML files that say which runs to make.

    about: one line for `list grids`
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
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import compiling, registry
from bench.build import build_method, build_task
from bench.config import Config, InitFrom, ModelConfig, Outline, Run, config_in, uses_backbone
from bench.errors import BadInput, cut, nearest, shown, unknown
from bench.fields import canonical, is_value, value_at
from bench.measure import NAMES as MEASURES
from bench.models.sizes import count_parameters, nearest_size
from bench.paths import folder_name, grid_name, is_grid_file
from bench.read_yaml import parse_yaml, read_yaml
from bench.results.folder import groups
from bench.tolerances import Tolerances

SECTIONS = ("task", "method", "model", "training", "evaluation")
FIELDS = (*SECTIONS, "seed", "device", "precision", "threads", "init_from")
KINDS: dict[str, registry.Registry[Any]] = {"task": registry.tasks, "method": registry.methods}
SHIPPED = files("bench") / "grids"

MOST_DOTS = 8
"""Dots in a key, more than any field needs."""
MOST_CELLS = 100_000
"""Cells of a grid; they are counted before any is made."""

Fields = dict[str, Any]
"""Fields of a run as nested plain data; partial while a grid is expanded."""
Conditions = list[tuple[tuple[str, ...], list[Any]]]
"""Paths of fields, and the values allowed at each."""
Site = Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], bool]]
"""Maps the `slurm` section of a grid to the settings of a launch, and whether its jobs have GPUs."""


class GridFile(Config):
    """The keys of a grid file, as the module's docstring describes them."""

    about: str = ""
    base: dict[str, Any] = {}
    axes: dict[str, list[Any]] = {}
    ladders: dict[str, list[Any]] = {}
    overrides: list[Override] = []
    parts: list[Part] = []
    measure: list[str] = []
    compare: Tolerances = Tolerances()
    slurm: dict[str, Any] = {}
    grids: list[str] = []
    cost: list[str] = []


class Override(Config):
    """Fields that are set in the cells that match."""

    where: dict[str, Any]
    set: dict[str, Any]


class Part(Config):
    """One of several grids in a file, which share its other keys."""

    base: dict[str, Any] = {}
    axes: dict[str, list[Any]] = {}
    ladders: dict[str, list[Any]] = {}
    overrides: list[Override] = []


GridFile.model_rebuild()


class Place(NamedTuple):
    """Where a cell stands in its grid."""

    at: Mapping[str, Any]
    """Its value on every axis but the seed's."""
    rung: str | None
    """The field of the ladder that it is on."""
    off: tuple[str, ...]
    """The fields in which it departs from the grid's default setting; a cell with none is no ablation.

    They are the ladder's field, and axes of method, model and training whose values include the default.
    """


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


# Reading.


def grid_names() -> dict[str, str]:
    """The shipped grids: name -> description."""
    return {name: parse_yaml(file.read_text("utf-8"), file.name).get("about", "").strip() for name, file in _shipped()}


def _shipped() -> list[tuple[str, Traversable]]:
    """Names and files of the shipped grids, in alphabetical order."""
    return sorted((file.name[:-5], file) for file in SHIPPED.iterdir() if file.name.endswith(".yaml"))


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
    shipped = [name for name, _ in _shipped()]
    if not is_grid_file(given):
        if given not in shipped:
            raise unknown("grid (a shipped name or a YAML file)", given, shipped)
        return given, read_yaml(Path(str(SHIPPED / f"{given}.yaml")), f"grid {given}")
    return grid_name(given), read_yaml(Path(given), f"grid {shown(given)}", f"; shipped grids: {', '.join(shipped)}")


def make_grid(name: str, data: Any, sets: Sequence[str] = (), site: Site | None = None) -> Grid:
    """Expand the contents of a grid file into runs.

    `site` is for cells that run elsewhere: it turns the grid's `slurm` section into settings, and says whether there
    are GPUs there.
    """
    where = f"grid {folder_name(name, 'grid')}"
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: should hold keys such as base and axes, not {type(data).__name__}")
    grid = GridFile.parse(data, where)
    if grid.grids or grid.cost:
        raise BadInput(f"{where}: gathers other grids: {', '.join(grid.grids)}; name one of them here")
    for measure in grid.measure:
        if measure not in MEASURES:
            raise unknown(f"{where}: measure", measure, MEASURES)
    settings, gpu = (grid.slurm, None) if site is None else site(grid.slurm)
    given = _parse_sets(sets)
    cells, places = list[Fields](), list[Place]()
    for cell, place in _cells(grid, given, where, gpu):
        cells.append(cell)
        places.append(place)
    if not cells:
        raise BadInput(f"{where}: has no cells; give axes with at least one value each")
    _require_some_use(cells, given)
    selectors = [_take_selector(cell) for cell in cells]
    runs = [_resolve(cell, where, gpu) for cell in cells]
    runs = [
        _linked(run, selector, runs, where) if selector else run for run, selector in zip(runs, selectors, strict=True)
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
        _varied_fields(grid, given),
        {"grid": data, "set": list(sets)},
    )


# Fields: nested data, addressed by dotted keys.


def parse_set(text: str) -> tuple[str, Any]:
    """Split `--set KEY=VALUE` into the key, which is checked, and the value, which is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"--set {shown(text)}: should be KEY=VALUE, for example training.optimiser.lr=1e-3")
    _check_key(key.strip(), f"--set {cut(text)}")
    return key.strip(), parse_yaml(value, f"--set {cut(text)}")


def _parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """The values that `--set` gives, by key."""
    given: dict[str, Any] = {}
    seen = set[str]()
    for text in sets:
        key, value = parse_set(text)
        named = set(_names(_nested({key: value}, f"--set {cut(text)}")))
        if twice := sorted(named & seen):
            raise BadInput(f"--set {cut(text)}: {twice[0].removesuffix('.name')} is given twice")
        seen |= named
        given[key] = value
    return given


def _names(fields: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted names of all fields in nested data."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _check_key(key: str, where: str) -> None:
    first = key.partition(".")[0]
    if first not in FIELDS:
        raise unknown(f"{where}: field", first, FIELDS)


def _nested(data: Mapping[str, Any], where: str) -> Fields:
    """Unfold dotted keys, write names of tasks and methods as `{"name": ...}`, and check the first part of each key."""
    for key in data:
        _check_key(str(key), where)
    named = {
        key: {"name": value} if key in ("task", "method") and not isinstance(value, Mapping) else value
        for key, value in data.items()
    }
    return _unfolded(named)


def _unfolded(value: Any) -> Any:
    """Turn dotted keys, at any depth, into nested mappings."""
    if not isinstance(value, Mapping):
        return value
    fields: Fields = {}
    for key, inner in value.items():
        unfolded = _unfolded(inner)
        if str(key).count(".") > MOST_DOTS:
            raise BadInput(f"field {shown(key)}: has more than {MOST_DOTS} dots")
        for part in reversed(str(key).split(".")):
            unfolded = {part: unfolded}
        fields = _merged(fields, unfolded)
    return fields


def _merged(below: Any, above: Any) -> Any:
    """Merge mappings key by key, where `above` wins; a budget is replaced whole."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merged(merged[key], value) if key in merged and key != "budget" else value
    return merged


def _at(fields: Fields, key: str) -> Any:
    """The value at a dotted key, or None; `task` and `method` stand for their names."""
    value: Any = fields
    for part in (f"{key}.name" if key in ("task", "method") else key).split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


# Expansion.


def _varied_fields(grid: GridFile, sets: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The fields, apart from the seed, that axes and ladders vary; those of a case together."""
    keys: dict[tuple[str, ...], None] = {}
    every: list[GridFile | Part] = [grid, *grid.parts]
    varied = [axes for part in every for axes in (part.axes, part.ladders)]
    varied.append({key: value for key, value in sets.items() if isinstance(value, list)})
    for key, values in (item for axes in varied for item in axes.items()):
        if key in ("case", "task", "method"):  # a name, or several fields at once
            given = [value if key == "case" else {key: value} for value in values]
            fields = [name for entry in given for name in _names(_nested(entry, "axes")) if name not in NAMED]
        else:
            fields = [key]
        keys[tuple(dict.fromkeys(fields))] = None
    return tuple(fields for fields in keys if fields and fields != ("seed",))


def _cells(
    grid: GridFile, sets: Mapping[str, Any], where: str, gpu: bool | None = None
) -> Iterator[tuple[Fields, Place]]:
    """Every cell as nested fields, with its place, in the order of the file."""
    listed = _axes_among(grid, sets, where)
    fixed = {key: value for key, value in sets.items() if key not in listed}
    shapes = []
    for part in grid.parts or [Part()]:
        axes = {key: values for key, values in {**grid.axes, **part.axes}.items() if key not in fixed} | listed
        ladders = {key: values for key, values in {**grid.ladders, **part.ladders}.items() if key not in sets}
        shapes.append((part, axes, ladders))
    count = sum(
        math.prod(map(len, axes.values())) * (1 + sum(map(len, ladders.values()))) for _, axes, ladders in shapes
    )
    if count > MOST_CELLS:
        raise BadInput(f"{where}: has {_about(count)} cells; should have at most {MOST_CELLS:,}")
    for part, axes, ladders in shapes:
        base = _merged(_checked_base(grid.base, where), _checked_base(part.base, where))
        overrides = [_checked_override(override, where) for override in (*grid.overrides, *part.overrides)]
        products = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        rungs = [{}, *({key: value} for key, values in ladders.items() for value in values)]
        for rung, product in itertools.product(rungs, products):
            given = {**fixed, **{key: product[key] for key in listed}}
            chosen = {key: value for key, value in {**product, **rung}.items() if key not in listed}
            cell = _cell(base, chosen, overrides, given, where, gpu)
            at = {key: value for key, value in product.items() if key != "seed"}
            ablated = {key: axes[key] for key in at if key.startswith(ABLATED)} | {key: [] for key in rung}
            off: tuple[str, ...] = ()
            if ablated:
                plain = _cell(base, _without(chosen, ablated), overrides, _without(given, ablated), where, gpu)
                off = tuple(key for key, values in ablated.items() if _departs(cell, plain, key, values, gpu))
            yield cell, Place(at, next(iter(rung), None), off)


def _checked_base(given: Mapping[str, Any], where: str) -> Fields:
    """The fields of a base, checked even where an axis replaces them in every cell."""
    fields = _nested(given, where)
    _check_fields(fields, {}, f"{where}.base")
    return fields


def _checked_override(override: Override, where: str) -> tuple[Conditions, Fields]:
    """The conditions and fields of an override, checked even where it matches no cell."""
    conditions = conditions_of(override.where, f"{where}.overrides.where")
    fields = _nested(override.set, where)
    _check_fields(fields, dict(conditions), f"{where}.overrides.set")
    return conditions, fields


def _about(count: int) -> str:
    return f"{count:,}" if count < 10**12 else f"about 10^{int(math.log10(count))}"


NAMED = ("task.name", "method.name")
ABLATED = ("method.", "model.", "training.")
"""Fields whose values on an axis are ablations where the default is among them."""


def _without(fields: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in keys}


def _departs(cell: Fields, plain: Fields, key: str, values: Sequence[Any], gpu: bool | None) -> bool:
    """Whether a cell's value at a key differs from that of `plain`, the same cell without its axis or ladder.

    `values` are those of the axis: where the default is not among them, there is nothing to depart from.
    """
    path = key.split(".")
    default = _value(plain, path, gpu)
    if values and all(_value(_merged(plain, _nested({key: value}, key)), path, gpu) != default for value in values):
        return False
    return bool(_value(cell, path, gpu) != default)


def _axes_among(grid: GridFile, sets: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    """The lists given by `--set` that make an axis; others are the value of a field that takes a list."""
    lists = {key: value for key, value in sets.items() if isinstance(value, list)}
    names = {key: value for key, value in sets.items() if key.removesuffix(".name") in ("task", "method")}
    if any(key not in names and key.startswith(("task.", "method.")) for key in lists):
        cells = [cell for cell, _ in _cells(grid, names, where)]  # whose configs say which fields take lists
    else:
        cells = []

    def is_axis(key: str, value: list[Any]) -> bool:
        first, *rest = key.split(".")
        if first not in KINDS:
            return not _is_value(Outline, [first, *rest], value)
        classes = {KINDS[first].get(str(_at(cell, first))).Config for cell in cells}
        return not any(_is_value(cls, rest, value) for cls in classes)

    return {key: value for key, value in lists.items() if key in names or is_axis(key, value)}


def _is_value(cls: type[Config] | None, path: Sequence[str], value: list[Any]) -> bool:
    """Whether a list is a single value of a config's field rather than several values."""
    name, *rest = path
    if cls is None or name not in cls.model_fields:
        return False
    return _is_value(config_in(cls.model_fields[name]), rest, value) if rest else is_value(cls, name, value)


def _cell(
    base: Fields,
    chosen: Fields,
    overrides: Sequence[tuple[Conditions, Fields]],
    given: Fields,
    where: str,
    gpu: bool | None,
) -> Fields:
    """Merge a cell from the base, the overrides that match, its values on the axes, and the command line, in order."""
    place: Fields = {}
    for key, value in chosen.items():
        if key == "case":
            if not isinstance(value, Mapping):
                raise BadInput(f"{where}: axis case: {shown(value)} given; should be a mapping of fields")
            place = _merged(place, _nested(value, where))
        else:
            place = _merged(place, _nested({key: value}, where))
    place = _merged(place, _applicable(given, _merged(base, place), where))
    matched = _merged(base, place)
    for conditions, fields in overrides:
        if all(_value(matched, path, gpu) in allowed for path, allowed in conditions):
            base = _merged(base, fields)
    return _merged(base, place)


# Conditions.


def conditions_of(wanted: Mapping[str, Any], where: str) -> Conditions:
    """The conditions of a `where`. Raises `BadInput` for an unknown field or a value that it can never have."""
    fields = _nested(wanted, where)
    found: Conditions = []
    for first, kind in KINDS.items():
        own = dict(fields.pop(first, {}))
        names = own.pop("name", kind.names())
        names = [str(name) for name in (names if isinstance(names, list) else [names])]
        found.append(((first, "name"), names))
        classes = [kind.get(name).Config for name in names]
        found += [((first, *path), allowed) for path, allowed in _config_conditions(classes, own, f"{where}: {first}")]
    return found + _config_conditions([Outline], fields, where)


def _check_fields(fields: Fields, conditions: Mapping[tuple[str, ...], list[Any]], where: str) -> None:
    """Raise `BadInput` for an unknown field, or a value that it can never have, in part of a cell.

    Fields of a task or method belong to those that `fields` name, else to those that the conditions name.
    """
    rest = {name: value for name, value in fields.items() if name not in KINDS}
    for first, kind in KINDS.items():
        own = dict(fields.get(first, {}))
        names = [own.pop("name")] if "name" in own else conditions.get((first, "name"), kind.names())
        classes = [kind.get(_text(name, f"{where}.{first}")).Config for name in names]
        _config_conditions(classes, own, f"{where}: {first}", several=False)
    source = rest.pop("init_from", None)
    if isinstance(source, Mapping) and "run" not in source:  # another cell, by its fields
        conditions_of({name: value for name, value in source.items() if name != "phase"}, f"{where}: init_from")
    elif source is not None:
        InitFrom.parse(source, f"{where}.init_from")
    chosen = {name: value for name, value in rest.items() if name not in ("device", "precision") or value != "auto"}
    _config_conditions([Outline], chosen, where, several=False)


def _text(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise BadInput(f"{where}: {shown(name)} given; should be a name")
    return name


def _config_conditions(
    classes: Sequence[type[Config]], wanted: Mapping[str, Any], where: str, several: bool = True
) -> Conditions:
    """The conditions on a config of one of these classes; with `several`, a list holds several allowed values."""
    found: Conditions = []
    for name, value in wanted.items():
        owners = [cls for cls in classes if name in cls.model_fields]
        if not owners:
            raise unknown(where, name, sorted({field for cls in classes for field in cls.model_fields}))
        inner = [config for config in (config_in(cls.model_fields[name]) for cls in owners) if config]
        if several and value == [] and not any(is_value(cls, name, []) for cls in owners):
            raise BadInput(f"{where}: {name}: [] given; should have at least one value")
        if inner and isinstance(value, Mapping):
            within = _config_conditions(inner, value, f"{where}.{name}", several)
            found += [((name, *path), allowed) for path, allowed in within]
        else:
            found.append(((name,), _allowed(owners, name, value, where, several)))
    return found


def _allowed(classes: Sequence[type[Config]], name: str, wanted: Any, where: str, several: bool) -> list[Any]:
    """The values of a field that a condition allows, as results hold them."""
    found, refused = [], None
    for cls in classes:
        values = wanted if several and isinstance(wanted, list) and not is_value(cls, name, wanted) else [wanted]
        try:
            found += [canonical(cls, name, value, where) for value in values]
        except BadInput as error:
            refused = error
    if refused and not found:
        raise refused
    return found


def _value(cell: Fields, path: Sequence[str], gpu: bool | None) -> Any:
    """The value that the run of a cell will have at a path, as far as an incomplete cell tells."""
    first, *rest = path
    if first in KINDS:
        name = _at(cell, first)
        if rest in ([], ["name"]) or name is None:
            return name
        return value_at(KINDS[first].get(str(name)).Config, cell[first], rest)
    if first in ("device", "precision"):
        return _device_and_precision(cell, gpu)[first]
    if path == ("model", "backbone") and not uses_backbone(_at(cell, "method")):
        return "transformer"
    if path == ("model", "d") and value_at(Outline, cell, ("model", "parameters")):
        raise BadInput("overrides.where: model.d: is chosen by model.parameters, after overrides; ask for that instead")
    return value_at(Outline, cell, path)


def matches(run: Run, wanted: Fields, where: str) -> bool:
    """Whether a run has these values at these keys. Raises `BadInput` for values that no run could have."""
    return _meets(run, conditions_of(wanted, where))


def _meets(run: Run, conditions: Conditions) -> bool:
    full = run.full()
    return all(_at(full, ".".join(path)) in allowed for path, allowed in conditions)


def _applicable(fixed: Fields, cell: Fields, where: str) -> Fields:
    """The fixed fields, without those of tasks and methods that this cell's task or method does not have."""
    names = _merged(cell, _nested({key: value for key, value in fixed.items() if key in ("task", "method")}, where))
    kept = {key: value for key, value in fixed.items() if _has_field(names, key)}
    return _nested(kept, where)


def _has_field(cell: Fields, key: str) -> bool:
    first, *rest = key.split(".")
    if first not in KINDS or not rest or rest == ["name"]:
        return True
    return rest[0] in KINDS[first].get(str(_at(cell, first))).Config.model_fields


def _require_some_use(cells: Sequence[Fields], given: Iterable[str]) -> None:
    """Raise `BadInput` for a `--set` of a task's or method's field that no cell has."""
    for key in given:
        if not any(_has_field(cell, key) for cell in cells):
            first, _, field = key.partition(".")
            names = {str(_at(cell, first)) for cell in cells}
            allowed = sorted({name for owner in names for name in KINDS[first].get(owner).Config.model_fields})
            raise unknown(f"--set {key}: no {first} of this grid has the field", field, allowed)


def _take_selector(cell: Fields) -> Fields | None:
    """Remove and return an `init_from` that names another cell by its fields instead of by its id."""
    init_from = cell.get("init_from")
    if not isinstance(init_from, Mapping) or "run" in init_from:
        return None
    del cell["init_from"]
    return dict(init_from)


def _resolve(cell: Fields, where: str, gpu: bool | None = None) -> Run:
    """The run of a cell, with its device and precision chosen, and its width where a parameter count is given.

    `gpu` says whether it gets one on a cluster; None: it runs on this machine.
    """
    chosen = _device_and_precision(cell, gpu)
    if chosen["device"] == "cuda" and not _has_gpu(gpu):
        if gpu is not None:
            raise BadInput(f"{where}: device: cuda given, but slurm.gpus is 0; give slurm.gpus=1, or device=cpu")
        raise BadInput(
            f"{where}: device: cuda given; this machine has no GPU that torch can use; should be cpu or auto"
        )
    missing = [name for name in ("task", "method", "training") if name not in cell]
    if missing:
        raise BadInput(f"{where}: {missing[0]} is required: in base, in an axis or with --set")
    run = Run.parse({**cell, **chosen}, where)
    if gpu is None and run.training.engine == "compiled" and (lacking := compiling.lacks(run.device)):
        raise BadInput(f"{where}: {compiling.cannot_compile(lacking)}")
    return _with_parameters(run, run.model.parameters, where) if run.model.parameters else run


def _device_and_precision(cell: Fields, gpu: bool | None) -> Fields:
    """The device and precision of a cell, chosen where it says `auto`."""
    device, precision = cell.get("device", "auto"), cell.get("precision", "auto")
    if device == "auto":
        device = "cuda" if _has_gpu(gpu) else "cpu"
    if precision == "auto":
        gains = device == "cuda" and (gpu is not None or torch.cuda.is_bf16_supported(including_emulation=False))
        precision = "bfloat16" if gains else "float32"
    return {"device": device, "precision": precision}


def _has_gpu(gpu: bool | None) -> bool:
    return torch.cuda.is_available() if gpu is None else gpu


def _with_parameters(run: Run, target: int, where: str) -> Run:
    """The run whose width d, a multiple of twice the heads, brings its predictor nearest to `target` parameters."""
    task = build_task(run)
    unit = 2 * run.model.heads

    def at(multiple: int) -> Run:
        fields = {**run.model.changes(), "d": multiple * unit, "parameters": None}
        return dataclasses.replace(run, model=ModelConfig.parse(fields, f"{where}.model"))

    def count(multiple: int) -> int:
        method = build_method(at(multiple), task, device="meta")
        return sum(count_parameters(module) for module in method.predictor_modules())

    return at(nearest_size(count, target))


def _linked(run: Run, selector: Fields, runs: Sequence[Run], where: str) -> Run:
    """The run whose `init_from` names the one other cell that the selector describes."""
    wanted = {key: value for key, value in selector.items() if key != "phase"}
    if "phase" not in selector or not wanted:
        raise BadInput(f"{where}: init_from: should say the phase and the other cell's fields, such as its method")
    conditions = conditions_of(wanted, f"{where}: init_from")
    same = [
        other
        for other in runs
        if other is not run
        and (other.task, other.task_config, other.model, other.seed) == (run.task, run.task_config, run.model, run.seed)
        and _meets(other, conditions)
    ]
    unique = {other.identity: other for other in same}
    if len(unique) != 1:
        described = ", ".join(f"{key} {value}" for key, value in wanted.items())
        guess = nearest(str(wanted.get("method", "")), {other.method for other in runs})
        hint = f"; did you mean {guess!r}?" if guess and guess != wanted.get("method") else ""
        raise BadInput(
            f"{where}: init_from: {len(unique)} cells have {described} and this task, model and seed; one must{hint}"
        )
    (source,) = unique
    return dataclasses.replace(run, init_from=InitFrom(run=unique[source].id, phase=str(selector["phase"])))
