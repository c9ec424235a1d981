"""Fabricated laboratories: for each claim one whose data supports it, and one whose data contradicts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.report.claims import Verdict, base
from bench.report.data import Data
from tests.report.fabricated import only

EMPTY = pd.DataFrame()
PAPERS = [str(number) for number in range(1, 15)]
OURS = ["ours-1", "ours-2", "ours-3", "ours-4", "ours-5"]


class Lab:
    """Fabricated results, with a record of each kind for every run."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("results", "curves", "steps", "credit", "inference", "gradients", "drift")
        }
        self.geometry: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def add(
        self,
        method: str,
        accuracies: Sequence[float],
        task: str = "retrieval",
        *,
        grid: str = "g",
        losses: Sequence[float] | float = 1.0,
        teacher: dict[str, float] | None = None,
        longer: float | None = None,
        longer_teacher: float | None = None,
        before_dmt: float | None = None,
        rising: bool = False,
        unit: str = "nats",
        cost: float = 1.0,
        falls: float = 0.0,
        state: str = "done",
        chance: float = 0.1,
        record: Callable[[int], dict[str, Any]] | None = None,
        **fields: Any,
    ) -> Lab:
        """Runs of seeds 0, 1, .. with these final accuracies and losses; `fields` are config columns, `__` for dots."""
        config = {name.replace("__", "."): value for name, value in fields.items()}
        config = {"task.length": 16, "model.d": 32, "model.backbone": "transformer"} | config
        each = [losses] * len(accuracies) if isinstance(losses, float) else losses
        for seed, (accuracy, loss) in enumerate(zip(accuracies, each)):
            name = f"{task}-{method}-{seed}-{sorted(config.items())}-{len(self.rows['results'])}"
            run = {"grid": grid, "id": name, "task": task, "method": method, "seed": seed} | config
            run["backbone"] = config["model.backbone"]
            facts = {"state": state, "chance": chance, "accuracy_ceiling": 1.0, "unit": unit}
            facts |= {"predictor_parameters": 100.0 * config["model.d"], "traits.teacher": method.startswith("smt")}
            scored = [("rnn", config["task.length"], accuracy, loss)]
            scored += [("teacher", config["task.length"], teacher["accuracy"], teacher["loss"])] if teacher else []
            scored += [("rnn", 2 * config["task.length"], longer, loss)] if longer is not None else []
            if longer_teacher is not None:
                scored.append(("teacher", 2 * config["task.length"], longer_teacher, loss))
            for predictor, length, right, its_loss in scored:
                score = {"predictor": predictor, "reference": predictor != "rnn", "length": length}
                self.rows["results"].append({**run, **facts, **score, "accuracy": right, "loss": its_loss})
            for part in np.linspace(0, 1, 11).round(1).tolist():
                phase = "train" if method != "smt+dmt" else "smt" if part <= 0.7 else "dmt"
                now = accuracy * part if rising else accuracy
                now = before_dmt if before_dmt is not None and phase == "smt" else now
                point = {"phase": phase, "tokens": 1000 * part, "predictor": "rnn", "reference": False}
                spent = {
                    "cpu_seconds": 10 * part * cost,
                    "steps": 100 * part,
                    "spent.tokens": 1000 * part,
                    "spent.sequential_flops": 1000 * part * cost,
                }
                now_loss = loss + falls * max(0.0, 0.8 - part)
                self.rows["curves"].append({**run, **point, **spent, "accuracy": now, "loss": now_loss})
            for kind, found in (record(seed) if record else {}).items():
                if kind == "geometry":
                    self.geometry.append((run, found))
                else:
                    self.rows[kind] += [{**run, **entry} for entry in found]
        return self

    def data(self) -> Data:
        return Data(
            **{name: pd.DataFrame(rows) for name, rows in self.rows.items()}, geometry=self.geometry, samples=[]
        )


HIGH, MIDDLE, LOW = [0.9, 0.91, 0.92], [0.5, 0.52, 0.51], [0.3, 0.31, 0.29]
CHANCE = [0.1, 0.11, 0.1]


def verdict(key: str, data: Data) -> Verdict:
    return next(claim for claim in base.registered() if claim.key == key).judge(data)


