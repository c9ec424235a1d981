"""The ownership of a cell: attempts, their heartbeats, and observers.

    claim     an attempt begins by creating the folder attempts/<n + 1>; only one process can. It owns the cell until
              there is a higher number, for which it looks at its steps and before it publishes: then it is `Lost`.
    beat      meanwhile a thread of the owner rewrites the file `beat` with a new count every few seconds.
    expiry    an observer that has seen the same beat for the time of the lease, by its own monotonic clock, may claim
              the next attempt. No clock is compared with another and no file's time is read, so that clocks that jump
              or differ, and file systems with coarse times, do no harm.
    the end   an owner that ended says so in its status; one whose process is gone, which an observer on the same host
              can see, has ended too. Neither has to be waited for.

An owner that was cut off and comes back writes to its own folder, and a result is published by an exclusive create:
whatever it does before it looks, it cannot overwrite anything.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from bench.results import CannotWrite, Damaged, Folder, InTheWay, read_bytes
from bench.state import IDLE

LEASE_SECONDS = 60.0
"""How long an owner may be silent. On network file systems it should be longer than names are cached (60 s on NFS)."""
LONGEST = 30 * 86400
"""The longest lease, and the longest wait, in seconds, as the platform cannot wait for ever."""
LARGEST = 4096
"""The largest size of a beat in bytes."""
BEATS = 12
"""Heartbeats in the time of a lease."""
GAP_SECONDS = 5.0
"""The most that a gap between two looks counts as silence, as the observer may have been stopped itself."""
CHECK_SECONDS = 1.0
"""Seconds between an owner's checks that it still owns the cell."""


class Lost(Exception):
    """Another process owns the cell now."""


# Processes.


@cache
def _machine() -> dict[str, Any]:
    def read(file: str) -> str | None:
        try:
            return Path(file).read_text().strip()
        except OSError:
            return None

    try:
        processes = str(Path("/proc/self/ns/pid").readlink())  # containers on one host do not see each other's
    except OSError:
        processes = None
    return {"host": platform.node(), "boot": read("/proc/sys/kernel/random/boot_id"), "processes": processes}


