"""The sides of a comparison: the finished cells of a results folder, or of a baseline file made from one.

A baseline is one small JSON file: every configuration once, with the numbers of its seeds, the tolerances, and the
machine and code that made it. It holds no weights and no curves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bench.errors import BadInput
from bench.grid.cells import NAMED
from bench.measure import calibration
from bench.paths import as_text
from bench.results import SCHEMA as RESULTS_SCHEMA
from bench.results import (
    Damaged,
    Folder,
    Standing,
    by_code,
    distinct,
    flat,
    run_folders,
    seedless,
    standing,
    warn_of,
    write_json,
)
from bench.results.files import read as read_file
from bench.results.measured import CALIBRATION, COST
from bench.tolerances import Tolerances

SCHEMA = 1
HARDWARE = ("processor", "cores", "device")
"""The fields that must be equal for seconds to be compared directly."""
MACHINE = ("torch", "python", "platform", *HARDWARE, "commit", "dirty", "results schema")
"""The fields that describe the machine and the code that made a cell."""


@dataclass(frozen=True)
class Cell:
    """One cell: `config` is its canonical form in dotted names, without the seed; `numbers` are its results.

    These are accuracy and loss (nats per scored token) at the trained length, the same "at LENGTH" for other lengths,
    and, where known, `flops` and `sequential operations` of a batch, `seconds` of training per token, and
    `calibration`, the seconds of the fixed workload at that time.
    """

    config: Mapping[str, Any]
    seed: int
    state: str
    reason: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    """The digest of the code that computed it; a baseline keeps none, as each of its configurations has one code."""


@dataclass(frozen=True)
class Side:
    """Cells, and the name of where they are from; `fields` are all field names that their configs can have."""

    name: str
    cells: Sequence[Cell]
    fields: frozenset[str] = frozenset()
    tolerances: Tolerances | None = None


def read(path: Path) -> Side:
    """Read a results folder or a baseline file. Raises `BadInput` when it is neither, damaged, or too new."""
    return from_folder(path) if path.is_dir() else from_file(path)


def from_folder(path: Path) -> Side:
    """All cells below a results folder, done or not, each once. Raises `BadInput` where one has two results.

    The user is warned of damaged files. A cell whose run.json is damaged cannot be matched, and is left out.
    """
    cells, fields = [], set[str]()
    for folder, record in distinct(run_folders(path)).values():
        found = standing(folder)
        for fault in found.faults:
            warn_of(fault, "the cell is left out" if record is None else "")
        if record is None:
            continue
        if record["schema"] > RESULTS_SCHEMA:
            raise BadInput(f"{folder.path}: has schema {record['schema']}; this version reads up to {RESULTS_SCHEMA}")
        config, full = dotted(seedless(record["run"])), dotted(record["full"])
        cells.append(_cell(folder, config, found, record))
        fields |= set(full)
    if not cells:
        raise BadInput(f"{path}: holds no cells; should be a results folder such as results/<grid>")
    return Side(as_text(path), cells, frozenset(fields))


def _cell(folder: Folder, config: dict[str, Any], found: Standing, record: Mapping[str, Any]) -> Cell:
    seed, result = record["run"]["seed"], found.result
    if result is None or found.state != "done":
        return Cell(config, seed, found.state, found.reason)
    numbers: dict[str, float | None] = {}
    for score in result["scores"]:
        if not score.get("reference"):
            at = "" if not numbers else f" at {score.get('length')}"  # the trained length comes first
            numbers |= {f"{name}{at}": score.get(name) for name in ("accuracy", "loss")}
    costs = result["costs"]
    if costs.get("tokens") and costs.get("training_seconds") is not None:
        numbers["seconds"] = costs["training_seconds"] / costs["tokens"]
    if traced := _measured(folder, "cost.json", COST):
        whole = [phase["whole"] for phase in traced["phases"]]
        numbers["flops"] = sum(phase["flops"] + phase["elementwise"] for phase in whole)
        numbers["sequential operations"] = sum(phase["sequential_operations"] for phase in whole)
    if clock := _measured(folder, "calibration.json", CALIBRATION):
        numbers["calibration"] = calibration.unit(clock)
    made = result.get("provenance") or {}
    packages = made.get("packages")
    torch = packages.get("torch") if isinstance(packages, dict) else None
    machine = {**made, "torch": torch, "results schema": record["schema"]}
    known = {name: float(value) for name, value in numbers.items() if value is not None}
    return Cell(config, seed, "done", None, known, {name: machine.get(name) for name in MACHINE}, result.get("digest"))


def _measured(folder: Folder, name: str, form: TypeAdapter[Any]) -> Any:
    try:
        return read_file(folder / name, form, folder.identity)
    except Damaged as error:
        warn_of(error, "it is not compared")
        return None


def label(config: Mapping[str, Any]) -> str:
    """A short name of a configuration: its task, method and backbone."""
    return " ".join(str(config[name]) for name in ("task", "method", "model.backbone") if config.get(name))


def dotted(described: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical form of a run in dotted names, with `task` and `method` for their names; lists become text."""
    return {name.removesuffix(".name") if name in NAMED else name: value for name, value in flat(described).items()}


