"""Rows of a conformance suite: each examines one promise of the contract, and says what to mend where it is broken."""

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

from bench.results import write_atomically

S = TypeVar("S")
State = Literal["passed", "failed", "skipped"]


class Broken(AssertionError):
    """The contract is not kept; the message says in what, with numbers."""


class NotApplicable(Exception):
    """The row has nothing to say here; the message says why."""


@dataclass(frozen=True)
class Row(Generic[S]):
    """One promise. `examine` returns what was found, in a few words, or raises `Broken` or `NotApplicable`."""

    name: str
    mend: str
    examine: Callable[[S], str]


@dataclass(frozen=True)
class Outcome:
    """How one row went for one method, task or backbone."""

    kind: str
    name: str
    row: str
    state: State
    detail: str
    mend: str
    seconds: float


class Suite(Generic[S]):
    """The rows for one kind of thing, in the order in which they are shown.

    `build(name, sets)` makes the subject that every row examines; it is made anew for each, so that none depends on
    another.
    """

    def __init__(self, kind: str, build: Callable[[str, Sequence[str]], S]) -> None:
        self.kind = kind
        self.build = build
        self.rows: list[Row[S]] = []

    def row(self, name: str, mend: str) -> Callable[[Callable[[S], str]], Callable[[S], str]]:
        """Decorator: add a row."""

        def add(examine: Callable[[S], str]) -> Callable[[S], str]:
            self.rows.append(Row(name, mend, examine))
            return examine

        return add

    def outcomes(self, name: str, sets: Sequence[str] = ()) -> Iterator[Outcome]:
        """Examine every row."""
        for row in self.rows:
            yield self.outcome(row, name, sets)

    def outcome(self, row: Row[S], name: str, sets: Sequence[str] = ()) -> Outcome:
        """Examine one row. An exception of the subject's own is a failure like any other."""
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
        return Outcome(self.kind, name, row.name, state, detail, row.mend, time.perf_counter() - began)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def _where(error: BaseException) -> str:
    """The last place in the traceback, for a message that does not say it."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, as a cell has, and torch's global generator as it was before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def write_junit(outcomes: Iterable[Outcome], path: Path) -> None:
    """The outcomes as JUnit XML, which CI services show: a test suite for every subject, a test case for every row."""
    root = ET.Element("testsuites")
    suites: dict[str, Any] = {}
    for one in outcomes:
        title = f"{one.kind} {one.name}"
        if title not in suites:
            suites[title] = ET.SubElement(root, "testsuite", name=title)
        case = ET.SubElement(suites[title], "testcase", classname=title, name=one.row, time=f"{one.seconds:.3f}")
        if one.state == "failed":
            ET.SubElement(case, "failure", message=_printable(one.detail)).text = _printable(f"to mend: {one.mend}")
        elif one.state == "skipped":
            ET.SubElement(case, "skipped", message=_printable(one.detail))
    for suite in suites.values():
        for attribute, tag in (
            ("tests", "testcase"),
            ("failures", "testcase/failure"),
            ("skipped", "testcase/skipped"),
        ):
            suite.set(attribute, str(len(suite.findall(tag))))
    write_atomically(path, lambda file: ET.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True))


def _printable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(one if one.isprintable() else " " for one in text)
