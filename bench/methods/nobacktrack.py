"""NoBackTrack in its plain form (Ollivier, Tallec & Charpiat, arXiv 1507.07680).

It is UORO with a scale for each unit's noise, where w_i is the i-th row of I:

    rho_i = sqrt((|w_i| + e) / (1 + e))

This needs the length of the rows, which cells with a `local` give. On other cells it is UORO, with a single scale.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from bench.methods.online import Pairs
from bench.methods.rank_one import E, RankOne
from bench.methods.uoro import one_scale
from bench.registry import register_method


@register_method("nobacktrack")
class NoBackTrack(RankOne):
    """Unbiased; a little less noise than UORO."""

    outside_autograd: ClassVar = {"train": "forward sensitivities, one outer product per lane (nobacktrack)"}

    def balanced(self, moved: Any, nu: Tensor) -> tuple[Tensor, Pairs]:
        squares = moved.squares()
        if squares is None:
            return one_scale(moved, nu)
        rho = ((squares.sqrt() + E) / (1 + E)).sqrt()[:, None]
        return rho, moved.pull(nu / rho)
