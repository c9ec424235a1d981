"""What the guard of bench_ratios.py calls slower; no clock is looked at."""

from __future__ import annotations

from tests.benchmarks.ratios import MARGIN, committed, slower

BEFORE = {"step: a": {"products": 10.0, "calls": 20.0}, "step: b": {"products": 1.0, "calls": 2.0}}


def scaled(products: float, calls: float):
    return {**BEFORE, "step: a": {"products": 10 * products, "calls": 20 * calls}}


def test_twice_as_slow_by_both_yardsticks_is_slower():
    assert slower(scaled(2, 2), BEFORE) == ["step: a: 2.0 times as slow as before"]


def test_one_yardstick_alone_speaks_of_the_machine():
    assert slower(scaled(3, 1.1), BEFORE) == slower(scaled(1.1, 3), BEFORE) == []


def test_what_is_faster_or_within_the_margin_is_not_slower():
    assert slower(scaled(0.3, 0.3), BEFORE) == slower(scaled(MARGIN - 0.01, MARGIN), BEFORE) == []


def test_the_committed_ratios_have_every_kind_of_workload():
    assert {name.partition(":")[0] for name in committed()} == {"step", "prediction", "tracing", "sampling"}
