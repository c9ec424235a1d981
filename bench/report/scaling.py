"""Scaling: loss against context, memory and parameters with fitted power laws; and how small a memory will do.

A ladder is a set of cells of one grid, task and method that differ in one field and their seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bench.report import lines, style
from bench.report.claims.cells import config, curve_points, having, number, scores
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.lines import LINE
from bench.report.provenance import command
from bench.report.statistics import power_law
from bench.report.style import GREY
from bench.report.tables import _plain

NAME, TITLE = "scaling", "Loss against context, memory and parameters"
COMPRESSION, COMPRESSION_TITLE = "compression", "The smallest memory that reaches a loss"
GRID = "scaling-small"
RUNGS_OF_A_LAW = 3
"""A power law passes through any two points; it says something from three on."""
LEVELS = 4
COMPUTES = 6
"""So many losses, and amounts of training, are asked for the smallest memory."""
CURVE = ["grid", "task", "method", "setting", "unit"]


class Axis(NamedTuple):
    """What the loss is drawn against."""

    name: str
    label: str
    fields: tuple[str, ...]
    """Config columns whose ladders belong here."""


AXES = (
    Axis("context", "context (tokens)", ("method.context",)),
    Axis("memory", "memory M (numbers)", ("model.memory_tokens",)),
    Axis("parameters", "parameters of the predictor", ("model.d", "model.updater_layers", "model.parameters")),
)


def section(data: Data) -> Section:
    """Power laws along the ladders of all grids, and what more training saves in memory."""
    rows = ladders(data)
    if rows.empty:
        fields = ", ".join(field for axis in AXES for field in axis.fields)
        missing = f"no finished cells of one task and method that differ in just one of {fields}"
        reason = f"{missing}; `{command(GRID)}` brings them"
        gone = (Missing(NAME, TITLE, reason), Missing(COMPRESSION, COMPRESSION_TITLE, reason))
        return Section("scaling", "Scaling and compression", gone)
    return Section("scaling", "Scaling and compression", (_scaling(data, rows), _compression(data, rows)))


# Which cells.


def along(
    rows: pd.DataFrame, columns: Sequence[str], following: tuple[str, ...] = ("training.",)
) -> Iterator[pd.DataFrame]:
    """Rows of one grid, task and method, of cells that differ only in these columns, and in seed.

    Fields that begin as `following` may differ too where they follow from the columns, such as a learning rate for each
    size. Only sets in which the first column has two values or more. `setting` says in words what tells several sets of
    one method apart; it is empty for the only one.
    """
    first = columns[0]
    rows = rows.dropna(subset=first) if first in rows else rows[:0]
    for _, part in rows.groupby(["grid", "task", "method"], sort=True):
        names = [name for name in config(part) if name not in columns]
        plain = part.assign(**{name: part[name].map(_hashable) for name in names})
        at = plain.groupby([name for name in columns if name in plain], dropna=False)
        free = [name for name in names if not name.startswith(following) or at[name].nunique(dropna=False).gt(1).any()]
        part = part.assign(setting=lines.worded(plain, free) if free else "")
        sets = [one for _, one in part.groupby("setting", sort=False) if len(set(one[first])) > 1]
        for one in sets:
            yield one if len(sets) > 1 else one.assign(setting="")


def _hashable(value: Any) -> Any:
    return _plain(value) if isinstance(value, int | float | str | bool) or value is None else str(value)


def ladders(data: Data) -> pd.DataFrame:
    """Final scores of the cells of all ladders: `axis` and `field`, `value` along it, `score` (loss in its unit).

    A cell stands in as many ladders as it belongs to. `gap` is the score minus the teacher's of the same cell.
    """
    rows = scores(data)
    rows = rows[rows["trained"] & np.isfinite(rows["loss"])]
    rows = having(rows, *(field for axis in AXES for field in axis.fields))
    unit = rows["unit"].astype(object).where(rows["unit"].notna(), "nats")
    rows = rows.assign(unit=unit, score=rows["loss"] / np.where(unit == "bits", math.log(2), 1.0))
    rows["memory"] = _memory(data, rows)
    context = number(rows["method.context"])
    rows["method.context"] = context.where(~(context > rows["task.length"]), rows["task.length"])  # no more is there
    teacher = rows[rows["reference"] & (rows["predictor"] == "teacher")].groupby(["grid", "id"])["score"].mean()
    rows = rows.join(teacher.rename("teacher"), on=["grid", "id"])
    rows["gap"] = (rows["score"] - rows["teacher"]).where(~rows["reference"])
    found = []
    for axis in AXES:
        for field in axis.fields:
            values = {"context": field, "memory": "memory", "parameters": "predictor_parameters"}[axis.name]
            for one in along(rows.assign(**{field: number(rows[field])}), [field]):
                found.append(one.assign(axis=axis.name, field=field, value=number(one[values])))
    if not found:
        return pd.DataFrame()
    whole = pd.concat(found, ignore_index=True)
    return whole[whole["value"] > 0].reset_index(drop=True)


def _memory(data: Data, rows: pd.DataFrame) -> pd.Series:
    """M = K d of every row; columns that are the same everywhere are not in the scores."""
    sizes = having(data.results, "grid", "id", "model.memory_tokens", "model.d").drop_duplicates(["grid", "id"])
    sizes = sizes.set_index(["grid", "id"])
    product = (number(sizes["model.memory_tokens"]) * number(sizes["model.d"])).rename("memory")
    return rows[["grid", "id"]].join(product, on=["grid", "id"])["memory"]


# Scaling.

KEYS = ["grid", "task", "axis", "field", *LINE, "unit"]


def laws(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per rung and line: loss, gap to the teacher (means and intervals), and the line's power law on all rungs.

    Where there are fewer than three rungs, the law's columns are NaN.
    """
    table = lines.aggregate(rows, [*KEYS, "value"], "score")
    table = table.rename(columns={"mean": "loss", "low": "loss_low", "high": "loss_high"})
    gaps = lines.aggregate(rows, [*KEYS, "value"], "gap").drop(columns="seeds")
    gaps = gaps.rename(columns={"mean": "gap", "low": "gap_low", "high": "gap_high"})
    table = table.merge(gaps, on=[*KEYS, "value"], how="left")
    table[["exponent", "exponent_error", "factor", "r2"]] = float("nan")
    for _, part in table.groupby(KEYS, sort=False):
        law = power_law(part["value"].to_numpy(), part["loss"].to_numpy())
        if part["value"].nunique() >= RUNGS_OF_A_LAW:
            names = ["exponent", "exponent_error", "factor", "r2"]
            table.loc[part.index, names] = [law.exponent, law.error, law.factor, law.r2]
    axes = {axis.name: place for place, axis in enumerate(AXES)}
    ranks = table.assign(rank=table["axis"].map(axes), who=table["method"].map(style.order))
    order = ranks.sort_values(["grid", "task", "rank", "field", "who", "setting", "reference", "value"], kind="stable")
    return table.loc[order.index].reset_index(drop=True).assign(paper="not known")


