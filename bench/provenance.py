"""The provenance of a result: sources, commit, packages, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bench import registry, sources
from bench.build import build_task
from bench.config import WORK, Run

TRAINER = "bench.training"
"""The training loop is in the digest of every run. It imports this module, so it is imported by name here."""
TRACER = "bench.measure.cost"
"""The tracer is in the digest of a run only where its budget is in FLOPs."""


def run_digest(run: Run) -> str:
    """A digest of what computes a run: the sources of task, method, backbone and training loop, and the data."""
    task = registry.tasks.get(run.task)
    roots = (task, registry.methods.get(run.method), registry.backbones.get(run.model.backbone))
    code = _digest(*roots, *([import_module(TRACER)] if run.training.budget.currency in WORK else []))
    if isinstance(task.fingerprint, property) and not task.missing():
        return f"{code}-{build_task(run).fingerprint}"
    return code


@cache
def _digest(*roots: type | ModuleType) -> str:
    return sources.digest(*roots, import_module(TRAINER))


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe(run: Run) -> dict[str, Any]:
    """The commit, versions and hardware, for the results of a run."""
    # A virtual environment may be inside another repository.
    ours = _git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    changes = _git("status", "--porcelain", "--untracked-files=no") if ours else None
    packages = ("torch", "numpy", "pandas", "pydantic")
    return {
        "commit": _git("rev-parse", "HEAD") if ours else None,
        "dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if run.device == "cuda" else "cpu",
        "threads": run.threads,
        "seed": run.seed,
    }
