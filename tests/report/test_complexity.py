"""The cost section: exponents that an independent fit confirms, the record's values, and records that are not whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.report.data import Data, load
from bench.report.plot import Panel
from bench.report.sections.complexity import exponents
from bench.results import write_json
from tests.report.fabricated import expect, lines, made, missing, only, table, words

LENGTHS = (8, 16, 32, 64, 128, 256, 512)
LARGER = [64, 128, 256, 512]
DISTANCES = (0, 1, 2, 4, 8, 16)
TEACHER = "the teacher's memories hold what to keep"
CARRIED = 4096
NAMED = {"task": "retrieval", "backbone": "gru"}


def step(method: str, phase: str, length: int, operations: float, **fields: Any) -> dict[str, Any]:
    whole: dict[str, float] = {"flops": 10 * length**2, "elementwise": 5 * length, "operations": 9}
    whole |= {"sequential_flops": 3 * length, "sequential_operations": operations}
    sizes = {"length": length, "batch_size": 8, "peak_bytes": 100 * length, "carried_bytes": CARRIED}
    return {**NAMED, "method": method, "phase": phase, "device": "cpu", **sizes, "whole": whole, **fields}


def path(method: str, phase: str, distance: int, shortest: Any, longest: Any, outside: Any = None) -> dict[str, Any]:
    lengths = {"length": 32, "distance": distance, "shortest": shortest, "longest": longest}
    return {**NAMED, "method": method, "phase": phase, **lengths, "outside": outside}


def token(method: str, position: int, flops: int, state_bytes: int) -> dict[str, Any]:
    costs = {"flops": flops, "elementwise": 100, "state_bytes": state_bytes, "seconds": 2e-4}
    return {**NAMED, "method": method, "position": position, **costs}


def record() -> dict[str, list[dict[str, Any]]]:
    """SMT flat, DMT and BPTT linear with and without a constant part, a Transformer that streams ever slower."""
    steps = [step("smt+dmt", "smt", T, 157) for T in LENGTHS] + [step("smt+dmt", "dmt", T, 30 * T) for T in LENGTHS]
    steps += [step("bptt", "train", T, 90 + 68 * T) for T in LENGTHS]
    credit = [path("smt+dmt", "smt", D, 27, 99) for D in DISTANCES]
    credit += [path("smt+dmt", "dmt", D, None, None, TEACHER) for D in DISTANCES]
    credit += [path("bptt", "train", D, 40 + 5 * D, 106 + 45 * D) for D in DISTANCES]
    inference = [token("bptt", p, 5000, 256) for p in LENGTHS]
    inference += [token("transformer", p, 1000 + 128 * p, 256 * p) for p in LENGTHS]
    return {"steps": steps, "credit": credit, "inference": inference}


def read(root: Path, found: dict[str, Any], grid: str = "complexity") -> Data:
    write_json(root / grid / "cost.json", {"schema": 1, **found})
    return load([root])


def slope(x: Sequence[int], y: Sequence[int]) -> float:
    """The exponent of an independent fit."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def points(panel: Panel, word: str) -> dict[float, float]:
    (line,) = lines(panel, word=word)
    return dict(zip(line.x.tolist(), line.mean.tolist()))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return read(tmp_path_factory.mktemp("cost"), record())


# The overview.


def test_exponents_are_those_of_an_independent_fit_over_the_larger_half_of_the_lengths(traced: Data) -> None:
    frame = table(traced, "complexity")
    expect(only(frame, phase="smt"), sequential_operations=0)
    expect(only(frame, phase="dmt"), sequential_operations=1)
    grows = slope(LARGER, [90 + 68 * T for T in LARGER])
    expect(only(frame, phase="train"), sequential_operations=grows, sequential_flops=1, peak_bytes=1)
    assert 0.98 < grows < 1


def test_elementwise_work_counts_among_total_flops(traced: Data) -> None:
    expected = slope(LARGER, [10 * T**2 + 5 * T for T in LARGER])
    expect(only(table(traced, "complexity"), phase="smt"), flops=expected)
    ends = only(table(traced, "complexity", "complexity-fits"), phase="smt", quantity="total FLOPs")
    expect(ends, at_first=10 * 8**2 + 5 * 8, at_last=10 * 512**2 + 5 * 512)


