"""Updaters: backbones whose state is a grid of K normalised memory tokens, as SMT's teacher writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.backbone import Backbone, definer
from bench.models.layers import rms_normalise


class Updater(Backbone):
    """Maps memory (B, K, d) and token (B, d) to the next memory (B, K, d), in `forward`; `step` normalises its tokens.

    A subclass defines `forward`, or else `transition`, from which `forward` follows.
    """

    start: Tensor
    """The memory before any input, (K, d): zero until a method sets it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.width = config.memory_tokens * config.d
        self.register_buffer("start", torch.zeros(config.memory_tokens, config.d))

    @classmethod
    def memory(cls, config: ModelConfig) -> tuple[int, int]:
        return config.memory_tokens, config.d

    def initial(self, lanes: int) -> Tensor:
        return self.start.repeat(lanes, 1, 1)

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        return rms_normalise(self(state, u))

    def forward(self, memory: Tensor, token: Tensor) -> Tensor:
        forward, inputs = self.transition(token[:, None])
        return forward(memory, inputs[:, 0])

    def transition(self, u: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        """`forward` and its inputs (B, T, ...), where work on u (B, T, d) that needs no memory is done at once."""
        raise NotImplementedError

    def prepare(self, u: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        if "transition" not in vars(definer(type(self), "step", "forward", "transition")):  # a subclass's own step
            return self.step, u
        forward, inputs = self.transition(u)
        return (lambda state, input_t: rms_normalise(forward(state, input_t))), inputs

    def features(self, state: Tensor, u: Tensor) -> Tensor:
        return state.flatten(1)


def keep_gate_bias(config: ModelConfig, units: int) -> Tensor | None:
    """Initial biases of the gate that keeps the state, by `model.chrono` (Tallec & Ollivier, arXiv 1804.11188)."""
    if config.chrono is None:
        return None
    return torch.empty(units).uniform_(1, config.chrono - 1).log()


def pairs(modules: nn.ModuleList) -> list[tuple[Any, Any]]:
    """The pairs in a list of pairs of modules, which the type checker takes for single modules."""
    return [tuple(pair) for pair in modules]  # type: ignore[arg-type, misc]
