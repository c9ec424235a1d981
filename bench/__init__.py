"""A benchmark of ways to train recurrent networks: which learns more with the same budget, and what each costs.

    frame = bench.run("quick", set=["training.budget.tokens=200_000"])
    frame = bench.load_results("results/quick")

Both return a tidy pandas frame with one row per run, scored predictor and test length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

__version__ = "0.3.0"
__all__ = ["__version__", "load_results", "run"]


def run(
    grid: str | Path | Mapping[str, Any],
    *,
    results: str | Path = "results",
    set: Sequence[str] = (),
    name: str = "grid",
    launcher: Literal["local", "inline"] = "local",
    workers: int | None = None,
    retry: int = 1,
    stuck: float | None = 1800,
    lease: float = 60,
    force: bool = False,
    stale: bool = False,
    plugins: Sequence[str | Path] = (),
    tensorboard: bool = False,
    measure: Sequence[Literal["cost", "dynamics", "samples", "diagnosis", "calibration"]] | None = None,
    quiet: bool = True,
) -> pd.DataFrame:
    """Run the cells of a grid that are not done, and return `load_results` of its folder.

    `grid` is the name of a shipped grid, a YAML file, or the contents of one (then `name` names its folder). `set`
    holds KEY=VALUE overrides. `measure` lists what to measure in finished cells; None: what the grid lists.
    `launcher` "local" runs worker processes, "inline" this one; `stuck` and `lease` are described in `run --help`.
    Raises `BadInput` (a `ValueError`) with one line when something given cannot be used, `KeyboardInterrupt` after a
    clean stop, and `OSError` when results cannot be written. Cells that fail do not raise: see the columns `state` and
    `reason`.
    """
    from bench import registry
    from bench.grid import Collection, load_collection, make_grid
    from bench.launch import LaunchOptions, run_cells
    from bench.paths import at_home

    results = at_home(results)
    for file in plugins:
        registry.load_plugin(at_home(file))
    if isinstance(grid, Mapping):
        collection = Collection(name, (make_grid(name, grid, set),), single=True)
    else:
        collection = load_collection(str(at_home(grid)), set)
    options = LaunchOptions(
        launcher=launcher,
        workers=workers,
        retry=retry,
        force=force,
        stale=stale,
        tensorboard=tensorboard,
        lease_seconds=lease,
        stuck_seconds=stuck,
        quiet=quiet,
    )
    for loaded in collection.grids:
        measures = loaded.measures if measure is None else tuple(measure)
        folder = collection.folder(results, loaded)
        own = dataclasses.replace(options, measures=measures)
        outcome = run_cells(loaded.runs, folder, own, loaded.record())
        if outcome.interrupted:
            raise KeyboardInterrupt
        if outcome.halted:
            raise OSError(outcome.halted)
    return load_results(folder if collection.single else results / collection.name)


def load_results(path: str | Path) -> pd.DataFrame:
    """One row per run, scored predictor and test length below `path`; `bench.results` describes the columns."""
    from bench import results
    from bench.paths import at_home

    return results.load_results(at_home(path))
