"""What the benchmarks time, by name: each a function without arguments, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import registry, streams
from bench.config import Run
from bench.measure.cost import step_costs
from bench.results import Folder
from bench.testing.method import streamed
from bench.training import Trainer

Workload = Callable[[], object]

SAMPLED = ("retrieval", "string-copy", "stack", "keys-values", "modular-arithmetic", "parity", "recency")
ROWS = LENGTH = 128


METHODS: dict[str, dict[str, Any]] = {
    "smt+dmt": {"lambda_dyn": 1.0, "timesteps": 2, "dmt": {"share": 0.4, "batch_size": 64, "every": 4}},
    "bptt": {},
    "transformer": {},
}


def runs() -> dict[str, Run]:
    """Retrieval of length 32, by method, at sizes that stay what they are: results/baselines has their ratios."""
    fields = {
        "task": {"name": "retrieval", "length": 32, "symbols": 8},
        "model": {
            **{"d": 32, "memory_tokens": 4, "heads": 2},
            **{"encoder_layers": 3, "decoder_layers": 2, "updater_layers": 2},
        },
        "training": {"batch_size": 64, "budget": {"tokens": 3_000_000}},
        "device": "cpu",
        "precision": "float32",
    }
    return {name: Run.parse({**fields, "method": {"name": name, **own}}) for name, own in METHODS.items()}


def steps(root: Path) -> dict[str, Workload]:
    """One training step of each method and phase, at its start."""
    found: dict[str, Workload] = {}
    for method, run in runs().items():
        for index in range(len(Trainer(run, Folder(root / method)).phases)):
            trainer = Trainer(run, Folder(root / f"{method}-{index}"))
            trainer._enter_phase(index)
            found[f"step: {method}, {trainer.phases[index].name}"] = partial(step, trainer)
    return found


ONLINE = ("rtrl", "uoro", "nobacktrack", "kf-rtrl")
UPDATES = 8


def online(root: Path) -> dict[str, Workload]:
    """Updates at every column, clipped: 32 units, 64 lanes."""
    found: dict[str, Workload] = {}
    for name in ONLINE:
        clip = {} if name == "rtrl" else {"clip": 1.0}
        model = {"backbone": "tanh", "updater_width": 32, "d": 32, "heads": 1, "memory_tokens": 1, "updater_layers": 1}
        run = Run.parse(
            {
                "task": {"name": "stack", "symbols": 3},
                "method": {"name": name, "update_every": 1, **clip},
                "model": {**model, "decoder_layers": 1, "readout": "linear", "embedding": "fixed"},
                "training": {"batch_size": 64, "columns": UPDATES, "budget": {"steps": 10**9}},
            }
        )
        trainer = Trainer(run, Folder(root / f"{name}-online"))
        trainer._enter_phase(0)
        found[f"step: {name}, {UPDATES} updates"] = partial(step, trainer)
    return found


def step(trainer: Trainer) -> None:
    """Draw a batch, find its gradients, step on them."""
    trainer.counters.tokens = 0  # the schedule stands still
    phase = trainer.phases[trainer.counters.phase]
    for ready in trainer.engine.stretches(trainer._draw(phase)):
        if ready.scalars is not None:
            trainer._step(phase, ready.scalars)


def predictions(root: Path) -> dict[str, Workload]:
    """64 sequences of length 32, as `predict` does it and one token at a time."""
    found: dict[str, Workload] = {}
    for name, run in runs().items():
        if name == "smt+dmt":  # the same RNN as bptt's
            continue
        method = Trainer(run, Folder(root / name)).method.eval()
        x = torch.randint(0, method.task.vocab_size, (64, 32), generator=streams.generator(0, "benchmark"))
        ways = {"parallel": method.predict, "streamed": partial(streamed, method)}
        for way, predict in ways.items():
            found[f"prediction: {name}, {way}"] = partial(torch.no_grad()(predict), x)
    return found


def tracing() -> dict[str, Workload]:
    """What `cost` does for a method: its step twice, the second time traced, at length 8."""
    return {f"tracing: {name}": partial(step_costs, run, 8) for name, run in runs().items() if name != "smt+dmt"}


def sampling() -> dict[str, Workload]:
    """A 128 x 128 batch of every synthetic task."""
    found: dict[str, Workload] = {}
    for name in SAMPLED:
        cls = registry.tasks.get(name)
        task, generator = cls(cls.Config(length=LENGTH)), streams.generator(0, "benchmark")
        found[f"sampling: {name}"] = partial(task.sample, "train", ROWS, LENGTH, generator)
    return found


def everything(root: Path) -> dict[str, Workload]:
    """All of the above."""
    return {**steps(root), **online(root), **predictions(root), **tracing(), **sampling()}
