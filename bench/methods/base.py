"""The method contract: gradients for the trainer to step on, and a predictor that is scored like every other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config import Config, ModelConfig, Optimiser, Run, TrainingConfig
from bench.models.backbone import RECURRENCES, Recurrence
from bench.models.rnn import RNN
from bench.tasks.base import IGNORED, Batch, Task, columns_from

Predict = Callable[[Tensor, slice], Tensor]
"""x (B, T), columns -> logits (B, n, O) at these n columns."""
EVERY = slice(None)
"""All columns."""
NONE = slice(0)
"""No columns."""


@dataclass(frozen=True)
class Phase:
    """A part of training with a share of the budget and its own optimiser. Only the parameters in `groups` train."""

    name: str
    share: float
    optimiser: Optimiser
    groups: tuple[tuple[nn.Parameter, ...], ...]
    """Each group's gradient is clipped on its own."""
    batch_size: int
    length: int | None = None
    """The length of its batches; None: the task's."""
    rates: tuple[float, ...] = ()
    """The learning rate of each group, as a multiple of the optimiser's; (): 1 for all."""
    until: float | None = None
    """The phase ends early once its loss, averaged over some twenty steps, is below this; the next gets the rest."""
    stages: int = 1
    """The number of equal parts whose work differs; `Method.stage` says which part training is in."""


class Carry(NamedTuple):
    """What a method carries through a stream, as trees of tensors; the trainer keeps it in its checkpoints."""

    lanes: Any = ()
    """What belongs to each lane, lanes first: reset where the lane restarts."""
    shared: Any = ()
    """What all lanes share, which is never reset: running statistics, for example."""


class Credit(NamedTuple):
    """The result of one column for an online method: sums over the scored labels of the column."""

    gradient: dict[str, Tensor]
    """The gradient by parameter name; the harness divides it by the scored labels of a window of columns."""
    weight: Tensor
    """The number of scored labels."""
    scalars: dict[str, Tensor]
    """Scalars for the log, divided in the same way; a "loss" among them, in nats."""


class Predictor(NamedTuple):
    """A model that is scored."""

    name: str
    predict: Predict
    reference: bool = False
    """Whether it stands beside the trained predictor for comparison only."""


class Teaching(NamedTuple):
    """A teacher that writes memories like the predictor's own, K tokens of width d, as measures see it."""

    memories: Callable[[Tensor, Sequence[int]], Tensor]
    """Inputs x (B, T) and n columns -> the memories after these, (B, n, K, d)."""
    decode: Callable[[Tensor, Tensor], Tensor]
    """Memories (B, K, d) and the F - 1 inputs after each -> logits (B, F, O), the first for the memory's own column."""
    future: int
    """F, the largest number of outputs that are predicted from one memory."""
    rollout: Callable[[Tensor], Tensor]
    """Inputs x (B, T) -> the predictor's own memories after each (B, T, K, d)."""


class MethodConfig(Config):
    """Base of a method's config, which each method extends by fields of its own."""


