"""The state of a cell by the files in its folder, as `status`, `run`, `report` and `compare` all see it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from bench.results.files import Damaged, InTheWay
from bench.results.folder import Folder
from bench.state import State


class Standing(NamedTuple):
    """State and reason of a cell, the contents of its files, and the faults of damaged ones.

    `record` is that of run.json, None where it is damaged or missing; `status` is the last; `result` is None where
    none is intact.
    """

    state: str
    reason: str | None
    record: dict[str, Any] | None
    status: dict[str, Any]
    result: dict[str, Any] | None
    faults: tuple[Damaged, ...]


def standing(folder: Folder) -> Standing:
    """Read a cell's folder. A damaged run.json makes the cell `damaged`.

    So does other damage where there is no result: an intact one makes the cell `done`, whatever its status says. A cell
    whose status is done without a result has lost it.
    """
    faults: list[Damaged] = []

    def checked(reader: Any) -> Any:
        try:
            return reader()
        except Damaged as error:
            faults.append(error)
            return None

    newest = folder.newest
    record, result, status = checked(folder.record), checked(folder.read_result), checked(folder.read_status)
    if status is not None and status["state"] not in set(State):
        file = folder.attempt_path(folder.newest) / "status.json"
        faults.append(Damaged(file, f"has an unknown state, {status['state']!r:.40}"))
        status = None
    damaged = {error.path.name for error in faults}
    if status is None and "status.json" not in damaged:
        places = [folder.attempt_path(newest)] if newest else [folder.path, folder / "attempts"]
        faults += filter(None, map(_no_folder, places))
    begun = result is not None or status is not None or "status.json" in damaged or "result.json" in damaged
    if record is None and begun and "run.json" not in damaged:
        faults.append(Damaged(folder / "run.json", "is missing"))
    status = status or {"state": State.PENDING.value}
    state, reason = status["state"], status.get("reason")
    if result is not None:
        state, reason, status = "done", None, {**status, "state": "done", "reason": None}
    elif state == "done" and "result.json" not in damaged:
        faults.append(Damaged(folder / "result.json", "is missing"))
    decisive = [error for error in faults if result is None or error.path.name == "run.json"]
    if decisive:
        path, root = decisive[0].path, folder.path
        name = path.relative_to(root).as_posix() if path != root else "the folder"
        state, reason = State.DAMAGED.value, f"{name} {decisive[0].reason}"
    return Standing(state, reason, record, status, result, tuple(faults))


def _no_folder(path: Path) -> Damaged | None:
    """The fault where something other than a folder is at a path; None where nothing is."""
    wrong = os.path.lexists(path) and not path.is_dir()  # in this order, as the folder may be created in between
    return InTheWay(path) if wrong else None
