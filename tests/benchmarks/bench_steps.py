"""Time of one training step of each method and phase, and of a rollout. Compare rows of one run with one another.

python -m pytest tests/benchmarks/bench_steps.py
"""

from __future__ import annotations

import pytest
import torch

from bench.grid import load_grid
from bench.results import Folder
from bench.training import Trainer


@pytest.fixture(scope="module")
def trainers(tmp_path_factory) -> dict[str, Trainer]:
    """The retrieval cells of the `quick` grid, at their start."""
    root = tmp_path_factory.mktemp("steps")
    found = {}
    for run in load_grid("quick", ["task=retrieval", "device=cpu"]).runs:
        found[run.method] = Trainer(run, Folder(root / run.id))
        found[run.method]._enter_phase(0)
    return found


@pytest.mark.parametrize(("method", "phase"), [("bptt", 0), ("smt+dmt", 0), ("smt+dmt", 1), ("transformer", 0)])
def test_step(benchmark, trainers, method, phase):
    trainer = trainers[method]
    trainer._enter_phase(phase)
    trainer.counters.tokens = 0
    benchmark.group = "one training step, retrieval"
    benchmark.name = f"{method}, {trainer.phases[phase].name}"
    one = trainer.phases[phase]

    def step() -> None:
        batch = trainer._draw(one)
        for scalars in trainer.method.gradients(batch, one.name):
            trainer._step(one, scalars)

    benchmark.pedantic(step, rounds=20, warmup_rounds=3)


@pytest.mark.parametrize("way", ["parallel", "streamed"])
@pytest.mark.parametrize("method", ["bptt", "transformer"])
def test_prediction(benchmark, trainers, method, way):
    predictor = trainers[method].method
    x = torch.randint(0, predictor.task.vocab_size, (64, 32))
    benchmark.group = "prediction of 64 sequences of length 32"
    benchmark.name = f"{method}, {way}"
    predict = predictor.predict if way == "parallel" else super(type(predictor), predictor).predict

    def run() -> None:
        with torch.no_grad():
            predict(x)

    benchmark.pedantic(run, rounds=10, warmup_rounds=2)
