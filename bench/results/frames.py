"""Tidy frames over results folders, from many cells at once.

This module is not part of a cell's digest.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import BadInput
from bench.paths import as_text
from bench.results.files import Damaged, read, warn_of
from bench.results.folder import NAMED, Folder, groups
from bench.results.measured import FORMS
from bench.results.places import read_grid
from bench.results.standing import standing

if TYPE_CHECKING:
    import pandas as pd


PARTS = {"run.json", "result.json", "attempts"}
"""A folder with any of these is a cell's, so that a cell does not vanish when one of them is lost."""


def run_folders(path: Path | str) -> Iterator[Folder]:
    """All run folders at or below a path, sorted by path, also behind links; and folders that cannot be listed."""
    root = Path(path)
    if not root.is_dir():
        raise BadInput(f"no results folder {str(root)!r}")
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as listed:
                entries = list(listed)
        except OSError:
            found.append(place)
            continue
        if not PARTS.isdisjoint(entry.name for entry in entries):
            found.append(place)  # a run's folder holds no other runs
            continue
        for entry in entries:
            if entry.is_symlink():
                _follow(place / entry.name, seen, waiting, found)
            elif entry.is_dir():
                waiting.append(place / entry.name)
            elif NAMED.search(entry.name):
                found.append(place / entry.name)
    for path in sorted(found, key=lambda place: place.parts):  # (faster than by path)
        yield Folder(path)


def _follow(link: Path, seen: set[tuple[int, int]], waiting: list[Path], found: list[Path]) -> None:
    """Follow a link, once for each target, as it may lead to a folder above it."""
    try:
        place = link.stat()
    except OSError:
        if NAMED.search(link.name):
            found.append(link)
        return
    if link.is_dir() and (place.st_dev, place.st_ino) not in seen and link.resolve() not in link.absolute().parents:
        seen.add((place.st_dev, place.st_ino))
        waiting.append(link)


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain data as dotted columns; lists become text, so that every cell of the frame is a scalar."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return found


class Placed(NamedTuple):
    """A cell, with the name of its grid, its id, and the contents of run.json; None where that cannot be read.

    Cells that differ only in their seed share a `group`. `place` is the cell's entry in grid.json; None in older
    folders.
    """

    folder: Folder
    grid: str
    id: str
    record: dict[str, Any] | None
    group: str | None
    place: dict[str, Any] | None


Paths = Path | str | Sequence[Path | str] | Sequence[Placed]
"""Results folders, or cells that `placed` has found in some."""


def placed(paths: Paths) -> list[Placed]:
    """Every cell below some paths, once in each grid, which is the folder above it.

    A cell is identified by its run.json, not by its folder's name. Copies of a cell in a grid count once where their
    scores are equal, else this raises `BadInput`. Grids of the same name are told apart by their paths; one that holds
    nothing that another does not is a copy, and left out.
    """
    listed = [paths] if isinstance(paths, Path | str) else list(paths)
    if listed and all(isinstance(cell, Placed) for cell in listed):
        return listed  # type: ignore[return-value]
    real: dict[Path, Folder] = {}
    for path in listed:
        for folder in run_folders(path):  # type: ignore[arg-type]
            real.setdefault(folder.path.resolve(), folder)
    grids: dict[Path, list[Folder]] = {}
    for folder in real.values():
        grids.setdefault(folder.path.parent.resolve(), []).append(folder)
    cells = {grid: distinct(folders) for grid, folders in grids.items()}
    counts = Counter(grid.name for grid in cells)
    outcomes = {
        grid: {name: _outcome(cell[0]) if counts[grid.name] > 1 else None for name, cell in found.items()}
        for grid, found in cells.items()
    }
    names = tell_apart(outcomes)
    kept: list[Placed] = []
    for grid, found in cells.items():
        if grid in names:
            places = (read_grid(grid) or {}).get("cells", {})
            group_of = _groups({name: record for name, (_, record) in found.items()})
            kept += [
                Placed(folder, names[grid], name, record, group_of.get(name), places.get(name))
                for name, (folder, record) in found.items()
            ]
    return kept


def _groups(records: Mapping[str, dict[str, Any] | None]) -> dict[str, str]:
    """Id -> group, from run.json, or from the canonical form where an older run.json has none."""
    recorded = {name: record["group"] for name, record in records.items() if record and record.get("group")}
    if len(recorded) == len(records):
        return recorded
    described = {name: record["run"] for name, record in records.items() if record}
    return {**groups(described), **recorded}


def load_grids(paths: Paths) -> dict[str, dict[str, Any]]:
    """Name of a grid, as in frames -> its grid.json; older folders have none."""
    folders = {cell.grid: cell.folder.path.parent for cell in placed(paths)}
    return {name: record for name, folder in folders.items() if (record := read_grid(folder)) is not None}


