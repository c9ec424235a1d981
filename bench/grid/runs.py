"""From a cell to its run: device and precision, the width of a parameter count, and the cell that it starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from bench import compiling
from bench.build import build_method, build_task
from bench.config import InitFrom, ModelConfig, Run
from bench.errors import BadInput, nearest
from bench.grid.conditions import conditions_of, device_and_precision, has_gpu, meets
from bench.grid.nested import Fields
from bench.models.sizes import count_parameters, nearest_size


def resolve(cell: Fields, where: str, gpu: bool | None = None) -> Run:
    """The run of a cell, with its device and precision chosen, and its width where a parameter count is given.

    `gpu` says whether it gets one on a cluster; None: it runs on this machine.
    """
    chosen = device_and_precision(cell, gpu)
    if chosen["device"] == "cuda" and not has_gpu(gpu):
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


def take_selector(cell: Fields) -> Fields | None:
    """Remove and return an `init_from` that names another cell by its fields instead of by its id."""
    init_from = cell.get("init_from")
    if not isinstance(init_from, Mapping) or "run" in init_from:
        return None
    del cell["init_from"]
    return dict(init_from)


def linked(run: Run, selector: Fields, runs: Sequence[Run], where: str) -> Run:
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
        and meets(other, conditions)
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
