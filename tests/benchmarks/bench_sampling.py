"""How long a 128 x 128 batch of every synthetic task takes to draw, on one thread.

    python -m pytest tests/benchmarks/bench_sampling.py

The plain-Python stack, row by row, is what vectorised sampling is measured against.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench import registry
from tests.benchmarks.workloads import LENGTH, ROWS, SAMPLED, sampling


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SAMPLED)
def test_draw_a_batch(benchmark: Any, name: str) -> None:
    benchmark(sampling()[f"sampling: {name}"])


def stack_row_by_row(rng: random.Random, depth: int, symbols: int) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = [], []
    for _ in range(ROWS):
        held: list[int] = []
        x, y = [], []
        for _ in range(LENGTH):
            if not held or (len(held) < depth and rng.random() < 0.5):
                held.append(rng.randint(1, symbols))
                x.append(held[-1])
                y.append(-1)
            else:
                x.append(0)
                y.append(held.pop())
        xs.append(x)
        ys.append(y)
    return torch.tensor(xs), torch.tensor(ys)


def test_draw_a_stack_batch_in_plain_python(benchmark: Any) -> None:
    config = registry.tasks.get("stack").Config(length=LENGTH)
    x, _ = benchmark(stack_row_by_row, random.Random(0), config.depth, config.symbols)
    assert len(x) == ROWS
