"""The claims' verdicts on fabricated data: clear cases either way, too little data, and every number by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.report.claims import Verdict
from bench.report.claims.growth import times_more
from bench.report.claims.inside import shared_ends, silhouette
from bench.report.data import Data
from tests.report.labs import (
    CHANCE,
    EMPTY,
    HIGH,
    LABS,
    LOW,
    MIDDLE,
    SOLVED,
    Lab,
    arranged,
    backbones,
    beyond_training,
    cut,
    drifting,
    entry,
    ladder,
    natural,
    norms,
    raced,
    synthetic,
    traced,
    value,
    verdict,
)


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], Verdict]:
    """Of each claim: in the laboratory that supports it, in the one that contradicts it, and with two seeds only."""
    found = {}
    for key, (good, bad) in LABS.items():
        found[key, "supported"] = verdict(key, good.data())
        found[key, "contradicted"] = verdict(key, bad.data())
        found[key, "few"] = verdict(key, cut(good, 2))
    return found


@pytest.mark.parametrize("key", LABS)
@pytest.mark.parametrize("word", ["supported", "contradicted"])
def test_clear_data_gives_a_clear_verdict(verdicts: dict[tuple[str, str], Verdict], key: str, word: str) -> None:
    found = verdicts[key, word]
    assert found.verdict == word, found.because
    assert (found.why is None) == (word == "supported")
    assert list(found.numbers) == ["what", "value", "low", "high", "n"] and len(found.numbers)
    assert found.numbers["what"].is_unique, "no two numbers are called the same"
    assert found.because.endswith(".") and len(found.because) < 2000
    assert bool(found.regime) == (key not in ("3", "4")), "costs are traced, of no run"


@pytest.mark.parametrize("key", [key for key in LABS if key not in ("3", "4")])
def test_two_seeds_decide_nothing(verdicts: dict[tuple[str, str], Verdict], key: str) -> None:
    found = verdicts[key, "few"]
    assert found.verdict == "inconclusive"
    assert "fewer than 3 seeds" in found.because
    assert found.numbers["low"].isna().all() and set(found.numbers["n"]) <= {0, 2}


@pytest.mark.parametrize("key", ["3", "4"])
def test_traced_costs_need_no_seeds(verdicts: dict[tuple[str, str], Verdict], key: str) -> None:
    assert verdicts[key, "few"].verdict == "supported"


@pytest.mark.parametrize("key", LABS)
def test_no_data_is_not_tested(key: str) -> None:
    nothing = Data(EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, [], [])
    for data in (nothing, Lab().add("my-method", HIGH, "my-task").data()):
        found = verdict(key, data)
        assert found.verdict == "not tested" and found.numbers.empty and found.why is None
        assert found.because[0].isupper()


@pytest.mark.parametrize("key", [key for key in LABS if key not in ("3", "4")])
def test_only_finished_runs_count(key: str) -> None:
    data = LABS[key][0].data()
    assert verdict(key, replace(data, results=data.results.assign(state="failed"))).verdict == "not tested"


# The numbers.


def test_the_hardest_task_is_compared_with_the_next_hardest() -> None:
    lab = synthetic(HIGH, LOW)
    lab.add("smt+dmt", [0.4, 0.41, 0.42], "stack", task__length=4)
    found = verdict("1", lab.data())
    told = "keys-values and stack: share of the ceiling on the hardest other task minus that on keys-values"
    assert value(found, told) == pytest.approx((0.91 + 0.91 + 0.41) / 3 - 0.71)


def test_a_run_that_two_grids_share_counts_once_in_the_mean_over_a_task() -> None:
    data = synthetic(HIGH, LOW).add("smt+dmt", [0.1, 0.1, 0.1], "keys-values", grid="other").data()
    shared = data.results[(data.results["task"] == "keys-values") & (data.results["accuracy"] == 0.1)]
    twice = pd.concat([data.results, shared.assign(grid="third")], ignore_index=True)
    told = "keys-values and retrieval: share of the ceiling on the hardest other task minus that on keys-values"
    found = verdict("1", replace(data, results=twice))
    assert value(found, told) == pytest.approx(0.91 - (0.71 + 0.71 + 0.1) / 3)


def test_the_claim_on_length_is_not_tested_where_no_gradient_has_far_to_travel() -> None:
    lab = Lab()
    for method, last in (("smt+dmt", HIGH), ("bptt", LOW)):
        lab.add(method, HIGH, task__length=8).add(method, last, task__length=64)
    assert verdict("2", lab.data()).verdict == "not tested"


def test_the_papers_claims_are_judged_by_methods_as_published() -> None:
    lab = synthetic(HIGH, LOW)
    for length in (8, 16):
        lab.add("smt+dmt", CHANCE, task__length=length, training__curriculum__below=0.3)
        lab.add("bptt", HIGH, task__length=length, model__chrono=16.0)
    found = verdict("1", lab.data())
    assert found.verdict == "supported"
    assert found.regime == "smt+dmt and bptt at lengths 8 to 16, 3 seeds"


def test_seconds_to_a_goal_that_bptt_never_reaches_decide_nothing_for_it() -> None:
    lab = raced(9.0, 20.0)
    lab.add("bptt", MIDDLE, "stack", model__backbone="gru").add("smt-dense+dmt", SOLVED, "stack", cost=90.0)
    found = verdict("ours-3", lab.data())
    assert value(found, "retrieval: CPU seconds of smt+dmt, in multiples of BPTT's") == pytest.approx(20.0)
    assert "BPTT does not always get there" in found.because


def test_what_is_lost_is_over_longer_lengths_alone() -> None:
    found = verdict("7", beyond_training(0.9, 0.4).data())
    assert value(found, "retrieval: skill it loses") == pytest.approx((0.91 - 0.9) / 0.9)
    assert value(found, "retrieval: skill of transformer at longer lengths") == pytest.approx(0.3 / 0.9)
    less = value(found, "retrieval: skill lost, teacher minus smt+dmt")
    assert less == pytest.approx((0.9 - 0.4) / 0.9 - (0.91 - 0.9) / 0.9)


def test_differences_are_paired_by_seed() -> None:
    found = verdict("1", Lab().add("smt+dmt", [0.9, 0.7, 0.8]).add("bptt", [0.6, 0.3, 0.6]).data())
    minus = entry(found, "retrieval: accuracy, smt+dmt minus bptt")
    assert [minus[name] for name in ("value", "low", "high", "n")] == pytest.approx([0.3, 0.2, 0.4, 3])
    assert value(found, "retrieval: accuracy of bptt") == pytest.approx(0.5)


def test_exponents_are_those_of_the_larger_half_with_those_of_all_beside() -> None:
    lab = Lab()
    lengths = (8, 16, 32, 64, 128, 256, 512)
    about = {"grid": "c", "task": "retrieval", "method": "bptt", "backbone": "gru", "phase": "train"}
    lab.rows["steps"] = [{**about, "length": T, "whole.sequential_operations": 300 + 7 * T} for T in lengths]
    found = verdict("3", lab.data())
    x = np.log(lengths)
    y = np.log(300 + 7 * np.array(lengths))
    told = "retrieval, bptt with gru: exponent of sequential operations over {}"
    half, whole = value(found, told.format("the larger half")), value(found, told.format("all 7 lengths"))
    assert half == pytest.approx(np.polyfit(x[3:], y[3:], 1)[0]) and whole == pytest.approx(np.polyfit(x, y, 1)[0])
    assert whole < half


def test_losses_are_compared_at_the_largest_common_spend() -> None:
    """BPTT spends ten times as much: at 1000 it has had a tenth of its training, its first evaluation."""
    found = verdict("8", natural(2.0, 2.2, 10.0).data())
    where = "mnist: bits of {} at equal sequential FLOPs"
    assert value(found, where.format("smt+dmt")) == pytest.approx(2.001)
    assert value(found, where.format("bptt")) == pytest.approx(2.201 + 2 * 0.7)


def test_how_many_times_more_the_other_spends() -> None:
    spent, loss = np.array([1.0, 10.0, 100.0]), np.array([3.0, 2.0, 1.0])
    mine = (np.array([1.0, 5.0]), np.array([4.0, 1.5]))
    halfway = math.sqrt(10 * 100) / 5  # in the logarithm of the spend
    assert math.exp(times_more((spent, loss), mine)) == pytest.approx(halfway)
    never = (np.array([5.0]), np.array([0.5]))
    assert math.exp(times_more((spent, loss), never)) == pytest.approx(100 / 5), "at least what it spent"
    at_once = (np.array([5.0]), np.array([3.5]))
    assert math.exp(times_more((spent, loss), at_once)) == pytest.approx(1 / 5)


def test_digits_stand_in_for_the_papers_natural_tasks() -> None:
    found = verdict("8", natural(2.0, 2.0, 10.0, "digits").data())
    assert found.verdict == "supported"
    assert "on digits (for tinystories and mnist)" in found.because
    found = verdict("8", natural(2.0, 2.3, 10.0, "tinystories").data())
    assert found.verdict == "mixed", "ahead per token, where the paper says equal"


def test_exponents_of_losses_are_per_seed_and_in_bits() -> None:
    found = verdict("9", ladder(3.0, 2.5, 2.2).data())
    name = "digits, d 24, context 64, smt+dmt: exponent of bits in memory"
    each = [np.polyfit(np.log([1, 2, 8]), np.log(np.array([3.0, 2.5, 2.2]) + 0.001 * seed), 1)[0] for seed in range(3)]
    assert value(found, name) == pytest.approx(np.mean(each))
    assert value(found, "digits, context 64, memory_tokens 4, smt+dmt: bits at parameters 3200") == pytest.approx(2.201)


def never_too_small() -> Lab:
    lab = Lab()
    for size in (1, 2, 8):
        lab.add("smt+dmt", LOW, "digits", losses=2.0, unit="bits", falls=1.0, model__memory_tokens=size)
    return lab


def hopeless() -> Lab:
    lab = Lab().add("smt+dmt", LOW, method__future=1, method__detach=False)
    return lab.add("smt+dmt", LOW, method__future=64, method__detach=False)


@pytest.mark.parametrize(
    ("key", "lab", "why"),
    [
        ("9", ladder(3.0, 3.2, 2.2), "rises by 0.200 bits between two rungs"),
        ("10", never_too_small(), "the smallest memory had the target at half time"),
        ("11", hopeless(), "the longest future does not solve it either"),
        ("14", backbones(CHANCE, CHANCE), "under bptt either"),
    ],
)
def test_what_leaves_a_claim_undecided(key: str, lab: Lab, why: str) -> None:
    found = verdict(key, lab.data())
    assert found.verdict == "inconclusive" and why in found.because


def test_dmt_may_start_from_another_runs_smt() -> None:
    data = drifting(0.5, 0.3).data()
    curves = data.curves.assign(**{"init_from.run": None})
    moved = {name: f"source of {name}" for name in data.results["id"]}
    smt = curves["phase"] == "smt"
    curves.loc[smt, "id"] = curves.loc[smt, "id"].map(moved)
    sources = data.results.assign(id=data.results["id"].map(moved), method="smt", group="of the sources")
    results = pd.concat([data.results.assign(**{"init_from.run": data.results["id"].map(moved)}), sources])
    found = verdict("6", replace(data, results=results, curves=curves))
    assert value(found, "retrieval, length 16, smt+dmt: accuracy after DMT minus after SMT") == pytest.approx(0.21)


def test_drift_counts_up_to_the_trained_length() -> None:
    found = verdict("6", drifting(0.5, 0.3).data())
    before = np.mean([0.2 * np.mean(np.arange(16) + 1) * (1 + 0.01 * seed) for seed in range(3)])
    assert value(found, "retrieval, length 16, smt+dmt: drift after SMT") == pytest.approx(before)
    ratio = np.exp(np.mean(np.log([0.5, 0.51, 0.52])))
    assert value(found, "retrieval, length 16, smt+dmt: drift after DMT over drift after SMT") == pytest.approx(ratio)


def test_claims_see_methods_by_what_they_declare_and_not_by_their_names() -> None:
    lab = traced(0, 1)
    for row in lab.rows["inference"]:
        row["method"] = {"bptt": "my-rnn", "transformer": "my-attention"}.get(row["method"], row["method"])
    found = verdict("4", lab.data())
    assert found.verdict == "supported" and {"my-rnn", "my-attention"} <= words(found)
    lab = norms(0.0, 0.2)
    for row in lab.rows["gradients"] + lab.rows["results"]:
        row["method"] = {"bptt": "my-rnn", "smt+dmt": "my-smt"}[row["method"]]
    found = verdict("5", lab.data())
    assert found.verdict == "supported" and {"my-rnn", "my-smt"} <= words(found)
    lab = arranged(True, True)
    for run, _ in lab.geometry:
        run["method"] = "my-smt"
    for row in lab.rows["results"]:
        row["method"] = "my-smt"
    found = verdict("13", lab.data())
    assert found.verdict == "supported" and "my-smt" in words(found)


def words(found: Verdict) -> set[str]:
    return {word.strip(",:") for what in found.numbers["what"] for word in what.split()}


def test_the_geometry_of_what_was_not_learned_tells_nothing() -> None:
    data = arranged(False, False).data()
    found = verdict("13", replace(data, results=data.results.assign(accuracy=0.1)))
    assert found.verdict == "inconclusive" and "the task is not learned" in found.because


def test_a_setting_is_judged_by_the_norms_between_the_middle_and_the_last() -> None:
    """What comes before the middle, and the memory that the loss is read from, do not count."""
    lab = norms(0.0, 0.5)
    for row in lab.rows["gradients"]:
        if row["method"] == "smt+dmt" and (row["t"] < 15 or row["t"] == 31):
            row["norm"] *= 1e6
    found = verdict("5", lab.data())
    assert found.verdict == "supported"
    told = "retrieval, length 16, bptt, init: |dL/dm_t| changes over the second half by a factor of"
    assert value(found, told) == pytest.approx(math.exp(0.501 * 14))  # from t = 16 to 30


def test_silhouettes_and_trees() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [12.0, 0.0]])
    each = [1 - 1 / 11, 1 - 1 / 10, 1 - 2 / 9.5, 1 - 2 / 11.5]  # own group's distance over the other's
    assert silhouette(points, ["a", "a", "b", "b"]) == pytest.approx(np.mean(each))
    assert math.isnan(silhouette(points, ["a"] * 4)) and math.isnan(silhouette(points, list("abcd")))
    beginning, end = shared_ends(points, [[1, 1], [1, 2], [2, 1], [2, 2]])
    # Distances 1 10 12 9 11 2 have ranks 1 4 6 3 5 2; common beginnings 1 0 0 0 0 1 have ranks 5.5 2.5 .. 5.5.
    assert beginning == pytest.approx(-12 / math.sqrt(17.5 * 12))
    # Common ends 0 1 0 0 1 0 have ranks 2.5 5.5 2.5 2.5 5.5 2.5.
    assert end == pytest.approx(6 / math.sqrt(17.5 * 12))
    assert math.isnan(shared_ends(points, [[1, 1]])[0])
