"""The launchers of this machine: `local`, a bounded pool of worker processes, and `inline`, this process.

The death of a worker, from any cause, costs an attempt of its one cell, which resumes from its checkpoint in another
worker. A worker that makes no step for too long, or is silent for the time of its lease, is killed. Ctrl-C lets the
workers write checkpoints; a second one kills them. When the launcher itself is killed, its workers see their stdin
close, and stop at their next step. Several launchers on a folder share its cells. A launch ends when results cannot be
written, and the same command continues it.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch

from bench import registry
from bench.config import Run
from bench.errors import BadInput
from bench.launch.cell import UNWRITABLE, End, run_cell
from bench.launch.lease import Watch
from bench.launch.plan import Board, Cell, LaunchOptions, plan, prepare, refused
from bench.launch.progress import View, view_for
from bench.launch.share import Share
from bench.launch.worker import STUCK, command
from bench.results import Folder, write_grid
from bench.state import ENDED_WELL

TICK = 0.3  # seconds between two looks at the workers
GRACE = 60.0  # seconds that workers have for their checkpoints after Ctrl-C
START_SECONDS = 600.0  # in which a worker must begin a cell, imports included
# glibc gives freed memory back to the system, and faults it in again at the next step: up to a fifth of a step of SMT.
KEEPING = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


@dataclass(frozen=True)
class Outcome:
    """The ends of the cells of a launch: state and reason by id, also of those kept from earlier launches.

    `halted` is the reason why results cannot be written, if that ended the launch.
    """

    ends: dict[str, End]
    stale: tuple[str, ...]
    interrupted: bool
    halted: str | None = None

    @property
    def exit_code(self) -> int:
        """0: every cell is done or skipped; 1: one is not; 2: results cannot be written; 130: Ctrl-C."""
        if self.interrupted:
            return 130
        if self.halted:
            return 2
        return 0 if all(end.state in ENDED_WELL for end in self.ends.values()) else 1


def run_cells(
    runs: Sequence[Run], folder: Path, options: LaunchOptions, grid: Mapping[str, Any] | None = None
) -> Outcome:
    """Run those of the runs that are not done, in the folder `results/<grid>` of the grid with the record `grid`.

    Raises `BadInput`, before anything is changed, when the folder cannot be written, or another process runs a cell
    that is to be forgotten.
    """
    check(runs, folder, options)
    _writable(folder)
    with Interrupts(patience=1 if options.launcher == "inline" else None) as interrupts:
        cells = plan(runs, folder, options)
        if grid is not None:
            write_grid(folder, grid)
        prepare(cells, options.lease_seconds)
        board = Board(cells, options.retry)
        with view_for(board, options.quiet) as view:
            view.ended(board.skip_dependents())
            share = Share(board, view, options)
            inline = options.launcher == "inline"
            halted = _run_inline(share, interrupts) if inline else Pool(share, interrupts).run()
    stale = tuple(cell.id for cell in cells if cell.decision.stale and cell.decision.action == "keep")
    ends = {cell.id: board.ends.get(cell.id, End("pending")) for cell in cells}
    return Outcome(ends, stale, interrupts.count > 0, halted)


def check(runs: Sequence[Run], folder: Path, options: LaunchOptions) -> None:
    """Raise `BadInput` for what would make every cell of the launch fail."""
    if options.tensorboard and find_spec("tensorboard") is None:
        raise BadInput("--tensorboard: the package tensorboard is missing; pip install 'recurbench[tensorboard]'")
    if options.launcher != "inline":
        for run in runs:
            for kind, name in ((registry.tasks, run.task), (registry.methods, run.method)):
                if kind.get(name).__module__ == "__main__":
                    raise BadInput(
                        f"{kind.kind} {name!r} is defined in __main__, where worker processes cannot find it; put it "
                        "into a file of its own and give that as a plugin, or use the launcher 'inline'"
                    )
    if all(map(refused, runs)):
        cells = plan(runs, folder, options)
        if all(cell.decision.action == "skip" for cell in cells):
            raise BadInput(f"grid {folder.name}: no cell of it can run: {cells[0].decision.reason}")


def _writable(folder: Path) -> None:
    """Raise `BadInput` where a test file cannot be written, as permissions do not tell everything."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 12))
    except OSError as error:
        raise BadInput(f"--results: cannot write to {folder}: {error.strerror}") from None


