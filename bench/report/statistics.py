"""Statistics of the report: seeds are the unit, intervals are bootstrapped, nothing is a maximum over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, linregress, trim_mean

SEEDS_FOR_AN_INTERVAL = 3
"""Of fewer, resamples are too few to say anything; the points themselves are shown."""
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


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean of one number per seed. NaN throughout when there is none."""
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    if len(kept) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low = high = float("nan")
    if len(kept) >= SEEDS_FOR_AN_INTERVAL:
        interval = bootstrap((kept,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=0)
        low, high = map(float, interval.confidence_interval)
    return Interval(float(kept.mean()), low, high, len(kept))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """Mean of a - b over the seeds that both have, with the interval of the paired differences."""
    return mean_interval([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])


def difference_of_means(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of a less mean of b, for numbers that do not go in pairs; `n` is the smaller side's.

    Each side is resampled on its own. NaN as the interval where either has fewer than three numbers.
    """
    if not len(a) or not len(b):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    fewer, mean, low, high = min(len(a), len(b)), float(np.mean(a) - np.mean(b)), float("nan"), float("nan")
    if fewer >= SEEDS_FOR_AN_INTERVAL:
        sides = (np.asarray(a, dtype=float), np.asarray(b, dtype=float))
        interval = bootstrap(sides, _apart, n_resamples=RESAMPLES, method="percentile", random_state=0)
        low, high = map(float, interval.confidence_interval)
    return Interval(mean, low, high, fewer)


def _apart(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(a.mean(axis) - b.mean(axis))


def interquartile_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half (Agarwal et al., arXiv 2108.13264): steadier than the mean over unlike tasks."""
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    return float(trim_mean(kept, 0.25)) if len(kept) else float("nan")


def power_law(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> PowerLaw:
    """Fit through the points with positive x and y; NaN when fewer than two different x are left."""
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
