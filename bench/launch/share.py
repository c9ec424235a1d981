"""Shares the cells of a grid with other launchers on the same folder, on this machine or another."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.launch.cell import End
from bench.launch.lease import Seen, Watch
from bench.launch.plan import Board, Cell, LaunchOptions, to_measure
from bench.launch.progress import View
from bench.state import ENDED, State

REVISIT_SECONDS = 1.0
"""Seconds between two looks at the cells that run elsewhere."""


@dataclass
class Share:
    """Checks, before a launcher gives a cell to a worker, that nobody else runs it and it is not done by now."""

    board: Board
    view: View
    options: LaunchOptions
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.options.lease_seconds)
        self._visited = time.monotonic()

    @property
    def open(self) -> bool:
        """Whether there are cells that have not ended."""
        return bool(self.board.waiting or self.board.running or self.board.elsewhere)

    def take(self, devices: Iterable[str] = ("cpu", "cuda")) -> tuple[Cell, Seen] | None:
        """The next cell that can start now and is free, and the state in which it was seen."""
        devices = tuple(devices)
        while cell := self.board.take(devices):
            seen = self.watch.look(cell.folder)
            if seen.state == "owned":
                self.board.mark_elsewhere(cell)
            elif seen.attempt == cell.attempts or not self._record_end(cell):
                return cell, seen
        return None

    def revisit(self) -> None:
        """Look at the cells that run elsewhere: record those that have ended, take back abandoned ones."""
        if not self.board.elsewhere or time.monotonic() - self._visited < REVISIT_SECONDS:
            return
        self._visited = time.monotonic()
        for cell in list(self.board.elsewhere.values()):
            if self.watch.look(cell.folder).state == "free" and not self._record_end(cell):
                self.board.return_to_queue(cell)

    def live(self) -> dict[str, dict[str, Any]]:
        """The statuses of running cells, here or elsewhere."""
        return {cell.id: cell.folder.status for cell in (*self.board.running.values(), *self.board.elsewhere.values())}

    def _record_end(self, cell: Cell) -> bool:
        """Record the end of this cell by others, if it has ended."""
        status = cell.folder.status
        state = status["state"]
        if to_measure(cell.folder, status, self.options.measures) or state not in ENDED - {State.SKIPPED}:
            return False
        self.view.ended(self.board.end(cell, End(state, status.get("reason"))))
        return True
