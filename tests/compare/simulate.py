"""How often tolerances cry wolf, and how often they find what is there: simulated from a baseline's own spread.

    python -m tests.compare.simulate results/baselines/regression.json

Seeds are drawn from a normal distribution with the mean and standard deviation that each configuration's seeds have in
the baseline. A pair is two such draws with other seeds: as they are, nothing should be a regression; with one number of
one configuration moved by twice its tolerance, that one should be.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.compare.judge import compare
from bench.compare.sides import Cell, Side, read
from bench.tolerances import Tolerances

SCORES = ("accuracy", "loss")
SHARES = (0.33, 0.5, 0.75, 1.0, 2.0)
"""Multiples of the baseline's tolerances that the command tries."""


class Rates(NamedTuple):
    """Percentages of pairs: `quiet` without a false regression, `found` with the planted one found."""

    quiet: float
    found: float


def rates(baseline: Side, tolerances: Tolerances, pairs: int = 100, seed: int = 0) -> Rates:
    """Rates of accuracy and loss at these tolerances, over that many pairs of as many seeds as the baseline has."""
    random_, groups = random.Random(seed), _groups(baseline)
    count = len(groups[0])
    quiet = found = 0
    for _ in range(pairs):
        old = _drawn(groups, random_, range(count), {})
        other = range(count, 2 * count)
        quiet += not compare(_drawn(groups, random_, other, {}), old, tolerances).regressed
        moved, metric = random_.randrange(len(groups)), random_.choice(SCORES)
        effect = -2 * tolerances.accuracy if metric == "accuracy" else 2 * tolerances.loss
        new = _drawn(groups, random_, other, {(moved, metric): effect})
        cell = new.cells[moved * count]
        name = (cell.config["task"], cell.config["method"])
        regressed = {(*row.cell.split(" ")[:2], row.metric) for row in compare(new, old, tolerances).of("regression")}
        found += (*name, metric) in regressed
    return Rates(100 * quiet / pairs, 100 * found / pairs)


def _groups(baseline: Side) -> list[list[Cell]]:
    """The cells of each configuration."""
    groups: dict[str, list[Cell]] = {}
    for cell in baseline.cells:
        groups.setdefault(json.dumps(dict(cell.config), sort_keys=True), []).append(cell)
    return list(groups.values())


def _drawn(
    groups: list[list[Cell]], random_: random.Random, seeds: range, shift: Mapping[tuple[int, str], float]
) -> Side:
    """New seeds of every configuration; `shift` moves a number of the configuration with that index."""
    cells = []
    for index, same in enumerate(groups):
        spread = {}
        for metric in SCORES:
            values = [cell.numbers[metric] for cell in same]
            spread[metric] = statistics.fmean(values) + shift.get((index, metric), 0.0), statistics.stdev(values)
        for seed in seeds:
            numbers = {metric: random_.gauss(mean, deviation) for metric, (mean, deviation) in spread.items()}
            cells.append(Cell(same[0].config, seed, "done", None, numbers))
    return Side("simulated", cells)


def _main(path: str) -> None:
    baseline = read(Path(path))
    kept = baseline.tolerances or Tolerances()
    print("accuracy  loss   of 100 pairs: without a false regression, with the planted one found")
    for share in SHARES:
        tolerances = kept.model_copy(update={"accuracy": share * kept.accuracy, "loss": share * kept.loss})
        found = rates(baseline, tolerances, pairs=200)
        print(
            f"{tolerances.accuracy:<8.3f}  {tolerances.loss:<5.3f}  {found.quiet:5.1f}  {found.found:5.1f}", flush=True
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.compare.simulate BASELINE")
    _main(sys.argv[1])
