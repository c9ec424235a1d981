"""Curves of several seeds: x (n), increasing, and values there (n), or (seeds, n) where all have the same x."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Curve = tuple[np.ndarray, np.ndarray]


def on_common_x(seeds: Sequence[Curve]) -> Curve:
    """All x from where every curve has begun until the first ends; between its points a curve is straight."""
    begin, end = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
    common = np.unique(np.concatenate([x for x, _ in seeds]))
    common = common[(common >= min(begin, end)) & (common <= end)]
    return common, np.stack([np.interp(common, *seed) for seed in seeds])


def on_common_spends(seeds: Sequence[Curve]) -> Curve:
    """The same in the logarithm of spends; after its end a curve keeps its last value. Empty where one is not known."""
    if not all((np.isfinite(x) & (x > 0)).all() for x, _ in seeds):
        return np.empty(0), np.empty((len(seeds), 0))
    common = np.unique(np.concatenate([x for x, _ in seeds]))
    common = common[common >= max(x[0] for x, _ in seeds)]
    return common, np.stack([np.interp(np.log(common), np.log(x), loss) for x, loss in seeds])


def loss_at(x: np.ndarray, loss: np.ndarray, spend: float) -> float:
    """The loss after a spend, straight in its logarithm; before the first evaluation it is that one's."""
    return float(np.interp(math.log(spend), np.log(x), loss)) if len(x) else math.nan


def first_at(x: np.ndarray, values: np.ndarray, level: float, never: float = math.nan) -> float:
    """The first x with a value that is at most the level."""
    return next(iter(x[values <= level].tolist()), never)


def spend_to(x: np.ndarray, loss: np.ndarray, target: float) -> float:
    """As `first_at`, between evaluations, straight in the logarithm of the spend."""
    reached = np.flatnonzero(loss <= target)
    if not len(reached):
        return math.nan
    at = int(reached[0])
    if at == 0:
        return float(x[0])
    share = (loss[at - 1] - target) / (loss[at - 1] - loss[at])
    return float(x[at - 1] * (x[at] / x[at - 1]) ** share)
