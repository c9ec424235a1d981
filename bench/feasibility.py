"""The reason why a cell cannot be trained, and is skipped, from what its method, task and backbone declare."""

from __future__ import annotations

from bench import curriculum, registry
from bench.config import Run, scored_lengths
from bench.tasks.base import HELD, Task, columns_from, undrawable


def impossible(run: Run) -> str | None:
    """The reason why this run cannot be trained, in one line; None when it can."""
    method, task = registry.methods.get(run.method), registry.tasks.get(run.task)
    recurrence = registry.backbones.get(run.model.backbone).recurrence
    if method.recurrences and recurrence not in method.recurrences:
        kinds = " and ".join(method.recurrences)
        return f"{run.method} trains {kinds} recurrences only; that of {run.model.backbone} is {recurrence}"
    length = run.task_config.length
    missing = task.missing()
    if missing:
        return missing
    built = task(run.task_config)
    if reason := _unscorable(run, built) or curriculum.refuses(run, built, method.data):
        return reason
    kind = "dense" if built.scored_columns(length) == range(length) else "sparse"
    if kind not in method.targets:
        return f"{run.method} learns from {' and '.join(method.targets)} targets only; {run.task} is {kind}"
    return method.refuses(run)


def _unscorable(run: Run, task: Task) -> str | None:
    """Why sequences of some length cannot be drawn or have no scored label; None when all is well."""
    trained, *_ = lengths = scored_lengths(run)
    for length in lengths:
        field = "" if length == trained else "evaluation.lengths: "
        for split in HELD if field else (*HELD, "train"):  # the smallest, with the lowest bound, first
            if reason := undrawable(task, split, length):
                return f"{field}{reason}"
        columns = task.scored_columns(length)
        if not columns_from(columns, run.evaluation.score_from):
            return (
                f"evaluation.score_from: {run.evaluation.score_from} given; should be at most {columns[-1]}, the last "
                f"column that {task.name} scores at length {length}"
            )
    return None
