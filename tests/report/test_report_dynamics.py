"""Dynamics: numbers of the three tables against hand counts, what the figures show, and records that are not whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from sklearn.metrics import silhouette_score

from bench.report.exhibit import Exhibit
from bench.report.sections import dynamics
from bench.report.style import RC
from bench.results import write_json
from tests.helpers import tiny_run
from tests.report import fabricated
from tests.report.fabricated import expect, fake, lines, means, measured, missing, only, score

LENGTH = 12  # of tiny_run


def norms(when: str, base: float, slope: float, count: int = LENGTH, **more: Any) -> dict[str, Any]:
    """|dL/dm_t| = base * 10 ** (slope * t)."""
    t = list(range(count))
    norm = [base * 10 ** (slope * at) for at in t]
    return {"when": when, "t": t, "norm": norm, "loss_at": count - 1, "through": "the unrolled updater", **more}


def drifted(phase: str, within: float, beyond: float, right: float) -> dict[str, Any]:
    t = list(range(2 * LENGTH))
    delta = [within if at < LENGTH else beyond for at in t]
    accuracy = [float("nan") if at % 2 else right * (1 if at < LENGTH else 0.5) for at in t]
    return {"phase": phase, "t": t, "delta": delta, "accuracy": accuracy}


def plane(rank: float = 2.5, labels: int = 3, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    label = [number % labels for number in range(30)]
    points = generator.normal(size=(30, 2)) + 3 * np.array(label)[:, None]
    origin = generator.normal(size=(9, 2))
    return {
        **{"colour_by": "needle", "points": points.tolist(), "label": label, "explained": [0.6, 0.25, 0.1]},
        **{"effective_rank": rank, "origin": origin.tolist(), "field": (0.1 * origin).tolist()},
    }


def cell(root: Path, record: dict[str, Any], *how: Any, **fields: Any) -> None:
    measured(root, "dynamics.json", record, *how, **fields)


def made(root: Path, name: str) -> tuple[Exhibit, pd.DataFrame]:
    found = fabricated.made(root, "dynamics", name)
    return found, found.table


def axes_of(figure: Figure) -> list[Axes]:
    with rc_context(RC):
        figure.canvas.draw()
    return figure.axes


# Gradient norms.


def test_the_slope_is_that_of_log10_of_the_norm_per_step(tmp_path: Path) -> None:
    for seed, slope in enumerate([0.1, 0.2, 0.6]):
        cell(tmp_path, {"gradients": [norms("init", 1, 0.0), norms("trained", seed + 1, slope)]}, seed=seed)
    _, table = made(tmp_path, "gradient-norms")
    trained, init = only(table, when="after training"), only(table, when="at initialisation")
    falls = (10**-3.3, 10**-6.6, 10**-1.1)  # the mean is geometric
    expect(trained, slope=(0.3, 0.1, 0.6), first_to_last=falls, seeds=3, length=LENGTH, through="the unrolled updater")
    expect(init, slope=0, first_to_last=1)


def test_norms_are_drawn_before_and_after_training_with_a_band(tmp_path: Path) -> None:
    for seed in range(3):
        cell(tmp_path, {"gradients": [norms("init", seed + 1, 0.1), norms("trained", seed + 1, 0.3)]}, seed=seed)
    before, after = made(tmp_path, "gradient-norms")[0].panels
    assert before.title == "retrieval, length 12, at initialisation" and before.ylog
    (line,) = lines(after, method="bptt")
    assert line.mean[0] == pytest.approx(6 ** (1 / 3)) and line.mean[-1] == pytest.approx(6 ** (1 / 3) * 10**3.3)
    assert (line.low[0], line.high[0]) == pytest.approx((1, 3))


def test_a_norm_of_zero_is_not_drawn_and_counts_as_the_smallest_number(tmp_path: Path) -> None:
    gone = {"when": "trained", "t": [0, 1, 2], "norm": [0.0, 0.1, 1.0], "loss_at": 2, "through": "the unrolled updater"}
    cell(tmp_path, {"gradients": [gone]})
    exhibit, table = made(tmp_path, "gradient-norms")
    assert "1 norms" in exhibit.caption and table["first_to_last"].iloc[0] == pytest.approx(1e-45)
    assert exhibit.panels[1].lines[0].x.tolist() == [1, 2]


def test_ablations_stand_in_the_table_alone(tmp_path: Path) -> None:
    for seed in range(3):
        for method in ("smt+dmt", {"name": "smt+dmt", "lambda_dyn": 7.0}):
            cell(tmp_path, {"gradients": [norms("trained", 1, 0.1)]}, method, seed)
        cell(tmp_path, {"gradients": [norms("trained", 1, 0.1)]}, "smt+dmt", seed, {"name": "retrieval", "length": 16})
    exhibit, table = made(tmp_path, "gradient-norms")
    assert sorted(set(table["setting"])) == ["lambda_dyn 0.1", "lambda_dyn 7"] and len(table) == 3
    after = next(panel for panel in exhibit.panels if panel.title == "retrieval, length 16, after training")
    assert len(after.lines) == 1


def test_rows_are_few_and_the_caption_tells_how_many_there_are(tmp_path: Path) -> None:
    for length in range(8, 20, 2):
        cell(tmp_path, {"gradients": [norms("trained", 1, 0.1)]}, task={"name": "retrieval", "length": length})
    exhibit, table = made(tmp_path, "gradient-norms")
    assert len(exhibit.panels) == 2 * dynamics.MOST_ROWS and len(table) == 6


# Drift.


def two_phases(root: Path) -> None:
    for seed, less in enumerate([2.0, 4.0, 8.0]):
        before, after = drifted("smt", 0.8, 1.6, 0.5), drifted("dmt", 0.8 / less, 1.6 / (2 * less), 0.75)
        cell(root, {"drift": [before, after]}, "smt+dmt", seed)


def test_drift_is_told_within_and_beyond_the_trained_length(tmp_path: Path) -> None:
    two_phases(tmp_path)
    _, table = made(tmp_path, "drift")
    expect(only(table, phase="smt"), drift_within=0.8, drift_beyond=1.6, less_within=math.nan, accuracy_within=0.5)
    after = {"drift_within": 0.2, "drift_beyond": 0.2, "less_within": (4, 2, 8), "less_beyond": 8, "seeds": 3}
    expect(only(table, phase="dmt"), **after, accuracy_within=0.75, accuracy_beyond=0.375)


def test_drift_is_dashed_before_dmt_and_shaded_beyond_the_trained_length(tmp_path: Path) -> None:
    two_phases(tmp_path)
    (panel,) = made(tmp_path, "drift")[0].panels
    assert means(panel, reference=True)[0][0] == pytest.approx(0.8)
    assert means(panel, reference=False)[0][-1] == pytest.approx(0.2)
    (mark,) = panel.marks
    assert (mark.x, mark.until) == (LENGTH - 0.5, 2 * LENGTH - 0.5) and panel.ylog


def test_a_phase_of_another_run_is_what_dmt_is_compared_with(tmp_path: Path) -> None:
    source = tiny_run("smt")
    run = tiny_run("smt+dmt", init_from={"run": source.id, "phase": "smt"})
    for begun, record in ((source, drifted("smt", 0.9, 0.9, 0.5)), (run, drifted("dmt", 0.3, 0.1, 0.5))):
        folder = fake(tmp_path, begun, [score(0.5, 1.1)])
        write_json(folder / "dynamics.json", {"gradients": [], "drift": [record], "geometry": None})
    expect(only(made(tmp_path, "drift")[1], phase="dmt"), less_within=3, less_beyond=9)


def test_what_is_not_beyond_the_trained_length_is_a_gap(tmp_path: Path) -> None:
    short = {"phase": "smt", "t": [0, 1], "delta": [0.5, 0.5], "accuracy": [0.25, 0.75]}
    cell(tmp_path, {"drift": [short]}, "smt")
    exhibit, table = made(tmp_path, "drift")
    assert math.isnan(table["drift_beyond"].iloc[0]) and table["accuracy_within"].iloc[0] == pytest.approx(0.5)
    assert not exhibit.panels[0].marks


# Geometry.


def test_geometry_is_told_over_seeds(tmp_path: Path) -> None:
    records = [plane(rank, seed=seed) for seed, rank in enumerate([2.0, 3.0, 7.0])]
    for seed, record in enumerate(records):
        cell(tmp_path, {"geometry": record}, "smt+dmt", seed)
    _, table = made(tmp_path, "geometry")
    silhouette = np.mean([silhouette_score(record["points"], record["label"]) for record in records])
    expect(only(table), effective_rank=(4, 2, 7), explained1=0.6, explained2=0.25, silhouette=silhouette, seeds=3)
    assert only(table)["accuracy"] == 0.5


def test_a_panel_shows_points_by_label_and_where_the_updater_moves_memories(tmp_path: Path) -> None:
    cell(tmp_path, {"geometry": plane(2.5)}, "smt+dmt", 1)
    cell(tmp_path, {"geometry": plane(9.0)}, "smt+dmt", 0)
    exhibit, _ = made(tmp_path, "geometry")
    panel, bar = axes_of(exhibit.figure)
    assert panel.get_title(loc="left") == "retrieval, length 12\nsmt+dmt: effective rank 9"  # the first seed
    assert panel.get_xlabel() == "component 1 (60% of variance)" and panel.get_ylabel() == "component 2 (25%)"
    (points,) = (drawn for drawn in panel.collections if isinstance(drawn, PathCollection))
    (arrows,) = (drawn for drawn in panel.collections if isinstance(drawn, Quiver))
    assert np.allclose(np.asarray(points.get_offsets()), plane()["points"])
    assert np.allclose(arrows.XY, plane()["origin"]) and np.allclose(np.c_[arrows.U, arrows.V], plane()["field"])
    assert arrows.angles == "xy" and len(np.unique(points.get_facecolor(), axis=0)) == 3
    assert bar.get_ylabel() == "needle" and [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "1", "2"]


def test_many_labels_get_a_scale(tmp_path: Path) -> None:
    cell(tmp_path, {"geometry": plane(labels=15)}, "smt+dmt")
    _, bar = axes_of(made(tmp_path, "geometry")[0].figure)
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "4", "7", "10", "14"]


def test_one_label_for_all_points_needs_no_scale(tmp_path: Path) -> None:
    cell(tmp_path, {"geometry": plane(labels=1)}, "smt+dmt")
    assert len(axes_of(made(tmp_path, "geometry")[0].figure)) == 1


def test_of_many_panels_the_most_accurate_stay(tmp_path: Path) -> None:
    for number, length in enumerate(range(6, 22, 2)):
        run = tiny_run("smt+dmt", {"name": "retrieval", "length": length})
        folder = fake(tmp_path, run, [score(0.1 * number, 1.1, length=length), score(0.99, 1, "teacher", length)])
        write_json(folder / "dynamics.json", {"geometry": plane()})
    exhibit, table = made(tmp_path, "geometry")
    shown = [title.split("\n")[0] for axes in axes_of(exhibit.figure) if (title := axes.get_title(loc="left"))]
    assert shown == [f"retrieval, length {length}" for length in range(10, 22, 2)] and len(table) == 8


# What is not whole.


@pytest.mark.parametrize("name", ["points", "label", "explained", "origin", "effective_rank"])
@pytest.mark.parametrize("value", [None, "x", [], [[1, 2, 3]], [[math.nan, 1.0]]])
def test_a_damaged_geometry_is_left_out(tmp_path: Path, name: str, value: Any) -> None:
    cell(tmp_path, {"geometry": {**plane(), name: value}}, "smt+dmt")
    assert "geometry" in missing(tmp_path, "dynamics")


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    bad = {**norms("trained", 1, 0.0), "norm": [float("nan"), float("inf")] + [1.0] * 10}
    empty = {"when": "init", "t": [], "norm": []}
    cell(tmp_path, {"gradients": [bad, empty], "drift": [{"phase": "smt", "t": [0.0], "delta": [float("nan")]}]})
    assert "drift" in missing(tmp_path, "dynamics")
    _, table = made(tmp_path, "gradient-norms")
    assert only(table, when="after training")["slope"] == pytest.approx(0) and len(table) == 1
