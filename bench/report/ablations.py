"""Ablations: weights of SMT's losses, the future that it predicts, joint or detached training, and backbones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from bench.report import lines, style
from bench.report.claims.cells import having, number, scores
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.lines import LINE, shown
from bench.report.provenance import command
from bench.report.scaling import along
from bench.report.statistics import Interval, paired_difference
from bench.report.style import GREY, Style
from bench.report.tables import _clean, _plain, _sortable

LAMBDA, LAMBDA_TITLE = "ablation-lambda", "Weights of SMT's losses"
FUTURE, FUTURE_TITLE = "ablation-future", "How far the decoder predicts, joint and detached"
BACKBONE, BACKBONE_TITLE = "ablation-backbone", "The updater's backbone"
GRID = "ablation-small"

DYNAMICS, UNIFORMITY = "method.lambda_dyn", "method.lambda_unif"
PAPERS: Mapping[str, Any] = {
    DYNAMICS: 0.1,
    UNIFORMITY: 0.001,
    "method.future": 64,
    "method.detach": False,
    "model.backbone": "transformer",
}
"""The paper's choices (arXiv 2606.06479)."""
JOINT, DETACHED = "joint", "detached"
LEVELS = ("accuracy_ceiling", "chance")
CELL = ["grid", "task", "method", "where"]
"""`where` are fields that an ablation holds still, in words; empty where a method has but one set of cells."""


def section(data: Data) -> Section:
    """What weights, future and backbone each do, all else being equal."""
    rows = scores(data)
    rows = having(rows[rows["trained"]], *PAPERS)
    ranks = {(run.get("grid"), run.get("id")): record.get("effective_rank") for run, record in data.geometry}
    found = pd.Series([ranks.get(run) for run in zip(rows["grid"], rows["id"])], index=rows.index, dtype=object)
    rows = rows.assign(rank=number(found))
    return Section("ablations", "Ablations", (_weights(data, rows), _future(data, rows), _backbones(data, rows)))


def _missing(name: str, title: str, fields: str) -> Missing:
    reason = f"no finished cells of one task and method that differ in just {fields}; `{command(GRID)}` brings them"
    return Missing(name, title, reason)


# Which cells, and how they compare with the base.


def sets(rows: pd.DataFrame, fields: Sequence[str], following: tuple[str, ...] = ("training.",)) -> list[pd.DataFrame]:
    """Rows that differ in these fields alone, two values of the first or more, with `where`, and `base` (a bool).

    The base has, of each field, the value that most cells of its grid, task and method have; on a tie the paper's, else
    the smallest.
    """
    found = []
    for one in along(rows, fields, following):
        grid, task, method = one[["grid", "task", "method"]].iloc[0]
        cells = rows[(rows["grid"] == grid) & (rows["task"] == task) & (rows["method"] == method)]
        base = pd.Series(True, index=one.index)
        for field in fields:
            base &= one[field].map(_plain) == _commonest(cells.drop_duplicates("id")[field], PAPERS[field])
        found.append(one.rename(columns={"setting": "where"}).assign(base=base))
    return found


def _commonest(values: pd.Series, paper: Any) -> Any:
    counts = values.dropna().map(_plain).value_counts()
    most = sorted((value for value, count in counts.items() if count == counts.max()), key=_sortable)
    return next((value for value in most if value == paper), most[0] if most else None)


