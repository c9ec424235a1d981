"""echo-state: a fixed random reservoir; only a linear readout learns.

    s_t = (1 - leak) s_{t-1} + leak tanh(W s_{t-1} + E[x_t]),    logits = R s_t + b

W and E are drawn once and never change, so that nothing is propagated through time at all. W is scaled so that its
spectral radius is near `radius`, nearer the larger it is (the circular law): below one, what was put in fades, and with
it every trace of how the state began, which is the echo state property. The state has as many numbers as the memory of
the other methods, K d. Source: Jaeger, *The "echo state" approach to analysing and training recurrent neural networks*,
GMD Report 148, 2001.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.methods import EVERY, Carry, Method, MethodConfig, cross_entropy, register_method
from bench.tasks import Batch


class EchoStateConfig(MethodConfig):
    """Fields of echo-state."""

    radius: float = Field(0.95, gt=0, description="spectral radius of W: how slowly the past fades")
    leak: float = Field(1.0, gt=0, le=1, description="share of a state that is new at every step")
    input_scale: float = Field(0.5, gt=0, description="standard deviation of E")


@register_method("echo-state")
class EchoState(Method):
    """A random reservoir whose readout alone learns."""

    Config = EchoStateConfig
    config: EchoStateConfig
    recurrences = ()  # it brings its own recurrence
    gradient_is = {"train": "exact"}

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        units = self.model.memory_tokens * self.model.d
        self.register_buffer("recurrence", self.config.radius * torch.randn(units, units) / units**0.5)
        self.register_buffer("inputs", self.config.input_scale * torch.randn(self.task.vocab_size, units))
        self.linear = nn.Linear(units, self.task.output_size)

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        return {"loss": cross_entropy(self.predict(batch.x), batch.y)}, carry

    def initial_state(self, lanes: int) -> Tensor:
        return self.recurrence.new_zeros(lanes, len(self.recurrence))

    def advance(
        self, state: Tensor, x: Tensor, columns: slice = EVERY, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        states = []
        for t, x_t in enumerate(x.unbind(1)):
            if start is not None:
                state = state.masked_fill(start[:, t, None], 0)
            new = torch.tanh(state @ self.recurrence.T + self.inputs[x_t])
            state = state + self.config.leak * (new - state)
            states.append(state)
        return self.linear(torch.stack(states, 1)[:, columns]), state  # the readout of all asked columns at once
