"""How many times as fast as the plain form of the published steps ours are: CPU time, one thread, in turn.

python -m tests.benchmarks.published [small] [medium] [paper]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.config import Run
from bench.results import Folder
from bench.training import Trainer
from tests.benchmarks.growth import KINDS, shares, worded
from tests.benchmarks.plain import made_plain
from tests.benchmarks.workloads import step

ROUNDS = 10
WARM_UP = 2
FINER = {
    **KINDS,
    "norms": ("pow", "rsqrt", "mean", "rms_norm", "_fused_rms", "PowB", "RsqrtB", "MeanB"),
    "rotations": ("roll", "cat", "addcmul", "RollB", "CatB", "AddcmulB"),
    "views and copies": (
        *("view", "_unsafe_view", "transpose", "t", "reshape", "slice", "narrow", "as_strided", "unbind", "split"),
        *("select", "expand", "copy", "_to_copy", "clone", "contiguous", "empty", "fill", "zero", "new", "ones"),
        *("View", "Unsafe", "Transpose", "TB", "Slice", "Unbind", "Split", "Select", "Expand"),
    ),
}
"""Kinds of operators, by how the names of forward and backward begin."""
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"d": 64, "K": 4, "heads": 2, "layers": (2, 2, 2), "context": 64, "future": 16},
    "medium": {"d": 128, "K": 8, "heads": 2, "layers": (4, 4, 4), "context": 128, "future": 32},
    "paper": {"d": 256, "K": 16, "heads": 8, "layers": (8, 4, 8), "context": 256, "future": 64},
}
"""The settings of the three columns; layers of encoder, decoder, updater. Heads have a width of 64."""
BATCHES: dict[str, dict[str, tuple[int, int]]] = {
    "small": {"smt": (32, 80), "smt+dmt": (8, 32), "bptt": (8, 64)},
    "medium": {"smt": (32, 160), "smt+dmt": (8, 16), "bptt": (8, 32)},
    "paper": {"smt": (2, 320), "smt+dmt": (2, 16), "bptt": (2, 16)},
}
"""Rows and columns. SMT's hold one context and one future, as published: it trains on full windows."""


def run(shape: str, method: str) -> Run:
    """A run of a method at a shape, on parity, which scores every column."""
    sizes, (rows, columns) = SHAPES[shape], BATCHES[shape][method]
    encoder, decoder, updater = sizes["layers"]
    own: dict[str, Any] = {"context": sizes["context"], "future": sizes["future"]} if method != "bptt" else {}
    if method == "smt":
        own |= {"start": "context", "whole_futures": True}
    if method == "smt+dmt":
        own["dmt"] = {"share": 0.5, "every": 4, "batch_size": rows}
    return Run.parse(
        {
            "task": {"name": "parity", "length": columns, "every_step": True},
            "method": {"name": method, **own},
            "model": {
                **{"d": sizes["d"], "memory_tokens": sizes["K"], "heads": sizes["heads"], "head_width": 64},
                **{"encoder_layers": encoder, "decoder_layers": decoder, "updater_layers": updater},
            },
            "training": {"batch_size": rows, "budget": {"steps": 1000}},
            "evaluation": {"score_from": sizes["context"] - 1 if method == "smt" else 0},
            "device": "cpu",
            "precision": "float32",
        }
    )


def trainer(run: Run, folder: Path, plain: bool) -> Trainer:
    """A trainer at the beginning of the last phase."""
    made = Trainer(run, Folder(folder))
    made._enter_phase(len(made.phases) - 1)
    if plain:
        made_plain(made.method)
    return made


def ratio(run: Run, root: Path, rounds: int = ROUNDS) -> tuple[float, float]:
    """Plain over ours, and the milliseconds of ours: medians of as many steps of each, in turn."""
    sides = [trainer(run, root / name, plain=name == "plain") for name in ("plain", "ours")]
    spent: list[list[float]] = [[], []]
    for i in range(-WARM_UP, rounds):
        for side, times in zip(sides, spent, strict=True):
            began = time.process_time()
            step(side)
            if i >= 0:
                times.append(time.process_time() - began)
    plain, ours = map(statistics.median, spent)
    return plain / ours, 1000 * ours


def main() -> None:
    torch.set_num_threads(1)
    for shape in sys.argv[1:] or SHAPES:
        for method in BATCHES[shape]:
            with tempfile.TemporaryDirectory() as folder:
                times, ours = ratio(run(shape, method), Path(folder))
                made = trainer(run(shape, method), Path(folder) / "profiled", plain=False)
                parts = shares(made, FINER)
            print(f"{shape:8}{method:10}{times:6.2f} x   ({ours:.1f} ms: {worded(parts)})", flush=True)


if __name__ == "__main__":
    main()