def compared(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row per cell setting and predictor: accuracy over seeds, and its difference to the base, paired by seed.

    Columns: grid, task, method, where, `by`, predictor, reference, accuracy with interval and seeds, minus_base with
    interval, base, chance. A predictor is compared with the same one of the base.
    """
    keys = [*CELL, *by, "predictor", "reference"]
    table = lines.aggregate(rows, keys, "accuracy")
    table = table.rename(columns={"mean": "accuracy", "low": "accuracy_low", "high": "accuracy_high"})
    facts = rows.groupby(keys, dropna=False, sort=False).agg(base=("base", "all"), chance=("chance", "mean"))
    table = table.merge(facts.reset_index(), on=keys, how="left")
    single = lines.per_seed(rows, [*keys, "base"], "accuracy")
    owner = [*CELL, "predictor", "reference"]
    bases = {key: _by_seed(part) for key, part in single[single["base"]].groupby(owner, dropna=False)}
    differences = {
        key: paired_difference(_by_seed(part), bases.get((*key[: len(CELL)], *key[-2:]), {}))
        for key, part in single.groupby(keys, dropna=False)
    }
    minus = [differences[key] for key in table[keys].itertuples(index=False, name=None)]
    names = ("minus_base", "minus_base_low", "minus_base_high")
    table = table.assign(**{name: [one[place] for one in minus] for place, name in enumerate(names)})
    return table[[name for name in table if name not in ("base", "chance")] + ["base", "chance"]]


def _by_seed(part: pd.DataFrame) -> dict[int, float]:
    return {int(seed): float(value) for seed, value in zip(part["seed"], part["accuracy"])}


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """In the order of reading, without columns that say nothing."""
    ranks = table["method"].map(style.order)
    order = ["grid", "task", "rank", *(name for name in ("where", "field", "setting", "value") if name in table)]
    table = table.assign(rank=ranks).sort_values([*order, "reference"], kind="stable").drop(columns="rank")
    empty = [name for name in ("where",) if not table[name].astype(bool).any()]
    return table.drop(columns=empty).reset_index(drop=True).assign(paper="not known")


def _exhibit(
    data: Data, name: str, title: str, caption: str, figure: Any, table: pd.DataFrame, cut: str = ""
) -> Exhibit:
    says = [caption, lines.few_seeds(table["seeds"]), cut, "The paper's numbers are not known."]
    return Exhibit(
        name,
        title,
        _clean(" ".join(part for part in says if part)),
        lines.ran(data, zip(table["grid"], table["task"])),
        figure,
        table,
        tuple(dict.fromkeys(table["task"])),
        tuple(sorted(set(table["method"]), key=style.order)),
    )


def _cut(count: int) -> str:
    return f"The figure shows the first {lines.MOST_PANELS} of {count} panels." if count > lines.MOST_PANELS else ""


def _place(row: Any, several: bool) -> str:
    words = ", ".join(word for word in (row["task"], row["where"]) if word)
    return f"{row['grid']}: {words}" if several else words


# The weights of the losses.


class Weight(NamedTuple):
    """A panel: a score against one weight."""

    field: str
    score: str
    label: str
    rows: pd.DataFrame


def _weights(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    found: list[Weight] = []
    for _, part in rows.groupby(["grid", "task"], sort=True):
        dynamics, uniformity = (_weighed(part, field) for field in (DYNAMICS, UNIFORMITY))
        ranked = uniformity[~uniformity["reference"] & uniformity["rank"].notna()] if len(uniformity) else uniformity
        for field, score, label, own in (
            (DYNAMICS, "accuracy", "accuracy on the test set", dynamics),
            (UNIFORMITY, "accuracy", "accuracy on the test set", uniformity),
            (UNIFORMITY, "rank", "effective rank of memories", ranked),
        ):
            if len(set(own["value"] if len(own) else ())) > 1:
                found.append(Weight(field, score, label, own))
    if not found:
        return _missing(LAMBDA, LAMBDA_TITLE, f"{DYNAMICS} or {UNIFORMITY}")
    table = weighed(pd.concat([one.rows for one in found if one.score == "accuracy"], ignore_index=True))
    looks = style.styles(data.methods)
    drawn: dict[str, Any] = {}
    figure, panels = lines.grid_of(min(len(found), lines.MOST_PANELS), share_y=False)
    several = len(set(table["grid"])) > 1
    for panel, one in zip(panels, found):
        drawn |= _draw_weight(panel, one, looks)
        lines.title(panel, _place({**one.rows.iloc[0], "where": ""}, several))
    lines.legend(figure, dict(sorted(drawn.items(), key=lambda item: item[0] in (BEST, PAPER))))
    caption = f"{_best_weights(table, found)} {_ranks(table)} A weight of 0 stands left of the logarithmic axis."
    return _exhibit(data, LAMBDA, LAMBDA_TITLE, caption, figure, table, _cut(len(found)))


BEST, PAPER = "best mean", "the paper's choice"


def _weighed(rows: pd.DataFrame, field: str) -> pd.DataFrame:
    """The ladders along one weight, with `field` and `value`; of no row where there are none."""
    numbers = number(rows[field])
    usable = rows.assign(**{field: numbers})[numbers.ge(0) & np.isfinite(numbers)]
    found = sets(usable, [field])
    return pd.concat(found).assign(field=field, value=lambda one: one[field]) if found else rows[:0]


def weighed(rows: pd.DataFrame) -> pd.DataFrame:
    """`compared` at every weight, with the effective rank where a geometry was measured, the best and the paper's."""
    by = ["field", "value"]
    table = compared(rows, by)
    keys = [*CELL, *by, "predictor", "reference"]
    ranks = lines.aggregate(rows[~rows["reference"]], keys, "rank").drop(columns="seeds")
    ranks = ranks.rename(columns={"mean": "effective_rank", "low": "effective_rank_low", "high": "effective_rank_high"})
    if len(ranks):
        table = table.merge(ranks, on=keys, how="left")
    most = table.groupby([*CELL, "field", "predictor", "reference"], dropna=False)["accuracy"].transform("max")
    table["best"] = table["accuracy"] == most
    table["papers_choice"] = table["value"] == table["field"].map(PAPERS)
    return _tidy(table)


def _draw_weight(panel: Axes, one: Weight, looks: Mapping[str, Style]) -> dict[str, Any]:
    rows = one.rows.assign(setting=one.rows["where"])
    smallest = rows.loc[rows["value"] > 0, "value"].min()
    zero = smallest / 10
    rows["x"] = rows["value"].where(rows["value"] > 0, zero)  # a place of its own, left of the others
    drawn: dict[str, Any] = {}
    drawn |= lines.levels(panel, rows, "x", LEVELS) if one.score == "accuracy" else {}
    drawn |= lines.draw_all(panel, rows, "x", one.score, looks)
    paper = PAPERS[one.field]
    drawn[PAPER] = panel.axvline(paper, color=GREY, lw=1.0, ls="-.", zorder=1)
    panel.set_xscale("log")
    lines.spread(panel.xaxis, [*rows["x"], paper])
    plain = panel.xaxis.get_major_formatter()
    without = (rows["value"] == 0).any()
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda value, at: "0" if without and math.isclose(value, zero) else plain(value, at))
    )
    panel.set_xlabel(one.field.rpartition(".")[2])
    panel.set_ylabel(one.label)
    if one.score == "accuracy":
        panel.set_ylim(-0.03, 1.06)
        for _, part in rows[~rows["reference"]].groupby(LINE, sort=False):
            means = lines.aggregate(part, ["x"], "accuracy")
            best = means[means["mean"] == means["mean"].max()]
            (drawn[BEST],) = panel.plot(best["x"], best["mean"], "o", ms=11, mfc="none", mec="black", mew=1.0, zorder=5)
    else:
        panel.set_ylim(bottom=0)
    return drawn


