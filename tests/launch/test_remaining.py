"""The time that is said to be left, against what a launch whose seconds are known goes on to take."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.config import Run
from bench.grid import make_grid
from bench.launch.cell import End
from bench.launch.plan import Board, Cell, Decision
from bench.launch.remaining import Remaining
from bench.results import Folder
from tests.helpers import tiny_run

GRID = {
    "base": {
        "model": {"d": 32, "memory_tokens": 4, "heads": 2},
        "training": {"batch_size": 64, "budget": {"tokens": 3_000_000}},
    },
    "axes": {"task": ["stack", "retrieval", "digits"], "method": ["smt+dmt", "bptt", "transformer"]},
    "overrides": [
        {
            "where": {"task": "stack"},
            "set": {"task": {"length": 24, "symbols": 4, "depth": 8}, "training.budget.tokens": 4_600_000},
        },
        {"where": {"task": "retrieval"}, "set": {"task": {"length": 32, "symbols": 8}}},
        {"where": {"task": "digits"}, "set": {"task.length": 64, "training.budget.tokens": 1_000_000}},
    ],
}
TOOK = {
    ("stack", "smt+dmt"): 243.9,
    ("stack", "bptt"): 338.7,
    ("stack", "transformer"): 50.1,
    ("retrieval", "smt+dmt"): 131.9,
    ("retrieval", "bptt"): 142.6,
    ("retrieval", "transformer"): 29.3,
    ("digits", "smt+dmt"): 53.6,
    ("digits", "bptt"): 88.1,
    ("digits", "transformer"): 11.7,
}
"""Training seconds of such cells, measured on two cores."""


class Replay:
    """A launch on some workers whose cells take known seconds; cells are taken in their order."""

    def __init__(self, runs: Sequence[Run], seconds: Sequence[float], root: Path, workers: int) -> None:
        self.root = root
        free, self.spans = [0.0] * workers, []
        for run, took in zip(runs, seconds, strict=True):
            begin = heapq.heappop(free)
            self.spans.append((run, begin, begin + took))
            heapq.heappush(free, begin + took)
        self.end = max(free)

    def said(self, now: float) -> float | None:
        """The estimate at that time."""
        folder = self.root / f"{now:g}"
        board = Board([Cell(run, Folder(folder / run.id), Decision("run", "pending")) for run, _, _ in self.spans])
        live: dict[str, dict[str, Any]] = {}
        for (_, begin, end), cell in zip(self.spans, board.cells, strict=True):
            if begin > now:
                continue
            progress = min(1.0, (now - begin) / (end - begin))
            status: dict[str, Any] = {"attempt": 1, "started": begin, "updated": min(now, end), "progress": progress}
            assert board.take() is cell
            if progress == 1.0:
                cell.folder.set_status("done", **status)
                board.end(cell, End("done"))
            else:
                live[cell.id] = {"state": "running", **status}
        return Remaining(board).seconds(live)


def test_the_estimate_is_right_as_soon_as_each_method_has_been_seen(tmp_path: Path) -> None:
    runs = make_grid("measured", GRID).runs
    replay = Replay(runs, [TOOK[run.task, run.method] for run in runs], tmp_path, workers=2)
    assert replay.end == pytest.approx(569, abs=1)
    for now in (250, 300, 350, 400, 450, 500, 550):
        said = replay.said(now)
        assert said == pytest.approx(replay.end - now, rel=0.25, abs=5), now
    said = replay.said(240)
    assert said is not None and said < 2 * (replay.end - 240), "nothing is known of the third method"


def budget(**amount: float) -> Run:
    return tiny_run(training={"batch_size": 8, "budget": amount})


def test_a_cell_that_waits_is_weighed_by_its_budget_in_steps_or_tokens(tmp_path: Path) -> None:
    runs = [budget(steps=1000), budget(tokens=10 * 1000 * 8 * 12), budget(steps=100)]
    replay = Replay(runs, [50, 500, 5], tmp_path, workers=1)
    assert [replay.said(now) for now in (25, 50, 300)] == pytest.approx([530, 505, 255])


def test_the_length_of_a_budget_in_seconds_is_known_before_anything_runs(tmp_path: Path) -> None:
    runs = [budget(seconds=30), budget(seconds=40), budget(seconds=50)]
    assert Replay(runs, [30, 40, 50], tmp_path, workers=2).said(0) == pytest.approx(80)
    assert Replay([budget(steps=30)], [30], tmp_path, workers=1).said(0) is None


def test_a_cell_that_goes_on_is_told_by_what_is_left_of_it(tmp_path: Path) -> None:
    cell = Cell(tiny_run(), Folder(tmp_path / "cell"), Decision("run", "stopped"))
    board = Board([cell])
    board.take()
    status = {"attempt": 2, "started": 500.0, "updated": 501.0, "training_seconds": 60.0, "progress": 0.75}
    assert Remaining(board).seconds({cell.id: status}) == pytest.approx(20)
    board.end(cell, End("done"))
    assert Remaining(board).seconds({}) == 0
