"""The causal Transformer baseline: predicts a whole sequence in parallel, or token by token with a key/value cache."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.layers import Cache, Readout, embedding


class Past(NamedTuple):
    """The state of a streaming Transformer, which grows with the past."""

    caches: list[Cache]
    """One (keys, values) per block."""
    first: Tensor | None = None
    """The first position (B,) that each lane attends to; None: all lanes attend to everything."""


class CausalTransformer(nn.Module):
    """A decoder-only Transformer of the RNN's size: by default as many blocks as updater and readout together."""

    def __init__(self, config: ModelConfig, vocab_size: int, output_size: int) -> None:
        super().__init__()
        self.config = config
        depth = config.transformer_layers or config.updater_layers + config.decoder_layers
        self.embedding = embedding(vocab_size, config.d)
        self.body = Readout(config, depth, output_size)

    def forward(self, x: Tensor, columns: slice) -> Tensor:
        """x (B, T) -> logits (B, n, O) at the requested columns."""
        return self.body(self.embedding(x), columns)

    def initial_state(self, lanes: int) -> Past:
        """The state before any input."""
        heads, width = self.config.heads, self.config.attention_width // self.config.heads
        empty = self.embedding.weight.new_empty(lanes, heads, 0, width)
        return Past([(empty, empty) for _ in self.body.blocks])

    def step(self, past: Past, x_t: Tensor, start: Tensor | None = None) -> tuple[Tensor, Past]:
        """The last block's output (B, d) and the state after x_t (B,). Lanes restart where `start` (B,) is true."""
        seen = past.caches[0][0].shape[2]
        first, mask = past.first, None
        if start is not None:
            first = torch.where(start, seen, torch.zeros_like(x_t) if first is None else first)
        if first is not None:
            mask = torch.arange(seen + 1, device=x_t.device) >= first[:, None, None, None]  # (B, 1, 1, n)
        hidden = self.embedding(x_t)[:, None]
        grown = []
        for block, cache in zip(self.body.blocks, past.caches, strict=True):
            hidden, longer = block(hidden, mask, cache=cache)
            grown.append(longer)
        return hidden[:, 0], Past(grown, first)

    def read(self, hidden: Tensor) -> Tensor:
        """The last block's output (..., d) -> logits (..., O)."""
        return self.body.head(self.body.norm(hidden))
