"""The published training steps in their plainest form, from what METHODS of the paper say, on a method's own weights.

Every encoding apart, attention written out, all rows through all blocks, rollouts one step and one label after another.
Losses and gradients are the method's (tests/benchmarks/test_plain.py); only the time differs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.methods.base import Method, cross_entropy, scored_slice
from bench.methods.smt import cut_windows
from bench.models.layers import Block, Readout, _angles
from bench.models.teacher import Teacher
from bench.tasks.base import Batch


def norm(x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gain


def rotated(x: Tensor) -> Tensor:
    """x (B, heads, T, width) at positions 0, 1, ..."""
    cos, sin = (table[:, 0, 0] for table in _angles(x.shape[2], x.shape[3], x.device, x.dtype))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([second, first], -1) * sin


def block(layer: Block, x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, T, d); `mask` (.., T, T), true where a position may be attended to."""
    parts = layer.qkv(norm(x, 1 + layer.attention_norm.g)).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in parts)
    scores = rotated(q) @ rotated(k).transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    x = x + layer.merge((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return x + layer.contract(F.relu(layer.expand(norm(x, 1 + layer.feedforward_norm.g))).square())


def blocks(stack: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    for layer in stack:
        x = block(layer, x, mask)
    return x


def decoder(readout: Readout, tokens: Tensor) -> Tensor:
    """tokens (B, T, d) -> logits at all positions."""
    causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    return readout.head(norm(blocks(readout.blocks, tokens, causal), 1 + readout.norm.g))


def encode(teacher: Teacher, contexts: Tensor) -> Tensor:
    """Contexts (N, C), padded in front -> memories (N, K, d)."""
    count, registers = len(teacher.registers), teacher.registers.expand(len(contexts), -1, -1)
    tokens = torch.cat([teacher.context_embedding(contexts.clamp(min=0)), registers], 1)
    mask = F.pad(contexts != Teacher.PAD, (0, count), value=True)[:, None, None]
    return norm(blocks(teacher.encoder, tokens, mask)[:, -count:])


def update(rnn: Any, memory: Tensor, x_t: Tensor) -> Tensor:
    tokens = torch.cat([memory, rnn.embedding(x_t)[:, None]], 1)
    return norm(blocks(rnn.updater.blocks, tokens)[:, :-1])


def read(rnn: Any, memory: Tensor) -> Tensor:
    return decoder(rnn.readout, memory)[:, -1]


def smt(method: Any, batch: Batch, drawn: Any) -> dict[str, Tensor]:
    """The step of `smt`."""
    config, teacher = method.config, method.teacher
    seen = cut_windows(batch.x, batch.y, drawn.t, config.context, config.future, method.first)
    before, memory = encode(teacher, seen.before), encode(teacher, seen.context)
    tokens = torch.cat([memory, teacher.future_embedding(seen.future)], 1)
    dec = cross_entropy(decoder(teacher.decoder, tokens)[:, memory.shape[1] - 1 :], seen.targets)
    dyn = F.mse_loss(update(method.rnn, before, seen.x_t), memory)
    compared = memory.flatten(0, 1) if drawn.compared is None else memory.flatten(0, 1)[drawn.compared]
    apart = (F.normalize(compared, dim=-1)[:, None] - F.normalize(compared, dim=-1)).square().sum(-1)
    others = ~torch.eye(len(compared), dtype=torch.bool)
    unif = (-2 * apart[others]).exp().mean().log()
    return {"loss": config.lambda_dec * dec + config.lambda_dyn * dyn + config.lambda_unif * unif, "L_dec": dec}


def dmt(method: Any, batch: Batch, drawn: Any) -> dict[str, Tensor]:
    """The step "dmt" of `smt+dmt`: the rollout detached between its steps, labels encoded on the way."""
    config, (x, y, _), rnn = method.config, batch, method.rnn
    labelled, scored = set(drawn.t.tolist()), set(range(x.shape[1])[scored_slice(method.task, x.shape[1])])
    memory, errors, logits = method.initial_state(len(x)), [], []
    for t in range(x.shape[1]):
        memory = update(rnn, memory.detach(), x[:, t])
        if t in labelled:
            with torch.no_grad():
                label = encode(method.teacher, x[:, max(0, t + 1 - config.context) : t + 1])
            errors.append(F.mse_loss(memory, label))
        if t in scored:
            logits.append(read(rnn, memory.detach() if config.dmt.detach_readout else memory))
    dyn = torch.stack(errors).mean()
    readout = cross_entropy(torch.stack(logits, 1), y[:, sorted(scored)])
    return {"loss": config.dmt.lambda_dyn * dyn + config.dmt.lambda_readout * readout, "L_readout": readout}


def bptt(method: Any, batch: Batch, drawn: Any) -> dict[str, Tensor]:
    """The step of `bptt`."""
    memory, logits = method.initial_state(len(batch.x)), []
    scored = range(batch.x.shape[1])[scored_slice(method.task, batch.x.shape[1])]
    for t, x_t in enumerate(batch.x.unbind(1)):
        memory = update(method.rnn, memory, x_t)
        if t in scored:
            logits.append(read(method.rnn, memory))
    return {"loss": cross_entropy(torch.stack(logits, 1), batch.y[:, list(scored)])}


def made_plain(method: Method) -> Method:
    """The method itself, which from now on takes plain steps."""
    steps = {"smt": smt, "dmt": dmt, "train": bptt}
    method.losses = lambda batch, drawn, carry, phase: (steps[phase](method, batch, drawn), carry)  # type: ignore
    return method
