"""Ablations: what is compared with what, to the digit; what is told as best; and what odd folders leave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.report.data import load
from bench.report.exhibit import Missing
from bench.report.plot import Panel, draw
from bench.results import write_json
from tests.helpers import TINY, tiny_run
from tests.report.fabricated import exhibits, fake, lines, made, means, only, score, words

NAMES = ["ablation-lambda", "ablation-future", "ablation-backbone"]
BASE = {"lambda_dyn": 1.0, "lambda_unif": 0.001, "future": 64}


def cells(
    root: Path,
    accuracies: list[float],
    method: str = "smt+dmt",
    backbone: str = "transformer",
    teacher: float | None = None,
    ranks: list[float] | None = None,
    **options: Any,
) -> None:
    """A finished cell per accuracy, each of a seed of its own; with a geometry of these effective ranks."""
    own = {**BASE, **options} if method == "smt+dmt" else {}
    for seed, accuracy in enumerate(accuracies):
        run = tiny_run({"name": method, **own}, model={**TINY, "backbone": backbone}, seed=seed)
        teachers = [score(teacher, 1.0, "teacher")] if teacher is not None else []
        folder = fake(root, run, [score(accuracy, 1.0), *teachers])
        if ranks:
            record = {"points": [[0.0, 0.0]], "label": [0], "effective_rank": ranks[seed]}
            write_json(folder / "dynamics.json", {"geometry": record})


def ladder(root: Path) -> None:
    """Around lambda_dyn 1, lambda_unif 0.001."""
    cells(root, [0.5, 0.6, 0.7], ranks=[6, 7, 8], teacher=0.9)
    cells(root, [0.6, 0.7, 0.8], lambda_dyn=0.1)
    cells(root, [0.4, 0.2, 0.3], lambda_dyn=10.0, teacher=0.8)
    cells(root, [0.3, 0.6, 0.6], lambda_unif=0.0, ranks=[1, 2, 3])


def table(root: Path, name: str) -> pd.DataFrame:
    return made(root, "ablations", name)[1]


def panels(root: Path, name: str) -> Sequence[Panel]:
    return made(root, "ablations", name)[0].panels


# Weights.


def test_every_weight_is_compared_with_the_base_seed_by_seed(tmp_path: Path) -> None:
    ladder(tmp_path / "g")
    rows = table(tmp_path, "ablation-lambda")
    row = only(rows, field="method.lambda_dyn", value=10.0, predictor="rnn")
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == pytest.approx((0.3, 0.2, 0.4))
    assert row["seeds"] == 3 and row["chance"] == 0.125 and not row["base"]
    # 0.4 - 0.5, 0.2 - 0.6, 0.3 - 0.7
    assert (row["minus_base"], row["minus_base_low"], row["minus_base_high"]) == pytest.approx((-0.3, -0.4, -0.1))
    base = only(rows, field="method.lambda_dyn", value=1.0, predictor="rnn")
    assert base["base"] and base["minus_base"] == 0 and not base["papers_choice"]
    teacher = only(rows, field="method.lambda_dyn", value=10.0, predictor="teacher")
    assert teacher["minus_base"] == pytest.approx(-0.1)  # of the base's teacher
    assert sorted(rows[rows["field"] == "method.lambda_unif"]["value"].unique()) == [0.0, 0.001]
    assert "where" not in rows


def test_the_best_weight_and_the_papers_are_named(tmp_path: Path) -> None:
    ladder(tmp_path / "g")
    rows = table(tmp_path, "ablation-lambda")
    own = rows[rows["predictor"] == "rnn"]
    assert own[own["best"]][["field", "value"]].to_numpy().tolist() == [
        ["method.lambda_dyn", 0.1],
        ["method.lambda_unif", 0.001],
    ]
    assert own[own["papers_choice"]]["value"].tolist() == [0.1, 0.001]


def test_the_rank_of_memories_stands_beside_lambda_unif(tmp_path: Path) -> None:
    ladder(tmp_path / "g")
    rows = table(tmp_path, "ablation-lambda")
    row = only(rows, field="method.lambda_unif", value=0.0, predictor="rnn")
    assert (row["effective_rank"], row["effective_rank_low"], row["effective_rank_high"]) == pytest.approx((2, 1, 3))
    assert len(panels(tmp_path, "ablation-lambda")) == 3


def test_without_a_geometry_there_is_no_rank(tmp_path: Path) -> None:
    cells(tmp_path / "g", [0.5])
    cells(tmp_path / "g", [0.6], lambda_unif=0.0)
    assert "effective_rank" not in table(tmp_path, "ablation-lambda")
    assert len(panels(tmp_path, "ablation-lambda")) == 1


def test_a_weight_of_zero_has_a_tick_of_its_own_at_the_left(tmp_path: Path) -> None:
    ladder(tmp_path / "g")
    dynamics, uniformity, _ = panels(tmp_path, "ablation-lambda")
    assert dynamics.zero is None and [mark.x for mark in dynamics.marks] == [0.1]
    assert uniformity.zero == pytest.approx(0.0001) and lines(uniformity)[0].x.tolist() == [0.0001, 0.001]
    axes = draw([dynamics, uniformity], load([tmp_path]).looks).axes
    assert [[text.get_text() for text in panel.get_xticklabels()] for panel in axes] == [
        ["0.1", "1", "10"],
        ["0", "0.001"],
    ]


# Futures.


def futures(root: Path) -> None:
    cells(root, [0.9, 0.9, 1.0])
    cells(root, [0.8, 0.9, 1.0], future=1)
    cells(root, [0.9, 1.0, 1.0], detach=True)
    cells(root, [0.2, 0.1, 0.3], detach=True, future=1)


def test_joint_and_detached_training_are_compared_with_the_same_base(tmp_path: Path) -> None:
    futures(tmp_path / "g")
    rows = table(tmp_path, "ablation-future")
    found = {(row["training"], row["future"]): row for row in rows.to_dict("records")}
    assert set(found) == {("joint", 1), ("joint", 64), ("detached", 1), ("detached", 64)}
    assert found["joint", 64]["base"] and sum(row["base"] for row in found.values()) == 1
    row = found["detached", 1]  # 0.2 - 0.9, 0.1 - 0.9, 0.3 - 1.0
    assert row["accuracy"] == pytest.approx(0.2)
    assert (row["minus_base"], row["minus_base_low"], row["minus_base_high"]) == pytest.approx((-2.2 / 3, -0.8, -0.7))


def test_the_length_is_marked_beside_both_ways_to_train(tmp_path: Path) -> None:
    futures(tmp_path / "g")
    (panel,) = panels(tmp_path, "ablation-future")
    assert [mark.x for mark in panel.marks] == [12]
    told = ["smt+dmt, detached", "smt+dmt, joint", "ceiling", "chance", "length of the task"]
    assert words([panel]) == told and len({line.variant for line in panel.lines}) == 2


# Backbones.


def test_backbones_are_compared_with_the_methods_own_base(tmp_path: Path) -> None:
    cells(tmp_path / "g", [0.8, 0.9, 1.0])
    cells(tmp_path / "g", [0.8, 0.9, 1.0], lambda_dyn=0.1)
    cells(tmp_path / "g", [0.2, 0.1, 0.3], backbone="gru")
    cells(tmp_path / "g", [0.5, 0.5, 0.5], "bptt")
    cells(tmp_path / "g", [0.7, 0.6, 0.8], "bptt", "gru")
    rows = table(tmp_path, "ablation-backbone")
    assert list(zip(rows["method"], rows["backbone"])) == [
        ("smt+dmt", "gru"),
        ("smt+dmt", "transformer"),
        ("bptt", "gru"),
        ("bptt", "transformer"),
    ]
    assert rows["minus_base"].tolist() == pytest.approx([-0.7, 0, 0.2, 0])  # on a tie the paper's backbone is the base
    assert rows["seeds"].tolist() == [3] * 4
    (panel,) = panels(tmp_path, "ablation-backbone")
    assert panel.names == ["transformer", "gru"]
    assert means(panel) == [pytest.approx([0.9, 0.2]), pytest.approx([0.5, 0.7])]


# Odd folders.


def test_cells_that_differ_in_more_than_the_field_are_not_compared(tmp_path: Path) -> None:
    cells(tmp_path / "g", [0.5], future=1)
    cells(tmp_path / "g", [0.6], lambda_dyn=0.1, future=4)
    cells(tmp_path / "other", [0.6], lambda_dyn=0.1, future=1)  # nor across grids
    assert all(isinstance(exhibit, Missing) for exhibit in exhibits(tmp_path, "ablations").values())
