"""The rows for methods, each examined on a tiny run, in float64 where numbers are compared."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import registry, streams
from bench.build import build_method, build_task
from bench.config import Run
from bench.engine import Engine, form_of
from bench.feasibility import impossible
from bench.grid import make_grid
from bench.measure import cost
from bench.measure.inference import state_bytes
from bench.methods.base import EVERY, NONE, Method, MethodConfig, Phase, scored_slice
from bench.models.backbone import map_tree
from bench.results import Folder
from bench.tasks.base import IGNORED, Batch, Task
from bench.testing.probes import (
    central_difference,
    examine_config,
    global_state,
    same_global_state,
    slope_along,
    unit_directions,
)
from bench.testing.suite import Broken, NotApplicable, Suite
from bench.training import Options, Stopped, Trainer

TINY: Mapping[str, Any] = {
    "model": {"d": 8, "memory_tokens": 2, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "updater_layers": 1},
    "training": {"batch_size": 4, "budget": {"steps": 8}, "optimiser": {"lr": 3e-3}},
    "evaluation": {
        **{"sequences": 16, "reference_sequences": 4, "every": 0.5},
        "stream": {"lanes": 4, "burn_in": 6, "columns": 12},
    },
    "device": "cpu",
    "precision": "float64",
}
TASKS = ({"name": "parity", "length": 6}, {"name": "retrieval", "length": 6, "symbols": 3})
"""A method is examined on the first of these tasks that it can be trained on."""
EASY = (
    {"name": "recency", "length": 4, "symbols": 4, "decay": 0.0},
    {"name": "retrieval", "length": 4, "symbols": 4, "needle_from": 0.5},
    {"name": "parity", "length": 3},
)
"""Tasks that every method should learn: repeating the last symbol, or the parity of three bits."""
EASY_MODEL = {"d": 16, "memory_tokens": 2, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "updater_layers": 1}
EASY_STEPS = 400
LEARNED = 0.9
"""The share of the accuracy ceiling, on the valid split, at which the training of an online method ends."""
ROWS = 3
DRAWS = 100
DRAWN_LANES = 300
"""The mean of an unbiased gradient is taken over DRAWS draws of noise, each with DRAWN_LANES lanes."""
CUT = 5
"""The length of a stream's batches, where it matters that they end within sequences."""


@dataclass(frozen=True)
class Gradient:
    """The gradient of one batch, averaged over its yields, by parameter, and the mean loss."""

    by_name: dict[str, Tensor]
    loss: float
    yields: int


class Subject:
    """A method by its name, and the tiny runs on which the rows examine it."""

    def __init__(self, name: str, sets: Sequence[str]) -> None:
        self.cls: type[Method] = registry.methods.get(name)
        self.name = name
        self.sets = sets

    def run(self, tasks: Sequence[Mapping[str, Any]] = TASKS, **fields: Any) -> Run:
        """A run on the first of these tasks that the method can be trained on. Raises `Broken` when there is none."""
        reasons = []
        for task in tasks:
            base = {**TINY, "task": dict(task), "method": {"name": self.name}, **fields}
            for backbone in self._backbones():
                base["model"] = {**base["model"], "backbone": backbone}
                (run,) = make_grid("check", {"base": base, "axes": {"seed": [0]}}, self.sets).runs
                reason = impossible(run)
                if reason is None:
                    return run
                reasons.append(f"{run.task}: {reason}")
        raise Broken(f"can be trained on none of the tasks of this check: {'; '.join(dict.fromkeys(reasons))}")

    def _backbones(self) -> list[str]:
        """The backbones that the method can train: one of each kind of recurrence first."""
        kinds = {name: registry.backbones.get(name).recurrence for name in sorted(registry.backbones.names())}
        first = {kind: name for name, kind in kinds.items()} | {"dense": "transformer"}
        fits = [first[kind] for kind in self.cls.recurrences if kind in first]
        return [
            *fits,
            *(name for name, kind in kinds.items() if kind in self.cls.recurrences and name not in fits),
        ] or ["transformer"]

    def build(self, run: Run) -> tuple[Method, Task]:
        """The run's method at initialisation, and its task."""
        task = build_task(run)
        return build_method(run, task), task

    def trained(self, run: Run) -> tuple[Method, Task]:
        """The run's method after its budget."""
        with _folder(run) as folder:
            trainer = Trainer(run, folder)
            trainer.train()
        trainer.method.requires_grad_(True)
        return trainer.method, trainer.task


