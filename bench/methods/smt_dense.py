"""Dense Supervised Memory Training: a causal teacher gives the memories of all prefixes, and every transition trains.

This project's form of SMT (Kumar & Isola, arXiv 2606.06479; `bench.methods.smt` is the published one). With m_t of the
teacher, e_t = MSE(f(m~_{t-1}, x_t), m_t) at all t, and m~ a memory with noise added, normalised again:

    L_dec  = cross-entropy of D(m~_t, x_{t+1}, ...) at y_t, ..., for some of the teacher's memories, drawn evenly, and
             some of the updater's, drawn where e_t is large: the previous memory learns what the updater needs
    L_dyn  = mean of w_t e_t over the variance of memories, w_t = e_t^focal scaled to mean 1: memories cannot lower
             the loss by varying less, and rare transitions count
    L_unif = as in SMT

The teacher trains alone first, at one position per batch: otherwise L_dyn collapses memories that hold nothing yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from bench.config import Config, ModelConfig, NonNegative, Optimiser, Positive, Share, TrainingConfig
from bench.methods.base import EVERY, Carry, MethodConfig, Phase, Teaching
from bench.methods.smt import uniformity_loss
from bench.methods.taught import TaughtMethod
from bench.models.dense_teacher import DenseTeacher
from bench.models.layers import rms_normalise
from bench.models.teacher import windows
from bench.registry import register_method
from bench.tasks.base import IGNORED, Batch, Task

SMALLEST = 1e-3
"""The smallest variance of memories by which L_dyn is divided."""


class TeacherPhaseConfig(Config):
    """The phase in which the teacher trains alone."""

    share: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="largest share of the budget; 0: no such phase")
    until: NonNegative = Field(0.3, description="the phase ends once its loss is this near the task's floor, in nats")
    batch_size: Positive = 4
    optimiser: Optimiser = Optimiser(lr=2e-3)


class SMTDenseConfig(MethodConfig):
    """The defaults were found on retrieval (results/tuning)."""

    lambda_dec: NonNegative = 1.0
    lambda_dyn: NonNegative = 0.1
    lambda_unif: NonNegative = 0.001
    context: Positive = Field(256, description="T_c: inputs that a memory of the teacher may depend on")
    future: Positive | None = Field(None, description="T_f: outputs predicted from one memory; null: all that follow")
    decoded: Positive = Field(4, description="memories that are decoded per sequence")
    predicted: Share = Field(0.5, description="share of these that are the updater's, drawn by its error")
    noise: NonNegative = Field(0.2, description="standard deviation of the noise on memories that are read")
    relative: bool = Field(True, description="divide L_dyn by the variance of memories over sequences")
    focal: NonNegative = Field(0.5, description="power of its error by which a transition is weighted in L_dyn")
    token_shift: bool = Field(True, description="teacher and decoder also see the input before each")
    updater_rate: Annotated[float, Field(gt=0)] = Field(2.0, description="learning rate, in multiples of the teacher's")
    uniformity_sample: Annotated[int, Field(ge=2)] = Field(512, description="memory tokens compared in L_unif")
    teacher: TeacherPhaseConfig = TeacherPhaseConfig()


class Drawn(NamedTuple):
    """The random choices of one batch."""

    even: Tensor  # (B, T) the columns of the largest are those whose teacher's memories are decoded
    by_error: Tensor  # (B, T) Gumbel noise, for the updater's
    before: Tensor  # (B, T, K, d) added to what the updater reads
    read: Tensor  # (B, n, K, d) added to what the decoder reads
    compared: Tensor | None  # memory tokens in L_unif, by their numbers; None: all


@register_method("smt-dense")
class SMTDense(TaughtMethod):
    """Two phases: "teacher", the teacher alone, and "smt"; the readout is the decoder's."""

    Config = SMTDenseConfig
    config: SMTDenseConfig
    gradient_is: ClassVar[Mapping[str, Any]] = {"teacher": "own"}
    answers: ClassVar[Mapping[str, str]] = {"teacher": "L_dec", "smt": "L_dec"}

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__(config, task, model, noise)
        own = self.config
        self.teacher = DenseTeacher(model, task.vocab_size, task.output_size, own.context, own.token_shift)

    def phases(self, training: TrainingConfig) -> list[Phase]:
        return self.taught(training, 1.0)

    def taught(self, training: TrainingConfig, share: float) -> list[Phase]:
        """The phases in which the teacher trains, with this share of the budget together."""
        first, teacher = self.config.teacher, tuple(self.teacher.parameters())
        rnn = (*self.rnn.embedding.parameters(), *self.rnn.updater.parameters())
        groups, rates = (teacher, rnn), (1.0, self.config.updater_rate)
        rest = Phase("smt", share - first.share, training.optimiser, groups, training.batch_size, rates=rates)
        if not first.share:
            return [rest]
        until = first.until + (self.task.loss_floor(self.task.config.length) or 0.0)
        alone = Phase("teacher", first.share, first.optimiser, (teacher,), first.batch_size, until=until)
        return [alone, rest]

    def draw(self, shape: tuple[int, int], phase: str) -> Any:
        return self.draw_position(shape[1]) if phase == "teacher" else self.draw_smt(shape)

    def draw_position(self, length: int) -> Tensor:
        """A column () for the whole batch: in half of the draws the last, else any column of the second half."""
        late, where = torch.rand(2, generator=self.noise, device=self.noise.device)
        half = length // 2
        column = half + (where * (length - half)).long().clamp(max=length - half - 1)
        return torch.where(late < 0.5, length - 1, column)

    def draw_smt(self, shape: tuple[int, int]) -> Drawn:
        """Draw which memories are decoded, and the noise that is added to memories."""
        generator, device = self.noise, self.noise.device
        size = self.model.memory_tokens, self.model.d
        even, uniform = torch.rand(2, *shape, generator=generator, device=device)
        gumbel = -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()
        before = self.config.noise * torch.randn(*shape, *size, generator=generator, device=device)
        decoded = shape[0], min(self.config.decoded, shape[1])
        read = self.config.noise * torch.randn(*decoded, *size, generator=generator, device=device)
        compared = self.draw_compared(shape[0] * shape[1] * size[0], self.config.uniformity_sample)
        return Drawn(even, gumbel, before, read, compared)

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        found = self.teacher_losses(batch, int(drawn)) if phase == "teacher" else self.smt_losses(batch, drawn)
        return found, carry

    def teacher_losses(self, batch: Batch, column: int) -> dict[str, Tensor]:
        """L_dec + lambda_unif L_unif of the memory after one column."""
        width = min(self.config.future or batch.x.shape[1], batch.x.shape[1] - column)
        memory = self.teacher.encode_last(batch.x[:, : column + 1])
        future, targets = batch.x[:, column + 1 : column + width], batch.y[:, column : column + width]
        t = torch.full((len(memory),), column, device=memory.device)
        dec = self.decoded_loss(memory, future, targets, t, batch.x.shape[1])
        unif = uniformity_loss(memory)
        return {"loss": dec + self.config.lambda_unif * unif, "L_dec": dec, "L_unif": unif}

    def smt_losses(self, batch: Batch, drawn: Drawn) -> dict[str, Tensor]:
        """The weighted sum as "loss", its three parts, and the plain mean of the one-step error."""
        config, (x, y, _) = self.config, batch
        memories = self.teacher.encode(x)  # (B, T + 1, K, d)
        before, after = memories[:, :-1], memories[:, 1:]
        predicted = self.rnn.update(_noisy(before, drawn.before).flatten(0, 1), x.flatten()).unflatten(0, x.shape)
        error = (predicted - after).square().mean((2, 3))  # (B, T)
        weight = error.detach().clamp(min=1e-8) ** config.focal
        dyn = (error * weight / weight.mean()).mean()
        if config.relative:
            dyn = dyn / _variance(after).clamp(min=SMALLEST)
        t, read = self._decoded(after, predicted, error.detach(), drawn)
        width = min(config.future or x.shape[1], x.shape[1])
        if x.device.type == "cpu":  # (on a GPU this would wait for the device)
            width = min(width, x.shape[1] - int(t.min()))
        future = windows(x, t + 1, width - 1, 0).flatten(0, 1)
        targets = windows(y, t, width, IGNORED).flatten(0, 1)
        noisy = _noisy(read, drawn.read).flatten(0, 1)
        dec = self.decoded_loss(noisy, future, targets, t.flatten(), x.shape[1])
        unif = uniformity_loss(after.flatten(0, 1), drawn.compared)
        loss = config.lambda_dec * dec + config.lambda_dyn * dyn + config.lambda_unif * unif
        return {"loss": loss, "L_dec": dec, "L_dyn": dyn, "L_unif": unif, "one_step": error.mean()}

    def _decoded(self, after: Tensor, predicted: Tensor, error: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """The columns (B, n) whose memories are decoded, and their memories: the teacher's, then the updater's."""
        count = drawn.read.shape[1]
        own = round(self.config.predicted * count)
        even = drawn.even.topk(count - own, dim=1).indices
        hard = ((error + 1e-12).log() + drawn.by_error).topk(own, dim=1).indices
        rows = torch.arange(len(after), device=after.device)[:, None]
        return torch.cat([even, hard], 1), torch.cat([after[rows, even], predicted[rows, hard]], 1)

    def sync_predictor(self, phase: str) -> None:
        if phase in ("teacher", "smt"):
            self.take_over()

    def empty_memory(self) -> Tensor:
        return self.teacher.start(1)[0][0]

    def teaching(self) -> Teaching:
        return Teaching(self.teacher_memories, self.teacher.decode, self.config.future or 2**31, self.rollout)

    def teacher_memories(self, x: Tensor, columns: Sequence[int]) -> Tensor:
        """Memories after n columns of x (B, T), in one pass: (B, n, K, d)."""
        return self.teacher.encode(x)[:, torch.as_tensor(columns, device=x.device) + 1]

    def rollout(self, x: Tensor) -> Tensor:
        """The RNN's own memories over whole sequences x (B, T): (B, T, K, d)."""
        features, state = self.rnn.scan(self.initial_state(len(x)), x)
        return features.unflatten(-1, state.shape[1:])

    def predict_teacher(self, x: Tensor, columns: slice = EVERY) -> Tensor:
        memories = self.teacher_memories(x, range(x.shape[1])[columns])
        nothing = x[:, :0].repeat_interleave(memories.shape[1], 0)
        return self.teacher.decode(memories.flatten(0, 1), nothing).unflatten(0, memories.shape[:2])[:, :, 0]


def _noisy(memories: Tensor, noise: Tensor) -> Tensor:
    return rms_normalise(memories + noise)


def _variance(memories: Tensor) -> Tensor:
    """`memories.var(0).mean()` in a tenth of its time; 0 for a single row."""
    squares = (memories - memories.mean(0)).square().mean()
    return squares * (len(memories) / max(1, len(memories) - 1))
