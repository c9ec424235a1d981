"""Results folders: every file written beside its name and renamed; one tidy frame over many runs.

    results/<grid>/<run id>/
        run.json          the full config, its canonical form, identity, schema version
        result.json       final scores, costs, facts about the task, provenance, the attempt that made them
        cost.json, dynamics.json, samples.json     what `bench.measure` found, where the grid asks for it
        attempts/000001/  everything that one attempt at the run writes, and nothing that another one does
            beat              who is at it, and its heartbeat; see `bench.launch.lease`
            status.json       state, reason, progress; rewritten about once a second while the cell trains
            curve.json        one record per evaluation
            weights-<phase>.pt, checkpoint.pt (while it is needed), log.txt

`Folder.files` is where the files of the attempt that counts are: the one that the result names, or else the newest. In
folders that are older than attempts they are beside run.json. A reader needs these files and nothing of the code that
wrote them.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch

from bench.config import Run
from bench.errors import BadInput
from bench.paths import as_text

if TYPE_CHECKING:  # where a frame is made it is imported: workers make none
    import pandas as pd

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

    def describe(self, run: Run) -> None:
        """Write run.json, unless it is there."""
        if not (self / "run.json").exists():
            record = {"schema": SCHEMA, "id": run.id, "identity": run.identity}
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


def run_folders(path: Path | str) -> Iterator[Folder]:
    """All run folders at or below a path, in order of their names."""
    root = Path(path)
    if not root.is_dir():
        raise BadInput(f"no results folder {str(root)!r}")
    found = []
    for place, below, files in os.walk(root):
        if "run.json" in files:
            found.append(Path(place))
            below.clear()  # what is in a run's folder is its own
    for one in sorted(found):
        yield Folder(one)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain data as dotted columns; lists become text, so that every cell of the frame is a scalar."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat


Paths = Path | str | Sequence[Path | str]


class Placed(NamedTuple):
    """A cell, the name of its grid, its id, and what run.json says: None where that cannot be read."""

    folder: Folder
    grid: str
    id: str
    record: dict[str, Any] | None


def placed(paths: Paths) -> list[Placed]:
    """Every cell below some paths, once in each grid, which is the folder above it.

    A cell is what its run.json says, whatever its folder is called. Copies of a cell in one grid are one where their
    scores are equal, else this raises `BadInput`. Grids of one name are told by their paths; one that holds nothing
    that another does not is a copy, and left out.
    """
    real: dict[Path, Folder] = {}
    for path in [paths] if isinstance(paths, Path | str) else paths:
        for folder in run_folders(path):
            real.setdefault(folder.path.resolve(), folder)
    grids: dict[Path, list[Folder]] = {}
    for place, folder in real.items():
        grids.setdefault(place.parent, []).append(folder)
    cells = {grid: distinct(folders) for grid, folders in grids.items()}
    counts = Counter(grid.name for grid in cells)
    outcomes = {
        grid: {name: _outcome(one[0]) if counts[grid.name] > 1 else None for name, one in found.items()}
        for grid, found in cells.items()
    }
    names = tell_apart(outcomes)
    return [
        Placed(folder, names[grid], name, record)
        for grid, found in cells.items()
        if grid in names
        for name, (folder, record) in found.items()
    ]


def distinct(folders: Iterable[Folder]) -> dict[str, tuple[Folder, dict[str, Any] | None]]:
    """Id -> a folder of that cell, and its run.json. Raises `BadInput` where copies of a cell have other scores."""
    found: dict[str, list[tuple[Folder, dict[str, Any] | None]]] = {}
    for folder in folders:
        record = read_json(folder / "run.json")
        told = record if isinstance(record, dict) else None
        name = (told or {}).get("id")
        found.setdefault(name if isinstance(name, str) else as_text(folder.path.name), []).append((folder, told))
    return {name: same[0] if len(same) == 1 else _one_of(name, same) for name, same in found.items()}


def _one_of(name: str, same: list[tuple[Folder, dict[str, Any] | None]]) -> tuple[Folder, dict[str, Any] | None]:
    """The copy of a cell that counts: one that has ended, and rather the one that nobody has renamed."""
    same = sorted(same, key=lambda one: one[0].path.name != name)
    ended = [(one, outcome) for one in same if (outcome := _outcome(one[0])) is not None]
    for other, outcome in ended[1:]:
        if outcome != ended[0][1]:
            places = f"{ended[0][0][0].path} and {other[0].path}"
            raise BadInput(f"{places}: are the same cell with different scores; keep one of them")
    return ended[0][0] if ended else same[0]


def _outcome(folder: Folder) -> Any:
    """What a cell ended with: its scores, or that it diverged; None before that. Timings are not of it."""
    result = folder.result
    if result is not None and _whole(result):
        return result["scores"]
    return "diverged" if folder.status["state"] == "diverged" else None


def tell_apart(grids: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """The name of each grid's folder, from what it holds by name (None: nothing yet).

    That is the folder's own name; where several have it, with as much of the path above as tells them apart. Copies,
    which hold nothing that another of the same name does not, are left out.
    """
    names: dict[Path, str] = {}
    ended = {grid: sum(outcome is not None for outcome in held.values()) for grid, held in grids.items()}
    fullest = sorted(grids, key=lambda grid: (len(grids[grid]), ended[grid]), reverse=True)
    for name in dict.fromkeys(grid.name for grid in grids):
        kept: list[Path] = []
        for grid in (one for one in fullest if one.name == name):
            if not any(_holds(grids[other], grids[grid]) for other in kept):
                kept.append(grid)
        above = os.path.commonpath([grid.parent for grid in kept])
        names |= {grid: as_text(grid.relative_to(above).as_posix()) for grid in kept}
    return names


def _holds(whole: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    return all(name in whole and part[name] in (None, whole[name]) for name in part)


def seedless(described: Mapping[str, Any]) -> dict[str, Any]:
    """A run's canonical form less its seed: equal for cells of one configuration."""
    rest = {name: value for name, value in described.items() if name != "seed"}
    if "init_from" in rest:  # that run's id ends with its seed and a hash over it
        rest["init_from"] = {**rest["init_from"], "run": re.sub(r"-s\d+-[0-9a-f]+$", "", rest["init_from"]["run"])}
    return rest


