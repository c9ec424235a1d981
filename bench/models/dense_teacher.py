"""The teacher of dense SMT, which writes the memories of all prefixes of a sequence in one causal pass.

Tokens attend to the tokens before them; at every position K registers read the tokens up to it. With T = 3 inputs:

    BOS x0 x1 x2  ->  m before any input, m after x0, m after x1, m after x2

The published teacher encodes each prefix in a pass of its own, T + 1 in all. Registers do not see one another: they are
K further query heads of one attention (Ainslie et al., *GQA*, arXiv 2305.13245, share keys in this way).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.layers import (
    KEYS_AND_VALUES,
    QUERIES,
    Cache,
    Readout,
    Weights,
    embedding,
    grown,
    rms_normalise,
    rotate,
    stack,
    weights,
)


class Read(NamedTuple):
    """The state of a streaming teacher."""

    caches: list[Cache]
    """Keys and values of the tokens, one pair per block."""
    last: Tensor
    """The last token (B, 1)."""


class ShiftedEmbedding(nn.Module):
    """Symbols -> vectors; with `shift`, a vector for the symbol before is added, from a table of its own.

    The first layer then sees pairs of symbols, which a causal Transformer otherwise has to learn to find (token shift,
    Peng et al., *RWKV*, arXiv 2305.13048).
    """

    def __init__(self, symbols: int, d: int, shift: bool) -> None:
        super().__init__()
        self.own = embedding(symbols, d)
        self.before = embedding(symbols, d) if shift else None

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """x (B, T) -> (B, T, d); `before` (B, 1) is the symbol before the first; None: there is none."""
        vectors = self.own(x)
        if self.before is None:
            return vectors
        if before is not None:
            return vectors + self.before(torch.cat([before, x[:, :-1]], 1))
        return vectors + F.pad(self.before(x[:, :-1]), (0, 0, 1, 0))


class DenseTeacher(nn.Module):
    """Encoder and decoder. A memory depends on the last `context` inputs alone, which limits how far a block sees."""

    def __init__(self, config: ModelConfig, vocab_size: int, output_size: int, context: int, shift: bool) -> None:
        super().__init__()
        self.begin = vocab_size
        """The index of the symbol that stands before the first input."""
        self.embedding = ShiftedEmbedding(vocab_size + 1, config.d, shift)
        self.registers = nn.Parameter(torch.randn(config.memory_tokens, config.d))
        self.encoder = stack(config, config.encoder_layers)
        self.future_embedding = ShiftedEmbedding(vocab_size, config.d, shift)
        self.decoder = Readout(config, config.decoder_layers, output_size)
        # The spans of the blocks add up to the context, as each token has seen a span one block below.
        self.span = max(1, (context - 1 - shift) // config.encoder_layers + 1)

    def encode(self, x: Tensor) -> Tensor:
        """Memories of all prefixes of x (B, T), the empty one first: (B, T + 1, K, d)."""
        return self.read(self._from_the_beginning(x))[0]

    def encode_last(self, x: Tensor) -> Tensor:
        """The memory after all of x (B, T): (B, K, d). Registers read at the last position only, at much lower cost."""
        return self.read(self._from_the_beginning(x), last_only=True)[0][:, 0]

    def decode(self, memory: Tensor, future: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Memory m_t (N, K, d), inputs x_{t+1} .. x_{t+F-1} (N, F-1) -> logits for y_t .. y_{t+F-1} (N, F, O).

        With `outputs` (N, n), only these of the F outputs: (N, n, O).
        """
        return self.decoder.ahead(memory, self.future_embedding(future), outputs)

    def start(self, lanes: int) -> tuple[Tensor, Read]:
        """The memory before any input (B, K, d), and the state of the stream."""
        nothing = torch.empty(lanes, 0, dtype=torch.long, device=self.registers.device)
        memories, read = self.read(self._from_the_beginning(nothing))
        return memories[:, 0], read

    def step(self, read: Read, x_t: Tensor) -> tuple[Tensor, Read]:
        """The memory (B, K, d) and the state of the stream after an input x_t (B,)."""
        memories, read = self.read(x_t[:, None], read)
        return memories[:, 0], read

    def _from_the_beginning(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 0), value=self.begin)

    def read(self, tokens: Tensor, before: Read | None = None, last_only: bool = False) -> tuple[Tensor, Read]:
        """Read tokens (B, n) after those of `before`: memories after each, or only the last, and the stream's state.

        With `before`, n is 1.
        """
        hidden = self.embedding(tokens, before and before.last)
        registers, n = self.registers[None, None], 1 if last_only else tokens.shape[1]
        past = before.caches[0][0].shape[2] if before else 0
        mask = self._mask(past, tokens)
        caches: list[Cache] = []
        blocks: Any = self.encoder  # (a list of modules to the type checker)
        for i, block in enumerate(blocks):
            ready, cache = weights(block, tokens.numel()), before.caches[i] if before else None
            if i + 1 < len(self.encoder):
                hidden, kept = ready.run(hidden, mask, causal=mask is None, cache=cache)
            else:  # the last block needs only the tokens' keys and values
                kept = _keys_and_values(ready, hidden, cache)
            caches.append(kept)
            registers = _attend(ready, registers, n, kept, mask)
        return rms_normalise(registers), Read(caches, tokens[:, -1:])

    def _mask(self, past: int, tokens: Tensor) -> Tensor | None:
        """The mask (1, 1, n, past + n): a token attends to the first token and to the last `span` up to itself.

        None where these are all tokens up to itself.
        """
        total = past + tokens.shape[1]
        if total <= self.span:
            return None
        at = torch.arange(total, device=tokens.device)
        ago = at[past:, None] - at
        return (((ago >= 0) & (ago < self.span)) | (at == 0))[None, None]


def _keys_and_values(block: Weights, tokens: Tensor, cache: Cache | None) -> Cache:
    """Keys and values of the cache and of the tokens (B, n, d) after it, each (B, heads, all, head width)."""
    start = 0 if cache is None else cache[0].shape[2]
    keys, values = block.heads_at(block.before_attention(tokens), KEYS_AND_VALUES, start)
    return grown(cache, (keys, values))


def _attend(block: Weights, registers: Tensor, n: int, cache: Cache, mask: Tensor | None) -> Tensor:
    """The output of a block for registers (B, n, K, d), which read the tokens up to each of the last n positions.

    Registers of shape (1, 1, K, d) are shared by all lanes and positions.
    """
    (keys, values), count = cache, registers.shape[2]
    queries = block.project(block.before_attention(registers), QUERIES).flatten(2, 3)  # (B, n, K, heads, head width)
    queries = rotate(queries, keys.shape[2] - n, n).permute(0, 3, 2, 1, 4).flatten(1, 2)  # (B, heads K, n, head width)
    read = F.scaled_dot_product_attention(
        queries.expand(len(keys), -1, -1, -1),
        keys,
        values,
        attn_mask=None if mask is None else mask[:, :, -n:],
        is_causal=mask is None and n > 1,
        enable_gqa=True,
    )
    read = read.unflatten(1, (block.heads, count)).permute(0, 3, 2, 1, 4).flatten(-2)  # (B, n, K, inner)
    return block.after_attention(registers, read)