suite = Suite("method", Subject)


# Shared by the rows.


@contextmanager
def _folder(run: Run) -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="bench-check-") as root:
        folder = Folder(Path(root) / run.id)
        folder.describe(run)
        yield folder


def _batch(task: Task, length: int, seed: int = 0, *, rows: int = ROWS, hidden: bool = False) -> Batch:
    """Sequences of the task with random labels where it scores; with `hidden`, a third of them -1."""
    generator = streams.generator(seed, "check")
    x = task.sample("train", rows, length, generator).x
    columns = list(task.scored_columns(length))
    labels = torch.randint(task.output_size, (rows, len(columns)), generator=generator)
    if hidden:
        labels[torch.rand(labels.shape, generator=generator) < 1 / 3] = IGNORED
        labels[0, -1] = 0
    y = torch.full_like(x, IGNORED)
    y[:, columns] = labels
    return Batch(x, y, (torch.arange(x.shape[1]) == 0).expand(rows, -1))


def _entered(method: Method, phases: Sequence[Phase], index: int) -> Phase:
    """Enter the phase with an index: earlier phases are at their end, and only its own parameters are trained."""
    for phase in phases[:index]:
        method.sync_predictor(phase.name)
    method.train_only(phases[index])
    return phases[index]


def _gradient(method: Method, batch: Batch, phase: Phase, noise: int = 0) -> Gradient:
    """The gradients of one batch, with nothing carried into it; no step is taken."""
    method.noise.manual_seed(streams.derive(noise, "check", "noise"))
    method.carry = None
    method.zero_grad()
    sums: dict[str, Tensor] = {}
    losses = []
    for ready in Engine(method, phase).stretches(batch):
        if ready.scalars is None:
            continue
        losses.append(_loss(ready.scalars))
        for name, parameter in method.named_parameters():
            if parameter.grad is not None:
                sums[name] = sums.get(name, 0) + parameter.grad.detach().clone()
        method.zero_grad()
    if not losses and (batch.y == IGNORED).all():
        return Gradient({}, 0.0, 0)  # no step is taken
    if not losses:
        raise Broken(f"phase {phase.name}: no gradient came of a batch of {len(batch.x)} sequences")
    means = {name: value / len(losses) for name, value in sums.items()}
    return Gradient(means, sum(losses) / len(losses), len(losses))


def _loss(scalars: Any) -> float:
    if not isinstance(scalars, dict) or "loss" not in scalars:
        raise Broken(f'`gradients` yielded {_short(scalars)}; should be a dict of scalars with a "loss"')
    for name, value in scalars.items():
        if not isinstance(value, Tensor) or value.dim():
            raise Broken(f"`gradients` yielded {name} = {_short(value)}; should be a tensor without dimensions")
        if value.requires_grad:
            raise Broken(f"`gradients` yielded {name} with its graph; detach it, or memory grows with every step")
    return scalars["loss"].item()


def _short(value: Any) -> str:
    text = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


@torch.no_grad()
def streamed(method: Method, x: Tensor) -> Tensor:
    """Logits (B, T, O) of x (B, T), advancing by one column at a time."""
    state, logits = method.initial_state(len(x)), []
    for x_t in x.split(1, 1):
        step_logits, state = method.advance(state, x_t)
        logits.append(step_logits)
    return torch.cat(logits, 1)


def _streamed_loss(method: Method, batch: Batch) -> float:
    """Mean cross-entropy over the scored positions, in nats: one sequence, one token, one position at a time."""
    terms = []
    for x, y in zip(batch.x, batch.y, strict=True):
        for logits, y_t in zip(streamed(method, x[None])[0], y, strict=True):
            if y_t != IGNORED:
                terms.append((torch.logsumexp(logits, 0) - logits[y_t]).item())
    return math.fsum(terms) / len(terms)


