"""The method contract: gradients for the trainer's steps, and a predictor that is scored like every other."""

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
    """A part of training with a share of the budget and its own optimiser. Only parameters in `groups` are trained."""

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
    """The phase ends early once its loss, averaged over about twenty steps, is below this; the next gets the rest."""
    stages: int = 1
    """The number of equal parts whose work differs; `Method.stage` says which part training is in."""


class Carry(NamedTuple):
    """The trees of tensors that a method carries along a stream; the trainer keeps them in its checkpoints."""

    lanes: Any = ()
    """The part that belongs to each lane, lanes first; it is reset where the lane restarts."""
    shared: Any = ()
    """The part that all lanes share, such as running statistics; it is never reset."""


class Credit(NamedTuple):
    """The result of one column for an online method: sums over the scored labels of the column."""

    gradient: dict[str, Tensor]
    """The gradient by parameter name; the harness divides it by the scored labels of a window of columns."""
    weight: Tensor
    """The number of scored labels."""
    scalars: dict[str, Tensor]
    """Scalars for the log, divided in the same way, with a "loss" in nats among them."""


class Predictor(NamedTuple):
    """A model that is scored."""

    name: str
    predict: Predict
    reference: bool = False
    """Whether it is shown beside the trained predictor only for comparison."""


class Teaching(NamedTuple):
    """What measures use of a teacher that writes memories like the predictor's own, K tokens of width d."""

    memories: Callable[[Tensor, Sequence[int]], Tensor]
    """Inputs x (B, T) and n columns -> the memories after these, (B, n, K, d)."""
    decode: Callable[[Tensor, Tensor], Tensor]
    """Memories (B, K, d) and the F - 1 inputs after each -> logits (B, F, O), the first for the memory's own column."""
    future: int
    """F, the largest number of outputs predicted from one memory."""
    rollout: Callable[[Tensor], Tensor]
    """Inputs x (B, T) -> the predictor's own memories after each (B, T, K, d)."""


class MethodConfig(Config):
    """The base of a method's config, to which each method adds its own fields."""


