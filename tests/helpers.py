"""Tiny runs that many tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.config import Run
from bench.results import Folder

TINY = {"d": 8, "memory_tokens": 2, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "updater_layers": 1}


def tiny_run(method: str | dict[str, Any] = "bptt", task: str | dict[str, Any] = "retrieval", **fields: Any) -> Run:
    """A cell of a few thousand parameters and a dozen steps; `fields` replace whole sections of the run."""
    named = {"task": task, "method": method}
    data = {key: {"name": value} if isinstance(value, str) else value for key, value in named.items()}
    data["task"].setdefault("length", 12)
    data["model"] = TINY
    data["training"] = {"batch_size": 8, "budget": {"steps": 12}}
    data["evaluation"] = {"sequences": 32, "reference_sequences": 8, "every": 0.5}
    return Run.parse({**data, **fields})


def folder_of(run: Run, root: Path) -> Folder:
    """The run's folder below `root`, described and empty of results."""
    folder = Folder(root / run.id)
    folder.describe(run)
    return folder
