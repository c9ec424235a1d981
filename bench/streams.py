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
    """A 63-bit seed for the stream of that name: equal arguments, equal stream; any other, an unrelated one."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator at the start of that stream."""
    return torch.Generator(device).manual_seed(derive(seed, *names))


@contextmanager
def global_stream(seed: int, *names: str | int) -> Iterator[None]:
    """Code that can only draw from torch's global generator (module initialisation) draws from this stream instead."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *names))
        yield
