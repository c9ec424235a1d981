"""Accuracy against difficulty: every number of the tables by hand, the lines of the figure, and what is left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.report.data import Data, load
from bench.report.exhibit import Missing
from tests.helpers import TINY, folder_of, tiny_run
from tests.report import fabricated
from tests.report.fabricated import fake, levels, means, only, score, words


def cell(
    root: Path, method: str, length: int, seed: int, accuracy: float, task: str = "retrieval", **facts: Any
) -> None:
    """A finished cell; with SMT+DMT a teacher that is 0.05 better."""
    knobs = facts.pop("task_fields", {})
    run = tiny_run(method, {"name": task, "length": length, **knobs}, seed=seed, **facts.pop("fields", {}))
    scores = [score(accuracy, 1.0, length=length, **facts)]
    if method == "smt+dmt":
        scores.append(score(accuracy + 0.05, 1.0, "teacher", length, **facts))
    fake(root, run, scores)


SMT = {8: (0.4, 0.5, 0.75), 16: (0.3, 0.3, 0.3)}
BPTT = {8: (0.3, 0.6, 0.6), 16: (0.5, 0.6, 0.4)}


def both(root: Path) -> Data:
    """SMT+DMT and BPTT on retrieval at lengths 8 and 16, three seeds; chance and ceiling differ by length."""
    for method, found in (("smt+dmt", SMT), ("bptt", BPTT)):
        for length, values in found.items():
            facts: dict[str, Any] = {"chance": 1 / length, "accuracy_ceiling": 0.8 if length == 8 else 0.9}
            for seed, accuracy in enumerate(values):
                cell(root / "sweep", method, length, seed, accuracy, **facts)
    return load([root])


def exhibits(data: Data) -> dict[str, Any]:
    return fabricated.exhibits(data, "synthetic")


def along(data: Data) -> pd.DataFrame:
    table = exhibits(data)["synthetic"].table
    assert isinstance(table, pd.DataFrame)
    return table


# Along the axis.


def test_each_row_has_the_mean_over_seeds_and_what_it_is_judged_by(tmp_path: Path) -> None:
    table = along(both(tmp_path))
    assert len(table) == 6 and set(table["knob"]) == {"length"}
    row = only(table, method="smt+dmt", reference=False, value=8.0)
    # Of three seeds the interval reaches from the least to the largest: 1 in 27 resamples has one seed thrice.
    expected = {"accuracy": 0.55, "accuracy_low": 0.4, "accuracy_high": 0.75, "chance": 0.125, "ceiling": 0.8}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["share_of_ceiling"] == pytest.approx(0.55 / 0.8) and row["seeds"] == 3
    assert only(table, method="bptt", value=16.0)["share_of_ceiling"] == pytest.approx(0.5 / 0.9)
    assert only(table, reference=True, value=8.0)["accuracy"] == pytest.approx(0.6)


def test_differences_to_bptt_are_paired_by_seed(tmp_path: Path) -> None:
    table = along(both(tmp_path))
    row = only(table, method="smt+dmt", reference=False, value=8.0)  # 0.1, -0.1, 0.15
    assert row["minus_bptt"] == pytest.approx(0.05) and row["minus_bptt_seeds"] == 3
    assert (row["minus_bptt_low"], row["minus_bptt_high"]) == (pytest.approx(-0.1), pytest.approx(0.15))
    row = only(table, reference=True, value=16.0)  # the teacher: -0.15, -0.25, -0.05
    assert (row["minus_bptt"], row["minus_bptt_high"]) == (pytest.approx(-0.15), pytest.approx(-0.05))
    assert table.loc[table["method"] == "bptt", "minus_bptt"].isna().all()


def test_a_seed_that_only_one_of_them_has_is_in_its_mean_but_not_in_the_difference(tmp_path: Path) -> None:
    both(tmp_path)
    cell(tmp_path / "sweep", "smt+dmt", 8, 3, 0.95, chance=0.125, accuracy_ceiling=0.8)
    row = only(along(load([tmp_path])), method="smt+dmt", reference=False, value=8.0)
    assert row["seeds"] == 4 and row["accuracy"] == pytest.approx(0.65)
    assert row["minus_bptt_seeds"] == 3 and row["minus_bptt"] == pytest.approx(0.05)


def test_cells_of_unlike_models_are_not_paired(tmp_path: Path) -> None:
    for length in (8, 16):
        cell(tmp_path, "smt+dmt", length, 0, 0.5)
        cell(tmp_path, "bptt", length, 0, 0.4, fields={"model": {**TINY, "d": 16}})
    assert along(load([tmp_path]))["minus_bptt"].isna().all()


def test_with_several_rivals_at_equal_settings_there_is_no_difference(tmp_path: Path) -> None:
    training = {"batch_size": 8, "budget": {"steps": 12}}
    for length in (8, 16):
        cell(tmp_path, "smt+dmt", length, 0, 0.5)
        for lr, accuracy in ((1e-3, 0.4), (1e-2, 0.3)):
            fields = {"training": {**training, "optimiser": {"lr": lr}}}
            cell(tmp_path, "bptt", length, 0, accuracy, fields=fields)
    table = along(load([tmp_path]))
    assert table["minus_bptt"].isna().all() and set(table["setting"]) == {"", "lr 0.001", "lr 0.01"}


def test_the_lines_are_the_means_and_chance_and_ceiling_follow_the_axis(tmp_path: Path) -> None:
    (panel,) = exhibits(both(tmp_path))["synthetic"].panels
    assert panel.title == "retrieval" and "length" in panel.x
    assert means(panel, method="smt+dmt", reference=False) == [pytest.approx([0.55, 0.3])]
    assert means(panel, method="smt+dmt", reference=True) == [pytest.approx([0.6, 0.35])]
    assert means(panel, method="bptt") == [pytest.approx([0.5, 0.5])]
    assert levels(panel) == {"ceiling": pytest.approx([0.8, 0.9]), "chance": [0.125, 0.0625]}
    assert words([panel]) == ["smt+dmt", "bptt", "smt+dmt teacher (reference)", "ceiling", "chance"]


def test_seeds_are_points_where_they_are_too_few_for_a_band(tmp_path: Path) -> None:
    for length in (8, 16):
        for seed, accuracy in enumerate((0.25, 0.75)):
            cell(tmp_path, "bptt", length, seed, accuracy)
    exhibit = exhibits(load([tmp_path]))["synthetic"]
    assert "2 of 2 means" in exhibit.caption
    (line,) = exhibit.panels[0].lines
    assert [y.tolist() for _, y in line.seeds] == [[0.25, 0.25], [0.75, 0.75]] and np.isnan(line.low).all()
    assert exhibit.table["accuracy_low"].isna().all()


def test_only_finished_cells_at_the_trained_length_of_tasks_with_a_ceiling_in_nats_count(tmp_path: Path) -> None:
    both(tmp_path)
    folder = folder_of(tiny_run("bptt", {"name": "retrieval", "length": 32}), tmp_path / "sweep")
    folder.set_status("failed", reason="ValueError: no")
    for length in (16, 32):
        run = tiny_run("transformer", {"name": "retrieval", "length": length})
        fake(tmp_path / "sweep", run, [score(0.4, 1.0, length=length), score(0.9, 1.0, length=64)])
        digits = tiny_run("bptt", {"name": "digits", "length": length})
        fake(tmp_path / "sweep", digits, [score(0.4, 1.0, length=length, unit="bits")])
    exhibit = exhibits(load([tmp_path]))["synthetic"]
    assert set(exhibit.table["task"]) == {"retrieval"} == set(exhibit.tasks)
    rows = exhibit.table[exhibit.table["method"] == "transformer"]
    assert rows["value"].tolist() == [16, 32] and rows["accuracy"].tolist() == [0.4, 0.4]
    assert "sweep, 14 of 15 cells done, the other 1 left out" in exhibit.run


def test_the_axis_is_the_knob_with_most_values_and_the_others_make_panels(tmp_path: Path) -> None:
    for symbols in (4, 8):
        for length in (8, 12, 16):
            cell(tmp_path, "bptt", length, 0, 0.5, task_fields={"symbols": symbols})
    exhibit = exhibits(load([tmp_path]))["synthetic"]
    assert set(exhibit.table["knob"]) == {"length"} and len(exhibit.table) == 6
    assert set(exhibit.table["where"]) == {"symbols 4", "symbols 8"}
    assert [panel.title for panel in exhibit.panels] == ["retrieval, symbols 4", "retrieval, symbols 8"]


def test_a_length_that_follows_from_a_knob_is_not_the_axis(tmp_path: Path) -> None:
    for length, symbols in ((8, 3), (12, 5)):
        cell(tmp_path, "bptt", length, 0, 0.5, task_fields={"symbols": symbols})
    table = along(load([tmp_path]))
    assert set(table["knob"]) == {"symbols"} and table["value"].tolist() == [3, 5] and "where" not in table


def test_settings_of_one_method_are_lines_of_their_own(tmp_path: Path) -> None:
    for backbone, accuracy in (("transformer", 0.5), ("gru", 0.3)):
        for length in (8, 16):
            cell(tmp_path, "bptt", length, 0, accuracy, fields={"model": {**TINY, "backbone": backbone}})
            cell(tmp_path, "smt+dmt", length, 0, accuracy + 0.1, fields={"model": {**TINY, "backbone": backbone}})
    exhibit = exhibits(load([tmp_path]))["synthetic"]
    row = only(exhibit.table, method="smt+dmt", reference=False, setting="backbone gru", value=16.0)
    assert row["accuracy"] == pytest.approx(0.4) and row["minus_bptt"] == pytest.approx(0.1)
    assert {"bptt, backbone gru", "bptt, backbone transformer"} <= set(words(exhibit.panels))


# Over all settings.


def sweep(root: Path, method: str, shares: dict[int, list[float]]) -> None:
    """Per seed, shares of the ceiling (0.5) at lengths 8, 12, ..."""
    for seed, values in shares.items():
        for place, share in enumerate(values):
            cell(root / "sweep", method, 8 + 4 * place, seed, 0.5 * share, accuracy_ceiling=0.5)


def test_the_interquartile_mean_is_over_settings_of_each_seed_and_then_over_seeds(tmp_path: Path) -> None:
    sweep(tmp_path, "bptt", {0: [0.1, 0.5, 0.7, 1.0], 1: [0.9, 0.2, 0.4, 0.0], 2: [0.8, 0.8, 0.8, 0.1]})
    exhibit = exhibits(load([tmp_path]))["synthetic-aggregate"]
    row = only(exhibit.table)  # the middle two of four: 0.6, 0.3, 0.8
    assert row["share_of_ceiling"] == pytest.approx(1.7 / 3)
    assert (row["share_of_ceiling_low"], row["share_of_ceiling_high"]) == (pytest.approx(0.3), pytest.approx(0.8))
    assert (row["settings"], row["tasks"], row["seeds"]) == (4, 1, 3)
    assert means(exhibit.panels[0]) == [[pytest.approx(1.7 / 3)]]


def test_only_settings_that_all_have_finished_are_compared(tmp_path: Path) -> None:
    sweep(tmp_path, "bptt", {0: [1.0, 0.8, 0.0], 1: [0.5, 0.3, 0.0], 2: [0.9, 0.9, 0.0]})
    sweep(tmp_path, "transformer", {0: [0.4, 0.2], 1: [0.9]})
    table = exhibits(load([tmp_path]))["synthetic-aggregate"].table
    assert only(table, method="bptt")["share_of_ceiling"] == pytest.approx((0.9 + 0.4 + 0.9) / 3)
    row = only(table, method="transformer")
    assert row["share_of_ceiling"] == pytest.approx(0.3) and row["seeds"] == 1 and row["settings"] == 2
    assert math.isnan(row["share_of_ceiling_low"])


def test_without_a_known_ceiling_there_is_no_share(tmp_path: Path) -> None:
    for length in (8, 16):
        cell(tmp_path, "bptt", length, 0, 0.5, accuracy_ceiling=None)
    found = exhibits(load([tmp_path]))
    assert found["synthetic"].table["share_of_ceiling"].isna().all()
    assert isinstance(found["synthetic-aggregate"], Missing)
