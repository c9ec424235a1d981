"""The three updaters f: what maps a memory and an input token to the next memory, before it is normalised.

`transformer` is the paper's. The others' sizes are the house's: `model.updater_width` by default gives them as many
parameters as the transformer updater of the same config has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.layers import activation, attend, rms_normalise, stack
from bench.registry import register_backbone


def count_parameters(module: nn.Module) -> int:
    """Number of trainable real numbers in a module: a complex one counts as two."""
    return sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in module.parameters())


class Updater(nn.Module):
    """memory (B, K, d), token (B, d) -> the next memory (B, K, d). Plugins subclass this and `register_backbone`."""

    name: str

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config


@register_backbone("transformer")
class TransformerUpdater(Updater):
    """Bidirectional blocks over the memory tokens and the input token; the first K outputs are the next memory."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks = stack(config, config.updater_layers)

    def forward(self, memory: Tensor, token: Tensor) -> Tensor:
        return attend(self.blocks, torch.cat([memory, token[:, None]], 1))[:, :-1]


def matched_width(config: ModelConfig, build: Callable[[int], nn.Module]) -> int:
    """The width at which `build(width)`, whose parameters grow linearly with it, is nearest the transformer updater."""
    if config.updater_width is not None:
        return config.updater_width
    with torch.device("meta"):
        target = count_parameters(TransformerUpdater(config))
        one, two = (count_parameters(build(width)) for width in (1, 2))
    return max(1, round((target - 2 * one + two) / (two - one)))


def pairs(modules: nn.ModuleList) -> list[tuple[Any, Any]]:
    """A list of pairs of modules, as pairs (for the type checker, which sees modules only)."""
    return [tuple(pair) for pair in modules]  # type: ignore[arg-type, misc]


@register_backbone("mlp")
class MLPUpdater(Updater):
    """Residual blocks over the flattened memory, each of which sees the input token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        size, depth = config.memory_tokens * config.d, config.updater_layers

        def blocks(width: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList([nn.Linear(size + config.d, width), nn.Linear(width, size)]) for _ in range(depth)
            )

        self.blocks = blocks(matched_width(config, blocks))
        for expand, contract in pairs(self.blocks):
            nn.init.normal_(expand.weight, std=expand.in_features**-0.5)
            nn.init.normal_(contract.weight, std=(depth * contract.in_features) ** -0.5)
            nn.init.zeros_(expand.bias)
            nn.init.zeros_(contract.bias)

    def forward(self, memory: Tensor, token: Tensor) -> Tensor:
        flat = memory.flatten(1)
        for expand, contract in pairs(self.blocks):
            flat = flat + contract(activation(expand(torch.cat([rms_normalise(flat), token], 1))))
        return flat.view_as(memory)


@register_backbone("gru")
class GRUUpdater(Updater):
    """A GRU cell (Cho et al., arXiv 1406.1078) whose state is the flattened memory.

    Its two maps, to the gates and to the candidate, go through a bottleneck: at full rank, three square matrices over
    the memory would have many times the parameters of the other updaters.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        size = config.memory_tokens * config.d

        def maps(width: int) -> nn.ModuleList:
            def low_rank(outputs: int) -> nn.Sequential:
                return nn.Sequential(nn.Linear(size + config.d, width, bias=False), nn.Linear(width, outputs))

            return nn.ModuleList([low_rank(2 * size), low_rank(size)])

        self.maps = maps(matched_width(config, maps))
        for down, up in pairs(self.maps):
            nn.init.normal_(down.weight, std=down.in_features**-0.5)
            nn.init.normal_(up.weight, std=up.in_features**-0.5)
            nn.init.zeros_(up.bias)

    def forward(self, memory: Tensor, token: Tensor) -> Tensor:
        flat = memory.flatten(1)
        to_gates, to_candidate = self.maps
        keep, reset = to_gates(torch.cat([flat, token], 1)).sigmoid().chunk(2, 1)
        candidate = to_candidate(torch.cat([reset * flat, token], 1)).tanh()
        return (candidate + keep * (flat - candidate)).view_as(memory)