def _claimed(method: Method, phase: Phase) -> dict[str, torch.nn.Parameter]:
    """The parameters that the phase claims to train, by name."""
    ids = {id(parameter) for group in phase.groups for parameter in group}
    return {name: parameter for name, parameter in method.named_parameters() if id(parameter) in ids}


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    array = np.asarray(values)
    return float(array.mean()), float(array.std(ddof=1) / len(array) ** 0.5)


def _every_phase(subject: Subject, run: Run) -> Iterator[tuple[Method, Task, Phase]]:
    """A new method in each of its phases, ready for gradients."""
    for index in itertools.count():
        method, task = subject.build(run)
        phases = method.phases(run.training)
        if index >= len(phases):
            return
        yield method, task, _entered(method, phases, index)


def _length(run: Run) -> int:
    return run.task_config.length


# The rows.


@suite.row(
    "phases and shapes", "let `phases`, `gradients`, `predict` and `advance` return what bench.methods.Method says"
)
def _shapes(subject: Subject) -> str:
    run = subject.run()
    method, task = subject.build(run)
    phases = method.phases(run.training)
    names = [phase.name for phase in phases]
    if not phases or len(set(names)) < len(names) or not math.isclose(sum(phase.share for phase in phases), 1):
        shares = [phase.share for phase in phases]
        raise Broken(
            f"phases {names} with shares {shares}; should be one or more, with distinct names and shares that sum to 1"
        )
    length = _length(run)
    batch = _batch(task, length)
    for entered, _, phase in _every_phase(subject, run):
        found = _gradient(entered, batch, phase)
        if not math.isfinite(found.loss):
            raise Broken(f"phase {phase.name}: loss {found.loss}")
    for name, predict, _ in method.predictors():
        with torch.no_grad():
            logits = predict(batch.x, EVERY)
        wanted = (ROWS, length, task.output_size)
        if tuple(logits.shape) != wanted or not logits.is_floating_point() or not logits.isfinite().all():
            raise Broken(f"predictor {name}: {_short(logits)}, {logits.dtype}; should be finite numbers {wanted}")
    for columns, count in ((slice(1, length, 2), length // 2), (NONE, 0)):
        read, _ = method.advance(method.initial_state(ROWS), batch.x, columns)
        if tuple(read.shape) != (ROWS, count, task.output_size):
            raise Broken(
                f"`advance` gives {_short(read)} for {count} columns; should be {(ROWS, count, task.output_size)}"
            )
    return f"phases {', '.join(names)}; predictors {', '.join(predictor.name for predictor in method.predictors())}"


@suite.row(
    "labels of -1 are not scored", "leave positions with y = -1 out of the loss, as bench.methods.cross_entropy does"
)
def _mask(subject: Subject) -> str:
    run = subject.run(({"name": "parity", "length": 6}, {"name": "string-copy", "length": 6, "symbols": 3}, *TASKS))
    for method, task, phase in _every_phase(subject, run):
        shown = _batch(task, _length(run), hidden=True)
        columns = list(task.scored_columns(_length(run)))
        found = _gradient(method, shown, phase)
        for label in range(task.output_size):
            y = shown.y.clone()
            y[:, columns] = torch.where(y[:, columns] == IGNORED, label, y[:, columns])
            other = _gradient(method, shown._replace(y=y), phase)
            if not torch.equal(y, shown.y) and _equal(found.by_name, other.by_name):
                raise Broken(f"phase {phase.name}: a label of -1 is trained on as if it were {label}")
        nothing = _gradient(method, shown._replace(y=torch.full_like(shown.y, IGNORED)), phase)
        bad = [name for name, gradient in nothing.by_name.items() if not gradient.isfinite().all()]
        if bad or not math.isfinite(nothing.loss):
            raise Broken(f"phase {phase.name}: without any scored label the loss is {nothing.loss}, {bad} not finite")
    return "left out; a batch without labels has finite gradients"


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@suite.row("deterministic", "draw noise from `self.noise` only, and keep nothing outside the method")
def _deterministic(subject: Subject) -> str:
    run = subject.run()
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the global generator is what must not matter)
        method, _ = subject.trained(run)
        ends.append(method.state_dict())
    different = [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])]
    if different:
        raise Broken(f"two trainings with one seed differ in {', '.join(different[:3])} ({len(different)} tensors)")
    return "two trainings with one seed are equal bit for bit"


