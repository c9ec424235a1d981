"""Conditions on cells: the values that fields may have, and the value that an unfinished cell will have at a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench import registry
from bench.config import Config, InitFrom, Outline, Run, config_in, uses_backbone
from bench.errors import BadInput, shown, unknown
from bench.fields import canonical, is_value, value_at
from bench.grid.nested import Fields, field_at, nested

KINDS: dict[str, registry.Registry[Any]] = {"task": registry.tasks, "method": registry.methods}
Conditions = list[tuple[tuple[str, ...], list[Any]]]
"""Paths of fields, and the values allowed at each."""


def conditions_of(wanted: Mapping[str, Any], where: str) -> Conditions:
    """The conditions of a `where`. Raises `BadInput` for an unknown field or a value that it can never have."""
    fields = nested(wanted, where)
    found: Conditions = []
    for first, kind in KINDS.items():
        own = dict(fields.pop(first, {}))
        names = own.pop("name", kind.names())
        names = [str(name) for name in (names if isinstance(names, list) else [names])]
        found.append(((first, "name"), names))
        classes = [kind.get(name).Config for name in names]
        found += [((first, *path), allowed) for path, allowed in _config_conditions(classes, own, f"{where}: {first}")]
    return found + _config_conditions([Outline], fields, where)


def check_fields(fields: Fields, conditions: Mapping[tuple[str, ...], list[Any]], where: str) -> None:
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


def matches(run: Run, wanted: Fields, where: str) -> bool:
    """Whether a run has these values at these keys. Raises `BadInput` for values that no run could have."""
    return meets(run, conditions_of(wanted, where))


def meets(run: Run, conditions: Conditions) -> bool:
    """Whether a run has an allowed value at every path."""
    full = run.full()
    return all(field_at(full, ".".join(path)) in allowed for path, allowed in conditions)


def value_of(cell: Fields, path: Sequence[str], gpu: bool | None) -> Any:
    """The value that the run of a cell will have at a path, as far as an incomplete cell tells."""
    first, *rest = path
    if first in KINDS:
        name = field_at(cell, first)
        if rest in ([], ["name"]) or name is None:
            return name
        return value_at(KINDS[first].get(str(name)).Config, cell[first], rest)
    if first in ("device", "precision"):
        return device_and_precision(cell, gpu)[first]
    if path == ("model", "backbone") and not uses_backbone(field_at(cell, "method")):
        return "transformer"
    if path == ("model", "d") and value_at(Outline, cell, ("model", "parameters")):
        raise BadInput("overrides.where: model.d: is chosen by model.parameters, after overrides; ask for that instead")
    return value_at(Outline, cell, path)


def device_and_precision(cell: Fields, gpu: bool | None) -> Fields:
    """The device and precision of a cell, chosen where it says `auto`."""
    device, precision = cell.get("device", "auto"), cell.get("precision", "auto")
    if device == "auto":
        device = "cuda" if has_gpu(gpu) else "cpu"
    if precision == "auto":
        gains = device == "cuda" and (gpu is not None or torch.cuda.is_bf16_supported(including_emulation=False))
        precision = "bfloat16" if gains else "float32"
    return {"device": device, "precision": precision}


def has_gpu(gpu: bool | None) -> bool:
    """Whether cells get a GPU; `gpu` says it of a cluster, None: of this machine."""
    return torch.cuda.is_available() if gpu is None else gpu


def has_field(cell: Fields, key: str) -> bool:
    """Whether the task or method of a cell has the field; other keys are fields of every cell."""
    first, *rest = key.split(".")
    if first not in KINDS or not rest or rest == ["name"]:
        return True
    return rest[0] in KINDS[first].get(str(field_at(cell, first))).Config.model_fields
