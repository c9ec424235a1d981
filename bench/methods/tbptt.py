"""Truncated BPTT(k1, k2): a step every k1 columns, on their loss, with gradients back through k2 columns.

Source: Williams & Peng, *An efficient gradient-based algorithm for on-line training of recurrent network trajectories*,
Neural Computation 2(4), 1990. With k1 = 2, k2 = 4, at columns 4 and 5:

    carried: the state before column 2, under earlier weights;  run again: columns 2 3 4 5;  loss: columns 4 5
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bench.config import Positive
from bench.methods.base import Carry, MethodConfig, RecurrentMethod
from bench.registry import register_method
from bench.tasks.base import Batch


class TBPTTConfig(MethodConfig):
    """k1 = k2, the default, cuts the stream into windows and computes nothing twice."""

    k1: Positive = Field(8, description="columns between two optimiser steps, whose loss a step uses")
    k2: Positive = Field(8, description="columns that a gradient goes back through, k1 or more")

    @model_validator(mode="after")
    def _reaches_back(self) -> TBPTTConfig:
        if self.k2 < self.k1:
            raise ValueError(f"k2 ({self.k2}) should be k1 ({self.k1}) or more")
        return self


@register_method("tbptt")
class TBPTT(RecurrentMethod):
    """The state is carried along the stream; only the gradient is cut."""

    Config = TBPTTConfig
    config: TBPTTConfig
    data = "streams"

    @property
    def piece(self) -> int:
        return self.config.k1

    def begin(self, lanes: int) -> Carry:
        earlier = self.config.k2 - self.config.k1
        nothing = torch.zeros(lanes, earlier, dtype=torch.long, device=self.noise.device)
        return Carry((self.rnn.initial_state(lanes), nothing, nothing.bool()))

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        state, x, start = carry.lanes  # the state before the earlier columns, which are run again
        assert batch.start is not None
        x, start = torch.cat([x, batch.x], 1), torch.cat([start, batch.start], 1)
        new = batch.x.shape[1]
        features, after = self.rnn.scan(state, x[:, :new], start[:, :new])
        if x.shape[1] > new:
            more, _ = self.rnn.scan(after, x[:, new:], start[:, new:])
            features = torch.cat([features, more], 1)
        loss = self.mean_loss(self.rnn.read(features[:, -new:]), batch.y)
        return {"loss": loss}, Carry((after, x[:, new:], start[:, new:]))
