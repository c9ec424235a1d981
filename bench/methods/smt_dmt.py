"""DAgger Memory Training after SMT: the RNN rolls out on its own memories, which the frozen teacher corrects.

Source: Kumar & Isola, arXiv 2606.06479; the idea from Ross et al., *DAgger*, arXiv 1011.0686. With rollout memories
m^_t = f(m^_{t-1}, x_t) on given inputs and labels m_t = E(x_<=t) at every k-th position:

    L = 10 MSE(f(m^_{t-1}, x_t), m_t) + 1 cross-entropy of the readout at m^_t
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from bench import registry
from bench.config import Config, NonNegative, Optimiser, Positive, Run, TrainingConfig
from bench.methods.base import Carry, Phase, cross_entropy, scored_slice
from bench.methods.on_policy import cyclic, draw_offset, rolled_out, swept
from bench.methods.smt import SMT, SMTConfig, dynamics_loss
from bench.models.teacher import Teacher, windows
from bench.registry import register_method
from bench.tasks.base import Batch, columns_from


class DMTConfig(Config):
    """The defaults are the paper's."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.01, description="share of the budget; SMT has the rest")
    lambda_dyn: NonNegative = 10.0
    lambda_readout: NonNegative = 1.0
    rollout: Positive = Field(256, description="largest number of steps; a longer sequence is cut")
    pieces: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = Field(
        None,
        description="steps of rollouts from the teacher's memory, in equal parts of the phase, in place of one "
        "from the beginning; this project's",
    )
    sweeps: Positive | None = Field(None, description="k sweeps over all columns in place of a rollout; this project's")
    every: Positive = Field(16, description="k: label every k-th position, from a random one on")
    detach_rollout: bool = Field(True, description="no gradient from one step of the rollout to the one before")
    detach_readout: bool = Field(True, description="the readout's loss does not reach the updater")
    batch_size: Positive = 32
    optimiser: Optimiser = Optimiser(lr=3e-5, schedule="cosine")


class Labelled(NamedTuple):
    """The random choices of one batch."""

    t: Tensor  # (n,) the labelled positions
    offset: Tensor | None  # (1,) where the first piece begins


class SMTDMTConfig(SMTConfig):
    """The fields of SMT, and those of DMT under `dmt`."""

    dmt: DMTConfig = DMTConfig()


