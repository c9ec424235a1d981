"""Ablations: weights of SMT's losses, the future that it predicts, joint or detached training, and backbones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, command, exhibit
from bench.report.query import effective_rank, number, scores, titled, with_columns
from bench.report.sweeps import sweeps, with_settings
from bench.report.tables import in_order, tabulate
from bench.report.words import sortable, whole_as_int

TITLE = "Ablations"
DYNAMICS, UNIFORMITY, FUTURE, DETACH = "method.lambda_dyn", "method.lambda_unif", "method.future", "method.detach"
BACKBONE = "model.backbone"
PAPERS: Mapping[str, Any] = {DYNAMICS: 0.1, UNIFORMITY: 0.001, FUTURE: 64, DETACH: False, BACKBONE: "transformer"}
"""The paper's choices (arXiv 2606.06479)."""
CELL = ["grid", "task", "method", "where"]
"""`where` are fields that an ablation holds still, in words; empty where a method has but one set of cells."""


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """What weights, future and backbone each do, all else being equal."""
    rows = scores(data)
    rows = with_columns(rows[rows["trained"]], *PAPERS)
    rows = rows.assign(rank=effective_rank(data, rows), **{BACKBONE: rows["backbone"]})
    weights, futures = [DYNAMICS, UNIFORMITY], [FUTURE]
    numbers = rows.assign(**{field: number(rows[field]) for field in weights + futures})
    swept = [sets(data, numbers[numbers[field] >= 0], [field]).assign(field=field) for field in weights]
    every = pd.concat(swept, ignore_index=True)
    caption = "Accuracy, and the effective rank of memories, against each weight; the line is the paper's choice."
    yield _exhibit(data, "ablation-lambda", "Weights of SMT's losses", caption, weights, every, _weights)
    every = sets(data, numbers[numbers[FUTURE] > 0], [FUTURE, DETACH])
    title = "How far the decoder predicts, joint and detached"
    caption = "Accuracy with teacher and RNN trained jointly, or with the RNN's gradient kept out of the teacher."
    yield _exhibit(data, "ablation-future", title, caption, futures, every, _futures)
    every = sets(data, rows, [BACKBONE], following=("training.", "model."))
    caption = "Accuracy with each backbone as the updater."
    yield _exhibit(data, "ablation-backbone", "The updater's backbone", caption, [BACKBONE], every, _backbones)


def _exhibit(
    data: Data, name: str, title: str, caption: str, fields: Sequence[str], rows: pd.DataFrame, make: Make
) -> Exhibit | Missing:
    missing = f"no finished cells of one task and method that differ in just {' or '.join(fields)}"
    missing += f"; `{command('ablation-small')}` brings them"
    panels, table = make(rows) if len(rows) else ([], None)
    return exhibit(data, name, title, caption, rows, missing, panels=panels, table=table)


Make = Callable[[pd.DataFrame], tuple[list[plot.Panel], pd.DataFrame]]
"""What makes panels and a table of rows."""


# Which cells, and how they compare with the base.


def sets(data: Data, rows: pd.DataFrame, fields: Sequence[str], **how: Any) -> pd.DataFrame:
    """Rows that differ in these fields alone, two values of the first or more: `where`, `value`, `base` (a bool).

    `value` is that of the first field. The base has the grid's default of each field; where several values may be that,
    the paper's, else the smallest.
    """
    found = [rows[:0].assign(where="", base=False, value=rows[fields[0]][:0])]
    for own in with_settings(sweeps(data, rows, fields, **how)):
        grid, task, method = own[["grid", "task", "method"]].iloc[0]
        cells = rows[(rows["grid"] == grid) & (rows["task"] == task) & (rows["method"] == method)]
        base = pd.Series(True, index=own.index)
        for field in fields:
            usual = cells[~cells["off"].map(lambda names, field=field: field in names).astype(bool)]
            values = sorted(set(usual[field].dropna().map(whole_as_int)), key=sortable)
            default = PAPERS[field] if PAPERS[field] in values else next(iter(values), None)
            base &= own[field].map(whole_as_int) == default
        found.append(own.rename(columns={"setting": "where"}).assign(base=base, value=own[fields[0]]))
    return pd.concat(found, ignore_index=True)


