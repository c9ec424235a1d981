"""The day a GPU is at hand: what can only be measured there, most valuable first, in ten minutes at most.

    .ci/gpu FOLDER [--tiny]        # the same as python -m tests.gpu FOLDER [--tiny]

    parity     loss and gradients of every method against the CPU, in float32
    steps      step time of every method at the sizes of the grid `paper`, and its share of the matrix products' peak
    rollout    DMT's, alone
    sampling   batches of the natural tasks, and tokens that a model takes in one at a time
    first-*    the first steps of `paper`'s tasks, on small data

A part is a process of its own, with three minutes at most. Its rows lie in FOLDER/NAME.partial.json as they come, and
in NAME.json once they are all there: the same command again skips what is there and goes on with what is not. A row
that failed says why, and is not tried again; remove it, or its file, to do so. FOLDER/summary.md has it all. Without a
CUDA device everything is tiny and runs on the CPU, where parity is with float64: that shows that the script works.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # this process must not begin to use the GPU: it forks

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench import registry, streams
from bench.build import autocast, build_method, build_task
from bench.config import Run
from bench.engine import Engine
from bench.feasibility import impossible
from bench.grid import load_grid
from bench.measure import flops
from bench.measure.inference import stream_costs
from bench.methods.base import Method
from bench.phases import Lanes, draw
from bench.results import Folder, read_json, write_json
from bench.tasks import data, mnist
from bench.tasks.base import Batch
from bench.training import Options, Stopped, Trainer, out_of_memory
from tests import helpers
from tests.helpers import mnist_files, tiny_run

TOTAL_SECONDS, PART_SECONDS = 590.0, 170.0
TOLERANCE = 1e-3
"""The tolerance of parity: the relative difference of a loss, and the norm of the gradients' difference, relative."""
PUBLISHED = {"smt": 0.216, "dmt": 16.8}
"""Seconds a step in the reference, one H200, at the sizes of `paper`, by phase."""
TASKS = ("tinystories", "mnist", "sketchy")
METHODS: dict[str, dict[str, Any]] = {
    "smt+dmt": {"start": "context", "length": 320, "whole_futures": True},
    "bptt": {},
    "transformer": {},
    "smt-dense+dmt": {"teacher": {"share": 0.2}},
    "smt+dmt+bptt": {"start": "context", "length": 320, "whole_futures": True},
    "tbptt": {},
    "rtrl": {},
}
"""Those whose phases are all that there are, most wanted first, with the fields that `paper` gives them."""
TINY = {"context": 8, "future": 4, "length": 12}
SMALLER = (
    *("model.d=16", "model.heads=2", "model.head_width=null", "model.memory_tokens=2"),
    *("model.encoder_layers=1", "model.decoder_layers=1", "model.updater_layers=1"),
    *("task.length=24", "training.batch_size=4", "evaluation.score_from=7"),
)


class Machine(NamedTuple):
    """Where and at which sizes."""

    folder: Path
    device: str
    tiny: bool

    @property
    def low(self) -> str:
        """The fast precision."""
        return "bfloat16" if self.device == "cuda" else "float32"

    def paper(self, method: str, task: str = "tinystories", precision: str = "float32", *sets: str) -> Run:
        """A cell of `paper`, of any method."""
        fields = dict(METHODS.get(method, METHODS["smt+dmt"]))
        if self.tiny:
            fields |= TINY if "length" in fields else {}
            fields |= {"dmt": {"rollout": 8, "batch_size": 2}} if method.startswith("smt+dmt") else {}
        chosen = f"task={task}", f"method=[{_yaml({'name': method, **fields})}]", f"precision={precision}"
        (run,) = load_grid("paper", [*chosen, f"device={self.device}", *(SMALLER if self.tiny else ()), *sets]).runs
        return run


