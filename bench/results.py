"""Results folders: every file written beside its name and renamed; one tidy frame over many runs.

    results/<grid>/<run id>/
        run.json          the full config, its canonical form, identity, schema version
        status.json       state, reason, progress; rewritten about once a second while the cell trains
        curve.json        one record per evaluation
        result.json       final scores, costs, facts about the task, provenance; there when the cell is done
        cost.json, dynamics.json, samples.json     what `bench.measure` found, where the grid asks for it
        weights-<phase>.pt, checkpoint.pt (while it is needed), log.txt

A reader needs these files and nothing of the code that wrote them.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import torch

from bench.config import Run
from bench.errors import BadInput

SCHEMA = 1


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: into a temporary neighbour, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")  # with the permissions of the user's umask
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
    """The folder of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def describe(self, run: Run) -> None:
        """Write run.json, unless it is there."""
        if not (self / "run.json").exists():
            record = {"schema": SCHEMA, "id": run.id, "identity": run.identity}
            write_json(self / "run.json", {**record, "run": run.describe(), "full": run.full()})

    def run(self) -> Run:
        """The run that run.json describes."""
        record = read_json(self / "run.json")
        if record is None:
            raise BadInput(f"{self.path}: is not a run's folder (no readable run.json)")
        return Run.parse(record["run"])

    @property
    def status(self) -> dict[str, Any]:
        """The last status written; `{"state": "pending"}` when there is none."""
        return read_json(self / "status.json") or {"state": "pending"}

    def set_status(self, state: str, **facts: Any) -> None:
        write_json(self / "status.json", {"state": state, **facts})

    def weights(self, phase: str) -> Path:
        return self / f"weights-{phase}.pt"

    def clear(self) -> None:
        """Forget what was computed, not what was asked for; for `--force`."""
        if self.path.is_dir():
            for file in self.path.iterdir():
                if file.name not in ("run.json", ".lock"):
                    file.unlink()


def run_folders(path: Path | str) -> Iterator[Folder]:
    """All run folders at or below a path, in order of their names."""
    root = Path(path)
    if not root.is_dir():
        raise BadInput(f"no results folder {str(root)!r}")
    for file in sorted(root.rglob("run.json")):
        yield Folder(file.parent)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain data as dotted columns; lists become text, so that every cell of the frame is a scalar."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _placed(path: Path | str) -> Iterator[tuple[Folder, dict[str, Any]]]:
    """All run folders with their grid, which is the folder above, and id; grids of one name are told by their paths."""
    root = Path(path).resolve()
    folders = [(folder, folder.path.resolve().parent) for folder in run_folders(path)]
    names = Counter(grid.name for grid in {grid for _, grid in folders})
    for folder, grid in folders:
        name = grid.name if names[grid.name] == 1 else grid.relative_to(root).as_posix()
        yield folder, {"grid": name, "id": folder.path.name}


def load_records(path: Path | str, name: str) -> list[tuple[dict[str, Any], Any]]:
    """Every run below `path` that has a readable JSON file of that name: its identity columns, and what is in the file.

    The columns are those that `load_curves` begins with.
    """
    found = []
    for folder, place in _placed(path):
        record = read_json(folder / name)
        shared = None if record is None else _identity_columns(folder, place)
        if shared is not None:
            found.append((shared, record))
    return found


def _identity_columns(folder: Folder, place: dict[str, Any]) -> dict[str, Any] | None:
    """What the rows of one run share: names, then its whole config as dotted columns. None: run.json is damaged."""
    try:
        flat = _flat(read_json(folder / "run.json")["full"])
        names = {
            "task": flat.pop("task.name"),
            "method": flat.pop("method.name"),
            "backbone": flat.get("model.backbone"),
        }
    except (KeyError, TypeError, AttributeError):
        return None
    return {**place, **names, **flat}


def _state(folder: Folder, status: Any, result: Any) -> dict[str, Any]:
    """State and reason as the report tells them: `damaged` is a cell whose files cannot be read."""
    if status is None and not (folder / "status.json").exists():
        return {"state": "pending" if result is None else "done", "reason": None}
    if not isinstance(status, dict) or not isinstance(status.get("state"), str):
        return {"state": "damaged", "reason": "status.json cannot be read"}
    if status["state"] == "done" and not _whole(result):
        return {"state": "damaged", "reason": "result.json is missing or cannot be read"}
    return {"state": status["state"], "reason": status.get("reason")}


def _whole(result: Any) -> bool:
    """Whether result.json has the form that the trainer gives it."""
    if not isinstance(result, dict) or not isinstance(result.get("costs"), dict):
        return False
    scores = result.get("scores")
    return isinstance(scores, list) and all(isinstance(one, dict) and "predictor" in one for one in scores)


def load_results(path: Path | str) -> pd.DataFrame:
    """One row per run, scored predictor and test length below `path`; a run without scores has one row.

    Columns: grid, id, task, method, backbone, seed, state, reason; predictor, reference (a reference line such as SMT's
    teacher), length, accuracy, loss (nats per scored token), valid_accuracy, valid_loss; chance, loss_floor,
    accuracy_ceiling, shortcut (the best trivial rule's accuracy), shortcut_rule, unigram_loss, unit; steps, tokens,
    training_seconds, evaluation_seconds, parameters, predictor_parameters; progress (0 to 1) of a cell that is not
    done; then the whole config, `inherited` (what the phases that `init_from` brought had cost) and `provenance` as
    dotted columns. A folder whose files cannot be read has the state `damaged` and a reason. Raises `BadInput` when
    there is no such folder.
    """
    rows: list[dict[str, Any]] = []
    for folder, place in _placed(path):
        shared = _identity_columns(folder, place)
        if shared is None:
            rows.append({**place, "state": "damaged", "reason": "run.json cannot be read"})
            continue
        status, result = read_json(folder / "status.json"), read_json(folder / "result.json")
        shared |= _state(folder, status, result)
        if shared["state"] != "done":
            told = status if isinstance(status, dict) else {}
            rows.append(shared | {name: told.get(name) for name in ("steps", "tokens", "training_seconds", "progress")})
            continue
        shared |= result["costs"]
        shared |= _flat({name: result.get(name) or {} for name in ("inherited", "provenance")})
        rows += [shared | score for score in result["scores"] or [{}]]
    frame = pd.DataFrame(rows)
    first = ["grid", "id", "task", "method", "backbone", "seed", "state", "reason", "predictor", "reference", "length"]
    for column in (*first, "accuracy", "loss"):
        if column not in frame:
            frame[column] = None
    return frame[first + [column for column in frame if column not in first]]


def load_curves(path: Path | str) -> pd.DataFrame:
    """One row per evaluation and scored predictor during training, for every run below `path`.

    Columns: grid, id, task, method, backbone, seed, then the whole config as dotted columns; phase, steps, tokens,
    training_seconds, train_loss, predictor, reference, accuracy, loss. A run whose files are missing or cannot be read
    has no rows.
    """
    runs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for folder, place in _placed(path):
        shared, curve = _identity_columns(folder, place), read_json(folder / "curve.json")
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
