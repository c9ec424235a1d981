"""Decides before a launch what to do with each cell of a grid, and during the launch which cell is next.

All launchers share this. `decide` is a pure function of the folder's contents, the current code and the user's options;
`Board` tracks the cells of a launch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.config import Run
from bench.engine import uncompilable
from bench.errors import BadInput
from bench.feasibility import impossible
from bench.launch.cell import LOOK_SECONDS, STUCK_SECONDS, End
from bench.launch.lease import LEASE_SECONDS, LONGEST, Lease, Lost, Seen, Watch, claim, look
from bench.measure import lacking
from bench.phases import idle_phase
from bench.provenance import run_digest
from bench.results import Damaged, Folder, InTheWay, Unreached, groups, put_aside, standing, warn_of
from bench.state import RESUMED

Action = Literal["run", "keep", "skip"]


@dataclass(frozen=True)
class LaunchOptions:
    """How to run the cells of a grid, as far as it does not change their outcome."""

    launcher: Literal["local", "inline", "slurm"] = "local"
    workers: int | None = None  # None: one per core or GPU
    retry: int = 1  # how often a cell whose worker died is resumed
    force: bool = False
    stale: bool = False
    tensorboard: bool = False
    measures: tuple[str, ...] = ()  # of `bench.measure.NAMES`, taken of finished cells
    checkpoint_seconds: float = 20.0
    lease_seconds: float = LEASE_SECONDS  # how long a worker may be silent before others take its cell over
    stuck_seconds: float | None = STUCK_SECONDS  # how long a worker may make no step before it is killed
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, seconds in (("lease", self.lease_seconds), ("stuck", self.stuck_seconds)):
            if seconds is not None and not 0 < seconds <= LONGEST:  # (NaN is neither)
                raise BadInput(f"{name}: {seconds} given; should be above 0 and at most {LONGEST:,} seconds")

    def cell(self) -> dict[str, Any]:
        """The options of `run_cell`."""
        return {
            "checkpoint_seconds": self.checkpoint_seconds,
            "tensorboard": self.tensorboard,
            "measures": self.measures,
            "lease_seconds": self.lease_seconds,
            "stuck_seconds": self.stuck_seconds,
        }


class Decision(NamedTuple):
    """The decision on a cell: `fresh` discards what was computed; `stale` means that other code computed it."""

    action: Action
    state: str
    reason: str | None = None
    fresh: bool = False
    stale: bool = False


@dataclass(frozen=True)
class Cell:
    """A run, its folder, and the decision on it."""

    run: Run
    folder: Folder
    decision: Decision
    attempts: int = 0  # at the time of the decision
    faults: tuple[Damaged, ...] = ()  # damaged files at that time

    @property
    def id(self) -> str:
        """The run's id, which names its folder."""
        return self.run.id

    @property
    def label(self) -> str:
        """The id with the beginning of its hash only."""
        return self.run.id[:-10]


def decide(
    status: Mapping[str, Any],
    made_by: str | None,
    digest: str,
    refusal: str | None,
    options: LaunchOptions,
    unmeasured: bool = False,
) -> Decision:
    """The decision on a cell with this status.

    `made_by` is the digest of the code that computed what there is, `digest` that of the current code; `refusal` is the
    reason why the cell cannot run at all; `unmeasured`: it lacks a requested measure.
    """
    state, reason = status["state"], status.get("reason")
    ended = made_by is not None and state in ("done", "diverged")
    stale = ended and made_by != digest
    rerun = options.force or (stale and options.stale)
    if ended and unmeasured and state == "done" and not (refusal or rerun or stale):
        return Decision("run", state)
    if ended and (refusal or not rerun):
        return Decision("keep", state, reason, stale=stale)
    if refusal:
        return Decision("skip", "skipped", refusal)
    if ended or options.force:
        return Decision("run", "pending", fresh=True)
    return Decision("run", state if state in RESUMED else "pending")


def computed_by(status: Mapping[str, Any], result: Mapping[str, Any] | None) -> str | None:
    """The digest of the code that computed this cell; None when it has not ended, or its result is missing."""
    if status["state"] == "diverged":
        return status.get("digest") or "unknown"
    return (result or {}).get("digest") if status["state"] == "done" else None


def refused(run: Run) -> str | None:
    """Why this run cannot be trained, from what its parts declare and its budget pays for; None when it can."""
    try:
        return impossible(run) or uncompilable(run) or idle_phase(run)
    except (Exception, SystemExit):  # (a plugin that raises here raises again when its cell runs, and is reported then)
        return None


