"""Statistics of results: seeds are the unit, intervals are bootstrapped, and no value is a maximum over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.stats import linregress, trim_mean

SEEDS_FOR_AN_INTERVAL = 3
"""Minimum number of seeds for a bootstrap interval; with fewer, the single values are shown."""
RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean over seeds with its 95 % bootstrap interval; `low` and `high` are NaN where there are too few seeds."""

    mean: float
    low: float
    high: float
    n: int


class PowerLaw(NamedTuple):
    """y = factor * x ** exponent, fitted by least squares in logarithms; `error` is the exponent's standard error."""

    exponent: float
    factor: float
    error: float
    r2: float
    n: int


@cache
def _draws(n: int) -> np.ndarray:
    """The indices of the n seeds that each resample (RESAMPLES, n) takes; the same every time."""
    return np.random.RandomState(0).randint(0, n, (RESAMPLES, n))


def _ends(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5 and 97.5 % points of resampled means (RESAMPLES, ...)."""
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0)
    return low, high


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and ends of the 95 % bootstrap interval, each (n,), of values (seeds, n); NaN ends for too few seeds."""
    seeds, n = values.shape
    if seeds < SEEDS_FOR_AN_INTERVAL:
        return values.mean(0), np.full(n, np.nan), np.full(n, np.nan)
    return values.mean(0), *_ends(values[_draws(seeds)].mean(1))


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean and interval of one number per seed; all NaN when there are no numbers."""
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    if len(kept) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean, low, high = (float(column[0]) for column in band(kept[:, None]))
    return Interval(mean, low, high, len(kept))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """Mean of a - b over the seeds that both have, with the interval of the paired differences."""
    return mean_interval([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])


def difference_of_means(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of a minus mean of b, for numbers that are not paired; `n` is that of the smaller side.

    Each side is resampled on its own. The interval is NaN where either side has fewer than three numbers.
    """
    if not len(a) or not len(b):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    fewer, mean, low, high = min(len(a), len(b)), float(np.mean(a) - np.mean(b)), float("nan"), float("nan")
    if fewer >= SEEDS_FOR_AN_INTERVAL:
        draws = np.random.RandomState(0)
        sides = (np.asarray(side, dtype=float) for side in (a, b))
        means = [side[draws.randint(0, len(side), (RESAMPLES, len(side)))].mean(1) for side in sides]
        low, high = map(float, _ends(means[0] - means[1]))
    return Interval(mean, low, high, fewer)


def exponential(logs: Interval) -> Interval:
    """The exponential of an interval of natural logarithms, whose mean becomes a geometric mean."""
    mean, low, high = (float(np.exp(value)) for value in logs[:3])
    return Interval(mean, low, high, logs.n)


def interquartile_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half (Agarwal et al., arXiv 2108.13264), more robust than the mean over unlike tasks."""
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    return float(trim_mean(kept, 0.25)) if len(kept) else float("nan")


def power_law(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> PowerLaw:
    """Fit a power law through the points with positive x and y; all NaN when fewer than two different x are left."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    usable = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)
    x, y = np.log(x[usable]), np.log(y[usable])
    if len(np.unique(x)) < 2:
        nan = float("nan")
        return PowerLaw(nan, nan, nan, nan, len(x))
    fit = linregress(x, y)
    r2 = 1.0 if np.ptp(y) == 0 else float(fit.rvalue**2)
    error = float(fit.stderr) if len(x) > 2 else float("nan")
    return PowerLaw(float(fit.slope), float(np.exp(fit.intercept)), error, r2, len(x))
