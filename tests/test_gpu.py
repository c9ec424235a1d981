"""The script for a GPU says where a device is wrong, and ends with 1 there."""

from __future__ import annotations

import math

import pytest

from bench.results import write_json
from tests import gpu
from tests.helpers import tiny_run


@pytest.mark.parametrize(("factor", "equal"), [(1.0, True), (1.1, False), (math.nan, False)])
def test_parity_holds_where_losses_are_equal_and_are_numbers(factor, equal, monkeypatch):
    right = gpu.build_method

    def planted(run, task, **there):
        method = right(run, task, **there)
        if there:
            losses = method.losses
            method.losses = lambda batch, drawn, carry, phase: (
                {"loss": factor * losses(batch, drawn, carry, phase)[0]["loss"]},
                carry,
            )
        return method

    monkeypatch.setattr(gpu, "build_method", planted)
    row = gpu._compared(tiny_run("bptt", {"name": "parity", "length": 4}), 0, "cpu")
    assert row["steps"] == 3 and row["equal"] is equal


def test_a_row_that_an_error_ended_is_named_and_the_script_ends_with_1(monkeypatch, tmp_path, capsys):
    for name in gpu.PARTS:
        write_json(tmp_path / f"{name}.json", {"fine": {"seconds": 1.0}})
    write_json(tmp_path / "parity.json", {"bptt, train": {"equal": True}, "smt, smt": {"loss": None, "equal": False}})
    write_json(tmp_path / "rollout.json", {"2 lanes": {"failed": "ValueError: no"}})
    monkeypatch.setattr("sys.argv", ["gpu", str(tmp_path), "--tiny"])
    monkeypatch.setattr(gpu, "small_data", lambda folder: None)
    assert gpu.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "failed or not equal: smt, smt (parity), 2 lanes (rollout)"
    write_json(tmp_path / "rollout.json", {"2 lanes": {"seconds": 1.0}})
    write_json(tmp_path / "parity.json", {"bptt, train": {"equal": True}})
    assert gpu.main() == 0
