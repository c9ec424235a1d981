"""Compares the derivatives that a backbone gives of its step with autograd."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.models.backbone import Backbone, State
from bench.models.jacobian import flat, unflat

Compared = Iterator[tuple[str, Tensor, Tensor]]
"""A name, the value by the backbone, and the value by autograd."""


def of_local(backbone: Backbone, state: State, u: Tensor, cotangent: Tensor, tangent: Tensor) -> Compared:
    """All derivatives from `local` for one step from a state, in products with vectors (B, N)."""
    found = backbone.local(state, u)
    vectors, token = flat(state).requires_grad_(), u.clone().requires_grad_()
    after = flat(backbone.step(unflat(vectors, state), token))
    named = dict(backbone.named_parameters())
    by_state, by_token, *by_parameter = torch.autograd.grad(
        (after * cotangent).sum(), [vectors, token, *named.values()], materialize_grads=True
    )
    wanted = dict(zip(named, by_parameter, strict=True))
    yield "the state", found.state, after
    pushed = found.push(tangent[..., None])[..., 0]
    yield "push", (cotangent * pushed).sum(1), (by_state * tangent).sum(1)
    into = torch.zeros_like(u)
    for site, (b, a) in zip(found.sites, found.pull(cotangent[:, None]), strict=True):
        weight, *bias = site.names
        outer = b[:, 0].t() @ a[:, 0]
        parts = [outer[:, :-1], outer[:, -1]] if bias else [outer]
        yield from ((f"the site of {name}", part, wanted.pop(name)) for name, part in zip(site.names, parts))
        if site.token:
            into = into + (cotangent[:, None] @ site.by_token(named[weight], u.shape[1]))[:, 0]
        alone = site.pulled(torch.eye(cotangent.shape[1], dtype=u.dtype).expand(len(u), -1, -1))
        yield f"rows of {weight}", site.squares(), alone.square().sum(2) * site.a.square().sum(1, keepdim=True)
    yield "the embedded input", into, by_token
    yield from ((f"{name}, of no site", torch.zeros_like(by), by) for name, by in wanted.items())


def of_traces(backbone: Backbone, u: Tensor, cotangent: Tensor) -> Compared:
    """The derivatives from `trace` and `trace_credit` after inputs u (B, T, d), in products with a vector (B, N)."""
    traces, state = backbone.begin_traces(len(u)), backbone.initial(len(u))
    with torch.no_grad():
        for u_t in u.unbind(1):
            before = state
            found = backbone.trace(state, u_t, traces)
            state, traces = found.state, found.traces
    token = u[:, -1].clone().requires_grad_()
    last = before.clone().requires_grad_()
    after = flat(backbone.step(last, token))
    by_last, by_token = torch.autograd.grad((after * cotangent).sum(), [last, token])
    by_state = unflat(cotangent, state)
    yield "the state", flat(state), after
    yield "decay", by_state * found.decay.conj(), by_last
    yield "the embedded input", torch.einsum("bn,bnd->bd", by_state.conj(), found.token).real, by_token
    named = dict(backbone.named_parameters())
    whole = backbone.initial(len(u))
    for u_t in u.unbind(1):
        whole = backbone.step(whole, u_t)
    wanted = torch.autograd.grad((flat(whole) * cotangent).sum(), [*named.values()], materialize_grads=True)
    credit = backbone.trace_credit(traces, by_state)
    for name, by_autograd in zip(named, wanted, strict=True):
        yield name, credit.get(name, torch.zeros_like(by_autograd)), by_autograd