def _yaml(value: Any) -> str:
    """Nested plain data as YAML in a line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(inner)}" for name, inner in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


class Rows:
    """The rows of a part, kept as they come."""

    def __init__(self, machine: Machine, part: str) -> None:
        self.file = machine.folder / f"{part}.json"
        self.partial = machine.folder / f"{part}.partial.json"
        self.rows: dict[str, dict[str, Any]] = read_json(self.partial) or {}

    def add(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Make a row, unless it is there. One that fails says so; after an error of CUDA nothing else can be done."""
        if name in self.rows:
            return
        began = time.monotonic()
        try:
            row = make()
        except Stopped:
            raise
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
            if "CUDA error" in str(error):
                self._keep(name, row)
                raise
        self._keep(name, {**row, "took_seconds": time.monotonic() - began})

    def _keep(self, name: str, row: dict[str, Any]) -> None:
        self.rows[name] = row
        write_json(self.partial, self.rows)
        print(f"{self.file.stem}: {name}: {_line(row)}", flush=True)


# Parity.


def parity(rows: Rows, machine: Machine) -> None:
    """Every method and phase, small, for three steps; before each, both sides have the CPU's weights and choices."""
    for name in registry.methods.names():
        task = {} if machine.tiny else {"task": {"name": "retrieval", "length": 32}}
        sizes = helpers.TINY if machine.tiny else _small()
        runs = (tiny_run(name, **task, model={**sizes, "backbone": backbone}) for backbone in ("transformer", "tanh"))
        run = next(run for run in runs if not impossible(run))
        for index, phase in enumerate(build_method(run, build_task(run)).phases(run.training)):
            rows.add(f"{name}, {phase.name}", partial(_compared, run, index, machine.device))


def _small() -> dict[str, Any]:
    layers = dict.fromkeys(("encoder_layers", "decoder_layers", "updater_layers"), 2)
    return {"d": 32, "memory_tokens": 4, "heads": 2, **layers}


def _compared(run: Run, index: int, device: str) -> dict[str, Any]:
    task = build_task(run)
    on_cpu, other = build_method(run, task), build_method(run, task, device=device)
    if device == "cpu":
        other = other.double()
    engines = []
    for method in (on_cpu, other):
        phase = method.phases(run.training)[index]
        method.train_only(phase)
        engines.append(Engine(method, phase))
    real = {parameter.dtype for parameter in other.parameters() if parameter.is_floating_point()}.pop()

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(device, real) if tensor.is_floating_point() else tensor.to(device)

    drawn: list[Any] = []
    draws = on_cpu.draw
    on_cpu.draw = lambda shape, phase: drawn.append(draws(shape, phase)) or drawn[-1]  # type: ignore[method-assign]
    other.draw = lambda shape, phase: _like(there, drawn.pop(0))  # type: ignore[method-assign]
    generator, lanes = streams.generator(0, "data"), None
    losses: list[float] = []
    gradients: list[float] = []
    for _ in range(3):
        other.load_state_dict(on_cpu.state_dict())
        batch, lanes = draw(run, task, on_cpu, engines[0].phase, generator, lanes)
        moved = Batch(*(None if part is None else part.to(device) for part in batch))
        for here, away in zip(*(engine.stretches(b) for engine, b in zip(engines, (batch, moved)))):
            if here.scalars is None or away.scalars is None:
                continue
            losses.append(abs(away.scalars["loss"].item() / here.scalars["loss"].item() - 1))
            pairs = [(p.grad, q.grad) for p, q in zip(*(e.parameters for e in engines)) if p.grad is not None]
            both = [torch.cat([g.flatten().cpu().double() for g in side]) for side in zip(*pairs)]
            gradients.append(((both[1] - both[0]).norm() / both[0].norm().clamp(min=1e-12)).item())
            other.zero_grad()
            engines[0].take(1e-3)
            other.load_state_dict(on_cpu.state_dict())
    worst = {"loss": _most(losses), "gradient": _most(gradients)}
    fine = bool(losses) and all(error <= TOLERANCE for error in worst.values())
    return {**worst, "steps": len(losses), "equal": fine}


def _most(differences: list[float]) -> float:
    """The largest, or NaN where one is, which is no less than any number to `max`."""
    return torch.tensor([0.0, *differences], dtype=torch.float64).max().item()


