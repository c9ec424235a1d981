"""Single fields of a config before its run exists: the meaning of a list, and the value that a field will have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import create_model

from bench.config import Config, config_in
from bench.errors import BadInput


def is_value(cls: type[Config], name: str, given: list[Any]) -> bool:
    """Whether a list is a single value of a field rather than several values.

    Where the field takes a list, several values are a list of lists.
    """
    with suppress(BadInput):
        canonical(cls, name, given)
        return True
    several = bool(given) and all(isinstance(value, list) for value in given)
    return _is_written_as_list(cls.model_fields[name].annotation) and not several


def _is_written_as_list(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    if kind in (Union, UnionType, Annotated):
        return any(map(_is_written_as_list, get_args(annotation)))
    return isinstance(kind, type) and issubclass(kind, Collection) and not issubclass(kind, str | bytes | Mapping)


def canonical(cls: type[Config], name: str, value: Any, where: str = "") -> Any:
    """The value of a field from plain data, in the form of results. Raises `BadInput` for an invalid value."""
    return _alone(cls, name).parse({name: value}, where)._spelled_out()[name]


_canonical_scalar = lru_cache(maxsize=1 << 12, typed=True)(canonical)
"""`canonical` for hashable values: thousands of cells share a few values."""


@cache
def _alone(cls: type[Config], name: str) -> type[Config]:
    """A config with a single field of another one."""
    fields: Any = {name: (cls.model_fields[name].rebuild_annotation(), ...)}
    return create_model(cls.__name__, __base__=Config, __cls_kwargs__=dict(cls.model_config), **fields)


@cache
def _defaults(cls: type[Config]) -> dict[str, Any]:
    """The defaults of a config's fields as plain data, without the required fields."""
    return cls.model_construct()._spelled_out()


def value_at(cls: type[Config], given: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path of a config of `cls` with the given fields, as plain data: the given value or the default.

    None where there is no value, or none yet, as required fields may still be missing.
    """
    name, *rest = path
    if name not in cls.model_fields:
        return None
    defaults = _defaults(cls)
    if rest and (name in given or name not in defaults) and (inner := config_in(cls.model_fields[name])):
        value = given.get(name, {})
        return value_at(inner, value, rest) if isinstance(value, Mapping) else None
    value = defaults.get(name)
    if name in given:
        value = given[name]
        with suppress(BadInput):  # (the run reports the error)
            value = (canonical if isinstance(value, list | Mapping) else _canonical_scalar)(cls, name, value)
    for part in rest:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
