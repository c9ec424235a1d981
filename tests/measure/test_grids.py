"""`cost` on every shipped grid, at the smallest sizes: nothing raises, and what cannot be traced is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.config import Run
from bench.feasibility import impossible
from bench.grid import grid_names, load_collection
from bench.measure import cost, credit
from tests.helpers import TINY

SHAPES = ("name", "context", "start")
"""Fields of a method that decide at which lengths it can be trained."""


def tiny() -> Iterator[Run]:
    """Runs with every task, method and backbone of the shipped grids, with the smallest model and batches."""
    seen = set()
    for grid in grid_names():
        for run in (run for grid_part in load_collection(grid).grids for run in grid_part.runs):
            described = run.describe()
            method = described["method"]
            phase = method.get("dmt", {})
            shape = (run.task, str(phase.get("rollout")), *(method.get(name) for name in SHAPES))
            kinds = {shape, (run.method, run.model.backbone)}
            if kinds <= seen:
                continue
            seen |= kinds
            if phase:
                phase["batch_size"] = 2
            described["model"] = {**described["model"], **TINY}
            described["training"] |= {"batch_size": 2, "columns": None}
            described["evaluation"] = {}
            yield Run.parse(described)


def test_every_shipped_grid_can_be_traced_at_small_lengths(monkeypatch):
    followed, real = set(), credit.credit_paths

    def paths(run, *arguments):
        """Once for each method and backbone, as they take most of the time, and of one draw of the noise."""
        kind = (run.method, run.model.backbone, arguments[0])
        new = kind not in followed
        followed.add(kind)
        return real(run, *arguments) if new else []

    monkeypatch.setattr(credit, "credit_paths", paths)
    monkeypatch.setattr(credit, "DRAWS", 1)
    traced = 0
    for run in tiny():
        if impossible(run):  # its data are not on this machine, say
            continue
        shortest = next(n for n in range(1, 100) if not cost._impossible_at(run, n))
        run, lengths = cost.at_length(run, shortest), [n for n in (shortest - 1, shortest) if n]
        try:
            rows = [part for _, part in cost.table([run], lengths)]
        except Exception as error:
            pytest.fail(f"{run.describe()}: {error!r}")
        done = [part["steps"] for part in rows if "steps" in part]
        skipped = [row["reason"] for part in rows for row in part.get("skipped", ())]
        assert done and all(done) and all(skipped) and len(done) + len(skipped) == len(lengths), run.describe()
        traced += 1
    assert traced > 40 and len(followed) > 15
