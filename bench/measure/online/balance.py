"""Influence balancing: a loss whose gradient changes its sign with the number of columns that credit goes back.

From Tallec & Ollivier, arXiv 1702.05043. A linear network of 23 units has one parameter, theta, which the first ten
units see with the sign +, the others with -:

    h' = A h + theta s,    A = 1/2 on the diagonal and above it,    loss (h'_0 - 1)^2 / 2

The influence of theta on h'_0 is positive at first, and -6 in the limit: a gradient through fewer than 41 columns leads
away from the optimum, -1/6. Every method takes plain steps of SGD, one per column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.measure.online.estimators import ByHand
from bench.models.local import Local, Site

NUMBERS, POSITIVE = 23, 10
START, BEST = 0.5, -1 / 6
A = (torch.eye(NUMBERS) + torch.diag(torch.ones(NUMBERS - 1), 1)).double() / 2
S = torch.where(torch.arange(NUMBERS) < POSITIVE, 1.0, -1.0).double()
METHODS = ("rtrl", "kf-rtrl", "nobacktrack", "uoro")
WINDOWS = (1, 10, 100)
"""The numbers of columns that truncated BPTT goes back."""
SEEDS = 3
"""The number of seeds for a method with noise."""
STEPS, RATE = 100_000, 3e-4
"""Steps, and the initial rate, which falls with the square root of the steps."""
POINTS = 60
FAR = 1e6
"""A theta beyond this has diverged, and is not updated any more."""

Gradient = Callable[[Tensor, Tensor], Tensor]
"""The gradient by theta, (1,), of a loss whose derivative by h_0 is (1,), after the step to h (1, N)."""


def forward(name: str, seed: int = 0, lanes: int = 1) -> Gradient:
    """The gradient of a method that carries credit forward, averaged over lanes that differ only in their noise."""
    estimator, by_state = ByHand(name, NUMBERS, [(1, 1)], lanes, seed), torch.zeros(lanes, NUMBERS).double()
    site = Site(("theta",), torch.ones(lanes, 1).double(), S[None, :, None].expand(lanes, -1, -1))

    def gradient(h: Tensor, d: Tensor) -> Tensor:
        by_state[:, 0] = d
        return estimator.credit(Local(h.expand(lanes, -1), (site,), lambda x: A @ x), by_state).mean(0)

    return gradient


def truncated(back: int) -> Gradient:
    """The gradient of BPTT through the last columns; as the network is linear, its influence is a constant."""
    reach = sum((torch.linalg.matrix_power(A, k) @ S)[0].item() for k in range(back))
    return lambda h, d: d * reach


def descended(gradient: Gradient, steps: int = STEPS, rate: float = RATE) -> dict[str, list[float]]:
    """Descend along a gradient; theta is recorded as {steps, theta}, evenly spaced in the logarithm of the step."""
    at = {round(steps ** (point / POINTS)) for point in range(POINTS + 1)} | {steps}
    h, theta = torch.ones(1, NUMBERS).double(), torch.tensor([START]).double()
    found: dict[str, list[float]] = {"steps": [0], "theta": [START]}
    for t in range(steps):
        h = h @ A.T + theta * S
        if theta.abs() < FAR:
            theta = theta - rate / math.sqrt(1 + t) * gradient(h, h[:, 0] - 1)
        if t + 1 in at:
            found["steps"].append(t + 1)
            found["theta"].append(theta.item())
    return found


def measure(
    steps: int = STEPS, methods: Sequence[str] = METHODS, windows: Sequence[int] = WINDOWS, rate: float = RATE
) -> list[dict[str, Any]]:
    """A record {method, setting, seed, steps, theta} for each method, and for each seed where it has noise."""
    ways = [("tbptt", f"k {back}", 0, truncated(back)) for back in windows]
    ways += [
        (name, "", seed, forward(name, seed)) for name in methods for seed in range(1 if name == "rtrl" else SEEDS)
    ]
    return [
        {"method": name, "setting": setting, "seed": seed, **descended(gradient, steps, rate)}
        for name, setting, seed, gradient in ways
    ]
