"""What is to be done with each cell of a grid, decided before anything runs; and, while it runs, which cell is next.

All launchers share this. `decide` is a pure function of what lies in the folder, what the code is now and what the user
asked for; `Board` keeps the account of the cells of one launch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.config import Run
from bench.launch.cell import End
from bench.measure import lacking
from bench.methods.base import impossible
from bench.results import Folder, read_json
from bench.training import run_digest

Action = Literal["run", "keep", "skip"]
ENDED_WELL = ("done", "skipped")


@dataclass(frozen=True)
class LaunchOptions:
    """How to run the cells of a grid, as far as it does not change their outcome."""

    launcher: Literal["local", "inline", "slurm"] = "local"
    workers: int | None = None  # None: one per core or GPU
    retry: int = 1  # how often a cell whose worker died is taken up again
    force: bool = False
    stale: bool = False
    tensorboard: bool = False
    measures: tuple[str, ...] = ()  # of `bench.measure.NAMES`, made of the cells that are done
    checkpoint_seconds: float = 20.0
    quiet: bool = False

    def cell(self) -> dict[str, Any]:
        """The options of `run_cell`."""
        return {
            "checkpoint_seconds": self.checkpoint_seconds,
            "tensorboard": self.tensorboard,
            "measures": self.measures,
        }


class Decision(NamedTuple):
    """What happens to a cell: `fresh` forgets what was computed; `stale` says that other code computed it."""

    action: Action
    state: str
    reason: str | None = None
    fresh: bool = False
    stale: bool = False


@dataclass(frozen=True)
class Cell:
    """A run, its folder, and what is to be done with it."""

    run: Run
    folder: Folder
    decision: Decision

    @property
    def id(self) -> str:
        """The run's id, which names its folder."""
        return self.run.id

    @property
    def label(self) -> str:
        """The id with only as much of its hash as the eye wants."""
        return self.run.id[:-10]


def decide(
    status: Mapping[str, Any],
    made_by: str | None,
    digest: str,
    refusal: str | None,
    options: LaunchOptions,
    unmeasured: bool = False,
) -> Decision:
    """What happens to a cell with this status.

    `made_by` is the digest of the code that computed what is there, `digest` that of the code now; `refusal` says why
    the cell cannot run at all; `unmeasured` that it lacks a measure that is asked for.
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
    return Decision("run", state if state in ("failed", "oom", "stopped", "lost") else "pending")


def _made_by(folder: Folder, status: Mapping[str, Any]) -> str | None:
    """The digest of the code that computed this cell; None when it did not end, or its result is not there."""
    if status["state"] == "diverged":
        return status.get("digest", "unknown")
    return (read_json(folder / "result.json") or {}).get("digest")


def refused(run: Run) -> str | None:
    """Why this run cannot be trained, from what its parts declare; None when it can."""
    try:
        return impossible(run)
    except Exception:  # (a plugin that raises here raises again when its cell runs, and is heard there)
        return None


def plan(runs: Iterable[Run], folder: Path, options: LaunchOptions) -> list[Cell]:
    """A decision for each run, from what is in the grid's folder. Writes nothing."""
    cells = []
    for run in runs:
        at = Folder(folder / run.id)
        status = at.status
        made_by = _made_by(at, status) if status["state"] in ("done", "diverged") else None
        kept = made_by is not None and not options.force and not options.stale
        reason = None if kept else refused(run)
        unmeasured = bool(lacking(at, options.measures))
        cells.append(Cell(run, at, decide(status, made_by, run_digest(run), reason, options, unmeasured)))
    return cells


def prepare(cells: Iterable[Cell]) -> None:
    """Make the folders, forget what is to be computed afresh, and note what is skipped and why."""
    for cell in cells:
        cell.folder.describe(cell.run)
        skipped: dict[str, Any] = {"state": "skipped", "reason": cell.decision.reason}
        if cell.decision.action == "skip" and cell.folder.status != skipped:
            cell.folder.set_status(**skipped)
        elif cell.decision.fresh:
            cell.folder.clear()


