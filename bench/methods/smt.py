"""Supervised Memory Training: a Transformer teacher learns what to remember, the RNN learns one-step transitions.

Source: Kumar & Isola, *Pretraining Recurrent Networks without Recurrence*, arXiv 2606.06479 (2026). With memories
m_t = E(x_<=t) of the encoder, drawn at random t, and all terms trained jointly:

    L_dec  = cross-entropy of D(m_t, x_{t+1}, ...) at y_t, y_{t+1}, ...       what m_t must hold
    L_dyn  = MSE(f(m_{t-1}, x_t), m_t), into f and the encoder                memory must be a function of the last one
    L_unif = log mean exp(-2 |z_a - z_b|^2), z the unit-norm memory tokens    memories spread out

Worked example, T = 4, context 2, future 2, at t = 2:

    encoder sees x1 x2 -> m_2 and x0 x1 -> m_1;    decoder sees m_2 x3 -> y2 y3;    updater sees m_1 x2 -> m_2

The pair is (m_{t-1}, m_t), decoded at m_t, so that with t in 0 .. T-1 each transition, the first from the empty context
included, and each scored position is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from bench import registry
from bench.config import ModelConfig, NonNegative, Positive, Run, Share, TrainingConfig
from bench.methods.base import EVERY, Carry, MethodConfig, Phase, Teaching
from bench.methods.taught import TaughtMethod
from bench.models.teacher import Teacher, windows
from bench.registry import register_method
from bench.tasks.base import IGNORED, Batch, Task, undrawable


class SMTConfig(MethodConfig):
    """The defaults are the paper's."""

    lambda_dec: NonNegative = 1.0
    lambda_dyn: NonNegative = 0.1
    lambda_unif: NonNegative = 0.001
    context: Positive = Field(256, description="T_c: inputs that the encoder sees")
    future: Positive = Field(64, description="T_f: outputs that the decoder predicts from one memory")
    timesteps: Positive | None = Field(1, description="positions t drawn per sequence; null: all")
    consecutive: bool = Field(
        False, description="draw n consecutive positions, which share encodings: n + 1 instead of 2 n per sequence"
    )
    length: Positive | None = Field(None, description="columns of SMT's batches; null: the task's length")
    whole_futures: bool = Field(
        False, description="draw t only where T_f outputs follow and, with start: context, m_t has a memory before it"
    )
    uniformity_sample: Annotated[int, Field(ge=2)] = Field(512, description="memory tokens compared in L_unif")
    detach: bool = Field(False, description="keep L_dyn's gradient out of the encoder")
    start: Literal["empty", "context"] = Field(
        "empty",
        description="first memory: E of nothing, or of the first T_c inputs (with evaluation.score_from = context - 1)",
    )
    empty_share: Share | None = Field(
        None,
        description="share of draws at t = 0, whose transition starts at the empty context; null: 1 / T, as for any t",
    )

    @model_validator(mode="after")
    def _has_one_way_to_draw(self) -> SMTConfig:
        if self.consecutive and self.empty_share is not None:
            raise ValueError("empty_share is for positions that are drawn apart, not for consecutive ones")
        return self


class Drawn(NamedTuple):
    """The random choices of one batch."""

    t: Tensor  # (B, n) positions
    compared: Tensor | None  # memory tokens in L_unif, by their numbers; None: all


class Windows(NamedTuple):
    """The parts of a batch at the positions t that SMT drew, n per row, N = B n in all."""

    before: Tensor  # (N, C) context of m_{t-1}
    context: Tensor  # (N, C) context of m_t
    x_t: Tensor  # (N,)
    future: Tensor  # (N, F-1) x_{t+1} ..
    targets: Tensor  # (N, F) y_t ..
    has_before: Tensor  # (N,) whether m_{t-1} is defined; if not, the transition does not count


def cut_windows(x: Tensor, y: Tensor, t: Tensor, context: int, future: int, first: int = 0) -> Windows:
    """Contexts, futures and targets at positions t (B, n) of sequences x, y (B, T).

    Contexts hold the last `context` inputs, right-aligned, padded in front; futures stop at the end of the sequence,
    where targets are -1. m_t is defined for t >= first - 1; at t < first the transition into m_t does not count.
    """
    context, future = min(context, x.shape[1]), min(future, x.shape[1])
    span = windows(x, t - context, context + 1, Teacher.PAD).flatten(0, 1)  # (N, C + 1): one window holds both contexts
    ahead = windows(x, t + 1, future - 1, 0).flatten(0, 1)
    targets = windows(y, t, future, IGNORED).flatten(0, 1)
    return Windows(span[:, :-1], span[:, 1:], span[:, -1], ahead, targets, (t >= first).flatten())


