"""Real-time recurrent learning: the exact gradient at every column, carried forward instead of back.

Source: Williams & Zipser, *A learning algorithm for continually running fully recurrent neural networks*, Neural
Computation 1(2), 1989. With the influence M_t of the parameters theta on the state s_t of N numbers:

    M_t = J_t M_{t-1} + I_t,    J = ds_t / ds_{t-1} (N, N),    I = ds_t / dtheta,    gradient of l_t: (dl_t / ds_t) M_t

Work and memory do not grow with the length of the stream, but with N times the number of parameters, for each lane. A
cell whose units depend on themselves alone needs only a trace of each parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from bench.methods.online import EMBEDDING, Online, OnlineConfig, one_hot
from bench.models.jacobian import flat
from bench.models.local import Local, Traced
from bench.registry import register_method


class RTRLConfig(OnlineConfig):
    """Fields of RTRL."""

    form: Literal["closed", "generic"] = Field(
        "closed", description="J and I as the cell gives them, if it does; generic: by torch.func, the reference"
    )


@register_method("rtrl")
class RTRL(Online):
    """Exact while the parameters do not change; a step leaves the influence as computed with the earlier ones."""

    Config = RTRLConfig
    config: RTRLConfig
    carries = "its influence"
    gradient_is: ClassVar[Mapping[str, Any]] = {"train": "exact"}
    outside_autograd: ClassVar[Mapping[str, str]] = {"train": "exact forward sensitivities"}

    @cached_property
    def traced(self) -> bool:
        """Whether the cell carries its influence as traces."""
        return self.config.form == "closed" and self.rnn.updater.says("trace")

    @cached_property
    def closed(self) -> bool:
        return self.config.form == "closed" and self.rnn.updater.says("local")

    def sensitivities(self, state: Tensor) -> Any:
        lanes, numbers = state.shape
        if self.traced:
            traces = self.rnn.updater.begin_traces(lanes)
            if self.rnn.config.embedding == "learned":
                symbols, d = self.rnn.embedding.weight.shape
                form = self.rnn.initial_state(lanes)
                traces[EMBEDDING] = form.new_zeros(()).expand(*form.shape, d, symbols)
            return traces
        if self.closed:
            return state.new_zeros(()).expand(lanes, numbers, self.size)
        theta = self.transition.theta().items()
        return {name: state.new_zeros(*state.shape, *weight.shape, dtype=weight.dtype) for name, weight in theta}

    def moved(self, state: Tensor, held: Any, x_t: Tensor) -> Any:
        if self.traced:
            return self._traced_step(state, held, x_t)
        return self.local(state, x_t) if self.closed else Jacobians(*self.transition.jacobians(state, x_t))

    def carried(self, moved: Any, held: Any, by_state: Tensor, drawn_t: Any) -> tuple[Any, dict[str, Tensor]]:
        if self.traced:
            return moved.traces, self._trace_gradient(moved.traces, by_state)
        return self._closed_step(moved, held, by_state) if self.closed else _generic_step(moved, held, by_state)

    def _closed_step(self, moved: Local, held: Tensor, by_state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Per lane, one product of matrices gives both J M and the gradient through earlier states, d^T J M."""
        numbers = held.shape[1]
        jacobian = moved.push(torch.eye(numbers, dtype=held.dtype, device=held.device).expand(len(held), -1, -1))
        rows = torch.cat([jacobian, by_state[:, None] @ jacobian], 1) @ held  # (B, N + 1, P)
        gradient = self.over_lanes(rows[:, -1]) + self.summed(moved.pull(by_state[:, None]))
        influence = rows[:, :-1]
        pieces = influence.split([part.q * part.m for part in self.parts], 2)
        for site, piece in zip(moved.sites, pieces, strict=True):
            site.add_influence(piece.unflatten(2, site.sizes))
        return influence, self.named(gradient)

    def _traced_step(self, state: Tensor, traces: dict[str, Tensor], x_t: Tensor) -> Moved:
        """The next state and all traces; that of a trained embedding has a number per unit, input and symbol."""
        updater, embedding = self.rnn.updater, self.rnn.embedding
        own = {name: trace for name, trace in traces.items() if name != EMBEDDING}
        found: Traced = updater.trace(self.tree(state), embedding(x_t), own)
        moved = dict(found.traces)
        if EMBEDDING in traces:
            symbol = one_hot(x_t, embedding.weight.shape[0], found.token.dtype)[:, None, None]
            before = found.decay[..., None, None] * traces[EMBEDDING]
            moved[EMBEDDING] = torch.addcmul(before, found.token[..., None], symbol)
        return Moved(flat(found.state), moved)

    def _trace_gradient(self, traces: dict[str, Tensor], by_state: Tensor) -> dict[str, Tensor]:
        by = self.tree(by_state)
        own = {name: trace for name, trace in traces.items() if name != EMBEDDING}
        found = {f"updater.{name}": credit for name, credit in self.rnn.updater.trace_credit(own, by).items()}
        if EMBEDDING in traces:
            found[EMBEDDING] = torch.einsum("bn,bndv->vd", by.conj(), traces[EMBEDDING]).real.contiguous()
        return found


class Moved(NamedTuple):
    """One step, with the traces after it."""

    state: Tensor
    traces: dict[str, Tensor]


class Jacobians(NamedTuple):
    """One step, with its Jacobians from `Transition.jacobians`."""

    state: Tensor
    jacobian: Tensor
    direct: dict[str, Tensor]


def _generic_step(
    moved: Jacobians, held: dict[str, Tensor], by_state: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    def rows(tensor: Tensor) -> Tensor:
        return tensor.reshape(*by_state.shape, -1)

    influence = {
        name: torch.baddbmm(rows(moved.direct[name]), moved.jacobian.to(before.dtype), rows(before)).view_as(before)
        for name, before in held.items()
    }
    gradient = {name: torch.einsum("bn,bn...->...", by_state.to(part.dtype), part) for name, part in influence.items()}
    return influence, gradient
