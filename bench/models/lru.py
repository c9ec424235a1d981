"""The lru backbone: a linear recurrent unit (Orvieto et al., *Resurrecting RNNs for long sequences*, arXiv 2303.06349).

    lambda = exp(-exp(nu) + i exp(theta)),    h_t = lambda h_{t-1} + exp(gamma) (B u_t),    features = Re(C h_t) + D u_t

The state is complex and the recurrence element-wise; lambda lies inside the unit circle for any nu and theta.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bench.config import ModelConfig
from bench.models.backbone import Backbone
from bench.models.local import Traced
from bench.models.sizes import matched_width
from bench.registry import register_backbone

RADII = (0.9, 0.999)
"""|lambda| is initialised between these: a memory of tens to a thousand steps."""


@register_backbone("lru")
class LRU(Backbone):
    """One layer of `model.updater_width` complex units; a sequence is scanned in parallel."""

    recurrence = "linear"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.width = d = config.d

        def numbers(units: int) -> nn.ParameterDict:
            sizes = {
                "nu": (units,),
                "theta": (units,),
                "gamma": (units,),
                "B": (2, units, d),
                "C": (2, d, units),
                "D": (d,),
            }
            return nn.ParameterDict({name: torch.empty(size) for name, size in sizes.items()})

        self.units = matched_width(config, numbers)
        self.numbers = numbers(self.units)  # B and C: real and imaginary part
        low, high = (radius**2 for radius in RADII)
        squared = low + (high - low) * torch.rand(self.units)  # |lambda|^2
        with torch.no_grad():
            self.numbers["nu"].copy_((-0.5 * squared.log()).log())
            self.numbers["theta"].copy_((2 * math.pi * torch.rand(self.units)).log())
            self.numbers["gamma"].copy_(0.5 * (1 - squared).log())
            self.numbers["B"].normal_(std=(2 * d) ** -0.5)
            self.numbers["C"].normal_(std=self.units**-0.5)
            self.numbers["D"].normal_()

    def decay(self) -> Tensor:
        """The decay lambda (n,), complex."""
        size = (-self.numbers["nu"].exp()).exp()
        return torch.polar(size, self.numbers["theta"].exp())

    def driven(self, u: Tensor) -> Tensor:
        """The scaled input exp(gamma) (B u) for u (..., d): (..., n), complex."""
        real, imaginary = (linear(u, part).to(u.dtype) for part in self.numbers["B"])
        return torch.complex(real, imaginary) * self.numbers["gamma"].exp()

    def initial(self, lanes: int) -> Tensor:
        return torch.complex(*self.numbers["nu"].new_zeros(2, lanes, self.units))

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        return self.decay() * state + self.driven(u)

    def features(self, state: Tensor, u: Tensor) -> Tensor:
        """The features of states (..., n) after inputs (..., d): (..., d)."""
        real, imaginary = self.numbers["C"]
        return linear(state.real, real) - linear(state.imag, imaginary) + self.numbers["D"] * u

    def scan(self, state: Tensor, u: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        factor = self.decay().expand(u.shape[1], -1) if start is None else self.decay() * ~start[..., None]
        driven = self.driven(u)  # (B, T, n)
        first = driven[:, :1] + (factor[..., :1, :] * state[:, None])
        states = linear_scan(factor, torch.cat([first, driven[:, 1:]], 1))
        return self.features(states, u), states[:, -1]

    def begin_traces(self, lanes: int) -> dict[str, Tensor]:
        zero = self.initial(1)[0, 0]
        shapes = {"lambda": (), "gamma": (), "B": (self.config.d,)}
        return {name: zero.expand(lanes, self.units, *rest) for name, rest in shapes.items()}

    def trace(self, state: Tensor, u: Tensor, traces: dict[str, Tensor]) -> Traced:
        """Carry traces of lambda, exp(gamma) and B, after Zucchet et al., arXiv 2305.15947."""
        decay, gain = self.decay(), self.numbers["gamma"].exp()
        driven = self.driven(u)
        moved = {
            "lambda": decay * traces["lambda"] + state,
            "gamma": decay * traces["gamma"] + driven / gain,
            "B": decay[:, None] * traces["B"] + gain[:, None] * u[:, None],
        }
        token = torch.complex(*self.numbers["B"]) * gain[:, None]
        return Traced(decay * state + driven, decay.expand_as(state), token.expand(len(u), -1, -1), moved)

    def trace_credit(self, traces: dict[str, Tensor], by_state: Tensor) -> dict[str, Tensor]:
        decay, gain = self.decay(), self.numbers["gamma"].exp()
        by_decay = (by_state * traces["lambda"].conj()).sum(0).conj() * decay
        into = torch.einsum("bn,bnd->nd", by_state, traces["B"].conj())
        return {
            "numbers.nu": -(by_decay * self.numbers["nu"].exp()).real,
            "numbers.theta": -(by_decay * self.numbers["theta"].exp()).imag,
            "numbers.gamma": (by_state * traces["gamma"].conj()).sum(0).real * gain,
            "numbers.B": torch.stack([into.real, into.imag]),
        }


def linear_scan(factor: Tensor, added: Tensor) -> Tensor:
    """h_t = factor_t h_{t-1} + added_t from h_{-1} = 0, for added (B, T, n) and factor (T, n) or (B, T, n).

    Neighbours are combined in pairs, and the sequence of pairs is scanned: O(T) work in O(log T) steps (Blelloch,
    *Prefix sums and their applications*, 1990).
    """
    if added.shape[1] == 1:
        return added
    whole = added.shape[1] // 2 * 2
    left, right = factor[..., 0:whole:2, :], factor[..., 1:whole:2, :]
    odd = linear_scan(left * right, right * added[:, 0:whole:2] + added[:, 1:whole:2])  # h_1, h_3, ..
    even = factor[..., 2::2, :] * odd[:, : (added.shape[1] - 1) // 2] + added[:, 2::2]  # h_2, h_4, ..
    joined = torch.stack([torch.cat([added[:, :1], even], 1)[:, : whole // 2], odd], 2).flatten(1, 2)
    return joined if whole == added.shape[1] else torch.cat([joined, even[:, -1:]], 1)
