"""The folder of a cell. Every file is written under a temporary name and renamed.

    results/<grid>/<run id>/
        run.json          the full config, its canonical form, identity, group (equal but for the seed), schema
        result.json       final scores, costs, facts about the task, provenance, the attempt that made them
        cost.json, dynamics.json, samples.json     measurements by `bench.measure`, where the grid asks for them
        attempts/000001/  all files of one attempt at the run
            beat              the owner of the attempt, and its heartbeat; see `bench.launch.lease`
            status.json       state, reason, progress; rewritten about once a second while the cell trains
            curve.json        one record per evaluation
            weights-<phase>.pt, checkpoint.pt (while it is needed), log.txt

`Folder.files` is the folder of the attempt that counts: the one that the result names, or else the newest. In folders
from before attempts the files are beside run.json. A reader needs only these files, not the code that wrote them. Every
file but the log and the beat has a checksum and names its cell, by the identity with which the folder's name ends; in
older folders (schema 1) only run.json does. `bench.results.frames` reads many cells at a time, and is not part of a
cell's digest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.config import Run
from bench.errors import BadInput
from bench.results import forms
from bench.results.files import (
    CannotWrite,
    Damaged,
    create_once,
    put_aside,
    read,
    write_record,
)

SCHEMA = 2
"""The schema of run.json. Since 2 the files of a cell have checksums, and the list in curve.json is in a record."""
NAMED = re.compile(r"-([0-9a-f]{16})$")
"""The end of the name of a cell's folder: its identity."""
OURS = re.compile(
    r"(status|curve|result|cost|dynamics|samples|diagnosis|calibration)\.json|(weights-.*|checkpoint)\.pt|beat|log\.txt"
    r"|events\.out\.tfevents\..*|damaged-.*|\.(forgotten-|beat\.|result$|[^.]+\.(json|pt)\.).*"
)
"""The files that bench writes into the folder of a cell or an attempt, except run.json; it deletes no others."""


