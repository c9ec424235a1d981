"""state-noise: backpropagation through time with noise on the state.

    s_t = f(s_{t-1} + sigma n_t, x_t),    n_t ~ N(0, 1),    loss = mean over scored t of -log p(y_t | s_t)

What a network tells apart by small differences of its state is lost in the noise: it has to keep far apart what it must
remember, and so a memory may last for more steps than it was trained on. It is scored without noise. Source: Jim, Giles
& Horne, *An analysis of noise in recurrent neural networks: convergence and generalization*, IEEE Transactions on
Neural Networks 7(6), 1996.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from bench.methods import Carry, MethodConfig, RecurrentMethod, cross_entropy, register_method
from bench.models import map_tree
from bench.tasks import Batch


class StateNoiseConfig(MethodConfig):
    """Fields of state-noise."""

    sigma: float = Field(0.1, ge=0, description="standard deviation of the noise on every number of the state")


@register_method("state-noise")
class StateNoise(RecurrentMethod):
    """BPTT with noise on the state before every step."""

    Config = StateNoiseConfig
    config: StateNoiseConfig
    gradient_is = {"train": "own"}

    def draw(self, shape: tuple[int, int], phase: str) -> Any:
        lanes, columns = shape

        def noise(part: Tensor) -> Tensor:
            shape = (columns, *part.shape)
            return torch.randn(shape, generator=self.noise, dtype=part.dtype, device=part.device)

        return map_tree(noise, self.rnn.initial_state(lanes))

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        state, features = self.rnn.initial_state(len(batch.x)), []
        for t, u in enumerate(self.rnn.embedding(batch.x).unbind(1)):
            state = map_tree(lambda part, noise, t=t: part + self.config.sigma * noise[t], state, drawn)
            state = self.rnn.step(state, u)
            features.append(self.rnn.updater.features(state, u))
        logits = self.rnn.read(torch.stack(features, 1))  # (B, T, O)
        return {"loss": cross_entropy(logits, batch.y)}, carry
