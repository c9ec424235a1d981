"""A launch on a cluster: cells are submitted, or found in the queue already, and watched until they have ended.

Jobs do not need the launch: one that is interrupted or killed leaves them alone, and the next one finds them in the
ledger. Two launches of a grid share its jobs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from bench.config import Run
from bench.errors import BadInput
from bench.launch.cell import End
from bench.launch.lease import BEATS
from bench.launch.lease import look as look_at
from bench.launch.local import Interrupts, Outcome, check
from bench.launch.plan import Board, Cell, LaunchOptions, plan, prepare, to_measure
from bench.launch.progress import View, view_for
from bench.launch.slurm import queue
from bench.launch.slurm.ledger import Ledger, Place, Sight, Submission, fresh
from bench.launch.slurm.settings import Settings
from bench.launch.slurm.submit import submit, texts, withdraw
from bench.results import Folder, write_grid
from bench.state import ENDED

TICK = 0.5
"""Seconds between two looks at the folders of running cells."""
LOOKS = 2
"""How many times the queue must lack a job before it is gone, as its last files may appear here with a delay."""
SILENT_SECONDS = 30.0
"""The longest time that a cell without an end must be silent before its job's end counts."""
SUBMITTING_SECONDS = 300.0
"""Seconds to wait for another launch that is submitting."""


class Kept(View):
    """Keeps all messages for the view that comes after it."""

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._kept: list[Callable[[View], None]] = []

    def ended(self, cells: Sequence[Cell]) -> None:
        """Kept."""
        self._kept.append(lambda view: view.ended(cells))

    def say(self, text: str) -> None:
        """Kept."""
        self._kept.append(lambda view: view.say(text))

    def tell(self, view: View) -> None:
        """Pass all messages on, in order."""
        for told in self._kept:
            told(view)