class Interrupts:
    """Counts Ctrl-C (and SIGTERM) instead of raising at a bad moment. Only in the main thread.

    With `patience`, any after that many do raise `KeyboardInterrupt`.
    """

    def __init__(self, patience: int | None = None) -> None:
        self.count = 0
        self.patience = patience
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.patience is not None and self.count > self.patience:
            raise KeyboardInterrupt


# Inline.


def _run_inline(share: Share, interrupts: Interrupts) -> str | None:
    """Run the cells one after another in this process. Returns why results cannot be written, if that ends it."""
    board, view = share.board, share.view
    while not interrupts.count and share.open:
        share.revisit()
        taken = share.take()
        if taken is None:
            time.sleep(TICK)
            view.tick(share.live())
            continue
        cell, seen = taken
        end = run_cell(
            cell.folder,
            seen,
            should_stop=lambda: interrupts.count > 0,
            listen=partial(_show, view, cell.id),
            **share.options.cell(),
        )
        if end.state == "elsewhere":
            board.mark_elsewhere(cell)
            continue
        view.ended(board.end(cell, end))
        if _unwritable(end):
            return end.reason
    return None


def _unwritable(end: End) -> bool:
    return end.state == "stopped" and (end.reason or "").startswith(UNWRITABLE)


def _show(view: View, name: str, status: Mapping[str, Any]) -> None:
    view.tick({name: status})


# Processes.


@dataclass(eq=False)
class Slot:
    """A slot for a worker: its device, and the worker and its cell while there are any."""

    device: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    cell: Cell | None = None
    mine: Folder | None = None  # the attempt that the worker has begun at the cell
    since: float = 0.0  # when the worker got the cell
    answers: IO[bytes] | None = None  # the end of a pipe
    errors: IO[bytes] | None = None  # the worker's output outside of cells
    heard: bytes = b""


