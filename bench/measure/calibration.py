"""The current speed of this machine, from two fixed workloads, timed right after a cell and in its process.

One is a large matrix product, bound by arithmetic; the other is a chain of tiny operators, each of which waits for the
one before, bound by the overhead of a call. `compare` divides training seconds by their time, so that a slower step can
be distinguished from a slower, or busier, machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SCHEMA = 1
SIZE = 256
"""Rows and columns of the product; two products take about half a millisecond on one core."""
LINKS = 200
"""The number of tiny operators in the chain, which takes about half a millisecond."""
REPEATS = 60
"""Repeats of each, enough to meet other work on a busy machine; one more before them is a warm-up."""


def measure(device: str, threads: int) -> dict[str, Any]:
    """`matmul` and `chain`, each with the `mean`, `median` and `least` seconds of its repeats; takes about 0.1 s."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            square = torch.full((SIZE, SIZE), 1 / SIZE, device=device)  # its square is itself
            small = torch.zeros(8, device=device)
            return {
                "schema": SCHEMA,
                "matmul": _timed(lambda: _products(square), device),
                "chain": _timed(lambda: _chain(small), device),
            }
    finally:
        torch.set_num_threads(before)


def unit(record: dict[str, Any]) -> float:
    """The record as one number of seconds: the geometric mean of its two means.

    These are means because training seconds are: a median hardly shows other programs that take turns with this one.
    """
    return float((record["matmul"]["mean"] * record["chain"]["mean"]) ** 0.5)


def _products(square: Tensor) -> None:
    for _ in range(2):
        square = square @ square


def _chain(small: Tensor) -> None:
    for _ in range(LINKS):
        small = small + 1.0


def _timed(work: Callable[[], None], device: str) -> dict[str, float]:
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    counted = seconds[1:]
    return {"mean": statistics.fmean(counted), "median": statistics.median(counted), "least": min(counted)}
