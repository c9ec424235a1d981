"""The rows of a conformance suite: each tests one promise of the contract, and says what to fix where it fails."""

from __future__ import annotations

import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch

from bench.outgoing import clean
from bench.results import write_atomically

S = TypeVar("S")
State = Literal["passed", "failed", "skipped"]


class Broken(AssertionError):
    """The contract is broken; the message says how, with numbers."""


class NotApplicable(Exception):
    """The row does not apply; the message says why."""


@dataclass(frozen=True)
class Row(Generic[S]):
    """One promise. `examine` returns a few words about what it found, or raises `Broken` or `NotApplicable`."""

    name: str
    fix: str
    examine: Callable[[S], str]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one row for one method, task or backbone."""

    kind: str
    name: str
    row: str
    state: State
    detail: str
    fix: str
    seconds: float


class Suite(Generic[S]):
    """The rows for one kind of plugin, in the order in which they are shown.

    `build(name, sets)` makes the subject that a row examines, a new one for each row, so that rows are independent.
    """

    def __init__(self, kind: str, build: Callable[[str, Sequence[str]], S]) -> None:
        self.kind = kind
        self.build = build
        self.rows: list[Row[S]] = []

    def row(self, name: str, fix: str) -> Callable[[Callable[[S], str]], Callable[[S], str]]:
        """Decorator: add a row."""

        def add(examine: Callable[[S], str]) -> Callable[[S], str]:
            self.rows.append(Row(name, fix, examine))
            return examine

        return add

    def outcomes(self, name: str, sets: Sequence[str] = ()) -> Iterator[Outcome]:
        """Examine every row."""
        for row in self.rows:
            yield self.outcome(row, name, sets)

    def outcome(self, row: Row[S], name: str, sets: Sequence[str] = ()) -> Outcome:
        """Examine one row. An exception that the subject raises is a failure."""
        began = time.perf_counter()
        state: State = "passed"
        with _one_thread():
            try:
                detail = row.examine(self.build(name, sets))
            except NotApplicable as error:
                state, detail = "skipped", str(error)
            except Broken as error:
                state, detail = "failed", str(error)
            except (Exception, SystemExit) as error:
                state, detail = "failed", f"{type(error).__name__}: {_first_line(error)}{_where(error)}"
        return Outcome(self.kind, name, row.name, state, detail, row.fix, time.perf_counter() - began)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def _where(error: BaseException) -> str:
    """The last line in the traceback, which the message lacks."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within this context torch has one thread, like a cell; its global generator is restored afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def write_junit(outcomes: Iterable[Outcome], path: Path) -> None:
    """Write the outcomes as JUnit XML, for CI services: a test suite for every subject, a test case for every row."""
    root = ET.Element("testsuites")
    suites: dict[str, Any] = {}
    for outcome in outcomes:
        title = f"{outcome.kind} {outcome.name}"
        if title not in suites:
            suites[title] = ET.SubElement(root, "testsuite", name=title)
        case = ET.SubElement(
            suites[title], "testcase", classname=title, name=outcome.row, time=f"{outcome.seconds:.3f}"
        )
        if outcome.state == "failed":
            failure = ET.SubElement(case, "failure", message=clean(outcome.detail))
            failure.text = clean(f"to fix: {outcome.fix}")
        elif outcome.state == "skipped":
            ET.SubElement(case, "skipped", message=clean(outcome.detail))
    for suite in suites.values():
        for attribute, tag in (
            ("tests", "testcase"),
            ("failures", "testcase/failure"),
            ("skipped", "testcase/skipped"),
        ):
            suite.set(attribute, str(len(suite.findall(tag))))
    write_atomically(path, lambda file: ET.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True))