def _scaling(data: Data, rows: pd.DataFrame) -> Exhibit:
    table = laws(rows)
    looks = style.styles(data.methods)
    panels_of = list(dict.fromkeys(zip(table["grid"], table["task"], table["axis"])))
    shown = panels_of[: lines.MOST_PANELS]
    figure, panels = lines.grid_of(len(shown), share_y=False)
    several = len(set(table["grid"])) > 1
    drawn: dict[str, Any] = {}
    for panel, (grid, task, axis) in zip(panels, shown):
        here = (rows["grid"] == grid) & (rows["task"] == task)
        part = rows[here & (rows["axis"] == axis)]
        fields = sorted(set(part["field"]))
        if len(fields) > 1:
            names = part["field"].str.rpartition(".")[2]
            part = part.assign(
                setting=[f"along {name}, {one}".rstrip(", ") for name, one in zip(names, part["setting"])]
            )
        drawn |= lines.draw_all(panel, part, "value", "score", looks)
        fits = table[(table["grid"] == grid) & (table["task"] == task) & (table["axis"] == axis)]
        drawn |= _draw_laws(panel, fits, looks)
        lines.spread(panel.xaxis, part["value"])
        low, high = rows.loc[here, "score"].min(), rows.loc[here, "score"].max()
        panel.set_ylim(low - 0.06 * (high - low) - 1e-3, high + 0.06 * (high - low) + 1e-3)
        panel.set_xlabel(next(one.label for one in AXES if one.name == axis))
        panel.set_ylabel(f"test loss ({part['unit'].iloc[0]} per token)")
        lines.title(panel, f"{grid}: {task}" if several else str(task))
    lines.legend(figure, dict(sorted(drawn.items(), key=lambda one: one[0] == LAW)))
    cut = f" The figure shows the first {len(shown)} of {len(panels_of)} panels." if len(shown) < len(panels_of) else ""
    return Exhibit(
        NAME,
        TITLE,
        f"{_exponents(table)} {_gaps(table)}{lines.few_seeds(table['seeds'])}{cut} A teacher stands at its RNN's "
        "number of parameters. The paper's exponents are not known.",
        lines.ran(data, zip(rows["grid"], rows["task"])),
        figure,
        _told(table),
        tuple(dict.fromkeys(table["task"])),
        tuple(sorted(set(table["method"]), key=style.order)),
    )


