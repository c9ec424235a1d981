"""From rows to tables: means over seeds with their intervals, in the order of reading, without what says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.report import style
from bench.report.query import number
from bench.statistics import Interval, exponential, mean_interval, paired_difference


def per_seed(rows: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """A row per group and seed: `by`, seed, and the mean of `value` over its rows that have one."""
    kept = rows.assign(**{value: number(rows[value])}).dropna(subset=[value, "seed"])
    return kept.groupby([*by, "seed"], dropna=False, sort=False)[value].mean().reset_index()


def with_ends(name: str, interval: Interval) -> dict[str, float]:
    """The columns of a mean with its interval: `name`, and with `_low` and `_high` its ends."""
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def tabulate(rows: pd.DataFrame, by: Sequence[str], **how: str) -> pd.DataFrame:
    """One row per group: the columns `by`, what `how` makes of each of the others, and seeds, how many there are.

    "interval": the mean over seeds, and as `_low` and `_high` its interval; "geometric": the same in logarithms, of
    what is positive; "mean"; "first". A group's rows of one seed are averaged first; gaps in `by` are values, too.
    """
    numbers = [name for name, kind in how.items() if kind != "first"]
    rows = rows.assign(**{name: number(rows[name]) for name in numbers}).dropna(subset="seed")
    kept = {name: "first" if kind == "first" else "mean" for name, kind in how.items()}
    seeds = rows.groupby([*by, "seed"], dropna=False, sort=False).agg(kept).reset_index()
    found = []
    for key, part in seeds.groupby(list(by), dropna=False, sort=False):
        record = dict(zip(by, key))
        for name, kind in how.items():
            record |= _told(name, kind, part[name].dropna().to_numpy())
        found.append({**record, "seeds": len(part)})
    columns = [column for name, kind in how.items() for column in _told(name, kind, np.empty(0))]
    return pd.DataFrame(found, columns=[*by, *columns, "seeds"])


def _told(name: str, kind: str, values: np.ndarray) -> dict[str, Any]:
    """What `tabulate` tells of a group's values."""
    if kind == "mean":
        return {name: values.mean() if len(values) else np.nan}
    if kind == "first":
        return {name: next(iter(values), None)}
    if kind == "geometric":
        return with_ends(name, exponential(mean_interval(np.log(values[values > 0]))))
    return with_ends(name, mean_interval(values))


def mean_of(runs: pd.DataFrame, name: str) -> Interval:
    """Mean of a column over seeds."""
    return mean_interval(runs[name].to_numpy(dtype=float))


def difference(a: pd.DataFrame, b: pd.DataFrame, column: str) -> Interval:
    """The mean of a - b, frames indexed by seed, over the seeds that both have, with its interval."""
    left, right = ({int(seed): float(value) for seed, value in runs[column].dropna().items()} for runs in (a, b))  # type: ignore[call-overload]
    return paired_difference(left, right)


def grouped(rows: pd.DataFrame, *by: str) -> Iterator[tuple[Any, pd.DataFrame]]:
    """(values of these columns, rows), in the order of tables: by place, then method."""
    yield from in_order(rows, "order", "method", "setting").groupby(list(by), sort=False)


def in_order(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The table sorted by these columns; methods as legends have them."""
    ranked = table.assign(**{"method": table["method"].map(style.order)}) if "method" in columns else table
    return table.loc[ranked.sort_values(list(columns), kind="stable").index].reset_index(drop=True)


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """A table over `GROUP` as a reader sees it; with `place` where task and length are not enough to tell settings."""
    known = table.groupby(["grid", "task", "length"], dropna=False)["place"].nunique().le(1).all()
    hidden = ("place",) if known else ()
    return without_idle(in_order(table, "order", "method", "setting"), "order", "base", *hidden)


def without_idle(table: pd.DataFrame, *hidden: str, keep_grid: bool = False) -> pd.DataFrame:
    """The table without these columns, and without words that are empty, or a grid that is the same, throughout."""
    table = table.drop(columns=list(hidden))
    idle = [name for name in ("setting", "where") if name in table and not table[name].astype(bool).any()]
    idle += ["grid"] if not keep_grid and len(set(table["grid"])) == 1 else []
    return table.drop(columns=idle).reset_index(drop=True)