def dynamics_loss(predicted: Tensor, memory: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean squared error between memories (N, K, d), over the rows where `counts` (N,) is true."""
    if counts is None:
        return F.mse_loss(predicted, memory)
    each = (predicted - memory).square().flatten(1).mean(1)
    return (each * counts).sum() / counts.sum().clamp(min=1)


def uniformity_loss(memory: Tensor, compared: Tensor | None = None) -> Tensor:
    """Log of the mean, over pairs of distinct memory tokens, of exp(-2 squared distance); tokens at unit norm.

    Of the N K tokens of memory (N, K, d), those with an index in `compared` take part. After Wang & Isola, 2005.10242.
    """
    tokens = memory.flatten(0, 1)
    if compared is not None:
        tokens = tokens[compared]
    if len(tokens) < 2:
        return 0 * tokens.sum()
    with torch.autocast(tokens.device.type, enabled=False):  # bfloat16 cannot distinguish tokens that are close
        tokens = F.normalize(tokens.float() if tokens.dtype == torch.bfloat16 else tokens, dim=-1)
        exponent = 4 * (tokens @ tokens.T) - 4  # -2 |a - b|^2 for unit vectors
    itself = torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)
    pairs = len(tokens) * (len(tokens) - 1)
    # (Exponents lie between -8 and 0, so that no maximum has to be subtracted first.)
    return exponent.masked_fill(itself, -torch.inf).exp().sum().log() - math.log(pairs)


@register_method("smt")
class SMT(TaughtMethod):
    """Teacher and updater trained jointly; the readout is the decoder's."""

    Config = SMTConfig
    config: SMTConfig
    gradient_is: ClassVar[Mapping[str, Any]] = {"smt": "own"}
    answers: ClassVar[Mapping[str, str]] = {"smt": "L_dec"}

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__(config, task, model, noise)
        self.teacher = Teacher(model, task.vocab_size, task.output_size)

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        config: Any = run.method_config
        if reason := super().refuses(run):
            return reason
        columns = config.length or run.task_config.length
        if config.length:
            task = registry.tasks.get(run.task)(run.task_config)
            if reason := undrawable(task, "train", columns, run.evaluation.score_from):
                return f"length: {reason}"
        first = config.context if config.start == "context" else 0
        if config.whole_futures and columns < first + config.future:
            return f"whole_futures needs batches of at least {first + config.future} columns, not {columns}"
        if config.whole_futures and run.training.curriculum and not config.length:
            return "whole_futures needs batches of one length; training.curriculum should be null"
        if config.start == "empty":
            return None
        if run.training.curriculum:
            return f"training.curriculum: start: context needs sequences longer than {config.context}; should be null"
        if columns <= config.context:
            return f"start: context needs sequences longer than the context, {config.context}"
        if run.evaluation.score_from < config.context - 1:
            return (
                f"start: context needs evaluation.score_from >= {config.context - 1} (context - 1), "
                f"not {run.evaluation.score_from}: no earlier position has a memory"
            )
        return None

    @property
    def first(self) -> int:
        """The number of inputs that the first memory holds."""
        return self.config.context if self.config.start == "context" else 0

    def phases(self, training: TrainingConfig) -> list[Phase]:
        return [self.smt_phase(1.0, training)]

    def smt_phase(self, share: float, training: TrainingConfig) -> Phase:
        """The phase of supervised memory training, with this share of the budget."""
        return Phase(
            "smt", share, training.optimiser, self.smt_groups(), training.batch_size, length=self.config.length
        )

    def smt_groups(self) -> tuple[tuple[torch.nn.Parameter, ...], ...]:
        """Teacher and RNN, clipped separately. The readout is not trained: it takes the decoder's weights."""
        rnn = (*self.rnn.embedding.parameters(), *self.rnn.updater.parameters())
        return tuple(self.teacher.parameters()), rnn

    def draw(self, shape: tuple[int, int], phase: str) -> Drawn:
        return self.draw_smt(shape)

    def draw_smt(self, shape: tuple[int, int]) -> Drawn:
        """Distinct positions per row, none before the first memory, and the memory tokens for L_unif.

        Consecutive positions that would begin before the first or end after the last are moved inside, so that no
        position is drawn less often than those in the middle.
        """
        (batch_size, length), device = shape, self.noise.device
        earliest, latest = max(self.first - 1, 0), length - 1
        if self.config.whole_futures:
            earliest, latest = self.first, length - self.config.future
        positions = latest + 1 - earliest
        several = min(self.config.timesteps or positions, positions)
        if self.config.consecutive:
            begin = torch.randint(1 - several, positions, (batch_size, 1), generator=self.noise, device=device)
            t = begin.clamp(0, positions - several) + torch.arange(several, device=device) + earliest
            return self._drawn(t)
        keys = torch.rand(batch_size, positions, generator=self.noise, device=device)
        if self.config.empty_share is not None and earliest == 0 and several < positions:
            # Give t = 0 its own share: it comes first in that share of the rows, else last.
            chosen = torch.rand(batch_size, generator=self.noise, device=device) < self.config.empty_share
            keys[:, 0] = chosen.to(keys.dtype) * 3 - 1
        t = keys.topk(several, dim=1).indices + earliest
        return self._drawn(t)

    def _drawn(self, t: Tensor) -> Drawn:
        return Drawn(t, self.draw_compared(t.numel() * self.model.memory_tokens, self.config.uniformity_sample))

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        return self.smt_losses(batch, drawn), carry

    def smt_losses(self, batch: Batch, drawn: Drawn) -> dict[str, Tensor]:
        """L_smt as "loss", and its three parts."""
        config, (x, y, _), t = self.config, batch, drawn.t
        seen = cut_windows(x, y, t, config.context, config.future, self.first)
        before, memory = self._encode_pairs(seen, len(x))
        dec = self.decoded_loss(memory, seen.future, seen.targets, t.flatten(), x.shape[1])
        from_, to = (before.detach(), memory.detach()) if config.detach else (before, memory)
        dyn = dynamics_loss(self.rnn.update(from_, seen.x_t), to, seen.has_before if self.first else None)
        unif = uniformity_loss(memory, drawn.compared)
        loss = config.lambda_dec * dec + config.lambda_dyn * dyn + config.lambda_unif * unif
        return {"loss": loss, "L_dec": dec, "L_dyn": dyn, "L_unif": unif}

    def _encode_pairs(self, seen: Windows, rows: int) -> tuple[Tensor, Tensor]:
        """Memories m_{t-1} and m_t, each (N, K, d), from one call of the encoder; consecutive positions share them."""
        if not self.config.consecutive:
            before, memory = self.teacher.encode(torch.cat([seen.before, seen.context])).chunk(2)
            return before, memory
        first = seen.before.unflatten(0, (rows, -1))[:, :1]
        contexts = torch.cat([first, seen.context.unflatten(0, (rows, -1))], 1)  # (B, n + 1, C)
        memories = self.teacher.encode(contexts.flatten(0, 1)).unflatten(0, contexts.shape[:2])
        return memories[:, :-1].flatten(0, 1), memories[:, 1:].flatten(0, 1)

    def sync_predictor(self, phase: str) -> None:
        if phase == "smt":
            self.take_over()

    def empty_memory(self) -> Tensor:
        return self.teacher.encode(torch.empty(1, 0, dtype=torch.long, device=self.noise.device))[0]

    # With `start: context` the first T_c inputs are only collected: the state is a pair (memory, window), and window is
    # None once it has been encoded.

    def initial_state(self, lanes: int) -> Any:
        memory = super().initial_state(lanes)
        return (memory, torch.empty(lanes, 0, dtype=torch.long, device=memory.device)) if self.first else memory

    def advance(self, state: Any, x: Tensor, columns: slice = EVERY, start: Tensor | None = None) -> tuple[Tensor, Any]:
        memories, state = self.roll(state, x, start)
        return self.rnn.read(memories[:, columns].flatten(-2)), state

    def roll(self, state: Any, x: Tensor, start: Tensor | None = None) -> tuple[Tensor, Any]:
        """Run the RNN on its own memories over inputs x (B, T): memories after each (B, T, K, d), and the last state.

        With `start: context`, the empty memory stands in until the first one is known; nothing is scored before that.
        """
        if not self.first:
            return self._unroll(state, x, start)
        if start is not None and start[:, 1:].any():
            raise NotImplementedError("start: context has no lanes that restart")
        memory, window = state
        parts, waiting = [], 0 if window is None else min(self.first - window.shape[1], x.shape[1])
        if waiting:
            window = torch.cat([window, x[:, :waiting]], 1)
            parts.append(memory[:, None].expand(-1, waiting, -1, -1))
            if window.shape[1] == self.first:
                memory, window = self.teacher.encode(window), None
                parts[0] = torch.cat([parts[0][:, 1:], memory[:, None]], 1)
        if waiting < x.shape[1]:
            memories, memory = self._unroll(memory, x[:, waiting:])
            parts.append(memories)
        return torch.cat(parts, 1), (memory, window)

    def _unroll(self, memory: Tensor, x: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features, memory = self.rnn.scan(memory, x, start)
        return features.unflatten(-1, memory.shape[1:]), memory

    def rollout(self, x: Tensor) -> Tensor:
        """The RNN's own memories over whole sequences x (B, T): (B, T, K, d)."""
        return self.roll(self.initial_state(len(x)), x)[0]

    def predict_teacher(self, x: Tensor, columns: slice = EVERY) -> Tensor:
        memories = self.teacher_memories(x, range(x.shape[1])[columns])
        return torch.stack([self.teacher.decode(memory, x[:, :0])[:, 0] for memory in memories.unbind(1)], 1)

    def teaching(self) -> Teaching:
        return Teaching(self.teacher_memories, self.teacher.decode, self.config.future, self.rollout)

    def teacher_memories(self, x: Tensor, columns: Sequence[int]) -> Tensor:
        """Memories after n columns of x (B, T), each encoded from its own context: (B, n, K, d)."""
        contexts = (x[:, max(0, t + 1 - self.config.context) : t + 1] for t in columns)
        return torch.stack([self.teacher.encode(context) for context in contexts], 1)
