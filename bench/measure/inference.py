"""The cost of a token for a streaming predictor, as a function of the number of tokens before it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.errors import BadInput
from bench.measure.trace import Trace
from bench.methods.base import Method

TIMED = 5
"""The number of tokens up to each wanted position whose median time is taken: a single one may be interrupted."""


class Token(NamedTuple):
    """The cost of one token of one sequence, logits included."""

    position: int
    """The number of tokens before it."""
    flops: int
    """FLOPs of matrix products, convolutions and Fourier transforms."""
    elementwise: int
    """All other arithmetic, as `bench.measure.flops` counts it."""
    uncounted: dict[str, int]
    """Operators that no rule counts, with the number of their calls."""
    state_bytes: int
    """The size of the carried state after it."""
    seconds: float
    """The median over this token and the few before it, untraced, at batch size 1."""


def stream_costs(method: Method, x: Tensor, positions: Sequence[int]) -> list[Token]:
    """Stream x (1, T) through `advance`, without gradients, and measure the tokens at `positions`.

    Each of these tokens is taken in twice from the same state, once timed and once traced; the method is unchanged.
    Raises `BadInput` for a position that x does not reach.
    """
    wanted = sorted(set(positions))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < x.shape[1]:
        raise BadInput(f"positions: {wanted} given; should be from 0 to {x.shape[1] - 1}")
    training = method.training
    method.eval()
    try:
        with torch.no_grad():
            return list(_stream(method, x, wanted))
    finally:
        method.train(training)


def _stream(method: Method, x: Tensor, wanted: Sequence[int]) -> list[Token]:
    state, tokens, seconds = method.initial_state(1), [], []
    for position, x_t in enumerate(x[:, : wanted[-1] + 1].unbind(1) if wanted else ()):
        began = _now(x)
        _, after = method.advance(state, x_t[:, None])
        seconds.append(_now(x) - began)
        if position in wanted:
            with Trace() as trace:
                method.advance(state, x_t[:, None])
            cost, recent = trace.cost(), median(seconds[-TIMED:])
            whole = cost.whole
            tokens.append(Token(position, whole.flops, whole.elementwise, cost.uncounted, state_bytes(after), recent))
        state = after
    return tokens


def _now(x: Tensor) -> float:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def state_bytes(state: Any) -> int:
    """The bytes of a tree of tensors in lists, tuples, mappings and dataclasses; other values count nothing."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(state_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(state_bytes, state))
    if dataclasses.is_dataclass(state):
        return sum(state_bytes(getattr(state, field.name)) for field in dataclasses.fields(state))
    return 0
