"""Estimators of online methods, lane by lane: the gradient of each lane instead of their sum.

So thousands of draws of a method's noise take one run, and a step written by hand (`bench.models.local`) gives its
gradient without a network around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.build import build_method, build_task
from bench.config import Run
from bench.methods.online import Online, Pairs, Part
from bench.models.local import Local

EVERYTHING = "everything"
"""The name of theta as a single vector."""


def lane_by_lane(method: Online) -> None:
    """Make the method give its gradient as one vector per lane, (B, P), under the name `EVERYTHING`."""

    def summed(pairs: Pairs) -> Tensor:
        return torch.cat([(b[..., None] * a[..., None, :]).sum(1).flatten(1) for b, a in pairs], 1)

    method.summed = summed  # type: ignore[method-assign]
    method.over_lanes = lambda each: each  # type: ignore[method-assign]
    method.named = lambda vector: {EVERYTHING: vector}  # type: ignore[method-assign]


def small(method: Mapping[str, Any], units: int = 4, seed: int = 0, **fields: Any) -> Any:
    """A method with a network of tanh units, a linear readout and three symbols, in float64.

    `fields` are further fields of the run.
    """
    model = {"backbone": "tanh", "updater_width": units, "d": 4, "heads": 1, "memory_tokens": 1, "updater_layers": 1}
    run = Run.parse(
        {
            "task": {"name": "anbn"},
            "method": dict(method),
            "model": {**model, "decoder_layers": 1, "readout": "linear", "embedding": "fixed"},
            "training": {"batch_size": 1, "budget": {"steps": 1}},
            "precision": "float64",
            "seed": seed,
            **fields,
        }
    )
    return build_method(run, build_task(run))


class ByHand:
    """A method's estimator, lane by lane, for steps that are written by hand.

    gradient = ByHand("uoro", numbers=23, parts=[(1, 1)], lanes=1).credit(local, by_state)      # (lanes, P)
    """

    AHEAD = 512
    """The number of steps whose noise is drawn at a time."""

    def __init__(self, name: str, numbers: int, parts: Sequence[tuple[int, int]], lanes: int, seed: int = 0) -> None:
        self.method, self.lanes = small({"name": name}, seed=seed), lanes
        lane_by_lane(self.method)
        self.method.parts = [Part((), *sizes) for sizes in parts]
        self.method.zeros = torch.zeros(1, numbers, dtype=torch.float64)
        self.held = self.method.sensitivities(torch.zeros(lanes, numbers, dtype=torch.float64))
        self._drawn: list[Any] = []

    @torch.no_grad()
    def credit(self, local: Local, by_state: Tensor) -> Tensor:
        """The gradients (B, P) of losses, given their derivatives by the state (B, N); carries credit on."""
        if not self._drawn:
            drawn = self.method.draw((self.lanes, self.AHEAD), "train")
            self._drawn = [*drawn.flip(0)] if isinstance(drawn, Tensor) else [()] * self.AHEAD
        self.held, found = self.method.carried(local, self.held, by_state, self._drawn.pop())
        return found[EVERYTHING]
