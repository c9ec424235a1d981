"""ARTBP: anticipated reweighted truncated backpropagation (Tallec & Ollivier, arXiv 1705.08209).

Between two columns backpropagation is cut with probability c_t. Where it is not, the gradient is divided by the
probability of that, so that its mean is the gradient of BPTT:

    delta_t = dl_t / ds_t + (0 if cut, else 1 / (1 - c_t)) J_{t+1}^T delta_{t+1}

With a `tail`, c_t = (a - 1) / ((a - 2) L + n), n columns after the last cut: lengths fall as a power law of mean L.
Without, c_t = 1 / L. It trains on whole sequences: the end of a piece of a stream would be a biased cut.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.methods.base import Carry
from bench.methods.online import Unclipped, UnclippedConfig
from bench.models.backbone import map_tree
from bench.registry import register_method
from bench.tasks.base import Batch


class ARTBPConfig(UnclippedConfig):
    """Fields of ARTBP: where backpropagation is cut."""

    mean_length: Annotated[float, Field(gt=1)] = Field(8.0, description="L, columns between two cuts on average")
    tail: Annotated[float, Field(gt=2)] | None = Field(4.0, description="a of the power law; null: c_t is constant")


@register_method("artbp")
class ARTBP(Unclipped):
    """Truncated BPTT without bias, at the price of noise."""

    Config = ARTBPConfig
    config: ARTBPConfig

    def draw(self, shape: tuple[int, int], phase: str) -> Tensor:
        """The factor on the gradient on its way from each column to the one before: (B, T), 0 at a cut."""
        lanes, columns = shape
        length, tail, device = self.config.mean_length, self.config.tail, self.noise.device
        uniform = torch.rand(columns, lanes, generator=self.noise, device=device, dtype=torch.float64)
        since, factors = torch.ones(lanes, dtype=torch.float64, device=device), []
        for drawn in uniform:
            chance = (tail - 1) / ((tail - 2) * length + since) if tail else torch.full_like(since, 1 / length)
            cut = drawn < chance
            factors.append(torch.where(cut, 0.0, 1 / (1 - chance)))
            since = torch.where(cut, 1.0, since + 1)
        return torch.stack(factors, 1).to(next(self.parameters()).real.dtype)

    def losses(self, batch: Batch, drawn: Tensor, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        state, features = self.rnn.initial_state(len(batch.x)), []
        u = self.rnn.embedding(batch.x)
        step, inputs = self.rnn.updater.prepare(u)
        for u_t, input_t, factor in zip(u.unbind(1), inputs.unbind(1), drawn.unbind(1), strict=True):
            state = step(map_tree(lambda memory, factor=factor: scaled(memory, factor), state), input_t)
            features.append(self.rnn.updater.features(state, u_t))
        return {"loss": self.mean_loss(self.rnn.read(torch.stack(features, 1)), batch.y)}, carry


def scaled(state: Tensor, factor: Tensor) -> Tensor:
    """The state (B, ..) unchanged; its gradient is multiplied by a factor (B)."""
    fixed = state.detach()
    return fixed + factor.view(-1, *[1] * (state.ndim - 1)) * (state - fixed)
