"""How fast this machine is now: two fixed workloads, timed right after a cell and in its process.

A large matrix product, which the arithmetic units bound, and a chain of tiny operators, each of which waits for the
last, which the price of calling an operator bounds. `compare` divides training seconds by them, so that a slower step
can be told from a slower, or a busier, machine.
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
"""Tiny operators in the chain: about half a millisecond."""
REPEATS = 60
"""Of each, so that a busy machine's other work falls into it too; one more before them sets up what they find."""


def measure(device: str, threads: int) -> dict[str, Any]:
    """`matmul` and `chain`, each with the `mean`, `median` and `least` seconds of its repeats; a tenth of a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            square = torch.full((SIZE, SIZE), 1 / SIZE, device=device)  # products of it stay as they are
            small = torch.zeros(8, device=device)
            return {
                "schema": SCHEMA,
                "matmul": _timed(lambda: _products(square), device),
                "chain": _timed(lambda: _chain(small), device),
            }
    finally:
        torch.set_num_threads(before)


def unit(record: dict[str, Any]) -> float:
    """One number of the record, in seconds: the geometric mean of its two means.

    Means, as training seconds are: where other programs take turns with this one, a median hardly sees them.
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