@suite.row("no global random state", "draw from `self.noise` in `gradients`, and nothing at all in `predict`")
def _no_global_state(subject: Subject) -> str:
    run = subject.run()
    before = global_state()
    for method, task, phase in _every_phase(subject, run):
        batch = _batch(task, _length(run))
        _gradient(method, batch, phase)
        moved = same_global_state(before, global_state())
        if moved:
            raise Broken(f"phase {phase.name}: `gradients` or the method's construction moved {moved} global generator")
        for name, predict, _ in method.predictors():
            noise = method.noise.get_state()
            predict(batch.x, EVERY)
            moved = same_global_state(before, global_state())
            if moved or not torch.equal(noise, method.noise.get_state()):
                raise Broken(f"predictor {name} draws random numbers from {moved or 'its own'} generator")
    return "torch's, numpy's and Python's generators stay where they were"


@suite.row("any cut gives the same", "make `advance`, and `predict` too, the same for any cut into pieces, row by row")
def _predict(subject: Subject) -> str:
    run = subject.run()
    method, task = subject.trained(run)
    batch = _batch(task, _length(run))
    columns = scored_slice(task, _length(run))
    with torch.no_grad():
        parallel = method.predict(batch.x, columns)
        alone = torch.cat([streamed(method, row[None]) for row in batch.x])[:, columns]
    furthest = (parallel - alone).abs().max().item()
    if not furthest <= 1e-8 * max(1.0, alone.abs().max().item()):
        raise Broken(f"`predict` and the loop over single sequences differ by up to {furthest:.2g}")
    return f"largest difference {furthest:.1g}"


@suite.row("no leak from the future", "let the logits for y_t depend on x_0 .. x_t only")
def _causal(subject: Subject) -> str:
    run = subject.run()
    method, task = subject.trained(run)
    length = _length(run)
    x = _batch(task, length).x
    columns = torch.tensor(list(task.scored_columns(length)))
    noticed = 0.0
    for name, predictor, _ in method.predictors():
        with torch.no_grad():
            seen = predictor(x, EVERY)
            for t in range(length - 1):
                other = x.clone()
                other[:, t + 1 :] = (other[:, t + 1 :] + 1) % task.vocab_size
                changed = predictor(other, EVERY)
                past = columns[columns <= t]
                leak = (changed - seen)[:, past].abs().max().item() if len(past) else 0.0
                noticed = max(noticed, (changed - seen)[:, columns].abs().max().item())
                if not leak <= 1e-9:
                    raise Broken(f"predictor {name}: changing x after t = {t} moves the logits up to t by {leak:.2g}")
    if noticed == 0:
        raise Broken("no output changes with the inputs at all")
    return "logits up to t do not change with x after t"


@suite.row("state of constant size", "keep a state of fixed size, or set `growing_state = True`")
def _state(subject: Subject) -> str:
    run = subject.run()
    method, task = subject.build(run)
    sizes = {}
    with torch.no_grad():
        now = method.initial_state(2)
        x = task.sample("train", 2, _length(run), streams.generator(0, "check")).x
        for t in range(1, 33):
            _, now = method.advance(now, x[:, t % x.shape[1], None])
            if t in (8, 32):
                sizes[t] = state_bytes(now) // 2
    if subject.cls.growing_state:
        raise NotApplicable(f"the state grows with the sequence, as it says: {sizes[8]} to {sizes[32]} bytes")
    if sizes[8] == 0:
        raise Broken("the state holds no tensors whose size could be measured")
    if sizes[8] != sizes[32]:
        raise Broken(f"the state has {sizes[8]} bytes after 8 inputs and {sizes[32]} after 32")
    return f"{sizes[8]} bytes"


