"""Ablations: weights of SMT's losses, the future that it predicts, joint or detached training, and backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bench.report import plot, style
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, command, exhibit
from bench.report.query import aggregate, having, number, per_seed, scores, titled, without_idle
from bench.report.sweeps import sweeps, with_settings
from bench.report.words import few_seeds, plain, sentences, sortable
from bench.statistics import paired_difference

LAMBDA, LAMBDA_TITLE = "ablation-lambda", "Weights of SMT's losses"
FUTURE, FUTURE_TITLE = "ablation-future", "How far the decoder predicts, joint and detached"
BACKBONE, BACKBONE_TITLE = "ablation-backbone", "The updater's backbone"
DYNAMICS, UNIFORMITY = "method.lambda_dyn", "method.lambda_unif"
PAPERS: Mapping[str, Any] = {
    DYNAMICS: 0.1,
    UNIFORMITY: 0.001,
    "method.future": 64,
    "method.detach": False,
    "model.backbone": "transformer",
}
"""The paper's choices (arXiv 2606.06479)."""
CELL = ["grid", "task", "method", "where"]
"""`where` are fields that an ablation holds still, in words; empty where a method has but one set of cells."""
TEST = "accuracy on the test set"
BOUNDS = (-0.03, 1.06)


def section(data: Data) -> Section:
    """What weights, future and backbone each do, all else being equal."""
    rows = scores(data)
    rows = having(rows[rows["trained"]], *PAPERS)
    ranks = {(run.get("grid"), run.get("id")): record.get("effective_rank") for run, record in data.geometry}
    found = pd.Series([ranks.get(run) for run in zip(rows["grid"], rows["id"])], index=rows.index, dtype=object)
    rows = rows.assign(rank=number(found))
    return Section("ablations", "Ablations", (_weights(data, rows), _future(data, rows), _backbones(data, rows)))


def _missing(name: str, title: str, fields: str) -> Missing:
    told = command("ablation-small")
    return Missing(
        name, title, f"no finished cells of one task and method that differ in just {fields}; `{told}` brings them"
    )


# Which cells, and how they compare with the base.


def sets(data: Data, rows: pd.DataFrame, fields: Sequence[str], **how: Any) -> list[pd.DataFrame]:
    """Rows that differ in these fields alone, two values of the first or more, with `where`, and `base` (a bool).

    The base has the grid's default of each field; where several values may be that, the paper's, else the smallest.
    """
    found = []
    for own in with_settings(sweeps(data, rows, fields, **how)):
        grid, task, method = own[["grid", "task", "method"]].iloc[0]
        cells = rows[(rows["grid"] == grid) & (rows["task"] == task) & (rows["method"] == method)]
        base = pd.Series(True, index=own.index)
        for field in fields:
            usual = cells[~cells["off"].map(lambda names, field=field: field in names).astype(bool)]
            values = sorted(set(usual[field].dropna().map(plain)), key=sortable)
            base &= own[field].map(plain) == (PAPERS[field] if PAPERS[field] in values else next(iter(values), None))
        found.append(own.rename(columns={"setting": "where"}).assign(base=base))
    return found