# The file.


def write(path: Path, side: Side, tolerances: Tolerances) -> None:
    """Write a baseline of cells that are all done, and where each configuration was computed by one code.

    Raises `BadInput` otherwise, as such cells are nothing to compare with.
    """
    undone = Counter(cell.state for cell in side.cells if cell.state != "done")
    if undone:
        counts = ", ".join(f"{count} {state}" for state, count in undone.items())
        raise BadInput(f"{side.name}: cannot become a baseline: of {len(side.cells)} cells {counts}")
    machines = _unique(cell.machine for cell in side.cells)
    groups = []
    for config in _unique(cell.config for cell in side.cells):
        same = sorted((cell for cell in side.cells if cell.config == config), key=lambda cell: cell.seed)
        if codes := by_code({cell.seed: cell.digest for cell in same}):
            raise BadInput(
                f"{side.name}: cannot become a baseline: {label(config)}: {codes}; `run GRID --stale` runs them again"
            )
        seeds = {str(cell.seed): {**cell.numbers, "machine": machines.index(dict(cell.machine))} for cell in same}
        groups.append({"config": config, "seeds": seeds})
    record = {
        "schema": SCHEMA,
        "kind": "baseline",
        "tolerances": tolerances.model_dump(),
        "fields": sorted(side.fields),
        "machines": machines,
        "cells": groups,
    }
    write_json(path, record)


def from_file(path: Path) -> Side:
    """Read what `write` wrote."""
    try:
        record = read_file(path)
    except Damaged as error:
        why = f"is not a baseline, or is damaged: {error.reason}"
        raise BadInput(f"{path}: {why}; `compare RESULTS {path} --update` writes one") from None
    if record is None:
        raise BadInput(f"{path}: there is no such baseline file or results folder")
    if not isinstance(record, dict) or record.get("kind") != "baseline":
        raise BadInput(f"{path}: is not a baseline, or is damaged; `compare RESULTS {path} --update` writes one")
    if not isinstance(record.get("schema"), int) or record["schema"] > SCHEMA:
        raise BadInput(f"{path}: has schema {record.get('schema')}; this version reads up to {SCHEMA}")
    try:
        cells = [
            Cell(
                dict(group["config"]),
                int(seed),
                "done",
                None,
                {name: float(value) for name, value in numbers.items() if name != "machine"},
                record["machines"][numbers["machine"]],
            )
            for group in record["cells"]
            for seed, numbers in group["seeds"].items()
        ]
        fields = frozenset(map(str, record["fields"]))
        tolerances = Tolerances.parse(record["tolerances"], f"{path}: tolerances")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: is damaged: {type(error).__name__} {error}") from None
    if not cells:
        raise BadInput(f"{path}: holds no cells")
    return Side(as_text(path), cells, fields, tolerances)


def _unique(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The distinct mappings, in the order in which they come."""
    kept: list[dict[str, Any]] = []
    for mapping in map(dict, found):
        if mapping not in kept:
            kept.append(mapping)
    return kept
