"""One figure per task: accuracy against training tokens, a panel for each setting, a line for each method."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from bench.report import style
from bench.report.style import GREY, Style
from bench.report.tables import Setting, _clean, _order, label, settings, short_names

MOST_PANELS = 12
ACROSS = 3
SMALL = 7.5
REFERENCES = {"accuracy_ceiling": ("ceiling", "-"), "shortcut": ("shortcut", (0, (4, 2))), "chance": ("chance", ":")}
"""Columns that are drawn as horizontal lines: what they are called there, and how they are dashed."""

Key = tuple[str, str]
"""A (grid, task)."""


def draw(results: pd.DataFrame, curves: pd.DataFrame) -> Iterator[tuple[Key, str, Figure]]:
    """For each (grid, task) that has a curve: itself, a name for files, the figure.

    `results` comes from `tables.load`, `curves` from `load_curves`.
    """
    if curves.empty:
        return
    points = _prepared(curves, results)
    looks = style.styles(results["method"])
    found = settings(results)
    names = short_names(found.values())
    taken: set[str] = set()
    alone = len(set(results["grid"])) == 1
    for (grid, task), part in points.groupby(["grid", "task"], sort=True):
        name = _file_name(str(task) if alone else f"{grid}-{task}", taken)
        cells = results[(results["grid"] == grid) & (results["task"] == task)]
        title = task if alone else f"{grid}: {task}"
        yield (str(grid), str(task)), name, _figure(_clean(title), cells, part, found, names, looks)


def _prepared(curves: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """The points that can be drawn, with `x`, the tokens since the beginning, those before `init_from` included."""
    wanted = ["phase", "predictor", "reference", "tokens", "accuracy", "init_from.run", "init_from.phase"]
    points = curves.reindex(columns=[*curves, *(name for name in wanted if name not in curves)])
    for name in ("tokens", "accuracy"):
        points[name] = pd.to_numeric(points[name], errors="coerce")
    points["reference"] = points["reference"].eq(True)
    points["phase"] = points["phase"].astype(object).fillna("").astype(str)
    points = points.dropna(subset=["tokens", "accuracy", "predictor"])
    sources = list(zip(points["grid"], points["init_from.run"], points["init_from.phase"]))
    points["x"] = points["tokens"]
    for _ in range(points["init_from.run"].nunique()):  # a source may have a source
        ends = points.groupby(["grid", "id", "phase"])["x"].max().to_dict()
        points["x"] = points["tokens"] + [ends.get(source, 0.0) for source in sources]
    done = set(results.loc[results["state"] == "done", ["grid", "id"]].itertuples(index=False, name=None))
    points["done"] = [one in done for one in zip(points["grid"], points["id"])]
    return points


def _file_name(text: str, taken: set[str]) -> str:
    """A name that every file system takes; one of its own for each text."""
    base = name = re.sub(r"[^A-Za-z0-9+_.-]+", "-", text).strip(".-") or "task"
    number = 2
    while name.lower() in taken | {"summary"}:
        name, number = f"{base}-{number}", number + 1
    taken.add(name.lower())
    return name


def _panels(cells: pd.DataFrame, found: Mapping[Key, Setting]) -> dict[Setting, set[str]]:
    """The settings of one task with their cells' ids. Methods that have but one setting stand in every panel."""
    keys = {
        (grid, task, method, found[grid, name])
        for grid, task, method, name in zip(cells["grid"], cells["task"], cells["method"], cells["id"])
    }
    panels: dict[Setting, set[str]] = {key[3]: set() for key in sorted(keys, key=_order) if key[3]} or {(): set()}
    for grid, name in zip(cells["grid"], cells["id"]):
        setting = found[grid, name]
        for ids in [panels[setting]] if setting else panels.values():
            ids.add(name)
    return panels


