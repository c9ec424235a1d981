"""Pre-norm Transformer blocks with RMSNorm and rotary positions, shared by all models.

Rotary positions: Su et al., *RoFormer*, arXiv 2104.09864. RMSNorm: Zhang & Sennrich, arXiv 1910.07467.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config import ModelConfig

EPS = 1e-6
LAST = slice(-1, None)
"""The last position alone."""
EVERY = slice(None)
"""All positions."""
ALL, QUERIES, KEYS_AND_VALUES = slice(0, 3), slice(0, 1), slice(1, 3)
"""The parts of the joint projection to queries, keys and values."""
Rows = slice | Tensor
"""The positions that are read: a slice for all sequences, or indices for each, (B, n) int64."""
Cache = tuple[Tensor, Tensor]
"""The keys and values of one block so far, each (B, heads, n, head width)."""


class Symbols(NamedTuple):
    """The input of a first block, where its vectors are rows of a table."""

    table: Tensor  # (V, d)
    at: Tensor  # (B, T) int64, the rows


def rms_normalise(x: Tensor) -> Tensor:
    """Scale the last axis to a root mean square of 1 (0 stays 0), as is done to every memory token."""
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


class SquaredReLU(torch.autograd.Function):
    """max(x, 0)^2 with derivative 2 max(x, 0), in half the time of the chain rule through relu and product."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        positive = F.relu(x)
        return positive.mul_(positive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (gradient * F.relu(x)).mul_(2)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (tangent * F.relu(x)).mul_(2)


def activation(x: Tensor) -> Tensor:
    """Squared ReLU (So et al., *Primer*, arXiv 2109.08668); GELU took a fifth of a training step on a CPU."""
    # A compiler fuses the operators itself and cannot trace a function with a jvp; for small inputs either is fast.
    if torch.compiler.is_compiling() or x.numel() < 2**16:
        positive = F.relu(x)
        return positive * positive
    return SquaredReLU.apply(x)


@lru_cache(maxsize=64)
def _angles(length: int, width: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of the rotation at positions 0 .. length-1, each (length, 1, 1, width)."""
    # A longer table is cut, so that the angles at a position have the same bits for any requested length.
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # (length, width / 2)
    cos, sin = angle.cos(), angle.sin()
    both = (torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))
    return tuple(table[:, None, None].to(device, dtype) for table in both)  # type: ignore[return-value]


def rotate(x: Tensor, start: int, length: int | None = None) -> Tensor:
    """Apply rotary positions start, start + 1, ... to x (B, T, n, heads, head width), n of queries and keys.

    With a `length`, T may be 1: x is then the same at `length` positions.
    """
    cos, sin = _angles(start + (length or x.shape[1]), x.shape[-1], x.device, x.dtype)
    if start:
        cos, sin = cos[start:], sin[start:]
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def grown(cache: Cache | None, new: Cache) -> Cache:
    """The cache, if any, extended by the keys and values of the positions that follow."""
    return new if cache is None else (torch.cat([cache[0], new[0]], 2), torch.cat([cache[1], new[1]], 2))


def take(x: Tensor, rows: Rows) -> Tensor:
    """The given rows of x (B, T, d), contiguous in memory: (B, n, d).

    A product with rows that are not contiguous is rounded differently for trained and for frozen weights.
    """
    if isinstance(rows, slice):
        return x[:, rows].contiguous()
    first = torch.arange(0, len(x) * x.shape[1], x.shape[1], device=x.device)
    return x.flatten(0, 1).index_select(0, (rows + first[:, None]).flatten()).unflatten(0, rows.shape)


class RMSNorm(nn.Module):
    """RMSNorm with gain 1 + g, where g starts at 0, so that weight decay pulls the gain to 1 and not to 0."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) -> the same shape."""
        return F.rms_norm(x, self.g.shape, 1 + self.g, EPS)


class Block(nn.Module):
    """Attention, then a feed-forward part, each on a normalised input and with a residual connection."""

    def __init__(self, config: ModelConfig, depth: int) -> None:
        super().__init__()
        self.heads = config.heads
        inner, hidden = config.attention_width, config.feedforward * config.d
        self.attention_norm = RMSNorm(config.d)
        self.qkv = nn.Linear(config.d, 3 * inner, bias=False)
        self.merge = nn.Linear(inner, config.d, bias=False)
        self.feedforward_norm = RMSNorm(config.d)
        self.expand = nn.Linear(config.d, hidden)
        self.contract = nn.Linear(hidden, config.d)
        if config.initialisation == "pytorch":
            return
        for into in (self.qkv, self.expand):
            nn.init.normal_(into.weight, std=config.d**-0.5)
        for out in (self.merge, self.contract):  # the residual stream keeps its scale in a stack of any depth
            nn.init.normal_(out.weight, std=(2 * depth * out.in_features) ** -0.5)
        nn.init.zeros_(self.expand.bias)
        nn.init.zeros_(self.contract.bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        rows: Rows = EVERY,
        symbols: Symbols | None = None,
    ) -> tuple[Tensor, Cache]:
        """x (B, T, d) -> the n requested rows of the output (B, n, d), and keys and values of all positions so far.

        `mask` (B, 1, 1, T), bool, is true where a position may be attended to. With a `cache` of n positions, x is the
        single position that follows. Where x consists of few different vectors, `symbols` names them, and each is
        projected once.
        """
        return weights(self, x.shape[:-1].numel()).run(x, mask, causal, cache, rows, symbols)


class Weights(NamedTuple):
    """The weights of a block in the form in which it applies them, each as in `F.linear`."""

    heads: int
    attention_gain: Tensor | None
    """None where the gain is multiplied into the weights after it; the same goes for `feedforward_gain`."""
    qkv: Tensor
    merge: Tensor
    feedforward_gain: Tensor | None
    expand: tuple[Tensor, Tensor]
    contract: tuple[Tensor, Tensor]

    def run(
        self,
        x: Tensor,
        mask: Tensor | None,
        causal: bool,
        cache: Cache | None = None,
        rows: Rows = EVERY,
        symbols: Symbols | None = None,
    ) -> tuple[Tensor, Cache]:
        """`Block.forward`."""
        start = 0 if cache is None else cache[0].shape[2]
        span = None if isinstance(rows, Tensor) else range(x.shape[1])[rows]
        read = x if span == range(x.shape[1]) else take(x, rows)
        alone = bool(span) and (not causal or rows == LAST)  # attention needs only the queries of these rows
        if symbols is not None:
            each = self.project(self.before_attention(symbols.table), ALL)
            projected = F.embedding(symbols.at, each.flatten(1)).unflatten(-1, each.shape[1:])
            q, *kv = self.rotated(projected, ALL, start)
            q = q[:, :, rows] if alone and read is not x else q
        elif span and alone and span.step == 1 and 2 * len(span) < x.shape[1]:  # (otherwise one product is cheaper)
            normal = self.before_attention(x)
            q, *kv = (
                *self.heads_at(take(normal, rows), QUERIES, start + span[0]),
                *self.heads_at(normal, KEYS_AND_VALUES, start),
            )
        else:
            q, *kv = self.heads_at(self.before_attention(x), ALL, start)
            q = q[:, :, rows] if alone and read is not x else q
        k, v = grown(cache, (kv[0], kv[1]))
        masked = causal and cache is None and not alone
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=masked).transpose(1, 2).flatten(2)
        return self.after_attention(read, mixed if alone or read is x else take(mixed, rows)), (k, v)

    def before_attention(self, x: Tensor) -> Tensor:
        """The normalised input of attention: x (..., d) -> the same shape."""
        return F.rms_norm(x, x.shape[-1:], self.attention_gain, EPS)

    def project(self, normal: Tensor, parts: slice) -> Tensor:
        """Queries, keys and values, or some of them, of normalised x (..., d): (..., parts, heads, head width)."""
        inner = self.merge.shape[1]
        weight = self.qkv if parts == ALL else self.qkv[parts.start * inner : parts.stop * inner]
        return F.linear(normal, weight).view(*normal.shape[:-1], -1, self.heads, inner // self.heads)

    def heads_at(self, normal: Tensor, parts: slice, start: int) -> tuple[Tensor, ...]:
        """`project` of x (B, T, d) at positions start, start + 1, ..., to which queries and keys are rotated.

        Each part is (B, heads, T, head width).
        """
        return self.rotated(self.project(normal, parts), parts, start)

    def rotated(self, projected: Tensor, parts: slice, start: int) -> tuple[Tensor, ...]:
        """The result of `heads_at` from an input already projected, (B, T, parts, heads, head width)."""
        count = min(parts.stop, 2) - parts.start
        rotating, plain = projected.split((count, parts.stop - parts.start - count), 2)
        turned = (*rotate(rotating, start).unbind(2), *plain.unbind(2))
        return tuple(part.transpose(1, 2) for part in turned)

    def after_attention(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the block: x (..., d) and the heads' output (..., heads x head width) -> the shape of x."""
        x = x + F.linear(mixed, self.merge)
        normal = F.rms_norm(x, x.shape[-1:], self.feedforward_gain, EPS)
        return x + F.linear(activation(F.linear(normal, *self.expand)), *self.contract)


def weights(block: Block, rows: int | None = None) -> Weights:
    """The weights of a block that is applied to `rows` rows, or repeatedly (None).

    The gain of a norm is multiplied into the weights after it, unless these are larger than their input.
    """
    attention_gain, feedforward_gain = 1 + block.attention_norm.g, 1 + block.feedforward_norm.g
    expand, contract = (block.expand.weight, block.expand.bias), (block.contract.weight, block.contract.bias)
    if rows is not None and rows < block.qkv.out_features:
        return Weights(
            block.heads, attention_gain, block.qkv.weight, block.merge.weight, feedforward_gain, expand, contract
        )
    qkv, expanding = map(_cast, (block.qkv.weight * attention_gain, block.expand.weight * feedforward_gain))
    return Weights(block.heads, None, qkv, block.merge.weight, None, (expanding, block.expand.bias), contract)


def _cast(weight: Tensor) -> Tensor:
    """The weight in the precision of autocast, if that is on; it would otherwise be cast at every use."""
    device = weight.device.type
    return weight.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight


def prepared(blocks: nn.ModuleList) -> list[Callable[..., Any]]:
    """The blocks as functions for a rollout that applies them repeatedly; work that needs no input is done once."""
    return [weights(block).run for block in blocks]  # type: ignore[arg-type]


def stack(config: ModelConfig, depth: int) -> nn.ModuleList:
    """`depth` blocks in a row."""
    return nn.ModuleList(Block(config, depth) for _ in range(depth))


def attend(
    blocks: Sequence[Callable[..., Any]] | nn.ModuleList,
    x: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    rows: Rows = EVERY,
    symbols: Symbols | None = None,
) -> Tensor:
    """Apply the blocks to x (B, T, d), the last of them only at the requested rows; the rest as in `Block.forward`."""
    *below, last = blocks
    for block in below:
        x, _ = block(x, mask, causal, symbols=symbols)
        symbols = None
    return last(x, mask, causal, rows=rows, symbols=symbols)[0]


def attend_to_symbols(
    blocks: nn.ModuleList,
    table: Tensor,
    index: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    rows: Rows = EVERY,
) -> Tensor:
    """`attend` to x = table[index], for a table (V, d) and an index (B, T) int64."""
    few = Symbols(table, index) if len(table) < index.numel() else None
    return attend(blocks, F.embedding(index, table), mask, causal, rows, few)


def embedding(symbols: int, d: int) -> nn.Embedding:
    """An embedding of vectors whose root mean square is about 1, as of a memory token."""
    table = nn.Embedding(symbols, d)
    nn.init.normal_(table.weight)
    return table


class FixedEmbedding(nn.Module):
    """An embedding of random vectors that no method trains."""

    weight: Tensor

    def __init__(self, symbols: int, d: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(symbols, d))

    def forward(self, x: Tensor) -> Tensor:
        """x (...) int64 -> (..., d)."""
        return F.embedding(x, self.weight)


class Readout(nn.Module):
    """Causal blocks, a norm and a linear map to logits: SMT's decoder without its embedding, and the RNN's readout."""

    def __init__(self, config: ModelConfig, depth: int, output_size: int) -> None:
        super().__init__()
        self.blocks = stack(config, depth)
        self.norm = RMSNorm(config.d)
        self.head = nn.Linear(config.d, output_size)
        if config.initialisation == "pytorch":
            return
        nn.init.normal_(self.head.weight, std=config.d**-0.5 / 2)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, columns: Rows = LAST) -> Tensor:
        """tokens (B, T, d) -> logits (B, n, O) at the requested positions, by default the last."""
        return self.head(self.norm(attend(self.blocks, tokens, causal=True, rows=columns)))

    def ahead(self, memory: Tensor, future: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Memory (N, K, d), then F - 1 tokens (N, F - 1, d) -> logits (N, F, O), the first after the memory alone.

        With `outputs` (N, n), only these of the F outputs: (N, n, O).
        """
        last = memory.shape[1] - 1
        return self(torch.cat([memory, future], 1), slice(last, None) if outputs is None else outputs + last)
