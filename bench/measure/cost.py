"""The cost of a training step, traced from a real step, without a formula per method.

    step_costs(run)["bptt"]["whole"]["sequential_operations"]

A step is everything that a method does for one batch, at the batch size and length of the phase. It includes neither
evaluation nor checkpoints, nor the optimiser's own arithmetic, except where a method steps several times in a batch:
there the chain of operators goes through the weights, and the optimiser steps in between are counted. The cost may vary
a little with the random positions that a method draws; the traced step draws them from a stream of its own, so that
equal configs have equal prices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import provenance, registry, sources, streams
from bench.build import autocast, build_method, build_task
from bench.config import Run
from bench.engine import Engine, form_of
from bench.errors import BadInput
from bench.feasibility import impossible
from bench.measure import credit, inference, trace
from bench.methods.base import Phase
from bench.phases import draw
from bench.results import read_json, write_record
from bench.results.measured import COST, COST_TABLE
from bench.tasks.base import Batch, Task

SCHEMA = 1
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
CREDIT_LENGTH = 32
"""The length at which credit paths are followed, and the largest distance."""


def step_costs(run: Run, length: int | None = None) -> dict[str, dict[str, Any]]:
    """The cost of a batch in each phase of training, by the name of the phase.

    Each is a record: phase, batch_size, length, tokens, device; `forward`, `backward` and `whole` with their flops,
    elementwise, operations, sequential_operations and sequential_flops; peak_bytes (of live tensors made in the step),
    allocated_bytes (the GPU's own peak, null on a CPU), carried_bytes (what is kept from one step of a stream to the
    next, without the optimiser's state), uncounted (operators that no rule counts, with their calls). `length` replaces
    the task's.
    """
    run = at_length(run, length) if length else run
    torch.set_num_threads(run.threads)
    task = build_task(run)
    phases = build_method(run, task).phases(run.training)
    return {
        phase.name: _mean([_traced(run, task, index, stage) for stage in range(phase.stages)])
        for index, phase in enumerate(phases)
    }


def prices(run: Run, currency: str) -> tuple[dict[str, float], list[str]]:
    """The cost of a token in each phase, in `flops` (with elementwise work) or `sequential_flops`.

    The second result names the operators that no rule counts, whose work the prices lack.
    """
    columns = ("flops", "elementwise") if currency == "flops" else (currency,)
    steps = step_costs(_canonical(run))
    uncounted = sorted({name for step in steps.values() for name in step["uncounted"]})
    costs = {name: sum(step["whole"][column] for column in columns) / step["tokens"] for name, step in steps.items()}
    return costs, uncounted


def at_length(run: Run, length: int) -> Run:
    """The run with sequences of another length. Raises `BadInput` when its task has none of that length."""
    fields = {"name": run.task, **run.task_config.changes(), "length": length}
    evaluation = {**run.evaluation.changes(), "lengths": []}
    return Run.parse({**run.describe(), "task": fields, "evaluation": evaluation})


def _canonical(run: Run) -> Run:
    """One representative of all runs whose steps cost the same, as far as their configs can tell."""
    return dataclasses.replace(run, seed=0, init_from=None)


def _mean(stages: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of a phase from those of its stages, which are equally long: mean amounts, largest peaks."""
    first = stages[0]
    if len(stages) == 1:
        return first
    parts = ("forward", "backward", "whole")
    means = {
        part: {name: round(sum(stage[part][name] for stage in stages) / len(stages)) for name in first[part]}
        for part in parts
    }
    most = {name: max(stage[name] or 0 for stage in stages) for name in ("peak_bytes", "carried_bytes")}
    uncounted = {name: calls for stage in stages for name, calls in stage["uncounted"].items()}
    return {**first, **means, **most, "uncounted": uncounted}


def _traced(run: Run, task: Task, index: int, stage: int) -> dict[str, Any]:
    """Trace one batch of a stage of the phase with that index."""
    # The first, untraced step fills caches, sets up libraries, and counts the updates.
    updates = _step(run, task, index, stage, None).updates
    if run.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    traced = trace.Trace()
    phase, batch, _, carried = _step(run, task, index, stage, traced, updates - 1)
    return {
        "phase": phase.name,
        "batch_size": phase.batch_size,
        "length": batch.x.shape[1],
        "tokens": batch.x.numel(),
        "device": run.device,
        **dataclasses.asdict(traced.cost()),
        "allocated_bytes": torch.cuda.max_memory_allocated() if run.device == "cuda" else None,
        "carried_bytes": carried,
    }


class _Step(NamedTuple):
    """The work for one batch."""

    phase: Phase
    batch: Batch
    updates: int
    carried: int
    """The bytes that are kept for the next batch."""


def _step(run: Run, task: Task, index: int, stage: int, traced: trace.Trace | None, steps: int | None = None) -> _Step:
    """Train a new method on one batch of a phase, traced or not, taking the first `steps` of its updates, or all."""
    method = build_method(run, task)
    method.stage = stage
    phase = method.phases(run.training)[index]
    method.train_only(phase)
    batch, _ = draw(run, task, method, phase, streams.generator(0, "cost", device=run.device))
    engine = Engine(method, phase, 1, lambda: autocast(run))
    updates = 0
    with traced or nullcontext():
        for ready in engine.stretches(batch):
            if ready.scalars is None:
                continue
            if steps is None or updates < steps:
                engine.take(phase.optimiser.lr)
            updates += 1
    continues = method.data == "streams"
    return _Step(phase, batch, updates, held_bytes((engine.carry if continues else None, method.carry)))


def held_bytes(tree: Any) -> int:
    """The bytes of memory that the tensors of a tree keep alive; a view keeps all of its base, which counts once."""
    storages = [tensor.untyped_storage() for tensor in credit.tensors(tree)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


# One traced step for all runs of a configuration.


def measure(run: Run, grid_folder: Path) -> dict[str, Any]:
    """The record of a run's cost.json, by phase. It is traced once per configuration and kept in the grid's folder."""
    run = _canonical(run)
    described = run.describe()
    described["training"].pop("budget")
    described["evaluation"] = {"score_from": run.evaluation.score_from}
    key = hashlib.sha256(json.dumps([SCHEMA, _code(run), described], sort_keys=True).encode()).hexdigest()[:16]
    file = grid_folder / ".costs" / f"{key}.json"
    record: dict[str, Any] | None = read_json(file, COST)
    if record is None:
        record = {"schema": SCHEMA, "phases": list(step_costs(run).values())}
        write_record(file, record)
    return record


# The table of a grid, as a function of length.


def configurations(runs: Iterable[Run]) -> list[Run]:
    """One run of each configuration: of the runs that differ only in length or in what a step's cost does not show."""
    found: dict[str, Run] = {}
    for run in runs:
        parts = run.describe()
        for name in ("seed", "evaluation", "init_from"):
            parts.pop(name, None)
        parts["task"] = {**parts["task"], "length": None}
        parts["training"] = {"batch_size": run.training.batch_size, "columns": run.training.columns}
        found.setdefault(json.dumps(parts, sort_keys=True), run)
    return list(found.values())


def table(
    runs: Sequence[Run], lengths: Sequence[int] = LENGTHS, positions: Sequence[int] | None = None
) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    """Measure each configuration. Yields a phrase for what was measured and its rows: steps, credit or inference.

    A configuration that cannot be trained, at all or at some length, or whose credit paths cannot be followed, has rows
    in `skipped`, with the reason. `positions` are those of the streamed predictor, by default the lengths.
    """
    for run in configurations(runs):
        about = {"task": run.task, "method": run.method, "backbone": run.model.backbone}
        name = f"{run.task}, {run.method}, {run.model.backbone}"
        if reason := impossible(run):
            yield f"{name}: skipped", {"skipped": [{**about, "length": None, "reason": reason}]}
            continue
        for length in lengths:
            if reason := _impossible_at(run, length):
                yield f"{name}: length {length} skipped", {"skipped": [{**about, "length": length, "reason": reason}]}
                continue
            steps = step_costs(run, length)
            yield f"{name}: steps of length {length}", {"steps": [{**about, **step} for step in steps.values()]}
        yield f"{name}: credit paths", _credit(run, about)
        yield f"{name}: streaming", {"inference": [{**about, **row} for row in _inference(run, positions or lengths)]}


def _impossible_at(run: Run, length: int) -> str | None:
    try:
        return impossible(at_length(run, length))
    except BadInput as error:
        return str(error)


def keep_table(
    runs: Sequence[Run],
    folder: Path,
    lengths: Sequence[int] = LENGTHS,
    *,
    force: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """The record of a grid's cost.json: the `table` of its runs, traced unless the same code has done so before.

    `progress` is called with what is being measured, and how much of the whole is done.
    """
    chosen = configurations(runs)
    asked = [SCHEMA, list(lengths), [[run.describe(), _code(run)] for run in chosen]]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    record: dict[str, Any] | None = read_json(folder / "cost.json", COST_TABLE)
    if not force and record is not None and record.get("digest") == digest:
        return record
    found: dict[str, list[dict[str, Any]]] = {"steps": [], "credit": [], "inference": [], "skipped": []}
    total = len(chosen) * (len(lengths) + 2)
    for done, (what, rows) in enumerate(table(runs, lengths)):
        progress(what, done + 1, total)
        for name, more in rows.items():
            found[name] += more
    made = {"provenance": provenance.describe(chosen[0]), "runs": [run.full() for run in chosen]}
    record = {"schema": SCHEMA, "digest": digest, **found, **made}
    write_record(folder / "cost.json", record)
    return record


def _code(run: Run) -> str:
    """A digest of the code that decides the cost of a run's steps: this module, the task, the method, the backbone."""
    roots = (registry.tasks.get(run.task), registry.methods.get(run.method), registry.backbones.get(run.model.backbone))
    return sources.digest(sys.modules[__name__], *roots)


def _credit(run: Run, about: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of `credit`, and rows of `skipped` for phases whose paths cannot be followed."""
    found: dict[str, list[dict[str, Any]]] = {"credit": [], "skipped": []}
    method = build_method(run, build_task(run))
    length = min(CREDIT_LENGTH, run.task_config.length)
    for phase in method.phases(run.training):
        try:
            paths = credit.credit_paths(run, phase.name, length)
        except credit.Unfollowed as why:
            reason = f"credit paths of phase {phase.name}: {why}"
            found["skipped"].append({**about, "length": length, "reason": reason})
            continue
        outside = method.outside_autograd.get(phase.name)
        if form_of(type(method)) == "step":
            outside = "carried forward, column by column" + (f": {outside}" if outside else "")
        common = {**about, "phase": phase.name, "length": length, "outside": outside}
        found["credit"] += [{**common, **path._asdict()} for path in paths]
    return found


def _inference(run: Run, positions: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Rows of `inference`, with initial weights, on which the cost of a token does not depend."""
    task = build_task(run)
    method = build_method(run, task)
    method.eval()
    length = max(positions) + 1
    x = torch.randint(task.vocab_size, (1, length), generator=streams.generator(0, "cost"))
    for token in inference.stream_costs(method, x.to(run.device), positions):
        yield {**token._asdict(), "state": method.traits()["state"]}
