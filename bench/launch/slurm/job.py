"""The work of a job on the cluster: it runs cells, like the local launcher, and can be stopped at any step.

The signals that time is up (USR2 before a time limit or a preemption, TERM at the last moment) only set a flag. The
training loop sees it between two steps, writes a checkpoint and ends; only then, and if work is left, is the job put
back into the queue. The next start runs what is not done, from the checkpoints in the cells' folders; so does a job
that SLURM itself starts again, for example after a crash of its node.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.helpers import DelayedSubmission

from bench import registry
from bench.launch.cell import open_log, run_cell
from bench.launch.local import Interrupts, Pool, Slot
from bench.launch.plan import Board, LaunchOptions, plan, to_measure
from bench.launch.progress import View
from bench.launch.share import Share
from bench.launch.worker import STUCK
from bench.results import Folder
from bench.state import ENDED

WARNING = signal.SIGUSR2
SLACK = 75.0
"""How much sooner than requested a warning may come, as SLURM checks time limits every half minute."""


@dataclass
class Job:
    """The description of a job in plain data; a call runs the job."""

    grid: str  # the grid's folder
    cells: list[str]  # ids
    options: dict[str, Any]  # of `run_cell`
    plugins: list[str] = field(default_factory=list)
    retry: int = 1
    at_once: int = 1
    minutes: int = 60
    signal_seconds: int = 90

    def __call__(self) -> dict[str, str]:
        """Run the cells that are not done, and return the state of each."""
        stop = Stop()
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # as a worker's
        for file in self.plugins:
            registry.load_plugin(file)
        if len(self.cells) > 1:
            self._run_packed(stop)
        elif not self._waits(Folder(Path(self.grid) / self.cells[0])):
            self._run_alone(stop)
        states = {name: Folder(Path(self.grid) / name).status["state"] for name in self.cells}
        if stop.warned and any(state in ("running", "pending", "stopped") for state in states.values()):
            stop.requeue(self._timed_out(stop.warned))
        return states

    def checkpoint(self) -> DelayedSubmission:
        """The description, which submitit keeps for the next start; results are in the cells' folders."""
        return DelayedSubmission(self)

    def _run_alone(self, stop: Stop) -> None:
        """Run the only cell in this process."""
        folder = Folder(Path(self.grid) / self.cells[0])
        errors = os.dup(2)

        def on_stuck() -> None:
            os.write(errors, f"no step for {self.options['stuck_seconds']:g} s\n".encode())
            os._exit(STUCK)

        with _printing_to_log() as to_log:
            run_cell(folder, should_stop=lambda: stop.count > 0, on_claim=to_log, on_stuck=on_stuck, **self.options)
        os.close(errors)

    def _run_packed(self, stop: Stop) -> None:
        """Run each cell in a worker process, so that none affects another."""
        options = LaunchOptions(workers=self.at_once, retry=self.retry, **self.options)
        folders = [Folder(Path(self.grid) / name) for name in self.cells]
        cells = plan((folder.run() for folder in folders if self._is_left(folder)), Path(self.grid), options)
        board = Board(cells, self.retry)
        Workers(Share(board, View(board), options), stop).run()

    def _is_left(self, folder: Folder) -> bool:
        status = folder.status
        if status["state"] in ENDED:
            return to_measure(folder, status, self.options.get("measures", ()))
        return not self._waits(folder)

    def _waits(self, folder: Folder) -> bool:
        """Whether a cell must wait, as it starts from one whose job was lost and may still finish."""
        start = folder.run().init_from
        source = Folder(Path(self.grid) / start.run) if start else folder
        if not start or not (source / "run.json").is_file() or source.weights(start.phase).is_file():
            return False
        state = source.status["state"]
        if state not in ENDED:
            print(f"{folder.path.name} starts from {start.run}, which is {state}", file=sys.stderr, flush=True)
        return state not in ENDED

    def _timed_out(self, warned: float) -> bool:
        """Whether the warning was for the time limit rather than a preemption."""
        try:
            command = ["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]]
            output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
            if "PreemptTime=" in output:
                facts = dict(word.partition("=")[::2] for word in output.split())
                if facts["PreemptTime"] not in ("None", "N/A", "Unknown"):
                    return False
        except (OSError, KeyError, subprocess.SubprocessError):
            pass  # then the clock decides
        return warned > 60 * self.minutes - self.signal_seconds - SLACK


@contextmanager
def _printing_to_log() -> Iterator[Callable[[Folder], None]]:
    """Within this context, output goes to the log of the claimed attempt."""
    kept = [os.dup(number) for number in (1, 2)]

    def to_log(mine: Folder) -> None:
        with open_log(mine) as log:
            for number in (1, 2):
                os.dup2(log.fileno(), number)

    try:
        yield to_log
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)


class Stop(Interrupts):
    """The flag that the signals set. It keeps submitit's handler of the warning for later."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()
        self.warned: float | None = None
        self._requeue = signal.getsignal(WARNING)
        signal.signal(WARNING, self._warn)
        signal.signal(signal.SIGTERM, self._end)

    def _warn(self, number: int, frame: FrameType | None) -> None:
        self.warned = time.monotonic() - self.began
        self.count = 1

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.count = 1

    def requeue(self, timed_out: bool) -> None:
        """Let submitit put the job back into the queue, and exit; a preemption costs no allowance.

        submitit takes every warning in a job of up to ten minutes for its time limit, unless it is told here.
        """
        if handler := getattr(self._requeue, "__self__", None):
            handler.has_timed_out = lambda: timed_out
        if callable(self._requeue):
            self._requeue(WARNING, None)


class Workers(Pool):
    """The local pool inside a job. Its workers block the warning, which SLURM sends to every process of a job."""

    def _start(self, slot: Slot) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {WARNING})  # processes started now inherit this
        try:
            super()._start(slot)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {WARNING})
