"""Loss against spend: targets, spends to reach them and losses at equal spend, each by hand; and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.config import Run
from bench.report.curves import loss_at, on_common_spends, spend_to
from bench.report.data import load
from bench.report.query import cells
from bench.report.sections.efficiency import comparable
from bench.results import write_json
from tests.helpers import TINY, tiny_run
from tests.report.fabricated import expect, fake, levels, lines, made, only, score, table

TOKENS = (0, 100, 200, 400)
FACTS = {"unigram_loss": 2.0, "loss_floor": 0.0}


def cell(
    root: Path,
    run: Run,
    losses: Sequence[float],
    rates: dict[str, float] | None = None,
    phases: Sequence[str] = ("train",) * 4,
    seconds: float = 0.01,
    **facts: Any,
) -> None:
    """A run that was evaluated after `TOKENS`; `rates` are sequential FLOPs per token by phase, a third of all."""
    folder = fake(root, run, [score(0.5, losses[-1], **{**FACTS, **facts})])
    curve = [
        {"phase": phase, "steps": spent, "tokens": spent, "training_seconds": seconds * spent}
        | {"scores": [score(0.5, loss), score(0.5, 0.001, "teacher")]}
        for phase, spent, loss in zip(phases, TOKENS, losses)
    ]
    write_json(folder / "curve.json", curve)
    traced = []
    for phase, rate in (rates or {}).items():
        whole = {"flops": 20 * rate, "elementwise": 10 * rate, "sequential_flops": 10 * rate}
        traced.append({"phase": phase, "tokens": 10, "whole": {**whole, "sequential_operations": 1}})
    if rates:
        write_json(folder / "cost.json", {"schema": 1, "phases": traced})


def seeds(
    root: Path, method: str, curves: Sequence[Sequence[float]], run: dict[str, Any] | None = None, **how: Any
) -> None:
    for seed, losses in enumerate(curves):
        cell(root, tiny_run(method, seed=seed, **(run or {})), losses, **how)


def pair(root: Path) -> Path:
    """BPTT: cheap per token; SMT->DMT: worse, and dearer in its first phase than in its second."""
    seeds(root, "bptt", [[2.1, 2.0, 1.0, 0.5], [2.1, 2.0, 1.2, 0.6], [2.1, 2.0, 1.4, 0.7]], rates={"train": 1.0})
    phases = ["smt", "smt", "smt", "dmt"]
    losses = [[2.2, 1.9, 1.5, 0.9], [2.2, 1.9, 1.5, 1.0], [2.2, 1.9, 1.5, 1.1]]
    seeds(root, "smt+dmt", losses, rates={"smt": 5.0, "dmt": 1.0}, phases=phases, seconds=0.02)
    return root


# Reading curves.


def test_a_spend_is_read_off_a_straight_line_in_its_logarithm() -> None:
    x, loss = np.array([100.0, 400.0]), np.array([2.0, 1.0])
    assert spend_to(x, loss, 1.5) == pytest.approx(200.0)
    assert spend_to(x, loss, 2.5) == 100.0, "at its first evaluation it was there already"
    assert math.isnan(spend_to(x, loss, 0.9))
    assert loss_at(x, loss, 200.0) == pytest.approx(1.5)
    assert loss_at(x, loss, 50.0) == 2.0, "in the method's favour"


def test_the_first_time_counts_though_the_loss_rises_again() -> None:
    assert spend_to(np.array([1.0, 10.0, 100.0, 1000.0]), np.array([2.0, 1.0, 3.0, 0.5]), 1.0) == pytest.approx(10.0)


# The table.


def test_the_last_loss_is_a_mean_over_seeds_with_its_interval(tmp_path: Path) -> None:
    frame = table(pair(tmp_path), "efficiency")
    # Of three seeds a resample's mean is the lowest seed's in 1 of 27 cases, so that the 2.5 % point is that one.
    expect(only(frame, method="bptt"), loss=(0.6, 0.5, 0.7), loss_floor=0, unit="nats", seeds=3)
    assert frame["loss"].min() > 0.5, "the teacher's loss is not the method's"


def test_spends_are_in_every_currency_with_each_phase_at_its_own_price(tmp_path: Path) -> None:
    frame = table(pair(tmp_path), "efficiency")
    expect(only(frame, method="bptt"), tokens=400, sequential_flops=400 * 1, flops=400 * 3, training_seconds=4)
    smt = 200 * 5 + 200 * 1
    expect(only(frame, method="smt+dmt"), tokens=400, sequential_flops=smt, flops=3 * smt, training_seconds=8)


def test_the_target_is_the_worst_last_loss_and_spends_to_it_are_on_the_mean_curve(tmp_path: Path) -> None:
    frame = table(pair(tmp_path), "efficiency")
    # The mean curve of bptt is 1.2 at 200 and 0.6 at 400 tokens: a third of the way in log tokens.
    at = 200 * 2 ** (1 / 3)
    spent = {"tokens_to_target": at, "sequential_flops_to_target": at, "training_seconds_to_target": at / 100}
    expect(only(frame, method="bptt"), target=1, **spent)
    expect(only(frame, method="smt+dmt"), target=1, tokens_to_target=400)


def test_losses_at_equal_spend_are_at_the_least_of_the_last_spends(tmp_path: Path) -> None:
    frame = table(pair(tmp_path), "efficiency")
    expect(only(frame, method="bptt"), loss_at_equal_tokens=0.6, loss_at_equal_sequential_flops=0.6)
    smt = only(frame, method="smt+dmt")
    expect(smt, loss_at_equal_tokens=1.0)
    expect(smt, loss_at_equal_sequential_flops=1.9)  # 400 is before its first evaluation, at 500
    expect(smt, loss_at_equal_training_seconds=1.5)  # 4 s: bptt's end; smt+dmt is at 200 tokens


def test_a_method_that_did_not_learn_sets_no_target(tmp_path: Path) -> None:
    pair(tmp_path)
    seeds(tmp_path, "transformer", [[2.1, 2.0, 1.9, 1.9]] * 3, rates={"train": 0.1})
    frame = table(tmp_path, "efficiency")
    assert frame["target"].tolist() == pytest.approx([1.0] * 3)
    expect(only(frame, method="transformer"), tokens_to_target=math.nan)


def test_what_learning_is_follows_the_best_where_no_floor_is_known(tmp_path: Path) -> None:
    natural: dict[str, Any] = {"loss_floor": None, "unigram_loss": 2.0}
    for method, last in (("bptt", 1.8), ("transformer", 1.85), ("smt", 1.95)):
        seeds(tmp_path, method, [[2.1, 2.0, 1.99, last]] * 3, **natural)
    frame = table(tmp_path, "efficiency")
    assert frame["target"].tolist() == pytest.approx([1.85] * 3), "1.95 is less than halfway from 2.0 to 1.8"


def test_without_a_unigram_loss_each_method_starts_at_its_first(tmp_path: Path) -> None:
    for method, losses in (("bptt", [9.0, 4.0, 2.0, 1.0]), ("transformer", [9.0, 3.0, 2.5, 2.1])):
        seeds(tmp_path, method, [losses] * 3, loss_floor=None, unigram_loss=None)
    # Halfway from 4.0 (after 100 tokens) to 1.0 is 2.5; from 3.0 it is 2.0.
    assert table(tmp_path, "efficiency")["target"].tolist() == pytest.approx([1.0] * 2)


def test_natural_losses_are_in_bits(tmp_path: Path) -> None:
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3, unit="bits", loss_floor=None, accuracy_ceiling=None)
    found = made(tmp_path, "efficiency")
    expect(only(found.table), unit="bits", loss=1 / math.log(2))
    assert found.panels[0].y == "loss (bits)" and levels(found.panels[0]) == {}, "no floor is known"


def test_the_last_loss_is_that_at_each_seeds_own_end(tmp_path: Path) -> None:
    cell(tmp_path, tiny_run("bptt", seed=0), [2.0, 1.8, 1.6, 1.4])
    cell(tmp_path, tiny_run("bptt", seed=1), [2.0, 1.6, 1.2])
    found = made(tmp_path, "efficiency")
    expect(only(found.table), tokens=300, loss=1.3, seeds=2)
    (line,) = found.panels[0].lines
    assert len(line.seeds) == 2 and np.isnan(line.low).all() and "3 seeds" in found.caption
    assert line.x.tolist() == [100, 200, 400]
    assert line.mean == pytest.approx([1.7, 1.4, 1.3]), "a seed that has ended keeps its loss"


def test_seeds_that_were_evaluated_at_other_spends_meet_on_a_common_grid() -> None:
    a = np.array([100.0, 400.0]), np.array([2.0, 1.0])
    b = np.array([50.0, 200.0, 800.0]), np.array([3.0, 1.0, 0.0])
    x, losses = on_common_spends([a, b])
    assert x.tolist() == [100, 200, 400, 800], "from where both have begun"
    assert losses == pytest.approx(np.array([[2.0, 1.5, 1.0, 1.0], [2.0, 1.0, 0.5, 0.0]]))
    gap = np.array([100.0, math.nan]), np.array([2.0, 1.0])
    assert on_common_spends([a, gap])[1].shape == (2, 0), "a mean over other seeds would be another mean"


# The figures.


def test_four_panels_hold_the_mean_curves(tmp_path: Path) -> None:
    panels = made(pair(tmp_path), "efficiency").panels
    currencies = ["sequential FLOPs", "total FLOPs", "training tokens", "seconds of training"]
    assert [panel.x for panel in panels] == currencies
    assert all(panel.ticks == "log" and levels(panel) == {"floor (Bayes-optimal)": [0.0]} for panel in panels)
    (bptt,) = lines(panels[2], method="bptt")
    assert (bptt.x.tolist(), bptt.mean.tolist()) == ([100, 200, 400], pytest.approx([2.0, 1.2, 0.6]))
    assert (bptt.low, bptt.high) == (pytest.approx([2.0, 1.0, 0.5]), pytest.approx([2.0, 1.4, 0.7]))
    assert lines(panels[0], method="smt+dmt")[0].x.tolist() == pytest.approx([500, 1000, 1200])


def test_without_traced_costs_tokens_and_seconds_stay_and_the_caption_names_the_measure(tmp_path: Path) -> None:
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3)
    seeds(tmp_path, "smt+dmt", [[2.0, 1.5, 1.2, 1.1]] * 3)
    exhibit = made(tmp_path, "efficiency")
    assert [panel.x for panel in exhibit.panels] == ["training tokens", "seconds of training"]
    assert "measure: [cost]" in exhibit.caption and "flops" not in exhibit.table


def test_a_task_that_was_not_traced_says_so_beside_one_that_was(tmp_path: Path) -> None:
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3)
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3, {"task": "stack"}, rates={"train": 1.0})
    panels = made(tmp_path, "efficiency").panels
    assert [panel.note for panel in panels if not panel.lines] == ["not traced", "not traced"] and len(panels) == 8


def test_many_tasks_are_spread_over_figures_and_none_is_drawn_twice(tmp_path: Path) -> None:
    tasks = ("retrieval", "stack", "string-copy", "keys-values", "modular-arithmetic")
    for task in tasks:
        for method in ("bptt", "transformer"):
            seeds(tmp_path, method, [[2.0, 1.5, 1.2, 1.0]], {"task": task})
    first, second = (made(tmp_path, "efficiency", name) for name in ("efficiency", "efficiency-2"))
    titles = [panel.title for panel in (*first.panels, *second.panels)]
    assert sorted(title.split(",")[0] for title in titles if title) == sorted(tasks)
    assert first.table is not None and second.table is None
    assert set(second.tasks) < set(tasks)


# Which runs.


@pytest.mark.parametrize(("lasts", "drawn"), [((0.5, 1.0, 1.99), 16), ((1.99, 1.99, 1.99), 32)])
def test_the_hardest_setting_is_drawn_of_those_that_some_method_learned(tmp_path: Path, lasts: Any, drawn: int) -> None:
    for length, last in zip((8, 16, 32), lasts):
        for method in ("bptt", "transformer"):
            seeds(tmp_path, method, [[2.0, 2.0, 2.0, last]], {"task": {"name": "retrieval", "length": length}})
    exhibit = made(tmp_path, "efficiency")
    assert exhibit.panels[0].title == f"retrieval, length {drawn}" and len(exhibit.table) == 6
    assert ("target" in exhibit.table) == (lasts[0] < 1), "where none learned there is no target"


def test_a_setting_that_compares_methods_is_drawn_before_one_that_does_not(tmp_path: Path) -> None:
    for method in ("bptt", "transformer"):
        seeds(tmp_path / "a", method, [[2.0, 1.5, 1.2, 1.0]])
    seeds(tmp_path / "b", "bptt", [[2.0, 1.5, 1.2, 0.5]], {"task": {"name": "retrieval", "length": 64}})
    assert made(tmp_path, "efficiency").panels[0].title == "a: retrieval, length 12"


def test_ablations_and_ladders_leave_the_setting_that_most_runs_share(tmp_path: Path) -> None:
    for d in (8, 16, 32):
        seeds(tmp_path, "transformer", [[2.0, 1.5, 1.2, 1.0]], {"model": {**TINY, "d": d}})
    for weight in (0.1, 1.0, 10.0):
        method = {"name": "smt", "lambda_dyn": weight}
        for seed in range(2 if weight == 1.0 else 1):
            cell(tmp_path, tiny_run(method, seed=seed, model={**TINY, "d": 16}), [2.0, 1.5, 1.2, 1.0])
    kept = comparable(cells(load([tmp_path])))
    assert dict(zip(kept["method"], kept["model.d"])) == {"transformer": 16, "smt": 16}
    assert set(kept.loc[kept["method"] == "smt", "method.lambda_dyn"]) == {1.0}


def test_odd_curves_are_told_not_raised(tmp_path: Path) -> None:
    seeds(tmp_path, "bptt", [[2.0, math.nan, 1.2, 1.0], [math.nan] * 4, [2.0, math.inf, math.inf, math.inf]])
    seeds(tmp_path, "smt+dmt", [[2.0]])
    expect(only(table(tmp_path, "efficiency")), method="bptt", loss=1.0, seeds=1)
