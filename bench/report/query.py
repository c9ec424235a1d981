"""Which cells belong together: their settings, where they stand, what they scored. All sections and claims ask here.

What a grid says of its cells is in its grid.json (`bench.results.places`): its fields, and where a cell departs from
the default setting. Folders from before there was such a file are read by one fallback: `_guessed_off`, and in
`bench.report.sweeps` the fields `FOLLOWING`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from bench.report.data import Data
from bench.report.words import clean, number_word, sortable, whole_as_int

CONFIG = ("task.", "method.", "model.", "training.", "evaluation.score_from", "device", "precision")
ABLATED = ("method.", "model.", "training.")
CURRICULUM = "training.curriculum."
WAYS = {"curriculum": CURRICULUM, "chrono": "model.chrono"}
"""Ways of training that the paper does not have, and the fields that say so."""
SILENT = ("training.budget.", "evaluation.")
"""Fields that say nothing of a setting where the others tell it apart; tables have a budget as tokens and steps."""
LINE = ["method", "setting", "predictor", "reference"]
"""What tells lines apart; `setting` is in words, empty where a method has but one."""
PLACE = ["order", "grid", "task", "length", "place"]
GROUP = [*PLACE, "method", "setting", "base"]
RUN = ["grid", "id"]

Setting = tuple[tuple[str, Any], ...]
"""Config columns with their values."""


P = ParamSpec("P")
T = TypeVar("T")


def remembered(find: Callable[Concatenate[Data, P], T]) -> Callable[Concatenate[Data, P], T]:
    """Decorator of what is asked of the same data again and again: found once, and a copy each time."""

    @wraps(find)
    def found(data: Data, /, *args: P.args, **how: P.kwargs) -> T:
        key = (find.__qualname__, args, *sorted(how.items()))
        if key not in data.memory:
            data.memory[key] = find(data, *args, **how)
        return copy(data.memory[key])

    return found


# Frames.


def with_columns(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The frame with these columns, empty where they were missing."""
    return frame.reindex(columns=[*frame, *(name for name in columns if name not in frame)])


def number(values: pd.Series) -> pd.Series:
    """As floats, NaN for what is no finite number."""
    return pd.to_numeric(values, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)


def names_of(frame: pd.DataFrame, starts: str | tuple[str, ...]) -> list[str]:
    """The columns whose names begin so."""
    return [str(name) for name in frame if str(name).startswith(starts)]


def keys(rows: pd.DataFrame) -> list[tuple[Any, Any]]:
    """(grid, id) of every row."""
    return list(zip(rows["grid"], rows["id"]))


def one_per_run(data: Data) -> pd.DataFrame:
    """A row per run, in any state."""
    return data.results.drop_duplicates(RUN).reset_index(drop=True) if len(data.results) else data.results


def provenance(runs: pd.DataFrame) -> pd.DataFrame:
    """What computed each run that says it: commit, versions and hardware; no host, which is nobody's business."""
    columns = [name for name in names_of(runs, "provenance.") if name not in ("provenance.host", "provenance.seed")]
    known = runs[columns].dropna(how="all").map(whole_as_int, na_action="ignore")
    return known.rename(columns=lambda name: str(name).removeprefix("provenance.").removeprefix("packages."))


@remembered
def curve_points(data: Data, *columns: str) -> pd.DataFrame:
    """The curves' points of finished runs' trained predictors, in order: grid, id, phase, these columns as numbers."""
    runs = with_columns(data.results, *RUN, "state")
    done = set(keys(runs[runs["state"] == "done"]))
    points = with_columns(data.curves, *RUN, "phase", "reference", *columns)
    of_done = np.array([run in done for run in keys(points)], dtype=bool)
    points = points[of_done & ~points["reference"].eq(True)]
    return points[[*RUN, "phase", *columns]].assign(**{name: number(points[name]) for name in columns})


# Settings.


