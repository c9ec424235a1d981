"""The method contract: gradients for the trainer to step on, and a predictor that is scored like every other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import registry, streams
from bench.config import Config, ModelConfig, Optimiser, Run, TrainingConfig, scored_lengths
from bench.errors import BadInput
from bench.models.rnn import RNN
from bench.tasks.base import HELD, IGNORED, Batch, Task, columns_from

Predict = Callable[[Tensor], Tensor]
"""x (B, T) -> logits (B, T, O)."""

ANY = ("*",)


@dataclass(frozen=True)
class Phase:
    """A part of training with its share of the budget and its own optimiser. Only the parameters in `groups` train."""

    name: str
    share: float
    optimiser: Optimiser
    groups: tuple[tuple[nn.Parameter, ...], ...]
    """Each group's gradient is clipped on its own."""
    batch_size: int


class MethodConfig(Config):
    """Fields of a method; each method has its own."""


class Method(nn.Module, ABC):
    """One way to train a predictor.

    A subclass sets `Config` and what it can run on, builds its modules in `__init__`, and implements `gradients`,
    `initial_state`, `update` and `readout`. It never owns an optimiser, and draws noise only from `self.noise`.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    backbones: ClassVar[tuple[str, ...]] = ANY
    """Updaters it can train; `("*",)`: any; `()`: it uses none, and the model's backbone changes nothing."""
    data: ClassVar[Literal["sequences", "streams"]] = "sequences"
    targets: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    """Whether it can learn from tasks that score every column (dense), only some (sparse), or both."""
    outside_autograd: ClassVar[Mapping[str, str]] = {}
    """By phase: how credit also reaches earlier inputs without a path in autograd, in words, for the report."""
    gradient_is: ClassVar[Mapping[str, Literal["exact", "unbiased", "own"]]] = {}
    """By phase, what `gradients` promises, and `check` examines. "exact": the gradient of the mean cross-entropy of the
    predictor's logits over the scored positions; "unbiased": that, on average over `self.noise`; "own": the gradient of
    the "loss" that is handed over, whatever it is. No entry: no promise."""
    growing_state: ClassVar[bool] = False
    """Whether the predictor's state grows with the sequence, as a Transformer's does; a recurrent network's may not."""
    carry: Any = None
    """What must survive from one batch to the next: a tree of tensors, checkpointed by the trainer."""

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.model = model
        self.noise = noise

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        """Why this run of the method cannot be trained, or None. For checks between the parts of a run."""
        return None

    def phases(self, training: TrainingConfig) -> list[Phase]:
        """In the order in which they are trained; by default one that trains everything."""
        return [Phase("train", 1.0, training.optimiser, (tuple(self.parameters()),), training.batch_size)]

    def train_only(self, phase: Phase) -> None:
        """Only the parameters of this phase require gradients."""
        self.requires_grad_(False)
        for parameter in (parameter for group in phase.groups for parameter in group):
            parameter.requires_grad_(True)

    @abstractmethod
    def gradients(self, batch: Batch, phase: str) -> Iterator[dict[str, Tensor]]:
        """A generator: at each `yield` the gradients are in `.grad`, and scalars (with a "loss") are handed over.

        The trainer clips, steps and clears the gradients at each yield. Scalars stay on the device.
        """

    def settle(self, phase: str) -> None:
        """Make the predictor whole: called before every scoring and at the end of each phase."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """The predictor's state before any input: a tree of tensors."""

    @abstractmethod
    def update(self, state: Any, x_t: Tensor) -> Any:
        """Take in one input x_t (B,): the next state."""

    @abstractmethod
    def readout(self, state: Any) -> Tensor:
        """Logits (B, O) for y_t from the state after x_t."""

    def predict(self, x: Tensor) -> Tensor:
        """x (B, T) -> logits (B, T, O): the loop over `update` and `readout`, or something equal to it and faster."""
        state, logits = self.initial_state(len(x)), []
        for x_t in x.unbind(1):
            state = self.update(state, x_t)
            logits.append(self.readout(state))
        return torch.stack(logits, 1)

    def predictors(self) -> dict[str, Predict]:
        """What is scored, the trained predictor first; the others are reference lines."""
        return {"predictor": self.predict}

    def predictor_modules(self) -> list[nn.Module]:
        """The modules that make up the trained predictor: their parameters are what `model.parameters` counts."""
        return [self]


class RecurrentMethod(Method):
    """A method whose predictor is `self.rnn`."""

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__(config, task, model, noise)
        self.rnn = RNN(model, task.vocab_size, task.output_size)

    def initial_state(self, batch_size: int) -> Any:
        return self.rnn.initial_state(batch_size)

    def update(self, state: Any, x_t: Tensor) -> Any:
        return self.rnn.update(state, x_t)

    def readout(self, state: Any) -> Tensor:
        return self.rnn.read(state)

    def predict(self, x: Tensor) -> Tensor:
        return self.rnn.read(self.rnn.unroll(self.rnn.initial_state(len(x)), x))

    def predictors(self) -> dict[str, Predict]:
        return {"rnn": self.predict}

    def predictor_modules(self) -> list[nn.Module]:
        return [self.rnn]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over scored positions, in nats; 0 where nothing is scored. logits (..., O), y (...)."""
    total = F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (y != IGNORED).sum().clamp(min=1)


def scored_slice(task: Task, length: int) -> slice:
    """The scored columns as a slice: a view, where a list of columns would be copied to the device at every step."""
    columns = task.scored_columns(length)
    return slice(columns.start, columns.stop, columns.step)


def impossible(run: Run) -> str | None:
    """Why this run cannot be trained, from what its method, task and backbone declare; None when it can."""
    method, task = registry.methods.get(run.method), registry.tasks.get(run.task)
    backbone = run.model.backbone
    if method.backbones not in (ANY, ()) and backbone not in method.backbones:
        return f"{run.method} trains {', '.join(method.backbones)} updaters only, not {backbone}"
    length = run.task_config.length  # type: ignore[attr-defined]
    missing = task.missing()
    if missing:
        return missing
    built = task(run.task_config)
    if reason := _unscorable(run, built):
        return reason
    kind = "dense" if built.scored_columns(length) == range(length) else "sparse"
    if kind not in method.targets:
        return f"{run.method} learns from {' and '.join(method.targets)} targets only; {run.task} is {kind}"
    return method.refuses(run)


def _unscorable(run: Run, task: Task) -> str | None:
    """Why sequences of some length cannot be drawn, or have no label that is scored; None when all is well."""
    trained, *_ = lengths = scored_lengths(run)
    generator = streams.generator(0, "possible")
    for length in lengths:
        field = "" if length == trained else "evaluation.lengths: "
        try:
            for split in HELD if field else (*HELD, "train"):  # the smallest, with the lowest bound, first
                task.sample(split, 1, length, generator)
            columns = task.scored_columns(length)
        except BadInput as error:
            return f"{field}{error}"
        if not columns_from(columns, run.evaluation.score_from):
            return (
                f"evaluation.score_from: {run.evaluation.score_from} given; should be at most {columns[-1]}, the last "
                f"column that {task.name} scores at length {length}"
            )
    return None