class Method(nn.Module, ABC):
    """One way to train a predictor.

    A subclass sets `Config` and what it can run on, builds its modules in `__init__`, and implements `initial_state`
    and `advance`, the predictor, and one of three forms of training:

    - `losses`: a loss that the harness differentiates, for a batch of sequences or a piece of a stream;
    - `step`: its own gradient, column by column, of a stream (an online method);
    - `gradients`: a generator that sets `.grad` itself, for what fits neither.

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
    """By phase, how credit reaches earlier inputs outside autograd: a phrase for the report."""
    gradient_is: ClassVar[Mapping[str, Literal["exact", "unbiased", "own"]]] = {}
    """By phase, the promise about the gradient that `check` tests. "exact": the gradient of the mean cross-entropy of
    the predictor's logits over the scored positions; "unbiased": the same on average over `self.noise`; "own": the
    gradient of the method's own "loss", whatever that is. No entry: no promise."""
    answers: ClassVar[Mapping[str, str]] = {}
    """By phase, the scalar that is the cross-entropy of the answers, for a curriculum and the online loss. No entry:
    the "loss"."""
    growing_state: ClassVar[bool] = False
    """Whether the predictor's state grows with the sequence, as a Transformer's does; a recurrent network's may not."""

    stage: int = 0
    """The current part of a phase that has several `stages`."""
    carry: Any = None
    """A tree of tensors that `gradients` keeps from one batch to the next; the trainer keeps it in checkpoints."""

    def __init__(self, config: MethodConfig, task: Task, model: ModelConfig, noise: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.model = model
        self.noise = noise

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        """Why a run of this method cannot be trained, in one line, or None. For checks across the configs of a run."""
        return None

    @classmethod
    def uncompilable(cls, run: Run) -> str | None:
        """Why the `step` of a run cannot be compiled, in one line, or None."""
        return f"{cls.name} trains by 'step', and does not state that it can be compiled"

    @property
    def first(self) -> int:
        """The number of inputs before the predictor's first memory: 0, unless that memory holds several inputs."""
        return 0

    def recurrent_network(self) -> RNN | None:
        """The recurrent network that is trained, if there is one, for measures of its memories."""
        return None

    def teaching(self) -> Teaching | None:
        """The teacher of memories, where there is one."""
        return None

    def traits(self) -> dict[str, Any]:
        """The facts about the method that results state, so that readers need not know its name."""
        return {
            "state": "growing" if self.growing_state else "constant",
            "data": self.data,
            "recurrent": self.recurrent_network() is not None,
            "teacher": self.teaching() is not None,
        }

    def phases(self, training: TrainingConfig) -> list[Phase]:
        """The phases in the order in which they are trained. By default one phase trains everything."""
        return [Phase("train", 1.0, training.optimiser, (tuple(self.parameters()),), training.batch_size)]

    def objective(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss of logits (.., O) at y (..), and the number of scored labels, by which it is divided.

        Override this for a loss other than cross-entropy, in nats.
        """
        return _summed_cross_entropy(logits, y)

    def mean_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The objective divided by the number of scored labels; 0 where nothing is scored."""
        return _mean(*self.objective(logits, y))

    def scored_loss(self, batch: Batch) -> Tensor:
        """The `mean_loss` of the predictor on whole sequences, computed only at columns that the task scores."""
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
        """The number of columns that `step` takes at once; above 1, x_t and y_t have shape (B, block) or less."""
        return 1

    def begin(self, lanes: int) -> Carry:
        """The carry before any input."""
        return Carry()

    def draw(self, shape: tuple[int, int], phase: str) -> Any:
        """Draw every random choice for inputs of a shape (B, T) from `self.noise`: a tree of tensors of fixed shapes.

        The choices do not depend on data. For `step`, the first axis of each tensor is the T columns.
        """
        return ()

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        """Compute scalars with a "loss", which is differentiated, and the next carry. Pure in parameters and arguments.

        A batch of a stream is one piece of it. Lanes may restart at any column, as `batch.start` says; the method
        resets them itself. The harness detaches the carry.
        """
        raise NotImplementedError

    def step(self, carry: Carry, x_t: Tensor, y_t: Tensor, drawn_t: Any) -> tuple[Carry, Credit]:
        """Process a column x_t, y_t (B,) of a stream, or a `block`: the next carry, and credit. Pure; sets no `.grad`.

        `drawn_t` holds the choices of the first column. The harness has already reset the lanes that restart here.
        """
        raise NotImplementedError

    def direction(self, gradient: dict[str, Tensor], shared: Any) -> dict[str, Tensor]:
        """The gradient for the optimiser, from an online method's mean gradient over a window; by default the same."""
        return gradient

    def gradients(self, batch: Batch, phase: str) -> Iterator[dict[str, Tensor]]:
        """Yield scalars (with a "loss") whenever the gradients in `.grad` are ready for a step.

        The trainer clips, steps and clears the gradients at each yield. Scalars stay on the device. What must survive
        from one batch to the next belongs in `self.carry`. The default differentiates `losses`, for methods that edit
        the gradient afterwards.
        """
        lanes, columns = batch.x.shape
        scalars, _ = self.losses(batch, self.draw((lanes, columns), phase), self.begin(lanes), phase)
        scalars["loss"].backward()
        yield {name: value.detach() for name, value in scalars.items()}

    def sync_predictor(self, phase: str) -> None:
        """Bring the predictor up to date with what was trained; called before each score and at the end of a phase."""

    @abstractmethod
    def initial_state(self, lanes: int) -> Any:
        """The predictor's state before any input: a tree of tensors."""

    @abstractmethod
    def advance(self, state: Any, x: Tensor, columns: slice = EVERY, start: Tensor | None = None) -> tuple[Tensor, Any]:
        """Process x (B, T), T >= 1: logits (B, n, O) at the n requested columns, and the state after the last input.

        A lane restarts at each column where `start` (B, T), bool, is true. The logits do not depend on
        how x is cut into pieces, nor those for y_t on later inputs.
        """

    def predict(self, x: Tensor, columns: slice = EVERY) -> Tensor:
        """Logits (B, n, O) at the requested columns of whole sequences x (B, T): `advance` from the initial state."""
        return self.advance(self.initial_state(len(x)), x, columns)[0]

    def predictors(self) -> tuple[Predictor, ...]:
        """The models that are scored: the trained predictor first, then reference lines such as a teacher."""
        return (Predictor("predictor", self.predict),)

    def predictor_modules(self) -> list[nn.Module]:
        """The modules of the trained predictor, whose parameters `model.parameters` counts."""
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
    """The sum of the cross-entropy over scored positions, and their number."""
    total = F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, (y != IGNORED).sum()


def _mean(total: Tensor, weight: Tensor) -> Tensor:
    return total / weight.clamp(min=1)


def scored_slice(task: Task, length: int, first: int = 0) -> slice:
    """The scored columns from `first` on, as a slice, because a list would be copied to the device at every step."""
    columns = columns_from(task.scored_columns(length), first)
    return slice(columns.start, columns.stop, columns.step)