LAW = "fitted power law"


def _draw_laws(panel: Axes, table: pd.DataFrame, looks: dict[str, style.Style]) -> dict[str, Line2D]:
    """Thin dotted lines in the methods' colours; a grey one for the legend."""
    known = table.dropna(subset="exponent")
    for _, line in known.groupby(KEYS, sort=False):
        x = np.geomspace(line["value"].min(), line["value"].max(), 50)
        y = line["factor"].iloc[0] * x ** line["exponent"].iloc[0]
        panel.plot(x, y, color=looks[line["method"].iloc[0]].color, lw=0.9, ls=":", zorder=4)
    return {LAW: Line2D([], [], color=GREY, lw=0.9, ls=":")} if len(known) else {}


def _told(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns that say nothing."""
    empty = [name for name in ("setting",) if not table[name].astype(bool).any()]
    return table.drop(columns=[*empty, *(name for name in ("gap", "gap_low", "gap_high") if table[name].isna().all())])


def _exponents(table: pd.DataFrame) -> str:
    """Along each axis of each task: the exponents, and who ends lowest."""
    own = table[~table["reference"].astype(bool)]
    told = []
    for (grid, task, axis), part in own.groupby(["grid", "task", "axis"], sort=False):
        words = []
        for key, line in part.groupby(["field", "method", "setting"], sort=False):
            law = line.iloc[0]
            who = _who(key, part)
            if math.isnan(law["exponent"]):
                ends = f"{line['loss'].iloc[0]:.3f} to {line['loss'].iloc[-1]:.3f} {law['unit']}"
                words.append(f"{who} {ends} on {len(line)} {'value' if len(line) == 1 else 'values'}")
            else:
                words.append(f"{who} {law['exponent']:+.3f} ± {law['exponent_error']:.3f}")
        best = part.sort_values("loss", kind="stable").iloc[0]
        lowest = f"lowest {best['method']} at {best['value']:g} with {best['loss']:.3f} {best['unit']}"
        place = f"{grid}: {task}" if len(set(own["grid"])) > 1 else task
        told.append(f"{place}, exponent of the loss in {axis}: {', '.join(words)} ({lowest}).")
    return " ".join(told)


def _who(key: Sequence[Any], part: pd.DataFrame) -> str:
    field, method, setting = key
    along_it = f" along {field.rpartition('.')[2]}" if len(set(part["field"])) > 1 else ""
    return f"{method}{along_it}" + (f" ({setting})" if setting else "")


def _gaps(table: pd.DataFrame) -> str:
    """How the gap to the teacher changes from the smallest predictor to the largest."""
    known = table[(table["axis"] == "parameters")].dropna(subset="gap")
    told = []
    for (_, task, _, method, _), line in known.groupby(["grid", "task", "field", "method", "setting"], sort=False):
        if len(line) > 1:
            first, last = line.iloc[0], line.iloc[-1]
            told.append(
                f"On {task} the gap of {method} to its teacher goes from {first['gap']:+.3f} to {last['gap']:+.3f} "
                f"{first['unit']} as it grows from {first['value']:,.0f} to {last['value']:,.0f} parameters. "
            )
    return "".join(told)


# Compression.


def smallest(data: Data, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """When each memory has first reached each loss, and from that the smallest memory by each amount of training.

    `rows` as `ladders` gives them. The first frame has a row per method, level and memory: spent, when the mean curve
    over seeds was at the level or below (inf: never), and `end`, where the longest curve ends. The second has a row per
    method, level and compute: memory, the smallest that was there by then (NaN: none). Compute is in FLOPs where all
    cells of the ladder were traced, else in tokens (`currency`). Levels lie evenly from what the worst memory reaches
    to what the best one does; amounts of compute, geometrically, from when the first level is reached to the end.
    """
    cells = rows[(rows["axis"] == "memory") & ~rows["reference"]]
    cells = cells[[*CURVE, "id", "seed", "value"]].drop_duplicates()
    points = curve_points(data, "spent.flops", "spent.tokens", "loss")
    points = points[["grid", "id", "spent.flops", "spent.tokens", "loss"]].merge(cells, on=["grid", "id"])
    points = points[np.isfinite(points["loss"]) & (points["spent.tokens"] > 0)]
    points["score"] = points["loss"] / np.where(points["unit"] == "bits", math.log(2), 1.0)
    passages, answers = [], []
    for key, part in sorted(points.groupby(CURVE), key=lambda one: (*one[0][:2], style.order(one[0][2]), *one[0][3:])):
        currency = "FLOPs" if part["spent.flops"].gt(0).all() else "tokens"
        curves = {
            float(memory): _mean_curve([one for _, one in own.groupby("id")], f"spent.{currency.lower()}")
            for memory, own in part.groupby("value")
        }
        if len(curves) < 2:
            continue
        end = max(float(spent[-1]) for spent, _ in curves.values())
        lowest = [float(reached[-1]) for _, reached in curves.values()]
        levels = {math.ceil(one * 1000 - 1e-6) / 1000 for one in np.linspace(max(lowest), min(lowest), LEVELS)}
        firsts = {level: {memory: _passage(*curve, level) for memory, curve in curves.items()} for level in levels}
        begin = min(spent for first in firsts.values() for spent in first.values())
        for level, first in sorted(firsts.items(), reverse=True):
            passages += [(*key, currency, level, memory, spent, end) for memory, spent in first.items()]
            for compute in np.geomspace(begin, end, COMPUTES):
                there = [memory for memory, spent in first.items() if spent <= compute]
                answers.append((*key, currency, level, compute, min(there, default=float("nan"))))
    head = [*CURVE, "currency", "level"]
    return pd.DataFrame(passages, columns=[*head, "memory", "spent", "end"]), pd.DataFrame(
        answers, columns=[*head, "compute", "smallest_memory"]
    )


def _mean_curve(seeds: list[pd.DataFrame], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Spend, as far as all seeds reach, and the lowest that the mean loss has been until then."""
    curves = [one.sort_values(column).drop_duplicates(column, keep="last") for one in seeds]
    begin, end = max(one[column].iloc[0] for one in curves), min(one[column].iloc[-1] for one in curves)
    spent = np.unique(np.concatenate([one[column].to_numpy() for one in curves]))
    spent = spent[(spent >= min(begin, end)) & (spent <= end)]
    mean = np.mean([np.interp(spent, one[column], one["score"]) for one in curves], axis=0)
    return spent, np.minimum.accumulate(mean)


def _passage(spent: np.ndarray, reached: np.ndarray, level: float) -> float:
    there = np.flatnonzero(reached <= level)
    return float(spent[there[0]]) if len(there) else math.inf


def _compression(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    passages, table = smallest(data, rows)
    if table.empty:
        reason = (
            "no finished cells with learning curves that differ in just model.memory_tokens; "
            f"`{command(GRID)}` brings them"
        )
        return Missing(COMPRESSION, COMPRESSION_TITLE, reason)
    looks = style.styles(data.methods)
    groups = _groups(passages)
    shown = groups[: lines.MOST_PANELS]
    figure, panels = lines.grid_of(len(shown), across=2, share_y=False)
    if len(shown) > 1:
        figure.set_size_inches(9.6, figure.get_figheight())  # legends stand beside the panels
    several = len(set(table["grid"])) > 1
    for panel, ((grid, task, method, setting, _), part) in zip(panels, shown):
        _draw_steps(panel, part, looks[method])
        words = ", ".join(word for word in (task, method, setting) if word)
        lines.title(panel, f"{grid}: {words}" if several else words)
    cut = f" The figure shows the first {len(shown)} of {len(groups)} panels." if len(shown) < len(groups) else ""
    said = table.rename(columns={"level": "loss"})
    return Exhibit(
        COMPRESSION,
        COMPRESSION_TITLE,
        f"{_shrinking(passages)} A memory has reached a loss when the mean of its seeds' curves was first there, at an "
        f"evaluation; a line begins where the first memory got there, and steps down where a smaller one did.{cut} The "
        f"paper's values are not known.{lines.uncounted(data.uncounted, table)}",
        lines.ran(data, zip(table["grid"], table["task"])),
        figure,
        said.drop(columns=[] if said["setting"].astype(bool).any() else "setting"),
        tuple(dict.fromkeys(table["task"])),
        tuple(sorted(set(table["method"]), key=style.order)),
    )


def _groups(passages: pd.DataFrame) -> list[tuple[list[str], pd.DataFrame]]:
    """(the values of `CURVE`, rows) of each panel."""
    return [([str(word) for word in key], part) for key, part in passages.groupby(CURVE, sort=False)]


def _steps(level: pd.DataFrame) -> list[tuple[float, float]]:
    """(spent, memory) wherever a smaller memory than before has reached the level."""
    steps: list[tuple[float, float]] = []
    for spent, memory in sorted(zip(level["spent"], level["memory"])):
        if math.isfinite(spent) and (not steps or memory < steps[-1][1]):
            steps = [step for step in steps if step[0] < spent] + [(spent, memory)]
    return steps


def _draw_steps(panel: Axes, part: pd.DataFrame, look: style.Style) -> None:
    """A line for each level; lifted by a hair from one another, as several stand at the same memory."""
    levels = list(part.groupby("level", sort=False))
    handles = []
    for place, (level, one) in enumerate(levels):
        steps = _steps(one)
        x = [spent for spent, _ in steps] + [one["end"].iloc[0]]
        y = [memory * 1.05 ** (place - (len(levels) - 1) / 2) for _, memory in steps]
        shade = 1 - 0.22 * (len(levels) - 1 - place)
        drawn: dict[str, Any] = {"color": look.color, "alpha": shade, "ls": lines.VARIANTS[place], "lw": 1.7}
        panel.step(x, [*y, y[-1]], where="post", **drawn)
        panel.plot(x[:-1], y, ls="", marker=look.marker, ms=4, color=look.color, alpha=shade)
        handles.append(Line2D([], [], label=f"{level:.3f} {one['unit'].iloc[0]}", **drawn))
    currency = part["currency"].iloc[0]
    style.logarithmic(panel.xaxis)
    lines.spread(panel.yaxis, part["memory"])
    panel.set_ylim(part["memory"].min() / 1.3, part["memory"].max() * 1.3)
    panel.set_xlabel("training FLOPs" if currency == "FLOPs" else "training tokens")
    panel.set_ylabel("smallest memory M (numbers)")
    panel.legend(handles=handles, title="loss", loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)


def _shrinking(passages: pd.DataFrame) -> str:
    """For each method: the level at which more training saved most memory."""
    told = []
    for (grid, task, method, setting, unit), part in _groups(passages):
        steps = {f"{level:.3f} {unit}": _steps(one) for level, one in part.groupby("level", sort=False)}
        level, most = max(steps.items(), key=lambda one: one[1][0][1] / one[1][-1][1])
        where = ", ".join(word for word in (task, method, setting) if word)
        where = f"{grid}: {where}" if len(set(passages["grid"])) > 1 else where
        if len(most) == 1:
            told.append(f"{where}: more training lets no smaller memory reach any of the {len(steps)} losses.")
            continue
        shrink = sum(len(one) > 1 for one in steps.values())
        currency = part["currency"].iloc[0]
        (early, large), (late, small) = most[0], most[-1]
        told.append(
            f"{where}: more training lets a smaller memory do at {shrink} of {len(steps)} losses, most at {level}: "
            f"{large:g} numbers after {_rough(early)} {currency}, {small:g} after {_rough(late)}."
        )
    return " ".join(told)


def _rough(value: float) -> str:
    """Three digits: 51.2k, 1.23T."""
    return style.plain(float(f"{value:.3g}"))
