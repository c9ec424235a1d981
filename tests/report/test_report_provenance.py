"""What ran where: every cell is counted, every reason told, and every configuration can be put together again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.report.exhibit import command
from bench.report.sections import provenance
from bench.results import run_folders, write_json
from tests.helpers import folder_of, tiny_run
from tests.report.fabricated import PROVENANCE, exhibits, fake, made, score, seeds, table


def test_cells_are_counted_by_grid_and_state(tmp_path: Path) -> None:
    seeds(tmp_path / "quick", [0.5, 0.6])
    seeds(tmp_path / "mine", [0.5])
    folder_of(tiny_run("transformer"), tmp_path / "mine").set_status("failed", reason="ValueError: no")
    folder_of(tiny_run("smt"), tmp_path / "mine")
    rows = table(tmp_path, "provenance", "cells")
    assert list(rows) == ["grid", "cells", "done", "failed", "pending", "command"]
    assert rows.to_numpy().tolist() == [
        ["mine", 3, 1, 1, 1, "python run_bench.py run mine.yaml"],
        ["quick", 2, 2, 0, 0, "python run_bench.py run quick"],
    ]
    assert "3 of 5 cells of 2 grids" in made(tmp_path, "provenance", "cells").caption


def test_a_command_holds_whatever_a_grid_is_called() -> None:
    assert command("theirs/quick") == "python run_bench.py run quick"
    assert command("a b; rm") == "python run_bench.py run 'a b; rm.yaml'"


def test_every_cell_without_scores_is_told_with_its_reason(tmp_path: Path) -> None:
    done, damaged = seeds(tmp_path, [0.5, 0.6])
    (damaged / "result.json").write_text("{")
    states = {"skipped": "dense targets only", "failed": "ValueError: no", "diverged": "not finite", "oom": "too large"}
    for seed, (state, reason) in enumerate(states.items()):
        folder_of(tiny_run("transformer", seed=seed), tmp_path).set_status(state, reason=reason)
    frame = table(tmp_path, "provenance", "unfinished")
    assert dict(zip(frame["state"], frame["reason"])) == states | {
        "damaged": "result.json is not JSON: EOF while parsing an object at line 1 column 1"
    }
    assert dict(zip(frame["state"], frame["seed"]))["oom"] == 3 and done.path.name not in set(frame["cell"])


def test_code_and_machines_are_told_once_with_their_cells(tmp_path: Path) -> None:
    seeds(tmp_path / "g", [0.5, 0.6])
    other: dict[str, Any] = {**PROVENANCE, "commit": "def456", "dirty": False}
    fake(tmp_path / "g", tiny_run("transformer"), [score(0.5, 1.0)], provenance=other)
    rows = table(tmp_path, "provenance", "machines").to_dict("records")
    shared = {"grid": "g", "torch": "2.9", "processor": "A CPU"}
    assert [{**shared, **row} for row in rows] == [
        {**shared, "commit": "abc123", "changed since": True, "cells": 2, "training seconds": 5.0},
        {**shared, "commit": "def456", "changed since": False, "cells": 1, "training seconds": 2.5},
    ]
    told = made(tmp_path, "provenance", "machines").caption
    assert "2 commits" in told and "1 processor" in told and "2 cells" in told


def test_hosts_are_nobodys_business(tmp_path: Path) -> None:
    seeds(tmp_path, [0.5])
    assert not any("secret" in found.table.to_csv() for found in exhibits(tmp_path, "provenance").values())


def put_together(root: Path) -> dict[str, dict[str, str]]:
    """Cell -> field -> value, from the two tables alone."""
    shared, cells = table(root, "provenance", "shared-configuration"), table(root, "provenance", "configurations")
    configs = {}
    for cell in cells.to_dict("records"):
        own = {name: value for name, value in cell.items() if "." in str(name) or name in provenance.SINGLE}
        config = {str(name): value for name, value in own.items() if not pd.isna(value)}
        for row in shared.to_dict("records"):
            concerned = all(pd.isna(row[name]) or row[name] == cell[name] for name in ("grid", "task", "method"))
            if concerned:
                config[row["field"]] = row["value"]
        configs[cell["cell"]] = {name: str(value).lower() for name, value in config.items()}
    return configs


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            plain = int(value) if isinstance(value, float) and value.is_integer() else value
            found[prefix + key] = (json.dumps(value) if isinstance(value, list) else str(plain)).lower()
    return found


def test_every_configuration_can_be_put_together_again(tmp_path: Path) -> None:
    grid = tmp_path / "g"
    for seed in (0, 1):
        for length in (8, 16):
            for method in ("bptt", "smt+dmt", {"name": "smt+dmt", "lambda_dyn": 1.0}):
                folder_of(tiny_run(method, {"name": "retrieval", "length": length}, seed=seed), grid)
        folder_of(tiny_run("transformer", "stack", seed=seed, precision="bfloat16"), grid)
        folder_of(tiny_run("bptt", "stack", seed=seed, model={"d": 8, "heads": 2, "head_width": 4}), grid)
    folder_of(tiny_run(evaluation={"lengths": [24, 48], "every": 0.5}), tmp_path / "other")
    expected = {}
    for folder in run_folders(tmp_path):
        full = json.loads((folder / "run.json").read_text())["full"]
        del full["task"]["name"], full["method"]["name"], full["seed"]
        expected[folder.path.name] = flat(full)
    assert put_together(tmp_path) == expected
    shared = table(tmp_path, "provenance", "shared-configuration")
    assert not ((shared["grid"] == "g") & (shared["task"] == "retrieval") & (shared["field"] == "task.length")).any()


def test_many_cells_are_told_by_groups_of_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "MOST_ROWS", 5)
    for length in (8, 16):
        for seed in (10, 9, 2):
            folder_of(tiny_run(task={"name": "retrieval", "length": length}, seed=seed), tmp_path / "g")
    rows = table(tmp_path, "provenance", "configurations")
    assert sorted(rows["task.length"]) == [8, 16]
    assert set(zip(rows["grid"], rows["method"], rows["seeds"], rows["cells"])) == {("g", "bptt", "2, 9, 10", 3)}


def test_cells_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    damaged, _ = seeds(tmp_path, [0.5, 0.6])
    (damaged / "run.json").write_text("{")
    assert "1 cell " in made(tmp_path, "provenance", "configurations").caption
    assert len(table(tmp_path, "provenance", "unfinished")) == 1


def test_odd_provenance_is_taken_as_it_is(tmp_path: Path) -> None:
    (folder,) = seeds(tmp_path / "g", [0.5])
    result = json.loads((folder / "result.json").read_text())
    write_json(folder / "result.json", {**result, "provenance": {"commit": 7, "packages": [1], "<script>": None}})
    assert table(tmp_path, "provenance", "machines")["commit"].tolist() == [7]
