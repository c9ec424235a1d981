"""NoBackTrack, the plain form (Ollivier, Tallec & Charpiat, arXiv 1507.07680).

As UORO, but each unit's noise is balanced by a scale of its own, with w_i the i-th row of I:

    rho_i = sqrt((|w_i| + e) / (1 + e))

which needs the length of the rows, that cells with a `Local` know. Others have UORO's one scale, and are UORO.
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

    outside_autograd: ClassVar = {"train": "forward sensitivities, one outer product a lane (nobacktrack)"}

    def balanced(self, moved: Any, nu: Tensor) -> tuple[Tensor, Pairs]:
        squares = moved.squares()
        if squares is None:
            return one_scale(moved, nu)
        rho = ((squares.sqrt() + E) / (1 + E)).sqrt()[:, None]
        return rho, moved.pull(nu / rho)
