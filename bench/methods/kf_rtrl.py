"""KF-RTRL: Kronecker factored real-time recurrent learning (Mujika, Meier & Steger, arXiv 1805.10842).

The influence of each weight matrix W (q, m) is kept as u (m) times A (N, q), which equals it on average. The influence
of a single step has exactly this form, a times D, so noise is needed only for the sum of the two:

    H = J A;    gradient of W = (d^T H) u^T + (d^T D) a^T;    c a new random sign per lane and matrix
    u' = p1 u + c p2 a,    A' = H / p1 + c D / p2,    p1 = sqrt(|H| / |u|),    p2 = sqrt(|D| / |a|)

The paper has one input for all matrices, two signs, of which only the product matters, and the gradient from the new u
and A; from the old ones it is less noisy.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.methods.online import RandomOnline, signs
from bench.models.local import Local
from bench.registry import register_method

TINY = 1e-30
"""Added to norms, so that 0/0 = 1."""


@register_method("kf-rtrl")
class KFRTRL(RandomOnline):
    """Unbiased, with about 1/N of UORO's noise; it needs a cell that defines `local`."""

    carries = "its Kronecker factors"
    outside_autograd: ClassVar = {"train": "forward sensitivities, a Kronecker product per matrix (kf-rtrl)"}

    def unfit(self) -> str | None:
        if self.closed:
            return None
        return f"kf-rtrl needs a backbone that gives its Local, as tanh does; {self.rnn.config.backbone} does not"

    def sensitivities(self, state: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        lanes, size = state.shape
        return tuple((state.new_zeros(lanes, part.m), state.new_zeros(lanes, size, part.q)) for part in self.parts)

    def draw(self, shape: tuple[int, int], phase: str) -> Tensor:
        lanes, columns = shape
        return signs((columns, len(self.parts), lanes), self.noise, self.zeros)

    def carried(
        self, moved: Local, held: tuple[tuple[Tensor, Tensor], ...], by_state: Tensor, drawn_t: Tensor
    ) -> tuple[Any, dict[str, Tensor]]:
        d = by_state[:, None]
        pushed = moved.push(torch.cat([a for _, a in held], 2) if len(held) > 1 else held[0][1])
        parts = pushed.split([part.q for part in self.parts], 2)
        gradient, after = [], []
        for (u, _), h, site, sign in zip(held, parts, moved.sites, drawn_t, strict=True):
            gradient.append((torch.cat([d @ h, site.pulled(d)], 1), torch.stack([u, site.a], 1)))
            p1, p2 = (balance(h, u), balance(site.gain, site.a))
            u = torch.addcmul(p1[:, None] * u, (sign * p2)[:, None], site.a)
            h = h / p1[:, None, None]
            site.add_to(h, sign / p2)
            after.append((u, h))
        return tuple(after), self.named(self.summed(gradient))


def balance(matrix: Tensor, vector: Tensor) -> Tensor:
    """sqrt(|matrix| / |vector|) per lane, (B,)."""
    large = torch.linalg.vector_norm(matrix.flatten(1), dim=1)
    return ((large + TINY) / (torch.linalg.vector_norm(vector, dim=1) + TINY)).sqrt()
