"""The mlp backbone: residual blocks over the flattened memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.layers import activation, rms_normalise
from bench.models.updater import Updater, matched_width, pairs
from bench.registry import register_backbone


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