def _figure(
    title: str,
    cells: pd.DataFrame,
    points: pd.DataFrame,
    found: Mapping[Key, Setting],
    names: Mapping[str, str],
    looks: Mapping[str, Style],
) -> Figure:
    panels = {setting: ids for setting, ids in _panels(cells, found).items() if points["id"].isin(ids).any()}
    shown = dict(list(panels.items())[:MOST_PANELS])
    across = min(len(shown), ACROSS)
    down = -(-len(shown) // across)
    width, height = (6.6, 3.9) if len(shown) == 1 else (1.0 + 3.3 * across, 0.9 + 2.5 * down)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(down, across, sharex=False, sharey=True, squeeze=False).flatten()
    bounded = cells["accuracy_ceiling"].notna().any()
    highest = max(points["accuracy"].max(), cells["shortcut"].max(), 0.01)  # (max passes over a NaN in second place)
    top = 1.0 if bounded else min(1.0, 1.15 * highest)
    for place, ((setting, ids), panel) in enumerate(zip(shown.items(), axes)):
        panel.set_ylim(-0.02 * top, 1.03 * top)
        _draw_panel(panel, points[points["id"].isin(ids)], looks)
        _draw_references(panel, cells[cells["id"].isin(ids)], gap=0.046 if len(shown) == 1 else 0.085)
        panel.set_title(label(setting, names), loc="left", pad=15)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.set_xlim(left=0)
        if place % across == 0:
            panel.set_ylabel("accuracy on the test set")
        if place + across >= len(shown):
            panel.set_xlabel("training tokens")
            panel.tick_params(labelbottom=True)
    for panel in axes[len(shown) :]:
        panel.remove()
    missing = f" (the first {len(shown)} of {len(panels)} settings)" if len(panels) > len(shown) else ""
    figure.suptitle(f"{title}{missing}", x=0.01, ha="left", weight="bold")
    handles, words = _legend(points[points["id"].isin(set().union(*shown.values()))], looks)
    figure.legend(handles, words, loc="outside lower center", ncols=min(len(words), 3 if width < 8 else 4))
    return figure


def _draw_panel(panel: Axes, points: pd.DataFrame, looks: Mapping[str, Style]) -> None:
    """Every method's mean over its finished seeds, with a thin line for each seed; all seeds where none is finished."""
    boundaries: dict[tuple[str, str], list[float]] = {}
    for (method, _, reference), part in points.groupby(["method", "predictor", "reference"], sort=False):
        look = looks[str(method)]
        seeds = {name: one.sort_values("x") for name, one in part.groupby("id", sort=True)}
        whole = [one for one in seeds.values() if one["done"].all()] or list(seeds.values())
        line: dict[str, Any] = {"color": look.color, "zorder": 2 if reference else 3}
        line |= {"ls": "--", "lw": 1.2} if reference else {"marker": look.marker, "ms": 3.5, "lw": 1.7}
        panel.plot(*mean_curve(whole), **line)
        for one in seeds.values() if len(seeds) > 1 else []:
            panel.plot(one["x"], one["accuracy"], color=look.color, lw=0.6, alpha=0.55, ls=line.get("ls", "-"))
        for one in [] if reference else seeds.values():
            if not one["done"].all():
                panel.plot(one["x"].iloc[-1], one["accuracy"].iloc[-1], "x", color=look.color, ms=7, mew=1.6, zorder=4)
            for phase, begin in _changes(one):
                boundaries.setdefault((str(method), phase), []).append(begin)
    labelled: list[float] = []
    for (_, phase), begins in boundaries.items():
        at = float(np.mean(begins))
        panel.axvline(at, color=GREY, lw=0.8, ls=(0, (1, 2)), zorder=1)
        if all(abs(at - other) > 0.2 * points["x"].max() for other in labelled):
            labelled.append(at)
            place: dict[str, Any] = {"xycoords": panel.get_xaxis_transform(), "textcoords": "offset points"}
            small: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "ha": "center", "va": "bottom"}
            panel.annotate(f"phase {_clean(phase)} →", (at, 1), xytext=(0, 2), **place, **small)


def mean_curve(seeds: list[pd.DataFrame], y: str = "accuracy") -> tuple[np.ndarray, np.ndarray]:
    """The mean curve as far as all seeds reach; where their evaluations differ, between these on straight lines."""
    end = min(one["x"].max() for one in seeds)
    x = np.unique(np.concatenate([one["x"].to_numpy() for one in seeds]))
    x = x[x <= end]
    return x, np.mean([np.interp(x, one["x"], one[y]) for one in seeds], axis=0)


def _changes(points: pd.DataFrame) -> list[tuple[str, float]]:
    """The phases after the first, and the tokens at which each begins."""
    phases, x = points["phase"].tolist(), points["x"].tolist()
    return [(phases[i], x[i - 1]) for i in range(1, len(phases)) if phases[i] != phases[i - 1]]


def _draw_references(panel: Axes, cells: pd.DataFrame, gap: float) -> None:
    """Chance, best shortcut and ceiling as horizontal lines, named right of the axes without touching one another."""
    trained = cells[cells["length"] == cells["task.length"].astype(float)]
    low, high = panel.get_ylim()
    levels = {name: trained[name].dropna().iloc[0] for name in REFERENCES if trained[name].notna().any()}
    places: list[float] = []
    for name, level in sorted(levels.items(), key=lambda item: (item[1], item[0])):
        text, dashes = REFERENCES[name]
        panel.axhline(level, color=GREY, lw=0.9, ls=dashes, zorder=1)
        share = (level - low) / (high - low)
        places.append(max(share, places[-1] + gap) if places else share)
        panel.annotate(
            f"{text} {level:.3g}", (1.01, places[-1]), xycoords="axes fraction", fontsize=SMALL, color=GREY, va="center"
        )


def _legend(points: pd.DataFrame, looks: Mapping[str, Style]) -> tuple[list[Line2D], list[str]]:
    handles, words = [], []
    lines = points[["method", "predictor", "reference"]].drop_duplicates()
    for method, predictor, reference in sorted(
        lines.itertuples(index=False, name=None), key=lambda line: (line[2], style.order(line[0]))
    ):
        look = looks[method]
        drawn: dict[str, Any] = {"ls": "--", "lw": 1.2} if reference else {"marker": look.marker, "ms": 4, "lw": 1.7}
        handles.append(Line2D([], [], color=look.color, **drawn))
        words.append(f"{method} {predictor} (reference)" if reference else method)
    if points.groupby(["method", "predictor"])["seed"].nunique().max() > 1:
        handles.append(Line2D([], [], color=GREY, lw=0.6))
        words.append("single seeds")
    if not points["done"].all():
        handles.append(Line2D([], [], color=GREY, marker="x", ms=7, mew=1.6, ls=""))
        words.append("not finished")
    return handles, [f" {_clean(word)}" for word in words]  # a word that begins with _ would be left out
