"""The report's statistics against independent computations: enumerated resamples, exact power laws, sums by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bench.statistics import interquartile_mean, mean_interval, paired_difference, power_law

NAN = math.nan


# Intervals.


def enumerated(values: list[float]) -> list[tuple[float, float]]:
    """(mean, probability) of all resamples, in order."""
    means = sorted(float(np.mean(one)) for one in itertools.product(values, repeat=len(values)))
    return [(mean, 1 / len(means)) for mean in means]


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.35], [-0.3, 0.0, 0.1], [0.5, 0.5, 0.9]])
def test_of_three_seeds_the_interval_spans_all(values: list[float]) -> None:
    """One of 27 resamples is the smallest value thrice: 3.7 %, more than the 2.5 % that an interval cuts off."""
    resamples = enumerated(values)
    assert len(resamples) == 27 and resamples[0][1] > 0.025
    interval = mean_interval(values)
    assert interval.mean == pytest.approx(sum(values) / 3)
    assert interval.low == pytest.approx(resamples[0][0]) == pytest.approx(min(values))
    assert interval.high == pytest.approx(resamples[-1][0]) == pytest.approx(max(values))
    assert interval.n == 3


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.35, 0.4, 0.8], [1.0, 1.1, 0.9, 1.4, 1.2]])
def test_of_five_seeds_the_interval_is_between_the_enumerated_quantiles(values: list[float]) -> None:
    """Of 3,125 resamples 2,000 are drawn, so that the quantile's probability is known to about 0.01."""
    means = [mean for mean, _ in enumerated(values)]
    interval = mean_interval(values)
    assert np.quantile(means, 0.015) <= interval.low <= np.quantile(means, 0.035)
    assert np.quantile(means, 0.965) <= interval.high <= np.quantile(means, 0.985)


def test_the_same_values_have_the_same_interval() -> None:
    assert mean_interval([0.2, 0.5, 0.3, 0.7]) == mean_interval(np.array([0.2, 0.5, 0.3, 0.7]))


@pytest.mark.parametrize("values", [[0.4], [0.4, 0.6], [0.4, NAN, 0.6]])
def test_too_few_seeds_have_a_mean_and_no_interval(values: list[float]) -> None:
    interval = mean_interval(values)
    kept = [value for value in values if value == value]
    assert interval.mean == pytest.approx(sum(kept) / len(kept)) and interval.n == len(kept)
    assert math.isnan(interval.low) and math.isnan(interval.high)


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_nothing_has_no_mean(values: list[float]) -> None:
    interval = mean_interval(values)
    assert interval.n == 0 and all(math.isnan(one) for one in interval[:3])


def test_gaps_are_left_out() -> None:
    assert mean_interval([0.1, NAN, 0.2, 0.6]) == mean_interval([0.1, 0.2, 0.6])


def test_equal_seeds_have_an_interval_of_no_width() -> None:
    assert mean_interval([0.25, 0.25, 0.25]) == (0.25, 0.25, 0.25, 3)


# Pairs.


def test_differences_are_of_the_same_seed() -> None:
    a, b = {0: 0.5, 1: 0.9, 2: 0.7}, {2: 0.4, 0: 0.3, 1: 0.5}
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx((0.2 + 0.4 + 0.3) / 3)
    assert (difference.low, difference.high) == (pytest.approx(0.2), pytest.approx(0.4))


def test_seeds_that_only_one_has_do_not_count() -> None:
    difference = paired_difference({0: 0.5, 1: 0.9, 7: 100.0}, {0: 0.4, 1: 0.5, 8: -100.0})
    assert difference.mean == pytest.approx(0.25) and difference.n == 2
    assert paired_difference({0: 1.0}, {1: 1.0}).n == 0


def test_pairing_takes_out_what_the_seeds_share() -> None:
    hard = {seed: 0.1 * seed for seed in range(5)}
    easier = {seed: value + 0.05 for seed, value in hard.items()}
    paired = paired_difference(easier, hard)
    assert paired.low == pytest.approx(0.05) == pytest.approx(paired.high)
    assert mean_interval(list(easier.values())).low < mean_interval(list(hard.values())).high


def test_swapping_turns_the_sign() -> None:
    a, b = {0: 0.5, 1: 0.9, 2: 0.7}, {0: 0.3, 1: 0.5, 2: 0.8}
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))


# Means of the middle.


def test_the_interquartile_mean_is_of_the_middle_half() -> None:
    assert interquartile_mean([9.0, 1.0, 2.0, 3.0]) == pytest.approx(2.5)
    assert interquartile_mean([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 100.0]) == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4)


def test_the_interquartile_mean_of_few_or_none() -> None:
    assert interquartile_mean([1.0, 2.0, 6.0]) == pytest.approx(3.0), "of three, none is cut"
    assert interquartile_mean([NAN, 2.0]) == 2.0
    assert math.isnan(interquartile_mean([])) and math.isnan(interquartile_mean([NAN]))


# Power laws.


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.0])
def test_an_exact_power_law_is_found(exponent: float) -> None:
    x = [8, 16, 32, 64]
    fit = power_law(x, [3.0 * one**exponent for one in x])
    assert fit.exponent == pytest.approx(exponent, abs=1e-12) and fit.factor == pytest.approx(3.0)
    assert fit.r2 == pytest.approx(1.0) and fit.n == 4
    assert math.isnan(fit.error) if exponent == 0 else fit.error == pytest.approx(0, abs=1e-7)


def test_a_fit_is_that_of_least_squares_in_logarithms() -> None:
    x, y = np.array([1.0, 2.0, 4.0, 16.0]), np.array([2.0, 3.0, 9.0, 20.0])
    (slope, offset), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    fit = power_law(x, y)
    assert fit.exponent == pytest.approx(slope) and fit.factor == pytest.approx(math.exp(offset))
    assert fit.error == pytest.approx(math.sqrt(covariance[0, 0]))
    assert fit.r2 == pytest.approx(np.corrcoef(np.log(x), np.log(y))[0, 1] ** 2)


def test_points_that_have_no_logarithm_are_left_out() -> None:
    fit = power_law([0, 1, 2, 4, 8, math.inf], [5.0, 1.0, 2.0, NAN, 8.0, 9.0])
    assert fit.n == 3 and fit.exponent == pytest.approx(1.0)


@pytest.mark.parametrize(("x", "y"), [([], []), ([3], [1.0]), ([3, 3], [1.0, 2.0]), ([1, 2], [-1.0, 0.0])])
def test_too_few_points_have_no_exponent(x: list[float], y: list[float]) -> None:
    fit = power_law(x, y)
    assert math.isnan(fit.exponent) and math.isnan(fit.factor)


def test_two_points_have_an_exponent_without_error() -> None:
    fit = power_law([1, 10], [1.0, 100.0])
    assert fit.exponent == pytest.approx(2.0) and math.isnan(fit.error)
