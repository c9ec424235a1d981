"""The elstm backbone: an LSTM without recurrent matrices (Irie, Gopalakrishnan & Schmidhuber, arXiv 2305.19044).

    z = tanh(F_z u_t + w_z c_{t-1} + b_z),    f = sigmoid(F_f u_t + w_f c_{t-1} + b_f),    c_t = f c_{t-1} + (1 - f) z
    features = sigmoid(O [u_t, c_t] + b) c_t

Products of vectors are element-wise. The Jacobian is diagonal, so that exact real-time recurrent learning costs no more
than a step. Only the readout sees the output gate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.backbone import Backbone
from bench.models.local import Traced, with_one
from bench.models.sizes import matched_width
from bench.models.updater import keep_gate_bias
from bench.registry import register_backbone


@register_backbone("elstm")
class ELSTM(Backbone):
    """One layer of `model.updater_width` units. The bias of the forget gate f begins at 1, or by `model.chrono`."""

    recurrence = "elementwise"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        d = config.d

        def parts(units: int) -> nn.ModuleDict:
            own = nn.ParameterDict({"own": torch.empty(2, units)})
            return nn.ModuleDict({"map": nn.Linear(d, 2 * units), "own": own, "out": nn.Linear(d + units, units)})

        self.width = matched_width(config, parts)
        self.map, self.out = nn.Linear(d, 2 * self.width), nn.Linear(d + self.width, self.width)
        self.own = nn.Parameter(torch.randn(2, self.width) * self.width**-0.5)  # w_z, w_f
        for linear in (self.map, self.out):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        keep = keep_gate_bias(config, self.width)
        with torch.no_grad():
            self.map.bias[self.width :] = 1.0 if keep is None else keep

    def initial(self, lanes: int) -> Tensor:
        return self.own.new_zeros(lanes, self.width)

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        new, keep = self._gates(state, u)
        return new + keep * (state - new)

    def features(self, state: Tensor, u: Tensor) -> Tensor:
        return self.out(torch.cat([u, state], 1)).sigmoid() * state

    def begin_traces(self, lanes: int) -> dict[str, Tensor]:
        shapes = {"map": (self.config.d + 1,), "own": ()}
        return {name: self.own.new_zeros(()).expand(lanes, self.width, 2, *rest) for name, rest in shapes.items()}

    def trace(self, state: Tensor, u: Tensor, traces: dict[str, Tensor]) -> Traced:
        new, keep = self._gates(state, u)
        away = 1 - keep
        gains = torch.stack([away * (1 - new * new), (state - new) * keep * away], 2)  # (B, n, 2)
        decay = keep + (gains * self.own.t()).sum(2)
        matrix, vector = traces["map"], traces["own"]
        moved = {
            "map": torch.addcmul(decay[..., None, None] * matrix, gains[..., None], with_one(u)[:, None, None]),
            "own": torch.addcmul(decay[..., None] * vector, gains, state[..., None]),
        }
        token = torch.einsum("bng,gnd->bnd", gains, self.map.weight.unflatten(0, (2, -1)))
        return Traced(new + keep * (state - new), decay, token, moved)

    def trace_credit(self, traces: dict[str, Tensor], by_state: Tensor) -> dict[str, Tensor]:
        matrix = torch.einsum("bn,bngm->gnm", by_state, traces["map"]).flatten(0, 1)
        own = torch.einsum("bn,bng->gn", by_state, traces["own"])
        return {"map.weight": matrix[:, :-1], "map.bias": matrix[:, -1], "own": own}

    def _gates(self, state: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The candidate z, and the forget gate f, which keeps the state."""
        new, keep = (self.map(u).unflatten(1, (2, -1)) + self.own * state[:, None]).unbind(1)
        return new.tanh(), keep.sigmoid()
