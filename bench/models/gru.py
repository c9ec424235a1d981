"""The gru backbone: a gated recurrent unit whose state is the flattened memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.sizes import matched_width
from bench.models.updater import Updater, keep_gate_bias, pairs
from bench.registry import register_backbone


@register_backbone("gru")
class GRUUpdater(Updater):
    """A GRU cell (Cho et al., arXiv 1406.1078) whose state is the flattened memory.

    The maps to the gates and to the candidate have low rank: three square matrices over the memory would have many
    times the parameters of the other updaters.
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

    def transition(self, u: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        (into_gates, gates), (into_candidate, candidate) = pairs(self.maps)
        weights = into_gates.weight, into_candidate.weight
        of_gates, of_candidate = (weight[:, : self.width].t() for weight in weights)
        inputs = F.linear(u, torch.cat([weight[:, self.width :] for weight in weights]))  # (B, T, 2 width)

        def forward(memory: Tensor, token: Tensor) -> Tensor:
            flat, (to_gates, to_candidate) = memory.flatten(1), token.chunk(2, 1)
            keep, reset = gates(torch.addmm(to_gates, flat, of_gates)).sigmoid().chunk(2, 1)
            new = candidate(torch.addmm(to_candidate, reset * flat, of_candidate)).tanh()
            return (new + keep * (flat - new)).view_as(memory)

        return forward, inputs