def distinct(folders: Iterable[Folder]) -> dict[str, tuple[Folder, dict[str, Any] | None]]:
    """Id -> a folder of that cell, and its run.json; None where that is damaged or missing.

    Raises `BadInput` where copies of a cell have different scores.
    """
    found: dict[str, list[tuple[Folder, dict[str, Any] | None]]] = {}
    for folder in folders:
        record = None
        with suppress(Damaged):  # reported where the cell is read
            record = folder.record()
        found.setdefault(record["id"] if record else as_text(folder.path.name), []).append((folder, record))
    return {name: same[0] if len(same) == 1 else _choose_copy(name, same) for name, same in found.items()}


def _choose_copy(name: str, same: list[tuple[Folder, dict[str, Any] | None]]) -> tuple[Folder, dict[str, Any] | None]:
    """The copy of a cell that counts: one that has ended if there is one, and preferably one that was not renamed."""
    same = sorted(same, key=lambda copy: copy[0].path.name != name)
    ended = [(copy, outcome) for copy in same if (outcome := _outcome(copy[0])) is not None]
    for other, outcome in ended[1:]:
        if outcome != ended[0][1]:
            places = f"{ended[0][0][0].path} and {other[0].path}"
            raise BadInput(f"{places}: are the same cell with different scores; keep one of them")
    return ended[0][0] if ended else same[0]


def _outcome(folder: Folder) -> Any:
    """The outcome of a cell: its scores, or "diverged"; None before it has ended. Timings are not part of it."""
    result = folder.result
    if result is not None:
        return result["scores"]
    return "diverged" if folder.status["state"] == "diverged" else None