def _best_weights(table: pd.DataFrame, found: Sequence[Weight]) -> str:
    """For each ladder the best weight, and how far it is ahead of the paper's (that one: of the next), by seed."""
    told = []
    own = table[~table["reference"].astype(bool)]
    rows = pd.concat([one.rows for one in found if one.score == "accuracy"])
    rows = rows[~rows["reference"]]
    several = len(set(own["grid"])) > 1
    for _, part in own.groupby([name for name in (*CELL, "field") if name in own], sort=False):
        row = {"where": "", **part.iloc[0].to_dict()}
        best, others, papers = part[part["best"]], part[~part["best"]], part[part["papers_choice"]]
        name, where = row["field"].rpartition(".")[2], _place(row, several)
        if others.empty:
            told.append(f"{where}: {name} makes no difference to {row['method']}.")
            continue
        mine = _same(rows, row, (*CELL, "field", "predictor"))
        ahead = papers.empty or papers["best"].any()
        rival = (others.sort_values("accuracy", kind="stable") if ahead else papers)["value"].iloc[-1]
        gain = paired_difference(*(_at(mine, value) for value in (best["value"].iloc[0], rival)))
        values = " and ".join(f"{value:g}" for value in best["value"])
        choice = PAPERS[row["field"]]
        absent = f", the paper's {choice:g} was not run" if papers.empty else ""
        among = ", the paper's choice" if len(best) == 1 else f", the paper's {choice:g} among them"
        first = among if papers["best"].any() else ""
        second = "" if rival != choice else ", the paper's choice"
        by = f", by {shown(gain)} over {rival:g}" if gain.n else f", with no seed in common with {rival:g}"
        told.append(
            f"{where}: {row['method']} is best at {name} {values} ({_accuracy(best)}){first}{absent}{by}{second}."
        )
    return " ".join(told)


def _same(rows: pd.DataFrame, row: Mapping[Any, Any], keys: Sequence[str]) -> pd.DataFrame:
    return rows[np.logical_and.reduce([rows[key] == row[key] for key in keys])]


def _at(rows: pd.DataFrame, value: float) -> dict[int, float]:
    return _by_seed(lines.per_seed(rows[rows["value"] == value], ["value"], "accuracy"))


