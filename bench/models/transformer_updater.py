"""The transformer backbone: the paper's updater, attention among the memory tokens and the input token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.config import ModelConfig
from bench.models.layers import attend, prepared, stack
from bench.models.updater import Updater
from bench.registry import register_backbone


@register_backbone("transformer")
class TransformerUpdater(Updater):
    """Bidirectional blocks over the memory tokens and the input token; the first K outputs are the next memory."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks = stack(config, config.updater_layers)

    def forward(self, memory: Tensor, token: Tensor) -> Tensor:
        return _update(self.blocks, memory, token)

    def transition(self, u: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        return partial(_update, prepared(self.blocks)), u


def _update(blocks: Any, memory: Tensor, token: Tensor) -> Tensor:
    return attend(blocks, torch.cat([memory, token[:, None]], 1), rows=slice(-1))
