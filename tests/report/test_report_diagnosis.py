"""The section on diagnoses: what its table says of seeds, what its panels show, and records that are not whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.report.data import load
from bench.report.plot import draw
from bench.report.sections import diagnosis
from tests.report.fabricated import expect, levels, made, measured, missing, only


def record(limit: str = "drift", rollout: float = 0.4, ceiling: float | None = 1.0) -> dict[str, Any]:
    """Of a task with four columns, the last two of which are scored."""
    return {
        **{"t": [0, 1, 2, 3], "teacher": [None, None, 0.9, 1.0], "rollout": [None, None, rollout, rollout]},
        **{"error": [None, 0.01, 0.1, 0.02], "between": [0.0, 0.5, None, 0.8], "spread": [0.5, 0.9, 0.9, 0.9]},
        "ahead": {"j": [0, 1, 3], "accuracy": [0.95, 0.8, 0.5]},
        "after_steps": {"k": [1, 2, 4], "accuracy": [0.9, 0.7, rollout]},
        "scores": {"teacher": 0.95, "one_step": 0.9, "rollout": rollout, "ceiling": ceiling, "chance": 0.125},
        **{"limit": limit, "verdict": f"{limit} at {rollout}"},
    }


def cell(root: Path, found: Any, method: Any = "smt", seed: int = 0, length: int = 12) -> None:
    task = {"name": "retrieval", "length": length}
    measured(root, "diagnosis.json", {"diagnosis": found}, method, seed, task)


def test_a_line_has_means_over_seeds_and_the_verdict_of_the_worst(tmp_path: Path) -> None:
    for seed, (limit, rollout) in enumerate([("solved", 1.0), ("drift", 0.4), ("drift", 0.7)]):
        cell(tmp_path, record(limit, rollout), seed=seed)
    cell(tmp_path, record("teacher", 0.2), "smt-dense")
    found = made(tmp_path, "diagnosis")
    told = {"limit": "drift (2), solved (1)", "verdict": "drift at 0.4", "seeds": 3}
    expect(only(found.table, method="smt"), rollout=0.7, teacher=0.95, **told)
    assert only(found.table, method="smt-dense")["limit"] == "teacher"
    assert found.methods == ("smt", "smt-dense") and found.tasks == ("retrieval",) and "4 of 4 cells" in found.run


def test_four_panels_show_the_worst_seed(tmp_path: Path) -> None:
    cell(tmp_path, record("solved", 1.0), seed=0)
    cell(tmp_path, record("drift", 0.4), seed=1)
    by_column, ahead, variance, after = made(tmp_path, "diagnosis").panels
    assert by_column.title == "retrieval, length 12, smt: limited by drift" and ahead.title == ""
    rollout, teacher = by_column.lines
    assert (teacher.x.tolist(), teacher.mean.tolist(), teacher.reference) == ([2, 3], [0.9, 1.0], True)
    assert (rollout.x.tolist(), rollout.mean.tolist(), rollout.method) == ([2, 3], [0.4, 0.4], "smt")
    assert (ahead.lines[0].x.tolist(), ahead.lines[0].mean.tolist()) == ([0, 1, 3], [0.95, 0.8, 0.5])
    error, between, spread = variance.lines
    assert between.x.tolist() == [1, 3] and error.x.tolist() == [1, 2, 3], "what is 0 or not known is a gap"
    assert spread.mean[0] == 0.5 and variance.ylog
    assert after.lines[0].mean.tolist() == [0.9, 0.7, 0.4] and levels(after)["teacher"] == [0.95]


def test_of_many_settings_the_worst_are_drawn(tmp_path: Path) -> None:
    for number in range(7):
        cell(tmp_path, record("drift", 0.3 + 0.1 * number, None if number == 3 else 1.0), length=8 + number)
    found = made(tmp_path, "diagnosis")
    assert len(found.panels) == 4 * diagnosis.MOST_ROWS and len(found.table) == 7
    titles = [panel.title.split(", smt")[0] for panel in found.panels[::4]]
    assert titles == [f"retrieval, length {8 + number}" for number in range(diagnosis.MOST_ROWS)]


def test_settings_that_differ_in_a_knob_beside_the_length_say_so(tmp_path: Path) -> None:
    for symbols in (4, 8):
        task = {"name": "retrieval", "length": 12, "symbols": symbols}
        measured(tmp_path, "diagnosis.json", {"diagnosis": record()}, "smt", 0, task)
    places = made(tmp_path, "diagnosis").table["place"].tolist()
    assert places == [f"retrieval, length 12, symbols {symbols}" for symbols in (4, 8)]
    cell(tmp_path / "lengths", record(), length=8)
    cell(tmp_path / "lengths", record(), length=16)
    assert "place" not in made(tmp_path / "lengths", "diagnosis").table


def test_memories_that_are_all_one_can_be_drawn(tmp_path: Path) -> None:
    cell(tmp_path, {**record(), **dict.fromkeys(("error", "between", "spread"), [0.0] * 4)})
    draw(made(tmp_path, "diagnosis").panels, load([tmp_path]).looks, 4)


@pytest.mark.parametrize("name", ["t", "error", "ahead", "after_steps", "scores"])
@pytest.mark.parametrize("value", [None, "x", {"k": [1]}])
def test_a_damaged_record_is_left_out(tmp_path: Path, name: str, value: Any) -> None:
    cell(tmp_path, {**record(), name: value})
    assert missing(tmp_path, "diagnosis") == ["diagnosis"]
