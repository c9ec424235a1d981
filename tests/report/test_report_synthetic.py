"""Accuracy against difficulty: every number of the tables by hand, the lines of the figure, and what is left out."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import TINY, TINY_TRAINING, folder_of, tiny_run
from tests.report.fabricated import expect, fake, levels, made, means, missing, only, score, table, words


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


def both(root: Path) -> Path:
    """SMT+DMT and BPTT on retrieval at lengths 8 and 16, three seeds; chance and ceiling differ by length."""
    for method, found in (("smt+dmt", SMT), ("bptt", BPTT)):
        for length, values in found.items():
            facts: dict[str, Any] = {"chance": 1 / length, "accuracy_ceiling": 0.8 if length == 8 else 0.9}
            for seed, accuracy in enumerate(values):
                cell(root / "sweep", method, length, seed, accuracy, **facts)
    return root


# Along the axis.


def test_each_row_has_the_mean_over_seeds_and_what_it_is_judged_by(tmp_path: Path) -> None:
    rows = table(both(tmp_path), "synthetic")
    assert len(rows) == 6 and set(rows["knob"]) == {"length"}
    # Of three seeds the interval reaches from the least to the largest: 1 in 27 resamples has one seed thrice.
    facts = {"chance": 0.125, "ceiling": 0.8, "share_of_ceiling": 0.55 / 0.8, "seeds": 3}
    paired = {"minus_bptt": (0.05, -0.1, 0.15), "minus_bptt_seeds": 3}
    expect(only(rows, method="smt+dmt", reference=False, value=8.0), accuracy=(0.55, 0.4, 0.75), **facts, **paired)
    expect(only(rows, method="bptt", value=16.0), share_of_ceiling=0.5 / 0.9, minus_bptt=math.nan)
    expect(only(rows, reference=True, value=8.0), accuracy=0.6)
    expect(only(rows, reference=True, value=16.0), minus_bptt=(-0.15, -0.25, -0.05))


def test_a_seed_that_only_one_of_them_has_is_in_its_mean_but_not_in_the_difference(tmp_path: Path) -> None:
    both(tmp_path)
    cell(tmp_path / "sweep", "smt+dmt", 8, 3, 0.95, chance=0.125, accuracy_ceiling=0.8)
    row = only(table(tmp_path, "synthetic"), method="smt+dmt", reference=False, value=8.0)
    expect(row, accuracy=0.65, seeds=4, minus_bptt=0.05, minus_bptt_seeds=3)


def test_cells_of_unlike_models_are_not_paired(tmp_path: Path) -> None:
    for length in (8, 16):
        cell(tmp_path, "smt+dmt", length, 0, 0.5)
        cell(tmp_path, "bptt", length, 0, 0.4, fields={"model": {**TINY, "d": 16}})
    assert table(tmp_path, "synthetic")["minus_bptt"].isna().all()


def test_with_several_rivals_at_equal_settings_there_is_no_difference(tmp_path: Path) -> None:
    for length in (8, 16):
        cell(tmp_path, "smt+dmt", length, 0, 0.5)
        for lr, accuracy in ((1e-3, 0.4), (1e-2, 0.3)):
            fields = {"training": {**TINY_TRAINING, "optimiser": {"lr": lr}}}
            cell(tmp_path, "bptt", length, 0, accuracy, fields=fields)
    rows = table(tmp_path, "synthetic")
    assert rows["minus_bptt"].isna().all() and set(rows["setting"]) == {"", "lr 0.001", "lr 0.01"}


def test_the_lines_are_the_means_and_chance_and_ceiling_follow_the_axis(tmp_path: Path) -> None:
    (panel,) = made(both(tmp_path), "synthetic").panels
    assert panel.title == "retrieval" and "length" in panel.x
    assert means(panel, method="smt+dmt", reference=False) == [pytest.approx([0.55, 0.3])]
    assert means(panel, method="smt+dmt", reference=True) == [pytest.approx([0.6, 0.35])]
    assert means(panel, method="bptt") == [pytest.approx([0.5, 0.5])]
    assert levels(panel) == {"ceiling": pytest.approx([0.8, 0.9]), "chance": [0.125, 0.0625]}
    assert words([panel]) == ["smt+dmt", "bptt", "smt+dmt teacher (reference)", "ceiling", "chance"]


def test_only_finished_cells_at_the_trained_length_of_tasks_with_a_ceiling_in_nats_count(tmp_path: Path) -> None:
    both(tmp_path)
    folder = folder_of(tiny_run("bptt", {"name": "retrieval", "length": 32}), tmp_path / "sweep")
    folder.set_status("failed", reason="ValueError: no")
    for length in (16, 32):
        run = tiny_run("transformer", {"name": "retrieval", "length": length})
        fake(tmp_path / "sweep", run, [score(0.4, 1.0, length=length), score(0.9, 1.0, length=64)])
        digits = tiny_run("bptt", {"name": "digits", "length": length})
        fake(tmp_path / "sweep", digits, [score(0.4, 1.0, length=length, unit="bits")])
    exhibit = made(tmp_path, "synthetic")
    assert set(exhibit.table["task"]) == {"retrieval"} == set(exhibit.tasks)
    rows = exhibit.table[exhibit.table["method"] == "transformer"]
    assert rows["value"].tolist() == [16, 32] and rows["accuracy"].tolist() == [0.4, 0.4]
    assert "sweep, 14 of 15 cells done, the other 1 left out" in exhibit.run


def test_the_axis_is_the_knob_with_most_values_and_the_others_make_panels(tmp_path: Path) -> None:
    for symbols in (4, 8):
        for length in (8, 12, 16):
            cell(tmp_path, "bptt", length, 0, 0.5, task_fields={"symbols": symbols})
    exhibit = made(tmp_path, "synthetic")
    assert set(exhibit.table["knob"]) == {"length"} and len(exhibit.table) == 6
    assert set(exhibit.table["where"]) == {"symbols 4", "symbols 8"}
    assert [panel.title for panel in exhibit.panels] == ["retrieval, symbols 4", "retrieval, symbols 8"]


def test_a_length_that_follows_from_a_knob_is_not_the_axis(tmp_path: Path) -> None:
    for length, symbols in ((8, 3), (12, 5)):
        cell(tmp_path, "bptt", length, 0, 0.5, task_fields={"symbols": symbols})
    rows = table(tmp_path, "synthetic")
    assert set(rows["knob"]) == {"symbols"} and rows["value"].tolist() == [3, 5] and "where" not in rows


def test_of_many_lines_those_with_a_curriculum_of_lengths_have_a_panel_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for below, backbones in ((None, ("lstm", "transformer")), (0.3, ("gru", "transformer"))):
        for backbone in backbones:
            for length in (8, 16):
                training = {**TINY_TRAINING, "curriculum": below and {"below": below}}
                fields = {"training": training, "model": {**TINY, "backbone": backbone}}
                cell(tmp_path, "bptt", length, 0, 0.9 if below else 0.2, fields=fields)
    (panel,) = made(tmp_path, "synthetic").panels
    assert len(panel.lines) == 4
    monkeypatch.setattr("bench.report.plot.FEW", 3)
    one, grown = made(tmp_path, "synthetic").panels
    assert (one.title, grown.title) == ("retrieval, one length", "retrieval, a curriculum of lengths")
    assert [line.mean.tolist() for line in (*one.lines, *grown.lines)] == [[0.2, 0.2]] * 2 + [[0.9, 0.9]] * 2
    looks = {line.word: line.variant for line in (*one.lines, *grown.lines)}
    assert looks == {"bptt, backbone lstm": 1, "bptt, backbone transformer": 2, "bptt, backbone gru": 0}


def test_a_line_with_a_curriculum_where_lengths_allow_it_stays_one_and_says_so(tmp_path: Path) -> None:
    for length, grown in ((8, None), (16, {"below": 0.3})):
        for backbone, chrono in (("gru", None), ("lstm", 16)):
            own = grown if backbone == "lstm" else None
            schedule = {"schedule": "constant" if own else "cosine"}
            training = {**TINY_TRAINING, "optimiser": schedule, "curriculum": own}
            fields = {"training": training, "model": {**TINY, "backbone": backbone, "chrono": chrono}}
            cell(tmp_path, "bptt", length, 0, 0.5, fields=fields)
        cell(tmp_path, "smt+dmt", length, 0, 0.4)
    (panel,) = made(tmp_path, "synthetic").panels
    told = {line.word: line.x.tolist() for line in panel.lines if not line.reference}
    lines = ["smt+dmt", "bptt, backbone gru", "bptt, backbone lstm, chrono 16, curriculum"]
    assert told == {line: [8, 16] for line in lines}


def test_a_line_looks_the_same_in_all_panels(tmp_path: Path) -> None:
    for task, backbones in (("retrieval", ("transformer",)), ("string-copy", ("gru", "transformer"))):
        for backbone, length in product(backbones, (8, 16)):
            run = tiny_run("bptt", {"name": task, "length": length}, model={**TINY, "backbone": backbone})
            fake(tmp_path / "g", run, [score(0.5, 1.0, length=length)])
    looks = [(line.word, line.variant) for panel in made(tmp_path, "synthetic").panels for line in panel.lines]
    assert len(set(looks)) == len({word for word, _ in looks})


def test_settings_of_one_method_are_lines_of_their_own(tmp_path: Path) -> None:
    for backbone, accuracy in (("transformer", 0.5), ("gru", 0.3)):
        for length in (8, 16):
            cell(tmp_path, "bptt", length, 0, accuracy, fields={"model": {**TINY, "backbone": backbone}})
            cell(tmp_path, "smt+dmt", length, 0, accuracy + 0.1, fields={"model": {**TINY, "backbone": backbone}})
    exhibit = made(tmp_path, "synthetic")
    row = only(exhibit.table, method="smt+dmt", reference=False, setting="backbone gru", value=16.0)
    expect(row, accuracy=0.4, minus_bptt=0.1)
    assert {"bptt, backbone gru", "bptt, backbone transformer"} <= set(words(exhibit.panels))


# Over all settings.


def sweep(root: Path, method: str, shares: dict[int, list[float]]) -> None:
    """Per seed, shares of the ceiling (0.5) at lengths 8, 12, ..."""
    for seed, values in shares.items():
        for place, share in enumerate(values):
            cell(root / "sweep", method, 8 + 4 * place, seed, 0.5 * share, accuracy_ceiling=0.5)


def test_the_interquartile_mean_is_over_settings_of_each_seed_and_then_over_seeds(tmp_path: Path) -> None:
    sweep(tmp_path, "bptt", {0: [0.1, 0.5, 0.7, 1.0], 1: [0.9, 0.2, 0.4, 0.0], 2: [0.8, 0.8, 0.8, 0.1]})
    exhibit = made(tmp_path, "synthetic", "synthetic-aggregate")
    # The middle two of four: 0.6, 0.3, 0.8.
    expect(only(exhibit.table), share_of_ceiling=(1.7 / 3, 0.3, 0.8), settings=4, tasks=1, seeds=3)
    assert means(exhibit.panels[0]) == [[pytest.approx(1.7 / 3)]]


def test_only_settings_that_all_have_finished_are_compared(tmp_path: Path) -> None:
    sweep(tmp_path, "bptt", {0: [1.0, 0.8, 0.0], 1: [0.5, 0.3, 0.0], 2: [0.9, 0.9, 0.0]})
    sweep(tmp_path, "transformer", {0: [0.4, 0.2], 1: [0.9]})
    rows = table(tmp_path, "synthetic", "synthetic-aggregate")
    expect(only(rows, method="bptt"), share_of_ceiling=(0.9 + 0.4 + 0.9) / 3)
    expect(only(rows, method="transformer"), share_of_ceiling=(0.3, math.nan, math.nan), seeds=1, settings=2)


def test_without_a_known_ceiling_there_is_no_share(tmp_path: Path) -> None:
    for length in (8, 16):
        cell(tmp_path, "bptt", length, 0, 0.5, accuracy_ceiling=None)
    assert table(tmp_path, "synthetic")["share_of_ceiling"].isna().all()
    assert missing(tmp_path, "synthetic") == ["synthetic-aggregate"]
