"""DMT after dense SMT: one pass of the teacher labels all columns, and rollouts run in pieces that grow.

Unlike in `bench.methods.smt_dmt`, a rollout begins at the teacher's memory of a column within the sequence: no label
can restore what a rollout from the beginning has forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bench.config import Config, NonNegative, Optimiser, Positive, TrainingConfig
from bench.methods.base import Carry, Phase, cross_entropy, scored_slice
from bench.methods.on_policy import cyclic, draw_offset, rolled_out, swept
from bench.methods.smt import dynamics_loss
from bench.methods.smt_dense import SMTDense, SMTDenseConfig
from bench.registry import register_method
from bench.tasks.base import Batch


class DenseDMTConfig(Config):
    """Fields of the last phase."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.4, description="share of the budget")
    lambda_dyn: NonNegative = 10.0
    lambda_readout: NonNegative = 1.0
    pieces: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (8, 8, 16, 32, 64),
        description="steps of a rollout from the teacher's memory, in equal parts of the phase",
    )
    sweeps: Positive | None = Field(None, description="k sweeps over all columns in place of pieces")
    detach_readout: bool = Field(False, description="the readout's loss does not reach the updater")
    batch_size: Positive = 8
    optimiser: Optimiser = Optimiser(lr=1e-3, schedule="cosine")


class SMTDenseDMTConfig(SMTDenseConfig):
    """The fields of dense SMT, and those of DMT under `dmt`."""

    dmt: DenseDMTConfig = DenseDMTConfig()

    @model_validator(mode="after")
    def _leaves_a_share(self) -> SMTDenseDMTConfig:
        if self.teacher.share + self.dmt.share >= 1:
            raise ValueError(
                f"teacher.share ({self.teacher.share}) and dmt.share ({self.dmt.share}) leave nothing for phase smt"
            )
        return self


@register_method("smt-dense+dmt")
class SMTDenseDMT(SMTDense):
    """Dense SMT's phases, then "dmt"."""

    Config = SMTDenseDMTConfig
    config: SMTDenseDMTConfig
    answers: ClassVar[Mapping[str, str]] = {**SMTDense.answers, "dmt": "L_readout"}
    outside_autograd: ClassVar[Mapping[str, str]] = {"dmt": "the teacher's memories, as labels, hold what to keep"}

    def phases(self, training: TrainingConfig) -> list[Phase]:
        dmt = self.config.dmt
        groups, stages = (tuple(self.rnn.parameters()),), 1 if dmt.sweeps else len(dmt.pieces)
        last = Phase("dmt", dmt.share, dmt.optimiser, groups, dmt.batch_size, stages=stages)
        return [*self.taught(training, 1 - dmt.share), last]

    def draw(self, shape: tuple[int, int], phase: str) -> Any:
        if phase != "dmt":
            return super().draw(shape, phase)
        return draw_offset(self.config.dmt.pieces[self.stage], shape[1], self.noise)

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        return (self.dmt_losses(batch, drawn), carry) if phase == "dmt" else super().losses(batch, drawn, carry, phase)

    def dmt_losses(self, batch: Batch, offset: Tensor) -> dict[str, Tensor]:
        """The weighted sum as "loss", and its two parts."""
        dmt, (x, y, _) = self.config.dmt, batch
        columns = cyclic(x.shape[1], offset)
        with torch.no_grad():
            memories = self.teacher.encode(x)
            if dmt.sweeps:
                before = swept(self.rnn, memories, x, dmt.sweeps)[:, columns]
            else:
                steps = min(dmt.pieces[self.stage], x.shape[1])
                before = rolled_out(self.rnn, memories[:, columns[::steps]], x, columns, steps)
        after = self.rnn.update(before.flatten(0, 1), x[:, columns].flatten())
        dyn = dynamics_loss(after, memories[:, columns + 1].flatten(0, 1))
        scored = scored_slice(self.task, x.shape[1])
        positions = (torch.arange(x.shape[1], device=x.device)[scored] - offset) % x.shape[1]
        answered = after.unflatten(0, x.shape)[:, positions]
        answered = answered.detach() if dmt.detach_readout else answered
        readout = cross_entropy(self.rnn.read(answered.flatten(-2)), y[:, scored])
        return {"loss": dmt.lambda_dyn * dyn + dmt.lambda_readout * readout, "L_dyn": dyn, "L_readout": readout}
