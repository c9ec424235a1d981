"""How long it takes to read 1,000 runs and to report them: under 10 seconds to read, under 60 for the whole report.

python -m pytest tests/benchmarks/bench_report.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.report import data
from bench.results import load_curves
from tests.helpers import tiny_run
from tests.report.fabricated import fake, score

RUNS, POINTS = 1000, 21


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    settings = [(m, t, n) for m in ("smt+dmt", "bptt") for t in ("retrieval", "stack") for n in range(8, 33)]
    for seed in range(RUNS // len(settings)):
        for method, task, length in settings:
            scores = [score(0.5 + seed / 100, 1.0), score(0.9, 0.2, "teacher")]
            run = tiny_run(method, {"name": task, "length": length}, seed=seed)
            fake(root / "many", run, scores, points=POINTS)
    return root


def test_the_table_of_a_thousand_runs(benchmark: Any, thousand: Path) -> None:
    frame = benchmark.pedantic(report.summary, (thousand,), rounds=2)
    assert len(frame) == 200 and frame["seeds"].sum() == 2 * RUNS
    assert benchmark.stats.stats.max < 10


def test_the_curves_of_a_thousand_runs(benchmark: Any, thousand: Path) -> None:
    frame = benchmark.pedantic(load_curves, (thousand,), rounds=2)
    assert len(frame) == RUNS * POINTS * 2
    assert benchmark.stats.stats.max < 10


def test_reading_all_of_a_thousand_runs(benchmark: Any, thousand: Path) -> None:
    read = benchmark.pedantic(data.load, ([thousand],), rounds=2)
    assert len(read.results) == 2 * RUNS and len(read.curves) == RUNS * POINTS * 2
    assert benchmark.stats.stats.max < 10


def test_the_whole_report_of_a_thousand_runs(benchmark: Any, thousand: Path, tmp_path: Path) -> None:
    files = benchmark.pedantic(report.write, (thousand, tmp_path), rounds=1)
    assert files[0].name == "index.html" and files[0].stat().st_size < 5e6
    assert benchmark.stats.stats.max < 60