def varying(rows: pd.DataFrame, starts: tuple[str, ...] = CONFIG) -> list[str]:
    """The config columns in which the rows differ; gaps are a value."""
    names = names_of(rows, starts)
    values = rows[names].to_numpy(dtype=object)
    gaps = pd.isna(values)
    differ = (values != values[:1]) & ~(gaps & gaps[:1])
    return [name for name, varies in zip(names, differ.any(axis=0)) if varies]


def free(rows: pd.DataFrame, by: str | Sequence[str], columns: Iterable[str]) -> list[str]:
    """Those of the columns that take several values at one value of `by`, so that they do not follow from it."""
    at = rows.groupby([by] if isinstance(by, str) else list(by), dropna=False)
    return [name for name in columns if name != by and at[name].nunique(dropna=False).gt(1).any()]


def short_names(columns: Iterable[str]) -> dict[str, str]:
    """Dotted columns -> their last parts, or the whole where two end alike; a curriculum's say that they are."""
    names = dict.fromkeys(columns)
    ends = Counter(name.rpartition(".")[2] for name in names)
    short = {name: end if ends[end := name.rpartition(".")[2]] == 1 else name for name in names}
    return short | {name: f"curriculum {name.rpartition('.')[2]}" for name in names if name.startswith(CURRICULUM)}


