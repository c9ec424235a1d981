"""The lstm backbone: long short-term memory with a forget gate (Gers, Schmidhuber & Cummins, 2000).

i, f, g, o = W [h_{t-1}, u_t] + b;    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);    h_t = sigmoid(o) tanh(c_t)
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


@register_backbone("lstm")
class LSTM(Backbone):
    """One layer of `model.updater_width` units; its state is (c, h). The forget bias begins at 1, or by `chrono`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.width = matched_width(config, lambda width: nn.Linear(width + config.d, 4 * width))
        self.map = nn.Linear(self.width + config.d, 4 * self.width)
        nn.init.normal_(self.map.weight, std=self.map.in_features**-0.5)
        nn.init.zeros_(self.map.bias)
        into, forget, _, _ = self.map.bias.chunk(4)
        keep = keep_gate_bias(config, self.width)
        with torch.no_grad():
            forget.fill_(1.0) if keep is None else forget.copy_(keep)
            if keep is not None:
                into.copy_(-keep)

    def initial(self, lanes: int) -> tuple[Tensor, Tensor]:
        zeros = self.map.weight.new_zeros(lanes, self.width)
        return zeros, zeros

    def step(self, state: tuple[Tensor, Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
        c, h = state
        into, forget, new, out = self.map(torch.cat([h, u], 1)).chunk(4, 1)
        c = forget.sigmoid() * c + into.sigmoid() * new.tanh()
        return c, out.sigmoid() * c.tanh()

    def features(self, state: tuple[Tensor, Tensor], u: Tensor) -> Tensor:
        return state[1]

    def local(self, state: tuple[Tensor, Tensor], u: Tensor) -> Local:
        c, h = state
        into, forget, new, out = self.map(torch.cat([h, u], 1)).chunk(4, 1)
        into, forget, new, out = into.sigmoid(), forget.sigmoid(), new.tanh(), out.sigmoid()
        after = forget * c + into * new
        squashed = after.tanh()
        through = out * (1 - squashed * squashed)  # dh / dc
        cell = [new * into * (1 - into), c * forget * (1 - forget), into * (1 - new * new), torch.zeros_like(out)]
        to_cell = torch.stack(cell, 1)  # (B, 4, n)
        to_hidden = through[:, None] * to_cell
        to_hidden[:, 3] = squashed * out * (1 - out)
        weight = self.map.weight[:, : self.width]

        def push(x: Tensor) -> Tensor:
            by_cell, by_hidden = x.chunk(2, 1)
            gates = (weight @ by_hidden).unflatten(1, (4, -1))
            cell = forget[..., None] * by_cell + (to_cell[..., None] * gates).sum(1)
            return torch.cat([cell, through[..., None] * cell + to_hidden[:, 3, :, None] * gates[:, 3]], 1)

        site = Site(("map.weight", "map.bias"), with_one(h, u), torch.stack([to_cell, to_hidden], 1))
        return Local(torch.cat([after, out * squashed], 1), (site,), push)