def _like(function: Callable[[Tensor], Tensor], drawn: Any) -> Any:
    """`map_tree` of what is drawn, whose named tuples keep their names and may hold None."""
    if drawn is None or isinstance(drawn, Tensor):
        return drawn if drawn is None else function(drawn)
    parts = [_like(function, part) for part in drawn]
    return type(drawn)(*parts) if hasattr(drawn, "_fields") else tuple(parts)


# Step times.


class Counted(TorchDispatchMode):
    """FLOPs of matrix products, as `bench.measure.flops` counts them."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, rule = func(*args, **(kwargs or {})), flops.work(func)
        self.total += rule(args, kwargs or {}, out)[0] if rule else 0
        return out


def steps(rows: Rows, machine: Machine) -> None:
    """Eager in both precisions, then compiled; a batch that does not fit into memory is made smaller."""
    for precision in dict.fromkeys((machine.low, "float32")):
        rows.add(f"matmul, {precision}", partial(_peak, machine, precision))
        peak = rows.rows[f"matmul, {precision}"].get("tflops")
        for name in METHODS:
            run = machine.paper(name, precision=precision)
            if reason := impossible(run):
                rows.add(f"{name}, {precision}", partial(dict, refused=reason))
                continue
            for index, phase in enumerate(build_method(run, build_task(run), device="meta").phases(run.training)):
                if name == "smt+dmt+bptt" and phase.name != "bptt":
                    continue
                rows.add(f"{phase.name} of {name}, {precision}", partial(_fitting, run, index, peak))
    if machine.device == "cuda":
        for name in ("smt+dmt", "transformer"):
            run = machine.paper(name, "tinystories", machine.low, "training.engine=compiled")
            rows.add(f"{name}, {machine.low}, compiled", partial(_fitting, run, 0, peak))


def _peak(machine: Machine, precision: str) -> dict[str, Any]:
    size = 256 if machine.tiny else 8192
    a = torch.ones(size, size, device=machine.device, dtype=getattr(torch, precision))
    seconds = _timed(lambda: a @ a, machine.device, 5)
    return {"seconds": seconds, "tflops": 2 * size**3 / seconds / 1e12}


def _fitting(run: Run, index: int, peak: float | None) -> dict[str, Any]:
    for divisor in (1, 4, 16):
        try:
            return _step(run, index, peak, divisor)
        except Exception as error:
            if not out_of_memory(error) or divisor == 16:
                raise
        torch.cuda.empty_cache()
    raise AssertionError


def _step(run: Run, index: int, peak: float | None, divisor: int) -> dict[str, Any]:
    task = build_task(run)
    method = build_method(run, task)
    phase = method.phases(run.training)[index]
    phase = replace(phase, batch_size=max(1, phase.batch_size // divisor))
    method.train_only(phase)
    compiled = run.training.engine == "compiled"
    engine = Engine(method, phase, 1, lambda: autocast(run), compiled)
    step = partial(_one_step, run, method, engine, streams.generator(0, "data", device=run.device), [None])
    began = time.perf_counter()
    step()
    _wait(run.device)
    first = time.perf_counter() - began
    if run.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    engine.compiled, kept = None, engine.compiled
    with Counted() as counted:
        step()
    engine.compiled = kept
    seconds = _timed(step, run.device, 3)
    rate = counted.total / seconds / 1e12
    gigabytes = torch.cuda.max_memory_allocated() / 1e9 if run.device == "cuda" else None
    published = PUBLISHED.get(phase.name) if run.device == "cuda" and not divisor > 1 else None
    return {
        "batch": phase.batch_size,
        "seconds": seconds,
        "published_seconds": published if run.method == "smt+dmt" else None,
        "teraflop": counted.total / 1e12,
        "tflops": rate,
        "mfu": rate / peak if peak else None,
        "gigabytes": gigabytes,
        "first_seconds": first,
    }


def _one_step(run: Run, method: Method, engine: Engine, generator: torch.Generator, lanes: list[Lanes | None]) -> None:
    batch, lanes[0] = draw(run, method.task, method, engine.phase, generator, lanes[0])
    for ready in engine.stretches(batch):
        if ready.scalars is not None:
            engine.take(engine.phase.optimiser.lr)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _timed(work: Callable[[], Any], device: str, most: int) -> float:
    """Seconds a call: of up to `most` calls in a row, or as many as fit into four seconds."""
    work()
    _wait(device)
    began = time.perf_counter()
    for count in range(1, most + 1):
        work()
        if count == most or (count % 2 and time.perf_counter() - began > 4):
            break
    _wait(device)
    return (time.perf_counter() - began) / count


# DMT's rollout, sampling, the first steps.


def rollout(rows: Rows, machine: Machine) -> None:
    """The RNN on its own memories, without gradients, as a DMT step begins with."""
    for precision in dict.fromkeys((machine.low, "float32")):
        run = machine.paper("smt+dmt", precision=precision)
        columns = run.method_config.dmt.rollout  # type: ignore[attr-defined]
        for lanes in (2,) if machine.tiny else (32, 128):
            rows.add(f"{lanes} lanes, {columns} steps, {precision}", partial(_rolled, run, lanes, columns))


@torch.no_grad()
def _rolled(run: Run, lanes: int, columns: int) -> dict[str, Any]:
    rnn = build_method(run, build_task(run)).recurrent_network()
    assert rnn is not None
    x, state = torch.zeros(lanes, columns, dtype=torch.long, device=run.device), rnn.initial_state(lanes)
    with autocast(run):
        seconds = _timed(lambda: rnn.scan(state, x), run.device, 5)
    return {"seconds": seconds, "milliseconds_a_step": 1000 * seconds / columns}


def sampling(rows: Rows, machine: Machine) -> None:
    """Batches to train on, drawn on the device; tokens taken in one after another."""
    for name in TASKS:
        run = machine.paper("smt", name)
        task, generator = build_task(run), streams.generator(0, "data", device=run.device)
        sample = partial(task.sample, "train", run.training.batch_size, run.task_config.length, generator)
        rows.add(f"a batch of {name}", lambda sample=sample: {"seconds": _timed(sample, machine.device, 20)})
    for name in ("bptt", "transformer"):
        rows.add(f"a token of {name}", partial(_streamed, machine.paper(name), [7] if machine.tiny else [31, 255]))


def _streamed(run: Run, positions: list[int]) -> dict[str, Any]:
    x = torch.zeros(1, positions[-1] + 1, dtype=torch.long, device=run.device)
    tokens = stream_costs(build_method(run, build_task(run)), x, positions)
    return {f"seconds_at_{token.position}": token.seconds for token in tokens} | {"state_bytes": tokens[-1].state_bytes}


def first(rows: Rows, machine: Machine, task: str) -> None:
    """SMT's loss and speed from the start; one that is stopped goes on from its checkpoint."""
    few = ("evaluation.sequences=32", "evaluation.reference_sequences=8", "evaluation.every=0.25")
    count = 4 if machine.tiny else 500
    run = machine.paper("smt", task, machine.low, f"training.budget.steps={count}", *few)
    deadline = time.monotonic() + PART_SECONDS - 20
    folder = Folder(machine.folder / "runs" / run.id)
    folder.describe(run)
    options = Options(should_stop=lambda: time.monotonic() > deadline)

    def train() -> dict[str, Any]:
        costs = Trainer(run, folder, options).train()["costs"]
        points = read_json(folder / "curve.json") or []
        return {
            "steps": costs["steps"],
            "seconds_a_step": costs["training_seconds"] / costs["steps"],
            **{
                f"loss_at_{point['steps']}": point["train_loss"]
                for point in points
                if point.get("train_loss") is not None
            },
            **{f"{score['predictor']}_loss": score["loss"] for score in points[-1]["scores"]},
        }

    rows.add(task, train)