def entry(found: Verdict, what: str) -> dict[str, float]:
    """The one number of that name, with its interval."""
    return only(found.numbers, what=what)


def value(found: Verdict, what: str) -> float:
    return entry(found, what)["value"]


def cut(lab: Lab, seeds: int) -> Data:
    """The same data, of the first seeds alone."""
    data = lab.data()
    kept = {name: frame[frame["seed"] < seeds] for name in lab.rows if "seed" in (frame := getattr(data, name))}
    return replace(data, **kept, geometry=[(run, record) for run, record in data.geometry if run["seed"] < seeds])


# One laboratory for each claim: what supports it, and what contradicts it.


def synthetic(smt: Sequence[float], bptt: Sequence[float], harder: float = 0.2) -> Lab:
    """keys-values is `harder` for both."""
    lab = Lab()
    for task in ("retrieval", "string-copy", "stack", "modular-arithmetic", "keys-values"):
        for length in (8, 16):
            less = harder if task == "keys-values" else 0
            for method, found in (("smt+dmt", smt), ("bptt", bptt)):
                lab.add(method, [accuracy - less for accuracy in found], task, task__length=length)
    return lab


def lengths(smt: Sequence[float], bptt: Sequence[float]) -> Lab:
    lab = Lab()
    for method, last in (("smt+dmt", smt), ("bptt", bptt)):
        lab.add(method, HIGH, task__length=8).add(method, HIGH, task__length=64).add(method, last, task__length=128)
    return lab


def traced(smt: float, bptt: float, transformer: float = 0.0, dmt: float = 1.0) -> Lab:
    """Sequential operations that grow with these exponents; credit paths and streams to match."""
    lab = Lab()
    cases = {("smt+dmt", "smt"): smt, ("smt+dmt", "dmt"): dmt}
    cases |= {("bptt", "train"): bptt, ("transformer", "train"): transformer}
    for (method, phase), exponent in cases.items():
        about = {"grid": "c", "task": "retrieval", "method": method, "backbone": "transformer", "phase": phase}
        lab.rows["steps"] += [
            {**about, "length": length, "whole.sequential_operations": 7.0 * length**exponent}
            for length in (8, 16, 32, 64, 128, 256, 512)
        ]
        if phase != "dmt":
            lab.rows["credit"] += [
                {**about, "length": 32, "distance": distance, "shortest": 20.0 + 9 * distance * exponent}
                for distance in range(32)
            ]
            grows = method == "transformer"
            lab.rows["inference"] += [
                {**about, "state": "growing" if grows else "constant", "position": position, "elementwise": 10.0}
                | {"state_bytes": 64.0 * (position if grows else 1), "flops": 1000.0 + 2.0 * position * grows}
                for position in (8, 16, 32, 64, 128, 256, 512)
            ]
    return lab


def streams_swapped() -> Lab:
    """The RNNs stream as the Transformer should, and the other way round."""
    lab = traced(0, 1)
    swapped = {"growing": "constant", "constant": "growing"}
    for row in lab.rows["inference"]:
        row["state"] = swapped[row["state"]]
    return lab


def norms(smt: float, bptt: float) -> Lab:
    """ln |dL/dm_t| with these slopes, at initialisation and after training."""

    def record(slope: float, through: str) -> Callable[[int], dict[str, Any]]:
        return lambda seed: {
            "gradients": [
                {"when": when, "t": t, "norm": math.exp((slope + 0.001 * seed) * t), "loss_at": 31, "through": through}
                for when in ("init", "trained")
                for t in range(32)
            ]
        }

    lab = Lab().add("smt+dmt", HIGH, record=record(smt, "the decoder"))
    return lab.add("bptt", HIGH, record=record(bptt, "the unrolled updater"))


def drifting(factor: float, before: float) -> Lab:
    def record(seed: int) -> dict[str, Any]:
        return {
            "drift": [
                {"phase": phase, "t": t, "delta": delta * (1 + t) * (1 + 0.01 * seed), "accuracy": math.nan}
                for phase, delta in (("smt", 0.2), ("dmt", 0.2 * (factor + 0.01 * seed)))
                for t in range(32)
            ]
        }

    return Lab().add("smt+dmt", MIDDLE, before_dmt=before, record=record)


