"""The tanh backbone: the plain recurrent layer of Elman, *Finding structure in time*, Cognitive Science 14(2), 1990.

h_t = tanh(W [h_{t-1}, u_t] + b)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.backbone import Backbone
from bench.models.local import Local, Site, with_one
from bench.models.sizes import matched_width
from bench.registry import register_backbone


@register_backbone("tanh")
class Tanh(Backbone):
    """One dense layer of `model.updater_width` units, with orthogonal initial recurrent weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.width = matched_width(config, lambda width: nn.Linear(width + config.d, width))
        self.map = nn.Linear(self.width + config.d, self.width)
        recurrent, inputs = self.map.weight.split([self.width, config.d], 1)
        with torch.no_grad():
            recurrent.copy_(nn.init.orthogonal_(torch.empty_like(recurrent)))
            inputs.normal_(std=config.d**-0.5)
        nn.init.zeros_(self.map.bias)

    def initial(self, lanes: int) -> Tensor:
        return self.map.weight.new_zeros(lanes, self.width)

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        return self.map(torch.cat([state, u], 1)).tanh()

    def features(self, state: Tensor, u: Tensor) -> Tensor:
        return state

    def local(self, state: Tensor, u: Tensor) -> Local:
        seen, weight = with_one(state, u), self.map.weight
        after = torch.nn.functional.linear(seen[:, :-1], weight, self.map.bias).tanh()
        slope, recurrent = 1 - after * after, weight[:, : self.width]
        site = Site(("map.weight", "map.bias"), seen, slope[:, None, None])
        return Local(after, (site,), lambda x: slope[..., None] * (recurrent @ x))