def compared(rows: pd.DataFrame, by: Sequence[str], **further: str) -> pd.DataFrame:
    """A row per cell setting and predictor: accuracy over seeds, and its difference to the base, paired by seed.

    Columns: grid, task, method, where, `by`, predictor, reference, accuracy with interval, chance, base, `further`,
    seeds, minus_base with interval. A predictor is compared with the same one of the base.
    """
    line = ["predictor", "reference"]
    same = [*CELL, *line, "seed"]
    bases = rows[rows["base"]].drop_duplicates(same)[[*same, "accuracy"]]
    rows = rows.merge(bases, on=same, how="left", suffixes=("", "_of_base")).sort_values("seed", kind="stable")
    rows = rows.assign(minus_base=rows["accuracy"] - rows["accuracy_of_base"])
    how = {"accuracy": "interval", "chance": "mean", "base": "first", **further, "minus_base": "interval"}
    table = tabulate(rows, [*CELL, *by, *line], **how)
    minus = [name for name in table if str(name).startswith("minus")]
    table = table[[*table.columns.drop(minus), *minus]]
    table = in_order(table, "grid", "task", "method", "where", *by, "reference")
    return table if table["where"].astype(bool).any() else table.drop(columns="where")


# The three.


def _weights(every: pd.DataFrame) -> tuple[list[plot.Panel], pd.DataFrame]:
    """With the effective rank where a geometry was measured, the best and the paper's."""
    ranks = {"effective_rank": "interval"} if every["rank"].notna().any() else {}
    ranked = every.assign(effective_rank=every["rank"].where(~every["reference"]))
    table = compared(ranked, ["field", "value"], **ranks)
    best = [name for name in (*CELL, "field", "predictor", "reference") if name in table]
    most = table.groupby(best, dropna=False)["accuracy"].transform("max")
    chosen = table["value"] == table["field"].map(PAPERS)
    panels = [
        _weight(part, str(field), score, titled(every, grid, task))
        for (grid, task, field), part in every.groupby(["grid", "task", "field"], sort=True)
        for score in ("accuracy", "rank")
        if score == "accuracy" or (field == UNIFORMITY and len(set(part.dropna(subset="rank")["value"])) > 1)
    ]
    return panels, table.assign(best=table["accuracy"] == most, papers_choice=chosen)


def _weight(rows: pd.DataFrame, field: str, score: str, title: str) -> plot.Panel:
    zero = rows.loc[rows["value"] > 0, "value"].min() / 10
    rows = rows.assign(setting=rows["where"], x=rows["value"].where(rows["value"] > 0, zero))  # left of the others
    label, marks = field.rpartition(".")[2], [plot.Mark("the paper's choice", PAPERS[field])]
    shown = plot.accuracies(title, label, rows, "x", marks=marks, zero=zero if (rows["value"] == 0).any() else None)
    if score == "accuracy":
        return shown
    lines = plot.sweep_lines(rows[~rows["reference"]], "x", score)
    top = 1.1 * float(rows["rank"].max()) or 1.0
    return replace(shown, y="effective rank of memories", lines=lines, levels=(), ylim=(0, top))


def _futures(every: pd.DataFrame) -> tuple[list[plot.Panel], pd.DataFrame]:
    training = every[DETACH].map(lambda value: "detached" if value is True or value == 1 else "joint")
    every = every.assign(training=training, future=every["value"])
    settings = [", ".join(filter(None, both)) for both in zip(every["where"], training)]
    panels = []
    for (grid, task), part in every.assign(setting=settings).groupby(["grid", "task"], sort=False):
        marks = [
            plot.Mark("length of the task", length) for length in sorted(set(number(part["task.length"]).dropna()))
        ]
        own = part[~part["reference"]]
        panels.append(plot.accuracies(titled(every, grid, task), "future T_f (outputs)", own, "value", marks=marks))
    return panels, compared(every, ["training", "future"])


def _backbones(every: pd.DataFrame) -> tuple[list[plot.Panel], pd.DataFrame]:
    every = every.assign(backbone=every["value"].astype(str))
    panels = []
    for (grid, task), part in every.groupby(["grid", "task"], sort=False):
        names = sorted(set(part["backbone"]), key=lambda name: (name != PAPERS[BACKBONE], name))
        part = part.assign(setting=part["where"], x=part["backbone"].map(names.index).astype(float))
        lines = plot.sweep_lines(part, "x", "accuracy")
        apart = [_apart(line, (place + 0.5) / len(lines) - 0.5) for place, line in enumerate(lines)]
        how: dict[str, Any] = {"lines": apart, "levels": plot.levels(part.assign(x=0.0), "x"), "names": names}
        panels.append(plot.accuracies(titled(every, grid, task), "backbone of the updater", part, "x", **how))
    return panels, compared(every, ["backbone"])


def _apart(line: plot.Line, shift: float) -> plot.Line:
    """The line as points, beside those of other methods."""
    seeds = tuple((x + 0.6 * shift + 0.06, y) for x, y in line.seeds)
    return replace(line, x=line.x + 0.6 * shift, seeds=seeds, kind="points")
