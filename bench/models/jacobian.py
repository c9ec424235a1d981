"""One transition of a backbone as a function of flat vectors, and its Jacobian products, by `torch.func`.

    s_t = f(s_{t-1}, x_t; theta),    J = ds_t / ds_{t-1}  (N, N),    I = ds_t / dtheta with s_{t-1} held  (N, parameter)

Here the state of a lane is a vector of N real numbers, whatever its tree; theta are the parameters of the embedding and
the backbone. Fused attention has neither forward mode nor a batching rule, so attention runs in its unfused form.
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
        """States (B, N), x_t (B,) -> the next states (B, N)."""
        return flat(self(self.tree(state), x_t))

    def tree(self, vectors: Tensor) -> State:
        """The backbone's own state from vectors (B, N)."""
        return unflat(vectors, self.updater.initial(1))

    def push(self, state: Tensor, x_t: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
        """The next state and J times the tangent, by forward mode, each (B, N)."""
        with _plain_attention():
            after, moved, *_ = jvp(lambda vectors: self.step(vectors, x_t), (state,), (tangent,))
        return after, moved

    def pull(self, state: Tensor, x_t: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The next state (B, N), and J^T (B, N) and I^T (per lane and parameter, (B, *shape)) times the cotangent."""

        def lane(vector: Tensor, x: Tensor, into: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            after, back, *_ = vjp(self._lane(x), vector, self.theta())
            return after, *back(into)

        with _plain_attention():
            return vmap(lane)(state, x_t, cotangent)

    def jacobians(self, state: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The next state (B, N), J (B, N, N), and I per lane and parameter, (B, N, *shape), computed row by row."""

        def lane(vector: Tensor, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            after, back, *_ = vjp(self._lane(x), vector, self.theta())
            return after, *vmap(back)(torch.eye(len(vector), dtype=vector.dtype, device=vector.device))

        with _plain_attention():
            return vmap(lane)(state, x_t)

    def theta(self) -> dict[str, Tensor]:
        """The recurrent parameters by name, detached."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def _lane(self, x: Tensor) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
        """The step of one lane, from a vector (N,) and the parameters to the next vector."""
        fixed = dict(self.named_buffers())

        def step(vector: Tensor, parameters: dict[str, Tensor]) -> Tensor:
            state = self.tree(vector[None])
            return flat(functional_call(self, (parameters, fixed), (state, x[None])))[0]

        return step


def flat(state: State) -> Tensor:
    """Flatten a tree of tensors (B, ...) to vectors (B, N) of real numbers."""
    real = [torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf in leaves(state)]
    parts = [leaf.flatten(1) for leaf in real]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def unflat(vectors: Tensor, like: State) -> State:
    """The inverse of `flat`: vectors (B, N) as a tree like `like`, which may have any number of lanes."""
    parts = iter(vectors.split([leaf[0].numel() * (2 if leaf.is_complex() else 1) for leaf in leaves(like)], 1))

    def filled(form: Tensor) -> Tensor:
        part, shape = next(parts), (len(vectors), *form.shape[1:])
        return torch.view_as_complex(part.reshape(*shape, 2)) if form.is_complex() else part.reshape(shape)

    return map_tree(filled, like)


@contextmanager
def _plain_attention() -> Iterator[Any]:
    with sdpa_kernel(SDPBackend.MATH):
        yield