def _birth(pid: int) -> tuple[str, str] | None:
    """The state and the start time of a process on Linux; None where they are unknown."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, IndexError):
        return None


def process() -> dict[str, Any]:
    """The facts by which others can find this process."""
    birth = _birth(os.getpid())
    return {**_machine(), "pid": os.getpid(), "born": birth and birth[1]}


def gone(owner: dict[str, Any]) -> bool:
    """Whether a process has certainly ended; False for a process of another machine."""
    machine = _machine()
    if machine["boot"] is None or any(owner.get(name) != value for name, value in machine.items()):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # another user's
    birth = _birth(owner["pid"])
    return birth is not None and (birth[0] in "ZX" or birth[1] != owner["born"])


# Observers.


class Seen(NamedTuple):
    """A cell as an observer sees it: `free` to be claimed, or `owned`, by its newest attempt and its beat."""

    state: Literal["free", "owned"]
    attempt: int = 0
    beat: str = ""

    @property
    def owner(self) -> str:
        """A phrase for the owner."""
        owner = _parsed(self.beat)
        return f"process {owner['pid']} on {owner['host']}" if owner else "another process"


def _beat(at: Folder) -> str:
    try:
        return (read_bytes(at.files / "beat", LARGEST) or b"").decode()
    except (Damaged, UnicodeDecodeError):
        return ""


class _Beat(BaseModel):
    """The contents of a beat; see `Lease`."""

    model_config = ConfigDict(extra="allow", strict=True)
    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    born: str | None = None
    boot: str | None = None
    processes: str | None = None
    lease: Annotated[float, Field(ge=0, le=LONGEST)] = 0.0


def _parsed(beat: str) -> dict[str, Any]:
    """The contents of a beat; empty where it is damaged."""
    try:
        return _Beat.model_validate_json(beat).model_dump()
    except ValueError:
        return {}


def look(folder: Folder) -> Seen:
    """Look at a cell once: it is owned unless its newest attempt has ended."""
    newest = folder.newest
    if not newest:
        return Seen("free")
    at = folder.at(newest)
    if not at.files.is_dir():  # something else is in the way, so nobody can own it
        return Seen("free", newest)
    beat = _beat(at)
    if _has_ended(at) or gone(_parsed(beat)):
        return Seen("free", newest, beat)
    return Seen("owned", newest, beat)


def _has_ended(at: Folder) -> bool:
    """Whether the status says that the attempt has ended; False where it cannot be read now."""
    try:
        status = at.read_status()
    except Damaged:
        return False
    return status is not None and status["state"] in IDLE  # (a cell that was forgotten is pending)


@dataclass
class Watch:
    """An observer of many cells: a cell whose beat does not change for the time of its lease is free."""

    lease_seconds: float = LEASE_SECONDS
    clock: Callable[[], float] = time.monotonic
    _known: dict[tuple[str, int], tuple[str, float, float]] = field(default_factory=dict)

    def look(self, folder: Folder) -> Seen:
        """Look at the cell, given what was seen of it before."""
        seen = look(folder)
        if seen.state == "owned" and self.silence(folder.at(seen.attempt), seen.beat) > self.patience(seen.beat):
            return seen._replace(state="free")
        return seen

    def patience(self, beat: str) -> float:
        """The owner's lease, or this observer's if that is longer."""
        return max(self.lease_seconds, _parsed(beat).get("lease", 0.0))

    def silence(self, at: Folder, beat: str | None = None) -> float:
        """How long this observer has seen the same beat of an attempt."""
        beat = _beat(at) if beat is None else beat
        key, now = (str(at.path), at.attempt or 0), self.clock()
        before, last, silent = self._known.get(key, (None, now, 0.0))
        silent = silent + min(now - last, GAP_SECONDS) if beat == before else 0.0
        self._known[key] = beat, now, silent
        return silent


def claim(folder: Folder, seen: Seen) -> Folder | None:
    """Begin the next attempt at a cell that was seen free; None when it is not free any more.

    Raises `CannotWrite`, and `InTheWay` where `attempts` is not a folder.
    """
    now = look(folder)
    if now.attempt != seen.attempt or (now.state == "owned" and now.beat != seen.beat):
        return None
    mine = folder.at(seen.attempt + 1)
    attempts = mine.files.parent
    try:
        attempts.mkdir(exist_ok=True)
    except FileExistsError:
        raise InTheWay(attempts) from None
    except OSError as error:
        raise CannotWrite(attempts, error) from error
    try:
        mine.files.mkdir()
    except FileExistsError:
        return None
    except OSError as error:
        raise CannotWrite(mine.files, error) from error
    return mine


# Owners.


class Lease:
    """The owner's hold on its attempt, with the heartbeat thread.

    `moved` must be called at every step. If it is not for `stuck_seconds`, the heartbeat stops and the thread calls
    `on_stuck`.
    """

    def __init__(
        self,
        mine: Folder,
        seconds: float = LEASE_SECONDS,
        stuck_seconds: float | None = None,
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        self.mine = mine
        self.seconds = seconds
        self.stuck_seconds = stuck_seconds
        self.on_stuck = on_stuck
        self._facts = {**process(), "token": secrets.token_hex(8), "lease": seconds}
        self._count = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._moved = self._checked = time.monotonic()

    def __enter__(self) -> Lease:
        try:
            self._write()
        except CannotWrite:  # nobody has to wait for an attempt that did not begin
            with suppress(OSError):
                (self.mine.files / ".beat.new").unlink(missing_ok=True)
                self.mine.files.rmdir()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def moved(self) -> None:
        """Note a step. About once a second, raises `Lost` where the cell has another owner."""
        self._moved = time.monotonic()
        if self._moved - self._checked > CHECK_SECONDS:
            self.check()

    def check(self) -> None:
        """Raise `Lost` where the cell has another owner."""
        self._checked = time.monotonic()
        if (newest := self.mine.newest) != self.mine.attempt:
            raise Lost(f"attempt {newest} has taken over" if newest else "the cell's folder is gone")

    def _run(self) -> None:
        stuck = False
        while not self._ended.wait(self.seconds / BEATS):
            before, limit = stuck, self.stuck_seconds
            stuck = limit is not None and time.monotonic() - self._moved > limit
            if stuck and not before:
                self.on_stuck()
            if not stuck:
                with suppress(OSError):  # a full disk: there may be space again before the lease runs out
                    self._write()

    def _write(self) -> None:
        """Replace the beat, without creating folders: an attempt whose folder is gone has ended."""
        self._count += 1
        new = self.mine.files / ".beat.new"
        try:
            new.write_text(json.dumps({**self._facts, "count": self._count}))
            new.replace(self.mine.files / "beat")
        except OSError as error:
            raise CannotWrite(self.mine.files / "beat", error) from error
