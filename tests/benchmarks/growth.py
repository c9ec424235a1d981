"""Processor time of a training step per token against length, and where it goes: the picture of the page "Speed".

    python -m tests.benchmarks.growth docs/speed.png

One thread, float32; medians of steps at each length in turn, one method after the other.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.profiler import ProfilerActivity, profile

from bench.config import Run
from bench.results import Folder
from bench.training import Trainer
from tests.benchmarks.workloads import step

LENGTHS = (16, 32, 64, 128, 256)
PROFILED = 64
ROUNDS = 3
MODEL = {
    **{"d": 32, "memory_tokens": 4, "heads": 2, "head_width": 16, "initialisation": "pytorch"},
    **{"encoder_layers": 2, "decoder_layers": 2, "updater_layers": 1},
}
STEPS: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "BPTT": ({"name": "bptt"}, "transformer", 32, "train"),
    "BPTT, gru": ({"name": "bptt"}, "gru", 32, "train"),
    "SMT, one position": ({"name": "smt"}, "transformer", 32, "smt"),
    "SMT, all positions": ({"name": "smt", "timesteps": None, "consecutive": True}, "transformer", 1, "smt"),
    "DMT": ({"name": "smt+dmt", "dmt": {"share": 0.4, "every": 4, "batch_size": 32}}, "transformer", 32, "dmt"),
    "dense SMT": ({"name": "smt-dense"}, "transformer", 8, "smt"),
    "dense DMT": ({"name": "smt-dense+dmt"}, "transformer", 8, "dmt"),
    "Transformer": ({"name": "transformer"}, "transformer", 32, "train"),
}
"""By name: method, backbone, batch size and phase, as `quick` has them or nearly."""
KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "linear", "matmul"),
    "attention": ("_scaled_dot_product",),
    "optimiser and clipping": ("_fused_adamw", "_foreach", "_fused_adam", "linalg_vector_norm"),
}
REST = "everything else"


def trainer_of(name: str, length: int, root: Path) -> Trainer:
    """A trainer in that phase, on stack of that length, which scores many columns."""
    method, backbone, rows, phase = STEPS[name]
    made = Trainer(
        Run.parse(
            {
                "task": {"name": "stack", "length": length, "symbols": 3, "depth": 4},
                "method": method,
                "model": {**MODEL, "backbone": backbone},
                "training": {"batch_size": rows, "budget": {"steps": 100_000}},
                "device": "cpu",
                "precision": "float32",
            }
        ),
        Folder(root / f"{name}-{length}"),
    )
    made._enter_phase(next(i for i, part in enumerate(made.phases) if part.name == phase))
    return made


def microseconds(name: str, root: Path) -> list[float]:
    """Per token of a batch, at each length."""
    trainers, rows = [trainer_of(name, length, root) for length in LENGTHS], STEPS[name][2]
    spent: list[list[float]] = [[] for _ in LENGTHS]
    for i in range(ROUNDS + 1):
        for trainer, times in zip(trainers, spent, strict=True):
            began = time.process_time()
            step(trainer)
            if i:  # the first sets things up
                times.append(time.process_time() - began)
    return [1e6 * statistics.median(times) / (rows * length) for times, length in zip(spent, LENGTHS, strict=True)]


def shares(made: Trainer, kinds: Mapping[str, tuple[str, ...]] = KINDS) -> dict[str, float]:
    """The shares of a step's processor time inside operators, by kind of operator: how their names begin."""
    step(made)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step(made)
    found: Counter[str] = Counter()
    for event in seen.key_averages():
        operator = event.key.removeprefix("aten::").removeprefix("autograd::engine::evaluate_function: ")
        kind = next((kind for kind, starts in kinds.items() if operator.startswith(starts)), REST)
        found[kind] += event.self_cpu_time_total
    return {kind: found[kind] / found.total() for kind in (*kinds, REST)}


def worded(parts: dict[str, float]) -> str:
    return ", ".join(f"{kind} {share:.0%}" for kind, share in parts.items())


def draw(times: dict[str, list[float]], parts: dict[str, dict[str, float]]) -> Figure:
    """Two panels: microseconds against length, and shares of a step."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in times.items():
        left.plot(LENGTHS, values, marker="o", ms=4, lw=1.6, label=name)
    left.set(
        xscale="log", yscale="log", xlabel="length T", ylabel="microseconds of CPU per token", title="A training step"
    )
    left.set_xticks(LENGTHS, map(str, LENGTHS))
    left.minorticks_off()
    left.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    start = [0.0] * len(parts)
    for kind in (*KINDS, REST):
        widths = [share[kind] for share in parts.values()]
        right.barh(list(parts), widths, left=start, label=kind, height=0.6)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    right.invert_yaxis()
    right.set(xlim=(0, 1), xlabel=f"share of the time in operators, T = {PROFILED}", title="Where it goes")
    right.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.4, -0.15))
    return figure


def main() -> None:
    """Print both tables and save the picture where the first argument says."""
    torch.set_num_threads(1)
    times, parts = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in STEPS:
            times[name] = microseconds(name, Path(folder))
            parts[name] = shares(trainer_of(name, PROFILED, Path(folder) / "profiled"))
            print(f"{name:20}{''.join(f'{value:9.1f}' for value in times[name])}   {worded(parts[name])}", flush=True)
    draw(times, parts).savefig(sys.argv[1], dpi=130)


if __name__ == "__main__":
    main()
