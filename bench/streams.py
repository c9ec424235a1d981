"""Independent random streams, each named and derived from the run's seed.

Data, initialisation, method noise and evaluation never share a generator, so that a change in one leaves the others'
numbers as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for a named stream: equal arguments give the same stream, different ones unrelated streams."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator at the start of a named stream."""
    return torch.Generator(device).manual_seed(derive(seed, *names))


@contextmanager
def global_stream(seed: int, *names: str | int) -> Iterator[None]:
    """Within this context torch's global generator, from which modules draw their weights, is at a named stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *names))
        yield
