"""A cell's folder: every file is written beside its name and renamed.

    results/<grid>/<run id>/
        run.json          the full config, its canonical form, identity, group (the same but for the seed), schema
        result.json       final scores, costs, facts about the task, provenance, the attempt that made them
        cost.json, dynamics.json, samples.json     what `bench.measure` found, where the grid asks for it
        attempts/000001/  everything that one attempt at the run writes, and nothing that another one does
            beat              who is at it, and its heartbeat; see `bench.launch.lease`
            status.json       state, reason, progress; rewritten about once a second while the cell trains
            curve.json        one record per evaluation
            weights-<phase>.pt, checkpoint.pt (while it is needed), log.txt

`Folder.files` is where the files of the attempt that counts are: the one that the result names, or else the newest. In
folders that are older than attempts they are beside run.json. Whoever reads needs these files and nothing of the code
that wrote them. Cells are read, many at a time, by `bench.results.frames`, which is no part of what computes a cell.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from bench.config import Run
from bench.errors import BadInput

SCHEMA = 1

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class CannotWrite(OSError):
    """A file of the results cannot be written: the disk is full, or the folder is read-only or gone."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))
        self.path = path

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"


class _Noting(io.FileIO):
    """A file that keeps the error of a write: what writes through it may hide that behind one of its own."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        view, written = memoryview(data).cast("B"), 0
        try:
            while written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.failure = error
            raise
        return written


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: into a temporary neighbour, flushed to disk, then renamed.

    Raises `CannotWrite`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")  # with the permissions of the user's umask
    file: _Noting | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _Noting(temporary, "xb") as file:
            write(file)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if failure := file.failure if file and file.failure else error if isinstance(error, OSError) else None:
            raise CannotWrite(path, failure) from error
        raise


def create_once(path: Path, source: Path) -> bool:
    """Give a whole file its final name, unless that name is taken: then nothing happens. Returns whether it did.

    A hard link is one step that either makes the name or fails, on network file systems too. Where there are no hard
    links the name is created exclusively and then written: a reader may for a moment see less than the whole.
    """
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in NO_SPACE:
            raise CannotWrite(path, error) from error
        return _create_by_copy(path, source)
    return True


def _create_by_copy(path: Path, source: Path) -> bool:
    data = source.read_bytes()
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    except OSError as error:
        raise CannotWrite(path, error) from error
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise CannotWrite(path, error) from error
    return True


def share(source: Path, path: Path) -> None:
    """The same content under a second name. Files are only ever replaced by renaming, so a link stays what it is."""
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:  # not on every file system
        with source.open("rb") as whole:
            write_atomically(path, lambda file: shutil.copyfileobj(whole, file))


def write_json(path: Path, value: Any) -> None:
    """JSON, atomically. Floats keep every digit; NaN and infinities are written as null."""
    text = json.dumps(_finite(value), indent=1, allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode()))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def read_json(path: Path) -> Any:
    """The parsed file, or None when it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def save_tensors(path: Path, tree: Any) -> None:
    """A tree of tensors and plain values, atomically."""
    write_atomically(path, lambda file: torch.save(tree, file))