PARTS: dict[str, Callable[[Rows, Machine], None]] = {
    "parity": parity,
    "steps": steps,
    "rollout": rollout,
    "sampling": sampling,
    **{f"first-{task}": partial(first, task=task) for task in TASKS},
}


# Data, processes, the summary.


def small_data(folder: Path) -> None:
    """Random pictures and made-up stories in the formats of the natural tasks, imported below FOLDER/data."""
    os.environ["BENCH_DATA"] = str(folder / "data")
    source, random = folder / "sources", np.random.default_rng(0)
    images = random.integers(0, 256, (600, 28, 28), dtype=np.uint8)
    source.mkdir(parents=True, exist_ok=True)
    mnist.PUBLISHED.update(mnist_files(source, images[:500], images[500:]))
    if all(entry.here for entry in data.catalogue() if entry.name in TASKS):
        return
    words = ["a", "cat", "dog", "sat", "ran", "on", "the", "mat", "and", "saw", "red", "sun"]
    stories = (" ".join(random.choice(words, 60)) for _ in range(400))
    (source / "stories.txt").write_text("".join(f"{story.capitalize()}.<|endoftext|>\n" for story in stories))
    names = [f"n{photo:08d}-{i}" for photo in range(80) for i in (1, 2)]
    np.savez(source / "drawings.npz", names=names, images=random.integers(120, 256, (160, 64, 64), dtype=np.uint8))
    for name, file in zip(TASKS, ("stories.txt", ".", "drawings.npz")):
        data.import_(name, source / file)