@suite.row(
    "gradients reach what trains", "name in `phases` the parameters that `gradients` gives a gradient, and no others"
)
def _reach(subject: Subject) -> str:
    run = subject.run()
    counts = []
    for method, task, phase in _every_phase(subject, run):
        claimed = _claimed(method, phase)
        if not claimed:
            raise Broken(f"phase {phase.name} trains no parameter")
        if sum(map(len, phase.groups)) != len(claimed):
            raise Broken(f"phase {phase.name}: its groups name a parameter twice, or one that is not the method's")
        largest = dict.fromkeys(claimed, 0.0)
        for seed in range(8):
            found = _gradient(method, _batch(task, _length(run), seed), phase, seed)
            for name, gradient in found.by_name.items():
                if not gradient.isfinite().all():
                    raise Broken(f"phase {phase.name}: the gradient of {name} is not finite")
                if name not in claimed:
                    raise Broken(f"phase {phase.name}: {name} has a gradient, but is in no group of the phase")
                largest[name] = max(largest[name], gradient.abs().max().item())
        still = [name for name, size in largest.items() if size == 0]
        if still:
            raise Broken(
                f"phase {phase.name}: no gradient ever reaches {', '.join(still[:4])} ({len(still)} parameters)"
            )
        counts.append(f"{phase.name}: {len(claimed)}")
    return f"finite, in every parameter ({'; '.join(counts)})"


@suite.row("gradients are what is promised", "correct the gradient, or what `gradient_is` promises")
def _promised(subject: Subject) -> str:
    run = subject.run()
    kept = []
    for method, task, phase in _every_phase(subject, run):
        promise = method.gradient_is.get(phase.name)
        if promise is None:
            continue
        batch = _batch(task, _length(run), hidden=promise != "unbiased")
        if _gradient(method, batch, phase).yields > 1:
            batch = _batch(task, _length(run))  # the mean over steps is the mean over positions where all are scored
        if promise == "unbiased":
            kept.append(f"{phase.name}: {_unbiased(method, batch, phase)}")
        elif promise in ("exact", "own"):
            kept.append(f"{phase.name}: {_exact(method, batch, phase, own=promise == 'own')}")
        else:
            raise Broken(f"gradient_is says {promise!r} of phase {phase.name}; should be exact, unbiased or own")
    unknown = subject.cls.gradient_is.keys() - {phase.name for _, _, phase in _every_phase(subject, run)}
    if unknown:
        raise Broken(f"gradient_is names {', '.join(sorted(unknown))}, which is not a phase")
    if not kept:
        raise NotApplicable("`gradient_is` makes no promise")
    return "; ".join(kept)


def _exact(method: Method, batch: Batch, phase: Phase, *, own: bool) -> str:
    """Compare with central differences of the loss handed over, or of the streamed predictor's cross-entropy."""
    found = _gradient(method, batch, phase)

    def value() -> float:
        return _gradient(method, batch, phase).loss if own else _streamed_loss(method, batch)

    worst = 0.0
    claimed = _claimed(method, phase)
    largest = max(gradient.norm().item() for gradient in found.by_name.values())
    for name, direction in unit_directions(claimed).items():
        slope = central_difference(claimed[name], direction, value)
        given = slope_along(found.by_name[name], direction) if name in found.by_name else 0.0
        error = abs(given - slope) / (abs(slope) + 1e-3 * largest + 1e-12)
        if not error <= 1e-4:
            raise Broken(
                f"phase {phase.name}: along a direction of {name} the loss has slope {slope:.6g}, not {given:.6g}"
            )
        worst = max(worst, error)
    return f"{'own loss' if own else 'cross-entropy'}, largest relative error {worst:.1g}"


