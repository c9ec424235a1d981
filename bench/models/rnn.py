"""The RNN: a memory of K normalised tokens, an updater f that takes in one input, a readout g.

m_t = f(m_{t-1}, x_t),    p(y_t | x_<=t) = softmax(g(m_t))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import registry
from bench.config import ModelConfig
from bench.models.layers import Readout, embedding, rms_normalise

MOST_ROWS = 16_384
"""Memories read at a time: CUDA's attention kernels refuse batches of 65,536 rows and more."""


class RNN(nn.Module):
    """The recurrent predictor that every recurrent method trains. Memory: (B, K, d)."""

    start: Tensor

    def __init__(self, config: ModelConfig, vocab_size: int, output_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = embedding(vocab_size, config.d)
        self.updater = registry.backbones.get(config.backbone)(config)
        self.readout = Readout(config, config.decoder_layers, output_size)
        self.register_buffer("start", torch.zeros(config.memory_tokens, config.d))

    def initial_state(self, batch_size: int) -> Tensor:
        """The memory before any input, (B, K, d): `start`, which is zero until a method sets it."""
        return self.start.expand(batch_size, -1, -1)

    def step(self, memory: Tensor, token: Tensor) -> Tensor:
        """f on an embedded input: memory (B, K, d), token (B, d) -> the next memory, its tokens normalised."""
        return rms_normalise(self.updater(memory, token))

    def update(self, memory: Tensor, x_t: Tensor) -> Tensor:
        """f: memory (B, K, d), x_t (B,) int64 -> the next memory."""
        return self.step(memory, self.embedding(x_t))

    def unroll(self, memory: Tensor, x: Tensor) -> Tensor:
        """Memories after each of the inputs x (B, T): (B, T, K, d)."""
        memories = []
        for token in self.embedding(x).unbind(1):
            memory = self.step(memory, token)
            memories.append(memory)
        return torch.stack(memories, 1)

    def read(self, memory: Tensor) -> Tensor:
        """g: memory (..., K, d) -> logits (..., O)."""
        pieces = memory.flatten(0, -3).split(MOST_ROWS)
        logits = torch.cat([self.readout(piece)[:, -1] for piece in pieces])
        return logits.unflatten(0, memory.shape[:-2])
