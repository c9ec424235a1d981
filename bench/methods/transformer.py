"""The causal Transformer baseline, trained on the same targets, which attends to the whole past."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.config import ModelConfig
from bench.methods.base import EVERY, Carry, Method, MethodConfig
from bench.models.transformer import CausalTransformer, Past
from bench.registry import register_method
from bench.tasks.base import Batch, Task


@register_method("transformer")
class Transformer(Method):
    """Predicts in parallel over time; its streaming state is the key/value cache, which grows with the past."""

    recurrences = ()
    gradient_is = {"train": "exact"}
    growing_state = True

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__(config, task, model, noise)
        self.network = CausalTransformer(model, task.vocab_size, task.output_size)

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        return {"loss": self.scored_loss(batch)}, carry

    def initial_state(self, lanes: int) -> Past:
        return self.network.initial_state(lanes)

    def advance(
        self, state: Past, x: Tensor, columns: slice = EVERY, start: Tensor | None = None
    ) -> tuple[Tensor, Past]:
        hidden = []
        for t, x_t in enumerate(x.unbind(1)):
            output, state = self.network.step(state, x_t, None if start is None else start[:, t])
            hidden.append(output)
        return self.network.read(torch.stack(hidden, 1)[:, columns]), state

    def predict(self, x: Tensor, columns: slice = EVERY) -> Tensor:
        return self.network(x, columns)
