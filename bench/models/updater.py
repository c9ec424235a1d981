"""Updaters: backbones whose state is a grid of K normalised memory tokens, which SMT's teacher can write too.

The sizes of all backbones but the paper's, the transformer updater, are the house's: `model.updater_width: null` gives
them as many parameters as that has at the same config.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench import registry
from bench.config import ModelConfig
from bench.models.backbone import Backbone, definer
from bench.models.layers import rms_normalise


class Updater(Backbone):
    """Memory (B, K, d), token (B, d) -> the next memory (B, K, d), in `forward`; `step` normalises its tokens.

    A subclass defines `forward`, or else `transition`, of which `forward` is one step.
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
        """`forward` and its inputs, with what depends on no memory done for all of u (B, T, d): (B, T, ...)."""
        raise NotImplementedError

    def prepare(self, u: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        if "transition" not in vars(definer(type(self), "step", "forward", "transition")):  # a subclass's own step
            return self.step, u
        forward, inputs = self.transition(u)
        return (lambda state, input_t: rms_normalise(forward(state, input_t))), inputs

    def features(self, state: Tensor, u: Tensor) -> Tensor:
        return state.flatten(1)


class SizesOnly(TorchFunctionMode):
    """Tensors made in this context have sizes and no values; initialisers leave them as they are.

    They are on the device "meta". Drawing random numbers there would import torch's compiler, which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DRAWN or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        with torch.device("meta"):
            return func(*args, **(kwargs or {}))


DRAWN = {Tensor.normal_, Tensor.uniform_}


def count_parameters(module: nn.Module) -> int:
    """Number of trainable real numbers in a module: a complex one counts as two."""
    return sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in module.parameters())


def nearest_size(count: Callable[[int], int], target: int) -> int:
    """The n >= 1 at which `count(n)`, which grows with n, is nearest to the target; the smaller of two."""
    above = 1
    while count(above) < target:
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if count(middle) < target else (below, middle)
    return min((n for n in (below, above) if n), key=lambda n: abs(count(n) - target))


def matched_width(config: ModelConfig, build: Callable[[int], nn.Module]) -> int:
    """`model.updater_width`, or else the width at which `build(width)` has the transformer updater's parameters."""
    if config.updater_width is not None:
        return config.updater_width
    with SizesOnly():
        target = count_parameters(registry.backbones.get("transformer")(config))
        return nearest_size(lambda width: count_parameters(build(width)), target)


def keep_gate_bias(config: ModelConfig, units: int) -> Tensor | None:
    """Biases of the gate that keeps the state, by `model.chrono`: log U(1, T - 1) (Tallec & Ollivier, 1804.11188)."""
    if config.chrono is None:
        return None
    return torch.empty(units).uniform_(1, config.chrono - 1).log()


def pairs(modules: nn.ModuleList) -> list[tuple[Any, Any]]:
    """A list of pairs of modules, as pairs (for the type checker, which sees modules only)."""
    return [tuple(pair) for pair in modules]  # type: ignore[arg-type, misc]
