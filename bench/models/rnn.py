"""The RNN: an embedding, a backbone that takes in one input at a time, and a readout g of the backbone's features.

s_t = f(s_{t-1}, x_t),    p(y_t | x_<=t) = softmax(g(features(s_t, x_t)))
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from bench import registry
from bench.config import ModelConfig
from bench.errors import BadInput
from bench.models.backbone import Backbone, State
from bench.models.layers import FixedEmbedding, Readout, embedding

MOST_ROWS = 16_384
"""The largest number of rows read at a time: CUDA's attention kernels refuse batches of 65,536 rows or more."""


class RNN(nn.Module):
    """The recurrent predictor that every recurrent method trains.

    A transformer readout sees the features as K tokens where the backbone's state is a grid of tokens, else as one
    token, by a linear map; a linear readout sees the features themselves.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, output_size: int) -> None:
        super().__init__()
        self.config = config
        self.output_size = output_size
        self.embedding = (embedding if config.embedding == "learned" else FixedEmbedding)(vocab_size, config.d)
        self.updater: Backbone = registry.backbones.get(config.backbone)(config)
        self.tokens: nn.Module | None = None
        if config.readout == "linear":
            self.readout: nn.Module = nn.Linear(self.updater.width, output_size)
            return
        self.readout = Readout(config, config.decoder_layers, output_size)
        if grid := self.updater.memory(config):
            self.tokens = nn.Unflatten(-1, grid)
        else:
            self.tokens = nn.Sequential(nn.Linear(self.updater.width, config.d), nn.Unflatten(-1, (1, config.d)))

    def initial_state(self, lanes: int) -> State:
        """The state before any input."""
        return self.updater.initial(lanes)

    def step(self, state: State, token: Tensor) -> State:
        """The next state f(state, token) after an embedded input token (B, d)."""
        return self.updater.step(state, token)

    def update(self, state: State, x_t: Tensor) -> State:
        """The next state f(state, x_t) after inputs x_t (B,) int64."""
        return self.step(state, self.embedding(x_t))

    def scan(self, state: State, x: Tensor, start: Tensor | None = None) -> tuple[Tensor, State]:
        """The features (B, T, F) and the last state after x (B, T). Lanes restart where `start` (B, T) is true."""
        return self.updater.scan(state, self.embedding(x), start)

    def unroll(self, *_: Any) -> NoReturn:
        """Raise `BadInput`, which says what replaced this loop of versions before 0.2."""
        raise BadInput(
            "rnn.unroll: since 0.2 it is rnn.scan(state, x, start) -> features, state; see docs/add-a-method.md"
        )

    def read(self, features: Tensor) -> Tensor:
        """The readout g: features (..., F) -> logits (..., O)."""
        if features.shape[-1] != self.updater.width:
            raise BadInput(
                f"rnn.read: {tuple(features.shape)} given; since 0.2 it should be features (..., {self.updater.width}) "
                "as rnn.scan gives them; see docs/add-a-method.md"
            )
        rows = features.flatten(0, -2)
        if not len(rows):  # fused attention refuses an empty batch
            return features.new_empty(*features.shape[:-1], self.output_size)
        if self.tokens is None:
            logits = self.readout(rows)
        else:
            logits = torch.cat([self.readout(self.tokens(piece))[:, -1] for piece in rows.split(MOST_ROWS)])
        return logits.unflatten(0, features.shape[:-1])