@register_method("smt+dmt")
class SMTDMT(SMT):
    """Two phases, "smt" and "dmt". With `init_from` another run's "smt" phase, only the second is trained."""

    Config = SMTDMTConfig
    config: SMTDMTConfig
    answers: ClassVar[Mapping[str, str]] = {"smt": "L_dec", "dmt": "L_readout"}
    outside_autograd: ClassVar[Mapping[str, str]] = {"dmt": "the teacher's memories, as labels, hold what to keep"}

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        config: Any = run.method_config
        length = run.task_config.length
        if config.start == "context" and (config.dmt.pieces or config.dmt.sweeps):
            return "dmt.pieces and dmt.sweeps begin at memories from the first column on: start should be empty"
        if config.dmt.pieces and config.dmt.sweeps:
            return "dmt.pieces and dmt.sweeps: both given; should be one of them"
        if (config.dmt.pieces or config.dmt.sweeps) and not config.dmt.detach_rollout:
            return "dmt.pieces and dmt.sweeps have no gradient along the rollout: dmt.detach_rollout should be true"
        scored = registry.tasks.get(run.task)(run.task_config).scored_columns(length)
        reach = config.dmt.rollout + (config.context if config.start == "context" else 0)
        first = columns_from(scored, run.evaluation.score_from)[0]
        if first >= reach:
            return f"dmt.rollout ({config.dmt.rollout}) ends before the first scored position, {first}"
        return super().refuses(run)

    def phases(self, training: TrainingConfig) -> list[Phase]:
        dmt = self.config.dmt
        groups, stages = (tuple(self.rnn.parameters()),), len(dmt.pieces or ()) or 1
        return [
            self.smt_phase(1 - dmt.share, training),
            Phase("dmt", dmt.share, dmt.optimiser, groups, dmt.batch_size, stages=stages),
        ]

    def draw(self, shape: tuple[int, int], phase: str) -> Any:
        if phase == "smt":
            return self.draw_smt(shape)
        labelled, pieces = self.draw_labelled(shape[1]), self.config.dmt.pieces
        reach = min(shape[1], self.config.dmt.rollout)
        return Labelled(labelled, draw_offset(pieces[self.stage], reach, self.noise) if pieces else None)

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        return self.smt_losses(batch, drawn) if phase == "smt" else self.dmt_losses(batch, drawn), carry

    def dmt_losses(self, batch: Batch, drawn: Labelled) -> dict[str, Tensor]:
        """The weighted sum as "loss", and its two parts.

        With detached memories: one rollout without gradients, one batched encoder call for the labels, one batched
        update over all labelled positions.
        """
        dmt, t = self.config.dmt, drawn.t
        end = self.first + dmt.rollout
        x, y = batch.x[:, :end], batch.y[:, :end]
        with torch.set_grad_enabled(not dmt.detach_rollout):
            earlier, memories = self._rolled(x, drawn.offset)
        with torch.no_grad():
            labels = self._encoded(x, t).flatten(0, 1)
        if dmt.detach_rollout:
            predicted = self.rnn.update(earlier[:, t].flatten(0, 1), x[:, t].flatten())
        else:
            predicted = memories[:, t].flatten(0, 1)
        dyn = dynamics_loss(predicted, labels)
        columns = scored_slice(self.task, batch.x.shape[1])
        answered = memories[:, columns]
        if dmt.detach_readout:
            answered = answered.detach()
        elif dmt.detach_rollout:  # gradients go through the last update only, which is computed again
            step = self.rnn.update(earlier[:, columns].flatten(0, 1), x[:, columns].flatten())
            answered = step.unflatten(0, answered.shape[:2])
        readout = cross_entropy(self.rnn.read(answered.flatten(-2)), y[:, columns])
        return {"loss": dmt.lambda_dyn * dyn + dmt.lambda_readout * readout, "L_dyn": dyn, "L_readout": readout}

    def _rolled(self, x: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor]:
        """The RNN's own memories before and after each column of x (B, T), each (B, T, K, d)."""
        dmt, (lanes, length) = self.config.dmt, x.shape
        if offset is None and not dmt.sweeps:
            memories = self.rollout(x)
            return torch.cat([self.rnn.initial_state(lanes)[:, None], memories[:, :-1]], 1), memories
        if dmt.sweeps:
            every = self._encoded(x, torch.arange(-1, length, device=x.device))
            earlier = swept(self.rnn, every, x, dmt.sweeps)
        else:
            assert offset is not None and dmt.pieces
            steps, columns = min(dmt.pieces[self.stage], length), cyclic(length, offset)
            starts = self._encoded(x, columns[::steps] - 1)
            earlier = rolled_out(self.rnn, starts, x, columns, steps)[:, columns.argsort()]
        after = self.rnn.update(earlier.flatten(0, 1), x.flatten()).unflatten(0, (lanes, length))
        return earlier, after

    def _encoded(self, x: Tensor, columns: Tensor) -> Tensor:
        """The teacher's memories after columns (n,) of x (B, T): (B, n, K, d); column -1 stands for no input."""
        width = min(self.config.context, x.shape[1])
        contexts = windows(x, columns.expand(len(x), -1) - width + 1, width, Teacher.PAD)  # (B, n, C)
        return self.teacher.encode(contexts.flatten(0, 1)).unflatten(0, contexts.shape[:2])

    def draw_labelled(self, length: int) -> Tensor:
        """Draw every k-th of the P positions after the first memory, from a random one on, in order: (n,), n = P // k.

        Positions are counted modulo P, so that all are equally likely and none is drawn twice.
        """
        positions, device = min(length - self.first, self.config.dmt.rollout), self.noise.device
        every = min(self.config.dmt.every, positions)
        offset = torch.randint(positions, (1,), generator=self.noise, device=device)
        counted = offset + torch.arange(positions // every, device=device) * every
        return self.first + (counted % positions).sort().values
