"""Two checkouts of the package, step by step in turn: CPU milliseconds of a training step or a scoring, one thread.

    git worktree add ../before COMMIT
    python tests/benchmarks/trees.py ../before . [part of a step's name]...

Each checkout trains in a process of its own. This file runs in both, so it uses only what both have.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS = 10
SHORTEST = 100
"""Milliseconds that one reading takes at least."""
QUICK = {"d": 32, "memory_tokens": 4, "heads": 2, "encoder_layers": 3, "decoder_layers": 2, "updater_layers": 2}
DENSE = {**QUICK, "head_width": 16, "encoder_layers": 2, "updater_layers": 1, "initialisation": "pytorch"}
RETRIEVAL, LONGER = ({"name": "retrieval", "length": length, "symbols": 8} for length in (32, 64))
STACK, DIGITS = {"name": "stack", "length": 24, "symbols": 4, "depth": 8}, {"name": "digits", "length": 64}
DMT = {"name": "smt+dmt", "timesteps": 2, "dmt": {"share": 0.4, "batch_size": 64, "every": 4}}
STEPS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], int, int]] = {
    "bptt": ("bptt", RETRIEVAL, QUICK, 64, 0),
    "bptt, gru": ("bptt", RETRIEVAL, {**QUICK, "backbone": "gru"}, 64, 0),
    "bptt, mlp": ("bptt", RETRIEVAL, {**QUICK, "backbone": "mlp"}, 64, 0),
    "transformer": ("transformer", RETRIEVAL, QUICK, 64, 0),
    "smt+dmt, smt": (DMT, RETRIEVAL, QUICK, 64, 0),
    "smt+dmt, dmt": (DMT, RETRIEVAL, QUICK, 64, 1),
    "stack: bptt": ("bptt", STACK, QUICK, 64, 0),
    "stack: smt+dmt, smt": (DMT, STACK, QUICK, 64, 0),
    "stack: smt+dmt, dmt": (DMT, STACK, QUICK, 64, 1),
    "digits: bptt": ("bptt", DIGITS, QUICK, 32, 0),
    "smt-dense+dmt, teacher": ("smt-dense+dmt", LONGER, DENSE, 4, 0),
    "smt-dense+dmt, smt": ("smt-dense+dmt", LONGER, DENSE, 4, 1),
    "smt-dense+dmt, dmt": ("smt-dense+dmt", LONGER, DENSE, 4, 2),
    "scoring: bptt": ("bptt", RETRIEVAL, QUICK, 64, 0),
    "scoring: smt+dmt": (DMT, RETRIEVAL, QUICK, 64, 0),
    "scoring: transformer": ("transformer", RETRIEVAL, QUICK, 64, 0),
}
"""By name: method, task, model, batch size and phase; of the grids `quick` and `dense`. Scored is the valid set."""


def serve() -> None:
    """Lines `name<tab>steps` in, milliseconds a step out; 0 steps: one, after two that set things up."""
    import torch

    from bench.config import Run
    from bench.results import Folder
    from bench.training import Trainer

    torch.set_num_threads(1)
    trainers: dict[str, Trainer] = {}
    for line in sys.stdin:
        name, count = line.rstrip("\n").split("\t")
        method, task, model, batch_size, phase = STEPS[name]
        if name not in trainers:
            training = {"batch_size": batch_size, "budget": {"steps": 100_000}}
            sizes = {"model": model, "training": training, "device": "cpu", "precision": "float32"}
            named = {"name": method} if isinstance(method, str) else method
            trainers[name] = Trainer(Run.parse({"task": task, "method": named, **sizes}), Folder(tempfile.mkdtemp()))
            trainers[name]._enter_phase(phase)
        trainer = trainers[name]
        for warm in (True, True, False) if count == "0" else (False,):
            steps, began = 1 if warm else max(1, int(count)), time.process_time()
            for _ in range(steps):
                trainer.counters.tokens = 0  # the schedule stands still
                if name.startswith("scoring"):
                    trainer._scores("valid", task["length"])
                    continue
                for ready in trainer.engine.stretches(trainer._draw(trainer.phases[phase])):
                    if ready.scalars is not None:
                        trainer._step(trainer.phases[phase], ready.scalars)
        print(1000 * (time.process_time() - began) / steps, flush=True)


def start(tree: str) -> subprocess.Popen[str]:
    """A process that serves the steps of a checkout."""
    place = str(Path(tree).resolve())
    environment = {**os.environ, "PYTHONPATH": place, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve())]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, env=environment, stdin=pipe, stdout=pipe, text=True)


def ask(process: subprocess.Popen[str], name: str, steps: int) -> float:
    assert process.stdin and process.stdout
    process.stdin.write(f"{name}\t{steps}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main(before: str, after: str, parts: list[str]) -> None:
    sides = start(before), start(after)
    print(f"{'':24}{'median before':>15}{'after':>8}{'ratio':>7}{'min before':>13}{'after':>8}{'ratio':>7}")
    for name in STEPS:
        if parts and not any(part in name for part in parts):
            continue
        steps = math.ceil(SHORTEST / max(ask(side, name, 0) for side in sides))
        found: tuple[list[float], list[float]] = ([], [])
        for i in range(ROUNDS):
            for which in (i % 2, 1 - i % 2):
                found[which].append(ask(sides[which], name, steps))
        (old, new), (least, now) = map(statistics.median, found), map(min, found)
        print(f"{name:24}{old:15.1f}{new:8.1f}{old / new:7.2f}{least:13.1f}{now:8.1f}{least / now:7.2f}", flush=True)
    for side in sides:
        assert side.stdin
        side.stdin.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:]) if len(sys.argv) > 2 else serve()
