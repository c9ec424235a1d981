"""The main table: what is compared with what, which mean is best, and who is clearly ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.report.data import load
from bench.report.overview import TOO_FEW, compared, main
from bench.results import write_json
from tests.helpers import TINY, TINY_TRAINING, tiny_run
from tests.report.fabricated import fake, only, score, seeds


def sweep(root: Path, method: Any, accuracies: dict[int, list[float]], **facts: Any) -> None:
    """Length -> an accuracy for each seed."""
    for length, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            run = tiny_run(method, {"name": "retrieval", "length": length}, seed=seed)
            fake(root, run, [score(accuracy, 1.0, length=length, **facts), score(0.99, 1.0, "teacher", length)])


def test_a_row_has_every_method_with_its_interval_and_the_best_is_bold(tmp_path: Path) -> None:
    sweep(tmp_path / "g", "smt+dmt", {8: [0.7, 0.8, 0.9], 16: [0.3, 0.4, 0.5]})
    sweep(tmp_path / "g", "bptt", {8: [0.1, 0.2, 0.3], 16: [0.4, 0.5, 0.9]})
    table = compared(load([tmp_path]))
    row = only(table, method="bptt", place="retrieval, length 16")
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == pytest.approx((0.6, 0.4, 0.9))
    assert (row["chance"], row["ceiling"], row["seeds"]) == pytest.approx((0.125, 0.8, 3))
    found = main(table)
    assert found.columns == ["smt+dmt", "bptt"]
    assert [row.place for row in found.rows] == ["retrieval, length 8", "retrieval, length 16"]
    assert [[cell.best for cell in row.cells if cell] for row in found.rows] == [[True, False], [False, True]]
    assert found.rows[0].cells[0] is not None and found.rows[0].cells[0][:2] == ("0.800", ("[0.70, 0.90]",))
    assert "smt+dmt at 1; at 1 no method." in found.answer


def test_ablations_and_settings_of_one_method_alone_are_no_rows(tmp_path: Path) -> None:
    sweep(tmp_path / "g", "smt+dmt", {8: [0.7, 0.8], 16: [0.3, 0.4]})
    sweep(tmp_path / "g", {"name": "smt+dmt", "lambda_dyn": 9.0}, {8: [0.99]})
    sweep(tmp_path / "g", "bptt", {8: [0.1, 0.2]})
    table = compared(load([tmp_path]))
    assert set(table["place"]) == {"retrieval, length 8"}
    assert only(table, method="smt+dmt")["accuracy"] == pytest.approx(0.75)


def test_of_several_grids_the_one_with_most_settings_of_a_task_is_shown(tmp_path: Path) -> None:
    for method in ("smt+dmt", "bptt"):
        sweep(tmp_path / "many", method, {8: [0.5], 16: [0.5]})
        sweep(tmp_path / "few", method, {8: [0.1]})
    assert set(compared(load([tmp_path]))["grid"]) == {"many"}
    assert main(compared(load([tmp_path]))).rows[0].place == "retrieval, length 8"


def test_settings_of_several_grids_are_rows_of_one_table(tmp_path: Path) -> None:
    for method in ("smt+dmt", "bptt"):
        sweep(tmp_path / "short", method, {8: [0.5], 16: [0.5]})
        sweep(tmp_path / "long", method, {64: [0.1]})
    found = main(compared(load([tmp_path])))
    assert [row.place for row in found.rows] == [f"retrieval, length {length}" for length in (8, 16, 64)]


def test_a_curriculum_is_named_where_a_method_was_run_with_and_without_or_always_with_one(tmp_path: Path) -> None:
    task = {"name": "retrieval", "length": 16}
    grows = {**TINY_TRAINING, "curriculum": {"below": 0.3}}
    for method, training in (("smt+dmt", TINY_TRAINING), ("smt+dmt", grows), ("bptt", grows)):
        fake(tmp_path / "g", tiny_run(method, task, training=training), [score(0.5, 1.0, length=16)])
    assert main(compared(load([tmp_path]))).columns == ["smt+dmt", "smt+dmt, curriculum", "bptt, curriculum"]


def test_a_method_that_fails_has_its_diagnosis_beside_it(tmp_path: Path) -> None:
    for accuracy, length in ((0.4, 8), (0.79, 16)):  # the ceiling is 0.8
        task = {"name": "retrieval", "length": length}
        folder = fake(tmp_path / "g", tiny_run("smt+dmt", task), [score(accuracy, 1.0, length=length)])
        write_json(folder / "diagnosis.json", {"diagnosis": {"limit": "drift"}})
        fake(tmp_path / "g", tiny_run("bptt", task), [score(0.2, 1.0, length=length)])
    failed, solved = (row.cells[0] for row in main(compared(load([tmp_path]))).rows)
    assert failed is not None and failed.further == ("drift limits it",)
    assert solved is not None and solved.further == ()


def test_one_method_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    seeds(tmp_path, [0.5, 0.6])
    found = main(compared(load([tmp_path])))
    assert found.rows == [] and found.columns == []


def test_a_method_with_several_backbones_has_a_column_for_each_and_one_seed_claims_no_order(tmp_path: Path) -> None:
    task = {"name": "retrieval", "length": 8}
    for method, backbone, accuracy in (("smt+dmt", "mlp", 0.7), ("bptt", "mlp", 0.2), ("bptt", "gru", 0.9)):
        run = tiny_run(method, task, model={**TINY, "backbone": backbone})
        fake(tmp_path / "g", run, [score(accuracy, 1.0, length=8)])
    found = main(compared(load([tmp_path])))
    assert found.columns == ["smt+dmt", "bptt, gru", "bptt, mlp"]
    assert [cell.text for cell in found.rows[0].cells if cell] == ["0.700", "0.900", "0.200"]
    assert found.answer == TOO_FEW
