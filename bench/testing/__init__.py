"""Tests that a method, task or backbone keeps the contract: the suites of `check`, also for use in your tests.

from bench.testing import conformance

test_my_method = conformance("method", "my-method")     # one pytest test for every row
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal

from bench.errors import unknown
from bench.methods.base import Method
from bench.tasks.base import Task
from bench.testing import backbone, method, task
from bench.testing.suite import Broken, NotApplicable, Outcome, Row, Suite

__all__ = ["Broken", "NotApplicable", "Outcome", "check", "conformance", "tiny"]

Kind = Literal["method", "task", "backbone"]
SUITES: dict[str, Suite[Any]] = {suite.kind: suite for suite in (method.suite, task.suite, backbone.suite)}


def suite_of(kind: str) -> Suite[Any]:
    """The suite for a kind of plugin. Raises `BadInput` for an unknown kind."""
    if kind not in SUITES:
        raise unknown("kind", kind, SUITES)
    return SUITES[kind]


def check(kind: Kind, name: str, set: Sequence[str] = ()) -> Iterator[Outcome]:
    """Examine every row for the plugin registered under a name; `set` holds KEY=VALUE overrides of its runs."""
    return suite_of(kind).outcomes(name, set)


def require_overrides(kind: Kind, name: str, set: Sequence[str]) -> None:
    """Raise `BadInput` for overrides that cannot be used, so that their mistakes are not taken for the plugin's."""
    subject = suite_of(kind).build(name, set)
    if kind == "method":
        with suppress(Broken):
            subject.run()
    elif kind == "task":
        subject.cls.Config.parse(subject.knobs, f"task({name})")
    else:
        subject.config()


def tiny(name: str, set: Sequence[str] = ()) -> tuple[Method, Task]:
    """A method by name, on a tiny run in float64, and its task, for your own tests; `set` as in `check`."""
    subject = method.Subject(name, set)
    return subject.build(subject.run())


def conformance(kind: Kind, name: str, set: Sequence[str] = ()) -> Callable[..., None]:
    """A pytest test with a case for every row, for the plugin registered under a name; assign it to a `test_...` name.

    `set` holds KEY=VALUE overrides of the tiny runs, such as "method.window=4".
    """
    import pytest

    suite = suite_of(kind)

    @pytest.mark.parametrize("row", suite.rows, ids=lambda row: row.name.replace(" ", "-"))
    def test(row: Row[Any]) -> None:
        outcome = suite.outcome(row, name, set)
        if outcome.state == "skipped":
            pytest.skip(outcome.detail)
        assert outcome.state == "passed", f"{kind} {name}: {row.name}: {outcome.detail}. To fix: {row.fix}"

    return test
