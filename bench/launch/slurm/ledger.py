"""Records which job has which cells, and determines the state of a cell from its files and the queue.

    results/<grid>/slurm/
        jobs/<number>.json     one per job or array: its cells, when it was submitted and to which cluster
        logs/                  submitit's: the submitted files, and the output of jobs

The end of a cell is in its folder. The queue only says whether a job still runs it: a cell that has not ended and whose
job is gone is lost.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter

from bench.launch.slurm import queue
from bench.results import Damaged, read_bytes, read_json, write_record
from bench.results.forms import Form
from bench.state import ENDED, State

FRESH = 60.0
"""Seconds since its last status during which a cell counts as running, whatever the queue says."""


@dataclasses.dataclass
class Submission:
    """A job or an array of jobs, as described by its file."""

    number: str
    array: bool
    submitted: float
    cluster: str
    cells: list[list[str]]  # the ids of the cells of each job
    cancelled: bool = False  # by `cancel`
    gpu: bool = False  # whether `auto` means a GPU for its cells

    def jobs(self) -> Iterator[tuple[str, list[str]]]:
        """The number and the cells of each job."""
        for i, cells in enumerate(self.cells):
            yield (f"{self.number}_{i}" if self.array else self.number), cells


class _Kept(Form):
    """The form of a submission's file."""

    model_config = ConfigDict(extra="forbid")
    number: str
    array: bool
    submitted: float
    cluster: str
    cells: list[list[str]]
    cancelled: bool = False
    gpu: bool = False


FORM: TypeAdapter[Any] = TypeAdapter(_Kept)


class Place(NamedTuple):
    """The job to which a cell was sent."""

    number: str
    submission: Submission


class Sight(NamedTuple):
    """The state of a cell for an observer."""

    state: str
    reason: str | None = None
    job: str | None = None
    job_state: str | None = None
    submitted: float | None = None


class Ledger:
    """The jobs of one grid's folder."""

    def __init__(self, grid: Path) -> None:
        self.folder = grid / "slurm"
        self.places: dict[str, list[Place]] = {}
        self.queue: dict[str, queue.Job] = {}
        self.cluster: str | None = None  # the cluster that was asked
        self.read()

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def read(self) -> list[Submission]:
        """Read the files again; the submissions, oldest first. Damaged ones are left out, with a warning."""
        found = []
        for file in (self.folder / "jobs").glob("*.json"):
            if record := read_json(file, FORM):
                found.append(Submission(**record))
        found.sort(key=lambda submission: submission.submitted)
        self.places = {}
        for submission in found:
            for number, cells in submission.jobs():
                for cell in cells:
                    self.places.setdefault(cell, []).append(Place(number, submission))
        return found

    def write(self, submission: Submission) -> None:
        """Write a submission's file."""
        write_record(self.folder / "jobs" / f"{submission.number}.json", dataclasses.asdict(submission))

    def forget(self, submission: Submission) -> None:
        """Remove a submission's file."""
        (self.folder / "jobs" / f"{submission.number}.json").unlink(missing_ok=True)

    def look(self, cells: Iterable[str]) -> None:
        """Ask the queue for the jobs of these cells. Raises `Silent` when there is no answer."""
        submissions = {
            place.submission.number: place.submission for cell in cells for place in self.places.get(cell, [])
        }
        self.cluster = queue.cluster() if submissions else None
        self.queue = queue.jobs(sent.number for sent in submissions.values() if sent.cluster == self.cluster)

    def job(self, cell: str) -> tuple[Place, queue.Job | None] | None:
        """The job of a cell: one that waits or runs, else the last; None when it was never submitted."""
        places = self.places.get(cell)
        if not places:
            return None
        for place in reversed(places):
            job = self.queue.get(place.number)
            if job is not None and not job.over:
                return place, job
        return places[-1], self.queue.get(places[-1].number)

    def active(self, cell: str) -> bool:
        """Whether a job of this cell waits or runs."""
        found = self.job(cell)
        return found is not None and found[1] is not None and not found[1].over

    def sight(self, cell: str, status: Mapping[str, Any]) -> Sight:
        """The state of a cell with this status, by the last look at the queue."""
        state, reason = status["state"], status.get("reason")
        found = self.job(cell)
        if found is None:
            return Sight(state, reason)
        (number, submission), job = found
        if state not in ENDED and self.cluster not in (None, submission.cluster):
            return Sight(state, f"its job is on cluster {submission.cluster}", number, None, submission.submitted)
        if state not in (*ENDED, State.LOST) and (job is None or job.over):
            cancelled = ("stopped", f"job {number} was cancelled")
            state, reason = cancelled if submission.cancelled else ("lost", self.last_words(number, job))
        elif state not in ENDED and job is not None and not job.over:
            if job.state == "PENDING":
                state, reason = "pending", job.reason or None
            elif state != "running":
                state, reason = "pending", f"its job is {job.state.lower()}"
        return Sight(state, reason, number, job.state if job else None, submission.submitted)

    def last_words(self, number: str, job: queue.Job | None) -> str:
        """What is known about a job that is gone."""
        if job is None:
            known = f"job {number} is gone from the queue"
        else:
            why = f" ({job.reason})" if job.reason else ""
            where = f" on {job.node}" if job.node else ""
            known = f"job {number} is {job.state}{why}{where}"
        try:
            written = read_bytes(self.logs / f"{number}_0_log.err") or b""
        except Damaged:
            return known
        lines = written.decode(errors="replace").splitlines()[-50:]
        noise = ("submitit ", "+", "srun: Force Terminated")
        lines = [line.strip() for line in lines if line.strip() and not line.startswith(noise)]
        words = [line for line in lines if not line.startswith("srun:")] or lines
        return f"{known}; it said: {words[-1][:300]}" if words else known


def fresh(status: Mapping[str, Any]) -> bool:
    """Whether a cell has written its status recently, by this machine's clock."""
    return status["state"] == "running" and abs(time.time() - (status.get("updated") or 0)) < FRESH