def to_measure(folder: Folder, status: Mapping[str, Any], measures: Iterable[str]) -> bool:
    """Whether a cell with this status is done, and lacks measures that have not failed before."""
    return status["state"] == "done" and not status.get("unmeasured") and bool(lacking(folder, measures))


def plan(runs: Iterable[Run], folder: Path, options: LaunchOptions) -> list[Cell]:
    """A decision for each run, from the contents of the grid's folder. Writes nothing."""
    cells = []
    for run in runs:
        at = Folder(folder / run.id)
        found = standing(at)
        whole = found.result is not None  # then damage to other files does not undo the cell
        status = found.status if whole else {**found.status, "state": found.state, "reason": found.reason}
        made_by = computed_by(status, found.result)
        kept = made_by is not None and not options.force and not options.stale
        reason = None if kept else refused(run)
        unmeasured = bool(lacking(at, options.measures))
        decision = decide(status, made_by, run_digest(run), reason, options, unmeasured)
        cells.append(Cell(run, at, decision, at.newest, found.faults))
    return cells


def prepare(cells: Sequence[Cell], lease_seconds: float = LEASE_SECONDS) -> None:
    """Create the folders, delete what is to be computed again, and record which cells are skipped and why.

    Damage is repaired where possible, with a warning. Raises `BadInput`, before anything is deleted, when another
    process runs a cell whose files would be deleted.
    """
    group_of = groups({cell.id: cell.run.describe() for cell in cells})
    for cell in cells:
        for fault in cell.faults:
            _repair(cell, fault, group_of[cell.id])
    fresh = [cell for cell in cells if cell.decision.fresh]
    free = _await(fresh, Watch(lease_seconds))
    for cell in cells:
        cell.folder.describe(cell.run, group_of[cell.id])
        skipped: dict[str, Any] = {"state": "skipped", "reason": cell.decision.reason}
        if cell.decision.action == "skip" and not cell.folder.newest and cell.folder.status != skipped:
            cell.folder.set_status(**skipped)
    for cell in fresh:
        mine = claim(cell.folder, free[cell.id])
        try:
            if mine is None:
                raise Lost
            with Lease(mine, lease_seconds) as lease:
                try:
                    mine.forget()
                finally:
                    lease.check()
        except Lost:
            raise BadInput(f"{cell.folder.path}: another process has begun to run it") from None
        mine.set_status("pending")


def _repair(cell: Cell, fault: Damaged, group: str) -> None:
    """Repair what a launcher can: run.json, the status of a finished cell, a file in the place of a folder."""
    name = fault.path.name
    if isinstance(fault, Unreached):
        warn_of(fault)
    elif name == "run.json":
        cell.folder.describe(cell.run, group, anew=True)
        warn_of(fault, "written again")
    elif isinstance(fault, InTheWay):
        warn_of(fault, f"put aside as {put_aside(fault.path, fault.path.parent)}")
    elif name == "status.json" and cell.decision.state == "done":
        if fault.path.is_dir():
            put_aside(fault.path, fault.path.parent)
        cell.folder.set_status("done", reason=None)
        warn_of(fault, "written again, as there is a result")
    else:
        warn_of(fault, "the cell is not done" if name == "result.json" else "")


def _await(cells: Sequence[Cell], watch: Watch) -> dict[str, Seen]:
    """Make sure that these cells are free; wait for a silent owner until its lease has expired."""
    seen = {cell.id: watch.look(cell.folder) for cell in cells}
    first = dict(seen)
    while owned := [cell for cell in cells if seen[cell.id].state == "owned"]:
        for cell in owned:
            if seen[cell.id] != first[cell.id]:
                raise BadInput(f"{cell.folder.path}: {seen[cell.id].owner} is running it, so it cannot be forgotten")
        time.sleep(LOOK_SECONDS)
        seen |= {cell.id: watch.look(cell.folder) for cell in owned}
    return seen


def seen_state(folder: Folder, status: Mapping[str, Any]) -> tuple[str, str | None]:
    """The state and reason of a cell for an observer: one whose process on this host is gone is not running."""
    if status["state"] == "running" and look(folder).state == "free":
        status = folder.status  # it may have ended since it was read
        if status["state"] == "running":
            return "stopped", "its process is gone"
    return status["state"], status.get("reason")


