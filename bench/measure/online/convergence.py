"""Convergence of online learning: an experiment on the theorem of Lam, Sirignano & Spiliopoulos, arXiv 2501.08040.

It states that for contracting networks, on ergodic data and with decreasing rates, RTRL reaches a stationary point of
the loss. Here the data are a cycle of 97 inputs, so that a mean over a period is the true loss, without noise:

    target   two averages of the inputs, EMA(0.3) - 2 EMA(0.8), of which the second needs credit from far back
    student  h' = tanh(W h + w x + b), 2 units, W = 0.95 V / sqrt(1 + |V|^2), which contracts for every V
    loss     (r . h' + c - target)^2 / 2;    SGD at every step, with the rate 0.1 / (1 + t / 30,000)

The influence of W is carried, and converted to that of V by the current derivative of W.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.measure.online.estimators import ByHand
from bench.models.local import Local, Site, with_one

PERIOD, UNITS, SEEDS = 97, 2, 8
FAST, SLOW = 0.3, 0.8
CONTRACTION, RATE, HALVES = 0.95, 0.1, 30_000
PERIODS = (10, 30, 100, 300, 1000)
"""The periods after which the loss is measured, always at the same phase of the cycle."""
METHODS = ("rtrl", "kf-rtrl", "nobacktrack", "uoro", "tbptt")
"""tbptt has windows of one step, so that credit reaches parameters only through the current step."""


class Student(NamedTuple):
    """The parameters of several students, one per lane."""

    v: Tensor  # (B, n, n)
    rest: Tensor  # (B, n, 2): w and b
    readout: Tensor  # (B, n + 1): r and c

    def matrix(self) -> Tensor:
        """W (B, n, n)."""
        return CONTRACTION * self.v / self._scale()

    def by_v(self, by_w: Tensor) -> Tensor:
        """A gradient by W (B, n, n) as one by V."""
        scale = self._scale()
        along = (by_w * self.v).sum((1, 2), keepdim=True)
        return CONTRACTION * (by_w / scale - self.v * along / scale**3)

    def _scale(self) -> Tensor:
        return (1 + self.v.square().sum((1, 2), keepdim=True)).sqrt()


def data() -> tuple[Tensor, Tensor]:
    """Inputs and targets of a period, (97,) each: averages over an infinite past of the cycle."""
    x = torch.randn(PERIOD, generator=torch.Generator().manual_seed(0)).double()
    targets = torch.zeros_like(x)
    for keep, factor in ((FAST, 1.0), (SLOW, -2.0)):
        average = torch.zeros(()).double()
        for t in range(20 * PERIOD):
            average = keep * average + (1 - keep) * x[t % PERIOD]
            if t >= 19 * PERIOD:
                targets[t % PERIOD] += factor * average
    return x, targets


def begun(lanes: int) -> Student:
    """The initial students, one per seed."""
    draws = [torch.randn(UNITS * (UNITS + 3) + 1, generator=torch.Generator().manual_seed(1 + s)) for s in range(lanes)]
    v, rest, readout = torch.stack(draws).double().split([UNITS * UNITS, 2 * UNITS, UNITS + 1], 1)
    return Student(v.unflatten(1, (UNITS, UNITS)), 0.5 * rest.unflatten(1, (UNITS, 2)), 0.5 * readout)


def measure(periods: Sequence[int] = PERIODS, methods: Sequence[str] = METHODS, seeds: int = SEEDS) -> dict[str, Any]:
    """{target: its variance / 2, methods: [{method, seeds, steps, loss: for each of the steps a list over seeds}]}.

    A loss is the mean over a period, measured during the steps.
    """
    x, targets = data()
    found = [{"method": name, "seeds": seeds, **_learned(name, x, targets, periods, seeds)} for name in methods]
    return {"target": (targets.var(correction=0) / 2).item(), "methods": found}


@torch.no_grad()
def _learned(name: str, x: Tensor, targets: Tensor, periods: Sequence[int], lanes: int) -> dict[str, Any]:
    estimator = None if name == "tbptt" else ByHand(name, UNITS, [(UNITS, UNITS + 2)], lanes)
    student, h, t = begun(lanes), torch.zeros(lanes, UNITS).double(), 0
    steps, losses = [], []
    inputs = x[:, None, None].expand(-1, lanes, 1)
    for period in range(1, max(periods) + 1):
        total = torch.zeros(lanes).double()
        for x_t, target in zip(inputs, targets):
            a, w = with_one(h, x_t), student.matrix()
            h = torch.tanh((torch.cat([w, student.rest], 2) @ a[..., None])[..., 0])
            slope, seen = 1 - h * h, with_one(h)
            wrong = (student.readout * seen).sum(1) - target
            total += wrong.square() / 2
            by_state = wrong[:, None] * student.readout[:, :-1]
            if estimator is None:
                gradient = (by_state * slope)[..., None] * a[:, None]
            else:
                local = Local(h, (Site((), a, slope[:, None, None]),), partial(_pushed, slope, w))
                gradient = estimator.credit(local, by_state).unflatten(1, (UNITS, UNITS + 2))
            rate = RATE / (1 + t / HALVES)
            student = Student(
                student.v - rate * student.by_v(gradient[..., :UNITS]),
                student.rest - rate * gradient[..., UNITS:],
                student.readout - rate * wrong[:, None] * seen,
            )
            t += 1
        if period in periods:
            steps.append(t)
            losses.append((total / PERIOD).tolist())
    return {"steps": steps, "loss": losses}


def _pushed(slope: Tensor, w: Tensor, tangents: Tensor) -> Tensor:
    """J X for X (B, n, k), with J = diag(1 - h'^2) W."""
    return slope[..., None] * (w @ tangents)
