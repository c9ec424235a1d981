"""The gru backbone: a gated recurrent unit whose state is the flattened memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.updater import Updater, keep_gate_bias, matched_width, pairs
from bench.registry import register_backbone


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
        if (keep := keep_gate_bias(config, size)) is not None:
            (_, to_gates), _ = pairs(self.maps)
            with torch.no_grad():
                to_gates.bias[:size] = keep

    def forward(self, memory: Tensor, token: Tensor) -> Tensor:
        flat = memory.flatten(1)
        to_gates, to_candidate = self.maps
        keep, reset = to_gates(torch.cat([flat, token], 1)).sigmoid().chunk(2, 1)
        candidate = to_candidate(torch.cat([reset * flat, token], 1)).tanh()
        return (candidate + keep * (flat - candidate)).view_as(memory)
