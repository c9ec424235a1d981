"""`status`: the states of the cells of a grid."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.parts import (
    MANY,
    AsJson,
    GridName,
    Plugins,
    Results,
    Sets,
    load,
    print_table,
    results_folder,
    say,
    warn,
    warn_of_failures,
)
from bench.errors import BadInput
from bench.state import rank

if TYPE_CHECKING:
    from bench.config import Run
    from bench.launch.slurm.ledger import Sight


def status(
    grid: GridName,
    sets: Sets = None,
    results: Results = "results",
    as_json: AsJson = False,
    every: Annotated[bool, typer.Option("--all", help=f"List done cells even if there are over {MANY} cells.")] = False,
    plugin: Plugins = None,
) -> None:
    """Show the cells of a grid by state, with their last progress, also while it runs."""
    load(plugin)
    rows, mixed = [], list[str]()
    for folder, runs in _members(grid, sets, Path(results)):
        own, codes = _statuses(folder, runs)
        rows += own
        mixed += codes
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    sent = any(row["job"] for row in rows)
    columns = [
        "cell",
        "state",
        *(["job"] if sent else []),
        "phase",
        "progress",
        "loss",
        "accuracy",
        "last word",
        "reason",
    ]
    rows.sort(key=lambda row: rank(row["state"]))
    shown = []
    listed = [row for row in rows if every or len(rows) <= MANY or row["state"] != "done" or row["stale"]]
    for row in listed:
        progress = "" if row["progress"] is None else f"{row['progress']:.0%}"
        numbers = ["" if row[name] is None else f"{row[name]:.3f}" for name in ("loss", "accuracy")]
        job = [row["job"] or ""] if sent else []
        facts = [row["phase"] or "", progress, *numbers, _age(row["updated"] or row["submitted"])]
        reasons = [
            row["reason"] or "",
            *row["notes"],
            "stale: computed by other code than this" if row["stale"] else "",
        ]
        shown.append([row["id"], row["state"], *job, *facts, "; ".join(filter(None, reasons))])
    if shown:
        print_table(grid, columns, shown)
    counts = Counter(row["state"] for row in rows)
    hidden = " (list them with --all)" if len(listed) < len(rows) else ""
    say(f"{len(rows)} cells: {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}{hidden}")
    if any(row["stale"] for row in rows):
        print("`run --stale` computes stale cells again")
    for line in mixed:
        warn(line)
    warn_of_failures()


def _members(name: str, sets: Sequence[str] | None, results: Path) -> list[tuple[Path, Sequence[Run]]]:
    """The folder and the runs of each grid that this one gathers, or of this one."""
    from bench.grid import load_collection
    from bench.results import read_json

    folder = results_folder(name, results)
    sent = list(folder.glob("slurm/jobs/*.json")) + list(folder.glob("*/slurm/jobs/*.json"))
    gpu = any(isinstance(record := read_json(file), dict) and record.get("gpu") for file in sent)
    try:
        collection = load_collection(name, sets or (), (lambda section: (section, True)) if gpu else None)
    except BadInput:
        if sets or not folder.is_dir():
            raise
        return [(folder, ())]  # (a grid from Python, or whose plugin is not given: its folder can still be read)
    return [(collection.folder(results, grid), grid.runs) for grid in collection.grids]


def _statuses(grid_folder: Path, runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """A record per run of a grid and per further cell in its folder (from another --set); and the lines of `_mixed`."""
    from bench.launch.plan import computed_by, seen_state
    from bench.provenance import run_digest
    from bench.results import Folder, distinct, run_folders, standing, warn_of

    wanted = {run.id: run for run in runs}
    folders = {name: Folder(grid_folder / name) for name in wanted}
    if grid_folder.is_dir():
        others = distinct(folder for folder in run_folders(grid_folder) if folder.path.name not in wanted)
        folders |= {name: folder for name, (folder, _) in others.items() if name not in wanted}  # else a copy
    found = {identifier: standing(folder) for identifier, folder in folders.items()}
    for cell in found.values():
        for fault in cell.faults:
            warn_of(fault)
    statuses = {identifier: cell.status for identifier, cell in found.items()}
    sights: dict[str, Sight] = {}
    if (grid_folder / "slurm" / "jobs").is_dir():
        from bench.launch import slurm

        sights, silence = slurm.sights(grid_folder, statuses)
        if silence:
            warn(f"the cluster was not asked: {silence}")
    rows = []
    for identifier, folder in folders.items():
        status = statuses[identifier]
        job = sights.get(identifier)
        state, reason = seen_state(folder, status) if job is None else (job.state, job.reason)
        if found[identifier].state == "damaged":
            state, reason = "damaged", found[identifier].reason
        keys = ("phase", "progress", "steps", "tokens", "training_seconds", "loss", "accuracy", "attempt", "updated")
        facts = {key: status.get(key) for key in keys}
        placed = {key: getattr(job, key, None) for key in ("job", "job_state", "submitted")}
        digest, run = computed_by(status, found[identifier].result), wanted.get(identifier)
        code = {"digest": digest, "stale": bool(digest and run and digest != run_digest(run))}
        notes = {"notes": status.get("notes", [])}
        rows.append({"id": identifier, "state": state, "reason": reason, **notes, **facts, **code, **placed})
    return rows, _mixed(rows, {name: cell.record["run"] for name, cell in found.items() if cell.record})


def _mixed(rows: Sequence[Mapping[str, Any]], described: Mapping[str, Any]) -> list[str]:
    """Lines on configurations whose seeds were computed by different code."""
    from bench.results import by_code, groups

    known = {row["id"]: described[row["id"]] for row in rows if row["digest"] and row["id"] in described}
    digests = {row["id"]: row["digest"] for row in rows}
    if len(set(digests.values()) - {None}) < 2:
        return []
    from bench.compare.sides import dotted, label

    seeds: dict[str, dict[int, str]] = {}
    names: dict[str, str] = {}
    for name, group in groups(known).items():
        names[group] = label(dotted(known[name]))
        seeds.setdefault(group, {})[known[name]["seed"]] = digests[name]
    mixed = ((group, by_code(own)) for group, own in seeds.items())
    return [f"{names[group]}: {codes}" for group, codes in mixed if codes]


def _age(then: float | None) -> str:
    """A phrase for how long ago something was."""
    if then is None:
        return ""
    seconds = max(0.0, time.time() - then)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
