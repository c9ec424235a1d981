"""Shows progress while a grid runs: live bars in a terminal, plain lines elsewhere, or nothing if quiet."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.launch.plan import Board, Cell, progress_of
from bench.launch.remaining import Remaining
from bench.outgoing import terminal

LINE_SECONDS = 15.0
"""Seconds between two plain lines about running cells."""

SHOWN = 16
"""The largest number of running cells shown one by one; a cluster may run hundreds."""

Statuses = Mapping[str, Mapping[str, Any]]
"""The last status of each running cell, by its id."""


def view_for(board: Board, quiet: bool) -> View:
    """The view that suits the output."""
    if quiet:
        return View(board)
    return Bars(board) if sys.stdout.isatty() else Lines(board)


class View:
    """Shows nothing; the base of the others."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.remaining = Remaining(board)
        self.note = ""  # why cells wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def tick(self, live: Statuses) -> None:
        """Update the view with the statuses of running cells."""

    def ended(self, cells: Sequence[Cell]) -> None:
        """Show that these cells have ended."""

    def say(self, text: str) -> None:
        """Print a line for the user."""

    def tell_notes(self, cell: Cell) -> None:
        """Print a line for each damaged file that the cell's attempt has found."""
        for note in cell.folder.status.get("notes", ()):
            self.say(f"warning: {note}")


class Lines(View):
    """Prints a line at each cell's end, one now and then while cells run, and a last one."""

    def __enter__(self) -> Self:
        self.last = time.monotonic()
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            self.say(closing_line(self.board))

    def tick(self, live: Statuses) -> None:
        """Print a line if the last one was long ago."""
        if time.monotonic() - self.last < LINE_SECONDS:
            return
        self.last = time.monotonic()
        board = self.board
        lines = [cell_text(cell, live.get(name, {})) for name, cell in board.running.items()]
        lines += [
            f"{cell_text(cell, live.get(name, {}))} {where(live, name)}" for name, cell in board.elsewhere.items()
        ]
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        text = "; ".join(filter(None, [*lines[:SHOWN], *more, self.note])) or "starting"
        self.say(f"{counted(board)}, {left_text(self.remaining.seconds(live))}: {text}")

    def ended(self, cells: Sequence[Cell]) -> None:
        """Print a line for each."""
        for cell in cells:
            self.last = time.monotonic()
            self.say(f"{counted(self.board)}: {end_text(self.board, cell)}")
            self.tell_notes(cell)

    def say(self, text: str) -> None:
        """Print the line itself."""
        print(terminal(text), flush=True)


class Bars(View):
    """Shows an overall bar and a row for each running cell; lines that need attention stay above them."""

    def __enter__(self) -> Self:
        self.console = Console()
        self.live = Live(self._picture({}), console=self.console, refresh_per_second=4)
        self.live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.live.update(self._picture({}))
        self.live.stop()
        if raised[0] is None:
            self.say(closing_line(self.board))

    def tick(self, live: Statuses) -> None:
        """Draw the bars again."""
        self.live.update(self._picture(live))

    def ended(self, cells: Sequence[Cell]) -> None:
        """Print a line for each that is not done."""
        for cell in cells:
            if self.board.ends[cell.id].state != "done":
                self.say(end_text(self.board, cell))
            self.tell_notes(cell)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(Text(terminal(text)), soft_wrap=True)

    def _picture(self, live: Statuses) -> Group:
        board = self.board
        total = Table.grid(padding=(0, 1))
        total.add_row(
            counted(board),
            ProgressBar(len(board.cells), len(board.ends), width=40),
            left_text(self.remaining.seconds(live)) if len(board.ends) < len(board.cells) else "",
        )
        if self.note:
            total.add_row(Text(terminal(self.note), style="dim"))
        if not (board.running or board.elsewhere):
            return Group(total)
        rows = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("running", "phase"):
            rows.add_column(name, no_wrap=True)
        rows.add_column("", no_wrap=True)
        for name in ("done", "loss", "accuracy"):
            rows.add_column(name, justify="right", no_wrap=True)
        for name, cell in [*(board.running | board.elsewhere).items()][:SHOWN]:
            status = live.get(name, {})
            done = progress_of(status)
            bar = ProgressBar(1, done, width=20)
            loss, accuracy = (number(status.get(key)) for key in ("loss", "accuracy"))
            place = f" {where(live, name)}" if name in board.elsewhere else ""
            phase = Text(terminal(status.get("phase") or ""))
            rows.add_row(Text(terminal(cell.label + place)), phase, bar, f"{done:.0%}", loss, accuracy)
        return Group(total, rows)


def counted(board: Board) -> str:
    """The number of cells that have ended, of all."""
    return f"{len(board.ends)} of {len(board.cells)} cells"


def cell_text(cell: Cell, status: Mapping[str, Any]) -> str:
    """A short description of a running cell."""
    facts = [f"{progress_of(status):.0%}"]
    facts += [f"{key} {number(status[key])}" for key in ("loss", "accuracy") if status.get(key) is not None]
    return " ".join(filter(None, [cell.label, status.get("phase"), ", ".join(facts)]))


def where(live: Statuses, name: str) -> str:
    """The launcher of a cell that runs elsewhere."""
    host = live.get(name, {}).get("host")
    return f"(another launcher's, on {host})" if host else "(another launcher's)"


def end_text(board: Board, cell: Cell) -> str:
    """A line on the end of a cell."""
    end = board.ends[cell.id]
    if end.state != "done":
        return f"{cell.label} {end.state}" + (f": {end.reason}" if end.reason else "")
    result = cell.folder.result or {}
    scores, costs = result.get("scores") or [{}], result.get("costs", {})
    facts = [f"{key} {number(scores[0].get(key))}" for key in ("accuracy", "loss")]
    facts.append(f"{costs.get('training_seconds', 0):.1f} s of training")
    if compiling := costs.get("compile_seconds"):
        facts.append(f"{compiling:.1f} s of compiling")
    return f"{cell.label} done: {', '.join(facts)}"


def closing_line(board: Board) -> str:
    """A line with the number of cells by how they ended, and of those kept from earlier launches."""
    kept = sum(cell.decision.action == "keep" for cell in board.cells)
    states = Counter(board.states().values())
    ended = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{len(board.cells)} cells: {ended}" + (f" ({kept} kept from before)" if kept else "")


def number(value: float | None) -> str:
    """A loss or an accuracy to three decimals; a dash when there is none."""
    return "-" if value is None else f"{value:.3f}"


def left_text(seconds: float | None) -> str:
    """The time left, as roughly as it is known."""
    if seconds is None:
        return "time left unknown"
    if seconds < 60:
        return f"about {seconds:.0f} s left"
    if seconds < 3600:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.1f} h left"
