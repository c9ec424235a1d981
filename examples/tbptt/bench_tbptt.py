"""tbptt: backpropagation through time, truncated at the edge of every window.

    window 3:   x0 x1 x2 | x3 x4 x5 | x6 ..      a step of the optimiser at every |

The memory goes on from window to window, and from one piece of a stream to the next, but no gradient crosses an edge:
what must be remembered for longer than a window is learned only by luck. In return a step costs `window` updates
however long the stream is. Source: Williams & Peng, *An efficient gradient-based algorithm for on-line training of
recurrent network trajectories*, Neural Computation 2(4), 1990.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from bench.methods import MethodConfig, RecurrentMethod, cross_entropy, register_method
from bench.tasks import Batch


class TBPTTConfig(MethodConfig):
    """Fields of tbptt."""

    window: int = Field(8, gt=0, description="steps that a gradient goes back, and inputs per step of the optimiser")


@register_method("tbptt")
class TBPTT(RecurrentMethod):
    """Gradients stop at the edge of every window; the memory does not."""

    Config = TBPTTConfig
    config: TBPTTConfig
    data = "streams"
    carry: Tensor | None = None  # the memory at the end of the last piece (B, K, d)

    def gradients(self, batch: Batch, phase: str) -> Iterator[dict[str, Tensor]]:
        window, scored = self.config.window, self.task.scored_columns(batch.x.shape[1])
        memory = self.rnn.initial_state(len(batch.x))
        if self.carry is not None:
            memory = torch.where(batch.start[:, None, None], memory, self.carry)
        for first in range(0, batch.x.shape[1], window):
            columns = slice(first, first + window)
            memories = self.rnn.unroll(memory, batch.x[:, columns])  # (B, window, K, d)
            memory = memories[:, -1].detach()
            if any(t in scored for t in range(*columns.indices(batch.x.shape[1]))):
                loss = cross_entropy(self.rnn.read(memories), batch.y[:, columns])
                loss.backward()
                yield {"loss": loss.detach()}
        self.carry = memory
