"""From a grid file to its cells: every combination of the axes, with the overrides that match, and its place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

from bench.config import Config, Outline, config_in
from bench.errors import BadInput, shown, unknown
from bench.fields import is_value
from bench.grid.conditions import KINDS, Conditions, check_fields, conditions_of, has_field, value_of
from bench.grid.nested import Fields, field_at, merged, names_in, nested
from bench.tolerances import Tolerances

MOST_CELLS = 100_000
"""Cells of a grid; they are counted before any is made."""


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


class Recipe(Config):
    """What grids include: settings that several of them share."""

    about: str = ""
    base: dict[str, Any] = {}
    overrides: list[Override] = []


class GridFile(Config):
    """The keys of a grid file, as `bench.grid` describes them."""

    about: str = ""
    include: Recipe = Recipe()
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


def varied_fields(grid: GridFile, sets: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The fields, apart from the seed, that axes and ladders vary; those of a case together."""
    keys: dict[tuple[str, ...], None] = {}
    every: list[GridFile | Part] = [grid, *grid.parts]
    varied = [axes for part in every for axes in (part.axes, part.ladders)]
    varied.append({key: value for key, value in sets.items() if isinstance(value, list)})
    for key, values in (item for axes in varied for item in axes.items()):
        if key in ("case", "task", "method"):  # a name, or several fields at once
            given = [value if key == "case" else {key: value} for value in values]
            fields = [name for entry in given for name in names_in(nested(entry, "axes")) if name not in NAMED]
        else:
            fields = [key]
        keys[tuple(dict.fromkeys(fields))] = None
    return tuple(fields for fields in keys if fields and fields != ("seed",))


def cells_of(
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
        layers = (grid.include, grid, part)
        base = reduce(merged, [_checked_base(layer.base, where) for layer in layers])
        overrides = [_checked_override(override, where) for layer in layers for override in layer.overrides]
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
    fields = nested(given, where)
    check_fields(fields, {}, f"{where}.base")
    return fields


def _checked_override(override: Override, where: str) -> tuple[Conditions, Fields]:
    """The conditions and fields of an override, checked even where it matches no cell."""
    conditions = conditions_of(override.where, f"{where}.overrides.where")
    fields = nested(override.set, where)
    check_fields(fields, dict(conditions), f"{where}.overrides.set")
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
    default = value_of(plain, path, gpu)
    if values and all(value_of(merged(plain, nested({key: value}, key)), path, gpu) != default for value in values):
        return False
    return bool(value_of(cell, path, gpu) != default)


def _axes_among(grid: GridFile, sets: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    """The lists given by `--set` that make an axis; others are the value of a field that takes a list."""
    lists = {key: value for key, value in sets.items() if isinstance(value, list)}
    names = {key: value for key, value in sets.items() if key.removesuffix(".name") in ("task", "method")}
    if any(key not in names and key.startswith(("task.", "method.")) for key in lists):
        cells = [cell for cell, _ in cells_of(grid, names, where)]  # whose configs say which fields take lists
    else:
        cells = []

    def is_axis(key: str, value: list[Any]) -> bool:
        first, *rest = key.split(".")
        if first not in KINDS:
            return not _is_value(Outline, [first, *rest], value)
        classes = {KINDS[first].get(str(field_at(cell, first))).Config for cell in cells}
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
            place = merged(place, nested(value, where))
        else:
            place = merged(place, nested({key: value}, where))
    place = merged(place, _applicable(given, merged(base, place), where))
    matched = merged(base, place)
    for conditions, fields in overrides:
        if all(value_of(matched, path, gpu) in allowed for path, allowed in conditions):
            base = merged(base, fields)
    return merged(base, place)


def _applicable(fixed: Fields, cell: Fields, where: str) -> Fields:
    """The fixed fields, without those of tasks and methods that this cell's task or method does not have."""
    names = merged(cell, nested({key: value for key, value in fixed.items() if key in ("task", "method")}, where))
    kept = {key: value for key, value in fixed.items() if has_field(names, key)}
    return nested(kept, where)


def require_some_use(cells: Sequence[Fields], given: Iterable[str]) -> None:
    """Raise `BadInput` for a `--set` of a task's or method's field that no cell has."""
    for key in given:
        if not any(has_field(cell, key) for cell in cells):
            first, _, field = key.partition(".")
            names = {str(field_at(cell, first)) for cell in cells}
            allowed = sorted({name for owner in names for name in KINDS[first].get(owner).Config.model_fields})
            raise unknown(f"--set {key}: no {first} of this grid has the field", field, allowed)