def load_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read what `save_tensors` wrote; nothing in the file is executed."""
    return torch.load(path, map_location=device, weights_only=True)


class Folder:
    """The folder of one run; with `attempt`, as the owner of that attempt sees it."""

    def __init__(self, path: Path | str, attempt: int | None = None) -> None:
        self.path = Path(path)
        self.attempt = attempt

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    # What was asked for.

    def describe(self, run: Run, group: str | None = None) -> None:
        """Write run.json, unless it is there. `group` as `groups` gives it, where the run starts from another."""
        if not (self / "run.json").exists():
            group = group or groups({run.id: run.describe()})[run.id]
            record = {"schema": SCHEMA, "id": run.id, "identity": run.identity, "group": group}
            try:
                write_json(self / "run.json", {**record, "run": run.describe(), "full": run.full()})
            except CannotWrite:
                if not (self / "run.json").exists():  # (another's, who was faster, and has tidied up since)
                    raise

    def run(self) -> Run:
        """The run that run.json describes."""
        record = read_json(self / "run.json")
        if record is None:
            raise BadInput(f"{self.path}: is not a run's folder (no readable run.json)")
        return Run.parse(record["run"])

    # Attempts.

    def attempts(self) -> list[int]:
        """The numbers of all attempts, in the order in which they began."""
        try:
            names = os.listdir(self / "attempts")  # noqa: PTH208 (the names are all that is wanted)
        except OSError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def newest(self) -> int:
        """The number of the attempt that began last; 0 before the first."""
        return max(self.attempts(), default=0)

    def at(self, attempt: int) -> Folder:
        """The same folder as the owner of an attempt sees it."""
        return Folder(self.path, attempt)

    def place(self, attempt: int) -> Path:
        """The folder of an attempt; the run's own for 0, which is what there was before attempts had folders."""
        return self / f"attempts/{attempt:06}" if attempt else self.path

    @property
    def files(self) -> Path:
        """Where curve, weights, checkpoint and log are: this attempt's; else the published one's; else the newest's."""
        if self.attempt is not None:
            return self.place(self.attempt)
        result = self.result
        return self.place(self.newest if result is None else result.get("attempt") or 0)

    # What is there.

    @property
    def result(self) -> dict[str, Any] | None:
        """What result.json says; None when it is missing or damaged."""
        result = read_json(self / "result.json")
        return result if isinstance(result, dict) else None

    @property
    def status(self) -> dict[str, Any]:
        """The last status of this attempt, or else of the newest: `{"state": "pending"}` when there is none.

        A run that has a result is done, whatever became of those who were at it.
        """
        at = self.place(self.newest if self.attempt is None else self.attempt)
        status = read_json(at / "status.json")
        if not isinstance(status, dict) or "state" not in status:
            status = {"state": "pending"}
        if self.attempt is None and status["state"] != "done" and self.result is not None:
            return {**status, "state": "done", "reason": None}
        return status

    def set_status(self, state: str, **facts: Any) -> None:
        """Write the status of this attempt, or else of the newest."""
        at = self.place(self.newest if self.attempt is None else self.attempt)
        write_json(at / "status.json", {"state": state, **facts})

    def weights(self, phase: str) -> Path:
        return self.files / f"weights-{phase}.pt"

    def checkpoints(self) -> list[Path]:
        """The folders that have a checkpoint: of this attempt and those before it, the newest first."""
        until = self.newest if self.attempt is None else self.attempt
        places = [self.place(one) for one in reversed(self.attempts()) if one <= until]
        return [place for place in (*places, self.path) if (place / "checkpoint.pt").is_file()]

    # What changes it.

    def publish(self, result: dict[str, Any]) -> bool:
        """Make this the run's result.json, unless there is one: that stands. Returns whether it is this attempt's."""
        record, own = {**result, "attempt": self.attempt}, self.files / ("result.json" if self.attempt else ".result")
        write_json(own, record)
        if create_once(self / "result.json", own):
            with suppress(OSError):
                _flush(self.path)
        elif not self.attempt or (self.result or {}).get("attempt") != self.attempt:
            return False  # (a network file system may tell of a failure after it made the name)
        if not self.attempt:
            own.unlink()
        return True

    def drop(self, pattern: str) -> None:
        """Delete such files of the attempts before this one."""
        earlier = [self.place(one) for one in self.attempts() if one < (self.attempt or 0)]
        for place in (*earlier, *([self.path] if self.attempt else [])):
            for file in place.glob(pattern):
                with suppress(OSError):
                    file.unlink()

    def withdraw(self, aside: Path, stays: Callable[[Any], bool]) -> None:
        """Move result.json aside. One that `stays`, published since the caller looked, is put back."""
        try:
            (self / "result.json").rename(aside)
        except FileNotFoundError:
            return
        if stays(read_json(aside)):
            create_once(self / "result.json", aside)
            aside.unlink()

    def forget(self) -> None:
        """Forget what was computed before this attempt, not what was asked for. Only its owner may."""
        own = self.attempt or 0
        aside = self.place(own) / f".forgotten-{secrets.token_hex(6)}"
        aside.mkdir()
        # The result first: from here on nothing is done. (One of a later attempt: this one's owner was stopped.)
        self.withdraw(aside / "result.json", lambda made: isinstance(made, dict) and (made.get("attempt") or 0) > own)
        for one in [one for one in self.attempts() if one < own]:
            with suppress(FileNotFoundError):
                self.place(one).rename(aside / str(one))
        for file in self.path.iterdir():
            if file.name not in ("run.json", "result.json", "attempts"):
                with suppress(FileNotFoundError):
                    file.rename(aside / file.name)
        shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """The names in a folder to disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# Which cells belong together.


def seedless(described: Mapping[str, Any]) -> dict[str, Any]:
    """A run's canonical form less its seed, which is also in the id of a run that it starts from."""
    rest = {name: value for name, value in described.items() if name != "seed"}
    if "init_from" in rest:
        rest["init_from"] = {**rest["init_from"], "run": re.sub(r"-s\d+-[0-9a-f]+$", "", rest["init_from"]["run"])}
    return rest


def groups(described: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Id -> group, of runs given by their canonical forms: equal for those that differ in nothing but their seed.

    A group is 16 hexadecimal digits. Where a run starts from another of these, it is told by that one's group.
    """
    found: dict[str, str] = {}

    def group(name: str) -> str:
        if name not in found:
            rest = seedless(described[name])
            source = described[name].get("init_from", {}).get("run")
            if source in described:
                rest["init_from"]["run"] = group(source)
            canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
            found[name] = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        return found[name]

    return {name: group(name) for name in described}
