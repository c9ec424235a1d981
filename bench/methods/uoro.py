"""UORO: unbiased online recurrent optimisation (Tallec & Ollivier, arXiv 1702.05043).

It replaces the influence of P parameters on a state of N numbers by N + P numbers, whose outer product equals it on
average. With z = nu^T I, the noise nu is balanced by one scale, as in the authors' public code:

    rho = sqrt((|z| + e) / (|nu| + e))

Each lane has its own outer products; `copies` of them are averaged, which divides the variance. With a `block` of L
columns noise enters once in L columns: inside a block credit is backpropagated exactly. With delta the gradient of the
block's loss by the state before it, and J and I those of the whole block,

    gradient = (delta . s) w + BPTT within the block
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bench.config import Positive
from bench.methods.base import Carry, Credit
from bench.methods.online import Pairs, exactly, joined
from bench.methods.rank_one import E, RankOne, RankOneConfig, length
from bench.models.backbone import map_tree
from bench.registry import register_method


class UOROConfig(RankOneConfig):
    """Fields of UORO."""

    block: Positive = Field(1, description="columns that share their noise; above 1, the default of update_every")

    @model_validator(mode="after")
    def _whole_blocks(self) -> UOROConfig:
        if (self.update_every or self.block) % self.block:
            raise ValueError(f"update_every ({self.update_every}) should be a multiple of block ({self.block})")
        return self


def one_scale(moved: Any, nu: Tensor) -> tuple[Tensor, Pairs]:
    """UORO's rho, (B, r, 1), for noise (B, r, N), and (nu / rho)^T I."""
    pairs = moved.pull(nu)
    each = [length(b) * length(a) for b, a in pairs]
    z = each[0] if len(each) == 1 else length(torch.cat(each, 2))
    rho = ((z + E) / (length(nu) + E)).sqrt()
    return rho, [(b / rho, a) for b, a in pairs]


@register_method("uoro")
class UORO(RankOne):
    """Unbiased on any backbone, with noise that grows with the state."""

    Config = UOROConfig
    config: UOROConfig
    outside_autograd: ClassVar = {"train": "forward sensitivities, one outer product per lane (uoro)"}

    @property
    def block(self) -> int:
        return self.config.block

    @property
    def piece(self) -> int | None:
        return super().piece if self.block == 1 else self.config.update_every or self.block

    def balanced(self, moved: Any, nu: Tensor) -> tuple[Tensor, Pairs]:
        return one_scale(moved, nu)

    def step(self, carry: Carry, x_t: Tensor, y_t: Tensor, drawn_t: Tensor) -> tuple[Carry, Credit]:
        if self.block == 1:
            return super().step(carry, x_t, y_t, drawn_t)
        state, (s, w) = carry.lanes
        moves, by_states, total, q = [], [], None, s.transpose(1, 2)
        for x, y in zip(x_t.unbind(1), y_t.unbind(1), strict=True):
            with exactly(x):
                moves.append(self.moved(state, None, x))
                q = moves[-1].push(q)
            state = moves[-1].state
            credit, by_state = self.immediate(state, x, y)
            total = tuple(credit) if total is None else map_tree(torch.add, total, tuple(credit))
            by_states.append(by_state)
        with exactly(x_t):
            held, gradient = self._backpropagate(moves, by_states, (s, w), q.transpose(1, 2), drawn_t)
        return Carry((state, held)), joined(Credit(*total), gradient)  # type: ignore[misc]

    def _backpropagate(
        self, moves: list[Any], by_states: list[Tensor], held: tuple[Tensor, Tensor], q: Tensor, nu: Tensor
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Backpropagate through a block its loss, and the noise nu at its end, which gives z = nu^T I."""
        s, w = held
        identity = torch.eye(s.shape[2], dtype=s.dtype, device=s.device).expand(len(s), -1, -1)
        back, z, gradient = torch.cat([torch.zeros_like(nu[:, :1]), nu], 1), torch.zeros_like(w), w.new_zeros(())
        for move, by_state in zip(reversed(moves), reversed(by_states), strict=True):
            back[:, 0] += by_state
            pairs = move.pull(back)
            gradient = gradient + self.summed([(b[:, :1], a[:, :1]) for b, a in pairs])
            for part, (b, a) in zip(self._views(z), pairs, strict=True):
                part.addcmul_(b[:, 1:, :, None], (a if a.shape[1] == 1 else a[:, 1:])[..., None, :])
            back = back @ move.push(identity)
        along = (s @ back[:, 0, :, None]) / self.config.copies
        gradient = gradient + self.summed([(along, w)])
        rho0, rho = ((length(a) + E) / (length(b) + E) for a, b in ((w, q), (z, nu)))
        rho0, rho = rho0.sqrt(), rho.sqrt()
        return (torch.addcmul(rho * nu, rho0, q), w / rho0 + z / rho), self.named(gradient)
