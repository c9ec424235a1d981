"""The causal Transformer baseline: predicts a whole sequence in parallel, or token by token with a key/value cache."""

from __future__ import annotations

from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.layers import Cache, Readout, embedding


class CausalTransformer(nn.Module):
    """Decoder-only, of the RNN's size: by default as many blocks as its updater and readout have together."""

    def __init__(self, config: ModelConfig, vocab_size: int, output_size: int) -> None:
        super().__init__()
        self.config = config
        depth = config.transformer_layers or config.updater_layers + config.decoder_layers
        self.embedding = embedding(vocab_size, config.d)
        self.body = Readout(config, depth, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T) -> logits (B, T, O)."""
        return self.body(self.embedding(x), first=0)

    def initial_state(self, batch_size: int) -> list[Cache]:
        """An empty cache, one (keys, values) per block."""
        heads, width = self.config.heads, self.config.attention_width // self.config.heads
        empty = self.embedding.weight.new_empty(batch_size, heads, 0, width)
        return [(empty, empty) for _ in self.body.blocks]

    def step(self, state: list[Cache], x_t: Tensor) -> tuple[list[Cache], Tensor]:
        """One input x_t (B,) -> the longer cache and the last block's output (B, d)."""
        hidden = self.embedding(x_t)[:, None]
        grown = []
        for block, cache in zip(self.body.blocks, state, strict=True):
            hidden, longer = block(hidden, cache=cache)
            grown.append(longer)
        return grown, hidden[:, 0]

    def read(self, hidden: Tensor) -> Tensor:
        """The last block's output (B, d) -> logits (B, O)."""
        return self.body.head(self.body.norm(hidden))