def slots_for(runs: Sequence[Run], workers: int | None) -> list[Slot]:
    """One slot per core for CPU runs (fewer where a run takes several threads), one per GPU for GPU runs."""
    slots = []
    threads = max((run.threads for run in runs), default=1)
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment |= {name: os.environ.get(name, size) for name, size in KEEPING.items()}
    devices = {run.device for run in runs}
    if "cpu" in devices:
        count = workers or max(1, cores() // threads)
        slots += [Slot("cpu", environment) for _ in range(min(count, len(runs)))]
    if "cuda" in devices:
        names = gpus()
        count = workers or len(names)
        visible = [names[i % len(names)] for i in range(min(count, len(runs)))]
        slots += [Slot("cuda", {**environment, "CUDA_VISIBLE_DEVICES": name}) for name in visible]
    return slots


def cores() -> int:
    """The number of cores that this process may use, by its affinity and the quota of its container."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        count = os.cpu_count() or 1
    return max(1, int(min(count, quota())))


def quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """The number of cores that the control groups of this process allow it; inf where they set no limit.

    A group has its limit in cpu.max (version 2), or in cpu.cfs_quota_us and cpu.cfs_period_us (version 1); those of the
    groups above it hold too. Inside a container the names of the groups may be the host's, and only the root is there.
    """
    least = math.inf
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not on every system
        return least
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        place = root / "cpu" if controllers else root
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        for group in (Path(name), *Path(name).parents):
            with suppress(OSError, ValueError):  # no such file, or "max"
                limit, period = " ".join((place / group.relative_to("/") / file).read_text() for file in files).split()
                if int(limit) > 0:  # -1: none
                    least = min(least, int(limit) / int(period))
    return least


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


@dataclass
class Pool:
    """The worker processes of one launch."""

    share: Share
    interrupts: Interrupts
    slots: list[Slot] = field(init=False)

    def __post_init__(self) -> None:
        self.board, self.view, self.options = self.share.board, self.share.view, self.share.options
        self.slots = slots_for([cell.run for cell in self.board.waiting], self.options.workers)
        self.selector = selectors.DefaultSelector()
        self.hearts = Watch(self.options.lease_seconds)
        self.stopping = False
        self.halted: str | None = None

    def run(self) -> str | None:
        """Work until every cell has ended, Ctrl-C, or results cannot be written; in that case return why."""
        try:
            while self.share.open and not self.interrupts.count and not self.halted:
                self.share.revisit()
                for slot in self.slots:
                    self._fill(slot)
                self._listen()
                for slot in self.slots:
                    self._check_silence(slot)
            if self.interrupts.count or self.halted:
                self._stop()
        finally:
            for slot in self.slots:
                if slot.process is not None and slot.process.stdin is not None:
                    with suppress(OSError):
                        slot.process.stdin.close()  # close all of them before waiting for each
            for slot in self.slots:
                self._retire(slot)
            self.selector.close()
        return self.halted

    def _fill(self, slot: Slot) -> None:
        """Give a cell to a slot that has none, if one can start."""
        if slot.cell is not None or (taken := self.share.take([slot.device])) is None:
            return
        slot.cell, seen = taken
        slot.mine, slot.since = None, time.monotonic()
        request = {
            "folder": str(slot.cell.folder.path.resolve()),
            "seen": seen,
            "options": {**self.options.cell(), "last": self.board.attempts[slot.cell.id] > self.options.retry},
        }
        if slot.process is None:
            self._start(slot)
        assert slot.process is not None and slot.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, which is noticed when its answers are read
            slot.process.stdin.write((json.dumps(request) + "\n").encode())
            slot.process.stdin.flush()

    def _start(self, slot: Slot) -> None:
        """Start the slot's worker; its output before its first cell goes to `errors`."""
        answers, theirs = os.pipe()
        os.set_blocking(answers, False)
        slot.answers = os.fdopen(answers, "rb", buffering=0)
        slot.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        try:
            slot.process = subprocess.Popen(
                command(theirs),
                stdin=subprocess.PIPE,
                stdout=slot.errors,
                stderr=slot.errors,
                env={**os.environ, **slot.environment},
                pass_fds=[theirs],
                start_new_session=True,  # Ctrl-C in the terminal reaches the launcher only
            )
        finally:
            os.close(theirs)
        self.selector.register(slot.answers, selectors.EVENT_READ, slot)

    def _listen(self) -> None:
        """Wait a moment for answers, and handle them and dead workers."""
        ready = [key.data for key, _ in self.selector.select(TICK)]
        for slot in self.slots:
            # A process that a plugin forked may hold the pipe of a dead worker open: so ask for the worker itself.
            dead = slot.process is not None and slot.process.poll() is not None
            if slot in ready or dead:
                self._receive(slot, dead)
        self.view.tick(self.share.live())

    def _check_silence(self, slot: Slot) -> None:
        """Kill a worker that is silent for the time of its lease, or does not begin its cell."""
        if slot.process is None or slot.cell is None:
            return
        if slot.mine is None:
            if time.monotonic() - slot.since > START_SECONDS:
                self._kill(slot, f"the worker did not begin in {START_SECONDS:.0f} s")
        elif self.hearts.silence(slot.mine) > self.options.lease_seconds:
            self._kill(slot, f"no heartbeat for {self.options.lease_seconds:g} s")

    def _kill(self, slot: Slot, how: str) -> None:
        assert slot.process is not None
        slot.process.kill()
        self._end_dead(slot, how)

    def _receive(self, slot: Slot, dead: bool) -> None:
        assert slot.answers is not None
        while piece := slot.answers.read(1 << 16):
            slot.heard += piece
        dead |= piece == b""  # its pipe has ended; None: there is nothing to read yet
        while b"\n" in slot.heard and slot.cell is not None:
            answer, _, slot.heard = slot.heard.partition(b"\n")
            message = json.loads(answer)
            if "attempt" in message:
                slot.mine = slot.cell.folder.at(message["attempt"])
                continue
            end = End(**message)
            self._ended(slot, end)
            if end.state in ("failed", "oom", "stopped"):  # worker or GPU may be in a bad state, or it ends anyway
                self._retire(slot)
                return
        if dead:
            self._end_dead(slot)

    def _ended(self, slot: Slot, end: End) -> None:
        """Handle the end of a cell that its worker has reported."""
        cell, slot.cell = slot.cell, None
        assert cell is not None
        if end.state == "elsewhere":
            self.board.mark_elsewhere(cell)
        elif end.state == "oom":
            self.view.ended(self.board.lost(cell, end, slot.mine))
        elif end == End("stopped") and not (self.stopping or self.interrupts.count or self.halted):
            self.view.ended(self.board.lost(cell, End("failed", "worker ended by SIGTERM"), slot.mine))
        else:
            self.view.ended(self.board.end(cell, end))
            if _unwritable(end):
                self.halted = self.halted or end.reason

    def _end_dead(self, slot: Slot, how: str | None = None) -> None:
        """Handle the death of a worker, which costs its cell, if it had one, an attempt."""
        last = _last_line(slot.errors)
        process = self._retire(slot)
        if slot.cell is None or process is None:
            return
        if self.stopping:  # before it heard the request to stop, or while stopping
            self._end_stopped(slot, "its worker ended before it could write a checkpoint; the one before it stays")
            return
        cell, slot.cell = slot.cell, None
        code = process.returncode
        if how is None and code == STUCK:
            how = f"no step for {self.options.stuck_seconds:g} s, see log.txt"
        elif how is None and code is None:
            how = "worker cannot be killed"
        elif how is None and code < 0:
            how = f"worker killed by signal {-code}"
        elif how is None:
            how = f"worker exited with code {code}" + (", see log.txt" if slot.mine else f": {last}" if last else "")
        self.view.ended(self.board.lost(cell, End("failed", how), slot.mine))

    def _retire(self, slot: Slot) -> subprocess.Popen[bytes] | None:
        """Let the slot's process end, by closing its stdin."""
        process, slot.process, slot.heard = slot.process, None, b""
        if process is None:
            return None
        assert process.stdin is not None and slot.answers is not None
        self.selector.unregister(slot.answers)
        slot.answers.close()
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # a dead file system can block even a killed process
                process.wait(10)
        if slot.errors is not None:
            slot.errors.close()
        return process

    def _stop(self) -> None:
        """After Ctrl-C, let the workers write checkpoints and end; kill them at a second one or after too long."""
        if not self.halted:
            self.view.say("stopping: cells write their checkpoints; Ctrl-C again kills them")
        self.stopping = True
        for slot in self.slots:
            if slot.process is not None:
                slot.process.terminate()
        deadline = time.monotonic() + GRACE
        while self.board.running and self.interrupts.count < 2 and time.monotonic() < deadline:
            self._listen()
        for slot in self.slots:
            if slot.process is not None and slot.cell is not None:
                slot.process.kill()
                self._retire(slot)
                self._end_stopped(slot, "killed before it could write a checkpoint; the one before it stays")

    def _end_stopped(self, slot: Slot, reason: str) -> None:
        cell, slot.cell = slot.cell, None
        assert cell is not None
        if slot.mine is not None:
            with suppress(OSError):
                slot.mine.set_status(**{**slot.mine.status, "state": "stopped", "reason": reason})
        self.view.ended(self.board.end(cell, End("stopped", reason)))


def _last_line(file: IO[bytes] | None) -> str:
    """The last line of a worker's output outside of cells, which names the exception if there was one."""
    if file is None:
        return ""
    file.seek(0)
    return next(iter(reversed(file.read().decode(errors="replace").strip().splitlines())), "")