def seen_state(status: Mapping[str, Any], here: str, alive: Callable[[int], bool]) -> tuple[str, str | None]:
    """State and reason of a cell as an observer sees it: one whose process is gone from this host is not running."""
    state, reason = status["state"], status.get("reason")
    if state == "running" and status.get("host") == here and not alive(status["pid"]):
        return "stopped", "its process is gone"
    return state, reason


@dataclass
class Board:
    """The account of one launch: what waits, runs and has ended, in the order of the grid."""

    cells: Sequence[Cell]
    retry: int = 1
    waiting: list[Cell] = field(default_factory=list)
    running: dict[str, Cell] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for cell in self.cells:
            if cell.decision.action == "run":
                self.waiting.append(cell)
            else:
                self.ends[cell.id] = End(cell.decision.state, cell.decision.reason)
        self.before = {cell.id: progress_of(cell.folder.status) for cell in self.waiting}
        self._members = {cell.id for cell in self.cells}

    def take(self, devices: Iterable[str] = ("cpu", "cuda")) -> Cell | None:
        """The next cell for one of these devices, now running; None when none can start now."""
        for cell in self.waiting:
            if cell.run.device in devices and self._source_ended(cell):
                self.waiting.remove(cell)
                self.running[cell.id] = cell
                self.attempts[cell.id] = self.attempts.get(cell.id, 0) + 1
                return cell
        return None

    def _source_ended(self, cell: Cell) -> bool:
        source = cell.run.init_from.run if cell.run.init_from else None
        return source is None or source not in self._members or source in self.ends

    def end(self, cell: Cell, end: End) -> list[Cell]:
        """Note how a cell ended. Returns all that have ended by it: the cell, and those that were to start from it."""
        self.running.pop(cell.id, None)
        self.ends[cell.id] = end
        return [cell, *self.fall()]

    def fall(self) -> list[Cell]:
        """End the waiting cells whose source has ended without being done."""
        fallen: list[Cell] = []
        while orphan := next((cell for cell in self.waiting if self._without_source(cell)), None):
            source = orphan.run.init_from.run  # type: ignore[union-attr]
            skipped = self.ends[source].state == "skipped"
            end = End("skipped" if skipped else "failed", f"starts from {source}, which is {self.ends[source].state}")
            with suppress(OSError):
                orphan.folder.set_status(end.state, reason=end.reason, updated=time.time())
            self.waiting.remove(orphan)
            self.ends[orphan.id] = end
            fallen.append(orphan)
        return fallen

    def _without_source(self, cell: Cell) -> bool:
        end = self.ends.get(cell.run.init_from.run) if cell.run.init_from else None
        return end is not None and end.state != "done"

    def lost(self, cell: Cell, how: str) -> list[Cell]:
        """A cell's worker died: the cell waits again, first in line, or has failed when its attempts are spent."""
        attempt, allowed = self.attempts[cell.id], self.retry + 1
        if attempt < allowed:
            del self.running[cell.id]
            self.waiting.insert(0, cell)
            return []
        end = End("failed", f"{how} (attempt {attempt} of {allowed})")
        with suppress(OSError):
            cell.folder.set_status(**{**cell.folder.status, "state": "failed", "reason": end.reason})
        return self.end(cell, end)

    def states(self) -> dict[str, str]:
        """Every cell's state now, by id."""
        waiting = {cell.id: cell.decision.state for cell in self.waiting}
        running = dict.fromkeys(self.running, "running")
        known = {**waiting, **running, **{name: end.state for name, end in self.ends.items()}}
        return {cell.id: known[cell.id] for cell in self.cells}

    def seconds_left(self, live: Mapping[str, Mapping[str, Any]]) -> float | None:
        """Estimated from how much of their budgets the cells have used since the launch; None before that is known."""
        if not self.before:
            return 0.0
        now = {
            name: 1.0 if name in self.ends else progress_of(live.get(name, {}), before)
            for name, before in self.before.items()
        }
        done = sum(now[name] - before for name, before in self.before.items())
        elapsed = time.monotonic() - self.started
        if done < 0.02 or elapsed < 2:
            return None
        return elapsed / done * sum(1 - progress for progress in now.values())


def progress_of(status: Mapping[str, Any], otherwise: float = 0.0) -> float:
    """The share of its budget that a cell has used."""
    progress = status.get("progress")
    return float(progress) if progress is not None else otherwise
