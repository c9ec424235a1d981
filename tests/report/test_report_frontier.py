"""Sections and claims on methods that learn online: fronts and moments of curves, records of experiments, verdicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.config import Run
from bench.report import claims
from bench.report.data import Data, load
from bench.report.sections import estimators
from bench.results import read_json, write_json
from tests.helpers import tiny_run
from tests.report.fabricated import exhibits, expect, fake, levels, made, means, only, score, table

MODEL = {
    **{"backbone": "tanh", "updater_width": 4, "d": 4, "heads": 1, "memory_tokens": 1, "updater_layers": 1},
    **{"decoder_layers": 1, "readout": "linear", "embedding": "fixed"},
}
TRAITS = {"data": "streams", "state": "constant", "recurrent": True, "teacher": False}


def run_of(method: Any, seed: int, task: Any = "anbn", **fields: Any) -> Run:
    task = {"length": 12, **({"name": task} if isinstance(task, str) else task)}
    return tiny_run(method, task, model={**MODEL, **fields}, seed=seed)


def cell(root: Path, run: Run, losses: list[float], cpu: list[float], tokens: list[int], **more: list[float]) -> None:
    """A finished run of a stream with these points after the first, at which nothing was spent."""
    facts = {"loss_floor": 0.2, "unit": "nats"}
    folder = fake(root, run, [score(0.5, losses[-1], **facts)], traits=TRAITS)
    points = [
        {"phase": "train", "steps": place * 10, "tokens": at, "cpu_seconds": spent, "training_seconds": spent}
        | {name: values[place] for name, values in more.items()}
        | {"scores": [score(0.5, loss, **facts)]}
        for place, (loss, spent, at) in enumerate(zip([9.0, *losses], [0.0, *cpu], [0, *tokens]))
    ]
    write_json(folder / "curve.json", points)


@pytest.fixture
def streams(tmp_path: Path) -> Path:
    """tbptt is fast and ends early, rtrl slow and good, at three seeds; uoro is never the best."""
    for seed, off in enumerate((0.0, 0.01, 0.02)):
        wide = {"name": "tbptt", "k1": 1, "k2": 1}
        cell(tmp_path, run_of("tbptt", seed), [0.8 + off, 0.5 + off], [1.0, 2.0], [80, 160])
        cell(tmp_path, run_of(wide, seed), [0.9 + off, 0.9 + off], [1.0, 2.0], [10, 20])
        cell(tmp_path, run_of({"name": "rtrl", "update_every": 1}, seed), [0.6 + off, 0.21 + off], [3.0, 6.0], [10, 20])
        cell(tmp_path, run_of({"name": "uoro", "update_every": 1}, seed), [1.5 + off, 1.0 + off], [2.0, 4.0], [10, 20])
    return tmp_path


def test_who_is_best_from_when_to_when_and_when_levels_are_passed(streams):
    exhibit = made(streams, "frontier", "frontier-anbn")
    rows = exhibit.table
    best = {"best_from": 6, "best_to": 6, "floor": 0.2, "cpu": 6, "tokens": 20, "seeds": 3}
    passed = {"cpu_to_0.1": 6, "tokens_to_0.1": 20, "reached_0.1": 3, "cpu_to_0.02": 6, "reached_0.02": 2}
    expect(only(rows, method="rtrl"), above=(0.02, 0.01, 0.03), **best, **passed)
    window = {"best_from": 1, "best_to": 2, "cpu_to_0.1": math.nan, "reached_0.1": 0}
    expect(only(rows, method="tbptt", setting="k 8"), **window)
    expect(only(rows, method="uoro"), best_from=math.nan)
    (panel,) = exhibit.panels
    assert panel.title == "tanh 4" and len(panel.lines) == 4
    assert means(panel, word="rtrl") == [pytest.approx([0.41, 0.02])]
    assert levels(panel)["front"] == pytest.approx([0.61, 0.31, 0.02])


def test_a_setting_looks_the_same_in_the_panel_of_every_model(tmp_path):
    for units, windows in ((4, (1, 8)), (6, (8,))):
        for k in windows:
            run = run_of({"name": "tbptt", "k1": k, "k2": k}, 0, updater_width=units)
            cell(tmp_path, run, [0.5], [1.0], [10])
    small, large = made(tmp_path, "frontier", "frontier-anbn").panels
    assert {line.word: line.variant for line in small.lines}["tbptt, k 8"] == 1
    assert {line.word: line.variant for line in large.lines} == {"tbptt, k 8": 1}


def test_what_a_paper_says_stands_beside_its_method_on_its_task_alone(tmp_path):
    for most in (32, 8):
        cell(tmp_path / str(most), run_of("uoro", 0, {"name": "anbn", "most": most}), [0.5], [1.0], [10])
    tables = [table(tmp_path / folder, "frontier", "frontier-anbn") for folder in ("32", "8")]
    assert tables[0]["published"].tolist() == [0.147] and "published" not in tables[1]


def test_where_no_floor_is_known_the_best_end_takes_its_place(tmp_path):
    for name, ends in (("tbptt", [0.7, 0.4]), ("uoro", [0.9, 0.6])):
        cell(tmp_path, run_of(name, 0), ends, [1.0, 2.0], [10, 20])
    for file in tmp_path.rglob("result.json"):
        record = read_json(file)
        for row in record["scores"]:
            row["loss_floor"] = None
        write_json(file, record)
    assert table(tmp_path, "frontier", "frontier-anbn")["above"].tolist() == pytest.approx([0, 0.2])


def test_nothing_is_shown_of_methods_that_learn_from_sequences_alone(tmp_path):
    fake(tmp_path, tiny_run("bptt"), [score(0.5, 1.0)], traits={**TRAITS, "data": "sequences"})
    data = load([tmp_path])
    assert exhibits(data, "frontier") == exhibits(data, "estimators") == {}
    assert not any(claim.key.startswith("online") for claim, _ in claims.judged(data))


# Claims.


def verdict(data: Data, key: str) -> claims.Verdict:
    return {claim.key: found for claim, found in claims.judged(data)}[key]


def curriculum(root: Path, ends: dict[str, float]) -> Data:
    """Levels at the end, and half of them half way there."""
    for seed in range(3):
        for name, end in ends.items():
            found = [0.0, end / 2 + 0.1 * seed, end + 0.1 * seed]
            run = run_of(name, seed, "copy-curriculum")
            cell(root, run, [1.0, 1.0], [5.0, 10.0], [50, 100], train_level=found)
    return load([root])


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ({"tbptt": 4.0, "kf-rtrl": 7.0, "uoro": 6.0}, "supported"),
        ({"tbptt": 7.0, "kf-rtrl": 4.0, "uoro": 5.0}, "contradicted"),
        ({"tbptt": 5.0, "kf-rtrl": 8.0, "uoro": 2.0}, "mixed"),
        ({"kf-rtrl": 8.0}, "not tested"),
    ],
)
def test_levels_of_the_curriculum_decide_online_4(tmp_path, ends, word):
    data = curriculum(tmp_path, ends)
    assert verdict(data, "online-4").verdict == word
    end = ends["kf-rtrl"] + 0.1
    rows = table(data, "frontier", "frontier-copy-curriculum")
    expect(only(rows, method="kf-rtrl"), level=end, level_at_equal_cpu=end)


def test_methods_are_held_against_the_best_window_of_tbptt(tmp_path):
    curriculum(tmp_path, {"tbptt": 3.0, "kf-rtrl": 6.0})
    assert verdict(load([tmp_path]), "online-4").verdict == "supported"
    for seed in range(3):
        run = run_of({"name": "tbptt", "k1": 32, "k2": 32}, seed, "copy-curriculum")
        cell(tmp_path, run, [1.0, 1.0], [5.0, 10.0], [50, 100], train_level=[0.0, 9.0, 9.0])
    assert verdict(load([tmp_path]), "online-4").verdict == "contradicted"


def test_a_window_without_an_evaluation_so_early_leaves_levels_undecided(tmp_path):
    curriculum(tmp_path, {"tbptt": 3.0, "kf-rtrl": 6.0})
    for seed in range(3):
        run = run_of({"name": "tbptt", "k1": 32, "k2": 32}, seed, "copy-curriculum")
        cell(tmp_path, run, [1.0], [20.0], [800], train_level=[0.0, 9.0])
    found = verdict(load([tmp_path]), "online-4")
    assert found.verdict == "inconclusive" and "no evaluation so early" in found.because


@pytest.mark.parametrize(("more", "word"), [(0.002, "supported"), (0.2, "contradicted"), (None, "not tested")])
def test_equal_losses_of_an_element_wise_cell_decide_online_6(tmp_path, more, word):
    for seed, off in enumerate((0.0, 0.001, 0.002)):
        elstm = {"backbone": "elstm"}
        fake(tmp_path, run_of("bptt", seed, **elstm), [score(0.5, 0.4, start_loss=0.4 + off)], traits=TRAITS)
        if more is not None:
            loss = 0.4 + more + off
            found = [score(0.5, 0.1, start_loss=loss, unit="bits")]
            fake(tmp_path, run_of("rtrl", seed, **elstm), found, traits=TRAITS)
        fake(tmp_path, run_of({"name": "rtrl", "update_every": 1}, seed, **elstm), [score(0.5, 9.0)], traits=TRAITS)
    for file in tmp_path.rglob("result.json"):
        record = read_json(file)
        record["scores"][0]["unit"] = "bits"
        write_json(file, record)
    assert verdict(load([tmp_path]), "online-6").verdict == word


def kept(root: Path, experiment: str, found: Any) -> Data:
    """A record beside a run."""
    fake(root, run_of("uoro", 0), [score(0.5, 1.0)], traits=TRAITS)
    write(root, experiment, found)
    return load([root])


def write(root: Path, experiment: str, found: Any) -> None:
    """A record alone."""
    record = {"schema": 1, "experiment": experiment, "methods": {"uoro": 9}, "found": found}
    write_json(root / f"{experiment}.json", record)


def test_records_need_no_run(tmp_path):
    write(tmp_path, "influence-balancing", [theta("rtrl", "", -0.1666), theta("tbptt", "k 1", 3.0)])
    report.write(tmp_path, tmp_path / "out")
    assert "influence-balancing" in (tmp_path / "out" / "index.html").read_text()
    assert (tmp_path / "out" / "figures" / "influence-balancing.png").is_file()


def theta(method: str, setting: str, end: float, seed: int = 0) -> dict[str, Any]:
    return {"method": method, "setting": setting, "seed": seed, "steps": [0, 10, 100], "theta": [0.5, 0.4, end]}


@pytest.mark.parametrize(
    ("rtrl", "window", "word"),
    [(-0.1666, 3.0, "inconclusive"), (-0.1666, 0.3, "mixed"), (0.2, -0.1666, "contradicted")],
)
def test_theta_decides_online_1_as_far_as_it_alone_can(tmp_path, rtrl, window, word):
    data = kept(tmp_path, "influence-balancing", [theta("rtrl", "", rtrl), theta("tbptt", "k 1", window)])
    assert verdict(data, "online-1").verdict == word


@pytest.mark.parametrize(("cut", "word"), [(0.4, "supported"), (0.1, "mixed")])
def test_theta_and_the_loss_of_what_is_cut_off_decide_online_1_together(tmp_path, cut, word):
    kept(tmp_path, "influence-balancing", [theta("rtrl", "", -0.1666), theta("tbptt", "k 1", 3.0)])
    losses = [
        {"method": name, "seeds": 3, "steps": [9], "loss": [[x, x, x]]} for name, x in (("rtrl", 0.1), ("tbptt", cut))
    ]
    write(tmp_path, "convergence", {"target": 1.0, "methods": losses})
    assert verdict(load([tmp_path]), "online-1").verdict == word


def row_of(method: str, variance: float, seed: int, n: int = 8, **fields: Any) -> dict[str, Any]:
    at = {"method": method, "setting": "", "axis": "units", "value": n, "seed": seed, "draws": 100}
    return {**at, "squared_bias": 0.04, "variance": variance, "cosine": 0.5, **fields}


@pytest.mark.parametrize(("ratio", "word"), [(8.0, "supported"), (30.0, "contradicted"), (1.0, "contradicted")])
def test_the_ratio_of_variances_decides_online_2(tmp_path, ratio, word):
    rows = [row_of(name, v * (1 + 0.1 * s), s) for s in range(4) for name, v in (("kf-rtrl", 2.0), ("uoro", 2 * ratio))]
    data = kept(tmp_path, "gradient-quality", rows)
    assert verdict(data, "online-2").verdict == word
    assert verdict(data, "online-3").verdict == verdict(data, "online-7").verdict == "not tested"


@pytest.mark.parametrize(
    ("power", "word"), [({"uoro": 0.0, "bptt": 1.0}, "supported"), ({"uoro": 1.0, "bptt": 0.2}, "contradicted")]
)
def test_exponents_of_memory_decide_online_5(tmp_path, power, word):
    at = {"setting": "", "axis": "columns", "flops": 5.0}
    rows = [
        {**at, "method": name, "value": t, "bytes": 100.0 * t**exponent}
        for name, exponent in power.items()
        for t in (8, 16, 32, 64)
    ]
    data = kept(tmp_path, "credit-costs", rows)
    assert verdict(data, "online-5").verdict == word
    assert verdict(data, "online-1").verdict == "not tested"


def test_the_quality_of_gradients_is_told_with_its_interval_and_what_noise_hides_is_left_out(tmp_path):
    rows = [
        row_of("uoro", 2.0 if n == 4 else 900.0, s, n, squared_bias=0.01 * (s - 0.5)) for n in (4, 8) for s in range(3)
    ]
    rows += [row_of("tbptt", 0.0, s, n, squared_bias=0.25, draws=1) for n in (4, 8) for s in range(3)]
    found = table(kept(tmp_path, "gradient-quality", rows), "estimators", "gradient-quality")
    uoro = only(found, method="uoro", value=4)
    expect(uoro, bias=0.005**0.5, variance=2.0, error=(2.0 / 100) ** 0.5)
    assert uoro["bias_low"] < 0 < uoro["bias_high"]
    expect(only(found, method="tbptt", value=4), bias=0.5, variance=0, networks=3)
    bias = estimators.quality_panel(found, "units", "bias")
    assert {line.method: line.x.tolist() for line in bias.lines} == {"uoro": [4.0], "tbptt": [4.0, 8.0]}
    assert [line.method for line in estimators.quality_panel(found, "units", "variance").lines] == ["uoro"]
