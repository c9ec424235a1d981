"""The rows for tasks. Sampled means must agree with what is stated within 5 standard errors; every draw is seeded."""

from __future__ import annotations

import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import registry, streams
from bench.config import TaskConfig
from bench.errors import BadInput
from bench.grid.nested import parse_set
from bench.tasks.base import HELD, IGNORED, SPLITS, Batch, Split, StreamState, Task
from bench.tasks.facts import stated, task_facts
from bench.tasks.windows import WindowTask
from bench.testing.probes import examine_config, global_state, same_global_state
from bench.testing.suite import Broken, NotApplicable, Suite

SEQUENCES = 16_384
"""The number of sequences for a mean."""
MOST_TOKENS = 2**21
"""The largest number of tokens for a mean, which limits long sequences."""
MOST_NUMBERS = 2**24
"""The largest number of probabilities that an oracle gives at a time."""
ERRORS = 5
"""The standard errors within which a sampled mean must agree: a true claim fails once in 1.7 million."""
STATED_ERROR = 5e-4
"""The standard error granted to a stated floor or ceiling, which may itself come from sampling."""
TRAINED, HELD_OUT = 4096, 512
"""The numbers of sequences in which shared ones are searched for."""
LONGEST = 256
COMMON = 20
"""If every label that was seen was seen this often, no others are assumed to occur."""
WINDOWS = 64
SHARED = 0.1
"""The share of held-out windows that natural data may have in training, too: sentences do repeat."""
SEARCHED = 2**26
"""The number of tokens of training data that are searched for them."""
FEW, MANY = 16, 512
"""Numbers of rows between which the work of sampling is compared."""