def _unbiased(method: Method, batch: Batch, phase: Phase) -> str:
    """Compare the mean over noise draws with central differences, within 4 standard errors.

    Each draw has many lanes, which in most methods have noise of their own: that is cheaper than more draws.
    """
    many = Batch(*(part.repeat(DRAWN_LANES // ROWS, 1) for part in batch))  # type: ignore[union-attr]
    claimed = _claimed(method, phase)
    directions = unit_directions(claimed)
    along: dict[str, list[float]] = {name: [] for name in claimed}
    for draw in range(DRAWS):
        found = _gradient(method, many, phase, noise=draw).by_name
        for name, direction in directions.items():
            along[name].append(slope_along(found[name], direction) if name in found else 0.0)
    worst = 0.0
    for name, direction in directions.items():
        slope = central_difference(claimed[name], direction, lambda: _streamed_loss(method, batch))
        mean, error = _spread(along[name])
        distance = abs(mean - slope) / (error + 1e-4 * abs(slope) + 1e-9)
        if not distance <= 4:
            raise Broken(
                f"phase {phase.name}: along a direction of {name} the mean of {DRAWS} draws is {mean:.4g} "
                f"with standard error {error:.2g}; the loss has slope {slope:.4g}"
            )
        worst = max(worst, distance)
    return f"mean of {DRAWS} draws over {DRAWN_LANES} lanes, at most {worst:.1f} standard errors away"


@suite.row(
    "carries on in a stream", "carry in `Carry` all that the next piece needs, and nothing across a lane's start"
)
def _carries(subject: Subject) -> str:
    if subject.cls.data != "streams":
        raise NotApplicable("it learns from whole sequences")
    if form_of(subject.cls) == "gradients":
        raise NotApplicable("a generator weighs its gradients itself")
    run = subject.run()
    for method, task, phase in _every_phase(subject, run):
        piece = method.piece or CUT
        cut = -(-CUT // piece) * piece
        x = torch.randint(task.vocab_size, (ROWS, 2 * cut), generator=streams.generator(0, "check", "stream"))
        y = torch.randint(task.output_size, x.shape, generator=streams.generator(1, "check", "stream"))
        at = cut + (piece + 1) // 2  # where the first lane restarts, within a piece
        start = (torch.arange(2 * cut) == 0).repeat(ROWS, 1)
        restarted = start.clone()
        restarted[0, at] = True

        halves = [
            Batch(*(part[:, columns] for part in (x, y, restarted))) for columns in (slice(cut), slice(cut, None))
        ]
        whole = _summed(method, phase, [Batch(x, y, restarted)])
        if not _near(_summed(method, phase, halves), whole):
            raise Broken(f"phase {phase.name}: the gradient of a stream changes with where its batches are cut")

        later = y.masked_fill(torch.arange(2 * cut) < at, IGNORED)
        later[1:] = IGNORED  # only the first lane is scored, from `at` on
        other = x.clone()
        other[0, :at] = (other[0, :at] + 1) % task.vocab_size
        forgets = [_summed(method, phase, [Batch(inputs, later, restarted)]) for inputs in (x, other)]
        if not _near(*forgets):
            raise Broken(f"phase {phase.name}: what came before a lane's restart changes its gradient")
        other[0, cut:] = x[0, cut:]  # from here on the same, so that only memory of earlier pieces can tell
        keeps = [_summed(method, phase, [Batch(inputs, later, start)]) for inputs in (x, other)]
        if _near(*keeps):
            raise Broken(f"phase {phase.name}: what came before changes nothing: no state is carried")
    return f"any cut, with a lane that restarts at column {at}"


def _summed(method: Method, phase: Phase, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The gradient of the loss summed over successive batches, with fixed weights.

    The random choices of an online method for a column are the same however the columns are cut into batches.
    """
    method.noise.manual_seed(streams.derive(0, "check", "noise"))
    method.carry = None
    method.zero_grad()
    draw, drawn = method.draw, 0
    if form_of(type(method)) == "step":
        whole = draw((ROWS, sum(batch.x.shape[1] for batch in batches)), phase.name)

        def of_columns(shape: tuple[int, int], phase: str) -> Any:
            nonlocal drawn
            columns = slice(drawn, drawn + shape[1])
            drawn += shape[1]
            return map_tree(lambda choices: choices[columns], whole)

        method.draw = of_columns  # type: ignore[method-assign]
    engine = Engine(method, phase)
    sums = {name: torch.zeros_like(parameter) for name, parameter in _claimed(method, phase).items()}
    for batch in batches:
        first = 0
        for ready in engine.stretches(batch):
            labels = (batch.y[:, first : first + ready.columns] != IGNORED).sum()
            first += ready.columns
            for name, parameter in _claimed(method, phase).items():
                if parameter.grad is not None and ready.scalars is not None:
                    sums[name] += labels * parameter.grad
            method.zero_grad()
    method.draw = draw  # type: ignore[method-assign]
    return sums


def _near(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    scale = max(gradient.abs().max().item() for gradient in (*a.values(), *b.values()))
    return all((a[name] - b[name]).abs().max().item() <= 1e-9 * max(scale, 1e-30) for name in a)


def _trained_in_pieces(run: Run, stops: bool) -> dict[str, Tensor]:
    """Weights and loss at the end of a run, which with `stops` is stopped after every second batch."""
    batches = itertools.count()
    with _folder(run) as folder:
        for _ in range(100):
            trainer = Trainer(run, folder, Options(should_stop=lambda: stops and next(batches) % 2 == 1))
            try:
                trainer.train()
            except Stopped:
                continue
            return {**trainer.method.state_dict(), "loss": torch.tensor(trainer.curve[-1]["train_loss"])}
    raise Broken("does not come to an end when it is stopped after every second batch")


@suite.row("resumes exactly", "keep in `carry`, buffers or parameters all that the next batch depends on")
def _resume(subject: Subject) -> str:
    run = subject.run()
    if subject.cls.data == "streams":  # batches that end within sequences, so that what is carried matters
        run = dataclasses.replace(run, training=run.training.model_copy(update={"columns": CUT}))
    ends = [_trained_in_pieces(run, stops) for stops in (False, True)]
    different = [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])]
    if different:
        raise Broken(
            f"a run that was stopped and continued differs in {', '.join(different[:3])} ({len(different)} tensors)"
        )
    return "stopped after every second batch, equal bit for bit"


@suite.row(
    "learns an easy task", "check that gradients point the right way; give --set training.optimiser.lr=... if needed"
)
def learns(subject: Subject) -> str:
    """Train on the first easy task that fits, and raise `Broken` below halfway from chance to the ceiling."""
    online = form_of(subject.cls) == "step"  # (slow, column by column: training ends once the task is learned)
    lanes, every, stop_at = (8, 0.05, LEARNED) if online else (32, 1.0, None)
    training = {"batch_size": lanes, "budget": {"steps": EASY_STEPS}, "optimiser": {"lr": 5e-3}, "stop_at": stop_at}
    evaluation = {
        **{"sequences": 512, "reference_sequences": 8, "every": every},
        "stream": {"lanes": 64, "burn_in": 16, "columns": 64},
    }
    run = subject.run(EASY, training=training, evaluation=evaluation, model=EASY_MODEL, precision="float32")
    with _folder(run) as folder:
        result = Trainer(run, folder).train()
    score = result["scores"][0]
    chance, ceiling = score["chance"], score["accuracy_ceiling"]
    wanted = (chance + ceiling) / 2
    said = (
        f"accuracy {score['accuracy']:.3f} on {run.task} after {result['costs']['steps']} steps (chance {chance:.3f})"
    )
    if not score["accuracy"] >= wanted:
        raise Broken(f"{said}; should be {wanted:.3f} or more")
    return said


@suite.row("cost can be traced", "compute with torch operators, which can be counted")
def traced(subject: Subject) -> str:
    """FLOPs of a step of each phase. Raises `Broken` where no operator was seen."""
    costs = cost.step_costs(subject.run(precision="float32"))
    counted, uncounted = [], set()
    for name, record in costs.items():
        whole = record["whole"]
        if whole["flops"] + whole["elementwise"] == 0:
            raise Broken(f"phase {name}: no operator of a training step was seen")
        uncounted |= set(record["uncounted"])
        counted.append(f"{name}: {whole['flops']:,} FLOPs, {whole['sequential_operations']:,} sequential operations")
    return "; ".join(counted) + (f"; not counted: {', '.join(sorted(uncounted))}" if uncounted else "")


@suite.row(
    "polite on bad config", "derive `Config` from MethodConfig, with a default for every field, and validate there"
)
def _polite(subject: Subject) -> str:
    config = subject.cls.Config
    if not issubclass(config, MethodConfig):
        raise Broken(f"Config is {config.__name__}, which is not a MethodConfig")
    lacking = [name for name, field in config.model_fields.items() if field.is_required()]
    if lacking:
        raise Broken(f"Config has no default for {', '.join(lacking)}")
    examine_config(config)
    run = subject.run()
    for backbone in registry.backbones.names():
        model = run.model.model_copy(update={"backbone": backbone})
        reason = impossible(dataclasses.replace(run, model=model))
        if reason is not None and (not isinstance(reason, str) or "\n" in reason):
            raise Broken(f"with the backbone {backbone} it is refused with {reason!r}; should be a line of text")
    return f"{len(config.model_fields)} fields; unknown keys and wrong types are refused in one line"
