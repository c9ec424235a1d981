"""Online loss and regret in the report: means and units by hand, the lines of the figure, and when there is none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.results import read_json, write_json
from tests.helpers import tiny_run
from tests.report.fabricated import expect, fake, levels, lines, made, only, score

LOSSES = {"tbptt": [(0.5, 0.3), (0.6, 0.4), (0.7, 0.2)], "rtrl": [(0.4, 0.2)]}
"""Online losses at 500 and 1,000 tokens, of each seed; regrets are ten times as much."""


def cell(root: Path, method: str, seed: int, losses: tuple[float, float], length: int = 12, **facts: Any) -> None:
    """A finished cell with these online losses at all points but the first, as the trainer writes them."""
    run = tiny_run(method, {"name": "retrieval", "length": length}, seed=seed)
    folder = fake(root, run, [score(0.6, 1.0, length=length, start_accuracy=0.4, start_loss=2.0, **facts)])
    first, *points = read_json(folder / "curve.json")
    known = facts.get("loss_floor", 0.1) is not None
    told = [{"online_loss": loss, "regret": 10 * loss if known else None} for loss in losses]
    write_json(folder / "curve.json", [first, *(a | b for a, b in zip(points, told, strict=True))])


def three(root: Path) -> Path:
    for method, seeds in LOSSES.items():
        for seed, losses in enumerate(seeds):
            cell(root / "g", method, seed, losses)
    fake(root / "g", tiny_run("bptt"), [score(0.5, 1.1)])
    return root / "g"


def test_table_and_figure_have_the_online_loss_and_the_regret_of_each_method(tmp_path: Path) -> None:
    exhibit = made(three(tmp_path), "online", "online-retrieval")
    assert exhibit.tasks == ("retrieval",) and set(exhibit.methods) == {"tbptt", "rtrl"}
    told = {"online_loss": (0.3, 0.2, 0.4), "loss_floor": 0.1, "regret": (3.0, 2.0, 4.0), "tokens": 1000, "seeds": 3}
    expect(only(exhibit.table, method="tbptt"), **told)
    expect(only(exhibit.table, method="rtrl"), regret=2.0)
    losses, regrets = exhibit.panels
    assert levels(losses) == {"floor": [pytest.approx(0.1)]}
    for panel, scale in ((losses, 1), (regrets, 10)):
        (line,) = lines(panel, method="tbptt")
        assert line.mean.tolist() == pytest.approx([0.6 * scale, 0.3 * scale]) and line.x.tolist() == [500, 1000]
        assert np.array([y for _, y in line.seeds]) == pytest.approx(scale * np.array(LOSSES["tbptt"]))


def test_what_is_told_in_bits_is_in_bits_and_without_a_floor_there_is_no_regret(tmp_path: Path) -> None:
    cell(tmp_path, "tbptt", 0, (2 * math.log(2), math.log(2)), unit="bits", loss_floor=None)
    exhibit = made(tmp_path, "online", "online-retrieval")
    expect(only(exhibit.table), online_loss=1.0, unit="bits", regret=math.nan)
    assert len(exhibit.panels) == 1


def test_every_setting_of_a_task_has_a_row_and_its_own_floor(tmp_path: Path) -> None:
    for length, floor in ((12, 0.1), (24, 0.25)):
        cell(tmp_path, "tbptt", 0, (0.5, 0.4), length, loss_floor=floor)
    exhibit = made(tmp_path, "online", "online-retrieval")
    assert exhibit.table[["length", "loss_floor"]].to_numpy().tolist() == [[12, 0.1], [24, 0.25]]
    assert [levels(panel)["floor"] for panel in exhibit.panels[::2]] == [[pytest.approx(0.1)], [pytest.approx(0.25)]]
