"""The calibration workload: quick, the same whatever ran before it, and no part of what a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.launch.cell import run_cell
from bench.measure import calibration
from bench.provenance import run_digest
from bench.results import read_json
from tests.helpers import folder_of, tiny_run


class Operators(TorchDispatchMode):
    """Counts operators: how long they take depends on what else the machine does."""

    count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return operator(*args, **(kwargs or {}))


def test_it_is_a_few_thousand_operators_and_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    with Operators() as operators:
        calibration.measure("cpu", 1)
    assert 0 < operators.count < 20_000, "a tenth of a second"
    record = calibration.measure("cpu", 1)
    assert torch.get_num_threads() == before
    for timed in (record["matmul"], record["chain"]):
        assert 0 < timed["least"] <= timed["median"] and timed["least"] <= timed["mean"]
    assert record["matmul"]["least"] <= 10 * calibration.unit(record)


def test_a_cell_keeps_it_and_neither_its_identity_nor_its_code_digest_knows(tmp_path: Path) -> None:
    run = tiny_run()
    identity, digest = run.identity, run_digest(run)
    folder = folder_of(run, tmp_path)
    assert run_cell(folder, measures=("calibration",)).state == "done"
    assert calibration.unit(read_json(folder / "calibration.json")) > 0
    assert (folder.run().identity, read_json(folder / "result.json")["digest"]) == (identity, digest)
