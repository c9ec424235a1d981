"""The gru-cell backbone: a gated recurrent unit of full rank, unlike the low-rank maps of `gru`.

    v, r = sigmoid(W [h_{t-1}, u_t] + b);    h_t = v h_{t-1} + (1 - v) c

    model.reset: after     c = tanh(A u_t + a + r (R h_{t-1} + b'))
    model.reset: before    c = tanh(C [r h_{t-1}, u_t] + b')

Cho et al., arXiv 1406.1078, reset before the product; cuDNN and PyTorch reset after it.
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


@register_backbone("gru-cell")
class GRUCell(Backbone):
    """One layer of `model.updater_width` units."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        d = config.d

        def maps(units: int) -> nn.ModuleDict:
            found = {"gates": nn.Linear(units + d, 2 * units)}
            if config.reset == "before":
                return nn.ModuleDict({**found, "new": nn.Linear(units + d, units)})
            return nn.ModuleDict({**found, "into": nn.Linear(d, units), "back": nn.Linear(units, units)})

        self.width = matched_width(config, maps)
        self.maps = maps(self.width)
        for linear in self.maps.values():
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)  # type: ignore[arg-type, operator]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        if (keep := keep_gate_bias(config, self.width)) is not None:
            with torch.no_grad():
                self.maps["gates"].bias[: self.width] = keep  # type: ignore[operator]

    def initial(self, lanes: int) -> Tensor:
        return self.maps["gates"].weight.new_zeros(lanes, self.width)  # type: ignore[operator]

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        keep, reset = self._gates(state, u)
        if self.config.reset == "before":
            new = self.maps["new"](torch.cat([reset * state, u], 1)).tanh()
        else:
            new = (self.maps["into"](u) + reset * self.maps["back"](state)).tanh()
        return new + keep * (state - new)

    def features(self, state: Tensor, u: Tensor) -> Tensor:
        return state

    def local(self, state: Tensor, u: Tensor) -> Local:
        return self._local_before(state, u) if self.config.reset == "before" else self._local_after(state, u)

    def _local_after(self, state: Tensor, u: Tensor) -> Local:
        keep, reset = self._gates(state, u)
        back = self.maps["back"](state)
        new = (self.maps["into"](u) + reset * back).tanh()
        by_new = (1 - keep) * (1 - new * new)  # dh / d(A u + a)
        by_keep, by_reset = (state - new) * keep * (1 - keep), by_new * back * reset * (1 - reset)
        by_back = by_new * reset
        to_gates, to_back = self._recurrent("gates"), self._recurrent("back")

        def push(x: Tensor) -> Tensor:
            through = (to_gates @ x).unflatten(1, (2, -1))
            gated = by_keep[..., None] * through[:, 0] + by_reset[..., None] * through[:, 1]
            return keep[..., None] * x + gated + by_back[..., None] * (to_back @ x)

        sites = (
            _site("gates", with_one(state, u), torch.stack([by_keep, by_reset], 1)[:, None]),
            _site("into", with_one(u), by_new[:, None, None]),
            _site("back", with_one(state), by_back[:, None, None])._replace(token=False),
        )
        return Local(new + keep * (state - new), sites, push)

    def _local_before(self, state: Tensor, u: Tensor) -> Local:
        keep, reset = self._gates(state, u)
        seen = reset * state
        new = self.maps["new"](torch.cat([seen, u], 1)).tanh()
        by_new = (1 - keep) * (1 - new * new)
        by_keep, seen_by_reset = (state - new) * keep * (1 - keep), seen * (1 - reset)
        to_gates, to_new = self._recurrent("gates"), self._recurrent("new")
        to_keep, to_reset = to_gates.chunk(2)

        def push(x: Tensor) -> Tensor:
            moved = reset[..., None] * x + seen_by_reset[..., None] * (to_reset @ x)
            return keep[..., None] * x + by_keep[..., None] * (to_keep @ x) + by_new[..., None] * (to_new @ moved)

        by_reset = by_new[:, :, None] * to_new * seen_by_reset[:, None]  # (this gate alone reaches every unit)
        sites = (
            _site("gates", with_one(state, u), torch.cat([torch.diag_embed(by_keep), by_reset], 2)),
            _site("new", with_one(seen, u), by_new[:, None, None]),
        )
        return Local(new + keep * (state - new), sites, push)

    def _gates(self, state: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The update gate v, which keeps the state, and the reset gate r."""
        keep, reset = self.maps["gates"](torch.cat([state, u], 1)).sigmoid().chunk(2, 1)
        return keep, reset

    def _recurrent(self, name: str) -> Tensor:
        """The columns of a map's weight that multiply the state."""
        return self.maps[name].weight[:, : self.width]  # type: ignore[index]


def _site(name: str, a: Tensor, gain: Tensor) -> Site:
    return Site((f"maps.{name}.weight", f"maps.{name}.bias"), a, gain)
