"""The base of methods that carry sensitivities of the state forward, column by column of a stream.

A step has three parts, under the same theta:

    1. the new state, and the derivatives of its step (by `bench.models.local`, or by torch.func for any backbone)
    2. the loss, and its gradient by the new state: one backward pass through the readout alone
    3. `carried`: the credit of the sensitivities carried so far, and the next sensitivities

No autograd graph outlives a step. Work and memory do not grow with the length of the stream. When the optimiser steps
in between, the sensitivities still hold derivatives at the earlier weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench import build
from bench.config import Positive, Run, TrainingConfig
from bench.methods.base import Carry, Credit, Method, MethodConfig, Phase, RecurrentMethod
from bench.models.backbone import leaves
from bench.models.jacobian import Transition, flat, unflat
from bench.models.local import Local, Site
from bench.tasks.base import IGNORED

Pairs = Sequence[tuple[Tensor, Tensor]]
"""For each part of theta b (B, r, q) and a (B, r, m), whose product b a^T is its gradient."""
EMBEDDING = "embedding.weight"


class Part(NamedTuple):
    """A matrix (q, m) of theta, with its bias as a further column."""

    names: tuple[str, ...]
    q: int
    m: int


class OnlineConfig(MethodConfig):
    """Fields of online methods."""

    update_every: Positive | None = Field(None, description="columns between two steps; null: once a batch")
    max_bytes: Positive = Field(2 * 2**30, description="bytes of all sensitivities; a run that needs more is refused")


class UnclippedConfig(MethodConfig):
    """Fields of an estimator with noise, whose mean clipping would change."""

    clip: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest gradient norm, in place of training.optimiser.clip; null: no clipping"
    )


class Unclipped(RecurrentMethod):
    """An estimator whose mean over its noise is the exact gradient while the parameters do not change."""

    Config = UnclippedConfig
    config: UnclippedConfig
    gradient_is: ClassVar[Mapping[str, Any]] = {"train": "unbiased"}

    def phases(self, training: TrainingConfig) -> list[Phase]:
        """The phases of any method, which clip at the gradient norm `clip`."""
        clip = {"clip": self.config.clip}
        phases = super().phases(training)
        return [dataclasses.replace(phase, optimiser=phase.optimiser.model_copy(update=clip)) for phase in phases]


class RandomConfig(UnclippedConfig, OnlineConfig):
    """Fields of online methods with noise."""


class Online(RecurrentMethod):
    """The base of online methods. A subclass defines `sensitivities` and `carried`."""

    Config = OnlineConfig
    config: OnlineConfig
    data = "streams"
    carries: ClassVar[str] = "what it carries"
    """A phrase for the sensitivities, in the message that refuses a run."""

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        method: Any = build.build_method(run, build.build_task(run), device="cpu")
        if reason := method.unfit():
            return reason
        # The sensitivities have sizes only, as they may be too large. The network itself is built: on "meta", some of
        # its operators import torch's compiler, which takes seconds.
        state = method.zeros.new_empty(run.training.batch_size, method.zeros.shape[1], device="meta")
        held = method.sensitivities(state)
        size, most = sum(leaf.numel() * leaf.element_size() for leaf in leaves(held)), method.config.max_bytes
        return f"{cls.carries} would take {size:,} bytes, above method.max_bytes, {most:,}" if size > most else None

    def unfit(self) -> str | None:
        """Why this method cannot train its network, or None."""
        return None

    @classmethod
    def uncompilable(cls, run: Run) -> str | None:
        """A step can be compiled where it takes one column at a time and needs neither torch.func nor autograd."""
        method: Any = build.build_method(run, build.build_task(run), device="cpu")
        if method.block > 1:
            return f"{cls.name} in blocks of {method.block} columns is not compiled"
        if method.closed and method._reads_state_linearly:
            return None
        return f"{cls.name} on {run.model.backbone} needs autograd in each step; tanh with a linear readout does not"

    @property
    def piece(self) -> int | None:
        return self.config.update_every

    @cached_property
    def transition(self) -> Transition:
        """The recurrent part of the RNN; not a submodule, as its parameters are this module's already."""
        return Transition(self.rnn)

    def begin(self, lanes: int) -> Carry:
        state = flat(self.rnn.initial_state(lanes))
        return Carry((state, self.sensitivities(state)))

    def sensitivities(self, state: Tensor) -> Any:
        """The sensitivities to states (B, N) before any input: a tree of zeros, lanes first."""
        raise NotImplementedError

    def moved(self, state: Tensor, held: Any, x_t: Tensor) -> Any:
        """The step from states (B, N), as an object whose `state` holds the next ones (B, N), without gradients."""
        return self.local(state, x_t)

    def carried(self, moved: Any, held: Any, by_state: Tensor, drawn_t: Any) -> tuple[Any, dict[str, Tensor]]:
        """The next sensitivities, and gradients by the RNN's parameters, from `held` and dl_t / ds_t (B, N)."""
        raise NotImplementedError

    def step(self, carry: Carry, x_t: Tensor, y_t: Tensor, drawn_t: Any) -> tuple[Carry, Credit]:
        state, held = carry.lanes
        with exactly(x_t):
            moved = self.moved(state, held, x_t)
        credit, by_state = self.immediate(moved.state, x_t, y_t)
        with exactly(x_t):
            held, gradient = self.carried(moved, held, by_state, drawn_t)
        return Carry((moved.state, held)), joined(credit, gradient)

    def immediate(self, state: Tensor, x_t: Tensor, y_t: Tensor) -> tuple[Credit, Tensor]:
        """The credit that reaches parameters without passing through the state, and dl_t / ds_t by lane (B, N)."""
        if self._reads_state_linearly and not torch.is_autocast_enabled(state.device.type):
            return self._immediate_of_linear(state, y_t)
        names, parameters = self._immediate
        leaf = state.detach().requires_grad_()
        with torch.enable_grad():
            features = self.rnn.updater.features(self.tree(leaf), self.rnn.embedding(x_t))
            loss, weight = self.objective(self.rnn.read(features), y_t)
            by_state, *found = torch.autograd.grad(loss, [leaf, *parameters], materialize_grads=True)
        return Credit(dict(zip(names, found, strict=True)), weight, {"loss": loss.detach()}), by_state

    @cached_property
    def _reads_state_linearly(self) -> bool:
        """Whether the loss is the cross-entropy of a linear map of the state."""
        zeros, plain = self.zeros, type(self).objective is Method.objective and self.rnn.tokens is None
        u = self.rnn.embedding(torch.zeros(1, dtype=torch.long, device=zeros.device))
        return plain and self.rnn.updater.features(self.tree(zeros), u) is zeros

    def _immediate_of_linear(self, state: Tensor, y_t: Tensor) -> tuple[Credit, Tensor]:
        """`immediate` in closed form, in a third of the time of autograd."""
        readout: Any = self.rnn.readout
        scored = y_t != IGNORED
        log_p = readout(state).log_softmax(1)
        loss = F.nll_loss(log_p, y_t, ignore_index=IGNORED, reduction="sum")
        by_logits = log_p.exp().scatter_add_(1, y_t.clamp(min=0)[:, None], -torch.ones_like(log_p[:, :1]))
        by_logits.mul_(scored[:, None])
        gradient = {"rnn.readout.weight": by_logits.t() @ state, "rnn.readout.bias": by_logits.sum(0)}
        return Credit(gradient, scored.sum(), {"loss": loss}), by_logits @ readout.weight

    @cached_property
    def _immediate(self) -> tuple[list[str], list[Tensor]]:
        """The names and the parameters that a loss depends on apart from the state: those with a gradient."""
        named = dict(self.named_parameters())
        device = next(iter(named.values())).device
        x = torch.zeros(2, dtype=torch.long, device=device)
        with torch.enable_grad():
            state = self.rnn.initial_state(2)
            loss, _ = self.objective(self.rnn.read(self.rnn.updater.features(state, self.rnn.embedding(x))), x)
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        reached = [name for name, gradient in zip(named, found, strict=True) if gradient is not None]
        return reached, [named[name] for name in reached]

    # The step of a cell that gives its derivatives, and of any other.

    @cached_property
    def closed(self) -> bool:
        """Whether the cell gives its derivatives; those of any other come from torch.func."""
        return self.rnn.updater.says("local")

    def local(self, state: Tensor, x_t: Tensor) -> Local | Differentiated:
        """The step from states (B, N); where the cell gives it, with a trained embedding as one more site."""
        if not self.closed:
            return Differentiated(self.transition.step(state, x_t), self.transition, state, x_t)
        updater, embedding = self.rnn.updater, self.rnn.embedding
        found = updater.local(self.tree(state), embedding(x_t))
        if self.rnn.config.embedding == "fixed":
            return found
        symbols, d = embedding.weight.shape
        weights = [(site, updater.get_parameter(site.names[0])) for site in found.sites if site.token]
        first, *rest = (site.by_token(weight, d) for site, weight in weights)
        more = Site((EMBEDDING,), one_hot(x_t, symbols, state.dtype), sum(rest, first))
        return found._replace(sites=(*found.sites, more))

    @cached_property
    def parts(self) -> list[Part]:
        """The parts of theta, in their order in the vector."""
        if not self.closed:
            return [Part((), 1, flat(self._theta).shape[1])]
        device = next(self.parameters()).device
        with torch.no_grad():
            state = flat(self.rnn.initial_state(1))
            sites = self.local(state, torch.zeros(1, dtype=torch.long, device=device)).sites  # type: ignore[union-attr]
        places = ["" if site.names == (EMBEDDING,) else "updater." for site in sites]
        return [
            Part(tuple(f"{place}{name}" for name in site.names), *site.sizes)
            for site, place in zip(sites, places, strict=True)
        ]

    @cached_property
    def zeros(self) -> Tensor:
        """The state of one lane before any input, as a vector (1, N)."""
        return flat(self.rnn.initial_state(1)).detach()

    @cached_property
    def _vectors(self) -> bool:
        """Whether the cell's state is a single vector of real numbers."""
        form = self.rnn.initial_state(1)
        return isinstance(form, Tensor) and form.ndim == 2 and not form.is_complex()

    def tree(self, vectors: Tensor) -> Any:
        """The cell's own state from vectors (B, N)."""
        return vectors if self._vectors else self.transition.tree(vectors)

    @property
    def size(self) -> int:
        """P, the number of parameters in theta."""
        return sum(part.q * part.m for part in self.parts)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector (P,) as tensors by the names of the RNN's parameters."""
        if not self.closed:
            return {name: rows[0] for name, rows in unflat(vector[None], self._theta).items()}
        found = {}
        for part, piece in zip(self.parts, vector.split([part.q * part.m for part in self.parts]), strict=True):
            matrix = piece.view(part.q, part.m)
            if part.names == (EMBEDDING,):
                matrix = matrix.t()
            weight, *bias = part.names
            found[weight] = (matrix[:, :-1] if bias else matrix).contiguous()
            found |= {name: matrix[:, -1].contiguous() for name in bias}
        return found

    # Sums over lanes; `bench.measure.online` replaces them to look at estimates lane by lane.

    def summed(self, pairs: Pairs) -> Tensor:
        """The outer products, summed over lanes and copies, as one vector (P,)."""
        parts = [(b.flatten(0, 1).t() @ a.flatten(0, 1)).flatten() for b, a in pairs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def over_lanes(self, each: Tensor) -> Tensor:
        """The sum over lanes of vectors (B, P): (P,)."""
        return each.sum(0)

    @property
    def _theta(self) -> dict[str, Tensor]:
        return {name: weight[None] for name, weight in self.transition.theta().items()}


class RandomOnline(Unclipped, Online):
    """An online method with noise."""

    Config = RandomConfig
    config: RandomConfig


class Differentiated(NamedTuple):
    """One step of any backbone, derived by torch.func; like `Local`, with all of theta as one site with one output."""

    state: Tensor
    transition: Transition
    before: Tensor
    x_t: Tensor

    def push(self, tangents: Tensor) -> Tensor:
        """X (B, N, k) -> J X."""
        columns = tangents.unbind(2)
        return torch.stack([self.transition.push(self.before, self.x_t, column)[1] for column in columns], 2)

    def pull(self, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """I^T v for v (B, r, N), as b (B, r, 1), which is all ones, and a (B, r, P)."""
        rows = [flat(self.transition.pull(self.before, self.x_t, vector)[2]) for vector in vectors.unbind(1)]
        return [(torch.ones_like(vectors[..., :1]), torch.stack(rows, 1))]

    def squares(self) -> None:
        """Not known."""
        return


def signs(shape: tuple[int, ...], noise: torch.Generator, like: Tensor) -> Tensor:
    """Random signs, -1 or 1 with equal probability, in the precision of `like`."""
    drawn = torch.randint(2, shape, generator=noise, device=noise.device, dtype=like.dtype)
    return drawn.mul_(2).sub_(1)


def joined(credit: Credit, gradient: dict[str, Tensor]) -> Credit:
    """The credit with a gradient by the RNN's parameters added to it."""
    found = dict(credit.gradient)
    for name, part in gradient.items():
        now = found.get(f"rnn.{name}")
        found[f"rnn.{name}"] = part if now is None else now + part
    return credit._replace(gradient=found)


def one_hot(x_t: Tensor, symbols: int, dtype: torch.dtype) -> Tensor:
    """x_t (B,) -> (B, symbols)."""
    return (x_t[:, None] == torch.arange(symbols, device=x_t.device)).to(dtype)


def exactly(like: Tensor) -> AbstractContextManager[None]:
    """A context without autocast: sensitivities are kept in float32 or better."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
