"""Whole grids, fabricated: every cell of a shipped grid with all records that a run leaves, as `run` would lay them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from bench.config import Run
from bench.grid import load_collection
from bench.results import read_json, write_grid, write_json
from tests.report.fabricated import fake, score

NATURAL = {"loss_floor": None, "accuracy_ceiling": None, "unit": "bits", "unigram_loss": 2.5}
ONLINE = ("tbptt", "rtrl", "uoro")
"""Methods whose curves have an online loss here."""
GROWTH = {"smt": 0, "dmt": 1, "train": 1, "transformer": 0}
"""Exponent in T of a phase's sequential operations."""


def collection(root: Path, name: str, every: int = 1) -> Path:
    """Every grid of a shipped collection, each with its grid.json; of each grid every so manieth cell."""
    gathered = load_collection(name)
    for grid in gathered.grids:
        folder = root / grid.name
        for run in grid.runs[::every]:
            cell(folder, run)
        write_grid(folder, grid.record())
    for grid in gathered.cost:
        write_json(root / grid.name / "cost.json", {"schema": 1, **traced(grid.runs)})
    return root


def noise(*of: Any) -> np.random.Generator:
    """Other numbers for each of them, the same on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:8], "big"))


def cell(folder: Path, run: Run) -> None:
    """A finished run; how well it did is drawn by its setting, and a little by its seed."""
    full = run.full()
    task, length = run.task, full["task"].get("length") or 64
    natural = task == "digits"
    chance = noise(full["task"], full["method"], full["model"]["backbone"]).uniform(-0.15, 0.15)
    level = min(0.97, max(0.12, 0.75 - length / 200 + chance + noise(run.id).normal(0, 0.03)))
    smt = run.method.startswith("smt")
    lengths = sorted({length, *(full["evaluation"].get("lengths") or ())})
    scores = []
    for predictor in ("rnn", "teacher") if smt else ("rnn",):
        for tested in lengths:
            fall, more = (0.9, 0.0) if predictor == "rnn" else (0.6, 0.02)
            right = level * (1 if tested <= length else fall) + more
            facts = NATURAL if natural else {"accuracy_ceiling": 1.0}
            scores.append(score(right, 2.4 - 1.6 * right, predictor, tested, **facts))
    made = fake(folder, run, scores, tokens=4000, points=21, parameters=sizes(run))
    if run.method in ONLINE:
        told = [{"online_loss": 0.9 - place / 50, "regret": float(place)} for place in range(21)]
        write_json(made / "curve.json", [point | more for point, more in zip(read_json(made / "curve.json"), told)])
    phases = run.method.split("+")[:2] if smt else ["train"]
    write_json(made / "cost.json", {"phases": [{"phase": run.method, **spent(run.method, phases[0], length)}]})
    write_json(made / "dynamics.json", dynamics(run, length, phases))
    write_json(made / "samples.json", samples(run, natural))
    if smt:
        write_json(made / "diagnosis.json", {"diagnosis": diagnosis(run, level)})


def sizes(run: Run) -> int:
    return 1000 + 12 * run.model.d**2 * run.model.updater_layers + run.model.d * run.model.memory_tokens


def spent(method: str, phase: str, length: int) -> dict[str, Any]:
    """A traced batch of 8 sequences."""
    operations = 100.0 + 20 * length ** GROWTH.get(phase if method != "transformer" else method, 1)
    whole = {"flops": 5e4 * length, "elementwise": 1e3 * length, "sequential_flops": 50 * operations}
    return {"tokens": 8 * length, "whole": {**whole, "sequential_operations": operations, "operations": 9}}


def dynamics(run: Run, length: int, phases: list[str]) -> dict[str, Any]:
    drawn = noise(run.id, "dynamics")
    smt, t = "train" not in phases, np.arange(length)
    slope = drawn.normal(0, 0.01) if smt else -0.4
    through = "the decoder" if smt else "the unrolled updater"
    label = [number % 4 for number in range(24)]
    points = drawn.normal(size=(24, 2)) + 4 * np.stack([np.cos(label), np.sin(label)], 1)
    origin = drawn.normal(size=(9, 2))
    norms = {"t": t.tolist(), "norm": np.exp(slope * t).tolist(), "loss_at": length - 1, "through": through}
    twice = np.arange(2 * length)
    delta = [0.2 / (1 + at) * (1 + twice / length) * drawn.uniform(0.9, 1.1) for at in range(len(phases) if smt else 0)]
    drift = {"t": twice.tolist(), "accuracy": [math.nan if at % 2 else 0.5 for at in twice]}
    return {
        "gradients": [{"when": when, **norms} for when in ("init", "trained")],
        "drift": [{"phase": phase, **drift, "delta": found.tolist()} for phase, found in zip(phases, delta)],
        "geometry": {
            **{"colour_by": "needle", "points": points.tolist(), "label": label, "explained": [0.6, 0.25, 0.1]},
            **{"effective_rank": drawn.uniform(2, 5), "origin": origin.tolist(), "field": (0.1 * origin).tolist()},
            **({"prefix": drawn.integers(1, 4, size=(24, 4)).tolist()} if run.task == "string-copy" else {}),
        },
    }


def samples(run: Run, natural: bool) -> dict[str, Any]:
    drawn = noise(run.id, "samples")
    if not natural:
        asked = {"given": [3, 0, 7, 0], "truth": [-1, -1, -1, 7], "written": [-1, -1, -1, int(drawn.integers(6, 8))]}
        return {"kind": "symbols", "temperature": 1.0, "written": [], "completed": [asked]}
    truth, written = (drawn.integers(0, 256, size=(8, 8)) for _ in range(2))
    done = {"given": 4, "truth": truth.tolist(), "written": [*truth[:4].tolist(), *written[4:].tolist()]}
    return {"kind": "image", "temperature": 1.0, "written": [written.tolist()] * 6, "completed": [done] * 4}


def diagnosis(run: Run, level: float) -> dict[str, Any]:
    drawn = noise(run.id, "diagnosis")
    names = ("teacher", "rollout", "error", "between", "spread")
    by_time = {"t": [0, 1, 2, 3], **{name: drawn.uniform(0.1, 0.9, 4).tolist() for name in names}}
    scores = {"teacher": 0.95, "one_step": 0.9, "rollout": level, "ceiling": 1.0, "chance": 0.125}
    ahead = {"j": [0, 1, 3], "accuracy": [0.95, 0.8, 0.5]}
    after = {"k": [1, 2], "accuracy": [0.9, 0.7]}
    told = {"limit": "drift", "verdict": f"drift at {level:.2f}"}
    return {**by_time, "scores": scores, **told, "ahead": ahead, "after_steps": after}


def traced(runs: tuple[Run, ...]) -> dict[str, list[dict[str, Any]]]:
    """What `cost` leaves of these runs, a line of each task, method and backbone."""
    found: dict[str, list[dict[str, Any]]] = {"steps": [], "credit": [], "inference": []}
    for run in {(run.task, run.method, run.model.backbone): run for run in runs}.values():
        about = {"task": run.task, "method": run.method, "backbone": run.model.backbone, "device": "cpu"}
        state = "growing" if run.method == "transformer" else "constant"
        for phase in run.method.split("+")[:2] if run.method.startswith("smt") else ["train"]:
            for length in (8, 16, 32, 64, 128, 256):
                sizes = {"batch_size": 8, "peak_bytes": 1e4 * length, "carried_bytes": 4096}
                whole = spent(run.method, phase, length)["whole"]
                found["steps"].append({**about, "phase": phase, "length": length, **sizes, "whole": whole})
            for distance in (0, 1, 2, 4, 8, 16):
                far = 20 + 9 * distance * (phase == "train" and state == "constant")
                row = {**about, "phase": phase, "length": 32, "distance": distance, "shortest": far, "longest": 2 * far}
                gone = {"shortest": None, "longest": None, "outside": "the teacher's memories hold what to keep"}
                found["credit"].append({**row, **(gone if phase == "dmt" else {"outside": None})})
        for position in (8, 16, 32, 64, 128, 256):
            grown = position if state == "growing" else 1
            sizes = {"flops": 5000 + 100 * grown, "elementwise": 100, "state_bytes": 256 * grown, "seconds": 2e-4}
            found["inference"].append({**about, "state": state, "position": position, **sizes})
    return found
