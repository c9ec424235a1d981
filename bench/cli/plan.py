"""`run --dry-run`: the decision on each cell."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli.parts import MANY, print_table

if TYPE_CHECKING:
    from bench.config import Run
    from bench.grid import Grid
    from bench.launch.plan import Cell


def print_plan(grid: Grid, cells: Sequence[Cell]) -> None:
    """Print a table of the cells, and the number of each kind."""
    from bench.config import uses_backbone

    rows = []
    parameters: dict[str, str] = {}  # by group, as they do not depend on the seed
    for cell in cells:
        if len(cells) > MANY and cell.decision.action == "keep":
            continue  # it is counted
        run = cell.run
        budget = run.training.budget
        like = dataclasses.replace(run, seed=0).id
        if like not in parameters:
            parameters[like] = _predictor_parameters(run)
        rows.append(
            [
                run.id,
                run.task,
                run.method,
                run.model.backbone if uses_backbone(run.method) else "-",
                parameters[like],
                f"{budget.amount:,g} {budget.currency}",
                f"{run.device}/{run.precision}",
                _verdict(cell),
            ]
        )
    columns = ["cell", "task", "method", "backbone", "parameters", "budget", "device", "what happens"]
    if rows:
        print_table(f"{grid.name}: {grid.about}" if grid.about else grid.name, columns, rows)
    counts = Counter[str](
        "measure" if (cell.decision.action, cell.decision.state) == ("run", "done") else cell.decision.action
        for cell in cells
    )
    phrases = {"run": "would run", "measure": "would be measured", "keep": "are kept", "skip": "would be skipped"}
    print(
        f"{len(cells)} cells: {', '.join(f'{counts[name]} {text}' for name, text in phrases.items() if counts[name])}"
    )


def _verdict(cell: Cell) -> str:
    decision = cell.decision
    if decision.action == "skip":
        return f"is skipped: {decision.reason}"
    if decision.action == "keep":
        reason = f": {decision.reason}" if decision.reason else ""
        return "is stale, kept (--stale reruns it)" if decision.stale else f"is {decision.state}{reason}"
    if decision.fresh:
        return "runs again"
    if decision.state == "done":
        return "is done, will be measured"
    return "runs" if decision.state == "pending" else f"runs on (was {decision.state})"


def _predictor_parameters(run: Run) -> str:
    """The number of the predictor's parameters; a dash when it cannot be built here."""
    from bench.build import build_method, build_task
    from bench.models.sizes import count_parameters

    try:
        method = build_method(run, build_task(run), device="meta")
        return f"{sum(count_parameters(module) for module in method.predictor_modules()):,}"
    except Exception:  # (missing data, or a plugin's fault: the decision or the run says more)
        return "-"
