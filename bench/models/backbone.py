"""The backbone contract: a backbone maps a state and an embedded input to the next state, and owns its time loop.

    s_t = step(s_{t-1}, u_t),    features(s_t, u_t) -> readout,    scan = the whole sequence

A state is a tree of tensors, (nested) tuples or mappings of them, each with the lanes first. The harness does not
change it: what a step returns is the input of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.local import Local, Traced

State = Any
"""A tree of tensors: a tensor, or a tuple or mapping of trees."""
Recurrence = Literal["dense", "elementwise", "linear"]
"""What the next state of a unit depends on: the states of all units, its own state alone, or its own state linearly.

With "linear", carrying credit forward costs as much as an element-wise step, and a sequence can be scanned in parallel.
"""
RECURRENCES: tuple[Recurrence, ...] = get_args(Recurrence)


class Backbone(nn.Module):
    """One layer, or a stack of layers, of a recurrent network. Plugins subclass and register it (`register_backbone`).

    A subclass builds its modules in `__init__` from the sizes in the config (d is the width of an input), sets `width`,
    and implements `initial`, `step` and `features`.
    """

    name: str
    recurrence: ClassVar[Recurrence] = "dense"
    matched: ClassVar[bool] = True
    """Whether `model.updater_width: null` gives it about as many parameters as the transformer updater."""
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
        """The next state after an embedded input u (B, d). Pure, and differentiable in state, input and parameters."""
        raise NotImplementedError

    def features(self, state: State, u: Tensor) -> Tensor:
        """The features of the state after u that the readout sees, (B, F)."""
        raise NotImplementedError

    def prepare(self, u: Tensor) -> tuple[Callable[[State, Tensor], State], Tensor]:
        """The step function for a rollout over u (B, T, d), and the inputs in the form that it takes, (B, T, ...).

        Override this to do work that does not depend on the state once for all inputs; the steps must equal `step`.
        """
        return self.step, u

    def scan(self, state: State, u: Tensor, start: Tensor | None = None) -> tuple[Tensor, State]:
        """The features (B, T, F) and the last state after u (B, T, d), T >= 1.

        A lane restarts at each column where `start` (B, T), bool, is true. The default loops over steps; override it
        where there is a faster way that equals the loop in float64.
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
        """A `step` with the derivatives that carry credit forward, by the names of this module's parameters.

        Every parameter that affects the next state belongs to a site. This method and the next three are optional.
        """
        raise NotImplementedError

    def begin_traces(self, lanes: int) -> dict[str, Tensor]:
        """The traces before any input, zeros with lanes and units first: the influence of each parameter on a unit."""
        raise NotImplementedError

    def trace(self, state: State, u: Tensor, traces: dict[str, Tensor]) -> Traced:
        """A `step` of units that depend on themselves alone, with the exact influence carried along as traces."""
        raise NotImplementedError

    def trace_credit(self, traces: dict[str, Tensor], by_state: Tensor) -> dict[str, Tensor]:
        """The gradients by parameter, summed over lanes, from the traces and the gradient by the state (B, n)."""
        raise NotImplementedError

    @classmethod
    def says(cls, what: Literal["local", "trace"]) -> bool:
        """Whether the class defines `local` or `trace` for its current `step`, which a subclass may have replaced."""
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
    """The state with `fresh` in the lanes where `where` (B,) is true."""
    return map_tree(lambda old, new: torch.where(where.view(-1, *[1] * (old.ndim - 1)), new, old), state, fresh)
