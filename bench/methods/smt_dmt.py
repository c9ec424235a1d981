"""DAgger Memory Training after SMT: the RNN rolls out on its own memories, the frozen teacher says what they should be.

Source: Kumar & Isola, arXiv 2606.06479; the idea from Ross et al., *DAgger*, arXiv 1011.0686. With rollout memories
m^_t = f(m^_{t-1}, x_t) on given inputs and labels m_t = E(x_<=t) at every k-th position:

    L = 10 MSE(f(m^_{t-1}, x_t), m_t) + 1 cross-entropy of the readout at m^_t
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench import registry
from bench.config import Config, NonNegative, Optimiser, Positive, Run, TrainingConfig
from bench.methods.base import Carry, Phase, cross_entropy, scored_slice
from bench.methods.smt import SMT, SMTConfig, dynamics_loss
from bench.models.teacher import Teacher, windows
from bench.registry import register_method
from bench.tasks.base import Batch, columns_from


class DMTConfig(Config):
    """The defaults are the paper's."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.01, description="of the budget; SMT has the rest")
    lambda_dyn: NonNegative = 10.0
    lambda_readout: NonNegative = 1.0
    rollout: Positive = Field(256, description="most steps of the RNN on its own memories; a longer sequence is cut")
    every: Positive = Field(16, description="k: every k-th position is labelled, from a random one on")
    detach_rollout: bool = Field(True, description="no gradient from one step of the rollout to the one before")
    detach_readout: bool = Field(True, description="the readout's loss does not reach the updater")
    batch_size: Positive = 32
    optimiser: Optimiser = Optimiser(lr=3e-5, schedule="cosine")


class SMTDMTConfig(SMTConfig):
    """SMT's fields, and DMT's under `dmt`."""

    dmt: DMTConfig = DMTConfig()


@register_method("smt+dmt")
class SMTDMT(SMT):
    """The two phases, "smt" and "dmt". `init_from` another run's "smt" phase trains the second alone."""

    Config = SMTDMTConfig
    config: SMTDMTConfig
    answers: ClassVar[Mapping[str, str]] = {"smt": "L_dec", "dmt": "L_readout"}
    outside_autograd: ClassVar[Mapping[str, str]] = {"dmt": "the teacher's memories, as labels, hold what to keep"}

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        config: Any = run.method_config
        length = run.task_config.length  # type: ignore[attr-defined]
        scored = registry.tasks.get(run.task)(run.task_config).scored_columns(length)
        reach = config.dmt.rollout + (config.context if config.start == "context" else 0)
        first = columns_from(scored, run.evaluation.score_from)[0]
        if first >= reach:
            return f"dmt.rollout ({config.dmt.rollout}) ends before the first scored position, {first}"
        return super().refuses(run)

    def phases(self, training: TrainingConfig) -> list[Phase]:
        dmt = self.config.dmt
        groups = (tuple(self.rnn.parameters()),)
        return [
            self.smt_phase(1 - dmt.share, training),
            Phase("dmt", dmt.share, dmt.optimiser, groups, dmt.batch_size),
        ]

    def draw(self, shape: tuple[int, int], phase: str) -> Any:
        return self.draw_smt(shape) if phase == "smt" else self.draw_labelled(shape[1])

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        return self.smt_losses(batch, drawn) if phase == "smt" else self.dmt_losses(batch, drawn), carry

    def dmt_losses(self, batch: Batch, t: Tensor) -> dict[str, Tensor]:
        """The weighted sum as "loss", and its two parts; t (n,) are the labelled positions.

        With detached memories: one rollout without gradients, one batched encoder call for the labels, one batched
        update over all labelled positions.
        """
        dmt = self.config.dmt
        end = self.first + dmt.rollout
        x, y = batch.x[:, :end], batch.y[:, :end]
        with torch.set_grad_enabled(not dmt.detach_rollout):
            memories = self.rollout(x)  # (B, T, K, d)
        with torch.no_grad():
            ends = t.expand(len(x), -1)
            width = min(self.config.context, x.shape[1])
            labels = self.teacher.encode(windows(x, ends - width + 1, width, Teacher.PAD).flatten(0, 1))
        earlier = torch.cat([self.rnn.initial_state(len(x))[:, None], memories[:, :-1]], 1)
        if dmt.detach_rollout:
            predicted = self.rnn.update(earlier[:, t].flatten(0, 1), x[:, t].flatten())
        else:
            predicted = memories[:, t].flatten(0, 1)
        dyn = dynamics_loss(predicted, labels)
        columns = scored_slice(self.task, batch.x.shape[1])
        answered = memories[:, columns]
        if dmt.detach_readout:
            answered = answered.detach()
        elif dmt.detach_rollout:  # through the last update only, done once more with gradients
            step = self.rnn.update(earlier[:, columns].flatten(0, 1), x[:, columns].flatten())
            answered = step.unflatten(0, answered.shape[:2])
        readout = cross_entropy(self.rnn.read(answered.flatten(-2)), y[:, columns])
        return {"loss": dmt.lambda_dyn * dyn + dmt.lambda_readout * readout, "L_dyn": dyn, "L_readout": readout}

    def draw_labelled(self, length: int) -> Tensor:
        """Every k-th of the P positions after the first memory, from a random one on: (n,), n = P // k, in order.

        They are counted modulo P, so that each position is as likely as any other and no two are alike.
        """
        positions, device = min(length - self.first, self.config.dmt.rollout), self.noise.device
        every = min(self.config.dmt.every, positions)
        offset = torch.randint(positions, (1,), generator=self.noise, device=device)
        counted = offset + torch.arange(positions // every, device=device) * every
        return self.first + (counted % positions).sort().values
