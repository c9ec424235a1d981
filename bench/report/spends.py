"""Loss against what was spent: between evaluations a curve is straight in the logarithm of the spend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def on_common_spends(seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Spends (n), and the losses (seeds, n) after them, of curves (spends, losses) whose evaluations may differ.

    The spends are those of all the evaluations, from where every curve has begun; after its end a curve keeps its last
    loss. Empty where a spend is not known.
    """
    if not all((np.isfinite(x) & (x > 0)).all() for x, _ in seeds):
        return np.empty(0), np.empty((len(seeds), 0))
    common = np.unique(np.concatenate([x for x, _ in seeds]))
    common = common[common >= max(x[0] for x, _ in seeds)]
    return common, np.stack([np.interp(np.log(common), np.log(x), loss) for x, loss in seeds])


def loss_at(x: np.ndarray, loss: np.ndarray, spend: float) -> float:
    """The loss (n) after a spend; x (n) increases.

    Before the first evaluation it is that one's, in favour of the method.
    """
    return float(np.interp(math.log(spend), np.log(x), loss)) if len(x) else math.nan


def spend_to(x: np.ndarray, loss: np.ndarray, target: float) -> float:
    """The first spend at which the loss is at most the target; NaN where it never is."""
    reached = np.flatnonzero(loss <= target)
    if not len(reached):
        return math.nan
    at = int(reached[0])
    if at == 0:
        return float(x[0])
    share = (loss[at - 1] - target) / (loss[at - 1] - loss[at])
    return float(x[at - 1] * (x[at] / x[at - 1]) ** share)
