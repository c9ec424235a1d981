"""The engine: turns a batch into gradients for an optimiser step, whichever form of training the method has.

    losses     one piece of a stream, or a batch: forward, backward
    step       column by column: credit is added up over a window, divided by its scored labels
    gradients  the method's own generator

Random choices are made before the arithmetic, by `Method.draw`. Nothing waits for the device inside a step: which
columns of a stream are scored and where lanes restart is looked up once per batch.

`training.engine` says whether the arithmetic of `losses` runs operator by operator (eager) or is compiled first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bench import compiling, optimiser, registry
from bench.config import Run
from bench.errors import BadInput
from bench.methods.base import Carry, Method, Phase
from bench.models.backbone import map_tree, reset
from bench.tasks.base import IGNORED, Batch

Form = Literal["losses", "step", "gradients"]
FORMS: tuple[Form, ...] = ("losses", "step", "gradients")
BLOCK = 8
"""Columns of an online method that are compiled as one."""
Autocast = Callable[[], AbstractContextManager[Any]]


class Ready(NamedTuple):
    """The outcome of a stretch of a batch, whose gradients are in `.grad`."""

    columns: int
    """The number of columns of the batch; a generator's first stretch has all of them, as it does not say."""
    scalars: dict[str, Tensor] | None
    """The method's scalars, detached, a "loss" among them; None: nothing was scored, so there is no step to take."""
    labels: int | None = None
    """For a stream, the number of scored labels over which the scalars are means; None for a generator."""
    whole: bool = True
    """Whether the batch is done as far as it was read; False while a generator is still working on it."""


def form_of(cls: type[Method]) -> Form:
    """The form of training that a method's class, or else its nearest base class, defines."""
    for ancestor in cls.__mro__:
        if ancestor is Method:
            break
        defined = [form for form in FORMS if form in vars(ancestor)]
        if defined:
            return defined[-1]
    raise BadInput(f"method {cls.name}: defines none of {', '.join(FORMS)}; one should say how it trains")


def uncompilable(run: Run) -> str | None:
    """Why no machine can compile the steps of a run that asks for it; None when they can be compiled."""
    method = registry.methods.get(run.method)
    form = form_of(method)
    if run.training.engine != "compiled" or form == "losses":
        return None
    whole = f"{run.method} trains by 'gradients', which are not compiled"
    reason = method.uncompilable(run) if form == "step" else whole
    return reason and f"training.engine: compiled given; {reason}"


def compiles(run: Run) -> bool:
    """Whether this machine compiles the steps of a run. Raises `BadInput` where it should and cannot."""
    wanted = run.training.engine
    if wanted == "eager" or (wanted == "auto" and form_of(registry.methods.get(run.method)) != "losses"):
        return False
    lacking = compiling.lacks(run.device)
    if wanted == "compiled" and (reason := uncompilable(run) or (lacking and compiling.cannot_compile(lacking))):
        raise BadInput(reason)
    return lacking is None


