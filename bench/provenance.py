"""What computed a result: the code, the packages, the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bench.config import Run


def code_digest(*roots: type | ModuleType) -> str:
    """16 hexadecimal digits over the sources that these classes and modules are made of.

    Followed are the modules that they import names from, as far as these lie in `bench` or in a root's own package, so
    that a new task or a change in the report makes no finished cell stale.
    """
    waiting = [root if isinstance(root, ModuleType) else sys.modules[root.__module__] for root in roots]
    packages = {"bench", *(module.__name__.partition(".")[0] for module in waiting)}
    found: dict[str, ModuleType] = {}
    while waiting:
        module = waiting.pop()
        if module.__name__ in found or module.__name__.partition(".")[0] not in packages:
            continue
        found[module.__name__] = module
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name in sys.modules:
                waiting.append(sys.modules[name])
    digest = hashlib.sha256()
    for _, module in sorted(found.items()):
        source = inspect.getsourcefile(module)
        if source:
            digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]


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
    """Commit, versions and hardware, for the results folder of a run."""
    # A virtual environment may lie inside the repository of something else.
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