def beyond_training(rnn: float, others: float, method: str = "smt+dmt", **fields: Any) -> Lab:
    teacher = {"accuracy": 0.9, "loss": 1.0}
    lab = Lab().add(method, HIGH, longer=rnn, teacher=teacher, longer_teacher=others, **fields)
    return lab.add("transformer", HIGH, longer=others, **fields)


def carried(rnn: float, others: float) -> Lab:
    """The dense form with a curriculum, and BPTT as one more rival."""
    fields = {"training__curriculum__below": 0.3}
    return beyond_training(rnn, others, "smt-dense+dmt", **fields).add("bptt", HIGH, longer=others, **fields)


def natural(smt: float, bptt: float, cheaper: float, task: str = "mnist") -> Lab:
    """Final losses in bits; the curves fall by two bits on the way there."""
    lab = Lab()
    for method, loss, cost in (("smt+dmt", smt, 1.0), ("bptt", bptt, cheaper)):
        losses = [(loss + 0.001 * seed) * math.log(2) for seed in range(3)]
        falls = 2 * math.log(2)
        lab.add(method, LOW, task, losses=losses, unit="bits", cost=cost, falls=falls, grid=task)
    return lab


def ladder(*losses: float, gaps: Sequence[float] = (0.5, 0.3, 0.1)) -> Lab:
    """Three rungs each of context, memory and size with these losses in bits; the teacher is ahead by `gaps`."""
    lab = Lab()
    rungs = {"method__context": (2, 8, 24), "model__memory_tokens": (1, 2, 8), "model__d": (8, 16, 32)}
    for column, values in rungs.items():
        for rung, loss, gap in zip(values, losses, gaps):
            fields = {"method__context": 64, "model__memory_tokens": 4, "model__d": 24} | {column: rung}
            each = [(loss + 0.001 * seed) * math.log(2) for seed in range(3)]
            teacher = {"accuracy": 0.5, "loss": (loss - gap) * math.log(2)}
            lab.add("smt+dmt", LOW, "digits", losses=each, unit="bits", teacher=teacher, **fields)
    return lab


def memories(small_late: float) -> Lab:
    """Memories 1, 2 and 8: the large one has 3 bits at half time; those of 1 and 2 end at `small_late`."""
    lab = Lab()
    for size, end, falls in ((1, small_late, 2.0), (2, small_late, 2.0), (8, 2.9, 0.2)):
        losses = [(end + 0.001 * seed) * math.log(2) for seed in range(3)]
        fields = {"model__memory_tokens": size}
        lab.add("smt+dmt", LOW, "digits", losses=losses, unit="bits", falls=falls * math.log(2), **fields)
    return lab


SOLVED = [0.97, 0.96, 0.98]


def futures(joint: Sequence[float], detached: Sequence[float], detached_whole: Sequence[float]) -> Lab:
    """Accuracies with T_f = 1, joint and detached, and with all of the future."""
    lab, cases = Lab(), ((1, False, joint), (64, False, SOLVED), (1, True, detached), (64, True, detached_whole))
    for future, detach, found in cases:
        lab.add("smt+dmt", found, method__future=future, method__detach=detach)
    return lab


def weighted(rank_without: float, without: Sequence[float], larger: Sequence[float], papers: Sequence[float]) -> Lab:
    """Effective rank and accuracy without L_unif, accuracies with 0.1 of it, and with the paper's lambda_dyn."""

    def record(rank: float) -> Callable[[int], dict[str, Any]]:
        return lambda seed: {"geometry": {"effective_rank": rank + 0.01 * seed}}

    lab = Lab()
    for unif, dyn, found, rank in (
        (0.0, 1.0, without, rank_without),
        (0.001, 1.0, [0.8, 0.81, 0.79], 10.0),
        (0.1, 1.0, larger, 12.0),
        (0.001, 0.1, papers, 10.0),
        (0.001, 10.0, MIDDLE, 10.0),
    ):
        lab.add("smt+dmt", found, record=record(rank), method__lambda_unif=unif, method__lambda_dyn=dyn)
    return lab


