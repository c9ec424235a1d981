"""SMT, DMT, then BPTT: what a pretrained RNN gains once its teacher no longer limits it.

Kumar & Isola, arXiv 2606.06479, leave fine-tuning with BPTT open. The RNN is unrolled from its first memory, which the
teacher wrote and which is not trained; gradients go through every step, to embedding, updater and readout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from bench.config import Config, Optimiser, Positive, TrainingConfig
from bench.methods.base import Carry, Phase
from bench.methods.smt_dmt import SMTDMT, SMTDMTConfig
from bench.registry import register_method
from bench.tasks.base import Batch


class FineTuningConfig(Config):
    """Fields of the last phase, which were not tuned."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of the budget; SMT has what DMT leaves")
    batch_size: Positive = 32
    optimiser: Optimiser = Optimiser(schedule="cosine")


class SMTDMTBPTTConfig(SMTDMTConfig):
    """The fields of SMT, those of DMT under `dmt`, and those of the last phase under `bptt`."""

    bptt: FineTuningConfig = FineTuningConfig()

    @model_validator(mode="after")
    def _leaves_a_share(self) -> SMTDMTBPTTConfig:
        if self.dmt.share + self.bptt.share >= 1:
            raise ValueError(f"dmt.share ({self.dmt.share}) and bptt.share ({self.bptt.share}) leave nothing for SMT")
        return self


@register_method("smt+dmt+bptt")
class SMTDMTBPTT(SMTDMT):
    """Three phases, "smt", "dmt" and "bptt"; `init_from` may name either of the first two, also of a run of smt+dmt."""

    Config = SMTDMTBPTTConfig
    config: SMTDMTBPTTConfig
    gradient_is: ClassVar[Mapping[str, Any]] = {"smt": "own", "bptt": "exact"}

    def phases(self, training: TrainingConfig) -> list[Phase]:
        _, dmt = super().phases(training)
        last = self.config.bptt
        return [
            self.smt_phase(1 - dmt.share - last.share, training),
            dmt,
            Phase("bptt", last.share, last.optimiser, dmt.groups, last.batch_size),
        ]

    def draw(self, shape: tuple[int, int], phase: str) -> Any:
        return () if phase == "bptt" else super().draw(shape, phase)

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        if phase != "bptt":
            return super().losses(batch, drawn, carry, phase)
        return {"loss": self.scored_loss(batch)}, carry