def test_the_papers_growth_stands_beside_the_measured_one(traced: Data) -> None:
    frame = table(traced, "complexity").set_index(["method", "phase"])
    assert frame["paper: operations"].to_dict() == {
        ("smt+dmt", "smt"): "O(1)",
        ("smt+dmt", "dmt"): "O(T)",
        ("bptt", "train"): "O(T)",
        ("transformer", ""): "not known",
    }
    assert frame["paper: credit path"].tolist()[:3] == ["O(1)", "not known", "O(T)"]
    assert frame.loc[("bptt", "train"), "paper: state"] == "O(1)"
    assert frame.loc[("transformer", ""), "paper: FLOPs per token"] == "O(T)"


def test_the_overview_has_the_values_at_the_ends_and_tells_of_credit_outside_autograd(traced: Data) -> None:
    frame = exponents(traced)
    smt, dmt, bptt = (only(frame, phase=phase) for phase in ("smt", "dmt", "train"))
    expect(smt, operations_at_smallest_T=157, operations_at_largest_T=157, credit_longest=0)
    expect(bptt, operations_at_smallest_T=90 + 68 * 8, operations_at_largest_T=90 + 68 * 512)
    grows = slope([4, 8, 16], [106 + 45 * d for d in (4, 8, 16)])
    expect(bptt, shortest_path=40 + 5 * 16, longest_path=106 + 45 * 16, credit_longest=grows)
    assert bptt["carried_bytes_at_largest_T"] == CARRIED
    expect(dmt, credit_longest=math.nan, longest_path=math.nan, outside=TEACHER)
    assert smt["outside"] != TEACHER and (frame["grid"] == "complexity").all()
    pd.testing.assert_frame_equal(frame.drop(columns=["grid", "task"]), table(traced, "complexity"))


def test_a_phase_of_which_only_credit_was_followed_has_its_row(tmp_path: Path) -> None:
    frame = exponents(read(tmp_path, {**record(), "steps": []}))
    assert only(frame, phase="dmt")["outside"] == TEACHER and "sequential_operations" not in frame
    assert only(frame, method="bptt")["state_bytes"] == 0.0


def test_inference_is_told_for_every_phase_of_its_method_and_for_methods_that_were_only_streamed(traced: Data) -> None:
    frame = table(traced, "complexity")
    expect(only(frame, method="bptt"), state_bytes=0)
    expect(only(frame, method="transformer"), state_bytes=1, sequential_operations=math.nan)


# Every fit.


def test_each_fit_has_its_ends_its_range_and_the_slope_of_a_line(traced: Data) -> None:
    row = only(table(traced, "complexity", "complexity-fits"), method="bptt", quantity="sequential operations")
    expect(row, first=8, at_first=90 + 68 * 8, last=512, at_last=90 + 68 * 512, fitted_from=64, points=4, slope=68)
    expect(row, exponent_all=slope(LENGTHS, [90 + 68 * T for T in LENGTHS]))
    assert row["exponent_all"] < row["exponent"], "a + bT looks shallower at small T"
    credit = only(table(traced, "complexity", "complexity-fits"), method="bptt", quantity="longest credit path")
    expect(credit, slope=45, slope_r2=1)
    assert credit["exponent"] < 0.9, "it grows from a constant part"


# Credit and inference.


def test_tables_of_credit_and_inference_are_the_record_and_tell_what_flows_outside(traced: Data) -> None:
    frame = table(traced, "complexity", "credit-path")
    expect(only(frame, method="bptt", distance=8), shortest=80, longest=466, paper="O(T)")
    expect(only(frame, phase="dmt", distance=8), shortest=math.nan, outside=TEACHER)
    row = only(table(traced, "complexity", "inference"), method="transformer", position=128)
    expect(row, flops=17384, elementwise=100, state_bytes=32768, seconds=2e-4, state_bytes_paper="O(T)")


# Figures.


def test_panels_hold_the_recorded_values(traced: Data) -> None:
    panels = made(traced, "complexity").panels
    assert len(panels) == 4 and panels[0].y == "Sequential operations" and panels[0].ylog
    assert points(panels[0], "smt+dmt, phase dmt, backbone gru")[256] == 30 * 256
    assert points(panels[0], "bptt, backbone gru")[512] == 90 + 68 * 512
    assert points(panels[3], "bptt, backbone gru")[512] == 51200


