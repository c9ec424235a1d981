"""UORO: unbiased online recurrent optimisation (Tallec & Ollivier, arXiv 1702.05043).

Of the influence of P parameters on N numbers of state it keeps N + P numbers, whose outer product is the influence on
average. With z = nu^T I, the noise nu is balanced by one scale, as in the authors' public code:

    rho = sqrt((|z| + e) / (|nu| + e))

Lanes have outer products of their own; `copies` of them are averaged, which divides the variance.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.methods.online import Pairs
from bench.methods.rank_one import E, RankOne, length
from bench.registry import register_method


def one_scale(moved: Any, nu: Tensor) -> tuple[Tensor, Pairs]:
    """UORO's rho, (B, r, 1), for noise (B, r, N), and (nu / rho)^T I."""
    pairs = moved.pull(nu)
    each = [length(b) * length(a) for b, a in pairs]
    z = each[0] if len(each) == 1 else length(torch.cat(each, 2))
    rho = ((z + E) / (length(nu) + E)).sqrt()
    return rho, [(b / rho, a) for b, a in pairs]


@register_method("uoro")
class UORO(RankOne):
    """Unbiased, with noise that grows with the state; any backbone."""

    outside_autograd: ClassVar = {"train": "forward sensitivities, one outer product a lane (uoro)"}

    def balanced(self, moved: Any, nu: Tensor) -> tuple[Tensor, Pairs]:
        return one_scale(moved, nu)
