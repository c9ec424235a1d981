"""The mlp backbone: residual blocks over the flattened memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.layers import activation, rms_normalise
from bench.models.sizes import matched_width
from bench.models.updater import Updater, pairs
from bench.registry import register_backbone


@register_backbone("mlp")
class MLPUpdater(Updater):
    """Residual blocks over the flattened memory, each with the input token as a further input."""

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

    def transition(self, u: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        blocks = [(expand.weight[:, : self.width].t(), contract) for expand, contract in pairs(self.blocks)]
        expands = [expand for expand, _ in pairs(self.blocks)]
        weight = torch.cat([expand.weight[:, self.width :] for expand in expands])
        inputs = F.linear(u, weight, torch.cat([expand.bias for expand in expands]))  # (B, T, blocks x width)

        def forward(memory: Tensor, token: Tensor) -> Tensor:
            flat = memory.flatten(1)
            for (expand, contract), of_token in zip(blocks, token.chunk(len(blocks), 1), strict=True):
                flat = flat + contract(activation(torch.addmm(of_token, rms_normalise(flat), expand)))
            return flat.view_as(memory)

        return forward, inputs
