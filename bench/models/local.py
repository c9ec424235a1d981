"""The derivatives of a cell's step, which the cell gives so that credit is carried forward without autograd.

    z_g = W_g a_g for each weight matrix W_g (q, m);    D_g = ds_t / dz_g (N, q);    I_g[i, k, j] = D_g[i, k] a_g[j]
    J = ds_t / ds_{t-1} (N, N), as a function that multiplies by it

Here the state of a lane is a vector of N real numbers, as in `bench.models.jacobian`. The influence of a matrix that is
used once per step is thus an outer product of m and N q numbers. Where a unit depends on itself alone, J is diagonal,
and the influence of all steps so far has the size of the parameters: a trace of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Site(NamedTuple):
    """One use of a weight matrix W (q, m), with its bias as a further column if it has one."""

    names: tuple[str, ...]
    """The names of the weight and of the bias; the bias belongs to the last number of `a`, a 1."""
    a: Tensor
    """The vector that W multiplies, (B, m)."""
    gain: Tensor
    """D: (B, N, q); or, for G gates that act unit by unit on S parts of the state, (B, S, G, n): N = S n, q = G n."""
    token: bool = True
    """Whether the embedded input is the last part of `a`, before the 1."""

    @property
    def sizes(self) -> tuple[int, int]:
        """The shape (q, m) of W."""
        return self.gain.shape[2:].numel(), self.a.shape[1]

    def pulled(self, vectors: Tensor) -> Tensor:
        """D^T v for r vectors v (B, r, N): (B, r, q)."""
        if self.gain.ndim == 3:
            return torch.bmm(vectors, self.gain)
        if self.gain.shape[1:3] == (1, 1):
            return vectors * self.gain[:, 0]
        parts = vectors.unflatten(2, (self.gain.shape[1], 1, -1))  # (B, r, S, 1, n)
        return (parts * self.gain[:, None]).sum(2).flatten(2)

    def squares(self) -> Tensor:
        """The squared length of each row of I: (B, N)."""
        return self.gain.square().sum(2).flatten(1) * self.a.square().sum(1, keepdim=True)

    def by_token(self, weight: Tensor, d: int) -> Tensor:
        """The derivative of the state by an embedded input of d numbers through the weight (q, ..): (B, N, d)."""
        columns = weight[:, -d:]
        if self.gain.ndim == 3:
            return self.gain @ columns
        parts = torch.einsum("bsgn,gnd->bsnd", self.gain, columns.unflatten(0, (self.gain.shape[2], -1)))
        return parts.flatten(1, 2)

    def add_to(self, matrix: Tensor, factor: Tensor) -> None:
        """Add factor (B,) times D to matrix (B, N, q), in place."""
        factor = factor[:, None, None]
        if self.gain.ndim == 3:
            matrix.add_(self.gain * factor)
            return
        parts, gates, units = self.gain.shape[1:]
        diagonal = matrix.view(-1, parts, units, gates, units).diagonal(dim1=2, dim2=4)  # (B, S, G, n)
        diagonal.add_(self.gain * factor[..., None])

    def add_influence(self, influence: Tensor) -> None:
        """Add I to influence (B, N, q, m), in place."""
        if self.gain.ndim == 3:
            influence.addcmul_(self.gain[..., None], self.a[:, None, None])
            return
        parts, gates, units = self.gain.shape[1:]
        blocks = influence.unflatten(2, (gates, units)).unflatten(1, (parts, units))
        diagonal = blocks.diagonal(dim1=2, dim2=4)  # (B, S, G, m, n)
        diagonal.addcmul_(self.gain[:, :, :, None], self.a[:, None, None, :, None])


class Local(NamedTuple):
    """One step of a cell, with its derivatives."""

    state: Tensor
    """The state after it, (B, N)."""
    sites: tuple[Site, ...]
    push: Callable[[Tensor], Tensor]
    """The function X (B, N, k) -> J X."""

    def pull(self, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """I^T v for v (B, r, N): for each site the factors b (B, r, q) and a (B, 1, m) of an outer product."""
        return [(site.pulled(vectors), site.a[:, None]) for site in self.sites]

    def squares(self) -> Tensor | None:
        """The squared length of each row of I, (B, N)."""
        first, *rest = (site.squares() for site in self.sites)
        return sum(rest, first)


class Traced(NamedTuple):
    """One step of a cell whose units depend on themselves alone, with its traces; the numbers may be complex."""

    state: Tensor
    """The state after it, (B, n)."""
    decay: Tensor
    """The diagonal of J, (B, n)."""
    token: Tensor
    """The derivative of each unit by the embedded input, (B, n, d)."""
    traces: dict[str, Tensor]
    """The traces by parameter, lanes and units first."""


def with_one(*parts: Tensor) -> Tensor:
    """Concatenate vectors (B, ..) and a 1 for the bias."""
    return torch.cat([*parts, parts[0].new_ones(len(parts[0]), 1)], 1)