def compared(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row per cell setting and predictor: accuracy over seeds, and its difference to the base, paired by seed.

    Columns: grid, task, method, where, `by`, predictor, reference, accuracy with interval and seeds, minus_base with
    interval, base, chance. A predictor is compared with the same one of the base.
    """
    keys = [*CELL, *by, "predictor", "reference"]
    table = aggregate(rows, keys, "accuracy", "accuracy")
    facts = rows.groupby(keys, dropna=False, sort=False).agg(base=("base", "all"), chance=("chance", "mean"))
    single = per_seed(rows, [*keys, "base"], "accuracy")
    owner = [*CELL, "predictor", "reference"]
    bases = {key: _by_seed(part) for key, part in single[single["base"]].groupby(owner, dropna=False)}
    minus = [
        (*key, *paired_difference(_by_seed(part), bases.get((*key[: len(CELL)], *key[-2:]), {}))[:3])
        for key, part in single.groupby(keys, dropna=False)
    ]
    names = ["minus_base", "minus_base_low", "minus_base_high"]
    differences = pd.DataFrame(minus, columns=[*keys, *names])
    return table.merge(differences, on=keys, how="left").merge(facts.reset_index(), on=keys, how="left")


def _by_seed(part: pd.DataFrame) -> dict[int, float]:
    return {int(seed): float(value) for seed, value in zip(part["seed"], part["accuracy"])}


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """In the order of reading, without columns that say nothing."""
    order = ["grid", "task", "rank", *(name for name in ("where", "field", "setting", "value") if name in table)]
    table = table.assign(rank=table["method"].map(style.order)).sort_values([*order, "reference"], kind="stable")
    return without_idle(table.rename(columns={"base": "is_base"}), "rank", keep_grid=True).rename(
        columns={"is_base": "base"}
    )


def _exhibit(data: Data, name: str, title: str, caption: str, panels: list[plot.Panel], table: pd.DataFrame) -> Exhibit:
    told = sentences(caption, few_seeds(table["seeds"]))
    return exhibit(data, name, title, told, table, panels=panels, table=table)


# The weights of the losses.


def _weights(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    swept = {field: _weighed(data, rows, field) for field in (DYNAMICS, UNIFORMITY)}
    found = [own for own in swept.values() if len(own)]
    if not found:
        return _missing(LAMBDA, LAMBDA_TITLE, f"{DYNAMICS} or {UNIFORMITY}")
    whole = pd.concat(found, ignore_index=True)
    table = weighed(whole)
    panels = [
        _weight(part, str(field), score, label, titled(whole, grid, task))
        for (grid, task, field), part in whole.groupby(["grid", "task", "field"], sort=True)
        for score, label in (("accuracy", TEST), ("rank", "effective rank of memories"))
        if score == "accuracy" or (field == UNIFORMITY and len(set(part.loc[part["rank"].notna(), "value"])) > 1)
    ]
    caption = (
        "Accuracy, and the effective rank of memories, against each weight; the vertical line is the paper's choice."
    )
    return _exhibit(data, LAMBDA, LAMBDA_TITLE, caption, panels, table)


def _weighed(data: Data, rows: pd.DataFrame, field: str) -> pd.DataFrame:
    """The sweeps along one weight, with `field` and `value`; of no row where there are none."""
    numbers = number(rows[field])
    found = sets(data, rows.assign(**{field: numbers})[numbers.ge(0)], [field])
    return pd.concat(found).assign(field=field, value=lambda one: one[field]) if found else rows[:0]


def weighed(rows: pd.DataFrame) -> pd.DataFrame:
    """`compared` at every weight, with the effective rank where a geometry was measured, the best and the paper's."""
    by = ["field", "value"]
    table = compared(rows, by)
    keys = [*CELL, *by, "predictor", "reference"]
    ranks = aggregate(rows[~rows["reference"]], keys, "rank", "effective_rank").drop(columns="seeds")
    if len(ranks):
        table = table.merge(ranks, on=keys, how="left")
    most = table.groupby([*CELL, "field", "predictor", "reference"], dropna=False)["accuracy"].transform("max")
    table["best"] = table["accuracy"] == most
    table["papers_choice"] = table["value"] == table["field"].map(PAPERS)
    return _tidy(table)


def _weight(rows: pd.DataFrame, field: str, score: str, label: str, title: str) -> plot.Panel:
    zero = rows.loc[rows["value"] > 0, "value"].min() / 10
    rows = rows.assign(setting=rows["where"], x=rows["value"].where(rows["value"] > 0, zero))  # left of the others
    rows = rows if score == "accuracy" else rows[~rows["reference"]]
    return plot.Panel(
        title,
        field.rpartition(".")[2],
        label,
        plot.sweep_lines(rows, "x", score),
        plot.levels(rows, "x") if score == "accuracy" else (),
        [plot.Mark("the paper's choice", PAPERS[field])],
        zero=zero if (rows["value"] == 0).any() else None,
        ylim=BOUNDS if score == "accuracy" else (0, 1.1 * float(rows["rank"].max()) or 1.0),
    )


# The future.


def _future(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    field = "method.future"
    numbers = number(rows[field])
    found = sets(data, rows.assign(**{field: numbers})[numbers > 0], [field, "method.detach"])
    if not found:
        return _missing(FUTURE, FUTURE_TITLE, field)
    whole = pd.concat(found, ignore_index=True)
    words = whole["method.detach"].map(lambda one: "detached" if one is True or one == 1 else "joint")
    whole = whole.assign(setting=words, value=whole[field])
    table = _tidy(compared(whole, ["setting", "value"])).rename(columns={"setting": "training", "value": "future"})
    panels = []
    for (grid, task), part in whole.groupby(["grid", "task"], sort=False):
        own = part[~part["reference"]]
        own = own.assign(setting=[", ".join(filter(None, both)) for both in zip(own["where"], own["setting"])])
        marks = [plot.Mark("length of the task", one) for one in sorted(set(number(part["task.length"]).dropna()))]
        lines = plot.sweep_lines(own, "value", "accuracy")
        title = titled(whole, grid, task)
        levels = plot.levels(part, "value")
        panels.append(plot.Panel(title, "future T_f (outputs)", TEST, lines, levels, marks, ylim=BOUNDS))
    caption = "Accuracy with teacher and RNN trained jointly, or with the RNN's gradient kept out of the teacher."
    return _exhibit(data, FUTURE, FUTURE_TITLE, caption, panels, table)


# Backbones.


def _backbones(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    field = "model.backbone"
    rows = rows.assign(**{field: rows["backbone"]})
    found = sets(data, rows, [field], following=("training.", "model."))
    if not found:
        return _missing(BACKBONE, BACKBONE_TITLE, field)
    whole = pd.concat(found, ignore_index=True).assign(value=lambda one: one[field].astype(str))
    table = _tidy(compared(whole, ["value"])).rename(columns={"value": "backbone"})
    panels = []
    for (grid, task), part in whole.groupby(["grid", "task"], sort=False):
        names = sorted(set(part["value"]), key=lambda one: (one != PAPERS[field], one))
        part = part.assign(setting=part["where"], x=part["value"].map(names.index).astype(float))
        lines = [_apart(line, *at) for *at, line in _numbered(plot.sweep_lines(part, "x", "accuracy"))]
        title = titled(whole, grid, task)
        levels = plot.levels(part.assign(x=0.0), "x")
        panels.append(plot.Panel(title, "backbone of the updater", TEST, lines, levels, names=names, ylim=BOUNDS))
    return _exhibit(data, BACKBONE, BACKBONE_TITLE, "Accuracy with each backbone as the updater.", panels, table)


def _numbered(lines: list[plot.Line]) -> list[tuple[int, int, plot.Line]]:
    return [(place, len(lines), line) for place, line in enumerate(lines)]


def _apart(line: plot.Line, place: int, count: int) -> plot.Line:
    """The line as points, beside those of other methods."""
    shift = 0.6 * ((place + 0.5) / count - 0.5)
    seeds = tuple((x + shift + 0.06, y) for x, y in line.seeds)
    return replace(line, x=line.x + shift, seeds=seeds, kind="points")
