"""How long workloads take in units of two yardsticks that are timed beside them, so that machines can be compared.

A ratio is the median time of a workload over the median time of a yardstick, all timed in turn, round by round, so that
a machine that changes its speed does so for all alike. Time is that of the processor, which leaves out what it does for
others (and also what a workload waits for). One yardstick is bound by arithmetic, the other by the cost of calling
operators; a machine may be faster in one only. So a workload counts as slower by the smaller of its two rises.

    python -m tests.benchmarks.ratios        # measure again and write the committed ratios
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from bench.measure import calibration
from bench.results import write_json
from tests.benchmarks import workloads
from tests.benchmarks.workloads import Workload

BASELINE = Path(__file__).parents[2] / "results/baselines/benchmarks.json"
MARGIN = 1.6
"""What is not yet called slower. Measurements on one machine of two cores differed by up to 1.06 with three processes
on it and 1.32 with ten; the rest is for machines of other kinds. Twice as slow is above it.
"""
ROUNDS = 11
SHORTEST = 0.004
"""Seconds that one reading takes at least."""

Ratios = dict[str, dict[str, float]]
"""Workload -> yardstick -> ratio."""


def yardsticks() -> dict[str, Workload]:
    """Those of `bench.measure.calibration`: matrix products, and operators so small that only their call takes time."""
    square, small = torch.full((calibration.SIZE, calibration.SIZE), 1 / calibration.SIZE), torch.zeros(8)
    return {"products": partial(calibration._products, square), "calls": partial(calibration._chain, small)}


def measure(timed: Mapping[str, Workload], rounds: int = ROUNDS) -> Ratios:
    """The ratios of these workloads now. The first round sets things up; the second says how often to repeat what is
    too short for the clock; neither counts.
    """
    rods = yardsticks()
    all_of_them = rods | dict(timed)
    seconds: dict[str, list[float]] = {name: [] for name in all_of_them}
    repeats = dict.fromkeys(all_of_them, 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for i in range(-2, rounds):
            for name, work in all_of_them.items():
                began = time.process_time()
                for _ in range(repeats[name]):
                    work()
                spent = (time.process_time() - began) / repeats[name]
                if i >= 0:
                    seconds[name].append(spent)
                elif i == -1:
                    repeats[name] = math.ceil(SHORTEST / spent)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {name: {rod: medians[name] / medians[rod] for rod in rods} for name in timed}


def rises(now: Ratios, before: Ratios) -> dict[str, float]:
    """By how much each workload of both became slower, as a factor."""
    return {name: min(now[name][rod] / before[name][rod] for rod in now[name]) for name in now.keys() & before.keys()}


def slower(now: Ratios, before: Ratios, margin: float = MARGIN) -> list[str]:
    """A line for each workload that became slower by more than the margin."""
    found = rises(now, before)
    return [f"{name}: {found[name]:.1f} times as slow as before" for name in now if found.get(name, 0) > margin]


def committed() -> Ratios:
    """The ratios to compare with."""
    return json.loads(BASELINE.read_text())


def main() -> None:
    """Write the ratios of now."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(workloads.everything(Path(folder)), 2 * ROUNDS)
    rounded = {name: {rod: float(f"{value:.3g}") for rod, value in ratios.items()} for name, ratios in found.items()}
    write_json(BASELINE, rounded)
    print(f"wrote {BASELINE}")


if __name__ == "__main__":
    main()
