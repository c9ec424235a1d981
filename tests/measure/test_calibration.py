"""The calibration workload: quick, the same whatever ran before it, and no part of what a run is."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from bench.launch.cell import run_cell
from bench.measure import calibration
from bench.results import read_json
from bench.training import run_digest
from tests.helpers import folder_of, tiny_run


def test_it_takes_well_under_a_third_of_a_second_and_leaves_the_threads_as_they_were() -> None:
    before, began = torch.get_num_threads(), time.process_time()
    record = calibration.measure("cpu", 1)
    assert time.process_time() - began < 0.3 and torch.get_num_threads() == before
    for one in (record["matmul"], record["chain"]):
        assert 0 < one["least"] <= one["median"] and one["least"] <= one["mean"]
    assert record["matmul"]["least"] <= 10 * calibration.unit(record)


def test_a_cell_keeps_it_and_neither_its_identity_nor_its_code_digest_knows(tmp_path: Path) -> None:
    run = tiny_run()
    identity, digest = run.identity, run_digest(run)
    folder = folder_of(run, tmp_path)
    assert run_cell(folder, measures=("calibration",)).state == "done"
    assert calibration.unit(read_json(folder / "calibration.json")) > 0
    assert (folder.run().identity, read_json(folder / "result.json")["digest"]) == (identity, digest)
