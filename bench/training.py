"""The training loop of all methods: budget, schedule, evaluation, checkpoints, exact resumption.

A run that was stopped at any moment, in any way, and then continued gives the same numbers as one that was not, bit for
bit on one CPU thread: the checkpoint holds everything that the next step depends on.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import compiling, provenance, streams
from bench.build import autocast, build_method, build_task
from bench.config import WORK, InitFrom, Run, scored_lengths
from bench.curriculum import Curriculum
from bench.engine import Engine, compiles
from bench.errors import BadInput
from bench.methods.base import EVERY, NONE, Method, Phase, Predict, scored_slice
from bench.models.sizes import count_parameters
from bench.optimiser import rate
from bench.phases import Lanes, draw, idle_phase, no_step, phase_ends, phases_brought
from bench.results import (
    Damaged,
    Folder,
    Unreached,
    load_tensors,
    load_weights,
    out_of_memory,
    put_aside,
    save_tensors,
    share,
)
from bench.results.files import check
from bench.results.forms import CURVE
from bench.results.tensors import of_the_device, verify
from bench.tasks.base import HELD, IGNORED, Batch, Split, Task, hide, hide_in_stream
from bench.tasks.facts import task_facts

CHECK_EVERY = 50
"""Steps between two checks that the loss is finite; each check waits for the device."""
RECENT = 0.05
"""The weight of a new loss in the moving average that ends a phase."""
TEST_EVERY = 10
"""Steps between two tests of that average; each test waits for the device."""
EVALUATION_CHUNK = 256
"""Sequences evaluated at a time, to bound memory."""


class Diverged(ArithmeticError):
    """A loss, a logit or a weight is not finite, so the run has no score."""


class Stopped(Exception):
    """The run was asked to stop, and has written a checkpoint."""


@dataclass
class Options:
    """Options of training that do not change the outcome of a cell."""

    checkpoint_seconds: float = 20.0
    report_seconds: float = 1.0
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[dict[str, Any]], None] = lambda facts: None
    on_scalars: Callable[[int, dict[str, float]], None] = lambda step, scalars: None
    on_damage: Callable[[str], None] = print  # gets a line about a damaged file and what was done about it
    before_publishing: Callable[[], None] = lambda: None  # may raise; the result is then not written


@dataclass
class Counters:
    """How far a run has come and what it has spent; part of the checkpoint."""

    phase: int = 0
    steps: int = 0
    tokens: int = 0
    work: float = 0.0  # FLOPs or sequential FLOPs, where the budget is stated in these
    phase_steps: int = 0  # steps in the current phase
    training_seconds: float = 0.0
    cpu_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    compile_seconds: float = 0.0  # wall clock; counted in none of the others
    evaluations: int = 0
    finished: bool = False
    began: float | None = None  # spent before this phase began, where the previous one ended early
    recent: Tensor | None = None  # moving average of the loss, where it can end the phase
    sums: dict[str, Tensor] = field(default_factory=dict)  # sums of scalars since the last evaluation
    summed: int = 0
    online: dict[str, Tensor] = field(default_factory=dict)
    """For a method that learns from a stream, in float64: "loss", summed over the labels since the last evaluation,
    each predicted before the step that learns from it; "regret", the loss above the floor, per lane, summed over all
    labels since training began."""
    labels: int = 0  # scored labels since the last evaluation

    def costs(self) -> dict[str, float]:
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "training_seconds": self.training_seconds,
            "cpu_seconds": self.cpu_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "compile_seconds": self.compile_seconds,
        }


COUNTED = ("phase", "steps", "tokens", "phase_steps", "evaluations", "labels", "summed")
"""The counters that are integers."""


def evaluation_set(run: Run, task: Task, split: Split, length: int) -> Batch:
    """Fixed sequences for evaluation, drawn on the CPU so that scores do not depend on the device."""
    drawn = task.sample(
        split, run.evaluation.sequences, length, streams.generator(run.seed, "evaluation", split, length)
    )
    x, y, _ = hide(drawn, run.evaluation.score_from)
    return Batch(x.to(run.device), y.to(run.device))


@torch.no_grad()
def score(predict: Predict, batch: Batch, columns: slice = EVERY, name: str = "predictor") -> dict[str, float]:
    """Accuracy and loss (nats per scored token) of a predictor on a batch whose labels are scored in `columns` only.

    Raises `Diverged` when the loss is not finite: the argmax of NaN logits is an index, but no answer. A logit may be
    minus infinity, except that of a true label.
    """
    totals = torch.zeros(3, dtype=torch.float64, device=batch.x.device)
    for x, y in zip(batch.x.split(EVALUATION_CHUNK), batch.y.split(EVALUATION_CHUNK), strict=True):
        totals += _totals(predict(x, columns), y[:, columns])
    return _means(totals, name)


def stream_set(run: Run, task: Task, split: Split) -> Batch:
    """Lanes of a held-out stream, drawn on the CPU like an evaluation set; the labels of the burn-in are not scored."""
    settings = run.evaluation.stream
    generator = streams.generator(run.seed, "evaluation", split, "stream")
    batch, _ = task.stream(split, settings.lanes, settings.burn_in + settings.columns, generator)
    position = torch.zeros(settings.lanes, dtype=torch.long)
    x, y, start = hide_in_stream(batch, run.evaluation.score_from, position)[0]
    y = y.clone()
    y[:, : settings.burn_in] = IGNORED
    return Batch(x.to(run.device), y.to(run.device), start.to(run.device))  # type: ignore[union-attr]


@torch.no_grad()
def score_stream(method: Method, batch: Batch, name: str) -> dict[str, float]:
    """Like `score`, for the trained predictor, which reads the lanes from their start and carries its state on."""
    totals = torch.zeros(3, dtype=torch.float64, device=batch.x.device)  # correct, loss, count
    state = method.initial_state(len(batch.x))
    assert batch.start is not None
    for x, y, start in zip(*(part.split(EVALUATION_CHUNK, 1) for part in batch), strict=True):  # type: ignore[union-attr]
        columns = _scored(y)
        logits, state = method.advance(state, x, columns, start)
        totals += _totals(logits, y[:, columns])
    return _means(totals, name)


def _scored(y: Tensor) -> slice:
    """The columns of y (B, T) in which some label is scored; all columns where these are not evenly spaced."""
    columns = (y != IGNORED).any(0).nonzero().flatten().tolist()
    if not columns:
        return NONE
    step = columns[1] - columns[0] if len(columns) > 1 else 1
    even = columns == [*range(columns[0], columns[-1] + 1, step)]
    return slice(columns[0], columns[-1] + 1, step) if even else EVERY


def _totals(logits: Tensor, y: Tensor) -> Tensor:
    """Over the scored labels: the number of correct answers, the summed loss, and the number of labels."""
    scored = y != IGNORED
    logits, labels = logits[scored].double(), y[scored]
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([(logits.argmax(-1) == labels).sum().double(), loss, scored.sum().double()])


def _means(totals: Tensor, name: str) -> dict[str, float]:
    correct, loss, count = totals.tolist()
    if not math.isfinite(loss):
        raise Diverged(f"scoring {name} gives a loss of {loss}")
    return {"accuracy": correct / count, "loss": loss / count}


class Trainer:
    """Trains one run in its folder. `train` returns the record of the result; it may be called again after a stop."""

    def __init__(self, run: Run, folder: Folder, options: Options | None = None) -> None:
        torch.set_num_threads(run.threads)
        self.run = run
        self.folder = folder
        self.options = options or Options()
        self._sets: dict[tuple[Split, int], Batch] = {}
        self._stream_sets: dict[Split, Batch] = {}
        self.facts: dict[int, dict[str, Any]] = {}
        self._build()

    def _build(self) -> None:
        """Set everything to its state before the first step."""
        run = self.run
        self.task = build_task(run)
        self.method = build_method(run, self.task)
        self.phases = self.method.phases(run.training)
        self.digest = provenance.run_digest(run)
        self.data = streams.generator(run.seed, "data", device=run.device)
        self.lanes: Lanes | None = None
        self.curriculum = Curriculum(run, self.task) if run.training.curriculum else None
        self.counters = Counters()
        self.curve: list[dict[str, Any]] = []
        self.skipped = phases_brought(run, self.phases)
        self.ends = phase_ends(run, self.phases)
        self.prices, self.uncounted = self._traced_prices()
        if reason := idle_phase(run, self.prices):
            raise BadInput(reason)
        self.engine: Engine
        self.compiled = compiles(run)
        self._compiling = compiling.taken().wall  # how much of this process's compile time has been counted
        self._clock: compiling.Seconds | None = None  # when the clock was started; None while it is stopped
        self._before = 0.0  # spent before the columns of the latest gradients

    def _task_facts(self) -> dict[int, dict[str, Any]]:
        """The task's facts at every length that is scored: the trained one, then the others.

        Raises `BadInput` for what would otherwise end the run after its last step: a fact that is not a number, or
        evaluation sequences that cannot be drawn or have no label.
        """
        facts = {}
        for length in scored_lengths(self.run):
            facts[length] = task_facts(self.task, length, self.run.evaluation.score_from)
            if self.method.data == "streams" and length == self.run.task_config.length:
                facts[length] |= self.task.stream_facts()
            for split in HELD:
                y = self._set(split, length).y
                if len(self.method.predictors()) > 1:
                    y = y[: self.run.evaluation.reference_sequences]
                if (y == IGNORED).all():
                    raise BadInput(
                        f"{self.task.name}: none of {len(y)} {split} sequences of length {length} has a label from "
                        f"column {self.run.evaluation.score_from} on; draw more (evaluation.sequences, or "
                        "reference_sequences), or score from an earlier one"
                    )
        return facts

    # The budget.

    def used(self) -> float:
        """What the run has spent so far, in the budget's currency."""
        counters, currency = self.counters, self.run.training.budget.currency
        if currency in WORK:
            return counters.work
        if currency in ("seconds", "cpu_seconds"):
            wall, processor = self._elapsed_seconds()
            return counters.training_seconds + wall if currency == "seconds" else counters.cpu_seconds + processor
        return getattr(counters, currency)

    def _elapsed_seconds(self) -> tuple[float, float]:
        """Wall and processor seconds of training since the clock was started."""
        if self._clock is None:
            return 0.0, 0.0
        wall, processor = compiling.now()
        return wall - self._clock.wall, processor - self._clock.processor

    def _traced_prices(self) -> tuple[dict[str, float], list[str]]:
        """The price of a token in each phase, and the operators that it leaves out because no rule counts them.

        A price comes from one traced step, in FLOPs or sequential FLOPs; under a budget in any other currency there
        are none. Raises `BadInput` where a phase is free.
        """
        currency = self.run.training.budget.currency
        if currency not in WORK:
            return {}, []
        prices, uncounted = import_module(provenance.TRACER).prices(self.run, currency)
        for phase in self.phases[self.skipped :]:
            if not prices[phase.name]:
                raise BadInput(
                    f"training.budget.{currency}: given, but no rule counts any in a step of phase {phase.name}, so "
                    "that it would never be spent; should be tokens or steps"
                )
        return prices, uncounted

    # The loop.

    def train(self) -> dict[str, Any]:
        """Train to the end of the budget, from the checkpoint if there is one, and write result.json.

        Raises `Stopped` when `options.should_stop()` says so, `Diverged` when a loss, a scored logit or a weight is not
        finite, and `BadInput` when a phase has spent its share without a step.
        """
        self.facts = self._task_facts()
        if not self._resume():
            self._begin()
        last_checkpoint = last_report = time.monotonic()
        while not self.counters.finished:
            for _ in self._steps():
                now = time.monotonic()
                if self.counters.steps % CHECK_EVERY == 0:
                    self._check_finite()
                if now - last_report > self.options.report_seconds:
                    last_report = now
                    with self._paused():
                        self._report()
                if self._due():
                    self._evaluate()
            # The state is complete only here, between two batches.
            if self.options.should_stop():
                self._checkpoint()
                raise Stopped
            if time.monotonic() - last_checkpoint > self.options.checkpoint_seconds:
                self._checkpoint()
                last_checkpoint = time.monotonic()
        return self._finish()

    def _begin(self) -> None:
        if self.source:
            weights = self.source.weights(self.run.init_from.phase)  # type: ignore[union-attr]
            if self.source.status["state"] == "diverged":
                raise BadInput(f"init_from.run: {self.source.path} is diverged, should be done")
            if not os.path.lexists(weights):
                raise BadInput(f"init_from.run: {self.source.path} has no {weights.name}: that phase is not finished")
            try:
                load_weights(self.method, weights, self.run.device, self.source.identity)
            except Damaged as error:
                raise BadInput(f"init_from.run: {error}") from None
        self._enter_phase(self.skipped)
        self._evaluate()

    @property
    def source(self) -> Folder | None:
        """The folder of the run that `init_from` names, beside this one."""
        return self._beside(self.run.init_from) if self.run.init_from else None

    def _beside(self, link: InitFrom) -> Folder:
        return Folder(self.folder.path.parent / link.run)

    def _inherited(self) -> dict[str, float] | None:
        """The cost of the phases taken over by `init_from`, from the curves of the source and of its own sources."""
        total: dict[str, float] = {}
        link = self.run.init_from
        while link:
            source = self._beside(link)
            try:
                points = [point for point in source.curve() or [] if point.get("phase") == link.phase]
                earlier = (source.record() or {"run": {}})["run"].get("init_from")
            except Damaged as error:
                self.options.on_damage(f"{error}; the cost of the phases taken over by init_from is not known")
                return None
            if not points:
                return None
            for name in ("steps", "tokens", "training_seconds"):
                total[name] = total.get(name, 0) + points[-1][name]
            link = InitFrom(**earlier) if earlier else None
        return total or None

    def _enter_phase(self, index: int) -> None:
        self.counters.phase = index
        self.method.train_only(self.phases[index])
        accumulate, phase = self.run.training.accumulate, self.phases[index]
        self.engine = Engine(self.method, phase, accumulate, lambda: autocast(self.run), self.compiled)
        self.lanes = None

    def _steps(self) -> Iterator[None]:
        """Train on a batch, with a step wherever gradients are ready; go on to the next phase once this is spent."""
        if self._clock is None:
            self._clock = compiling.now()
        phase = self.phases[self.counters.phase]
        self.method.stage = min(int(self._share_spent() * phase.stages), phase.stages - 1)
        batch, costs = self._draw(phase), []
        for ready in self.engine.stretches(batch):
            self._charge(phase, ready.columns * len(batch.x))
            if ready.scalars is not None:
                loss = ready.scalars[self._answer_loss(phase)]
                costs.append((loss, ready.labels or 1))
                if ready.labels:
                    self._count_online(loss, ready.labels, len(batch.x))
                self._step(phase, ready.scalars)
            if ready.whole:
                yield
        if costs and self.lanes and self.lanes.state is not None:
            mean = torch.stack([loss * labels for loss, labels in costs]).sum() / sum(labels for _, labels in costs)
            self.lanes = self.lanes._replace(state=self.task.advance(self.lanes.state, mean))
        if self.counters.finished or self._spent():
            self._leave_phase(phase)

    def _spent(self) -> bool:
        """Whether the phase has spent its share. Under a budget in steps it takes at least one in any case."""
        owed = self.run.training.budget.currency == "steps" and not self.counters.phase_steps
        return (self.used() >= self.ends[self.counters.phase] and not owed) or self._loss_reached()

    def _loss_reached(self) -> bool:
        """Whether the phase ends early because its loss is low enough."""
        until, counters = self.phases[self.counters.phase].until, self.counters
        if until is None or counters.recent is None or not counters.phase_steps:
            return False
        if counters.phase_steps % TEST_EVERY or self.engine.pending:
            return False
        return bool(counters.recent < until)

    def _draw(self, phase: Phase) -> Batch:
        curriculum, length = self._curriculum_of(phase), None
        if curriculum:
            length = curriculum.draw(self.used() / self.run.training.budget.amount)
        batch, self.lanes = draw(self.run, self.task, self.method, phase, self.data, self.lanes, length)
        return batch

    def _curriculum_of(self, phase: Phase) -> Curriculum | None:
        """The curriculum that a phase follows; a phase that sets its own length follows none."""
        return None if phase.length else self.curriculum

    def _charge(self, phase: Phase, tokens: int) -> None:
        if tokens:
            self._before = self.used()
        self.counters.tokens += tokens
        if self.prices:
            self.counters.work += tokens * self.prices[phase.name]

    def _step(self, phase: Phase, scalars: dict[str, Tensor]) -> None:
        counters = self.counters
        if phase.until is not None:
            recent = scalars["loss"] if counters.recent is None else counters.recent
            counters.recent = recent.lerp(scalars["loss"], RECENT)
        self._add(scalars)
        counters.summed += 1
        learning_rate = rate(phase.optimiser, self._progress(phase))
        if curriculum := self._curriculum_of(phase):
            learning_rate *= curriculum.rate
            curriculum.learn(scalars[self._answer_loss(phase)])
        if self.engine.take(learning_rate):
            counters.steps += 1
            counters.phase_steps += 1
            if self.engine.clipped is not None:
                self._add({"clipped": self.engine.clipped * self.run.training.accumulate})

    def _add(self, scalars: dict[str, Tensor]) -> None:
        """Add scalars to the sums since the last evaluation."""
        sums = self.counters.sums
        for name, value in scalars.items():
            sums[name] = sums[name] + value if name in sums else value.clone()

    def _answer_loss(self, phase: Phase) -> str:
        """The name of the scalar with the cross-entropy of the method's answers."""
        return self.method.answers.get(phase.name, "loss")

    def _count_online(self, loss: Tensor, labels: int, lanes: int) -> None:
        """Add the mean loss of `labels` labels of a stream to the online loss before a step learns from them."""
        counters, loss = self.counters, loss.double()
        found = {"loss": loss * labels, "regret": (loss - (self._floor or 0.0)) * (labels / lanes)}
        counters.online = {name: counters.online.get(name, 0.0) + value for name, value in found.items()}
        counters.labels += labels

    @property
    def _floor(self) -> float | None:
        return self.facts[self.run.task_config.length]["loss_floor"]

    def _progress(self, phase: Phase) -> float:
        """The share of the phase that is spent after this step, from which its learning rate is computed.

        A cosine schedule is 0 at the end of the phase, so progress reaches at most half of what was left before.
        """
        start, share = self._span()
        ahead = 1 if self.run.training.budget.currency == "steps" else 0
        progress = (self.used() + ahead - start) / share
        if phase.optimiser.schedule == "constant":
            return progress
        before = (self._before - start) / share
        if before >= 1 and not (self.method.data == "streams" and self.counters.phase_steps):
            before = 0.0  # the previous phase has spent this one's share as well, so it gets one batch
        return min(progress, (before + 1) / 2)

    def _span(self) -> tuple[float, float]:
        """The amount spent before the phase began, and the amount that the phase may spend."""
        start = self.counters.began
        if start is None:
            start = self.ends[self.counters.phase - 1] if self.counters.phase else 0.0
        return start, self.ends[self.counters.phase] - start

    def _share_spent(self) -> float:
        """The share of the phase that is spent before the next batch."""
        start, share = self._span()
        return (self.used() - start) / share if share > 0 else 1.0

    def _leave_phase(self, phase: Phase) -> None:
        if not self.counters.phase_steps:
            raise BadInput(no_step(phase, self.engine.pending, self.run.training.accumulate))
        if not self._evaluated():
            self._evaluate()
        self.engine.leave()
        self.method.sync_predictor(phase.name)
        with self._paused():
            save_tensors(self.folder.weights(phase.name), self.method.state_dict(), self.run.identity)
        if self.counters.phase + 1 < len(self.phases) and not self.counters.finished:
            early = self.used() < self.ends[self.counters.phase]
            self.counters.began = self.used() if early else None
            self.counters.phase_steps, self.counters.recent = 0, None
            self._enter_phase(self.counters.phase + 1)
            self._checkpoint()
        else:
            self.counters.finished = True

    # Evaluation.

    def _due(self) -> bool:
        amount, every = self.run.training.budget.amount, self.run.evaluation.every
        return self.used() >= amount * every * self.counters.evaluations and not self._evaluated()

    def _evaluated(self) -> bool:
        return bool(self.curve) and self.curve[-1]["steps"] == self.counters.steps

    def _set(self, split: Split, length: int) -> Batch:
        if (split, length) not in self._sets:
            self._sets[split, length] = evaluation_set(self.run, self.task, split, length)
        return self._sets[split, length]

    def _scores(self, split: Split, length: int) -> list[dict[str, Any]]:
        """Score every predictor without gradients, reference lines on fewer sequences.

        A method that learns from a stream has seldom seen a start: it is scored on held-out streams, and its scores on
        sequences from their start are kept beside these.
        """
        batch, scores = self._set(split, length), []
        columns = scored_slice(self.task, batch.x.shape[1], self.run.evaluation.score_from)
        few = Batch(*(part[: self.run.evaluation.reference_sequences] for part in batch[:2]))
        self.method.eval()
        with autocast(self.run):
            for name, predict, reference in self.method.predictors():
                found = score(predict, few if reference else batch, columns, name)
                scores.append({"predictor": name, "reference": reference, **found})
            if self.method.data == "streams" and length == self.run.task_config.length:
                first = scores[0]
                carried = score_stream(self.method, self._lanes(split), self.method.predictors()[0].name)
                scores[0] = {**first, **carried, **{f"start_{name}": first[name] for name in carried}}
        self.method.train()
        return scores

    def _lanes(self, split: Split) -> Batch:
        if split not in self._stream_sets:
            self._stream_sets[split] = stream_set(self.run, self.task, split)
        return self._stream_sets[split]

    def _evaluate(self) -> None:
        """Add a point to the curve; end the run where its accuracy on the valid split has reached `stop_at`."""
        self._check_finite()
        phase, counters = self.phases[self.counters.phase], self.counters
        length = self.run.task_config.length
        with self._paused(), self.engine.shown():
            began = time.perf_counter()
            self.method.sync_predictor(phase.name)
            self._check_weights()
            means = {f"train_{name}": (value / counters.summed).item() for name, value in counters.sums.items()}
            if self.curriculum:
                means["train_length"] = self.curriculum.longest
            if self.lanes and self.lanes.state is not None:
                standing = self.task.standing(self.lanes.state)
                means |= {f"train_{name}": value.item() for name, value in standing.items()}
            counters.sums, counters.summed = {}, 0
            online = self._online()
            scores = self._scores("test", length)
            counters.evaluations = int(self.used() / (self.run.training.budget.amount * self.run.evaluation.every)) + 1
            self.curve.append({"phase": phase.name, **counters.costs(), **means, **online, "scores": scores})
            accuracies = {f"{score['predictor']}_accuracy": score["accuracy"] for score in scores}
            known = {name: value for name, value in online.items() if value is not None}
            self.options.on_scalars(counters.steps, means | known | accuracies)
            if self.run.training.stop_at is not None and counters.steps:
                counters.finished = self._valid_accuracy(length) >= self.run.training.stop_at * (
                    self.facts[length]["accuracy_ceiling"] or 1.0
                )
            counters.evaluation_seconds += time.perf_counter() - began
            self.folder.write(self.folder.files / "curve.json", self.curve)
            self._report()

    def _online(self) -> dict[str, float | None]:
        """The online loss since the last evaluation, in nats per scored label, and the regret so far, in nats per lane.

        The regret is None where the floor is unknown. Both are missing where no label of a stream was predicted.
        """
        counters = self.counters
        if not counters.labels:
            return {}
        loss = counters.online["loss"].item() / counters.labels
        regret = None if self._floor is None else counters.online["regret"].item()
        counters.online["loss"], counters.labels = torch.zeros_like(counters.online["loss"]), 0
        return {"online_loss": loss, "regret": regret}

    def _valid_accuracy(self, length: int) -> float:
        """The trained predictor's accuracy, which may end a run early; on streams where it learns from these."""
        if self.method.data == "streams":
            return score_stream(self.method, self._lanes("valid"), "predictor")["accuracy"]
        return score(self.method.predict, self._set("valid", length))["accuracy"]

    # Clock, reports, checks.

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Stop the clock: the time spent in this context is not charged as training."""
        running = self._clock is not None
        if running and self.run.device == "cuda":
            torch.cuda.synchronize()
        wall, processor = self._elapsed_seconds()
        self.counters.training_seconds += wall
        self.counters.cpu_seconds += processor
        before, self._compiling = self._compiling, compiling.taken().wall
        self.counters.compile_seconds += self._compiling - before
        self._clock = None
        yield
        self._clock = compiling.now() if running else None

    def _check_finite(self) -> None:
        for name, value in self.counters.sums.items():
            if not torch.isfinite(value):
                raise Diverged(f"{name} is not finite near step {self.counters.steps}")

    def _check_weights(self) -> None:
        """Check all weights, as a score depends only on those that it reads. This waits for the device."""
        fine = {name: weight.isfinite().all() for name, weight in self.method.named_parameters()}
        fine |= {name: ~buffer.isnan().any() for name, buffer in self.method.named_buffers()}  # (masks may be infinite)
        verdicts = torch.stack([*fine.values()]).tolist() if fine else []  # (a method may have no weights)
        bad = [name for name, good in zip(fine, verdicts, strict=True) if not good]
        if bad:
            raise Diverged(f"{bad[0]} is not finite near step {self.counters.steps}")

    def _report(self) -> None:
        counters, last = self.counters, self.curve[-1] if self.curve else None
        loss = (counters.sums["loss"] / counters.summed).item() if counters.summed else None
        if loss is None and last:
            loss = last.get("train_loss")
        self.options.on_progress(
            {
                "phase": self.phases[counters.phase].name,
                "progress": min(1.0, self.used() / self.run.training.budget.amount),
                **counters.costs(),
                "training_seconds": counters.training_seconds + self._elapsed_seconds()[0],
                "loss": loss,
                "accuracy": last["scores"][0]["accuracy"] if last else None,
            }
        )

    # Checkpoints.

    def _checkpoint(self) -> None:
        with self._paused():
            state = {
                "identity": self.run.identity,
                "digest": self.digest,
                "counters": vars(self.counters),
                "curve": self.curve,
                "method": self.method.state_dict(),
                "engine": self.engine.state_dict(),
                "data": self.data.get_state(),
                "noise": self.method.noise.get_state(),
                "lanes": None if self.lanes is None else tuple(self.lanes),
                "curriculum": self.curriculum.state_dict() if self.curriculum else None,
            }
            save_tensors(self.folder.files / "checkpoint.pt", state, self.run.identity)
            self.folder.drop("checkpoint.pt")  # of earlier attempts, none of which got further

    def _resume(self) -> bool:
        """Continue from the newest checkpoint that allows it exactly; with an earlier attempt's come its weights.

        A damaged checkpoint is put aside. One that cannot be read may be intact: that raises `Unreached`.
        """
        found, taken = list[str](), None
        for place in self.folder.checkpoints():
            file = place / "checkpoint.pt"
            try:
                if self._restore_from(file, load_tensors(file, "cpu", self.run.identity)):
                    taken = file
                    break
                found.append(f"{file}: was written by other code than this")
            except Unreached:
                raise
            except Damaged as error:
                if os.path.lexists(error.path):  # an earlier attempt's may vanish at any moment
                    found.append(f"{error}; put aside as {put_aside(error.path, self.folder.files).name}")
                self._build()
        for fault in found:
            self.options.on_damage(f"{fault}; {f'continued from {taken}' if taken else 'started again'}")
        return taken is not None

    def _restore_from(self, file: Path, saved: Any) -> bool:
        """Restore a checkpoint, or return False where other code wrote it. Raises `Damaged` where its form is wrong."""
        try:
            if (saved["identity"], saved["digest"]) != (self.run.identity, self.digest):
                return False
            counters = Counters(**saved["counters"])
            if not all(isinstance(getattr(counters, name), int) for name in COUNTED):
                raise TypeError("counters that are not integers")
            if not 0 <= counters.phase < len(self.phases):
                raise ValueError(f"there is no phase {counters.phase}")
            check(file, saved["curve"], CURVE)
            self._copy_weights(file.parent, counters)
            self._restore(saved)
        except (OSError, BadInput):
            raise
        except Exception as error:
            if out_of_memory(error) or of_the_device(error):
                raise
            message = next(iter(str(error).splitlines()), "")
            raise Damaged(file, f"has an unexpected form ({type(error).__name__}: {message:.100})") from None
        self.folder.write(self.folder.files / "curve.json", self.curve)
        return True

    def _copy_weights(self, place: Path, counters: Counters) -> None:
        """Take over the weights of the finished phases.

        Raises `Damaged` when a file is missing or incomplete, as no checkpoint can restore what it held.
        """
        finished = self.phases[self.skipped : counters.phase + (1 if counters.finished else 0)]
        files = [place / f"weights-{phase.name}.pt" for phase in finished]
        for file in files:
            verify(file)
        if place != self.folder.files:
            for file in files:
                share(file, self.folder.files / file.name)

    def _restore(self, saved: dict[str, Any]) -> None:
        self.counters = Counters(**_to_device(saved["counters"], self.run.device))
        self.curve = saved["curve"]
        self.method.load_state_dict(saved["method"])
        self._enter_phase(self.counters.phase)
        self.engine.load_state_dict(_to_device(saved["engine"], self.run.device))
        self.data.set_state(saved["data"])
        self.method.noise.set_state(saved["noise"])
        self.lanes = None if saved["lanes"] is None else Lanes(*_to_device(saved["lanes"], self.run.device))
        if self.curriculum:
            self.curriculum.load_state_dict(_to_device(saved["curriculum"], self.run.device))

    # The end.

    def _finish(self) -> dict[str, Any]:
        began = time.perf_counter()
        scores = []
        for length in self.facts:
            valid = self._scores("valid", length)
            for tested, validated in zip(self._scores("test", length), valid, strict=True):
                on_valid = {"valid_accuracy": validated["accuracy"], "valid_loss": validated["loss"]}
                scores.append({"length": length, **tested, **on_valid, **self.facts[length]})
        self.counters.evaluation_seconds += time.perf_counter() - began
        predictor = sum(count_parameters(module) for module in self.method.predictor_modules())
        result = {
            "scores": scores,
            "costs": {
                **self.counters.costs(),
                "parameters": count_parameters(self.method),
                "predictor_parameters": predictor,
            },
            "inherited": self._inherited(),
            "traits": self.method.traits(),
            "uncounted": self.uncounted,
            "digest": self.digest,
            "provenance": provenance.describe(self.run),
        }
        self.options.before_publishing()
        if self.folder.publish(result):
            self.folder.drop("*.pt")
        (self.folder.files / "checkpoint.pt").unlink(missing_ok=True)
        return result


def _to_device(tree: Any, device: str) -> Any:
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: _to_device(value, device) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_to_device(value, device) for value in tree)
    return tree
