"""A length curriculum: a run starts with short sequences, and longer ones open as it learns.

    lengths 8 16 32, mixed     8 8 8 8 | 16 8 16 8 8 16 | 32 8 16 32 16 8 ...     | the next length opens

After Bengio et al., *Curriculum learning*, ICML 2009. Lengths are mixed against forgetting, as in Zaremba & Sutskever,
*Learning to execute*, arXiv 1410.4615. Scores are at the task's own length throughout.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench import streams
from bench.config import WORK, Run
from bench.tasks.base import Task, undrawable

SHORTEST = 8
"""The smallest of the powers of two."""


def lengths(run: Run, task: Task) -> tuple[int, ...]:
    """The lengths in the order in which they open; the task's own is the last.

    Powers of two at which the task scores nothing are left out; lengths from the config are not checked here.
    """
    own: int = run.task_config.length
    given = run.training.curriculum.lengths if run.training.curriculum else ()
    if given is None:
        powers = (2**n for n in range(SHORTEST.bit_length() - 1, own.bit_length()))
        hidden = run.evaluation.score_from
        given = tuple(length for length in powers if length < own and not undrawable(task, "train", length, hidden))
    return *(length for length in given if length < own), own


def refuses(run: Run, task: Task, data: str) -> str | None:
    """Why a run's curriculum cannot be followed; None when it can, or there is none."""
    settings, budget = run.training.curriculum, run.training.budget
    if settings is None:
        return None
    if data == "streams":
        return f"training.curriculum: {run.method} learns from a stream, whose columns have no length; should be null"
    if budget.currency in WORK:
        return f"training.curriculum: a budget in {budget.currency} prices a token at one length; should be in tokens"
    *shorter, own = lengths(run, task)
    if not shorter:
        return f"training.curriculum: {task.name} of length {own} has no shorter length to begin with"
    for length in shorter:
        if reason := undrawable(task, "train", length, run.evaluation.score_from):
            return f"training.curriculum.lengths: {reason}"
        if settings.below is not None and task.loss_floor(length, run.evaluation.score_from) is None:
            return f"training.curriculum.below: the least loss of {task.name} is not known; give `within` instead"
    return None


class Curriculum:
    """Tracks which lengths are open. Where the loss opens them, it waits for the device once in `batches` batches."""

    def __init__(self, run: Run, task: Task) -> None:
        assert run.training.curriculum is not None
        self.settings = run.training.curriculum
        self.seed = run.seed
        self.lengths = lengths(run, task)
        self.floors = [task.loss_floor(length, run.evaluation.score_from) or 0.0 for length in self.lengths]
        self.open = 1
        self.drawn = 0
        """The number of batches so far."""
        self.current = 0
        """The index of the last batch's length."""
        self.sum: Tensor | float = 0.0
        """The summed losses at the longest open length since their mean was last tested."""
        self.seen = 0

    @property
    def longest(self) -> int:
        """The longest open length."""
        return self.lengths[self.open - 1]

    @property
    def rate(self) -> float:
        """The factor on the learning rate."""
        return self.settings.rate if self.open > 1 else 1.0

    def draw(self, progress: float) -> int:
        """Draw the length of the next batch, at the share `progress` (0 to 1) of the budget."""
        if self.settings.within is not None:
            passed = progress / self.settings.within * len(self.lengths)
            self.open = min(len(self.lengths), max(self.open, 1 + int(passed)))
        number = streams.derive(self.seed, "curriculum", self.drawn)
        self.current = number % self.open if self.settings.mixed else self.open - 1
        self.drawn += 1
        return self.lengths[self.current]

    def learn(self, loss: Tensor) -> None:
        """Update with the loss, in nats, of the last batch."""
        if self.settings.below is None or self.current < self.open - 1 or self.open == len(self.lengths):
            return
        self.sum, self.seen = self.sum + loss, self.seen + 1
        if self.seen == self.settings.batches:
            mean = float(self.sum) / self.seen
            self.open += mean < self.floors[self.current] + self.settings.below
            self.sum, self.seen = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """All that the next draw depends on."""
        return {name: getattr(self, name) for name in ("open", "drawn", "current", "sum", "seen")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict` whose tensor is on the method's device."""
        vars(self).update(state)