class Method(nn.Module, ABC):
    """One way to train a predictor.

    A subclass sets `Config` and what it can run on, builds its modules in `__init__`, and implements `initial_state`
    and `advance`, the predictor, and one of three forms of training:

    - `losses`: a loss that the harness differentiates, for a batch of sequences or a piece of a stream;
    - `step`: its own gradient, column by column, of a stream (an online method);
    - `gradients`: a generator with `.grad` in its own hands, for what fits neither.

    It never owns an optimiser, and draws noise only from `self.noise`.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    recurrences: ClassVar[tuple[Recurrence, ...]] = RECURRENCES
    """The kinds of recurrence it can train; `()`: it uses no backbone, and `model.backbone` changes nothing."""
    data: ClassVar[Literal["sequences", "streams"]] = "sequences"
    targets: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    """Whether it can learn from tasks that score every column (dense), only some (sparse), or both."""
    outside_autograd: ClassVar[Mapping[str, str]] = {}
    """By phase, how credit reaches earlier inputs without a path in autograd: a phrase for the report."""
    gradient_is: ClassVar[Mapping[str, Literal["exact", "unbiased", "own"]]] = {}
    """By phase, what the gradient is promised to be, and `check` tests. "exact": the gradient of the mean cross-entropy
    of the predictor's logits over the scored positions; "unbiased": that, on average over `self.noise`; "own": the
    gradient of the "loss" that is handed over, whatever it is. No entry: no promise."""
    answers: ClassVar[Mapping[str, str]] = {}
    """By phase, which scalar is the cross-entropy of the answers, for a curriculum and the online loss. No entry: the
    "loss"."""
    growing_state: ClassVar[bool] = False
    """Whether the predictor's state grows with the sequence, as a Transformer's does; a recurrent network's may not."""

    stage: int = 0
    """The part of the phase that training is in, where a phase has several `stages`."""
    carry: Any = None
    """What `gradients` keeps from one batch to the next: a tree of tensors, which the trainer keeps in checkpoints."""

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.model = model
        self.noise = noise

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        """Why a run of this method cannot be trained, in one line, or None: for checks across the configs of a run."""
        return None

    @classmethod
    def uncompilable(cls, run: Run) -> str | None:
        """Why the `step` of this run cannot be compiled, in one line; None when it can."""
        return f"{cls.name} trains by 'step', and does not say that it can be compiled"

    @property
    def first(self) -> int:
        """The number of inputs before the predictor's first memory: 0, unless that is the memory of several inputs."""
        return 0

    def recurrent_network(self) -> RNN | None:
        """The recurrent network that is trained, if there is one; measures of memories look at it."""
        return None

    def teaching(self) -> Teaching | None:
        """The teacher of memories, where there is one."""
        return None

    def traits(self) -> dict[str, Any]:
        """What results say about the method beside its name, so that readers need not know the name."""
        return {
            "state": "growing" if self.growing_state else "constant",
            "data": self.data,
            "recurrent": self.recurrent_network() is not None,
            "teacher": self.teaching() is not None,
        }

    def phases(self, training: TrainingConfig) -> list[Phase]:
        """The phases in the order in which they are trained; by default one that trains everything."""
        return [Phase("train", 1.0, training.optimiser, (tuple(self.parameters()),), training.batch_size)]

    def objective(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What earns credit, apart from how it is assigned: the summed loss of logits (.., O) at y (..), and a weight.

        The weight is the number of scored labels. Override this for another loss than cross-entropy, in nats.
        """
        return _summed_cross_entropy(logits, y)

    def mean_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The objective divided by the number of scored labels; 0 where nothing is scored."""
        return _mean(*self.objective(logits, y))

    def scored_loss(self, batch: Batch) -> Tensor:
        """The `mean_loss` of the predictor on whole sequences, computed only at the columns that the task scores."""
        columns = scored_slice(self.task, batch.x.shape[1])
        return self.mean_loss(self.predict(batch.x, columns), batch.y[:, columns])

    def train_only(self, phase: Phase) -> None:
        """Let only the parameters of this phase require gradients."""
        self.requires_grad_(False)
        for parameter in (parameter for group in phase.groups for parameter in group):
            parameter.requires_grad_(True)

    @property
    def piece(self) -> int | None:
        """The number of columns of a stream per optimiser step; None: all columns of a batch."""
        return None

    @property
    def block(self) -> int:
        """The number of columns that `step` takes at once; above 1, x_t and y_t are (B, block), or fewer columns."""
        return 1

    def begin(self, lanes: int) -> Carry:
        """The carry before any input."""
        return Carry()

    def draw(self, shape: tuple[int, int], phase: str) -> Any:
        """Make every random choice for inputs of a shape (B, T), from `self.noise`: a tree of tensors of fixed shapes.

        It sees no data. For `step`, the first axis of each tensor is the T columns.
        """
        return ()

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        """Scalars with a "loss", which is differentiated, and the next carry. Pure in parameters and arguments.

        A batch of a stream is one piece of it, in which lanes may restart at any column, as `batch.start` says; the
        method resets them itself. The harness detaches the carry.
        """
        raise NotImplementedError

    def step(self, carry: Carry, x_t: Tensor, y_t: Tensor, drawn_t: Any) -> tuple[Carry, Credit]:
        """Take one column x_t, y_t (B,) of a stream, or a `block`: the next carry, and credit. Pure; writes no `.grad`.

        `drawn_t` holds the choices of the first column. The harness has reset the lanes of the carry that restart here.
        """
        raise NotImplementedError

    def direction(self, gradient: dict[str, Tensor], shared: Any) -> dict[str, Tensor]:
        """What the optimiser gets in place of an online method's mean gradient of a window; the identity by default."""
        return gradient

    def gradients(self, batch: Batch, phase: str) -> Iterator[dict[str, Tensor]]:
        """Yield scalars (with a "loss") whenever the gradients in `.grad` are ready for a step.

        The trainer clips, steps and clears the gradients at each yield. Scalars stay on the device. What must survive
        from one batch to the next is kept in `self.carry`. This default differentiates `losses`, for methods that edit
        the gradient afterwards.
        """
        lanes, columns = batch.x.shape
        scalars, _ = self.losses(batch, self.draw((lanes, columns), phase), self.begin(lanes), phase)
        scalars["loss"].backward()
        yield {name: value.detach() for name, value in scalars.items()}

    def sync_predictor(self, phase: str) -> None:
        """Bring the predictor up to date with what was trained: called before each scoring and at each phase's end."""

    @abstractmethod
    def initial_state(self, lanes: int) -> Any:
        """The predictor's state before any input: a tree of tensors."""

    @abstractmethod
    def advance(self, state: Any, x: Tensor, columns: slice = EVERY, start: Tensor | None = None) -> tuple[Tensor, Any]:
        """Take in x (B, T), T >= 1: logits (B, n, O) for y at the n asked columns, and the state after the last one.

        A lane restarts at each column where `start` (B, T), bool, is true. Any cut of x into pieces gives the same
        logits, and those for y_t depend on no later input.
        """

    def predict(self, x: Tensor, columns: slice = EVERY) -> Tensor:
        """Logits (B, n, O) of whole sequences x (B, T) at the asked columns: `advance` from the initial state."""
        return self.advance(self.initial_state(len(x)), x, columns)[0]

    def predictors(self) -> tuple[Predictor, ...]:
        """The models that are scored: the trained predictor first, then reference lines such as a teacher."""
        return (Predictor("predictor", self.predict),)

    def predictor_modules(self) -> list[nn.Module]:
        """The modules that make up the trained predictor: their parameters are what `model.parameters` counts."""
        return [self]


class RecurrentMethod(Method):
    """A method whose predictor is `self.rnn`."""

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__(config, task, model, noise)
        self.rnn = RNN(model, task.vocab_size, task.output_size)

    def initial_state(self, lanes: int) -> Any:
        return self.rnn.initial_state(lanes)

    def advance(self, state: Any, x: Tensor, columns: slice = EVERY, start: Tensor | None = None) -> tuple[Tensor, Any]:
        features, state = self.rnn.scan(state, x, start)
        return self.rnn.read(features[:, columns]), state

    def recurrent_network(self) -> RNN:
        return self.rnn

    def predictors(self) -> tuple[Predictor, ...]:
        return (Predictor("rnn", self.predict),)

    def predictor_modules(self) -> list[nn.Module]:
        return [self.rnn]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over scored positions, in nats; 0 where nothing is scored. logits (..., O), y (...)."""
    return _mean(*_summed_cross_entropy(logits, y))


def _summed_cross_entropy(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropy over scored positions, and the number of these."""
    total = F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, (y != IGNORED).sum()


def _mean(total: Tensor, weight: Tensor) -> Tensor:
    return total / weight.clamp(min=1)


def scored_slice(task: Task, length: int, first: int = 0) -> slice:
    """The scored columns from `first` on; as a slice, because a list would be copied to the device at every step."""
    columns = columns_from(task.scored_columns(length), first)
    return slice(columns.start, columns.stop, columns.step)
