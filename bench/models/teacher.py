"""SMT's teacher: an encoder that learns what to remember of a context, a decoder that predicts the future from it.

Source: Kumar & Isola, arXiv 2606.06479. Encoder E over [context, K learned registers] -> memory; causal decoder D over
[memory, future inputs] -> logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.models.layers import Readout, attend_to_symbols, embedding, rms_normalise, stack


def windows(sequence: Tensor, first: Tensor, width: int, fill: int) -> Tensor:
    """Windows of `sequence` (B, T): out[b, i, j] = sequence[b, first[b, i] + j], or `fill` beyond either end.

    `first` (B, n) -> (B, n, width). There is no loop over rows, and no wait for the device.
    """
    length = sequence.shape[1]
    index = first[..., None] + torch.arange(width, device=sequence.device)  # (B, n, width)
    inside = (index >= 0) & (index < length)
    rows = sequence[:, None].expand(-1, first.shape[1], -1)
    return rows.gather(2, index.clamp(0, length - 1)).masked_fill(~inside, fill)


CHUNK = 64
"""The number of contexts encoded at a time on a CPU, shortest first, each chunk as wide as its longest context.

This avoids half of the padding and keeps the activations in the cache: forward and backward over 256 contexts of 0 to
32 inputs took two thirds of the time. A GPU gets all contexts at once, as finding the widths would wait for it.
"""


class Teacher(nn.Module):
    """Encoder and decoder, each with its own embedding."""

    PAD = -1
    """Fills the front of a context that is shorter than its window; never attended to."""

    def __init__(self, config: ModelConfig, vocab_size: int, output_size: int) -> None:
        super().__init__()
        self.context_embedding = embedding(vocab_size, config.d)
        self.registers = nn.Parameter(torch.randn(config.memory_tokens, config.d))
        self.encoder = stack(config, config.encoder_layers)
        self.future_embedding = embedding(vocab_size, config.d)
        self.decoder = Readout(config, config.decoder_layers, output_size)

    def encode(self, contexts: Tensor) -> Tensor:
        """E: contexts (N, C), right-aligned and padded in front with PAD -> memories (N, K, d).

        Contexts end next to the registers, so that a token's relative position says how long ago it was. A context of
        nothing but padding (or C = 0) is the empty one.
        """
        if contexts.device.type != "cpu" or len(contexts) <= CHUNK:
            return self._encode(contexts)
        lengths = (contexts != self.PAD).sum(1)
        order, width = lengths.argsort(stable=True), contexts.shape[1]
        chunks = (contexts[rows, width - int(lengths[rows[-1]]) :] for rows in order.split(CHUNK))
        return torch.cat([self._encode(chunk) for chunk in chunks])[order.argsort()]

    def _encode(self, contexts: Tensor) -> Tensor:
        symbols, count = self.context_embedding.weight, len(self.registers)
        registers = torch.arange(len(symbols), len(symbols) + count, device=contexts.device).expand(len(contexts), -1)
        index = torch.cat([contexts, registers], 1)  # (N, C + K)
        read = attend_to_symbols(
            self.encoder,
            torch.cat([symbols, self.registers]),
            index.clamp(min=0),
            mask=(index != self.PAD)[:, None, None],
            rows=slice(-count, None),
        )
        return rms_normalise(read)

    def decode(self, memory: Tensor, future: Tensor, outputs: Tensor | None = None) -> Tensor:
        """D: memory m_t (N, K, d), inputs x_{t+1} .. x_{t+F-1} (N, F-1) -> logits for y_t .. y_{t+F-1} (N, F, O).

        With `outputs` (N, n), only these of the F outputs: (N, n, O).
        """
        return self.decoder.ahead(memory, self.future_embedding(future), outputs)