class Launch:
    """The launch of one grid on the cluster."""

    def __init__(
        self,
        runs: Sequence[Run],
        folder: Path,
        options: LaunchOptions,
        settings: Mapping[str, Any],
        insist: bool = False,
        grid: Mapping[str, Any] | None = None,
    ) -> None:
        if "%" in str(folder.resolve()):
            raise BadInput(
                f"slurm: {folder.resolve()}: a folder of results should have no % in its path, which SLURM replaces "
                "in the names of logs"
            )
        self.runs = runs
        self.folder = folder
        self.options = options
        self.settings = settings
        self.insist = insist  # jobs that were cancelled by hand are sent again, too
        self.grid = grid  # the record of the grid
        self.poll = Settings.parse(settings, "slurm").poll_seconds
        self.sent: list[Submission] = []

    def dry(self) -> list[str]:
        """The sbatch files that `submit` would send; without SLURM, as if no job waited or ran."""
        check(self.runs, self.folder, self.options)
        cells = plan(self.runs, self.folder, self.options)
        ledger = Ledger(self.folder) if queue.missing() else self._ledger([cell.id for cell in cells])
        blocked = _blocked(cells)
        new = [cell for cell in cells if cell.id not in blocked and self._to_send(cell, ledger)]
        return texts(new, self.folder, self.settings, ledger)

    def submit(self) -> None:
        """Send the cells that are neither done nor queued. Raises `BadInput`, with nothing sent, if that fails."""
        check(self.runs, self.folder, self.options)
        try:
            (self.folder / "slurm").mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / "slurm" / ".lock", timeout=SUBMITTING_SECONDS)
            lock.acquire()
        except filelock.Timeout:
            raise BadInput(
                f"{self.folder}: another launch has been submitting for {SUBMITTING_SECONDS:.0f} s"
            ) from None
        except OSError as error:
            raise BadInput(f"--results: cannot write to {self.folder}: {error.strerror}") from None
        with lock:
            self.cells = plan(self.runs, self.folder, self.options)
            self.ledger = self._ledger([cell.id for cell in self.cells])
            busy = [cell.id for cell in self.cells if cell.decision.fresh and self.ledger.active(cell.id)]
            if busy:
                raise BadInput(
                    f"{len(busy)} of the cells to run again have jobs, such as {busy[0]}; cancel these first"
                )
            if self.grid is not None:
                write_grid(self.folder, self.grid)
            prepare(self.cells, self.options.lease_seconds)
            blocked = {cell.id for cell in Board(self.cells, self.options.retry).skip_dependents()}
            open_cells = [cell for cell in self.cells if cell.decision.action == "run" and cell.id not in blocked]
            new = [cell for cell in open_cells if self._to_send(cell, self.ledger)]
            self.adopted = len(open_cells) - len(new)
            if new:
                self.sent = submit(new, self.folder, self.options, self.settings, self.ledger)

    def withdraw(self) -> None:
        """Cancel what `submit` sent."""
        withdraw(self.sent, self.ledger)

    def _ledger(self, cells: Sequence[str]) -> Ledger:
        ledger = Ledger(self.folder)
        try:
            ledger.look(cells)
        except queue.Silent as silent:
            raise BadInput(f"slurm: {silent}") from None
        return ledger

    @staticmethod
    def _to_send(cell: Cell, ledger: Ledger) -> bool:
        return cell.decision.action == "run" and not ledger.active(cell.id)

    def told(self) -> str:
        """A line on what was sent."""
        jobs = sum(len(submission.cells) for submission in self.sent)
        numbers = ", ".join(submission.number for submission in self.sent)
        sent = f"{jobs} job{'s'[: jobs > 1]} submitted ({numbers})" if jobs else "nothing submitted"
        have = "cell has a job" if self.adopted == 1 else "cells have jobs"
        return f"{self.folder.name}: {sent}" + (f"; {self.adopted} {have} already" if self.adopted else "")

    # Following.

    def begin(self, interrupts: Interrupts) -> None:
        """Get ready to watch; messages are kept for `follow`."""
        self.interrupts = interrupts
        self.board = Board(self.cells, self.options.retry)
        self.lives = {cell.id: dict[str, Any](cell.folder.status) for cell in self.board.waiting}
        self.gone: dict[str, tuple[int, float, Any]] = {}
        self.sends: Counter[str] = Counter()
        self.silence = False
        self.pause, self.looked = 1.0, float("-inf")
        self.view: View = Kept(self.board)
        self.view.ended(self.board.skip_dependents())

    def follow(self, others: Sequence[Launch] = ()) -> Outcome:
        """Watch until every cell has ended, or until Ctrl-C, which leaves the jobs alone.

        `others`, which have begun, are watched meanwhile, so that their lost cells are sent again in time.
        """
        kept = self.view
        with view_for(self.board, self.options.quiet) as self.view:
            if isinstance(kept, Kept):
                kept.tell(self.view)
            while self._is_open and not self.interrupts.count:
                for launch in (self, *others):
                    launch._step()
                self.view.tick({name: self.lives[name] for name in self.board.running})
                time.sleep(TICK)
        stale = tuple(cell.id for cell in self.cells if cell.decision.stale and cell.decision.action == "keep")
        ends = {cell.id: self.board.ends.get(cell.id, End("pending")) for cell in self.cells}
        return Outcome(ends, stale, self.interrupts.count > 0)

    @property
    def _is_open(self) -> bool:
        return bool(self.board.waiting or self.board.running)

    def _step(self) -> None:
        if self._is_open and time.monotonic() - self.looked >= self.pause:
            self._ask_queue()
            self.looked, self.pause = time.monotonic(), min(self.poll, 1.5 * self.pause)
        elif self._is_open:
            self._look_at_folders()

    def _look_at_folders(self) -> None:
        """Look at the folders of running cells."""
        for cell in list(self.board.running.values()):
            status = self.lives[cell.id] = self._status(cell)
            if status["state"] in ENDED:
                self._end(cell, End(status["state"], status.get("reason")))

    def _ask_queue(self) -> None:
        """Ask the queue, then look at the folders of all cells that have not ended."""
        open_cells = [*self.board.waiting, *self.board.running.values()]
        self.ledger.read()
        try:
            self.ledger.look([cell.id for cell in open_cells])
        except queue.Silent as silent:
            if not self.silence and not self.interrupts.count:  # (Ctrl-C stops squeue, too)
                self.view.say(f"the cluster does not answer: {silent}; still watching")
            self.silence = True
            return self._look_at_folders()
        if self.silence:
            self.view.say("the cluster answers again")
        self.silence = False
        waits: Counter[str] = Counter()
        lost: list[tuple[Cell, Sight]] = []
        for cell in open_cells:
            if cell.id in self.board.ends:  # ended with the cell that it starts from
                continue
            status = self.lives[cell.id] = self._status(cell)
            sight = self.ledger.sight(cell.id, status)
            if sight.state in ("running", "pending"):
                self.gone.pop(cell.id, None)
            if sight.state in ENDED:
                self._end(cell, End(sight.state, sight.reason))
            elif sight.state == "running":
                self._place(cell, running=True)
            elif sight.state == "pending":
                self._place(cell, running=False)
                waits[sight.reason or "no reason given"] += 1
            elif self._surely_gone(cell, status):
                lost.append((cell, sight))
            elif status["state"] == "running":
                self._place(cell, running=True)
        self.view.note = "; ".join(f"{count} wait: {reason}" for reason, count in waits.most_common(3))
        self._send_lost(lost)
        return None

    def _status(self, cell: Cell) -> dict[str, Any]:
        """The status of a cell; one that is done but not yet measured counts as running."""
        status = cell.folder.status
        return {**status, "state": "running"} if to_measure(cell.folder, status, self.options.measures) else status

    def _surely_gone(self, cell: Cell, status: Mapping[str, Any]) -> bool:
        """Whether the job was gone at several looks, and the cell silent between them.

        Its owner may have no job here: another launcher, or a job of a launch that was killed while it submitted.
        """
        now, seen = time.monotonic(), look_at(cell.folder)
        word = status.get("updated"), seen.beat
        looks, since, before = self.gone.get(cell.id, (0, now, word))
        looks, since = (looks + 1, since) if word == before else (1, now)
        self.gone[cell.id] = looks, since, word
        silence = min(SILENT_SECONDS, 2.5 * self.options.lease_seconds / BEATS)
        return looks >= LOOKS and (seen.state == "free" or now - since > silence)

    def _send_lost(self, lost: Sequence[tuple[Cell, Sight]]) -> None:
        """Send lost cells again where allowed; record the others as lost."""
        again = [cell for cell, sight in lost if self._may_return(cell, sight)]
        refused: dict[str, str] = {}
        if again:
            try:
                with filelock.FileLock(self.folder / "slurm" / ".lock", timeout=TICK):
                    self.ledger.read()
                    self.ledger.look([cell.id for cell in (*self.board.waiting, *self.board.running.values())])
                    if any(self.ledger.active(cell.id) for cell in again):
                        return  # another launch has sent them
                    self._send_again(again, {cell.id: sight.reason for cell, sight in lost})
            except (filelock.Timeout, queue.Silent):
                return  # the next look decides
            except (BadInput, OSError) as error:
                refused = {cell.id: f"; it could not be sent again: {error}" for cell in again}
        for cell, sight in lost:
            if cell in again and not refused:
                continue
            end = End(sight.state, f"{sight.reason}{refused.get(cell.id, '')}")
            cell.folder.set_status(**{**cell.folder.status, "state": end.state, "reason": end.reason})
            self._end(cell, end)

    def _send_again(self, cells: Sequence[Cell], reasons: Mapping[str, str | None]) -> None:
        for cell in cells:
            self.gone.pop(cell.id, None)
            self.sends[cell.id] += 1
            self._place(cell, running=False)
        jobs = ", ".join(sent.number for sent in submit(cells, self.folder, self.options, self.settings, self.ledger))
        for cell in cells:
            self.view.say(f"{cell.label} lost: {reasons[cell.id]}; sent again (job {jobs})")

    def _may_return(self, cell: Cell, sight: Sight) -> bool:
        by_hand = (sight.job_state or "").startswith("CANCELLED") and not self.insist
        return sight.state == "lost" and not by_hand and self.sends[cell.id] < self.options.retry

    def _place(self, cell: Cell, running: bool) -> None:
        """Move a cell to those that wait, or to those that run."""
        if running and cell in self.board.waiting:
            self.board.waiting.remove(cell)
            self.board.running[cell.id] = cell
        elif not running and cell.id in self.board.running:
            del self.board.running[cell.id]
            self.board.waiting.append(cell)

    def _end(self, cell: Cell, end: End) -> None:
        if cell in self.board.waiting:
            self.board.waiting.remove(cell)
        self.view.ended(self.board.end(cell, end))