@dataclass
class Board:
    """The cells of a launch that wait, run, run elsewhere and have ended, in the order of the grid."""

    cells: Sequence[Cell]
    retry: int = 1
    waiting: list[Cell] = field(default_factory=list)
    running: dict[str, Cell] = field(default_factory=dict)
    elsewhere: dict[str, Cell] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cell in self.cells:
            if cell.decision.action == "run":
                self.waiting.append(cell)
            else:
                self.ends[cell.id] = End(cell.decision.state, cell.decision.reason)
        self.before = {cell.id: progress_of(cell.folder.status) for cell in self.waiting}
        self._members = {cell.id for cell in self.cells}

    def take(self, devices: Iterable[str] = ("cpu", "cuda")) -> Cell | None:
        """Mark the next cell for one of these devices as running, and return it; None when none can start now."""
        for cell in self.waiting:
            if cell.run.device in devices and self._source_ended(cell):
                self.waiting.remove(cell)
                self.running[cell.id] = cell
                self.attempts[cell.id] = self.attempts.get(cell.id, 0) + 1
                return cell
        return None

    def mark_elsewhere(self, cell: Cell) -> None:
        """Mark a cell that was taken as run by another launcher, which costs it no attempt."""
        self.elsewhere[cell.id] = self.running.pop(cell.id)
        self.attempts[cell.id] -= 1

    def return_to_queue(self, cell: Cell) -> None:
        """Put a cell that ran elsewhere back at the front of the queue."""
        self.waiting.insert(0, self.elsewhere.pop(cell.id))

    def _source_ended(self, cell: Cell) -> bool:
        source = cell.run.init_from.run if cell.run.init_from else None
        return source is None or source not in self._members or source in self.ends

    def end(self, cell: Cell, end: End) -> list[Cell]:
        """Record the end of a cell. Returns all cells that end with it: itself, and those that would start from it."""
        self.running.pop(cell.id, None)
        self.elsewhere.pop(cell.id, None)
        self.ends[cell.id] = end
        return [cell, *self.skip_dependents()]

    def skip_dependents(self) -> list[Cell]:
        """End the waiting cells whose source has ended without being done."""
        fallen: list[Cell] = []
        while orphan := next((cell for cell in self.waiting if self._without_source(cell)), None):
            source = orphan.run.init_from.run  # type: ignore[union-attr]
            skipped = self.ends[source].state == "skipped"
            end = End("skipped" if skipped else "failed", f"starts from {source}, which is {self.ends[source].state}")
            with suppress(OSError):
                if look(orphan.folder).state == "free":  # (else a launcher for which the source is done runs it)
                    orphan.folder.set_status(end.state, reason=end.reason, updated=time.time())
            self.waiting.remove(orphan)
            self.ends[orphan.id] = end
            fallen.append(orphan)
        return fallen

    def _without_source(self, cell: Cell) -> bool:
        end = self.ends.get(cell.run.init_from.run) if cell.run.init_from else None
        return end is not None and end.state != "done"

    def lost(self, cell: Cell, end: End, mine: Folder | None = None) -> list[Cell]:
        """Handle an attempt that was lost: the cell goes back to the front of the queue if it has attempts left.

        `mine` is the folder of the attempt, if it had begun and could not record its own end. A cell that has a result
        is done, and only lacks measures.
        """
        attempt, allowed = self.attempts[cell.id], self.retry + 1
        end = end._replace(reason=f"{end.reason} (attempt {attempt} of {allowed})")
        again, facts = attempt < allowed, {}
        if not again and cell.folder.result is not None:
            end, facts = End("done"), {"unmeasured": {"all": end.reason}}
        if mine is not None:
            state = "stopped" if again else end.state
            with suppress(OSError):
                mine.set_status(**{**mine.status, "state": state, "reason": end.reason, **facts})
        if not again:
            return self.end(cell, end)
        del self.running[cell.id]
        self.waiting.insert(0, cell)
        return []

    def states(self) -> dict[str, str]:
        """The current state of every cell, by id."""
        waiting = {cell.id: cell.decision.state for cell in self.waiting}
        running = dict.fromkeys((*self.running, *self.elsewhere), "running")
        known = {**waiting, **running, **{name: end.state for name, end in self.ends.items()}}
        return {cell.id: known[cell.id] for cell in self.cells}


def progress_of(status: Mapping[str, Any], otherwise: float = 0.0) -> float:
    """The share of its budget that a cell has used."""
    progress = status.get("progress")
    return float(progress) if progress is not None else otherwise