class Folder:
    """The folder of one run; with `attempt`, from the view of the owner of that attempt."""

    def __init__(self, path: Path | str, attempt: int | None = None) -> None:
        self.path = Path(path)
        self.attempt = attempt

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def identity(self) -> str | None:
        """The identity of the cell, by the folder's name, or by run.json where the folder was renamed."""
        if named := NAMED.search(self.path.name):
            return named[1]
        with suppress(Damaged):
            return (self.record() or {}).get("identity")
        return None

    # The description of the run.

    def describe(self, run: Run, group: str | None = None, anew: bool = False) -> None:
        """Write run.json unless it exists; `anew` replaces it. A damaged one is put aside.

        `group` comes from `groups`, where the run starts from another.
        """
        path = self / "run.json"
        if path.is_dir():
            put_aside(path, self.path)
        if anew or not os.path.lexists(path):
            group = group or groups({run.id: run.describe()})[run.id]
            record = {"schema": SCHEMA, "id": run.id, "identity": run.identity, "group": group}
            try:
                write_record(path, {**record, "run": run.describe(), "full": run.full()}, run.identity)
            except CannotWrite:
                if not path.exists():  # (another process was faster, and has removed it since)
                    raise

    def record(self) -> dict[str, Any] | None:
        """The contents of run.json; None where there is none. Raises `Damaged`, also where it is another cell's."""
        path = self / "run.json"
        record: dict[str, Any] | None = read(path, forms.RECORD)
        if record is None:
            return None
        if (named := NAMED.search(self.path.name)) and record["identity"] != named[1]:
            raise Damaged(path, f"belongs to another cell, {record['id']!r:.100}")
        if identity_of(record["run"]) != record["identity"]:
            raise Damaged(path, "describes a run with another identity")
        return record

    def run(self) -> Run:
        """The run that run.json describes. Raises `BadInput`."""
        record = self.record()
        if record is None:
            raise BadInput(f"{self.path}: is not a run's folder (no run.json)")
        return Run.parse(record["run"])

    # Attempts.

    def attempts(self) -> list[int]:
        """The numbers of all attempts, in order."""
        try:
            names = os.listdir(self / "attempts")  # noqa: PTH208 (the names are all that is wanted)
        except OSError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def newest(self) -> int:
        """The number of the last attempt; 0 before the first."""
        return max(self.attempts(), default=0)

    def at(self, attempt: int) -> Folder:
        """The same folder, from the view of the owner of an attempt."""
        return Folder(self.path, attempt)

    def attempt_path(self, attempt: int) -> Path:
        """The folder of an attempt; for 0 the run's own, as in folders from before attempts."""
        return self / f"attempts/{attempt:06}" if attempt else self.path

    @property
    def files(self) -> Path:
        """The folder of curve, weights, checkpoint and log: of this attempt, else the published, else the newest."""
        if self.attempt is not None:
            return self.attempt_path(self.attempt)
        result = self.result
        return self.attempt_path(self.newest if result is None else result.get("attempt") or 0)

    # Reading.

    def read_result(self, path: Path | None = None) -> dict[str, Any] | None:
        """The contents of result.json, or of the file at `path`; None where there is none. Raises `Damaged`."""
        result: dict[str, Any] | None = read(path or self / "result.json", forms.RESULT, self.identity)
        return result

    @property
    def result(self) -> dict[str, Any] | None:
        """The contents of result.json; None when it is missing or damaged."""
        with suppress(Damaged):
            return self.read_result()
        return None

    def read_status(self) -> dict[str, Any] | None:
        """The last status of this attempt, or else of the newest; None where there is none. Raises `Damaged`."""
        at = self.attempt_path(self.newest if self.attempt is None else self.attempt)
        status: dict[str, Any] | None = read(at / "status.json", forms.STATUS, self.identity)
        return status

    @property
    def status(self) -> dict[str, Any]:
        """The last status of this attempt, or else of the newest; `{"state": "pending"}` when there is none.

        A run that has a result is done, whatever its attempts say.
        """
        try:
            status = self.read_status() or {"state": "pending"}
        except Damaged as error:
            status = {"state": "damaged", "reason": str(error)}
        if self.attempt is None and status["state"] != "done" and self.result is not None:
            return {**status, "state": "done", "reason": None}
        return status

    def curve(self) -> list[dict[str, Any]] | None:
        """The points of curve.json, one per evaluation; None where there is none. Raises `Damaged`."""
        points: list[dict[str, Any]] | None = read(self.files / "curve.json", forms.CURVE, self.identity)
        return points

    def write(self, path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
        """Write a record of this cell, or a list of records. Raises `CannotWrite`."""
        write_record(path, value, self.identity)

    def set_status(self, state: str, **facts: Any) -> None:
        """Write the status of this attempt, or else of the newest."""
        at = self.attempt_path(self.newest if self.attempt is None else self.attempt)
        self.write(at / "status.json", {"state": state, **facts})

    def weights(self, phase: str) -> Path:
        return self.files / f"weights-{phase}.pt"

    def checkpoints(self) -> list[Path]:
        """The folders with a checkpoint, of this attempt and those before it, newest first."""
        until = self.newest if self.attempt is None else self.attempt
        places = [self.attempt_path(attempt) for attempt in reversed(self.attempts()) if attempt <= until]
        return [place for place in (*places, self.path) if os.path.lexists(place / "checkpoint.pt")]

    # Changing.

    def publish(self, result: dict[str, Any]) -> bool:
        """Make this the run's result.json, unless there is one. Returns whether result.json is this attempt's."""
        record, own = {**result, "attempt": self.attempt}, self.files / ("result.json" if self.attempt else ".result")
        self.write(own, record)
        made = create_once(self / "result.json", own)
        if not made and self.result is None:  # result.json is not a result
            self.withdraw(self.files)
            made = create_once(self / "result.json", own)
        if made:
            with suppress(OSError):
                _flush(self.path)
        elif not self.attempt or (self.result or {}).get("attempt") != self.attempt:
            return False  # (a network file system may report a failure after it created the name)
        if not self.attempt:
            own.unlink()
        return True

    def drop(self, pattern: str) -> None:
        """Delete the files of earlier attempts that match a pattern."""
        earlier = [self.attempt_path(attempt) for attempt in self.attempts() if attempt < (self.attempt or 0)]
        for place in (*earlier, *([self.path] if self.attempt else [])):
            for file in place.glob(pattern):
                with suppress(OSError):
                    file.unlink()

    def withdraw(self, to: Path, stays: Callable[[dict[str, Any]], bool] = lambda result: True) -> Path | None:
        """Move result.json aside into a folder, and return its new path. A good one that `stays` is put back.

        Another attempt may have published it since the caller looked.
        """
        if not os.path.lexists(self / "result.json"):
            return None
        try:
            aside = put_aside(self / "result.json", to)
        except CannotWrite as error:
            if error.errno == errno.ENOENT:  # another process was faster
                return None
            raise
        with suppress(Damaged):
            result = self.read_result(aside)
            if result is not None and stays(result):
                create_once(self / "result.json", aside)
                aside.unlink()
                return None
        return aside

    def restore(self) -> Path | None:
        """Publish the result that an earlier attempt has kept again, where result.json was damaged.

        Returns the attempt's own file, or None when none is intact.
        """
        for attempt in reversed(self.attempts()):
            own = self.attempt_path(attempt) / "result.json"
            with suppress(Damaged):
                result = self.read_result(own)
                if result is not None and result.get("attempt") == attempt and create_once(self / "result.json", own):
                    return own
        return None

    def forget(self) -> None:
        """Delete what was computed before this attempt, but neither run.json nor files that bench did not write.

        Only the owner of the attempt may do so.
        """
        own = self.attempt or 0
        aside = self.attempt_path(own) / f".forgotten-{secrets.token_hex(6)}"
        aside.mkdir()
        # The result comes first: from here on nothing is done. (One by a later attempt stays: this owner was stopped.)
        self.withdraw(aside, lambda made: (made.get("attempt") or 0) > own)
        for place in [*(self.attempt_path(attempt) for attempt in self.attempts() if attempt < own), self.path]:
            to = aside / place.name
            to.mkdir()
            for file in place.iterdir() if place.is_dir() else ():
                if OURS.fullmatch(file.name) and file not in (aside, self / "result.json"):
                    with suppress(FileNotFoundError):
                        file.rename(to / file.name)
            with suppress(OSError):  # other files stay
                place.rmdir()
        shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# Which cells belong together.


def identity_of(described: Mapping[str, Any]) -> str:
    """16 hexadecimal digits: a hash over a run's canonical form."""
    canonical = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def seedless(described: Mapping[str, Any]) -> dict[str, Any]:
    """A run's canonical form without its seed, which is also part of the id of a run that it starts from."""
    rest = {name: value for name, value in described.items() if name != "seed"}
    if "init_from" in rest:
        rest["init_from"] = {**rest["init_from"], "run": re.sub(r"-s\d+-[0-9a-f]+$", "", rest["init_from"]["run"])}
    return rest


def groups(described: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Id -> group, for runs given by their canonical forms; runs that differ only in their seed share a group.

    A group is 16 hexadecimal digits. For a run that starts from another of these, it depends on that one's group.
    """
    found: dict[str, str] = {}

    def group(name: str) -> str:
        if name not in found:
            rest = seedless(described[name])
            source = described[name].get("init_from", {}).get("run")
            if source in described:
                rest["init_from"]["run"] = group(source)
            found[name] = identity_of(rest)
        return found[name]

    return {name: group(name) for name in described}
