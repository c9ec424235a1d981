"""Golden losses: the first training losses of every built-in method and backbone, in float64, to the last digit.

    python -m tests.compare.golden results/baselines/golden.json      # write them again

Whatever changes a number (a sign, an alignment, a gradient, a learning rate, a random stream) changes these within 20
steps, where rounding has not grown yet. They go through the trainer itself; both phases of a method with two are there.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench import registry
from bench.config import Run
from bench.feasibility import impossible
from bench.methods.base import Phase
from bench.results import Folder, write_json
from bench.training import Trainer

SCHEMA = 1
STEPS = 20
RTOL = 1e-7
"""How far a loss may be off, relative to itself; results/baselines/README.md says how this was found."""
TASKS: tuple[dict[str, Any], ...] = (
    {"name": "retrieval", "length": 8, "symbols": 4},
    {"name": "stack", "length": 8, "symbols": 2, "depth": 2},
)
METHODS = (
    *("bptt", "smt", "smt+dmt", "smt+dmt+bptt", "smt-dense", "smt-dense+dmt", "transformer", "tbptt", "rtrl"),
    *("uoro", "nobacktrack", "kf-rtrl", "artbp"),
)
BACKBONES = ("transformer", "mlp", "gru", "tanh", "lstm", "rhn", "gru-cell", "elstm", "lru")
FEWER = {
    **dict.fromkeys(("rtrl", "uoro", "nobacktrack", "kf-rtrl", "artbp"), ("tanh",)),
    "smt+dmt+bptt": ("transformer",),
    "smt-dense": ("transformer",),
    "smt-dense+dmt": ("gru",),
}
"""Their losses are those of methods that have every backbone: to rounding bptt's, ten times as long; one phase after
the other; or their noise is tested elsewhere.
"""
FIELDS: dict[str, Any] = {
    "model": {"d": 8, "memory_tokens": 2, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "updater_layers": 1},
    "training": {"batch_size": 8, "budget": {"steps": STEPS}, "optimiser": {"lr": 3e-3, "schedule": "cosine"}},
    "evaluation": {
        **{"sequences": 2, "reference_sequences": 2, "every": 1.0},
        "stream": {"lanes": 2, "burn_in": 8, "columns": 8},
    },
    "precision": "float64",
}
OWN: dict[str, dict[str, Any]] = {
    "smt+dmt": {"dmt": {"share": 0.5, "every": 2, "batch_size": 8}},
    "smt+dmt+bptt": {"dmt": {"share": 0.3, "every": 2, "batch_size": 8}, "bptt": {"share": 0.4, "batch_size": 8}},
    "smt-dense": {"teacher": {"share": 0.5}},
    "smt-dense+dmt": {"teacher": {"share": 0.3}, "dmt": {"share": 0.5, "pieces": [2, 4, 8]}},
    "tbptt": {"k1": 4, "k2": 6},
}


class _Recorder(Trainer):
    """The trainer, with every loss kept."""

    losses: list[float]

    def _step(self, phase: Phase, scalars: dict[str, torch.Tensor]) -> None:
        self.losses.append(scalars["loss"].item())
        super()._step(phase, scalars)


def runs(threads: int = 1) -> dict[str, Run]:
    """What is recorded, by name: every method on every task, the recurrent ones with every backbone they can train."""
    found = {}
    for task in TASKS:
        for method in METHODS:
            backbones = FEWER.get(method, BACKBONES)
            for backbone in backbones if registry.methods.get(method).recurrences else backbones[:1]:
                fields = {**FIELDS, "model": {**FIELDS["model"], "backbone": backbone}, "threads": threads}
                run = Run.parse({**fields, "task": task, "method": {"name": method, **OWN.get(method, {})}})
                if impossible(run) is None:
                    found[f"{task['name']} {method} {backbone}"] = run
    return found


@contextmanager
def _double() -> Iterator[None]:
    """Initial weights are drawn in float64: in float32 their last digits depend on the processor's instructions."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def losses(run: Run) -> list[float]:
    """The loss of every training step, in float64."""
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place) / run.id)
        folder.describe(run)
        with _double():
            trainer = _Recorder(run, folder)
        trainer.losses = []
        trainer.train()
    return trainer.losses


def differences(golden: Mapping[str, Any], found: Mapping[str, list[float]], rtol: float = RTOL) -> dict[str, str]:
    """By the run's name, where its losses first leave the golden ones; nothing for those that stay."""
    findings = {}
    for name, curve in found.items():
        kept = golden["losses"].get(name)
        if kept is None or len(kept) != len(curve):
            findings[name] = "has no golden losses" if kept is None else f"took {len(curve)} steps, not {len(kept)}"
            continue
        for step, (here, there) in enumerate(zip(curve, kept, strict=True)):
            if not math.isclose(here, there, rel_tol=rtol, abs_tol=0.0):
                findings[name] = f"step {step}: loss {here!r}, golden {there!r}"
                break
    return findings


def make(tell: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """The record of golden.json; `tell` hears the name of each run that is made."""
    curves = {}
    for name, run in runs().items():
        tell(name)
        curves[name] = losses(run)
    return {"schema": SCHEMA, "torch": torch.__version__, "steps": STEPS, "losses": curves}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.compare.golden FILE")
    write_json(Path(sys.argv[1]), make(print))
