"""Measures of the cost of training and inference, and of what happens inside a network.

After a cell is done, and only where the grid or `--measure` asks for it, `measure` writes into the run's folder

    cost.json         the traced cost of a batch of each phase
    dynamics.json     gradient norms, drift, memory geometry
    samples.json      pictures and text that the trained predictor writes
    diagnosis.json    why a network that learns from a teacher's memories fails
    calibration.json  the speed of the machine at that time, by which `compare` divides training seconds

None of them is charged to training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bench.errors import BadInput
from bench.results import Folder, load_weights

if TYPE_CHECKING:
    from bench.methods.base import Method
    from bench.tasks.base import Task

NAMES = ("cost", "dynamics", "samples", "diagnosis", "calibration")


def lacking(folder: Folder, names: Iterable[str]) -> list[str]:
    """The measures among these that the run's folder lacks."""
    return [name for name in names if not (folder / f"{name}.json").is_file()]


def trained(folder: Folder) -> tuple[Method, Task]:
    """The method of a finished run, with its final weights, and its task.

    Raises `BadInput` when the run is not done, or its weights are damaged or not finite.
    """
    from bench.build import build_method, build_task

    run = folder.run()
    task = build_task(run)
    method = build_method(run, task).eval()
    phases = [folder.weights(phase.name) for phase in method.phases(run.training)]
    state = folder.status["state"]
    # (a run that ended early may have ended in a phase before the last)
    weights = next((file for file in reversed(phases) if state == "done" and os.path.lexists(file)), phases[-1])
    if not os.path.lexists(weights):
        raise BadInput(f"{folder.path}: has no {weights.name}; the run is {state}, should be done and keep its weights")
    load_weights(method, weights, run.device, folder.identity)
    for name, parameter in method.named_parameters():
        if not parameter.isfinite().all():
            raise BadInput(f"{weights}: {name} is not finite; the run diverged, and has to be run again")
    return method, task


def measure(folder: Folder, name: str) -> dict[str, Any]:
    """Take one of the measures `NAMES` of a finished run, write it into the run's folder, and return it."""
    from bench.build import autocast, build_method, build_task

    run = folder.run()
    if name == "cost":
        from bench.measure import cost

        record = cost.measure(run, folder.path.parent)
    elif name == "samples":
        from bench.measure import samples

        with autocast(run):
            record = samples.write(*trained(folder), seed=run.seed)
    elif name == "diagnosis":
        from bench.measure import diagnosis

        method, task = trained(folder)
        with autocast(run):
            record = diagnosis.measure(run, task, method)
    elif name == "calibration":
        from bench.measure import calibration

        record = calibration.measure(run.device, run.threads)
    else:
        from bench.measure import dynamics

        task = build_task(run)
        initial = build_method(run, task).eval()
        phases = {}
        for phase in initial.phases(run.training):
            weights = folder.weights(phase.name)
            if os.path.lexists(weights):  # (phases taken over by `init_from` are in the other run's folder)
                phases[phase.name] = build_method(run, task).eval()
                load_weights(phases[phase.name], weights, run.device, folder.identity)
        with autocast(run):
            record = dynamics.measure(run, task, initial, phases)
    folder.write(folder / f"{name}.json", record)
    return record
