"""Fields of a run as nested plain data, addressed by dotted keys: reading, unfolding and merging them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.errors import BadInput, cut, shown, unknown
from bench.read_yaml import parse_yaml

SECTIONS = ("task", "method", "model", "training", "evaluation")
FIELDS = (*SECTIONS, "seed", "device", "precision", "threads", "init_from")
MOST_DOTS = 8
"""Dots in a key, more than any field needs."""
Fields = dict[str, Any]
"""Fields of a run as nested plain data; partial while a grid is expanded."""


def parse_set(text: str) -> tuple[str, Any]:
    """Split `--set KEY=VALUE` into the key, which is checked, and the value, which is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"--set {shown(text)}: should be KEY=VALUE, for example training.optimiser.lr=1e-3")
    _check_key(key.strip(), f"--set {cut(text)}")
    return key.strip(), parse_yaml(value, f"--set {cut(text)}")


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """The values that `--set` gives, by key."""
    given: dict[str, Any] = {}
    seen = set[str]()
    for text in sets:
        key, value = parse_set(text)
        named = set(names_in(nested({key: value}, f"--set {cut(text)}")))
        if twice := sorted(named & seen):
            raise BadInput(f"--set {cut(text)}: {twice[0].removesuffix('.name')} is given twice")
        seen |= named
        given[key] = value
    return given


def names_in(fields: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted names of all fields in nested data."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from names_in(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _check_key(key: str, where: str) -> None:
    first = key.partition(".")[0]
    if first not in FIELDS:
        raise unknown(f"{where}: field", first, FIELDS)


def nested(data: Mapping[str, Any], where: str) -> Fields:
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
        fields = merged(fields, unfolded)
    return fields


def merged(below: Any, above: Any) -> Any:
    """Merge mappings key by key, where `above` wins; a budget is replaced whole."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    both = dict(below)
    for key, value in above.items():
        both[key] = merged(both[key], value) if key in both and key != "budget" else value
    return both


def field_at(fields: Fields, key: str) -> Any:
    """The value at a dotted key, or None; `task` and `method` stand for their names."""
    value: Any = fields
    for part in (f"{key}.name" if key in ("task", "method") else key).split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