def run_part(name: str, machine: Machine) -> None:
    """A part, in a process of its own."""
    torch.set_num_threads(1 if machine.device == "cpu" else os.cpu_count() or 1)
    rows = Rows(machine, name)
    try:
        PARTS[name](rows, machine)
    except Stopped:
        print(f"{name}: out of time; goes on from its checkpoint", flush=True)
    else:
        rows.partial.replace(rows.file)


def summary(folder: Path) -> str:
    """All parts as tables."""
    lines = ["# What `.ci/gpu` measured", ""]
    for name in PARTS:
        whole, some = (read_json(folder / f"{name}{end}.json") for end in ("", ".partial"))
        rows: dict[str, dict[str, Any]] = whole or some or {}
        lines += [f"## {name}" + ("" if whole else ": not whole"), ""]
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        if rows:
            lines += [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
            lines += [
                f"| {row} | {' | '.join(_text(record.get(c)) for c in columns)} |" for row, record in rows.items()
            ]
        lines.append("")
    return "\n".join([*lines, f"Published, one H200, seconds a step: {_line(PUBLISHED)}. Parity: {TOLERANCE:g}.", ""])


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


def _line(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in row.items() if value is not None)


def failed(folder: Path) -> list[str]:
    """The rows that an error ended, and those of parity that are not equal."""
    parts = {name: read_json(folder / f"{name}.json") or {} for name in PARTS}
    return [
        f"{row} ({name})"
        for name, rows in parts.items()
        for row, record in rows.items()
        if "failed" in record or not record.get("equal", True)
    ]


def parts_left(machine: Machine) -> Iterator[str]:
    """The parts whose output is not there."""
    return (name for name in PARTS if not (machine.folder / f"{name}.json").exists())


def main() -> int:
    """Run what is left; 1 where something is then still left, has failed, or parity does not hold."""
    parser = argparse.ArgumentParser(prog=".ci/gpu")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the CPU too; always so without a GPU")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = Machine(given.folder, device, given.tiny or device == "cpu")
    machine.folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + TOTAL_SECONDS
    small_data(machine.folder)
    for name in parts_left(machine):
        child = multiprocessing.get_context("fork").Process(target=run_part, args=(name, machine))
        child.start()
        child.join(max(1.0, min(PART_SECONDS, ends - time.monotonic())))
        if child.is_alive():
            print(f"{name}: out of time; what it has is kept", flush=True)
            child.kill()
            child.join()
        (machine.folder / "summary.md").write_text(summary(machine.folder))
    print(machine.folder / "summary.md")
    left, wrong = list(parts_left(machine)), failed(machine.folder)
    for what, names in (("not whole", left), ("failed or not equal", wrong)):
        if names:
            print(f"{what}: {', '.join(names)}")
    return 1 if left or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
