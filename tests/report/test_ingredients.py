"""What one change at a time does: paired with the default setting, and only where there are enough of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.results import write_json
from tests.helpers import TINY_TRAINING, tiny_run
from tests.report.fabricated import exhibits, expect, fake, made, only, score

Places = dict[str, dict[str, Any]]


def cell(
    root: Path, places: Places, accuracies: list[float], off: str = "", method: str = "smt-dense+dmt", **options: Any
) -> None:
    """A cell per seed, with the field in which grid.json says that it departs; `places` are those of all so far."""
    training = {**TINY_TRAINING, "curriculum": options.pop("curriculum", {"below": 0.3})}
    for seed, accuracy in enumerate(accuracies):
        run = tiny_run({"name": method, **options}, training=training, seed=seed)
        folder = fake(root, run, [score(accuracy, 1.0), score(0.9, 1.0, "teacher")])
        places[folder.path.name] = {"rung": None, "off": [off] if off else []}
    write_json(root / "grid.json", {"cells": places, "stated": [], "methods": {}})


def test_each_change_is_paired_with_the_default_and_the_worst_comes_first(tmp_path: Path) -> None:
    places: Places = {}
    cell(tmp_path / "g", places, [0.5, 0.6, 0.7])
    cell(tmp_path / "g", places, [0.3, 0.3, 0.3], "method.noise", noise=0.0)
    cell(tmp_path / "g", places, [0.6, 0.6, 0.9], "method", method="smt-dense")
    assert "ingredients" not in exhibits(tmp_path, "ingredients"), "two changes are no such ablation"
    cell(tmp_path / "g", places, [0.1, 0.2, 0.3], "training.curriculum", curriculum=None)
    found = made(tmp_path, "ingredients")
    assert found.table["change"].tolist() == ["no curriculum", "noise 0", "default", "smt-dense"]
    expect(only(found.table, change="noise 0"), accuracy=0.3, minus_default=(-0.3, -0.4, -0.2), seeds=3)
    expect(only(found.table, change="smt-dense"), accuracy=0.7, minus_default=(0.1, 0.0, 0.2))
    (panel,) = found.panels
    (line,) = panel.lines
    assert line.mean.tolist() == pytest.approx([0.2, 0.3, 0.6, 0.7]) and panel.marks[0].x == 2
    assert panel.names == ["no curriculum", "noise 0", "default", "smt-dense"]
