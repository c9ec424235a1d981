"""Loss against spend: targets, spends to reach them and losses at equal spend, each by hand; and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.config import Run
from bench.report.curves import loss_at, on_common_spends, spend_to
from bench.report.data import Data, load
from bench.report.query import cells
from bench.report.sections.efficiency import comparable
from bench.results import write_json
from tests.helpers import TINY, folder_of, tiny_run
from tests.report import fabricated
from tests.report.fabricated import levels, lines, only

TOKENS = (0, 100, 200, 400)
FACTS = {"chance": 0.1, "unigram_loss": 2.0, "loss_floor": 0.0, "accuracy_ceiling": 1.0, "unit": "nats"}


def cell(
    root: Path,
    run: Run,
    losses: Sequence[float],
    *,
    rates: dict[str, float] | None = None,
    phases: Sequence[str] | None = None,
    state: str = "done",
    seconds: float = 0.01,
    tokens: Sequence[int] = TOKENS,
    **facts: Any,
) -> None:
    """A run that was evaluated after these tokens; `rates` are sequential FLOPs per token by phase, a third of all."""
    folder = folder_of(run, root)
    phases = phases or ["train"] * len(losses)
    score = {"predictor": "rnn", "reference": False, "accuracy": 0.5}
    curve = [
        {
            **{"phase": phase, "steps": spent, "tokens": spent, "training_seconds": seconds * spent},
            "scores": [{**score, "loss": loss}, {**score, "predictor": "teacher", "reference": True, "loss": 0.001}],
        }
        for phase, spent, loss in zip(phases, tokens, losses)
    ]
    write_json(folder / "curve.json", curve)
    final = [{**score, **FACTS, **facts, "loss": losses[-1], "length": 12}]
    costs = {"steps": 4, "tokens": tokens[-1], "training_seconds": 4.0, "predictor_parameters": 9}
    if state == "done":
        write_json(folder / "result.json", {"scores": final, "costs": costs, "provenance": {}})
    folder.set_status(state)
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


def pair(root: Path) -> Data:
    """BPTT: cheap per token; SMT->DMT: worse, and dearer in its first phase than in its second."""
    seeds(root, "bptt", [[2.1, 2.0, 1.0, 0.5], [2.1, 2.0, 1.2, 0.6], [2.1, 2.0, 1.4, 0.7]], rates={"train": 1.0})
    phases = ["smt", "smt", "smt", "dmt"]
    losses = [[2.2, 1.9, 1.5, 0.9], [2.2, 1.9, 1.5, 1.0], [2.2, 1.9, 1.5, 1.1]]
    seeds(root, "smt+dmt", losses, rates={"smt": 5.0, "dmt": 1.0}, phases=phases, seconds=0.02)
    return load([root])


def exhibits(data: Data) -> list[Any]:
    return list(fabricated.exhibits(data, "efficiency").values())


def table(data: Data) -> pd.DataFrame:
    return fabricated.made(data, "efficiency", "efficiency")[1]


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
    row = only(table(pair(tmp_path)), method="bptt")
    assert row["loss"] == pytest.approx(0.6) and row["seeds"] == 3
    # Of three seeds a resample's mean is the lowest seed's in 1 of 27 cases, so that the 2.5 % point is that one.
    assert (row["loss_low"], row["loss_high"]) == pytest.approx((0.5, 0.7))
    assert row["loss_floor"] == 0.0 and row["unit"] == "nats"


def test_spends_are_in_every_currency_with_each_phase_at_its_own_price(tmp_path: Path) -> None:
    frame = table(pair(tmp_path))
    bptt, smt = (only(frame, method=name) for name in ("bptt", "smt+dmt"))
    assert (bptt["tokens"], bptt["sequential_flops"], bptt["flops"]) == (400, 400 * 1.0, 400 * 3.0)
    assert smt["sequential_flops"] == pytest.approx(200 * 5.0 + 200 * 1.0)
    assert smt["flops"] == pytest.approx(3 * (200 * 5.0 + 200 * 1.0))
    assert (bptt["training_seconds"], smt["training_seconds"]) == pytest.approx((4.0, 8.0))


def test_the_target_is_the_worst_last_loss_and_spends_to_it_are_on_the_mean_curve(tmp_path: Path) -> None:
    frame = table(pair(tmp_path))
    bptt, smt = (only(frame, method=name) for name in ("bptt", "smt+dmt"))
    assert bptt["target"] == smt["target"] == pytest.approx(1.0)
    # The mean curve of bptt is 1.2 at 200 and 0.6 at 400 tokens: a third of the way in log tokens.
    assert bptt["tokens_to_target"] == pytest.approx(200 * 2 ** (1 / 3))
    assert bptt["sequential_flops_to_target"] == pytest.approx(200 * 2 ** (1 / 3))
    assert bptt["training_seconds_to_target"] == pytest.approx(2 * 2 ** (1 / 3))
    assert smt["tokens_to_target"] == pytest.approx(400)


def test_losses_at_equal_spend_are_at_the_least_of_the_last_spends(tmp_path: Path) -> None:
    frame = table(pair(tmp_path))
    bptt, smt = (only(frame, method=name) for name in ("bptt", "smt+dmt"))
    assert (bptt["loss_at_equal_tokens"], smt["loss_at_equal_tokens"]) == pytest.approx((0.6, 1.0))
    assert bptt["loss_at_equal_sequential_flops"] == pytest.approx(0.6)
    assert smt["loss_at_equal_sequential_flops"] == pytest.approx(1.9), "400 is before its first evaluation, at 500"
    # 4 s: bptt's end; smt+dmt is at 200 tokens.
    assert smt["loss_at_equal_training_seconds"] == pytest.approx(1.5)


def test_a_method_that_did_not_learn_sets_no_target(tmp_path: Path) -> None:
    pair(tmp_path)
    seeds(tmp_path, "transformer", [[2.1, 2.0, 1.9, 1.9]] * 3, rates={"train": 0.1})
    frame = table(load([tmp_path]))
    assert frame["target"].tolist() == pytest.approx([1.0] * 3)
    assert math.isnan(only(frame, method="transformer")["tokens_to_target"])


def test_where_none_learned_there_is_no_target(tmp_path: Path) -> None:
    for method in ("bptt", "transformer"):
        seeds(tmp_path, method, [[2.1, 2.0, 2.0, 1.99]] * 3)
    data = load([tmp_path])
    assert "target" not in table(data)


def test_what_learning_is_follows_the_best_where_no_floor_is_known(tmp_path: Path) -> None:
    natural: dict[str, Any] = {"loss_floor": None, "unigram_loss": 2.0}
    for method, last in (("bptt", 1.8), ("transformer", 1.85), ("smt", 1.95)):
        seeds(tmp_path, method, [[2.1, 2.0, 1.99, last]] * 3, **natural)
    frame = table(load([tmp_path]))
    assert frame["target"].tolist() == pytest.approx([1.85] * 3), "1.95 is less than halfway from 2.0 to 1.8"


def test_without_a_unigram_loss_each_method_starts_at_its_first(tmp_path: Path) -> None:
    for method, losses in (("bptt", [9.0, 4.0, 2.0, 1.0]), ("transformer", [9.0, 3.0, 2.5, 2.1])):
        seeds(tmp_path, method, [losses] * 3, loss_floor=None, unigram_loss=None)
    # Halfway from 4.0 (after 100 tokens) to 1.0 is 2.5; from 3.0 it is 2.0.
    assert table(load([tmp_path]))["target"].tolist() == pytest.approx([1.0] * 2)


def test_natural_losses_are_in_bits(tmp_path: Path) -> None:
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3, unit="bits", loss_floor=None, accuracy_ceiling=None)
    data = load([tmp_path])
    row = only(table(data))
    assert (row["unit"], row["loss"]) == ("bits", pytest.approx(1 / math.log(2)))
    assert exhibits(data)[0].panels[0].y == "loss (bits)"


def test_the_teachers_loss_is_not_the_methods(tmp_path: Path) -> None:
    assert table(pair(tmp_path))["loss"].min() > 0.5


def test_the_last_loss_is_that_at_each_seeds_own_end(tmp_path: Path) -> None:
    cell(tmp_path, tiny_run("bptt", seed=0), [2.0, 1.8, 1.6, 1.4])
    cell(tmp_path, tiny_run("bptt", seed=1), [2.0, 1.6, 1.2])
    data = load([tmp_path])
    row = only(table(data))
    assert (row["tokens"], row["loss"], row["seeds"]) == (300, pytest.approx(1.3), 2)
    (line,) = exhibits(data)[0].panels[0].lines
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
    panels = exhibits(pair(tmp_path))[0].panels
    assert [panel.x for panel in panels] == [
        *("sequential FLOPs", "total FLOPs", "training tokens", "seconds of training")
    ]
    assert all(panel.ticks == "log" for panel in panels)
    (bptt,) = lines(panels[2], method="bptt")
    assert (bptt.x.tolist(), bptt.mean.tolist()) == ([100, 200, 400], pytest.approx([2.0, 1.2, 0.6]))
    assert bptt.low.tolist() == pytest.approx([2.0, 1.0, 0.5]) and bptt.high.tolist() == pytest.approx([2.0, 1.4, 0.7])
    assert lines(panels[0], method="smt+dmt")[0].x.tolist() == pytest.approx([500, 1000, 1200])


def test_the_floor_is_drawn_where_it_is_known(tmp_path: Path) -> None:
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3, loss_floor=0.25)
    assert levels(exhibits(load([tmp_path]))[0].panels[0]) == {"floor (Bayes-optimal)": [0.25]}


def test_without_traced_costs_tokens_and_seconds_stay_and_the_caption_names_the_measure(tmp_path: Path) -> None:
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3)
    seeds(tmp_path, "smt+dmt", [[2.0, 1.5, 1.2, 1.1]] * 3)
    (exhibit,) = exhibits(load([tmp_path]))
    assert exhibit.table is not None
    assert [panel.x for panel in exhibit.panels] == ["training tokens", "seconds of training"]
    assert "measure: [cost]" in exhibit.caption and "flops" not in exhibit.table


def test_a_task_that_was_not_traced_says_so_beside_one_that_was(tmp_path: Path) -> None:
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3)
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0]] * 3, {"task": "stack"}, rates={"train": 1.0})
    panels = exhibits(load([tmp_path]))[0].panels
    assert [panel.note for panel in panels if not panel.lines] == ["not traced", "not traced"] and len(panels) == 8


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_seeds_have_points_and_no_band(tmp_path: Path, count: int) -> None:
    seeds(tmp_path, "bptt", [[2.0, 1.5, 1.2, 1.0], [2.0, 1.6, 1.3, 1.2]][:count])
    (exhibit,) = exhibits(load([tmp_path]))
    (line,) = exhibit.panels[0].lines
    assert "loss_low" not in table(load([tmp_path])) and np.isnan(line.low).all()
    assert len(line.seeds) == (0 if count == 1 else 2) and "3 seeds" in exhibit.caption


def test_many_tasks_are_spread_over_figures_and_none_is_drawn_twice(tmp_path: Path) -> None:
    tasks = ("retrieval", "stack", "string-copy", "keys-values", "modular-arithmetic")
    for task in tasks:
        for method in ("bptt", "transformer"):
            seeds(tmp_path, method, [[2.0, 1.5, 1.2, 1.0]], {"task": task})
    found = exhibits(load([tmp_path]))
    assert [exhibit.name for exhibit in found] == ["efficiency", "efficiency-2"]
    titles = [panel.title for exhibit in found for panel in exhibit.panels]
    assert sorted(title.split(",")[0] for title in titles if title) == sorted(tasks)
    assert found[0].table is not None and found[1].table is None
    assert set(found[1].tasks) < set(tasks)


# Which runs.


def test_the_hardest_setting_that_some_method_learned_is_drawn_and_all_are_in_the_table(tmp_path: Path) -> None:
    for length, last in ((8, 0.5), (16, 1.0), (32, 1.99)):
        for method in ("bptt", "transformer"):
            seeds(tmp_path, method, [[2.0, 2.0, 2.0, last]], {"task": {"name": "retrieval", "length": length}})
    (exhibit,) = exhibits(load([tmp_path]))
    assert exhibit.table is not None
    assert exhibit.panels[0].title == "retrieval, length 16" and len(exhibit.table) == 6


def test_where_none_learned_the_hardest_setting_is_drawn(tmp_path: Path) -> None:
    for length in (8, 32):
        for method in ("bptt", "transformer"):
            seeds(tmp_path, method, [[2.0, 2.0, 2.0, 1.99]], {"task": {"name": "retrieval", "length": length}})
    assert exhibits(load([tmp_path]))[0].panels[0].title == "retrieval, length 32"


def test_a_setting_that_compares_methods_is_drawn_before_one_that_does_not(tmp_path: Path) -> None:
    for method in ("bptt", "transformer"):
        seeds(tmp_path / "a", method, [[2.0, 1.5, 1.2, 1.0]])
    seeds(tmp_path / "b", "bptt", [[2.0, 1.5, 1.2, 0.5]], {"task": {"name": "retrieval", "length": 64}})
    assert exhibits(load([tmp_path]))[0].panels[0].title == "a: retrieval, length 12"


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
    data = load([tmp_path])
    row = only(table(data))
    assert (row["method"], row["loss"], row["seeds"]) == ("bptt", pytest.approx(1.0), 1)