def test_a_phase_without_a_credit_path_has_no_line(traced: Data) -> None:
    assert [len(panel.lines) for panel in made(traced, "complexity", "credit-path").panels] == [2, 2]


def test_inference_draws_work_state_and_time(traced: Data) -> None:
    panels = made(traced, "complexity", "inference").panels
    assert [panel.y for panel in panels] == ["FLOPs per token", "Carried state (bytes)", "Seconds per token"]
    assert points(panels[0], "transformer, backbone gru") == {p: 1100 + 128 * p for p in LENGTHS}


def test_phases_share_their_methods_colour_and_differ_by_dashes(traced: Data) -> None:
    found = {line.mean[-1]: line.variant for line in lines(made(traced, "complexity").panels[0], method="smt+dmt")}
    assert found == {157: 1, 30 * 512: 0}


def test_of_several_backbones_the_transformer_is_drawn_and_the_table_has_all(tmp_path: Path) -> None:
    found = record()
    found["steps"] += [{**step("bptt", "train", T, 7 * T), "backbone": "transformer"} for T in LENGTHS]
    exhibit = made(read(tmp_path, found), "complexity")
    assert points(exhibit.panels[0], "bptt")[512] == 7 * 512
    assert set(exhibit.table.loc[exhibit.table["method"] == "bptt", "backbone"]) == {"gru", "transformer"}
    told = words(exhibit.panels)
    assert "bptt" in told and "smt+dmt, phase smt, backbone gru" in told, "drawn with the only one that it has"


def test_the_memory_of_a_gpu_has_a_column_where_it_was_measured(tmp_path: Path, traced: Data) -> None:
    assert "gpu_bytes" not in table(traced, "complexity")
    found = record()
    found["steps"] = [{**row, "allocated_bytes": 7 * row["length"]} for row in found["steps"]]
    assert only(table(read(tmp_path, found), "complexity"), method="bptt")["gpu_bytes"] == pytest.approx(1.0)


def test_of_several_tasks_the_one_with_most_methods_is_drawn_and_all_are_in_the_table(tmp_path: Path) -> None:
    found = record()
    found["steps"] += [{**step("bptt", "train", T, 9 * T), "task": "stack"} for T in LENGTHS]
    data = read(tmp_path, found)
    assert set(table(data, "complexity")["task"]) == {"retrieval", "stack"}
    assert {panel.title for panel in made(data, "complexity").panels} == {"retrieval"}
    assert made(data, "complexity").tasks == ("retrieval", "stack")


# What is missing, odd or damaged.


@pytest.mark.parametrize("name", ["steps", "credit", "inference"])
def test_a_part_that_was_not_traced_leaves_the_others(tmp_path: Path, name: str) -> None:
    gone = {"steps": "complexity", "credit": "credit-path", "inference": "inference"}[name]
    assert missing(read(tmp_path, {**record(), name: []}), "complexity") == [gone]


def test_damaged_rows_are_left_out(tmp_path: Path) -> None:
    found = record()
    junk = [{"method": "bptt"}, {}, {**step("bptt", "train", 8, 1), "length": "long"}, {"task": None, "length": -3}]
    found["steps"] += [*junk, step("bptt", "train", 1024, math.nan), {"method": "bptt", "whole": 3, "length": 8}]
    found["credit"] += [{"distance": "x"}, {"method": "bptt", "distance": 3, "longest": "far"}]
    found["inference"] += [{"position": None}, {"method": 7, "position": 2, "flops": None}]
    data = read(tmp_path, found)
    row = only(table(data, "complexity"), method="bptt")
    expect(row, sequential_operations=slope(LARGER, [90 + 68 * T for T in LARGER]))
    assert missing(data, "complexity") == []


def test_a_single_length_has_values_and_no_exponent(tmp_path: Path) -> None:
    data = read(tmp_path, {"steps": [step("bptt", "train", 8, 100)], "credit": [], "inference": []})
    row = only(table(data, "complexity", "complexity-fits"), quantity="sequential operations")
    expect(row, exponent=math.nan, slope=math.nan, at_last=100)
