"""Ablations: what is compared with what, to the digit; what is told as best; and what odd folders leave."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.report.data import load
from bench.report.plot import draw
from bench.results import write_json
from tests.helpers import TINY, TINY_TRAINING, tiny_run
from tests.report.fabricated import expect, fake, lines, made, means, missing, only, score, table, words

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


# Weights.


def test_every_weight_is_compared_with_the_base_seed_by_seed(tmp_path: Path) -> None:
    ladder(tmp_path / "g")
    rows = table(tmp_path, "ablations", "ablation-lambda")
    large = {"accuracy": (0.3, 0.2, 0.4), "chance": 0.125, "base": False, "seeds": 3}
    minus = (-0.3, -0.4, -0.1)  # 0.4 - 0.5, 0.2 - 0.6, 0.3 - 0.7
    expect(only(rows, field="method.lambda_dyn", value=10.0, predictor="rnn"), **large, minus_base=minus)
    base = {"base": True, "minus_base": 0, "papers_choice": False}
    expect(only(rows, field="method.lambda_dyn", value=1.0, predictor="rnn"), **base)
    teacher = only(rows, field="method.lambda_dyn", value=10.0, predictor="teacher")
    expect(teacher, minus_base=-0.1)  # of the base's teacher
    assert sorted(rows[rows["field"] == "method.lambda_unif"]["value"].unique()) == [0.0, 0.001]
    assert "where" not in rows


def test_the_best_weight_and_the_papers_are_named_beside_the_rank_of_memories(tmp_path: Path) -> None:
    ladder(tmp_path / "g")
    rows = table(tmp_path, "ablations", "ablation-lambda")
    own = rows[rows["predictor"] == "rnn"]
    best = own[own["best"]]
    assert list(zip(best["field"], best["value"])) == [("method.lambda_dyn", 0.1), ("method.lambda_unif", 0.001)]
    assert own[own["papers_choice"]]["value"].tolist() == [0.1, 0.001]
    expect(only(own, field="method.lambda_unif", value=0.0), effective_rank=(2, 1, 3))


def test_without_a_geometry_there_is_no_rank(tmp_path: Path) -> None:
    cells(tmp_path / "g", [0.5])
    cells(tmp_path / "g", [0.6], lambda_unif=0.0)
    found = made(tmp_path, "ablations", "ablation-lambda")
    assert "effective_rank" not in found.table and len(found.panels) == 1


def test_a_weight_of_zero_has_a_tick_of_its_own_at_the_left(tmp_path: Path) -> None:
    ladder(tmp_path / "g")
    dynamics, uniformity, _ = made(tmp_path, "ablations", "ablation-lambda").panels
    assert dynamics.zero is None and [mark.x for mark in dynamics.marks] == [0.1]
    assert uniformity.zero == pytest.approx(0.0001) and lines(uniformity)[0].x.tolist() == [0.0001, 0.001]
    axes = draw([dynamics, uniformity], load([tmp_path]).looks).axes
    ticks = [[text.get_text() for text in panel.get_xticklabels()] for panel in axes]
    assert ticks == [["0.1", "1", "10"], ["0", "0.001"]]


# Futures.


def futures(root: Path) -> None:
    cells(root, [0.9, 0.9, 1.0])
    cells(root, [0.8, 0.9, 1.0], future=1)
    cells(root, [0.9, 1.0, 1.0], detach=True)
    cells(root, [0.2, 0.1, 0.3], detach=True, future=1)


def test_joint_and_detached_training_are_compared_with_the_same_base(tmp_path: Path) -> None:
    futures(tmp_path / "g")
    rows = table(tmp_path, "ablations", "ablation-future")
    found = {(row["training"], row["future"]): row for row in rows.to_dict("records")}
    assert set(found) == {("joint", 1), ("joint", 64), ("detached", 1), ("detached", 64)}
    assert found["joint", 64]["base"] and sum(row["base"] for row in found.values()) == 1
    minus = (-2.2 / 3, -0.8, -0.7)  # 0.2 - 0.9, 0.1 - 0.9, 0.3 - 1.0
    expect(found["detached", 1], accuracy=0.2, minus_base=minus)


def test_the_length_is_marked_beside_both_ways_to_train(tmp_path: Path) -> None:
    futures(tmp_path / "g")
    (panel,) = made(tmp_path, "ablations", "ablation-future").panels
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
    rows = table(tmp_path, "ablations", "ablation-backbone")
    assert list(zip(rows["method"], rows["backbone"])) == list(product(["smt+dmt", "bptt"], ["gru", "transformer"]))
    assert rows["minus_base"].tolist() == pytest.approx([-0.7, 0, 0.2, 0])  # on a tie the paper's backbone is the base
    assert rows["seeds"].tolist() == [3] * 4
    (panel,) = made(tmp_path, "ablations", "ablation-backbone").panels
    assert panel.names == ["transformer", "gru"]
    assert means(panel) == [pytest.approx([0.9, 0.2]), pytest.approx([0.5, 0.7])]


# Odd folders.


def test_cells_that_differ_in_more_than_the_field_are_not_compared(tmp_path: Path) -> None:
    cells(tmp_path / "g", [0.5], future=1)
    cells(tmp_path / "g", [0.6], lambda_dyn=0.1, future=4)
    cells(tmp_path / "other", [0.6], lambda_dyn=0.1, future=1)  # nor across grids
    assert missing(tmp_path, "ablations") == ["ablation-lambda", "ablation-future", "ablation-backbone"]


def test_what_a_grid_does_not_call_varied_follows_only_where_nothing_else_would_be_averaged(tmp_path: Path) -> None:
    def trained(backbone: str, accuracy: float, below: float | None) -> None:
        training = {**TINY_TRAINING, "curriculum": below and {"below": below}}
        for seed in range(2):
            run = tiny_run("bptt", model={**TINY, "backbone": backbone}, training=training, seed=seed)
            fake(tmp_path / "g", run, [score(accuracy, 1.0)])

    trained("gru", 0.8, 0.2)  # a curriculum of its own
    trained("transformer", 0.1, None)
    write_json(tmp_path / "g" / "grid.json", {"cells": {}, "stated": [["model.backbone"]], "methods": {}})
    rows = table(tmp_path, "ablations", "ablation-backbone")
    assert rows["accuracy"].tolist() == pytest.approx([0.8, 0.1])  # it follows
    trained("transformer", 0.7, 0.2)
    rows = table(tmp_path, "ablations", "ablation-backbone")
    assert rows["accuracy"].tolist() == pytest.approx([0.8, 0.7])  # not the mean of the paper's cell with and without
    assert rows["seeds"].tolist() == [2, 2]