def arranged(clustered: bool, branching: bool) -> Lab:
    """Points of five needles, in clusters or not; of strings, at places that their first symbols tell or not."""

    def needles(seed: int) -> dict[str, Any]:
        noise = np.random.default_rng(seed)
        labels = np.arange(50) % 5
        centres = np.stack([np.cos(labels), np.sin(labels)], 1) if clustered else np.zeros((50, 2))
        points = centres + 0.05 * noise.normal(size=(50, 2))
        return {"geometry": {"points": points.tolist(), "label": labels.tolist()}}

    def strings(seed: int) -> dict[str, Any]:
        noise = np.random.default_rng(seed)
        prefix = noise.integers(1, 4, size=(60, 4))
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.9]])
        points = sum(corners[prefix[:, place] - 1] * 0.4**place for place in range(4))
        points = points if branching else noise.normal(size=(60, 2))
        return {"geometry": {"points": points.tolist(), "label": prefix[:, 0].tolist(), "prefix": prefix.tolist()}}

    return Lab().add("smt+dmt", HIGH, record=needles).add("smt+dmt", HIGH, "string-copy", record=strings)


def backbones(gru_smt: Sequence[float], gru_bptt: Sequence[float]) -> Lab:
    lab = Lab()
    for method, found in (("smt+dmt", gru_smt), ("bptt", gru_bptt)):
        lab.add(method, HIGH).add(method, found, model__backbone="gru").add(method, HIGH, model__backbone="mlp")
    return lab


def raced(ours: float, published: float) -> Lab:
    """BPTT of a gated cell, and both forms of SMT at these multiples of its CPU seconds, all of them solving."""
    lab = Lab().add("bptt", SOLVED, model__backbone="gru", cost=1.0, rising=True)
    return lab.add("smt-dense+dmt", SOLVED, cost=ours, rising=True).add("smt+dmt", SOLVED, cost=published, rising=True)


def lengthened(last: Sequence[float]) -> Lab:
    """A gated cell with a curriculum."""
    fields = {"model__backbone": "gru", "training__curriculum__below": 0.2}
    lab = Lab().add("bptt", HIGH, task__length=16, **fields).add("bptt", last, task__length=128, **fields)
    return lab.add("smt+dmt", LOW)


LABS: dict[str, tuple[Lab, Lab]] = {
    "1": (synthetic(HIGH, LOW), synthetic(LOW, HIGH, 0.0)),
    "2": (lengths(HIGH, LOW), lengths(LOW, HIGH)),
    "3": (traced(0, 1), traced(1, 0, 1, 0)),
    "4": (traced(0, 1), streams_swapped()),
    "5": (norms(0.0, 0.5), norms(0.5, 0.0)),
    "6": (drifting(0.5, 0.3), drifting(2.0, 0.9)),
    "7": (beyond_training(0.9, 0.4), beyond_training(0.2, 0.85)),
    "8": (natural(2.0, 2.2, 10.0), natural(2.5, 2.0, 0.1)),
    "9": (ladder(3.0, 2.5, 2.2), ladder(2.2, 2.5, 3.0, gaps=(0.1, 0.3, 0.5))),
    "10": (memories(2.5), memories(3.5)),
    "11": (futures(SOLVED, LOW, SOLVED), futures(LOW, SOLVED, LOW)),
    "12": (weighted(2.0, [0.77, 0.78, 0.76], MIDDLE, HIGH), weighted(10.0, LOW, HIGH, LOW)),
    "13": (arranged(True, True), arranged(False, False)),
    "14": (backbones(CHANCE, MIDDLE), backbones(MIDDLE, MIDDLE)),
    "ours-1": (
        Lab().add("smt-dense+dmt", HIGH).add("smt+dmt", LOW),
        Lab().add("smt-dense+dmt", LOW).add("smt+dmt", HIGH),
    ),
    "ours-2": (lengthened(HIGH), lengthened(LOW)),
    "ours-3": (raced(9.0, 20.0), raced(0.2, 0.1)),
    "ours-4": (natural(2.5, 2.0, 1.0), natural(2.0, 2.2, 1.0)),
    "ours-5": (carried(0.9, 0.4), carried(0.2, 0.85)),
}
