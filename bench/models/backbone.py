"""The backbone contract: a backbone maps a state and an embedded input to the next state, and owns its time loop.

    s_t = step(s_{t-1}, u_t),    features(s_t, u_t) -> readout,    scan = all of a sequence at once

A state is a tree of tensors, (nested) tuples or mappings of them, each with the lanes first. Nothing outside normalises
it: what a step returns is what the next one takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.local import Local, Traced

State = Any
"""A tree of tensors: a single one, or a tuple or mapping of trees."""
Recurrence = Literal["dense", "elementwise", "linear"]
"""What the next state of a unit depends on: the states of all units, its own state alone, or its own state linearly.

With "linear", credit can be carried forward and a sequence scanned in parallel, at the price of an element-wise step.
"""
RECURRENCES: tuple[Recurrence, ...] = get_args(Recurrence)


class Backbone(nn.Module):
    """One layer, or a stack, of a recurrent network. Plugins subclass this and `register_backbone`.

    A subclass builds its modules in `__init__` from the sizes in the config (d is the width of an input), sets `width`,
    and implements `initial`, `step` and `features`.
    """

    name: str
    recurrence: ClassVar[Recurrence] = "dense"
    matched: ClassVar[bool] = True
    """Whether `model.updater_width: null` gives it about as many parameters as the transformer updater has."""
    width: int
    """F, the number of features that the readout sees."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def memory(cls, config: ModelConfig) -> tuple[int, int] | None:
        """(K, d) where the state is a grid of K normalised tokens, as SMT's teacher writes it (B, K, d); else None."""
        return None

    def initial(self, lanes: int) -> State:
        """The state before any input."""
        raise NotImplementedError

    def step(self, state: State, u: Tensor) -> State:
        """Take in one embedded input u (B, d): the next state. Differentiable in all, and pure."""
        raise NotImplementedError

    def features(self, state: State, u: Tensor) -> Tensor:
        """What the readout sees of the state after u: (B, F)."""
        raise NotImplementedError

    def prepare(self, u: Tensor) -> tuple[Callable[[State, Tensor], State], Tensor]:
        """For a rollout over u (B, T, d): the step function, and the inputs in the form it takes, (B, T, ...).

        Override this to do work that depends on no state once, for all inputs; the steps must equal `step`.
        """
        return self.step, u

    def scan(self, state: State, u: Tensor, start: Tensor | None = None) -> tuple[Tensor, State]:
        """Take in u (B, T, d), T >= 1: features (B, T, F) and the last state.

        A lane restarts at each column where `start` (B, T), bool, is true. This is the loop of steps; override it where
        there is a faster way that equals it in float64.
        """
        fresh = None if start is None else self.initial(len(u))
        step, inputs = self.prepare(u)
        features = []
        for t, (u_t, input_t) in enumerate(zip(u.unbind(1), inputs.unbind(1), strict=True)):
            if start is not None:
                state = reset(state, fresh, start[:, t])
            state = step(state, input_t)
            features.append(self.features(state, u_t))
        return torch.stack(features, 1), state

    def local(self, state: State, u: Tensor) -> Local:
        """Take a `step`, and give the derivatives that carry credit forward, by the names of this module's parameters.

        Every parameter that the next state depends on belongs to a site. This method and the next three are optional.
        """
        raise NotImplementedError

    def begin_traces(self, lanes: int) -> dict[str, Tensor]:
        """The traces before any input, zeros with lanes and units first: the influence of the parameters on a unit."""
        raise NotImplementedError

    def trace(self, state: State, u: Tensor, traces: dict[str, Tensor]) -> Traced:
        """Take a `step` where a unit depends on itself alone, and carry the exact influence along with the state."""
        raise NotImplementedError

    def trace_credit(self, traces: dict[str, Tensor], by_state: Tensor) -> dict[str, Tensor]:
        """Gradients by parameter, summed over lanes, from the traces and the gradient by the state (B, n)."""
        raise NotImplementedError

    @classmethod
    def says(cls, what: Literal["local", "trace"]) -> bool:
        """Whether `local` or `trace` belongs to the `step` of this class, not to one that a subclass has replaced."""
        return what in vars(definer(cls, "step", what))


def definer(cls: type, *names: str) -> type:
    """The first class in the method resolution order that defines one of these names."""
    return next(ancestor for ancestor in cls.__mro__ if vars(ancestor).keys() & set(names))


def map_tree(function: Callable[..., Tensor], *trees: State) -> State:
    """Apply a function to the corresponding tensors of trees of the same form."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, dict):
        return {name: map_tree(function, *(tree[name] for tree in trees)) for name in first}
    return tuple(map_tree(function, *parts) for parts in zip(*trees, strict=True))


def leaves(tree: State) -> list[Tensor]:
    """The tensors of a tree, from left to right."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(part)]


def reset(state: State, fresh: State, where: Tensor) -> State:
    """The state, with `fresh` in the lanes in which `where` (B,) is true."""
    return map_tree(lambda old, new: torch.where(where.view(-1, *[1] * (old.ndim - 1)), new, old), state, fresh)
