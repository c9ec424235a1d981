"""The base of UORO and NoBackTrack: the influence M of the parameters on the state as an outer product, s w^T.

    q = J s;    gradient = (d . q) w + d^T I;    nu new random signs, one per number of the state
    s' = rho0 q + rho nu,    w' = w / rho0 + (nu / rho)^T I,    rho0 = sqrt((|w| + e) / (|q| + e))

The mean of s w^T is M for any rho > 0 that does not depend on the signs. The gradient uses s and w from before the
noise of this step, so that the credit of the present input is exact and only that of the past is noisy.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from bench.config import Positive
from bench.methods.online import Pairs, RandomConfig, RandomOnline, signs

E = 1e-5
"""e, added to the lengths that are balanced, as either may be 0."""


class RankOneConfig(RandomConfig):
    """Fields of UORO and NoBackTrack."""

    copies: Positive = Field(1, description="outer products per lane, whose estimates are averaged")


class RankOne(RandomOnline):
    """A subclass defines in `balanced` how the two sides of the noise are balanced."""

    Config = RankOneConfig
    config: RankOneConfig
    carries = "its outer products"

    def balanced(self, moved: Any, nu: Tensor) -> tuple[Tensor, Pairs]:
        """For noise nu (B, r, N): rho, per number (B, r, N) or for all (B, r, 1), and (nu / rho)^T I."""
        raise NotImplementedError

    def sensitivities(self, state: Tensor) -> tuple[Tensor, Tensor]:
        lanes, copies = len(state), self.config.copies
        return torch.zeros_like(state)[:, None].repeat(1, copies, 1), state.new_zeros(lanes, copies, self.size)

    def draw(self, shape: tuple[int, int], phase: str) -> Tensor:
        lanes, columns = shape
        return signs((columns, lanes, self.config.copies, self.zeros.shape[1]), self.noise, self.zeros)

    def carried(
        self, moved: Any, held: tuple[Tensor, Tensor], by_state: Tensor, drawn_t: Tensor
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        s, w = held  # (B, r, N) and (B, r, P)
        q = moved.push(s.transpose(1, 2)).transpose(1, 2)
        along = q @ by_state[:, :, None]
        if self.config.copies > 1:
            along = along / self.config.copies
        gradient = self.summed(moved.pull(by_state[:, None])) + self.summed([(along, w)])
        rho0 = ((length(w) + E) / (length(q) + E)).sqrt()
        rho, pairs = self.balanced(moved, drawn_t)
        w = w / rho0
        for part, (b, a) in zip(self._views(w), pairs, strict=True):
            part.addcmul_(b[..., None], a[..., None, :])
        return (torch.addcmul(rho * drawn_t, rho0, q), w), self.named(gradient)

    def _views(self, w: Tensor) -> list[Tensor]:
        """The parts of vectors (B, r, P), each (B, r, q, m)."""
        if len(self.parts) == 1:
            return [w.view(*w.shape[:2], self.parts[0].q, self.parts[0].m)]
        pieces = w.split([part.q * part.m for part in self.parts], 2)
        return [piece.unflatten(2, (part.q, part.m)) for piece, part in zip(pieces, self.parts, strict=True)]


def length(vectors: Tensor) -> Tensor:
    """The norm along the last axis, which is kept."""
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
