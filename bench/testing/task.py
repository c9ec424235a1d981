"""The rows for tasks."""

from __future__ import annotations

from collections.abc import Sequence

from bench.testing.suite import Suite


class Subject:
    """A task by its name."""

    def __init__(self, name: str, sets: Sequence[str]) -> None:
        self.name = name


suite = Suite("task", Subject)
