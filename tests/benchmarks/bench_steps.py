"""Time of one training step of each method and phase, of predictions, and of tracing a step.

python -m pytest tests/benchmarks/bench_steps.py
"""

from __future__ import annotations

import pytest

from tests.benchmarks import workloads

STEPS = ("smt+dmt, smt", "smt+dmt, dmt", "bptt, train", "transformer, train")
PREDICTIONS = [f"{method}, {way}" for method in ("bptt", "transformer") for way in ("parallel", "streamed")]


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    root = tmp_path_factory.mktemp("steps")
    return {**workloads.steps(root), **workloads.predictions(root), **workloads.tracing()}


@pytest.mark.parametrize("name", STEPS)
def test_step(benchmark, timed, name):
    benchmark.group = "one training step, retrieval"
    benchmark.pedantic(timed[f"step: {name}"], rounds=20, warmup_rounds=3)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_prediction(benchmark, timed, name):
    benchmark.group = "prediction of 64 sequences of length 32"
    benchmark.pedantic(timed[f"prediction: {name}"], rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("name", ["bptt", "transformer"])
def test_tracing(benchmark, timed, name):
    benchmark.group = "tracing a step at length 8"
    benchmark.pedantic(timed[f"tracing: {name}"], rounds=5, warmup_rounds=1)