def tell_apart(grids: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """A name for each grid's folder, given the outcomes of its cells by id (None: none yet).

    It is the folder's own name, with as much of the path above as tells folders of the same name apart. Copies, which
    hold nothing that another of the same name does not, are left out.
    """
    names: dict[Path, str] = {}
    ended = {grid: sum(outcome is not None for outcome in held.values()) for grid, held in grids.items()}
    fullest = sorted(grids, key=lambda grid: (len(grids[grid]), ended[grid]), reverse=True)
    for name in dict.fromkeys(grid.name for grid in grids):
        kept: list[Path] = []
        for grid in (path for path in fullest if path.name == name):
            if not any(_holds(grids[other], grids[grid]) for other in kept):
                kept.append(grid)
        above = os.path.commonpath([grid.parent for grid in kept])
        names |= {grid: as_text(grid.relative_to(above).as_posix()) for grid in kept}
    return names


def _holds(whole: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    return all(name in whole and part[name] in (None, whole[name]) for name in part)


def by_code(digests: Mapping[Any, str | None]) -> str | None:
    """A line on which seeds of a setting were computed by different code, given their digests; None: by the same.

    A result without a digest (None) is not known to differ.
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
    parts = (f"{', '.join(some)} by {digest.split('-')[place][:8]}" for digest, some in seeds.items())
    return f"seeds were computed by different {what}: {'; '.join(parts)}"


def load_records(paths: Paths, name: str) -> list[tuple[dict[str, Any], Any]]:
    """For every run below `paths` with the named file of measurements: its identity columns, and the file's contents.

    The columns are those with which `load_curves` begins. The user is warned of damaged files.
    """
    found = []
    for cell in placed(paths):
        if (shared := _identity_columns(cell)) is None:
            continue
        try:
            record = read(cell.folder / name, FORMS[name], cell.folder.identity)
        except Damaged as error:
            warn_of(error, "`run` with --measure writes it again once it is deleted")
            continue
        if record is not None:
            found.append((shared, record))
    return found


def _identity_columns(cell: Placed) -> dict[str, Any] | None:
    """The columns that rows of a run share: names, then its whole config, dotted. None: run.json is damaged."""
    if cell.record is None:
        return None
    config = flat(cell.record["full"])
    task, method = config.pop("task.name"), config.pop("method.name")
    names = {"task": task, "method": method, "backbone": config.get("model.backbone")}
    place = cell.place or {}
    off = ", ".join(map(str, place["off"])) if isinstance(place.get("off"), list) else None
    where = {"group": cell.group, "rung": place.get("rung"), "off": off}
    return {"grid": cell.grid, "id": cell.id, **names, **where, **config}


UNTOLD: dict[str, dict[str, Any]] = {
    name: {"state": state, "data": data, "recurrent": state == "constant", "teacher": name.startswith("smt")}
    for name, state, data in (
        *(("smt", "constant", "sequences"), ("smt+dmt", "constant", "sequences"), ("bptt", "constant", "sequences")),
        *(("tbptt", "constant", "streams"), ("rtrl", "constant", "streams"), ("transformer", "growing", "sequences")),
    )
}
"""The traits of methods whose results may be older than the record of traits."""


def traits(method: Any, recorded: Any = None) -> dict[str, Any]:
    """The traits of a method (`Method.traits`) by its result; for an older result by `UNTOLD`, or none."""
    return recorded if isinstance(recorded, dict) else UNTOLD.get(method, {})


def load_results(paths: Paths) -> pd.DataFrame:
    """One row per run, scored predictor and test length below `paths`; a run without scores has one row.

    Columns: grid, id, task, method, backbone, seed, state, reason; group (equal for runs that differ in nothing but
    their seed), rung (the field of the ladder that the run is on), off (the fields in which it departs from its grid's
    default setting, as text; None in folders without a grid.json); predictor, reference (a reference line such as SMT's
    teacher), length, accuracy, loss (nats per scored token), unit_loss (in the task's unit), valid_accuracy,
    valid_loss; for scores on streams start_accuracy, start_loss (on sequences from their start); chance, loss_floor,
    accuracy_ceiling, shortcut (the best trivial rule's accuracy), shortcut_rule, unigram_loss, unit; steps, tokens,
    training_seconds, evaluation_seconds, compile_seconds, parameters, predictor_parameters; progress (0 to 1) of a cell
    that is not done; digest (of the code and data that computed it); uncounted (operators that the price of a budget in
    FLOPs leaves out); then the whole config, `traits` (of the method: state, data, recurrent, teacher), `inherited`
    (the cost of the phases taken over by `init_from`) and `provenance` as dotted columns. The reason of a `damaged`
    cell names the file, of which the user is also warned. Raises `BadInput` when there is no such folder, or it holds a
    cell twice with different scores.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in placed(paths):
        found, shared = standing(cell.folder), _identity_columns(cell)
        for error in found.faults:
            warn_of(error)
        state = {"state": found.state, "reason": found.reason}
        if shared is None or found.record is None:
            rows.append({"grid": cell.grid, "id": cell.id, **state})
            continue
        shared |= state
        result = found.result
        if result is None or found.state != "done":
            facts = ("steps", "tokens", "training_seconds", "progress")
            rows.append(shared | {name: found.status.get(name) for name in facts})
            continue
        shared |= {**result["costs"], "digest": result.get("digest")}
        shared["uncounted"] = ", ".join(result.get("uncounted") or [])
        nested = {"traits": traits(shared["method"], result.get("traits"))}
        shared |= flat(nested | {name: result.get(name) or {} for name in ("inherited", "provenance")})
        rows += [shared | _in_unit(score) for score in result["scores"] or [{}]]
    frame = pd.DataFrame(rows)
    first = ["grid", "id", "task", "method", "backbone", "seed", "state", "reason", "predictor", "reference", "length"]
    for column in (*first, "accuracy", "loss"):
        if column not in frame:
            frame[column] = None
    return frame[first + [column for column in frame if column not in first]]


def scale_of(unit: Any) -> float:
    """The factor from a loss in nats to one in a task's unit."""
    return 1 / math.log(2) if unit == "bits" else 1.0


def _in_unit(score: dict[str, Any]) -> dict[str, Any]:
    loss = score.get("loss")
    return {**score, "unit_loss": loss * scale_of(score.get("unit")) if isinstance(loss, float | int) else None}


def load_curves(paths: Paths) -> pd.DataFrame:
    """One row per evaluation and scored predictor during training, for every run below `paths`.

    Columns: grid, id, task, method, backbone, group, seed, then the whole config as dotted columns; phase, steps,
    tokens, training_seconds, train_loss, predictor, reference, accuracy and loss on the test split (settings are chosen
    by valid_accuracy and valid_loss of `load_results`); for methods that learn from streams online_loss (of
    predictions made before the step that learns from their labels, in nats per scored label, since the point
    before) and regret (the excess of these losses over loss_floor, summed since training began, in nats per lane).
    A run whose files are missing or damaged has no rows; the user is warned of damaged ones.
    """
    import pandas as pd

    runs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for cell in placed(paths):
        if (shared := _identity_columns(cell)) is None:
            continue
        try:
            curve = cell.folder.curve() or []
        except Damaged as error:
            warn_of(error)
            continue
        for point in curve:
            scores = point.pop("scores")
            rows += [{"run": len(runs), **point, **score} for score in scores]
        runs.append(shared)
    if not rows:
        return pd.DataFrame()
    points = pd.DataFrame(rows)
    shares = pd.DataFrame(runs).iloc[points.pop("run")].reset_index(drop=True)  # once per run, not once per row
    return pd.concat([shares, points], axis=1)
