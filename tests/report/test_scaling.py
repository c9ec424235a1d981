"""Scaling and compression: ladders are found, laws and gaps are right, and the smallest memory is the smallest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.report.data import load
from bench.report.sections import scaling
from bench.results import read_json, write_json
from tests.helpers import TINY, tiny_run
from tests.report.fabricated import expect, fake, lines, made, missing, only, score, table, words

BITS = math.log(2)
NATURAL: dict[str, Any] = {"loss_floor": None, "accuracy_ceiling": None, "unit": "bits"}
BASE = {**TINY, "d": 16, "memory_tokens": 2}
Losses = Callable[[float], float]


def cell(
    root: Path,
    method: str = "bptt",
    bits: float = 2.0,
    seed: int = 0,
    model: dict[str, int] | None = None,
    options: dict[str, Any] | None = None,
    parameters: int = 1000,
    teacher: float | None = None,
    curve: Sequence[tuple[float, float]] | None = None,
    task: dict[str, Any] | None = None,
) -> None:
    """A finished cell with this loss in bits (and its teacher's), and a curve of (tokens, bits)."""
    task = task or {"name": "digits", "length": 64}
    run = tiny_run({"name": method, **(options or {})}, task, model={**BASE, **(model or {})}, seed=seed)
    length = run.task_config.length
    scores = [score(0.5, bits * BITS, length=length, **NATURAL)]
    scores += [score(0.5, teacher * BITS, "teacher", length, **NATURAL)] if teacher is not None else []
    folder = fake(root, run, scores)
    costs = {"steps": 100, "tokens": 1000, "training_seconds": 1.0, "predictor_parameters": parameters}
    write_json(folder / "result.json", {"scores": scores, "costs": costs})
    if curve is not None:
        known = {"predictor": "rnn", "reference": False, "accuracy": 0.5}
        points = [{"tokens": tokens, "scores": [{**known, "loss": loss * BITS}]} for tokens, loss in curve]
        write_json(folder / "curve.json", [{"phase": method, "steps": 1, **point} for point in points])


def traced(root: Path, flops: Callable[[int], float]) -> None:
    """A cost for every run, with so many FLOPs per token for its number of memory tokens; half of it elementwise."""
    for file in sorted(root.rglob("run.json")):
        tokens = read_json(file)["run"]["model"]["memory_tokens"]
        whole = {"flops": 5 * flops(tokens), "elementwise": 5 * flops(tokens)}
        whole |= {"sequential_flops": 1, "sequential_operations": 1}
        write_json(file.parent / "cost.json", {"phases": [{"phase": "bptt", "tokens": 10, "whole": whole}]})


def three_ladders(root: Path) -> None:
    """Around K 2, d 16: three memories, three widths, three contexts, each with losses of a known power law."""
    for seed, more in enumerate([0.9, 1.0, 1.1]):
        base: dict[str, Any] = {"method": "smt+dmt", "seed": seed, "teacher": 1.0}
        cell(root, bits=2.0 * more, parameters=1000, **base)
        cell(root, bits=2.0 * 2**0.5 * more, parameters=1000, **base, model={"memory_tokens": 1})
        cell(root, bits=2.0 * 4**-0.5 * more, parameters=1000, **base, model={"memory_tokens": 8})
        cell(root, bits=2.0 * 4**0.25 * more, parameters=250, **base, model={"d": 8})
        cell(root, bits=2.0 * 4**-0.25 * more, parameters=4000, **base, model={"d": 32})
        cell(root, bits=2.0 * 8 * more, parameters=1000, **base, options={"context": 8})
        cell(root, bits=2.0 * 4 * more, parameters=1000, **base, options={"context": 16})


def test_the_exponents_of_three_ladders_are_found(tmp_path: Path) -> None:
    three_ladders(tmp_path / "g")
    rows = table(tmp_path, "scaling")
    own = rows[~rows["reference"]]
    found = {
        axis: (sorted(part["value"]), part["exponent"].unique(), part["exponent_error"].unique())
        for axis, part in own.groupby("axis")
    }
    assert found["memory"][0] == [16, 32, 128]  # K times d, not K
    assert found["parameters"][0] == [250, 1000, 4000]
    assert found["context"][0] == [8, 16, 64]  # 256 sees no more than the 64 that there are
    assert found["memory"][1] == pytest.approx([-0.5]) and found["memory"][2] == pytest.approx([0], abs=1e-6)
    assert found["parameters"][1] == pytest.approx([-0.25])
    assert found["context"][1] == pytest.approx([-1.0])
    teacher = rows[rows["reference"] & (rows["axis"] == "memory")]
    assert set(teacher["predictor"]) == {"teacher"} and teacher["exponent"].tolist() == pytest.approx([0] * 3, abs=1e-9)


def test_losses_are_means_in_bits_with_the_gap_to_the_same_cells_teacher(tmp_path: Path) -> None:
    three_ladders(tmp_path / "g")
    row = only(table(tmp_path, "scaling"), axis="parameters", predictor="rnn", value=4000)
    at = 2 * 4**-0.25
    gap = (at - 1, 0.9 * at - 1, 1.1 * at - 1)
    expect(row, loss=(at, 0.9 * at, 1.1 * at), gap=gap, unit="bits", seeds=3)
    assert "setting" not in row


def test_losses_in_nats_stay_in_nats(tmp_path: Path) -> None:
    for tokens, loss in ((1, 1.5), (2, 1.25)):
        run = tiny_run(model={**BASE, "memory_tokens": tokens})
        fake(tmp_path / "g", run, [score(0.5, loss)])
    rows = table(tmp_path, "scaling")
    assert rows["loss"].tolist() == [1.5, 1.25] and set(rows["unit"]) == {"nats"}
    assert rows["exponent"].isna().all()  # any two points lie on a power law


def test_cells_that_differ_in_two_fields_make_no_ladder(tmp_path: Path) -> None:
    cell(tmp_path / "g", model={"memory_tokens": 1})
    cell(tmp_path / "g", model={"memory_tokens": 2, "updater_layers": 2})
    cell(tmp_path / "g", model={"memory_tokens": 4, "updater_layers": 2})
    rows = table(tmp_path, "scaling")
    assert rows["value"].tolist() == [32, 64] and set(rows["field"]) == {"model.memory_tokens"}


def test_a_context_that_is_just_the_length_of_the_task_is_no_ladder_nor_are_two_grids(tmp_path: Path) -> None:
    for length in (16, 32, 64):
        cell(tmp_path / "g", "smt+dmt", task={"name": "digits", "length": length})
    cell(tmp_path / "one", model={"memory_tokens": 1})
    cell(tmp_path / "two", model={"memory_tokens": 2})
    assert missing(tmp_path, "scaling") == ["scaling", "compression"]


def test_a_law_is_drawn_through_three_rungs(tmp_path: Path) -> None:
    three_ladders(tmp_path / "g")
    panels = made(tmp_path, "scaling").panels
    assert [panel.x for panel in panels] == [axis.label for axis in scaling.AXES.values()]
    assert all(panel.y == "test loss (bits per token)" for panel in panels)
    laws = [line for panel in panels for line in lines(panel, kind="fit")]
    assert len(laws) == 6  # RNN and teacher in each
    assert np.diff(np.log(laws[0].mean)) / np.diff(np.log(laws[0].x)) == pytest.approx([-1.0] * 49)  # context
    assert words(panels) == ["smt+dmt", "smt+dmt teacher (reference)"]


def test_what_follows_from_a_size_does_not_hide_its_ladder(tmp_path: Path) -> None:
    for d, heads in ((8, 1), (16, 2), (32, 4)):
        cell(tmp_path / "g", model={"d": d, "heads": heads}, parameters=100 * d)
    assert sorted(table(tmp_path, "scaling")["value"]) == [800, 1600, 3200]


# Compression.


def curves_of_three_memories(root: Path, seeds: int = 3) -> None:
    """M 64 is at 2 bits at 200 tokens; M 32 at 400; M 16 at 800. M 64 alone ever gets below."""
    for seed in range(seeds):
        shift = 0.1 * (seed - (seeds - 1) / 2)  # away in the mean
        for tokens, losses in {4: (3.0, 2.0, 1.9, 1.7), 2: (3.5, 3.0, 2.0, 2.0), 1: (4.0, 3.5, 3.0, 2.0)}.items():
            curve = [(0, 5.0), *zip((100, 200, 400, 800), (loss + shift for loss in losses))]
            cell(root, seed=seed, bits=losses[-1] + shift, model={"memory_tokens": tokens}, curve=curve)


def test_the_smallest_memory_by_each_compute_is_right(tmp_path: Path) -> None:
    curves_of_three_memories(tmp_path / "g")
    rows = table(tmp_path, "scaling", "compression")
    assert set(rows["currency"]) == {"tokens"}
    assert sorted(rows["loss"].unique()) == pytest.approx([1.7, 1.8, 1.9, 2.0])
    two = rows[rows["loss"] == 2.0]
    assert two["compute"].tolist() == pytest.approx([200 * 4 ** (k / 5) for k in range(6)])
    assert two["smallest_memory"].tolist() == [64, 64, 64, 32, 32, 16]  # after 200, 264, 348, 459, 606, 800 tokens
    lowest = rows[rows["loss"] == 1.7]["smallest_memory"].tolist()
    assert all(map(math.isnan, lowest[:5])) and lowest[5] == 64


def test_compute_is_flops_where_every_cell_was_traced(tmp_path: Path) -> None:
    curves_of_three_memories(tmp_path / "g")
    traced(tmp_path / "g", lambda tokens: 1000.0 * tokens)
    rows = table(tmp_path, "scaling", "compression")
    assert set(rows["currency"]) == {"FLOPs"}
    passages, _ = scaling.smallest(load([tmp_path]), scaling.sweep_scores(load([tmp_path])))
    at = passages[passages["level"] == 2.0].set_index("memory")["spent"]
    assert at.to_dict() == pytest.approx({16: 800e3, 32: 800e3, 64: 800e3})  # half the price, twice the tokens
    next((tmp_path / "g").rglob("cost.json")).unlink()
    assert set(table(tmp_path, "scaling", "compression")["currency"]) == {"tokens"}


def test_the_steps_go_down_where_a_smaller_memory_arrives(tmp_path: Path) -> None:
    curves_of_three_memories(tmp_path / "g")
    (panel,) = made(tmp_path, "scaling", "compression").panels
    steps = next(line for line in panel.lines if line.tip == "2.000 bits")
    assert (steps.x.tolist(), steps.mean.tolist()) == ([200, 400, 800, 800], [64, 32, 16, 16])
    assert panel.ticks == "log" and panel.x == "training tokens"


def test_no_curves_no_compression(tmp_path: Path) -> None:
    three_ladders(tmp_path / "g")
    for file in tmp_path.rglob("curve.json"):
        file.unlink()
    assert missing(tmp_path, "scaling") == ["compression"]
