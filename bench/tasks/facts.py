"""The facts of a task against which scores are judged, as checked plain numbers."""

from __future__ import annotations

import inspect
import math
import numbers
from typing import Any

from bench.errors import BadInput
from bench.tasks.base import Task

ROUNDING = 9
"""Decimals to which a sum of shares is compared with 0 and 1."""


def task_facts(task: Task, length: int, score_from: int = 0) -> dict[str, Any]:
    """The facts against which accuracy and loss from column `score_from` on are judged.

    Raises `BadInput`, in one line, for a fact that is not a possible number, such as a floor of NaN.
    """
    shortcuts = {
        rule: _number(task, f"shortcut {rule!r}", share, most=1)
        for rule, share in stated(task, "shortcuts", length, score_from).items()
    }
    if not shortcuts:
        raise BadInput(f"{task.name}: shortcuts is empty; should hold the accuracy of at least one rule")
    rule = max(shortcuts, key=lambda name: shortcuts[name])

    def fact(name: str, most: float = math.inf, known: bool = True) -> float | None:
        value = stated(task, name, length, score_from)
        return None if value is None and not known else _number(task, name, value, most)

    return {
        "chance": fact("chance", most=1),
        "loss_floor": fact("loss_floor", known=False),
        "accuracy_ceiling": fact("accuracy_ceiling", most=1, known=False),
        "shortcut": shortcuts[rule],
        "shortcut_rule": rule,
        "unigram_loss": fact("unigram_loss"),
        "unit": task.unit,
    }


def stated(task: Task, name: str, length: int, score_from: int) -> Any:
    """A fact as the task states it. Raises `BadInput` where it should take `score_from` and does not."""
    state = getattr(task, name)
    if score_from == 0:
        return state(length)
    try:
        inspect.signature(state).bind(length, score_from)
    except TypeError:
        raise BadInput(
            f"{task.name}: {name}(length) does not say what holds from evaluation.score_from ({score_from}) on; "
            f"should be {name}(length, score_from=0)"
        ) from None
    return state(length, score_from)


def _number(task: Task, name: str, value: Any, most: float) -> float:
    """Check a number from 0 to `most`, given by Python, numpy or a tensor of one number, and return it as a float."""
    try:
        number = value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # (what numpy and torch raise for more than one number)
        number = value
    if isinstance(number, numbers.Real) and math.isfinite(number) and 0 <= round(float(number), ROUNDING) <= most:
        return float(number)
    allowed = f"from 0 to {most:g}" if math.isfinite(most) else "from 0 on"
    given = " ".join(repr(value).split())
    raise BadInput(f"{task.name}: {name} is {given}; should be a number {allowed}")
