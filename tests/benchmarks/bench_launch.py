"""What the store and the lease cost a cell, and how long a large grid takes to expand, skip and show.

pytest tests/benchmarks/bench_launch.py
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import cli
from bench.build import build_method, build_task
from bench.grid import make_grid
from bench.launch import LaunchOptions, run_cell, run_cells
from bench.launch.lease import BEATS, LEASE_SECONDS, Lease, claim, look
from bench.provenance import run_digest
from bench.results import Folder, save_tensors, write_json
from tests.helpers import TINY, folder_of, tiny_run

SECONDS = 30
LIMITS = {1_000: 2, 10_000: 10}
"""Seconds that a grid of so many finished cells may take."""


def big_grid(cells: int) -> dict[str, Any]:
    """A grid of so many tiny cells."""
    base = {
        "task": {"name": "retrieval", "length": 12},
        "model": TINY,
        "training": {"batch_size": 8, "budget": {"steps": 2}},
        "evaluation": {"sequences": 8, "reference_sequences": 8, "every": 0.5},
        "device": "cpu",
    }
    return {"base": base, "axes": {"method": ["bptt", "smt"], "seed": list(range(cells // 2))}}


@pytest.fixture(scope="module", params=LIMITS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The folder of a grid of which every cell is done: one of each method is run, the others are copies of it."""
    folder = tmp_path_factory.mktemp("big") / "grid"
    runs = make_grid("grid", big_grid(request.param)).runs
    made: dict[str, Folder] = {}
    for run in runs:
        if run.method not in made:
            made[run.method] = folder_of(run, folder)
            assert run_cell(made[run.method]).state == "done"
            continue
        source, copy = made[run.method], Folder(folder / run.id)
        copy.describe(run)
        copy.attempt_path(1).mkdir(parents=True)
        for name in ("status.json", "curve.json", "beat"):
            shutil.copy(source.files / name, copy.attempt_path(1) / name)
        write_json(copy / "result.json", {**(source.result or {}), "digest": run_digest(run)})
    return request.param, folder


def test_expand_and_skip(finished: tuple[int, Path], benchmark: Any) -> None:
    count, folder = finished

    def skip() -> int:
        runs = make_grid("grid", big_grid(count)).runs
        return sum(end.state == "done" for end in run_cells(runs, folder, LaunchOptions(quiet=True)).ends.values())

    assert benchmark.pedantic(skip, rounds=3) == count
    assert benchmark.stats.stats.min < LIMITS[count]


@pytest.mark.parametrize("command", ["status", "run --dry-run", "run"])
def test_commands(command: str, finished: tuple[int, Path], benchmark: Any) -> None:
    """Whole commands, up to what they print; only the start of the process is not in it."""
    count, folder = finished
    grid = folder.parent.parent / f"{folder.name}.yaml"
    grid.write_text(yaml.safe_dump(big_grid(count)))
    line = [*command.split(), str(grid), "--results", str(folder.parent)]
    assert benchmark.pedantic(cli.main, (line,), rounds=3) == 0
    assert benchmark.stats.stats.min < LIMITS[count]


def test_store_and_lease_of_a_30_second_cell(tmp_path: Path, benchmark: Any) -> None:
    """All that a cell of 30 s writes and looks at besides its training, without the training: under 2 % of it."""
    run = tiny_run("smt+dmt", model={**TINY, "d": 64})
    status = {"phase": "dmt", "progress": 0.5, "steps": 5, "tokens": 5, "loss": 0.5, "accuracy": 0.5, "host": "x" * 20}
    state = build_method(run, build_task(run)).state_dict()
    tree = {"method": state, "optimiser": [state, state]}
    curve = [{"scores": [{"accuracy": 0.5}] * 2}] * 20
    folders = iter([folder_of(run, tmp_path / str(n)) for n in range(10)])

    def whole() -> None:
        folder = next(folders)
        mine = claim(folder, look(folder))
        assert mine is not None
        with Lease(mine) as lease:
            for second in range(SECONDS):
                lease.check()
                mine.set_status("running", **status)
                if second % (LEASE_SECONDS / BEATS) == 0:
                    lease._write()
                if second % 20 == 10:
                    save_tensors(mine.files / "checkpoint.pt", tree)
                    mine.drop("checkpoint.pt")
                if second % 2 == 0:
                    write_json(mine.files / "curve.json", curve)
            save_tensors(mine.weights("dmt"), state)
            mine.publish({"scores": curve})
            mine.set_status("done")

    benchmark.pedantic(whole, rounds=5, warmup_rounds=1)
    benchmark.extra_info["share of 30 s"] = benchmark.stats.stats.median / SECONDS
    assert benchmark.stats.stats.median < 0.02 * SECONDS
