"""Backpropagation through time: the RNN unrolled over the sequence, gradients through every step.

Source: Werbos, *Backpropagation through time: what it does and how to do it*, Proc. IEEE 78(10), 1990.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from bench.methods.base import RecurrentMethod, cross_entropy, scored_slice
from bench.registry import register_method
from bench.tasks.base import Batch


@register_method("bptt")
class BPTT(RecurrentMethod):
    """Memory starts at zero; the loss is the cross-entropy at the scored positions."""

    gradient_is = {"train": "exact"}

    def gradients(self, batch: Batch, phase: str) -> Iterator[dict[str, Tensor]]:
        x, y, _ = batch
        columns = scored_slice(self.task, x.shape[1])
        memories = self.rnn.unroll(self.rnn.initial_state(len(x)), x)  # (B, T, K, d)
        loss = cross_entropy(self.rnn.read(memories[:, columns]), y[:, columns])
        loss.backward()
        yield {"loss": loss.detach()}
