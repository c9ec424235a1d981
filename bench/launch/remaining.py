"""Estimates the time that a launch still takes, from the cells' budgets and the prices seen so far.

A running cell continues at its own pace. A waiting one is priced per token like similar cells: those that differ only
in their seed, else those of its method and task, of its method, or all. So the first cell of a method corrects the
estimate for the others. Cells are assigned to as many workers as are busy now.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

from bench.config import Run
from bench.launch.plan import Board, progress_of

ENOUGH = 0.02
"""The share of its budget from which on a cell's own pace is used."""


class Remaining:
    """The estimate for one board."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.ended: dict[str, Mapping[str, Any]] = {}  # last statuses

    @cached_property
    def keys(self) -> dict[str, list[Hashable]]:
        """The keys by which each cell is similar to others."""
        return {cell.id: _keys(cell.run) for cell in self.board.cells}

    @cached_property
    def sizes(self) -> dict[str, float]:
        """Each cell's budget."""
        return {cell.id: _size(cell.run) for cell in self.board.cells}

    def seconds(self, live: Mapping[str, Mapping[str, Any]]) -> float | None:
        """Seconds until all cells have ended, given the statuses of running ones; None before there is an estimate."""
        board = self.board
        if len(board.ends) == len(board.cells):
            return 0.0
        for cell in board.cells:
            if cell.id in board.ends and cell.id not in self.ended:
                self.ended[cell.id] = cell.folder.status
        running = {name: live.get(name, {}) for name in (*board.running, *board.elsewhere)}
        prices = self._prices({**self.ended, **running})
        left = [
            self._left(name, progress_of(status, board.before[name]), prices, status)
            for name, status in running.items()
        ]
        shares = [self._left(cell.id, board.before[cell.id], prices) for cell in board.waiting]
        known = [share for share in (*left, *shares) if share is not None]
        return _makespan(known[: len(left)], known[len(left) :]) if len(known) == len(left) + len(shares) else None

    def _prices(self, statuses: Mapping[str, Mapping[str, Any]]) -> dict[Hashable, float]:
        """Seconds per unit of budget, by the keys of similar cells."""
        sums: dict[Hashable, tuple[float, float]] = {}
        for name, status in statuses.items():
            progress, spent = progress_of(status), _spent(status)
            if progress < ENOUGH or not spent:
                continue
            for key in self.keys[name]:
                seconds, size = sums.get(key, (0.0, 0.0))
                sums[key] = seconds + spent, size + progress * self.sizes[name]
        return {key: seconds / size for key, (seconds, size) in sums.items()}

    def _left(
        self, name: str, progress: float, prices: Mapping[Hashable, float], status: Mapping[str, Any] | None = None
    ) -> float | None:
        """Seconds that a cell still needs: at its own pace where it has one, else at the price of similar cells."""
        if status and progress >= ENOUGH and (spent := _spent(status)):
            return spent / progress * (1 - progress)
        seconds = 1.0 if self.keys[name][-1] == "seconds" else None
        price = next((prices[key] for key in self.keys[name] if key in prices), seconds)
        return None if price is None else price * self.sizes[name] * (1 - progress)


def _keys(run: Run) -> list[Hashable]:
    """The keys by which a run is similar to others, narrowest first; the last is the unit of its size."""
    currency = run.training.budget.currency
    unit = "tokens" if currency == "steps" else currency
    alike = dataclasses.replace(run, seed=0, init_from=None).identity
    return [alike, (run.method, run.task, unit), (run.method, unit), unit]


def _size(run: Run) -> float:
    """The budget; steps as the tokens that they take."""
    budget, training = run.training.budget, run.training
    length = run.task_config.length
    return budget.amount * (training.batch_size * training.accumulate * length if budget.steps else 1)


def _spent(status: Mapping[str, Any]) -> float:
    """Seconds that a cell has taken; for one that was resumed from a checkpoint, those of its training."""
    if status.get("attempt") == 1 and "started" in status:
        return max(0.0, float(status.get("updated", 0.0)) - float(status["started"]))
    return float(status.get("training_seconds") or 0.0)


def _makespan(running: Sequence[float], waiting: Sequence[float]) -> float:
    """The end of the last worker, where each takes the next waiting cell when it is free."""
    free = list(running) or [0.0]
    heapq.heapify(free)
    for seconds in waiting:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
