"""The base of published and dense SMT, whose teacher gives the RNN its readout and its first memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench import registry
from bench.config import Run
from bench.methods.base import EVERY, Predictor, RecurrentMethod, cross_entropy, scored_slice
from bench.tasks.base import IGNORED


class TaughtMethod(RecurrentMethod):
    """A recurrent method whose memories are taught by `self.teacher`, which has a `decoder`."""

    teacher: Any

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        if registry.backbones.get(run.model.backbone).memory(run.model) is None:
            return f"the teacher writes a memory of K tokens, but the state of {run.model.backbone} is not one"
        if run.model.readout != "transformer":
            return (
                f"the readout takes the decoder's weights: model.readout should be transformer, not {run.model.readout}"
            )
        return None

    def decoded_loss(self, memory: Tensor, future: Tensor, targets: Tensor, t: Tensor, length: int) -> Tensor:
        """Cross-entropy of the teacher's decoder from memories after columns t (N,) of sequences of a given length.

        memory (N, K, d), future: the inputs that follow (N, F - 1), targets (N, F). Where the task scores few columns,
        the decoder computes only the logits of these.
        """
        scored, width = scored_slice(self.task, length), targets.shape[1]
        if 2 * len(range(length)[scored]) > width:
            return cross_entropy(self.teacher.decode(memory, future), targets)
        outputs = torch.arange(length, device=t.device)[scored] - t[:, None]  # (N, n)
        outside, outputs = (outputs < 0) | (outputs >= width), outputs.clamp(0, width - 1)
        logits = self.teacher.decode(memory, future, outputs)
        return cross_entropy(logits, targets.gather(1, outputs).masked_fill(outside, IGNORED))

    def empty_memory(self) -> Tensor:
        """The teacher's memory before any input, (K, d)."""
        raise NotImplementedError

    def predict_teacher(self, x: Tensor, columns: slice = EVERY) -> Tensor:
        """The teacher's own answers to x (B, T) from its memories: logits (B, n, O) at the requested columns."""
        raise NotImplementedError

    def predictors(self) -> tuple[Predictor, ...]:
        return Predictor("rnn", self.predict), Predictor("teacher", self.predict_teacher, reference=True)

    @torch.no_grad()
    def take_over(self) -> None:
        """Copy the decoder's weights into the readout, and the teacher's first memory into the updater."""
        self.rnn.readout.load_state_dict(self.teacher.decoder.state_dict())
        updater: Any = self.rnn.updater
        updater.start.copy_(self.empty_memory())

    def draw_compared(self, tokens: int, sample: int) -> Tensor | None:
        """The indices (sample,) of the memory tokens that L_unif compares; None: all of them."""
        if tokens <= sample:
            return None
        return torch.randperm(tokens, generator=self.noise, device=self.noise.device)[:sample]
