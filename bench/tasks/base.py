"""The task contract: what is drawn, what is scored, and the best scores that are possible."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from bench import streams
from bench.config import TaskConfig
from bench.errors import BadInput

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
HELD: tuple[Split, ...] = ("valid", "test")
IGNORED = -1
"""The label of a position that is not scored."""


class Batch(NamedTuple):
    """Sequences and their labels: `y[:, t]` is predicted from `x[:, :t+1]`, and -1 is not scored."""

    x: Tensor  # (B, T) int64
    y: Tensor  # (B, T) int64
    start: Tensor | None = None  # (B, T) bool: the lane restarts at this column; None: whole sequences


StreamState = tuple[Tensor, ...]
"""The state of a stream's lanes: all that the next piece depends on, in tensors that a checkpoint can hold."""


class Task(ABC):
    """One task at one difficulty.

    Subclasses set `Config` and `axis`, implement `vocab_size`, `output_size` and `sample`, and state `chance`,
    `loss_floor` and `accuracy_ceiling` where they can be known. These depend on the length, as a model may be tested
    at lengths it was not trained at, and hold for the columns from `score_from` on, as earlier ones may not be scored.
    """

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]] = TaskConfig
    axis: ClassVar[str] = "length"
    """The knob that makes the task harder."""
    unit: ClassVar[Literal["nats", "bits"]] = "nats"
    """The unit in which reports show this task's loss; it is always measured in nats per scored token."""

    continues: ClassVar[bool] = False
    """Whether the lanes of its streams never restart; otherwise they restart with each sequence."""

    fingerprint: str | None = None
    """A hash of the data of a natural task, as a property: a result is stale once its data has changed."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @classmethod
    def missing(cls) -> str | None:
        """Why this task cannot run on this machine, in one line, or None.

        A natural task whose data is missing names the commands that bring it; building it raises `BadInput`.
        """
        return None

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of input symbols: `x` is in [0, vocab_size)."""

    @property
    def output_size(self) -> int:
        """Number of labels: a scored `y` is in [0, output_size)."""
        return self.vocab_size

    @abstractmethod
    def sample(self, split: Split, batch_size: int, length: int, generator: torch.Generator) -> Batch:
        """Draw sequences on the generator's device. Raises `BadInput` when no instance fits `length`.

        The splits of a synthetic task differ by the random stream of the caller's generator; those of a natural task
        are different data. A task whose length follows from its fields draws the largest instance that fits.
        """

    def stream(
        self, split: Split, lanes: int, length: int, generator: torch.Generator, state: StreamState | None = None
    ) -> tuple[Batch, StreamState]:
        """The same data as endless lanes, `length` columns at a time: the next piece and the lanes' state after it.

        Pass the returned state to the next call; None restarts. The columns do not depend on how they are cut into
        pieces. By default one sequence follows another in each lane, with `start` true at its first column, and the
        state holds what is drawn but not yet returned. `scored_columns` describes whole sequences, not pieces.
        """
        parts = [] if state is None else [state]
        while sum(x.shape[1] for x, _, _ in parts) < length:
            x, y, _ = self.sample(split, lanes, self.config.length, generator)
            first = torch.arange(x.shape[1], device=x.device) == 0
            parts.append((x, y, first.expand(lanes, -1)))
        x, y, start = (torch.cat(columns, 1) for columns in zip(*parts, strict=True))
        rest = tuple(part[:, length:].clone() for part in (x, y, start))  # (a view would keep all of it in checkpoints)
        return Batch(x[:, :length], y[:, :length], start[:, :length]), rest

    def advance(self, state: StreamState, loss: Tensor) -> StreamState:
        """The state after the mean loss of the last batch, a tensor () in nats, so that a curriculum can move on.

        The trainer calls this after the steps on that batch.
        """
        return state

    def standing(self, state: StreamState) -> dict[str, Tensor]:
        """Values that describe a stream's state, such as a level, for the training curve: tensors () by name."""
        return {}

    def scored_columns(self, length: int) -> range:
        """The columns of a batch where labels may be scored; all others are -1 in every row."""
        return range(length)

    def chance(self, length: int, score_from: int = 0) -> float:
        """Accuracy of a blind guess among the labels that occur."""
        return 1 / self.output_size

    def loss_floor(self, length: int, score_from: int = 0) -> float | None:
        """Bayes-optimal loss in nats per scored token; None when it is unknown."""
        return None

    def accuracy_ceiling(self, length: int, score_from: int = 0) -> float | None:
        """Bayes-optimal accuracy; None when it is unknown."""
        return None

    def stream_facts(self) -> dict[str, float]:
        """`loss_floor` and `accuracy_ceiling` of endless streams, where they differ from those of sequences."""
        return {}

    def oracle(self, x: Tensor) -> Tensor | None:
        """Bayes-optimal probabilities of every label given the past: x (B, T) -> (B, T, O), float64.

        None, the default, where they are unknown. They are arbitrary where nothing is scored. They follow from x alone,
        which may hold any symbols, and those at t from `x[:, :t+1]` alone.
        """
        return None

    @property
    def picture_symbols(self) -> int | None:
        """The number of symbols in a picture; None where sequences are not pictures."""
        return None

    def picture(self, x: Tensor) -> Tensor | None:
        """Whole pictures x (N, picture_symbols) as grey levels (N, H, W), uint8, for display, or None."""
        return None

    def text(self, x: Tensor) -> list[str] | None:
        """Sequences x (N, T) as text, for display; None where they are not text."""
        return None

    def rules(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Trivial rules by name: each maps `x` (B, T) to a guess for every label (B, T)."""
        return {"echo the last symbol": lambda x: x}

    def shortcuts(self, length: int, score_from: int = 0) -> dict[str, float]:
        """The accuracy of trivial rules, measured on 2,048 fixed sequences.

        These are the task's own rules and two that every task has, the commonest label and the commonest label after
        the last symbol, both fitted on other sequences than those they are scored on.
        """
        fit, score = (self._drawn(split, length, score_from) for split in ("train", "test"))
        scored = score.y != IGNORED
        guesses = {name: rule(score.x) for name, rule in self.rules().items()}
        counts = self._counts(fit)  # (V, O)
        guesses["the commonest label"] = counts.sum(0).argmax().expand_as(score.y)
        guesses["the commonest label after this symbol"] = counts.argmax(1)[score.x]
        return {name: (guess == score.y)[scored].double().mean().item() for name, guess in guesses.items()}

    def unigram_loss(self, length: int, score_from: int = 0) -> float:
        """Loss, in nats per scored token, of a model that knows only the label frequencies (add-one smoothed)."""
        fit, score = (self._drawn(split, length, score_from) for split in ("train", "test"))
        counts = self._counts(fit).sum(0) + 1  # (O,)
        log_p = (counts / counts.sum()).log()
        return -log_p[score.y[score.y != IGNORED]].mean().item()

    def _drawn(self, split: Split, length: int, score_from: int = 0) -> Batch:
        return hide(self.sample(split, 2048, length, streams.generator(0, "shortcuts", split)), score_from)

    def _counts(self, batch: Batch) -> Tensor:
        """How often each label occurs with each input symbol, float64 (V, O)."""
        scored = batch.y != IGNORED
        pairs = batch.x[scored] * self.output_size + batch.y[scored]
        table = torch.bincount(pairs, minlength=self.vocab_size * self.output_size)
        return table.view(self.vocab_size, self.output_size).double()


def columns_from(columns: range, score_from: int) -> range:
    """The columns from `score_from` on."""
    return columns[max(0, -((columns.start - score_from) // columns.step)) :]


def undrawable(task: Task, split: Split, length: int, score_from: int = 0) -> str | None:
    """Why no sequences of a length with a label from column `score_from` on can be drawn, or None."""
    try:
        task.sample(split, 1, length, streams.generator(0, "possible"))
        columns = task.scored_columns(length)
    except BadInput as error:
        return str(error)
    if columns_from(columns, score_from):
        return None
    return f"{task.name}: sequences of length {length} have no label from column {score_from} on"


def hide(batch: Batch, score_from: int) -> Batch:
    """A batch without labels before column `score_from`. The given y is kept, as it may be a view of x."""
    if score_from == 0:
        return batch
    y = batch.y.clone()
    y[:, :score_from] = IGNORED
    return batch._replace(y=y)


def hide_in_stream(batch: Batch, score_from: int, position: Tensor) -> tuple[Batch, Tensor]:
    """Like `hide`, for a piece of a stream: hides labels less than `score_from` columns after their lane started.

    `position` (B,) is the number of columns of each lane before the piece; the second result is the number after it.
    Raises `BadInput` for a `start` in the form of versions before 0.2.
    """
    if batch.start is None or batch.start.shape != batch.x.shape:
        given = None if batch.start is None else tuple(batch.start.shape)
        raise BadInput(
            f"stream gives a batch whose start is {given}: since 0.2 it says at each column whether the lane "
            f"restarts there, {tuple(batch.x.shape)}; see docs/add-a-task.md"
        )
    t = torch.arange(batch.x.shape[1], device=batch.x.device)
    begun = (
        torch.where(batch.start, t, -1).cummax(1).values
    )  # the last column at which the lane started; -1: before the piece
    since = torch.where(begun >= 0, t - begun, position[:, None] + t)
    y = batch.y.masked_fill(since < score_from, IGNORED) if score_from else batch.y
    return batch._replace(y=y), since[:, -1] + 1


def corrupt(y: Tensor, labels: range, probability: float, generator: torch.Generator) -> Tensor:
    """Replace each label, with this probability, by a uniformly random one of `labels`, perhaps the true one."""
    if probability == 0:
        return y
    noise = torch.randint(labels.start, labels.stop, y.shape, generator=generator, device=y.device)
    hit = torch.rand(y.shape, generator=generator, device=y.device) < probability
    return torch.where(hit, noise, y)


def corrupted_oracle(y: Tensor, size: int, labels: range, probability: float = 0.0) -> Tensor:
    """The probabilities (B, T, size), float64, of the labels of y (B, T) after corruption."""
    likely = torch.zeros(*y.shape, size, dtype=torch.float64, device=y.device)
    likely.scatter_(-1, y[..., None], 1 - probability)
    likely[..., labels.start : labels.stop] += probability / len(labels)
    return likely


def corrupted_ceiling(symbols: int, probability: float) -> float:
    """Bayes-optimal accuracy when a known label is replaced by one of `symbols` with that probability."""
    return 1 - probability + probability / symbols


def corrupted_floor(symbols: int, probability: float) -> float:
    """Entropy, in nats, of a known label that is replaced by one of `symbols` with that probability."""
    other = probability / symbols
    right = 1 - probability + other
    return sum(-n * p * math.log(p) for n, p in ((1, right), (symbols - 1, other)) if p > 0)