def _accuracy(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    return shown(Interval(row["accuracy"], row["accuracy_low"], row["accuracy_high"], 0))


def _ranks(table: pd.DataFrame) -> str:
    """What leaving L_unif out does to the memories."""
    if "effective_rank" not in table:
        return ""
    known = table[table["field"] == UNIFORMITY].dropna(subset="effective_rank")
    told = []
    several = len(set(known["grid"])) > 1
    for _, part in known.groupby([name for name in CELL if name in known], sort=False):
        if len(part) > 1:
            first, last = part.iloc[0], part.iloc[-1]
            where = _place({"where": "", **first.to_dict()}, several)
            told.append(
                f"{where}: memories of {first['method']} have effective rank "
                f"{first['effective_rank']:.1f} at lambda_unif {first['value']:g} and {last['effective_rank']:.1f} at "
                f"{last['value']:g}."
            )
    return " ".join(told)


# The future.


def _future(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    field = "method.future"
    numbers = number(rows[field])
    rows = rows.assign(**{field: numbers})[numbers > 0]
    found = sets(rows, [field, "method.detach"])
    if not found:
        return _missing(FUTURE, FUTURE_TITLE, field)
    whole = pd.concat(found, ignore_index=True)
    words = whole["method.detach"].map(lambda one: DETACHED if one is True or one == 1 else JOINT)
    whole = whole.assign(setting=words, value=whole[field])
    table = _tidy(compared(whole, ["setting", "value"])).rename(columns={"setting": "training", "value": "future"})
    looks = style.styles(data.methods)
    keys = list(dict.fromkeys(zip(whole["grid"], whole["task"])))
    figure, panels = lines.grid_of(min(len(keys), lines.MOST_PANELS), "accuracy on the test set")
    several = len(set(whole["grid"])) > 1
    drawn: dict[str, Any] = {}
    for panel, (grid, task) in zip(panels, keys):
        part = whole[(whole["grid"] == grid) & (whole["task"] == task)]
        drawn |= lines.levels(panel, part, "value", LEVELS)
        drawn |= _draw_futures(panel, part, looks)
        lengths = sorted(set(number(part["task.length"]).dropna()))
        for length in lengths:
            drawn["length of the task"] = panel.axvline(length, color=GREY, lw=1.0, ls="-.", zorder=1)
        lines.spread(panel.xaxis, [*part["value"], *lengths])
        panel.set_ylim(-0.03, 1.06)
        panel.set_xlabel("future T_f (outputs)")
        lines.title(panel, f"{grid}: {task}" if several else str(task))
    lines.legend(figure, drawn)
    caption = f"{_needs(table, whole)} The vertical line is the task's length, its largest dependency."
    return _exhibit(data, FUTURE, FUTURE_TITLE, caption, figure, table, _cut(len(keys)))


def _draw_futures(panel: Axes, rows: pd.DataFrame, looks: Mapping[str, Style]) -> dict[str, Line2D]:
    """Trained predictors: joint in full lines, detached in broken ones with open markers."""
    drawn = {}
    found = {
        (str(method), str(where), str(training)): part
        for (method, where, training), part in rows[~rows["reference"]].groupby(["method", "where", "setting"])
    }
    for method, where, training in sorted(found, key=lambda one: (style.order(one[0]), one[1], one[2] == DETACHED)):
        places = sorted({other for owner, other, _ in found if owner == method})
        word = ", ".join(one for one in (method, where, training) if one)
        variant = 2 * places.index(where) + (training == DETACHED)
        part = found[method, where, training]
        drawn[word] = lines.draw(panel, part, "value", "accuracy", looks[method], variant=variant)
    return drawn


def _needs(table: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Joint and detached training with the shortest future and the longest, and whether that makes a difference."""
    own = table[~table["reference"].astype(bool)]
    rows = rows[~rows["reference"]]
    several = len(set(own["grid"])) > 1
    told = []
    for _, part in own.groupby([name for name in CELL if name in own], sort=False):
        row = {"where": "", **part.iloc[0].to_dict()}
        mine = _same(rows, row, (*CELL, "predictor"))
        words = []
        for training, line in part.groupby("training", sort=False):
            short, long = line["future"].iloc[0], line["future"].iloc[-1]
            says = f"{training} training reaches {_accuracy(line.iloc[[0]])} at T_f {short:g}"
            if len(line) > 1:
                same = mine[mine["setting"] == training]
                gain = paired_difference(_at(same, long), _at(same, short))
                says += f" and {_accuracy(line.iloc[[-1]])} at {long:g}, {_verdict(gain)}"
            words.append(says)
        told.append(f"{_place(row, several)}, {row['method']}: {'; '.join(sorted(words, reverse=True))}.")
    return " ".join(told)


def _verdict(gain: Interval) -> str:
    """From the paired difference of the longest future to the shortest."""
    if math.isnan(gain.low):
        return "with too few seeds to say whether it needs the longer"
    if gain.low > 0:
        return f"so it needs the longer ({shown(gain)} more)"
    return f"so it does {'better with the shorter' if gain.high < 0 else 'not clearly need the longer'} ({shown(gain)})"


# Backbones.


def _backbones(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    field = "model.backbone"
    found = sets(rows.assign(**{field: rows["backbone"]}), [field], ("training.", "model."))
    if not found:
        return _missing(BACKBONE, BACKBONE_TITLE, field)
    whole = pd.concat(found, ignore_index=True).assign(value=lambda one: one[field].astype(str))
    table = _tidy(compared(whole, ["value"])).rename(columns={"value": "backbone"})
    looks = style.styles(data.methods)
    keys = list(dict.fromkeys(zip(whole["grid"], whole["task"])))
    figure, panels = lines.grid_of(min(len(keys), lines.MOST_PANELS), "accuracy on the test set")
    several = len(set(whole["grid"])) > 1
    drawn: dict[str, Any] = {}
    for panel, (grid, task) in zip(panels, keys):
        part = whole[(whole["grid"] == grid) & (whole["task"] == task)]
        names = sorted(set(part["value"]), key=lambda one: (one != PAPERS[field], one))
        drawn |= _draw_points(panel, part.assign(setting=part["where"]), names, looks)
        drawn |= lines.levels(panel, part.assign(x=0.0), "x", LEVELS)
        panel.set_xticks(range(len(names)), [_clean(name) for name in names])
        panel.set_xlim(-0.5, len(names) - 0.5)
        panel.set_ylim(-0.03, 1.06)
        panel.set_xlabel("backbone of the updater")
        lines.title(panel, f"{grid}: {task}" if several else str(task))
    lines.legend(figure, drawn)
    return _exhibit(data, BACKBONE, BACKBONE_TITLE, _ordered(table), figure, table, _cut(len(keys)))


def _draw_points(
    panel: Axes, rows: pd.DataFrame, names: Sequence[str], looks: Mapping[str, Style]
) -> dict[str, Line2D]:
    """Means with intervals, methods beside one another; single seeds small; references open."""
    found = {
        (str(method), str(setting), bool(reference), str(predictor)): part
        for (method, setting, predictor, reference), part in rows.groupby(LINE)
    }
    drawn = {}
    for place, key in enumerate(sorted(found, key=lambda one: (style.order(one[0]), *one[1:]))):
        (method, setting, reference, predictor), part = key, found[key]
        look = looks[method]
        shift = 0.6 * ((place + 0.5) / len(found) - 0.5)
        points = lines.aggregate(part, ["value"], "accuracy")
        x = np.array([names.index(name) for name in points["value"]]) + shift
        panel.vlines(x, points["low"], points["high"], color=look.color, lw=1.6, zorder=2)
        fill = "white" if reference else look.color
        word = f"{method} {predictor} (reference)" if reference else str(method)
        word += f", {setting}" if setting else ""
        (drawn[word],) = panel.plot(
            x, points["mean"], ls="", marker=look.marker, ms=6, color=look.color, mfc=fill, zorder=3
        )
        single = lines.per_seed(part, ["value"], "accuracy")
        at = np.array([names.index(name) for name in single["value"]]) + shift + 0.06
        panel.plot(at, single["accuracy"], ls="", marker="_", ms=4, color=look.color, alpha=0.7, zorder=2)
    return drawn


def _ordered(table: pd.DataFrame) -> str:
    """For each task and method its backbones, best first, and which of them are no better than chance."""
    own = table[~table["reference"].astype(bool)]
    several = len(set(own["grid"])) > 1
    told = []
    for _, part in own.groupby([name for name in CELL if name in own], sort=False):
        row = {"where": "", **part.iloc[0].to_dict()}
        ranked = part.sort_values("accuracy", ascending=False, kind="stable")
        no_more = (ranked["accuracy_low"] <= ranked["chance"]).map({True: ", not clearly above chance", False: ""})
        names = zip(ranked["backbone"], no_more)
        each = (f"{name} {_accuracy(ranked.iloc[[at]])}{note}" for at, (name, note) in enumerate(names))
        told.append(f"{_place(row, several)}, {row['method']}: {'; '.join(each)}.")
    return " ".join(told)
