"""Backpropagation through time: the RNN unrolled over the sequence, gradients through every step.

Source: Werbos, *Backpropagation through time: what it does and how to do it*, Proc. IEEE 78(10), 1990.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.methods.base import Carry, RecurrentMethod
from bench.registry import register_method
from bench.tasks.base import Batch


@register_method("bptt")
class BPTT(RecurrentMethod):
    """Gradients of the loss at the scored positions, through all steps back to the initial state."""

    gradient_is = {"train": "exact"}

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        return {"loss": self.scored_loss(batch)}, carry
