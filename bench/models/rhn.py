"""The rhn backbone: a recurrent highway network of depth 1 (Zilly et al., arXiv 1607.03474).

c, f = W [h_{t-1}, u_t] + b;    h_t = sigmoid(f) h_{t-1} + (1 - sigmoid(f)) tanh(c / 2)

The half comes from the public code of Benzing et al., *Optimal Kronecker-sum approximation of real time recurrent
learning*, arXiv 1902.03993; the cell is here for their benchmarks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.backbone import Backbone
from bench.models.local import Local, Site, with_one
from bench.models.sizes import matched_width
from bench.models.updater import keep_gate_bias
from bench.registry import register_backbone


@register_backbone("rhn")
class RHN(Backbone):
    """One layer of `model.updater_width` units. The bias of the carry gate f begins at 1, or by `model.chrono`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.width = matched_width(config, lambda width: nn.Linear(width + config.d, 2 * width))
        self.map = nn.Linear(self.width + config.d, 2 * self.width)
        nn.init.normal_(self.map.weight, std=self.map.in_features**-0.5)
        nn.init.zeros_(self.map.bias)
        keep = keep_gate_bias(config, self.width)
        with torch.no_grad():
            self.map.bias[self.width :] = 1.0 if keep is None else keep

    def initial(self, lanes: int) -> Tensor:
        return self.map.weight.new_zeros(lanes, self.width)

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        new, keep = self._gates(state, u)
        return new + keep * (state - new)

    def features(self, state: Tensor, u: Tensor) -> Tensor:
        return state

    def local(self, state: Tensor, u: Tensor) -> Local:
        new, keep = self._gates(state, u)
        away = 1 - keep
        gain = torch.stack([0.5 * away * (1 - new * new), (state - new) * keep * away], 1)  # (B, 2, n)
        weight = self.map.weight[:, : self.width]

        def push(x: Tensor) -> Tensor:
            through = (weight @ x).unflatten(1, (2, -1))
            return torch.addcmul(keep[..., None] * x, gain[:, 0, :, None], through[:, 0]).addcmul_(
                gain[:, 1, :, None], through[:, 1]
            )

        site = Site(("map.weight", "map.bias"), with_one(state, u), gain[:, None])
        return Local(new + keep * (state - new), (site,), push)

    def _gates(self, state: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The candidate tanh(c / 2) and the carry gate sigmoid(f)."""
        new, keep = self.map(torch.cat([state, u], 1)).chunk(2, 1)
        return (0.5 * new).tanh(), keep.sigmoid()