class Engine:
    """Computes the gradients of each stretch of a batch, and keeps the carry and the optimiser between stretches."""

    def __init__(
        self,
        method: Method,
        phase: Phase,
        accumulate: int = 1,
        autocast: Autocast = nullcontext,
        compiled: bool = False,
    ) -> None:
        self.method = method
        self.phase = phase
        self.accumulate = accumulate
        self.autocast = autocast
        self.carry: Carry | None = None
        function = self._block if form_of(type(method)) == "step" else method.losses
        self.compiled = compiling.Compiled(function) if compiled else None
        self.optimiser = optimiser.build(phase.optimiser, phase.groups, phase.rates)
        self.parameters = [parameter for group in phase.groups for parameter in group]
        self.named = dict(method.named_parameters())
        ema = phase.optimiser.ema
        self.average = None if ema is None else optimiser.Average(self.parameters, ema)
        self.pending = 0
        """The number of gradients since the last step."""
        self.held: list[Tensor | None] = []
        """The sums of these gradients, where several make one step."""
        self.clipped: Tensor | None = None
        """The share of groups that the last step clipped, for an unbiased gradient, which clipping would bias."""

    def stretches(self, batch: Batch) -> Iterator[Ready]:
        """Go through a batch, and yield whenever the gradients of a stretch are ready, or it turns out to have none."""
        method, width = self.method, batch.x.shape[1]
        form, streams = form_of(type(method)), method.data == "streams"
        if form == "gradients":
            yield from self._generate(batch)
            return
        scored, starts = column_counts(batch) if streams else (None, [False] * width)
        if self.carry is None or not streams:
            self.carry = method.begin(len(batch.x))
        size = method.piece or width
        for first in range(0, width, size):
            columns = slice(first, first + size)
            start = None if batch.start is None else batch.start[:, columns]
            piece = Batch(batch.x[:, columns], batch.y[:, columns], start)
            drawn = method.draw((len(piece.x), piece.x.shape[1]), self.phase.name)
            labels = None if scored is None else sum(scored[columns])
            has_labels = labels != 0
            if form == "losses":
                scalars = self._differentiate(piece, drawn, has_labels)
            else:
                scalars = self._online_gradient(piece, drawn, starts[columns])
            yield Ready(piece.x.shape[1], scalars if has_labels else None, labels)

    def _differentiate(self, piece: Batch, drawn: Any, has_labels: bool) -> dict[str, Tensor]:
        """Compute the method's losses and differentiate them; where nothing is scored, compute them uncompiled."""
        assert self.carry is not None
        compiled = self.compiled if has_labels else None
        with torch.set_grad_enabled(has_labels), self.autocast():
            scalars, carry = (compiled or self.method.losses)(piece, drawn, self.carry, self.phase.name)
        if has_labels:
            scalars["loss"].backward()
        if compiled:
            compiled.tell(f"phase {self.phase.name}, {tuple(piece.x.shape)}")
        self.carry = Carry(*(map_tree(Tensor.detach, part) for part in carry))
        return {name: value.detach() for name, value in scalars.items()}

    def _online_gradient(self, piece: Batch, drawn: Any, starts: list[bool]) -> dict[str, Tensor]:
        """Set `.grad` to the credit of an online method over a window, per scored label; return the scalars."""
        carry, (gradient, weight, scalars) = (
            self._in_blocks(self.compiled, piece, drawn) if self.compiled else self._by_column(piece, drawn, starts)
        )
        labels = weight.clamp(min=1)
        means = torch._foreach_div([*gradient.values()], labels)
        mean = self.method.direction(dict(zip(gradient, means, strict=True)), carry.shared)
        for name, parameter in self.named.items():
            parameter.grad = mean.get(name)
        self.carry = carry
        return {name: total / labels for name, total in scalars.items()}

    def _by_column(self, piece: Batch, drawn: Any, starts: list[bool]) -> tuple[Carry, Any]:
        """The carry after a piece and the sum of its credit, computed a column, or a block of the method, at a time."""
        method, carry, total = self.method, self.carry, None
        assert carry is not None and piece.start is not None
        fresh = method.begin(len(piece.x)).lanes if any(starts) else ()
        cuts = blocks(starts, method.block)
        parts = (piece.x.unbind(1), piece.y.unbind(1))
        if method.block > 1:
            parts = tuple([part[:, first:end] for first, end in cuts] for part in (piece.x, piece.y))  # type: ignore
        for (t, _), x_t, y_t in zip(cuts, *parts, strict=True):
            if starts[t]:
                carry = carry._replace(lanes=reset(carry.lanes, fresh, piece.start[:, t]))
            with torch.no_grad(), self.autocast():
                carry, credit = method.step(carry, x_t, y_t, map_tree(lambda choices, t=t: choices[t], drawn))
            total = _add_credit(total, credit)
        return carry, total

    def _in_blocks(self, compiled: compiling.Compiled, piece: Batch, drawn: Any) -> tuple[Carry, Any]:
        """The same in compiled blocks of `BLOCK` columns, of which the last may be shorter."""
        assert self.carry is not None
        carry, total = self.carry._replace(lanes=map_tree(Tensor.contiguous, self.carry.lanes)), None
        fresh = map_tree(Tensor.contiguous, self.method.begin(len(piece.x)).lanes)
        for first in range(0, piece.x.shape[1], BLOCK):
            columns = slice(first, first + BLOCK)
            block = [part[:, columns].contiguous() for part in piece if part is not None]
            choices = map_tree(lambda choice, columns=columns: choice[columns].contiguous(), drawn)
            with torch.no_grad(), self.autocast():
                if not compiled.times:  # the method caches what it looks up once
                    self._block(carry, fresh, block, choices)
                carry, credit = compiled(carry, fresh, block, choices)
            compiled.tell(f"phase {self.phase.name}, {tuple(block[0].shape)}")
            total = _add_credit(total, credit)
        return carry, total

    def _block(self, carry: Carry, fresh: Any, block: list[Tensor], drawn: Any) -> tuple[Carry, Any]:
        """Compiled: the carry after the columns of a block (x, y, start), each (B, n), and the sum of their credit."""
        total: Any = None
        for t, (x_t, y_t, start) in enumerate(zip(*(part.unbind(1) for part in block), strict=True)):
            carry = carry._replace(lanes=map_tree(partial(_reset_by_lerp, start), carry.lanes, fresh))
            carry, credit = self.method.step(carry, x_t, y_t, map_tree(lambda choices, t=t: choices[t], drawn))
            total = _add_credit(total, credit)
        return carry, total

    def _generate(self, batch: Batch) -> Iterator[Ready]:
        found, columns = self.method.gradients(batch, self.phase.name), batch.x.shape[1]
        while True:
            with self.autocast():
                scalars = next(found, None)
            yield Ready(columns, scalars, whole=scalars is None)
            if scalars is None:
                return
            columns = 0

    def take(self, rate: float) -> bool:
        """Collect the gradients that are ready. Once `accumulate` are there, clip their mean, step, and return True."""
        self.pending += 1
        if self.accumulate > 1:
            self._accumulate()
            if self.pending < self.accumulate:
                return False
            for parameter, sum_ in zip(self.parameters, self.held, strict=True):
                parameter.grad = None if sum_ is None else sum_.div_(self.accumulate)
        self.pending, self.held = 0, []
        for settings in self.optimiser.param_groups:
            settings["lr"] = rate * settings["multiple"]
        if (clip := self.phase.optimiser.clip) is not None:
            norms = [optimiser.clip(group, clip) for group in self.phase.groups]
            if self.method.gradient_is.get(self.phase.name) == "unbiased":
                self.clipped = (torch.stack(norms) > clip).double().mean()
        self.optimiser.step()
        for parameter in self.parameters:
            parameter.grad = None
        if self.average:
            self.average.update()
        return True

    def shown(self) -> AbstractContextManager[None]:
        """Within this context the parameters have the values that are scored: their average, where one is kept."""
        return self.average.shown() if self.average else nullcontext()

    def leave(self) -> None:
        """End the phase: set the parameters to the values that were scored, and drop pending gradients."""
        if self.average:
            self.average.copy_to_parameters()
        self.method.zero_grad()
        self.pending, self.held = 0, []

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on beside the method's own `state_dict`, as plain values and tensors."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.values if self.average else None,
            "pending": self.pending,
            "held": self.held,
            "carry": None if self.carry is None else tuple(self.carry),
            "own": self.method.carry,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict` whose tensors are on the method's device."""
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average:
            self.average.values = state["average"]
        self.pending, self.held = state["pending"], state["held"]
        self.carry = None if state["carry"] is None else Carry(*state["carry"])
        self.method.carry = state["own"]

    def _accumulate(self) -> None:
        """Move `.grad` into the sums and clear it: a method may assign it as well as add to it."""
        held = self.held or [None] * len(self.parameters)
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                before = held[i]
                held[i] = parameter.grad.clone() if before is None else before.add_(parameter.grad)
                parameter.grad = None
        self.held = held


def _reset_by_lerp(start: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Like `reset`, by arithmetic: with a mask, a compiled block of UORO's steps took three times as long."""
    return torch.lerp(old, new, start.to(old.dtype).view(-1, *[1] * (old.ndim - 1)))


def _add_credit(total: Any, credit: Any) -> Any:
    """The total credit, a tree, with another column's or block's added; None: it is the first."""
    return tuple(credit) if total is None else map_tree(torch.add, total, tuple(credit))


def blocks(starts: list[bool], size: int) -> list[tuple[int, int]]:
    """Half-open ranges (first, end) of at most `size` columns, cut where some lane restarts."""
    found, first = [], 0
    for t in range(1, len(starts) + 1):
        if t == len(starts) or starts[t] or t - first == size:
            found.append((first, t))
            first = t
    return found


def column_counts(batch: Batch) -> tuple[list[int], list[bool]]:
    """For each column of a stream: the number of scored labels in it, and whether some lane restarts before it."""
    assert batch.start is not None
    counts = torch.stack([(batch.y != IGNORED).sum(0), batch.start.sum(0)])
    scored, starts = counts.tolist()  # the only place in a batch that waits for the device
    return scored, [count > 0 for count in starts]
