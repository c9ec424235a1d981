"""What methods share that carry sensitivities of the state forward, column by column of a stream.

A step, theta being one and the same in all of it:

    1. the new state, and what its step says of itself (`bench.models.local`, or torch.func for any backbone)
    2. the loss, and its gradient by the new state: one backward pass through the readout alone
    3. `carried`: the credit of what was carried so far, and what is carried on

Nothing outlives a step with a graph. Work and memory do not grow with the length of the stream. With steps of the
optimiser in between, what is carried holds the derivatives at the weights that were in force then.
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
"""b (B, r, q) and a (B, r, m) of parts of theta, of which b a^T is the gradient."""
EMBEDDING = "embedding.weight"


class Part(NamedTuple):
    """A matrix of theta, (q, m), with its bias as a further column."""

    names: tuple[str, ...]
    q: int
    m: int


class OnlineConfig(MethodConfig):
    """When to step, and how much memory the sensitivities may take."""

    update_every: Positive | None = Field(None, description="columns between two steps; null: once a batch")
    max_bytes: Positive = Field(2 * 2**30, description="of all lanes' sensitivities; a run that needs more is refused")


class UnclippedConfig(MethodConfig):
    """Of an estimator with noise, whose mean clipping would move."""

    clip: Annotated[float, Field(gt=0)] | None = Field(
        None, description="gradient norm, in the place of training.optimiser.clip; null: none"
    )


class Unclipped(RecurrentMethod):
    """An estimator whose mean over its noise is the exact gradient, while the parameters stand still."""

    Config = UnclippedConfig
    config: UnclippedConfig
    gradient_is: ClassVar[Mapping[str, Any]] = {"train": "unbiased"}

    def phases(self, training: TrainingConfig) -> list[Phase]:
        """Those of any method, with `clip` as the gradient norm at which they clip."""
        clip = {"clip": self.config.clip}
        phases = super().phases(training)
        return [dataclasses.replace(phase, optimiser=phase.optimiser.model_copy(update=clip)) for phase in phases]


class RandomConfig(UnclippedConfig, OnlineConfig):
    """The fields of both."""


class Online(RecurrentMethod):
    """A subclass says what it carries (`sensitivities`) and implements `carried`."""

    Config = OnlineConfig
    config: OnlineConfig
    data = "streams"
    carries: ClassVar[str] = "what it carries"
    """In words, for a refusal."""

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        method: Any = build.build_method(run, build.build_task(run), device="cpu")
        if reason := method.unfit():
            return reason
        # Their sizes alone, as they may be too large. The network is built: a few operators on "meta" would import
        # torch's compiler, which takes seconds.
        state = method.zeros.new_empty(run.training.batch_size, method.zeros.shape[1], device="meta")
        held = method.sensitivities(state)
        size, most = sum(leaf.numel() * leaf.element_size() for leaf in leaves(held)), method.config.max_bytes
        return f"{cls.carries} would take {size:,} bytes, above method.max_bytes, {most:,}" if size > most else None

    def unfit(self) -> str | None:
        """Why this method cannot train its network, or None."""
        return None

    @classmethod
    def uncompilable(cls, run: Run) -> str | None:
        """A step can be compiled where it asks neither torch.func nor autograd anything, one column at a time."""
        method: Any = build.build_method(run, build.build_task(run), device="cpu")
        if method.block > 1:
            return f"{cls.name} in blocks of {method.block} columns is not compiled"
        if method.closed and method._seen_as_it_is:
            return None
        return f"{cls.name} on {run.model.backbone} asks autograd in each step; tanh with a linear readout does not"

    @property
    def piece(self) -> int | None:
        return self.config.update_every

    @cached_property
    def transition(self) -> Transition:
        """The recurrent part of the RNN; none of this module's own, which has its parameters already."""
        return Transition(self.rnn)

    def begin(self, lanes: int) -> Carry:
        state = flat(self.rnn.initial_state(lanes))
        return Carry((state, self.sensitivities(state)))

    def sensitivities(self, state: Tensor) -> Any:
        """What is carried beside the states (B, N), before any input: a tree of zeros, lanes first."""
        raise NotImplementedError

    def moved(self, state: Tensor, held: Any, x_t: Tensor) -> Any:
        """The step from states (B, N): something with the next ones as `state`, (B, N), without gradients."""
        return self.local(state, x_t)

    def carried(self, moved: Any, held: Any, by_state: Tensor, drawn_t: Any) -> tuple[Any, dict[str, Tensor]]:
        """What is carried on, and gradients by the RNN's parameters, from `sensitivities` and dl_t / ds_t (B, N)."""
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
        """The credit that reaches parameters without passing through the last state, and dl_t / ds_t by lane (B, N)."""
        if self._seen_as_it_is and not torch.is_autocast_enabled(state.device.type):
            return self._through_linear(state, y_t)
        names, parameters = self._immediate
        leaf = state.detach().requires_grad_()
        with torch.enable_grad():
            features = self.rnn.updater.features(self.tree(leaf), self.rnn.embedding(x_t))
            loss, weight = self.objective(self.rnn.read(features), y_t)
            by_state, *found = torch.autograd.grad(loss, [leaf, *parameters], materialize_grads=True)
        return Credit(dict(zip(names, found, strict=True)), weight, {"loss": loss.detach()}), by_state

    @cached_property
    def _seen_as_it_is(self) -> bool:
        """Whether a loss is the cross-entropy of a linear map of the state."""
        zeros, plain = self.zeros, type(self).objective is Method.objective and self.rnn.tokens is None
        u = self.rnn.embedding(torch.zeros(1, dtype=torch.long, device=zeros.device))
        return plain and self.rnn.updater.features(self.tree(zeros), u) is zeros

    def _through_linear(self, state: Tensor, y_t: Tensor) -> tuple[Credit, Tensor]:
        """`immediate` written out, in a third of the time of the same by autograd."""
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
        """Names and parameters that a loss depends on beside the state: those that one of two lanes reaches."""
        named = dict(self.named_parameters())
        device = next(iter(named.values())).device
        x = torch.zeros(2, dtype=torch.long, device=device)
        with torch.enable_grad():
            state = self.rnn.initial_state(2)
            loss, _ = self.objective(self.rnn.read(self.rnn.updater.features(state, self.rnn.embedding(x))), x)
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        reached = [name for name, gradient in zip(named, found, strict=True) if gradient is not None]
        return reached, [named[name] for name in reached]

    # The step of a cell that says it itself, and of any other.

    @cached_property
    def closed(self) -> bool:
        """Whether the cell says its own step; of others torch.func finds it out."""
        return self.rnn.updater.says("local")

    def local(self, state: Tensor, x_t: Tensor) -> Local | Differentiated:
        """The step from states (B, N); of a cell that says it, with a trained embedding as one more site."""
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
        """Of theta as one vector, in their order."""
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
        """Whether the cell's state is one vector of real numbers."""
        form = self.rnn.initial_state(1)
        return isinstance(form, Tensor) and form.ndim == 2 and not form.is_complex()

    def tree(self, vectors: Tensor) -> Any:
        """Vectors (B, N) as the cell's own state."""
        return vectors if self._vectors else self.transition.tree(vectors)

    @property
    def size(self) -> int:
        """Numbers in theta, P."""
        return sum(part.q * part.m for part in self.parts)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector (P,) by the RNN's parameters."""
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

    # Over lanes; what looks at estimates lane by lane puts others in their place.

    def summed(self, pairs: Pairs) -> Tensor:
        """The sum over lanes and copies of outer products, one after another, (P,)."""
        parts = [(b.flatten(0, 1).t() @ a.flatten(0, 1)).flatten() for b, a in pairs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def over_lanes(self, each: Tensor) -> Tensor:
        """The sum of the lanes' own vectors (B, P), (P,)."""
        return each.sum(0)

    @property
    def _theta(self) -> dict[str, Tensor]:
        return {name: weight[None] for name, weight in self.transition.theta().items()}


class RandomOnline(Unclipped, Online):
    """An online method with noise."""

    Config = RandomConfig
    config: RandomConfig


class Differentiated(NamedTuple):
    """One step of any backbone as torch.func finds it out; as `Local`, with all of theta as one site of one output."""

    state: Tensor
    transition: Transition
    before: Tensor
    x_t: Tensor

    def push(self, tangents: Tensor) -> Tensor:
        """X (B, N, k) -> J X."""
        columns = tangents.unbind(2)
        return torch.stack([self.transition.push(self.before, self.x_t, column)[1] for column in columns], 2)

    def pull(self, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """I^T v for v (B, r, N), as b (B, r, 1), all ones, and a (B, r, P)."""
        rows = [flat(self.transition.pull(self.before, self.x_t, vector)[2]) for vector in vectors.unbind(1)]
        return [(torch.ones_like(vectors[..., :1]), torch.stack(rows, 1))]

    def squares(self) -> None:
        """Not known."""
        return


def signs(shape: tuple[int, ...], noise: torch.Generator, like: Tensor) -> Tensor:
    """-1 and 1, equally likely, in the precision of `like`."""
    drawn = torch.randint(2, shape, generator=noise, device=noise.device, dtype=like.dtype)
    return drawn.mul_(2).sub_(1)


def joined(credit: Credit, gradient: dict[str, Tensor]) -> Credit:
    """The credit, with gradients by the RNN's parameters added."""
    found = dict(credit.gradient)
    for name, part in gradient.items():
        now = found.get(f"rnn.{name}")
        found[f"rnn.{name}"] = part if now is None else now + part
    return credit._replace(gradient=found)


def one_hot(x_t: Tensor, symbols: int, dtype: torch.dtype) -> Tensor:
    """x_t (B,) -> (B, symbols)."""
    return (x_t[:, None] == torch.arange(symbols, device=x_t.device)).to(dtype)


def exactly(like: Tensor) -> AbstractContextManager[None]:
    """Sensitivities are float32 at least: outside autocast."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
