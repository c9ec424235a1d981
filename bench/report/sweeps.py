"""What is compared with what: pairs of methods at equal settings, and sweeps along a field with all else held still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from bench.report.data import Data
from bench.report.query import Setting, by_setting, free, hashable, known_words, needed, number, place, varying
from bench.report.words import clean

SHARED = ("task.", "model.", "training.budget.", "evaluation.score_from", "device", "precision")
"""Fields in which two methods must agree to be compared; in the others each has values of its own."""
FOLLOWING = ("training.", "model.heads", "model.head_width")
"""Fields that in older folders may follow from the field of a sweep, such as a learning rate from a size."""


class Pair(NamedTuple):
    """Runs of two methods at one setting, a row per seed."""

    where: str
    a: pd.DataFrame
    b: pd.DataFrame


def pairs(a: pd.DataFrame, b: pd.DataFrame, apart: Sequence[str] = ()) -> list[Pair]:
    """Runs that differ in nothing but method and seed, as far as both methods have the field.

    They may differ in the columns `apart` too. A method that comes in several variants is paired in each. Settings that
    two grids have in common, with the very same runs, count once.
    """
    found: list[Pair] = []
    known: dict[Any, str] = {}
    several = len({*a["grid"], *b["grid"]}) > 1
    for grid, task in dict.fromkeys(zip(a["grid"], a["task"])):
        left, right = (runs[(runs["grid"] == grid) & (runs["task"] == task)] for runs in (a, b))
        apart_in = varying(pd.concat([left, right]))
        shared = [name for name in apart_in if name.startswith(SHARED) or set(left[name]) == set(right[name])]
        shared = [name for name in shared if name not in apart]
        own = [name for name in apart_in if name not in shared]
        varied = [name for name in own if max(left[name].nunique(), right[name].nunique()) > 1]
        named = needed(pd.concat([left, right]), ["method", *shared, *varied])
        there = dict(by_setting(right, shared))
        for setting, part in by_setting(left, shared):
            for mine, first in by_setting(part, own):
                for other, two in by_setting(there.get(setting, right[:0]), own):
                    extra = (item for item in (*mine, *other) if item[0] in varied)
                    told = tuple(item for item in (*setting, *extra) if item[0] in named)
                    where = place(grid if several else None, task, told)
                    pair = Pair(where, of_seeds(first), of_seeds(two))
                    same = tuple(tuple(zip(run.index, run["accuracy"], run["loss"])) for run in pair[1:])
                    if known.setdefault((task, *same), grid) == grid:
                        found.append(pair)
    return found


def of_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per seed, indexed by it."""
    return rows.drop_duplicates("seed").set_index("seed").sort_index()


def sweeps(
    data: Data, rows: pd.DataFrame, fields: Sequence[str], following: tuple[str, ...] = FOLLOWING, least: int = 2
) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """(what is held still, rows of one grid, task and method) of cells that differ only in these fields and in seed.

    Only sets in which the first field has `least` values. What else the grid states may vary is held still; the other
    fields follow, or, where cells of one value differ in them, are held still, too. Of an older folder those that
    begin as `following` may follow.
    """
    first = fields[0]
    rows = rows.dropna(subset=first) if first in rows else rows[:0]
    for (grid, *_), part in rows.groupby(["grid", "task", "method"], sort=True):
        others = [name for name in varying(part) if name not in fields]
        record = data.grids.get(str(grid))
        if record is None:
            held = [name for name in others if not name.startswith(following)]
        else:
            stated = [name for together in record["stated"] if not set(together) & set(fields) for name in together]
            held = [name for name in others if any(name == field or name.startswith(f"{field}.") for field in stated)]
        for _, alike in by_setting(part, held):
            comparable = alike.assign(**{name: alike[name].map(hashable) for name in others})
            loose = free(comparable, [name for name in fields if name in alike], others)
            for setting, own in by_setting(alike, [name for name in others if name in (*held, *loose)]):
                if own[first].nunique() >= least:
                    yield setting, own


def with_settings(found: Iterable[tuple[Setting, pd.DataFrame]]) -> Iterator[pd.DataFrame]:
    """The rows of sweeps with `setting`, what is held still in words; of a method's only sweep the task's knobs."""
    listed = [(tuple(own[["grid", "task", "method"]].iloc[0]), setting, own) for setting, own in found]
    counts = Counter(who for who, *_ in listed)
    for who, setting, own in listed:
        told = setting if counts[who] > 1 else tuple(item for item in setting if item[0].startswith("task."))
        yield own.assign(setting=known_words(told))


@dataclass(frozen=True)
class Ladder:
    """Runs of one method that differ in one field and their seed; a row per value and seed."""

    where: str
    column: str
    rows: pd.DataFrame
    rungs: tuple[float, ...]  # the values of the field, in order

    def at(self, value: float) -> pd.DataFrame:
        """The runs at one value, by seed."""
        return of_seeds(self.rows[self.rows[self.column] == value])

    @property
    def by_rung(self) -> dict[str, pd.DataFrame]:
        """The runs at each value, called by it."""
        return {f"{value:g}": self.at(value) for value in self.rungs}


def ladders(data: Data, runs: pd.DataFrame, column: str, least: int) -> list[Ladder]:
    """Every sweep along a column of numbers; those that two grids have in common, with the very same runs, once."""
    if column not in runs:
        return []
    found: list[Ladder] = []
    known: dict[Any, Any] = {}
    several = len(set(runs["grid"])) > 1
    for setting, own in sweeps(data, runs.assign(**{column: number(runs[column])}), [column], ("",), least):
        grid, task, method = own[["grid", "task", "method"]].iloc[0]
        own = own.sort_values([column, "seed"])
        where = f"{place(str(grid) if several else None, str(task), setting)}, {clean(method)}"
        numbers = own[[column, "seed", "accuracy", "loss"]].itertuples(index=False, name=None)
        if known.setdefault((task, method, *numbers), grid) == grid:
            found.append(Ladder(where, column, own, tuple(sorted(set(own[column])))))
    return found
