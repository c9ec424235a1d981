"""Fabricated results folders, from which all tests of the report are made."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from rich.console import Console

from bench.config import Run
from bench.report import print_summary
from bench.report.data import Data, load
from bench.report.exhibit import Exhibit, Missing
from bench.report.plot import Line, Panel
from bench.report.style import RC
from bench.results import Folder, write_json
from tests.helpers import folder_of, tiny_run

FACTS = {
    **{"chance": 0.125, "shortcut": 0.2, "shortcut_rule": "the commonest label", "accuracy_ceiling": 0.8},
    **{"loss_floor": 0.1, "unigram_loss": 2.0, "unit": "nats"},
}
PROVENANCE = {"commit": "abc123", "dirty": True, "packages": {"torch": "2.9"}, "processor": "A CPU", "host": "secret"}


def score(accuracy: float, loss: float, predictor: str = "rnn", length: int = 12, **facts: Any) -> dict[str, Any]:
    named = {"length": length, "predictor": predictor, "reference": predictor != "rnn"}
    return {**named, "accuracy": accuracy, "loss": loss, **FACTS, **facts}


def fake(
    root: Path,
    run: Run,
    scores: list[dict[str, Any]],
    tokens: int = 1000,
    points: int = 3,
    parameters: int = 6543,
    **result: Any,
) -> Folder:
    """A finished cell with these scores, and a curve that rises to them; of two phases for SMT+DMT."""
    folder = folder_of(run, root)
    costs = {"steps": tokens / 10, "tokens": tokens, "training_seconds": 2.5, "predictor_parameters": parameters}
    write_json(folder / "result.json", {"scores": scores, "costs": costs, "provenance": PROVENANCE, **result})
    folder.set_status("done")
    names = ("predictor", "reference", "accuracy", "loss")
    curve = [
        {
            "phase": run.method if part < 1 else run.method.split("+")[-1],
            "steps": int(part * 100),
            "tokens": int(part * tokens),
            "scores": [{**{name: row[name] for name in names}, "accuracy": row["accuracy"] * part} for row in scores],
        }
        for part in np.linspace(0, 1, points).tolist()
    ]
    write_json(folder / "curve.json", curve)
    return folder


def seeds(root: Path, accuracies: list[float], method: Any = "bptt", **fields: Any) -> list[Folder]:
    runs = [tiny_run(method, seed=seed, **fields) for seed in range(len(accuracies))]
    return [fake(root, run, [score(accuracy, 1.1)]) for run, accuracy in zip(runs, accuracies)]


def measured(
    root: Path, file: str, record: Any, method: Any = "bptt", seed: int = 0, task: Any = "retrieval", **fields: Any
) -> None:
    """A finished cell with this record of what was measured."""
    write_json(fake(root, tiny_run(method, task, seed=seed, **fields), [score(0.5, 1.1)]) / file, record)


def undo(folder: Folder, state: str, **facts: Any) -> None:
    """Let a finished cell be one that ended otherwise, or has not."""
    (folder / "result.json").unlink()
    folder.set_status(state, **facts)


def only(frame: pd.DataFrame, **wanted: Any) -> dict[str, Any]:
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    (row,) = frame.to_dict("records")
    return row


def rename(folder: Folder, task: str, method: str) -> None:
    record = {**(folder.record() or {})}
    record["full"]["task"]["name"], record["full"]["method"]["name"] = task, method
    write_json(folder / "run.json", record)


def exhibits(at: Path | Data, name: str) -> dict[str, Exhibit | Missing]:
    """The exhibits of a section of that name, by theirs; of results folders below a path, or of data."""
    with rc_context(RC):
        data = load([at]) if isinstance(at, Path) else at
        return {exhibit.name: exhibit for exhibit in import_module(f"bench.report.sections.{name}").exhibits(data)}


def made(at: Path | Data, section: str, name: str = "") -> Any:
    """One of them, which is not missing: of that name, or that of the section."""
    found = exhibits(at, section)[name or section]
    assert isinstance(found, Exhibit), found
    return found


def table(at: Path | Data, section: str, name: str = "") -> pd.DataFrame:
    """Its table."""
    return made(at, section, name).table


def missing(at: Path | Data, section: str) -> list[str]:
    """The names of those that are missing."""
    return [name for name, found in exhibits(at, section).items() if isinstance(found, Missing)]


def expect(row: dict[str, Any], **wanted: Any) -> None:
    """The row has these values; a tuple is a mean with the ends of its interval."""
    flat: dict[str, Any] = {}
    for name, value in wanted.items():
        several = isinstance(value, tuple)
        flat |= dict(zip((name, f"{name}_low", f"{name}_high"), value)) if several else {name: value}
    found = {name: row[name] for name in flat}
    assert found == pytest.approx(flat, nan_ok=True), f"{found}, not {flat}"


def lines(panel: Panel, **wanted: Any) -> list[Line]:
    """The lines of a panel whose attributes are these."""
    return [line for line in panel.lines if all(getattr(line, name) == value for name, value in wanted.items())]


def means(panel: Panel, **wanted: Any) -> list[list[float]]:
    """What such lines are at."""
    return [line.mean.tolist() for line in lines(panel, **wanted)]


def levels(panel: Panel) -> dict[str, list[float]]:
    """Word -> what the level is at."""
    return {level.word: level.y.tolist() for level in panel.levels}


def words(panels: Any) -> list[str]:
    """What the legend of the panels says."""
    drawn = (thing for panel in panels for thing in (*panel.lines, *panel.levels, *panel.marks))
    return list(dict.fromkeys(thing.word for thing in drawn if thing.word))


def curves(root: Path) -> dict[str, Any]:
    """Task -> the panels of its learning curves."""
    return {exhibit.tasks[0]: exhibit.panels for exhibit in exhibits(root, "summary").values()}  # type: ignore[union-attr]


def printed(frame: pd.DataFrame, width: int = 110) -> str:
    console = Console(width=width, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_summary(frame, console)
    return console.export_text()
