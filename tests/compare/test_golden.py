"""The first losses of every method are what they were; written by `python -m tests.compare.golden FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.results import read_json
from tests.compare import golden

GOLDEN = Path(__file__).parents[2] / "results" / "baselines" / "golden.json"
RUNS = golden.runs()


@pytest.fixture(scope="module")
def kept() -> Any:
    return read_json(GOLDEN)


@pytest.mark.parametrize("name", RUNS)
def test_the_first_losses_are_golden(name: str, kept: Any) -> None:
    found = {name: golden.losses(RUNS[name])}
    assert golden.differences(kept, found) == {}


def test_threads_change_no_golden_loss(kept: Any) -> None:
    name = "stack smt+dmt transformer"
    assert golden.differences(kept, {name: golden.losses(golden.runs(threads=2)[name])}) == {}


def test_every_built_in_method_and_backbone_has_golden_losses(kept: Any) -> None:
    assert set(RUNS) == set(kept["losses"])
    built_in = {
        kind: {name for name in kind.names() if kind.get(name).__module__.startswith("bench.")}
        for kind in (registry.methods, registry.backbones)
    }
    assert built_in == {registry.methods: set(golden.METHODS), registry.backbones: set(golden.BACKBONES)}
    assert all(len(losses) == golden.STEPS for losses in kept["losses"].values())


def test_a_loss_that_is_off_is_told_with_its_step() -> None:
    there = {"losses": {"run": [1.0, 0.5], "short": [1.0]}}
    found = golden.differences(there, {"run": [1.0, 0.5 + 1e-6], "short": [1.0, 0.5], "new": [1.0]})
    assert found["run"].startswith("step 1: loss 0.500001, golden 0.5")
    assert found["short"] == "took 2 steps, not 1" and found["new"] == "has no golden losses"
    assert golden.differences(there, {"run": [1.0, 0.5 * (1 + 1e-9)]}) == {}