def by_code(digests: Mapping[Any, str | None]) -> str | None:
    """Seed -> digest of what computed it, of one configuration: in words, if that was not the same for all.

    Where a result does not say it (None), nothing is known to differ.
    """
    seeds: dict[str, list[str]] = {}
    named = {str(seed): digest for seed, digest in digests.items()}
    for seed in sorted(named, key=lambda seed: (len(seed), seed)):  # 2 before 10
        if isinstance(digest := named[seed], str):
            seeds.setdefault(digest, []).append(seed)
    if len(seeds) < 2:
        return None
    codes = {digest.partition("-")[0] for digest in seeds}
    what, place = ("code", 0) if len(codes) > 1 else ("data", -1)
    told = (f"{', '.join(some)} by {digest.split('-')[place][:8]}" for digest, some in seeds.items())
    return f"seeds were computed by different {what}: {'; '.join(told)}"


def load_records(paths: Paths, name: str) -> list[tuple[dict[str, Any], Any]]:
    """Every run below `paths` that has a readable JSON file of that name: its identity columns, and what is in it.

    The columns are those that `load_curves` begins with.
    """
    found = []
    for cell in placed(paths):
        record = read_json(cell.folder / name)
        shared = None if record is None else _identity_columns(cell)
        if shared is not None:
            found.append((shared, record))
    return found


def _identity_columns(cell: Placed) -> dict[str, Any] | None:
    """What the rows of one run share: names, then its whole config as dotted columns. None: run.json is damaged."""
    try:
        flat = _flat(cell.record["full"])  # type: ignore[index]
        names = {
            "task": flat.pop("task.name"),
            "method": flat.pop("method.name"),
            "backbone": flat.get("model.backbone"),
        }
    except (KeyError, TypeError, AttributeError):
        return None
    return {"grid": cell.grid, "id": cell.id, **names, **flat}


def _state(status: Any, written: bool, result: Any) -> dict[str, Any]:
    """State and reason as the report tells them: `damaged` is a cell whose files cannot be read."""
    if status is None and not written:
        status = {"state": "pending" if result is None else "done"}
    if not isinstance(status, dict) or not isinstance(status.get("state"), str):
        return {"state": "damaged", "reason": "status.json cannot be read"}
    if _whole(result):
        return {"state": "done", "reason": None}
    if status["state"] == "done":
        return {"state": "damaged", "reason": "result.json is missing or cannot be read"}
    return {"state": status["state"], "reason": status.get("reason")}


def _whole(result: Any) -> bool:
    """Whether result.json has the form that the trainer gives it."""
    if not isinstance(result, dict) or not isinstance(result.get("costs"), dict):
        return False
    scores = result.get("scores")
    return isinstance(scores, list) and all(isinstance(one, dict) and "predictor" in one for one in scores)


