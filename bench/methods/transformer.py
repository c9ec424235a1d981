"""The causal Transformer: trained on the same targets, it attends to the whole past instead of carrying a memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.config import ModelConfig
from bench.methods.base import Method, MethodConfig, cross_entropy
from bench.models.layers import Cache
from bench.models.transformer import CausalTransformer
from bench.registry import register_method
from bench.tasks.base import Batch, Task


@register_method("transformer")
class Transformer(Method):
    """Predicts in parallel; its state when streaming is the key/value cache, which grows with the past."""

    backbones = ()
    gradient_is = {"train": "exact"}
    growing_state = True

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__(config, task, model, noise)
        self.network = CausalTransformer(model, task.vocab_size, task.output_size)

    def gradients(self, batch: Batch, phase: str) -> Iterator[dict[str, Tensor]]:
        loss = cross_entropy(self.network(batch.x), batch.y)
        loss.backward()
        yield {"loss": loss.detach()}

    def initial_state(self, batch_size: int) -> tuple[list[Cache], Tensor]:
        empty = self.network.embedding.weight.new_zeros(batch_size, self.model.d)
        return self.network.initial_state(batch_size), empty

    def update(self, state: tuple[list[Cache], Tensor], x_t: Tensor) -> tuple[list[Cache], Tensor]:
        return self.network.step(state[0], x_t)

    def readout(self, state: tuple[list[Cache], Tensor]) -> Tensor:
        return self.network.read(state[1])

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x)
