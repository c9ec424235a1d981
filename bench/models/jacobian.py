"""One transition of a backbone as a function of flat vectors, and its Jacobian products, by `torch.func`.

    s_t = f(s_{t-1}, x_t; theta),    J = ds_t / ds_{t-1}  (N, N),    I = ds_t / dtheta with s_{t-1} held  (N, parameter)

A lane's state is a vector of N real numbers here, whatever tree it is; theta are the embedding's and the backbone's
parameters. Fused attention has no forward mode and no batching rule, so attention takes PyTorch's plain form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.models.backbone import State, leaves, map_tree
from bench.models.rnn import RNN


class Transition(nn.Module):
    """The recurrent part of an RNN, one step at a time: `forward(state, x_t)` on trees."""

    def __init__(self, rnn: RNN) -> None:
        super().__init__()
        self.embedding, self.updater = rnn.embedding, rnn.updater

    def forward(self, state: State, x_t: Tensor) -> State:
        return self.updater.step(state, self.embedding(x_t))

    def step(self, state: Tensor, x_t: Tensor) -> Tensor:
        """Vectors (B, N), x_t (B,) -> the next vectors."""
        return flat(self(self.tree(state), x_t))

    def tree(self, vectors: Tensor) -> State:
        """Vectors (B, N) as the backbone's own state."""
        return unflat(vectors, self.updater.initial(1))

    def push(self, state: Tensor, x_t: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
        """The next state, and J tangent, by forward mode; all (B, N)."""
        with _plain_attention():
            after, moved, *_ = jvp(lambda one: self.step(one, x_t), (state,), (tangent,))
        return after, moved

    def pull(self, state: Tensor, x_t: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The next state (B, N), J^T cotangent (B, N), and I^T cotangent by lane, (B, *shape) of each parameter."""

        def lane(one: Tensor, x: Tensor, into: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            after, back, *_ = vjp(self._lane(x), one, self.theta())
            return after, *back(into)

        with _plain_attention():
            return vmap(lane)(state, x_t, cotangent)

    def jacobians(self, state: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The next state (B, N), J (B, N, N) and I by lane, (B, N, *shape) of each parameter, row by row."""

        def lane(one: Tensor, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            after, back, *_ = vjp(self._lane(x), one, self.theta())
            return after, *vmap(back)(torch.eye(len(one), dtype=one.dtype, device=one.device))

        with _plain_attention():
            return vmap(lane)(state, x_t)

    def theta(self) -> dict[str, Tensor]:
        """The recurrent parameters by name, detached."""
        return {name: one.detach() for name, one in self.named_parameters()}

    def _lane(self, x: Tensor) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
        """The step of one lane: a vector (N,) and the parameters -> the next vector."""
        fixed = dict(self.named_buffers())

        def step(one: Tensor, parameters: dict[str, Tensor]) -> Tensor:
            state = self.tree(one[None])
            return flat(functional_call(self, (parameters, fixed), (state, x[None])))[0]

        return step


def flat(state: State) -> Tensor:
    """A tree of (B, ...) as vectors (B, N) of real numbers."""
    real = [torch.view_as_real(one) if one.is_complex() else one for one in leaves(state)]
    parts = [one.flatten(1) for one in real]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def unflat(vectors: Tensor, like: State) -> State:
    """Vectors (B, N) as a tree of the form of `like`, whose own lanes do not matter."""
    parts = iter(vectors.split([one[0].numel() * (2 if one.is_complex() else 1) for one in leaves(like)], 1))

    def filled(form: Tensor) -> Tensor:
        part, shape = next(parts), (len(vectors), *form.shape[1:])
        return torch.view_as_complex(part.reshape(*shape, 2)) if form.is_complex() else part.reshape(shape)

    return map_tree(filled, like)


@contextmanager
def _plain_attention() -> Iterator[Any]:
    with sdpa_kernel(SDPBackend.MATH):
        yield