class Subject:
    """A task by its name, with its default knobs but for `task.KNOB=VALUE` overrides."""

    def __init__(self, name: str, sets: Sequence[str]) -> None:
        self.cls: type[Task] = registry.tasks.get(name)
        self.name = name
        pairs = [parse_set(text) for text in sets]
        self.knobs = {key.removeprefix("task."): value for key, value in pairs if key.startswith("task.")}

    def build(self, **knobs: Any) -> Task:
        """A new task with further knobs. Raises `NotApplicable` when its data is missing."""
        if reason := self.cls.missing():
            raise NotApplicable(reason)
        return self.cls(self.cls.Config.parse({**self.knobs, **knobs}, f"task({self.name})"))

    @cached_property
    def task(self) -> Task:
        return self.build()

    @property
    def length(self) -> int:
        return self.task.config.length

    def scored_from(self, length: int) -> tuple[int, ...]:
        """The values of `score_from` at which facts are examined: 0, and the middle of the scored columns."""
        columns = self.task.scored_columns(length)
        return 0, columns[len(columns) // 2]

    def lengths(self) -> Iterator[int]:
        """The configured length, and of the lengths near it, half and twice as large those that the task has."""
        yield self.length
        for length in dict.fromkeys((self.length + 1, 2 * self.length, self.length // 2, self.length // 2 + 1)):
            if length not in (0, self.length) and self._has(length):
                yield length

    def _has(self, length: int) -> bool:
        try:
            for split in SPLITS:
                _draw(self.task, 1, length, split)
        except BadInput:
            return False
        return True


suite = Suite("task", Subject)


# What the rows share.


def _draw(task: Task, rows: int, length: int, split: Split = "test", seed: int = 0) -> Batch:
    return task.sample(split, rows, length, streams.generator(seed, "check", split))


def _rows(length: int) -> int:
    """The number of sequences to draw for a mean."""
    return max(64, min(SEQUENCES, MOST_TOKENS // length))


def _same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


def _mean(values: Tensor, scored: Tensor) -> tuple[float, float]:
    """The mean over scored positions and its standard error: sequences are independent, positions are not."""
    sums, counts = values.double().masked_fill(~scored, 0).sum(1), scored.sum(1).double()
    mean = sums.sum() / counts.sum()
    return mean.item(), ((sums - mean * counts).square().sum().sqrt() / counts.sum()).item()


def _allowed(error: float) -> float:
    return ERRORS * math.hypot(error, STATED_ERROR)


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - 4} more" if len(numbers) > 4 else ""
    return f"{', '.join(map(str, numbers[:4]))}{more}"


# The rows.


@suite.row(
    "shapes, dtypes and ranges",
    "return x and y as (B, T) int64, with x in [0, vocab_size) and y in [0, output_size) or IGNORED",
)
def _shapes(subject: Subject) -> str:
    task, lengths = subject.task, list(subject.lengths())
    for length, split, rows in itertools.product(lengths, SPLITS, (1, 33)):
        batch, where = _draw(task, rows, length, split), f"{split}, {rows} rows, length {length}"
        for name, part, size in (("x", batch.x, task.vocab_size), ("y", batch.y, task.output_size)):
            if part.dtype != torch.int64 or part.dim() != 2 or len(part) != rows or part.device.type != "cpu":
                found = f"{part.dtype} {tuple(part.shape)} on {part.device}"
                raise Broken(f"{where}: {name} is {found}; should be int64 ({rows}, T) where the generator is")
            lowest, highest = part.min().item(), part.max().item()
            if lowest < (IGNORED if name == "y" else 0) or highest >= size:
                raise Broken(f"{where}: {name} is in {lowest}..{highest}; should be below {size}, -1 only in y")
        if batch.x.shape != batch.y.shape or not 1 <= batch.x.shape[1] <= length:
            raise Broken(
                f"{where}: x is {tuple(batch.x.shape)}, y {tuple(batch.y.shape)}; should be equal, T <= length"
            )
    return f"{task.vocab_size} symbols, {task.output_size} labels, at lengths {', '.join(map(str, lengths))}"


@suite.row("scored columns", "let `scored_columns` name all columns that `sample` may score, and score some label")
def _scored_columns(subject: Subject) -> str:
    task, counts = subject.task, []
    for length in subject.lengths():
        scored = (_draw(task, HELD_OUT, length).y != IGNORED).any(0)
        width, columns = len(scored), task.scored_columns(length)
        if not scored.any():
            raise Broken(f"length {length}: no label of {HELD_OUT} sequences is scored")
        outside = [column for column in scored.nonzero().flatten().tolist() if column not in columns]
        if outside:
            raise Broken(f"length {length}: columns {_listed(outside)} are scored; scored_columns says {columns}")
        if any(not 0 <= column < width for column in columns):
            raise Broken(f"length {length}: scored_columns says {columns}, but there are {width} columns")
        if list(task.scored_columns(width)) != list(columns):
            raise Broken(f"length {length}: scored_columns({width}), the width, is not scored_columns({length})")
        counts.append(f"{int(scored.sum())} of {width}")
    return f"scored: {', '.join(counts)}"


@suite.row("deterministic", "draw from the given generator, and let nothing else change what is drawn")
def _deterministic(subject: Subject) -> str:
    length = subject.length
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the global generator is what must not matter)
        task = subject.build()
        for _ in range(seed):  # what was drawn before must not matter either
            drawn.append([_draw(task, 64, length, split) for split in SPLITS])
    for split, first, *others in zip(SPLITS, *drawn, strict=True):
        if not all(_same(first, other) for other in others):
            raise Broken(f"{split}: two draws from equal generators differ")
        if _same(first, _draw(subject.task, 64, length, split, seed=1)):
            raise Broken(f"{split}: 64 sequences are the same whatever the generator's seed")
    generator = streams.generator(0, "check")
    if _same(*(subject.task.sample("train", 64, length, generator) for _ in range(2))):
        raise Broken("two batches of 64 from one generator are the same")
    return "equal generators give equal batches, different ones give different batches"


@suite.row("no global random state", "draw from the given generator; for fixed draws use bench.streams")
def _no_global_state(subject: Subject) -> str:
    before = global_state()
    task, length = subject.build(), subject.length
    actions: dict[str, Callable[[], Any]] = {
        "building it": lambda: None,
        "sample": lambda: [_draw(task, 8, length, split) for split in SPLITS],
        "stream": lambda: task.stream("train", 4, 5, streams.generator(0, "check"), None),
        "chance": lambda: task.chance(length),
        "loss_floor": lambda: task.loss_floor(length),
        "accuracy_ceiling": lambda: task.accuracy_ceiling(length),
        "shortcuts": lambda: task.shortcuts(length),
        "oracle": lambda: task.oracle(_draw(task, 4, length).x),
    }
    for name, action in actions.items():
        action()
        if moved := same_global_state(before, global_state()):
            raise Broken(f"{name} moves {moved} global generator")
    return "torch's, numpy's and Python's generators stay where they were"


@suite.row("splits are disjoint", "draw every split from the generator, or from data of its own")
def _splits(subject: Subject) -> str:
    task = subject.task
    if isinstance(task, WindowTask):
        return _data_apart(task)
    length = subject.length
    shared, width = _shared(task, length)
    said = f"{shared} of {2 * HELD_OUT} held-out sequences of length {width} are also in another split"
    if not shared or task.fingerprint is not None:
        if shared > SHARED * 2 * HELD_OUT:
            raise Broken(said)
        return said
    while shared:  # are there just few instances, and more at greater lengths, or is it one pool?
        if length >= LONGEST:
            raise Broken(f"{said}; of length {width} {shared} still are")
        length *= 2
        try:
            shared, wider = _shared(task, length)
        except BadInput:
            wider = width
        if wider <= width:
            raise NotApplicable(f"{said}, and none are longer: a few instances, or one pool for all splits")
        width = wider
    return f"{said}, as there are few of them; of length {width} none are"


def _shared(task: Task, length: int) -> tuple[int, int]:
    """The number of held-out sequences that are also in another split, drawn as the trainer does, and their width."""
    data = streams.generator(0, "data")
    train = [task.sample("train", 128, length, data).x for _ in range(TRAINED // 128)]
    valid, test = (
        task.sample(split, HELD_OUT, length, streams.generator(0, "evaluation", split, length)).x for split in HELD
    )
    seen = {row.tobytes() for x in train for row in x.numpy()}
    shared = 0
    for x in (valid, test):
        rows = [row.tobytes() for row in x.numpy()]
        shared += sum(row in seen for row in rows)
        seen |= set(rows)
    return shared, test.shape[1]


def _data_apart(task: WindowTask) -> str:
    """Search the training data for windows of the held-out data."""
    kind = np.uint8 if task.vocab_size <= 256 else np.int32
    train = _read(task, "train", 0, min(task.tokens("train"), SEARCHED)).astype(kind).tobytes()
    found = []
    for split in HELD:
        unit = max(task.image_tokens, 64)
        starts = range(0, task.tokens(split) - unit, unit)
        chosen = starts[:: max(1, len(starts) // WINDOWS)]
        windows = [_read(task, split, start, unit) for start in chosen]
        hits = sum(train.find(window.astype(kind).tobytes()) >= 0 for window in windows)
        found.append(f"{hits} of {len(windows)} windows of the {split} split are in the training data")
        if hits > SHARED * len(windows):
            raise Broken(found[-1])
    return "; ".join(found)


def _read(task: WindowTask, split: Split, start: int, tokens: int) -> np.ndarray:
    """`tokens` tokens from `start` on; a lane's state is its position."""
    pieces: list[np.ndarray] = []
    position: StreamState = (torch.tensor([start]),)
    generator, most = streams.generator(0, "check"), min(2**20, task.tokens(split) - 1)
    while tokens > 0:
        batch, position = task.stream(split, 1, min(tokens, most), generator, position)
        pieces.append(batch.x[0].numpy())
        tokens -= len(pieces[-1])
    return np.concatenate(pieces)


@suite.row(
    "streams continue",
    "let `stream` give the same data for any cut, `start` true where a lane starts, and a state of tensors",
)
def _streams(subject: Subject) -> str:
    task, lanes, length = subject.task, 5, subject.length
    small = max(1, min(7, length // 3))
    sizes = (small, small + 2, 2 * length + 1)
    whole, *others = (_pieces(task, lanes, size, 2 * length) for size in sizes)
    for size, other in zip(sizes[1:], others, strict=True):
        common = min(whole[0].shape[1], other[0].shape[1])
        for name, a, b in zip(("x", "y", "start"), whole, other, strict=True):
            if not torch.equal(a[:, :common], b[:, :common]):
                raise Broken(f"{name} of {common} columns differs between pieces of {small} and of {size}")
    x, y, start = whole
    common = x.shape[1]
    if type(task).stream is not Task.stream:
        return f"pieces of {', '.join(map(str, sizes))} columns give the same lanes"
    generator = streams.generator(0, "check")
    drawn = [task.sample("train", lanes, length, generator) for _ in range(1 + common // length)]
    begins = torch.cat([torch.arange(batch.x.shape[1]).expand_as(batch.x) == 0 for batch in drawn], 1)
    for name, a, b in (
        ("x", x, torch.cat([batch.x for batch in drawn], 1)),
        ("y", y, torch.cat([batch.y for batch in drawn], 1)),
        ("start", start, begins),
    ):
        width = min(common, b.shape[1])
        if not torch.equal(a[:, :width], b[:, :width]):
            raise Broken(f"{name} of the pieces is not that of whole sequences from an equal generator")
    return f"pieces of {', '.join(map(str, sizes))} columns make up whole sequences"


def _pieces(task: Task, lanes: int, size: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """At least `columns` columns of the train stream: x, y, and where lanes start, (lanes, columns) each."""
    generator = streams.generator(0, "check")
    state: StreamState | None = None
    pieces: list[Batch] = []
    while sum(piece.x.shape[1] for piece in pieces) < columns:
        again = streams.generator(0, "check")
        again.set_state(generator.get_state())
        kept = None if state is None else tuple(part.clone() for part in state)  # as a checkpoint would
        piece, state = task.stream("train", lanes, size, generator, state)
        where = f"piece {len(pieces) + 1} of {size} columns"
        if not isinstance(state, tuple) or not all(isinstance(part, Tensor) for part in state):
            raise Broken(f"{where}: the state is {type(state).__name__}; should be a tuple of tensors")
        if not _same(piece, task.stream("train", lanes, size, again, kept)[0]):
            raise Broken(f"{where}: continued from a copy of the state, the piece is a different one")
        shape = tuple(piece.x.shape)
        if shape != (lanes, size) or piece.y.shape != piece.x.shape:
            raise Broken(f"{where}: x is {shape}, y {tuple(piece.y.shape)}; should be ({lanes}, {size})")
        start = piece.start
        if not isinstance(start, Tensor) or start.dtype != torch.bool or tuple(start.shape) != shape:
            raise Broken(f"{where}: start is {start}; should be truth values {shape}")
        if not pieces and not start[:, 0].all():
            raise Broken(f"{where}: start is {start[:, 0].tolist()} at first; should be true, as all lanes start")
        pieces.append(piece)
    x, y, starts = (torch.cat(parts, 1) for parts in zip(*pieces, strict=True))
    if type(task).continues and starts[:, 1:].any():
        raise Broken("`continues` says that lanes go on without end, but one restarts")
    return x, y, starts


@suite.row(
    "facts are numbers",
    "let chance, loss_floor, accuracy_ceiling, shortcuts and unigram_loss take (length, score_from=0) and give numbers",
)
def _facts(subject: Subject) -> str:
    found = []
    for score_from in subject.scored_from(subject.length):
        try:
            facts = task_facts(subject.task, subject.length, score_from)
        except BadInput as error:
            raise Broken(f"scored from column {score_from}: {error}") from None
        found.append(f"shortcut {facts['shortcut']:.3f} from column {score_from} on")
    return ", ".join(found)


@suite.row("chance is blind guessing", "let `chance` be 1 / the number of labels that occur")
def _chance(subject: Subject) -> str:
    task, length = subject.task, subject.length
    natural = task.fingerprint is not None
    y = _draw(task, _rows(length), length, "train" if natural else "test").y
    counts = y[y != IGNORED].bincount(minlength=task.output_size)
    occur, rarest = int((counts > 0).sum()), int(counts[counts > 0].min())
    chance, guessing, blind = task.chance(length), 1 / occur, 1 / task.output_size
    said = (
        f"chance {chance:.4g}; {occur} of {task.output_size} labels occur, guessing among them reaches {guessing:.4g}"
    )
    low, high = (guessing, guessing) if rarest >= COMMON else (blind, guessing)
    if natural:  # (some of its labels are too rare to be drawn)
        low, high = max(blind, guessing / 2), 1 / int((counts >= COMMON).sum().clamp(min=1))
    if not low - 1e-6 <= chance <= high + 1e-6:
        raise Broken(said)
    return said


@suite.row("nothing trivial is too good", "correct `loss_floor` or `accuracy_ceiling`, or the rule that beats them")
def _trivial(subject: Subject) -> str:
    task, length = subject.task, subject.length
    floor, ceiling, chance = task.loss_floor(length), task.accuracy_ceiling(length), task.chance(length)
    _consistent(task, floor, ceiling, chance)
    batch = _draw(task, _rows(length), length)
    scored = batch.y != IGNORED
    sequences = int((task._drawn("test", length).y != IGNORED).any(1).sum())
    reached = {
        name: (share, math.sqrt(share * (1 - share) / sequences)) for name, share in task.shortcuts(length).items()
    }
    reached |= {
        name: _mean(rule(batch.x) == batch.y, scored) for name, rule in task.rules().items()
    }  # (on more sequences)
    best, (accuracy, error) = max(reached.items(), key=lambda item: item[1][0])
    found = [f"best rule: {best}, {accuracy:.3f}"]
    if ceiling is not None:
        found.append(f"ceiling {ceiling:.3f}")
        if accuracy > ceiling + _allowed(error):
            raise Broken(f"{best} reaches {accuracy:.4f} +- {error:.4f}; the accuracy ceiling is {ceiling:.4f}")
    if floor is not None:
        fitted = _draw(task, len(batch.x), length, "train").y
        counts = fitted[fitted != IGNORED].bincount(minlength=task.output_size) + 1
        loss, error = _mean(-(counts / counts.sum()).log()[batch.y.clamp(min=0)], scored)
        found.append(f"label frequencies alone {loss:.3f} nats, floor {floor:.3f}")
        if loss < floor - _allowed(error):
            raise Broken(f"label frequencies alone reach {loss:.4f} nats; the loss floor is {floor:.4f}")
    return "; ".join(found)


def _consistent(task: Task, floor: float | None, ceiling: float | None, chance: float) -> None:
    """Raise `Broken` where floor, ceiling and chance cannot be those of a Bayes-optimal predictor."""
    slack = ERRORS * STATED_ERROR
    if ceiling is not None and not chance - slack <= ceiling <= 1:
        raise Broken(f"the accuracy ceiling is {ceiling:.4f}; should be from chance, {chance:.4f}, to 1")
    if floor is not None and not 0 <= floor <= math.log(task.output_size) + slack:
        most = f"log {task.output_size} = {math.log(task.output_size):.4f}"
        raise Broken(f"the loss floor is {floor:.4f} nats; should be from 0 to {most}")
    if floor is not None and ceiling is not None and math.exp(-floor) > ceiling + slack:
        raise Broken(f"a loss floor of {floor:.4f} nats needs a ceiling of {math.exp(-floor):.4f}, not {ceiling:.4f}")


def _oracle(subject: Subject, x: Tensor) -> Tensor:
    """The oracle's probabilities for x (B, T): (B, T, O). Raises `NotApplicable` where there is no oracle."""
    task = subject.task
    shape = (*x.shape, task.output_size)
    parts = [task.oracle(part) for part in x.split(max(1, MOST_NUMBERS // (x.shape[1] * task.output_size)))]
    if parts[0] is None:
        raise NotApplicable("the task has no `oracle`")
    probabilities = torch.cat(parts)  # type: ignore[arg-type]
    if tuple(probabilities.shape) != shape or probabilities.dtype != torch.float64:
        found = f"{probabilities.dtype} {tuple(probabilities.shape)}"
        raise Broken(f"oracle gives {found}; should be torch.float64 {shape}")
    return probabilities


@suite.row("floor and ceiling are the oracle's", "correct `loss_floor`, `accuracy_ceiling`, `oracle` or the labels")
def _floor(subject: Subject) -> str:
    task, means = subject.task, []
    for length in subject.lengths():
        batch = _draw(task, _rows(length) if length == subject.length else HELD_OUT, length)
        scored, labels = batch.y != IGNORED, batch.y.clamp(min=0)[..., None]  # (B, T), (B, T, 1)
        probabilities = _oracle(subject, batch.x)
        off = (probabilities.sum(-1) - 1).abs().masked_fill(~scored, 0)
        if not (off.max() <= 1e-6 and probabilities[scored].min() >= 0):  # (NaN is neither)
            least = f"the least is {probabilities.min():.2g}"
            raise Broken(f"the oracle's probabilities sum to 1 only within {off.max():.2g}; {least}")
        given = probabilities.gather(-1, labels)[..., 0]
        if (given[scored] == 0).any():
            share = (given[scored] == 0).double().mean()
            raise Broken(
                f"length {length}: the oracle gives probability 0 to {share:.2%} of the labels that were drawn"
            )
        values = {
            "loss_floor": -given.clamp(min=1e-300).log(),
            "accuracy_ceiling": probabilities.argmax(-1) == batch.y,
        }
        for score_from, (name, value) in itertools.product(subject.scored_from(length), values.items()):
            found, error = _mean(value[:, score_from:], scored[:, score_from:])
            bound = stated(task, name, length, score_from)
            if bound is not None and abs(found - bound) > _allowed(error):
                what, kind = name.split("_")
                off_by = f"{abs(found - bound) / math.hypot(error, STATED_ERROR):.1f} standard errors"
                raise Broken(
                    f"length {length}, scored from {score_from}: the oracle's {what} is {found:.4f}, the {kind} "
                    f"{bound:.4f}: {off_by}"
                )
            means.append(f"{name.split('_')[0]} {found:.4f} +- {error:.4f}")
    return f"oracle: {means[0]}, {means[1]}"


@suite.row("labels follow from the past", "let y at t, and the oracle's answer, depend on x up to t only")
def _past(subject: Subject) -> str:
    batch, other = (_draw(subject.task, 32, subject.length, seed=seed) for seed in (0, 1))
    scored, width = batch.y != IGNORED, batch.x.shape[1]
    probabilities = _oracle(subject, batch.x)
    times = sorted(set(np.linspace(0, width - 1, 33).astype(int).tolist()[:-1]))
    for t in times:
        x = torch.cat([batch.x[:, : t + 1], other.x[:, t + 1 :]], 1)
        moved = (_oracle(subject, x) - probabilities)[:, : t + 1].abs().amax(-1)[scored[:, : t + 1]]
        if len(moved) and moved.max() > 1e-9:
            raise Broken(f"changing x after t = {t} moves the oracle's probabilities up to t by {moved.max():.2g}")
    return f"the oracle's probabilities up to t do not change with x after t, at {len(times)} t"


@suite.row("sampling is vectorised", "draw all rows at once with torch operators, without a Python loop over them")
def _vectorised(subject: Subject) -> str:
    task, length = subject.task, subject.length
    few, many = (_lines(lambda rows=rows: _draw(task, rows, length)) for rows in (FEW, MANY))  # type: ignore[misc]
    began = time.perf_counter()
    _draw(task, MANY, length)
    took = (time.perf_counter() - began) * 1e3
    said = f"{few} lines of Python run for {FEW} sequences, {many} for {MANY}, which take {took:.2g} ms"
    if many - few > (MANY - FEW) / 2:
        raise Broken(said)
    return said


def _lines(action: Callable[[], object]) -> int:
    """The number of lines of Python that run: unlike time, it is the same on all machines; C code counts none."""
    action()  # (fills caches)
    count = 0

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return local

    before = sys.gettrace()
    sys.settrace(local)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


@suite.row(
    "polite on bad config", "derive `Config` from TaskConfig, validate there, and raise BadInput where no instance fits"
)
def _polite(subject: Subject) -> str:
    config = subject.cls.Config
    if not issubclass(config, TaskConfig):
        raise Broken(f"Config is {config.__name__}, which is not a TaskConfig")
    lacking = [name for name, field in config.model_fields.items() if field.is_required()]
    if lacking:
        raise Broken(f"Config has no default for {', '.join(lacking)}")
    examine_config(config)
    for length in (0, -1, 1.5, "long", True, None):
        if _refused(f"length {length!r}", lambda length=length: config.parse({"length": length}, "check")) is None:  # type: ignore[misc]
            raise Broken(f"length {length!r} is accepted")
    if subject.cls.missing():
        return f"{len(config.model_fields)} fields; lengths are not examined: {subject.cls.missing()}"
    refused = [length for length in range(1, 9) if _tried(subject, length)]
    if isinstance(subject.task, WindowTask) and not _tried(subject, 2**40):
        raise Broken(f"length {2**40}, of which the data has none, is drawn")
    return f"{len(config.model_fields)} fields; lengths that do not fit: {', '.join(map(str, refused)) or 'none'}"


def _tried(subject: Subject, length: int) -> str | None:
    """The reason why a length is refused when it is drawn; None when it is drawn."""
    _refused(f"length {length} in the config", lambda: subject.build(length=length))
    drawn: list[Batch] = []
    reason = _refused(f"drawing length {length}", lambda: drawn.append(_draw(subject.task, 64, length)))
    if any((batch.y == IGNORED).all() for batch in drawn):
        raise Broken(f"length {length} is drawn, but no label is scored; should be refused")
    return reason


def _refused(what: str, action: Callable[[], object]) -> str | None:
    """The one-line message of the `BadInput` that an action raises, or None. Raises `Broken` for other exceptions."""
    try:
        action()
    except BadInput as error:
        if "\n" in str(error):
            raise Broken(f"{what} is answered in several lines") from None
        return str(error)
    except Exception as error:
        raise Broken(f"{what} ends in {type(error).__name__}, not in BadInput") from None
    return None
