"""Tiny runs that many tests share."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.config import Run
from bench.methods import EVERY, Method, cross_entropy
from bench.results import Folder
from bench.tasks import mnist

TINY = {"d": 8, "memory_tokens": 2, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "updater_layers": 1}
TINY_TRAINING: dict[str, Any] = {"batch_size": 8, "budget": {"steps": 12}}


def tiny_run(method: str | dict[str, Any] = "bptt", task: str | dict[str, Any] = "retrieval", **fields: Any) -> Run:
    """A cell of a few thousand parameters and a dozen steps; `fields` replace whole sections of the run."""
    named = {"task": task, "method": method}
    data = {key: {"name": value} if isinstance(value, str) else value for key, value in named.items()}
    data["task"].setdefault("length", 12)
    data["model"] = TINY
    data["training"] = TINY_TRAINING
    stream = {"lanes": 8, "burn_in": 12, "columns": 24}
    data["evaluation"] = {"sequences": 32, "reference_sequences": 8, "every": 0.5, "stream": stream}
    return Run.parse({**data, **fields})


def folder_of(run: Run, root: Path) -> Folder:
    """The run's folder below `root`, described and empty of results."""
    folder = Folder(root / run.id)
    folder.describe(run)
    return folder


def mnist_files(folder: Path, train: np.ndarray, test: np.ndarray) -> dict[str, mnist.Published]:
    """Write pictures (N, 28, 28) uint8, all labelled 0, as MNIST's four files; by stem what the hashes should be."""
    published = {}
    for name, images in (("train", train), ("t10k", test)):
        head = struct.pack(">I", len(images))
        for stem, raw in {
            f"{name}-images-idx3-ubyte": b"\0\0\x08\3" + head + struct.pack(">II", 28, 28) + images.tobytes(),
            f"{name}-labels-idx1-ubyte": b"\0\0\x08\1" + head + bytes(len(images)),
        }.items():
            published[stem] = mnist.Published(len(images), "", hashlib.sha256(raw).hexdigest())
            (folder / f"{stem}.gz").write_bytes(gzip.compress(raw))
    return published


class LRU(Method):
    """s_t = a s_{t-1} + B[x_t], logits = Re(s_t C): a linear recurrent unit, all of whose numbers are complex."""

    recurrences = ()
    gradient_is = {"train": "exact"}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        units = self.model.d
        self.decay = nn.Parameter(torch.polar(torch.full((units,), 0.9), 2 * math.pi * torch.rand(units)))
        self.inputs = nn.Parameter(torch.randn(self.task.vocab_size, units, dtype=torch.complex64))
        self.outputs = nn.Parameter(torch.randn(units, self.task.output_size, dtype=torch.complex64) / units)
        self.register_buffer("turn", torch.tensor(1j))

    def initial_state(self, lanes: int) -> Tensor:
        return self.inputs.new_zeros(lanes, len(self.decay))

    def advance(self, state, x, columns=EVERY, start=None):
        states = []
        for x_t in x.unbind(1):
            state = self.decay * state + self.turn * self.inputs[x_t]
            states.append(state)
        return (torch.stack(states, 1)[:, columns] @ self.outputs).real, state

    def losses(self, batch, drawn, carry, phase):
        return {"loss": cross_entropy(self.predict(batch.x), batch.y)}, carry


def few(cases: Iterable[Any], count: int = 3) -> list[Any]:
    """Cases for `parametrize`, of which only the first are part of the quick suite; the others are slow."""
    told = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=[pytest.mark.slow] * (place >= count)) for place, case in enumerate(told)]
