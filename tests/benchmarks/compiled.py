"""How much faster compiled steps are than eager ones, and what compiling costs: the cells of a grid on one thread.

    python -m tests.benchmarks.compiled task=retrieval 'method=[bptt,transformer]'        # as `run quick --set`
    python -m tests.benchmarks.compiled online-anbn training.batch_size=64 seed=1         # of another grid

Each line is a method's phase: processor milliseconds of an eager and of a compiled step, medians of steps taken in
turn; their ratio; the wall seconds of compiling, which nothing kept from before shortens; how many calls compiled.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time

import torch

from bench import compiling, streams
from bench.build import build_method, build_task
from bench.config import Run
from bench.engine import Engine
from bench.grid import load_grid
from bench.phases import draw

STEPS = 40
WARM = 12
"""Steps before these: by then what is compiled again for other shapes is."""


def compare(run: Run, index: int) -> str:
    """The line of a phase."""
    task, engines = build_task(run), []
    for compiled in (False, True):
        method = build_method(run, task)
        phase = method.phases(run.training)[index]
        method.train_only(phase)
        engines.append((Engine(method, phase, compiled=compiled), streams.generator(0, "data"), list[float]()))
    before = compiling.taken().wall
    for _ in range(WARM + STEPS):
        for engine, generator, seconds in engines:
            batch, _ = draw(run, task, engine.method, engine.phase, generator)
            began = time.process_time()
            for ready in engine.stretches(batch):
                if ready.scalars is not None:
                    engine.take(1e-3)
            seconds.append(time.process_time() - began)
    eager, fast = (1000 * statistics.median(seconds[WARM:]) for _, _, seconds in engines)
    last, took = engines[1][0].compiled, compiling.taken().wall - before
    assert last is not None
    name = f"{run.task}, {run.method}, {engines[0][0].phase.name}"
    return f"{name}: {eager:.1f} ms, {fast:.1f} ms, {eager / fast:.2f}; {took:.0f} s, {last.times} times"


def main() -> None:
    """Print the lines."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        names = [word for word in sys.argv[1:] if "=" not in word] or ["quick"]
        sets = [word for word in sys.argv[1:] if "=" in word]
        for run in load_grid(names[0], [*sets, "device=cpu", "precision=float32"]).runs:
            for index in range(len(build_method(run, build_task(run)).phases(run.training))):
                print(compare(run, index), flush=True)


if __name__ == "__main__":
    main()