def _blocked(cells: Sequence[Cell]) -> set[str]:
    """The ids of cells that start from a cell that has ended without a result."""
    known = {cell.id: cell for cell in cells}

    def blocked(cell: Cell) -> bool:
        source = known.get(cell.run.init_from.run) if cell.run.init_from else None
        if source is None:
            return False
        return blocked(source) if source.decision.action == "run" else source.decision.state != "done"

    return {cell.id for cell in cells if blocked(cell)}


def sights(folder: Path, statuses: dict[str, dict[str, Any]]) -> tuple[dict[str, Sight], str | None]:
    """The states of a grid's cells that have, or had, a job; and the reason why the queue could not be asked.

    The statuses of cells that had not ended are read again into `statuses`, as these may have ended meanwhile.
    """
    ledger = Ledger(folder)
    placed = {name: status for name, status in statuses.items() if name in ledger.places}
    try:
        ledger.look([name for name, status in placed.items() if status["state"] not in ENDED])
    except queue.Silent as silent:
        return {name: _unasked(status, ledger.places[name][-1]) for name, status in placed.items()}, str(silent)
    found = {}
    for name, status in placed.items():
        if status["state"] not in ENDED:
            status = statuses[name] = Folder(folder / name).status
        sight = ledger.sight(name, status)
        alive = sight.state in ("lost", "stopped") and fresh(status)
        found[name] = sight._replace(state="running", reason=None) if alive else sight
    return found, None


def _unasked(status: Mapping[str, Any], place: Place) -> Sight:
    return Sight(status["state"], status.get("reason"), place.number, None, place.submission.submitted)


def cancel(folder: Path) -> list[str]:
    """Cancel the jobs of a grid's folder, and return their numbers."""
    ledger = Ledger(folder)
    open_cells = [name for name in ledger.places if ledger.places[name]]
    try:
        ledger.look(open_cells)
        going = [submission for submission in ledger.read() if _any_active(submission, ledger)]
        for submission in going:  # first, so that no watcher takes them for lost
            submission.cancelled = True
            ledger.write(submission)
        if going:
            queue.cancel([submission.number for submission in going])
    except queue.Silent as silent:
        raise BadInput(f"slurm: {silent}") from None
    return [submission.number for submission in going]


def _any_active(submission: Submission, ledger: Ledger) -> bool:
    jobs = (ledger.queue.get(number) for number, _ in submission.jobs())
    return any(job is not None and not job.over for job in jobs)
