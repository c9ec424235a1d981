"""Length generalisation: scores beyond the trained length by hand, the figure's lines, and what is left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import folder_of, tiny_run
from tests.report.fabricated import expect, fake, levels, made, means, only, score, words

LENGTHS = (6, 12, 24, 48)


def cell(root: Path, method: str, seed: int, accuracies: tuple[float, ...], trained: int = 12, **facts: Any) -> None:
    """A finished cell that was tested at `LENGTHS`; with SMT+DMT a teacher at half of each accuracy."""
    run = tiny_run(method, {"name": "retrieval", "length": trained}, seed=seed)
    found = dict(zip(LENGTHS, accuracies))
    scores = [score(accuracy, 1.0, length=length, **facts) for length, accuracy in found.items()]
    if method == "smt+dmt":
        scores += [score(accuracy / 2, 1.0, "teacher", length, **facts) for length, accuracy in found.items()]
    fake(root, run, scores)


RNN = [(0.9, 0.8, 0.6, 0.2), (0.8, 0.8, 0.4, 0.0), (1.0, 0.5, 0.5, 0.5)]


def three(root: Path) -> Path:
    for seed, accuracies in enumerate(RNN):
        cell(root / "far", "smt+dmt", seed, accuracies)
        cell(root / "far", "bptt", seed, (0.5, 0.5, 0.5, 0.5))
    return root


def exhibit(root: Path) -> Any:
    return made(root, "lengths", "length-generalisation")


def test_what_learns_from_streams_is_compared_over_lengths_by_its_scores_from_the_start(tmp_path: Path) -> None:
    streams = [score(0.9, 0.5, start_accuracy=0.4, start_loss=1.5), score(0.3, 1.6, length=24)]
    fake(tmp_path / "g", tiny_run("tbptt"), streams)
    expect(only(exhibit(tmp_path).table), accuracy=0.4, longer=0.3, drop=0.25)


def test_the_score_is_the_mean_over_longer_lengths_of_each_seed_and_then_over_seeds(tmp_path: Path) -> None:
    table = exhibit(three(tmp_path)).table
    # Longer: 0.4, 0.2, 0.5. Of three seeds the interval reaches from the least to the largest.
    told = {"accuracy": (0.7, 0.5, 0.8), "longer": (1.1 / 3, 0.2, 0.5), "shorter": (0.9, 0.8, 1.0)}
    facts = {"chance_longer": 0.125, "ceiling_longer": 0.8, "longer_lengths": "24, 48", "shorter_lengths": "6"}
    row = only(table, method="smt+dmt", reference=False)
    expect(row, **told, drop=((0.5 + 0.75 + 0) / 3, 0.0, 0.75), **facts, trained_length=12, seeds=3)
    assert list(zip(table["method"], table["reference"])) == [("smt+dmt", False), ("smt+dmt", True), ("bptt", False)]
    assert only(table, reference=True)["longer"] == pytest.approx(1.1 / 6)
    assert only(table, method="bptt")["drop"] == 0


def test_what_to_judge_by_is_the_mean_over_longer_lengths(tmp_path: Path) -> None:
    scores = [
        score(0.5, 1.0, length=length, chance=1 / length, accuracy_ceiling=0.01 * length) for length in (12, 24, 48)
    ]
    fake(tmp_path, tiny_run("bptt", {"name": "retrieval", "length": 12}), scores)
    expect(only(exhibit(tmp_path).table), chance_longer=1.5 / 48, ceiling_longer=0.36)


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ((24, 48), {"accuracy": math.nan, "longer": 0.5}),
        ((12, 6), {"longer": math.nan, "shorter": 0.5, "accuracy": 0.5}),
    ],
)
def test_what_was_not_tested_is_a_gap(tmp_path: Path, lengths: Any, told: dict[str, float]) -> None:
    fake(tmp_path, tiny_run(), [score(0.5, 1.0, length=length) for length in lengths])
    expect(only(exhibit(tmp_path).table), **told)


def test_the_figure_has_the_means_and_marks_the_trained_length(tmp_path: Path) -> None:
    (panel,) = exhibit(three(tmp_path)).panels
    assert means(panel, method="smt+dmt", reference=False) == [pytest.approx([0.9, 0.7, 0.5, 0.7 / 3])]
    assert means(panel, method="smt+dmt", reference=True) == [pytest.approx([0.45, 0.35, 0.25, 0.35 / 3])]
    assert levels(panel) == {"ceiling": [0.8], "chance": [0.125]} and [mark.x for mark in panel.marks] == [12]
    assert words([panel])[:3] == ["smt+dmt", "bptt", "smt+dmt teacher (reference)"]


def test_each_trained_length_has_a_panel_and_rows_of_its_own(tmp_path: Path) -> None:
    cell(tmp_path, "bptt", 0, (0.5, 0.4, 0.3, 0.2), trained=12)
    cell(tmp_path, "bptt", 0, (0.5, 0.4, 0.3, 0.2), trained=24)
    found = exhibit(tmp_path)
    assert found.table["trained_length"].tolist() == [12, 24]
    assert found.table["longer"].tolist() == pytest.approx([0.25, 0.2])
    assert [panel.title for panel in found.panels] == ["retrieval, trained at 12", "retrieval, trained at 24"]


def test_cells_with_one_test_length_or_without_scores_are_not_here(tmp_path: Path) -> None:
    three(tmp_path)
    fake(tmp_path / "far", tiny_run("transformer"), [score(0.5, 1.0)])
    folder_of(tiny_run("smt"), tmp_path / "far").set_status("failed", reason="no")
    assert set(exhibit(tmp_path).table["method"]) == {"smt+dmt", "bptt"}