UNTOLD: dict[str, dict[str, Any]] = {
    name: {"state": state, "data": data, "recurrent": state == "constant", "teacher": name.startswith("smt")}
    for name, state, data in (
        *(("smt", "constant", "sequences"), ("smt+dmt", "constant", "sequences"), ("bptt", "constant", "sequences")),
        *(("tbptt", "constant", "streams"), ("rtrl", "constant", "streams"), ("transformer", "growing", "sequences")),
    )
}
"""The traits of methods whose results may be older than their traits in results."""


def traits(method: Any, told: Any = None) -> dict[str, Any]:
    """What a result says of its method beside the name (`Method.traits`): of an older one `UNTOLD`, or nothing."""
    return told if isinstance(told, dict) else UNTOLD.get(method, {})


def load_results(paths: Paths) -> pd.DataFrame:
    """One row per run, scored predictor and test length below `paths`; a run without scores has one row.

    Columns: grid, id, task, method, backbone, seed, state, reason; predictor, reference (a reference line such as SMT's
    teacher), length, accuracy, loss (nats per scored token), valid_accuracy, valid_loss, and of what is scored on
    streams start_accuracy, start_loss (on sequences from their start); chance, loss_floor,
    accuracy_ceiling, shortcut (the best trivial rule's accuracy), shortcut_rule, unigram_loss, unit; steps, tokens,
    training_seconds, evaluation_seconds, compile_seconds, parameters, predictor_parameters; progress (0 to 1) of a cell
    that is not done; digest (of the code and data that computed it); uncounted (operators that are not in the price of
    a budget of FLOPs); then the whole config, `traits` (of the method: state, data, recurrent, teacher), `inherited`
    (what the phases that `init_from` brought had cost) and `provenance` as dotted columns. A folder whose files cannot
    be read has the state `damaged` and a reason. Raises `BadInput` when there is no such folder, or it holds a cell
    twice with different scores.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in placed(paths):
        folder, shared = cell.folder, _identity_columns(cell)
        if shared is None:
            rows.append({"grid": cell.grid, "id": cell.id, "state": "damaged", "reason": "run.json cannot be read"})
            continue
        file = folder.place(folder.newest) / "status.json"
        status, result = read_json(file), read_json(folder / "result.json")
        shared |= _state(status, file.exists(), result)
        if shared["state"] != "done":
            told = status if isinstance(status, dict) else {}
            rows.append(shared | {name: told.get(name) for name in ("steps", "tokens", "training_seconds", "progress")})
            continue
        shared |= {**result["costs"], "digest": result.get("digest")}
        shared["uncounted"] = ", ".join(result.get("uncounted") or [])
        told = {"traits": traits(shared["method"], result.get("traits"))}
        shared |= _flat(told | {name: result.get(name) or {} for name in ("inherited", "provenance")})
        rows += [shared | score for score in result["scores"] or [{}]]
    frame = pd.DataFrame(rows)
    first = ["grid", "id", "task", "method", "backbone", "seed", "state", "reason", "predictor", "reference", "length"]
    for column in (*first, "accuracy", "loss"):
        if column not in frame:
            frame[column] = None
    return frame[first + [column for column in frame if column not in first]]


def load_curves(paths: Paths) -> pd.DataFrame:
    """One row per evaluation and scored predictor during training, for every run below `paths`.

    Columns: grid, id, task, method, backbone, seed, then the whole config as dotted columns; phase, steps, tokens,
    training_seconds, train_loss, predictor, reference, accuracy, loss; of methods that learn from streams online_loss
    (of predictions made before the step that learns from their labels, nats per scored label, over all since the point
    before) and regret (what these losses were above loss_floor, summed since training began, nats per lane). A run
    whose files are missing or cannot be read has no rows.
    """
    import pandas as pd

    runs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for cell in placed(paths):
        shared, curve = _identity_columns(cell), read_json(cell.folder.files / "curve.json")
        if shared is None or not isinstance(curve, list):
            continue
        for point in curve:
            scores = point.pop("scores", None) if isinstance(point, dict) else None
            if isinstance(scores, list):
                rows += [{"run": len(runs), **point, **score} for score in scores if isinstance(score, dict)]
        runs.append(shared)
    if not rows:
        return pd.DataFrame()
    points = pd.DataFrame(rows)
    shares = pd.DataFrame(runs).iloc[points.pop("run")].reset_index(drop=True)  # once per run, not once per row
    return pd.concat([shares, points], axis=1)