def telling(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of the columns, without fields of a curriculum that say only that there is one, but for one that does."""
    grown = [name for name in columns if name.startswith(CURRICULUM)]
    first = [name for name in grown if name.endswith((".below", ".within"))]
    kept = [name for name in grown if len(rows[name].dropna().unique()) > 1] or first[:1]
    return [name for name in columns if name not in grown or name in kept]


def label(setting: Iterable[tuple[str, Any]], names: Mapping[str, str]) -> str:
    """A setting in words, without gaps: `length 64, backbone gru`."""
    return clean(", ".join(f"{names[name]} {number_word(value)}" for name, value in setting if value is not None))


def known_words(setting: Setting) -> str:
    """As `label`, by short names."""
    return label(setting, short_names(name for name, value in setting if value is not None))


def needed(rows: pd.DataFrame, columns: Sequence[str], x: Sequence[str] = ()) -> list[str]:
    """Those of the config columns that it takes to tell the rows of one x apart; of such as follow from one, it.

    Knobs of a task, the backbone and ways of training stay in any case.
    """
    values = rows[[*columns, *x]].astype(object).where(rows[[*columns, *x]].notna(), None)
    apart = _distinct(values)
    for name in reversed(columns):
        if name != "model.backbone" and not name.startswith(("task.", *WAYS.values())):
            others = values.drop(columns=name)
            values = others if _distinct(others) == apart else values
    return [name for name in columns if name in values]


def worded(rows: pd.DataFrame, columns: Sequence[str], x: Sequence[str] = ()) -> pd.Series:
    """What every row says in these config columns, in words: the backbone, ways of training, and what else it takes.

    What is not `needed` is left out, as a rate that comes with a backbone.
    """
    columns = needed(rows, telling(rows, columns), x)
    names = short_names(columns)
    values = rows[columns].astype(object).where(rows[columns].notna(), None)
    texts = [
        label([(name, whole_as_int(value)) for name, value in zip(columns, row)], names)
        for row in values.itertuples(index=False, name=None)
    ]
    return pd.Series(texts, index=rows.index, dtype=object)


def worded_apart(rows: pd.DataFrame, by: Sequence[str], x: str | Sequence[str], columns: Sequence[str]) -> pd.Series:
    """What tells rows of one group and one x apart, in words; and, where the columns say so, who has a curriculum.

    Of a curriculum that tells no rows apart there is only that word, so that what has none at some x stays one setting.
    """
    if rows.empty:
        return rows["id"]
    grown = [name for name in columns if name.startswith(CURRICULUM)]
    x = [x] if isinstance(x, str) else list(x)
    found = []
    for _, part in rows.groupby(list(by), sort=False):
        words = worded(part, free(part, x, [name for name in columns if name not in grown]), x)
        if free(part.assign(words=words), ["words", *x], grown):
            words = worded(part, free(part, x, columns), x)
        found.append(words)
    words = pd.concat(found).reindex(rows.index)
    has = rows[grown].notna().any(axis=1)
    some = has.groupby([*(rows[name] for name in by), words], dropna=False).transform("any")
    silent = some & ~words.str.contains("curriculum", regex=False)
    return words if has.all() else words.mask(silent, words.where(words == "", words + ", ") + "curriculum")


def along_length(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows; chrono gates that all are of their run's own length are called T: one setting along the lengths."""
    if "model.chrono" not in rows:
        return rows
    chrono = rows["model.chrono"].astype(object)
    lengths = rows["task.length"].where(chrono.notna())
    along = len(set(lengths.dropna())) > 1 and chrono.isna().eq(chrono != lengths).all()
    return rows.assign(**{"model.chrono": chrono.where(chrono.isna(), "T")}) if along else rows


def place(grid: str | None, task: str, setting: Setting) -> str:
    """A setting in words: `retrieval, length 16`, with its grid where there are several."""
    words = ", ".join(filter(None, (clean(task), known_words(setting))))
    return f"{clean(grid)}: {words}" if grid is not None else words


def titled(rows: pd.DataFrame, grid: Any, task: Any, *words: Any) -> str:
    """A task with further words, and with its grid where the rows are of several."""
    return ", ".join(filter(None, (place(grid if len(set(rows["grid"])) > 1 else None, task, ()), *words)))


def settings(results: pd.DataFrame) -> dict[tuple[str, str], Setting]:
    """(grid, id) -> the fields in which a cell differs from others of its task and method; no budget that follows."""
    runs = results.drop_duplicates(RUN).reset_index(drop=True)
    columns = names_of(runs, ("task.", "method.", "model.", "training.", "evaluation.", "init_from."))
    columns += [name for name in ("device", "precision", "threads") if name in runs]
    config = runs[columns].astype(object)
    config = config.where(config.notna(), None)
    if "init_from.run" in config:  # the ids of one group stand for one another
        group = dict(zip(keys(runs), with_columns(runs, "group")["group"]))
        first: dict[Any, str] = {}
        sources = list(zip(runs["grid"], config["init_from.run"]))
        config["init_from.run"] = [first.setdefault(group.get(source) or source, source[1]) for source in sources]
    records, run = config.to_dict("records"), keys(runs)
    found: dict[tuple[str, str], Setting] = {}
    for rows in runs.groupby(["grid", "task", "method"], sort=False).indices.values():
        part = config.iloc[rows]
        differing = [name for name in columns if len(set(part[name])) > 1]
        differing = telling(part, differing)
        for silent in SILENT:
            others = [name for name in differing if not name.startswith(silent)]
            if _distinct(part[others]) == _distinct(part[differing]):
                differing = others
        for row in rows:
            found[run[row]] = tuple((name, whole_as_int(records[row][name])) for name in differing)
    return found


def _distinct(part: pd.DataFrame) -> int:
    return len(set(part.itertuples(index=False, name=None)))


def by_setting(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """(setting, its rows), by the values of the columns; gaps are a value."""
    values = rows[list(columns)].to_numpy(dtype=object, copy=True)
    values[pd.isna(values)] = None
    places: dict[Setting, list[int]] = {}
    for row, own in enumerate(values):
        places.setdefault(tuple(zip(columns, map(hashable, own))), []).append(row)
    for setting, at in places.items():
        yield setting, rows.iloc[at]


def hashable(value: Any) -> Any:
    """A value of a config as a part of a key."""
    return whole_as_int(value) if isinstance(value, int | float | str | bool) or value is None else str(value)


# Where cells stand.


def departures(runs: pd.DataFrame) -> pd.Series:
    """The fields in which each run departs from its grid's default setting; `_guessed_off` where no grid.json says."""
    if runs.empty:
        return pd.Series([], index=runs.index, dtype=object)
    stated = with_columns(runs, "off").reset_index(drop=True)
    known = stated["off"].map(lambda text: isinstance(text, str)).astype(bool)
    found = stated["off"].where(known, "").map(lambda text: frozenset(filter(None, text.split(", "))))
    return found.where(known, _guessed_off(stated[~known]).reindex(stated.index)).set_axis(runs.index)


def _guessed_off(runs: pd.DataFrame) -> pd.Series:
    """The fallback: fields whose value is not the commonest of a grid, task with knobs, and method; on a tie, none."""
    found: dict[Any, frozenset[str]] = dict.fromkeys(runs.index, frozenset())
    for _, part in runs.groupby(["grid", "task", "method"], sort=False):
        for _, own in by_setting(part, varying(part, ("task.",))):
            for name in varying(own, ABLATED):
                codes, _ = pd.factorize(own[name], use_na_sentinel=False)
                count = np.bincount(codes)[codes]
                found |= {row: found[row] | {name} for row in own.index[count < count.max()]}
    return pd.Series(found, dtype=object)


def base(runs: pd.DataFrame, *but: str) -> pd.DataFrame:
    """Without ablations: the runs that depart from their grid's default setting in no field, or only in these."""
    return runs[runs["off"].map(lambda fields: fields <= set(but)).astype(bool)] if len(runs) else runs


@remembered
def cells(data: Data) -> pd.DataFrame:
    """A row per finished run: grid, id, task, method, seed, and where it stands among the others.

    `length` is the trained one; `place` the task with the knobs in which its runs differ, in words, and `order` its
    number; `setting` in which other fields the run differs from others of its method, in words; `where` all three
    with the method; `off` as `departures`, and `base` whether there is none. With the run's config.
    """
    runs = with_columns(data.results, "grid", "id", "task", "method", "seed", "state", "task.length")
    runs = runs[runs["state"] == "done"].drop_duplicates(RUN).reset_index(drop=True)
    runs["length"] = number(runs["task.length"])
    if runs.empty:
        return runs.assign(place=None, order=0, setting=None, where=None, off=None, base=False)
    found = settings(runs)
    names = short_names(name for setting in found.values() for name, _ in setting)
    values = runs.astype(object).where(runs.notna(), None)  # gaps are equal to one another
    several = len(set(runs["grid"])) > 1
    spots: dict[Any, tuple[tuple[Any, ...], str]] = {}  # how the places of rows sort, and their words
    for (grid, task), part in values.groupby(["grid", "task"], sort=True):
        knobs = ["task.length", *(name for name in varying(part, ("task.",)) if name != "task.length")]
        for row, own in zip(part.index, part[knobs].itertuples(index=False, name=None)):
            fields = tuple((name, whole_as_int(value)) for name, value in zip(knobs, own))
            key = (str(grid), str(task), *(sortable(value) for _, value in fields))
            spots[row] = key, place(str(grid) if several else None, str(task), fields)
    rank = {key: count for count, key in enumerate(sorted({key for key, _ in spots.values()}))}
    departs = departures(runs)
    others = [[item for item in found[run] if not item[0].startswith("task.")] for run in keys(runs)]
    runs = runs.assign(place=[spots[row][1] for row in runs.index], setting=[label(other, names) for other in others])
    where = [", ".join(filter(None, words)) for words in zip(runs["place"], runs["method"], runs["setting"])]
    order = [rank[spots[row][0]] for row in runs.index]
    return runs.assign(order=order, where=where, off=departs, base=departs.map(len).eq(0))


def placed(rows: pd.DataFrame, runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of the rows of finished runs, beside where each run stands; `runs` are `cells`.

    `variant` is the number of its setting among those of its method in these rows without ablations.
    """
    wanted, where = with_columns(rows, *RUN, *columns)[[*RUN, *columns]], runs[["id", "seed", *GROUP]]
    left, right = (frame.astype(dict.fromkeys(RUN, object)) for frame in (wanted, where))  # (either may be empty)
    found = left.merge(right, on=RUN)
    settings = found.loc[found["base"].astype(bool), ["method", "setting"]].drop_duplicates()
    settings = settings.sort_values(["method", "setting"])
    settings = settings.assign(variant=settings.groupby("method").cumcount())
    found = found.merge(settings, on=["method", "setting"], how="left")
    return found.assign(variant=found["variant"].fillna(0).astype(int))


def chosen(rows: pd.DataFrame, most: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """The places that are shown, at most so many, in order, each with its rows.

    First those of the grid that has most places, since it was made to compare them, then those with most methods.
    """
    found = rows.groupby(["grid", "order"])["method"].nunique().reset_index()
    found["places"] = found.groupby("grid")["order"].transform("size")
    best = found.sort_values(["places", "method", "order"], ascending=[False, False, True])["order"].tolist()
    for order in sorted(best[:most]):
        here = rows[rows["order"] == order]
        yield here["place"].iloc[0], here


def facts(data: Data, *names: str) -> pd.DataFrame:
    """What is known of each run's trained predictor, at its first length: grid, id and these columns of results."""
    rows = with_columns(data.results, *RUN, "reference", *names)
    return rows[~rows["reference"].eq(True)].drop_duplicates(RUN)[[*RUN, *names]]


# Scores.


@remembered
def scores(data: Data, from_start: bool = False) -> pd.DataFrame:
    """The rows of results that have an accuracy, of finished runs, with `share` (of the ceiling) and `skill`.

    Skill is 0 at chance and 1 at the ceiling. What learns from streams is scored on streams; with `from_start`, at the
    trained length too as at all others, on sequences from the start state. `off` as in `cells`.
    """
    columns = ["grid", "id", "task", "method", "backbone", "seed", "state", "predictor", "reference", "length", "unit"]
    values = ("accuracy", "loss", "chance", "accuracy_ceiling", "task.length", "predictor_parameters")
    rows = with_columns(
        data.results, *columns, *values, "init_from.run", "start_accuracy", "start_loss", "group", "off"
    )
    rows = rows[rows["state"] == "done"]
    if from_start:
        rows = rows.assign(**{name: rows[f"start_{name}"].fillna(rows[name]) for name in ("accuracy", "loss")})
    names = names_of(rows, CONFIG)
    fields = rows[names].astype(object).where(rows[names].notna(), None)  # gaps are equal to one another
    apart = set(varying(fields))
    told = ("method.", "task.length", "training.budget.", *WAYS.values())
    kept = [name for name in names if name in apart or name.startswith(told)]
    others = [name for name in (*columns, *values, "init_from.run", "group") if name not in names]
    departs = dict(zip(keys(runs := rows.drop_duplicates(RUN)), departures(runs)))
    rows = pd.concat([rows[others], fields[kept]], axis=1)  # without fields that tell nothing apart
    rows["off"] = [departs[run] for run in keys(rows)]
    for name in (*values, "length", "seed"):
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    rows["reference"] = rows["reference"].eq(True)
    ceiling, chance = rows["accuracy_ceiling"].fillna(1.0), rows["chance"].fillna(0.0)
    rows["share"] = rows["accuracy"] / ceiling
    rows["skill"] = (rows["accuracy"] - chance) / (ceiling - chance)
    rows["trained"] = rows["task.length"].isna() | rows["length"].isna() | (rows["length"] == rows["task.length"])
    return rows[rows["accuracy"].notna() & rows["seed"].notna()].copy()


def effective_rank(data: Data, rows: pd.DataFrame) -> pd.Series:
    """The effective rank of the memories of each row's run; NaN where no geometry was measured."""
    ranks = {(run.get("grid"), run.get("id")): record.get("effective_rank") for run, record in data.geometry}
    return number(pd.Series([ranks.get(run) for run in keys(rows)], index=rows.index, dtype=object))


def recorded(
    runs: pd.DataFrame, records: Iterable[tuple[dict[str, Any], Any]], read: Callable[[Any], Any]
) -> pd.DataFrame:
    """The rows of `cells` whose `record` is not damaged (then `read` gives None), with what `read` makes of it."""
    rows = dict(zip(keys(runs), runs.index))
    known = ((rows.get((run.get("grid"), run.get("id"))), record) for run, record in records)
    found = {row: made for row, record in known if row is not None and (made := read(record)) is not None}
    return runs.loc[sorted(found)].assign(record=pd.Series(found, dtype=object))
