"""The first table: how well each method did at each task, beside what guessing, a shortcut and an oracle reach.

A row is a group of cells that differ in nothing but their seed, one scored predictor of theirs, and one test length.
Numbers are final ones, never maxima over training. Cells that are not done keep their row, with status and reason.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.errors import BadInput
from bench.report import style
from bench.report.statistics import SEEDS_FOR_AN_INTERVAL, mean_interval
from bench.results import Paths, by_code, load_results

SECTIONS = ("task.", "method.", "model.", "training.", "evaluation.", "init_from.")
NUMBERS = (
    *("length", "accuracy", "loss", "start_accuracy", "start_loss", "progress"),
    *("chance", "shortcut", "accuracy_ceiling", "loss_floor", "unigram_loss"),
    *("steps", "tokens", "training_seconds", "compile_seconds", "parameters", "predictor_parameters"),
    *("inherited.steps", "inherited.tokens", "inherited.training_seconds"),
)
TEXTS = (
    *("backbone", "predictor", "reference", "reason", "shortcut_rule", "unit", "seed", "digest", "task.length"),
    "uncounted",
)

Setting = tuple[tuple[str, Any], ...]
"""The config columns in which a cell differs from others of its task and method, with their values."""


# From results to the table.


def load(paths: Paths) -> pd.DataFrame:
    """`load_results` with every column that reports use, numbers as numbers. Raises `BadInput` when no run is there."""
    results = load_results(paths)
    if results.empty:
        where = ", ".join(repr(str(path)) for path in ([paths] if isinstance(paths, Path | str) else paths))
        raise BadInput(f"no runs in {where}: no folder there has a run.json, as `run GRID` writes it")
    results = results.reindex(columns=[*results, *(name for name in (*NUMBERS, *TEXTS) if name not in results)])
    for name in NUMBERS:
        results[name] = pd.to_numeric(results[name], errors="coerce").astype(float)
    results["reference"] = results["reference"].eq(True)
    results["task"] = results["task"].astype(object).where(results["task"].notna(), "(unknown task)")
    results["method"] = results["method"].astype(object).where(results["method"].notna(), results["id"])
    return results


def settings(results: pd.DataFrame) -> dict[tuple[str, str], Setting]:
    """(grid, id) -> the setting of that cell."""
    runs = results.drop_duplicates(["grid", "id"]).reset_index(drop=True)
    columns = [name for name in _names(runs) if name.startswith(SECTIONS) or name in ("device", "precision", "threads")]
    config = runs[columns].astype(object)
    config = config.where(config.notna(), None)
    if "init_from.run" in config:
        config["init_from.run"] = _seedless(runs, config.drop(columns="init_from.run"), config["init_from.run"])
    keys, records = list(zip(runs["grid"], runs["id"])), config.to_dict("records")
    found: dict[tuple[str, str], Setting] = {}
    for rows in runs.groupby(["grid", "task", "method"], sort=False).indices.values():
        part = config.iloc[rows]
        varying = [name for name in columns if len(set(part[name])) > 1]
        telling = [name for name in varying if not name.startswith("training.budget.")]
        if _different(part[telling]) == _different(part[varying]):
            varying = telling  # a budget that follows from the rest; the table has it as tokens, steps and seconds
        for row in rows:
            found[keys[row]] = tuple((name, _plain(records[row][name])) for name in varying)
    return found


def _different(part: pd.DataFrame) -> int:
    """How many different rows there are; none where there are no columns."""
    return len(set(part.itertuples(index=False, name=None)))


def _names(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame]


def _seedless(runs: pd.DataFrame, config: pd.DataFrame, sources: pd.Series) -> pd.Series:
    """The ids that `init_from` names, with one in place of all those that differ by their seed alone."""
    first: dict[tuple[Any, ...], str] = {}
    same = {}
    for grid, name, task, method, values in zip(
        runs["grid"], runs["id"], runs["task"], runs["method"], config.itertuples(index=False, name=None)
    ):
        same[grid, name] = first.setdefault((grid, task, method, *values), name)
    kept = [same.get((grid, source), source) for grid, source in zip(runs["grid"], sources)]
    return pd.Series(kept, index=sources.index, dtype=object)


def _plain(value: Any) -> Any:
    """Whole numbers as int: a column with gaps holds them as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sortable(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _order(key: tuple[str, str, str, Setting]) -> tuple[Any, ...]:
    """Rows by grid, task and the task's knobs, so that the methods to be compared stand together."""
    grid, task, method, setting = key
    knobs = [_sortable(value) for name, value in setting if name.startswith("task.")]
    others = [_sortable(value) for name, value in setting if not name.startswith("task.")]
    return grid, task, knobs, style.order(method), others


def label(setting: Setting, names: Mapping[str, str]) -> str:
    """A setting in words: `length 64, backbone gru`."""
    return ", ".join(f"{names[name]} {_number(value)}" for name, value in setting)


def short_names(all_settings: Iterable[Setting]) -> dict[str, str]:
    """Dotted columns -> their last parts, or the whole where two end alike."""
    columns = {name for setting in all_settings for name, _ in setting}
    ends = Counter(name.rpartition(".")[2] for name in columns)
    return {name: end if ends[end := name.rpartition(".")[2]] == 1 else name for name in columns}


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """One row per group of cells that differ by their seed alone, scored predictor and test length.

    Columns: grid, task, method, backbone, setting (in which config fields the group differs from others of its task and
    method; these fields follow as columns at the end), predictor, reference, length (of the test sequences), seeds (how
    many cells are in the means); accuracy, accuracy_se (from two seeds on), accuracy_low and accuracy_high (95 %
    bootstrap interval of the mean, from three seeds on); start_accuracy; chance, shortcut, shortcut_rule,
    accuracy_ceiling, share_of_ceiling; unit (nats or bits), and in it loss, start_loss, loss_floor, loss_above_floor,
    unigram_loss; steps (of the optimiser), tokens and training_seconds, what phases taken over by `init_from` had cost
    included; compile_seconds (in no other); predictor_parameters; status, reason. Accuracy and loss of a method that
    learns from streams are those on held-out streams with its memory carried on, and start_accuracy and start_loss
    those on sequences from their start; other methods have no such.
    """
    at = settings(results)
    names = short_names(at.values())
    keys = [
        (grid, task, method, at[grid, name])
        for grid, name, task, method in zip(results["grid"], results["id"], results["task"], results["method"])
    ]
    groups: dict[tuple[str, str, str, Setting], list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    rows = []
    for key in sorted(groups, key=_order):
        grid, task, method, setting = key
        cells = results.iloc[groups[key]]
        fields = {"grid": grid, "task": task, "method": method, "backbone": cells["backbone"].iloc[0]}
        rows += [
            {**fields, "setting": label(setting, names), **scores, **_status(cells), **dict(setting)}
            for scores in _scores(cells)
        ]
    frame = pd.DataFrame(rows)
    for name in names:
        frame[name] = frame[name].astype(object).map(_plain)
    return frame


def _scores(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """A record per scored predictor and test length of one group; one without scores when none of it is done."""
    done = cells[cells["state"] == "done"]
    if done.empty:
        return [{"predictor": None, "reference": False, "length": float("nan"), "seeds": 0, **_means(cells, False)}]
    scored = done.groupby(["predictor", "reference", "length"], sort=False, dropna=False)
    return [
        {
            "predictor": predictor,
            "reference": reference,
            "length": length,
            "seeds": len(part),
            **_means(part, bool(reference)),
        }
        for (predictor, reference, length), part in scored
    ]


def _means(part: pd.DataFrame, reference: bool) -> dict[str, Any]:
    """Means over the seeds of one predictor at one length; a reference line's own parameters are not known."""
    mean = {name: part[name].mean() for name in NUMBERS if name != "length"}
    inherited = {name: part[f"inherited.{name}"].fillna(0) for name in ("steps", "tokens", "training_seconds")}
    unit = next(iter(part["unit"].dropna()), None)
    scale = 1 / math.log(2) if unit == "bits" else 1.0
    return {
        "accuracy": mean["accuracy"],
        **_spread(part["accuracy"].dropna().to_numpy()),
        **{name: mean[name] for name in ("start_accuracy", "chance", "shortcut")},
        "shortcut_rule": next(iter(part["shortcut_rule"].dropna()), None),
        "accuracy_ceiling": mean["accuracy_ceiling"],
        "share_of_ceiling": (part["accuracy"] / part["accuracy_ceiling"]).mean(),
        "unit": unit,
        "loss": mean["loss"] * scale,
        "start_loss": mean["start_loss"] * scale,
        "loss_floor": mean["loss_floor"] * scale,
        "loss_above_floor": (part["loss"] - part["loss_floor"]).mean() * scale,
        "unigram_loss": mean["unigram_loss"] * scale,
        **{name: (part[name] + more).mean() for name, more in inherited.items()},
        "compile_seconds": mean["compile_seconds"],
        "predictor_parameters": float("nan") if reference else mean["predictor_parameters"],
    }


def _spread(accuracies: np.ndarray) -> dict[str, float]:
    """Standard error and a 95 % interval of the mean, as far as there are seeds enough."""
    n = len(accuracies)
    error = accuracies.std(ddof=1) / math.sqrt(n) if n > 1 else float("nan")
    interval = mean_interval(accuracies)
    return {"accuracy_se": error, "accuracy_low": interval.low, "accuracy_high": interval.high}


def _status(cells: pd.DataFrame) -> dict[str, str]:
    """How many cells of the group are in which state, and why; and whether their means are over several codes."""
    runs = cells.drop_duplicates("id")
    states = Counter(runs["state"])
    counted = sorted(states.items(), key=lambda item: (item[0] != "done", item[0]))
    status = ", ".join(f"{count} {state}" for state, count in counted) if len(runs) > 1 else runs["state"].iloc[0]
    reasons: dict[str, list[str]] = {}
    columns = ("state", "reason", "seed", "progress", "uncounted")
    for state, reason, seed, progress, uncounted in zip(*(runs[name] for name in columns)):
        if state == "running" and pd.notna(progress):
            reason = f"{progress:.0%} of its budget used"
        elif state == "done" and pd.notna(uncounted) and uncounted:
            reason = f"its budget of FLOPs bought too much: no rule counts {uncounted}"
        if pd.notna(reason):
            reasons.setdefault(f"{state}: {reason}", []).append(f"{seed:g}" if isinstance(seed, int | float) else "?")
    told = [f"{text} (seed {', '.join(seeds)})" if len(runs) > 1 else text for text, seeds in reasons.items()]
    if codes := by_code(dict(zip(runs["seed"].map(_plain), runs["digest"]))):
        status += ", not by one code"
        told.append(codes)
    return {"status": status, "reason": "; ".join(told)}


# From the table to text.


class Column(NamedTuple):
    """A column as people read it: its head, and the text of a row's cell."""

    head: str
    text: Callable[[Any], str]
    right: bool = True


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else _clean(value)


def _clean(value: Any) -> str:
    """Text of any origin on one line, without control characters."""
    return "".join(one if one.isprintable() else " " for one in str(value))


def _fixed(name: str, digits: int = 3) -> Callable[[Any], str]:
    return lambda row: "-" if pd.isna(row[name]) else f"{row[name]:.{digits}f}"


def _count(value: float) -> str:
    """A count in four characters or so: 950, 61.4k, 3.5M."""
    if pd.isna(value):
        return "-"
    power = 0 if abs(value) < 1000 else min(3, int(math.log10(abs(value))) // 3)
    scaled, letter = value / 1000**power, ("", "k", "M", "G")[power]
    digits = 0 if not letter or scaled >= 100 else 2 if scaled < 10 else 1
    text = f"{scaled:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if digits else text) + letter


def _seconds(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _steps(value: float) -> str:
    """Optimiser steps: the number where seeds agree, else their mean."""
    return "-" if pd.isna(value) else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _start_loss_above_floor(row: Any) -> str:
    above = row["start_loss"] - row["loss_floor"]
    return "-" if pd.isna(above) else f"{above:.3f}"


def _accuracy(row: Any) -> str:
    text = _fixed("accuracy")(row)
    return text if pd.isna(row["accuracy_se"]) else f"{text} ±{row['accuracy_se']:.3f}"


def _who(row: Any) -> str:
    return _clean(f"{row['method']} {row['predictor']} *" if row["reference"] else row["method"])


def _columns(part: pd.DataFrame) -> list[Column]:
    """The columns of one task's table: those that say something there."""
    columns = [Column("method", _who, right=False)]
    if part["setting"].any():
        columns.append(Column("setting", lambda row: _clean(row["setting"]), right=False))
    if part.groupby(["method", "setting"])["length"].nunique().max() > 1:
        columns.append(Column("tested at", lambda row: _count(row["length"])))
    streamed = part["start_accuracy"].notna().any()
    columns.append(Column("accuracy", _accuracy))
    columns += [Column("from start", _fixed("start_accuracy"))] if streamed else []
    columns += [
        Column("chance", _fixed("chance")),
        Column("shortcut", _fixed("shortcut")),
        Column("ceiling", _fixed("accuracy_ceiling")),
        Column("share", _fixed("share_of_ceiling")),
    ]
    if part["loss_floor"].isna().all() and part["loss"].notna().any():
        columns.append(Column("loss", _fixed("loss")))
        columns += [Column("loss from start", _fixed("start_loss"))] if streamed else []
        columns.append(Column("unigram", _fixed("unigram_loss")))
    else:
        columns.append(Column("loss +", _fixed("loss_above_floor")))
        columns += [Column("loss + from start", _start_loss_above_floor)] if streamed else []
    compiling = Column("compiling", lambda row: "" if row["reference"] else _seconds(row["compile_seconds"]))
    compiled = [compiling] if part["compile_seconds"].gt(0).any() else []
    return [
        *columns,
        Column("steps", lambda row: "" if row["reference"] else _steps(row["steps"])),
        Column("tokens", lambda row: "" if row["reference"] else _count(row["tokens"])),
        Column("seconds", lambda row: "" if row["reference"] else _seconds(row["training_seconds"])),
        *compiled,
        Column("params", lambda row: "" if row["reference"] else _count(row["predictor_parameters"])),
        Column("status", lambda row: "" if row["reference"] else _clean(row["status"]), right=False),
    ]


def _parts(frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    return [(key, part) for key, part in frame.groupby(["grid", "task"], sort=False)]  # type: ignore[misc]


def _about(part: pd.DataFrame) -> str:
    """What the columns of one task's table mean there."""
    rules = [str(rule) for rule in dict.fromkeys(part["shortcut_rule"].dropna())]
    units = [str(unit) for unit in dict.fromkeys(part["unit"].dropna())]
    words = [f"shortcut: {' or '.join(rules)}"] if rules else []
    words += [f"loss in {' or '.join(units)} per scored token"] if units else []
    words += [told] if (told := streamed(part)) else []
    return _clean("; ".join(words))


def streamed(part: pd.DataFrame) -> str:
    """What the two scores of methods that learn from streams are; nothing where there is none."""
    methods = dict.fromkeys(part["method"][part["start_accuracy"].notna()])
    if not methods:
        return ""
    scores = "scores are on held-out streams, memory carried on; from start, and at other lengths: on whole sequences"
    return f"{', '.join(methods)}: {scores}"


def _reasons(part: pd.DataFrame) -> list[str]:
    """Each reason once, with the methods that it holds for."""
    told: dict[str, list[str]] = {}
    for method, setting, reason in zip(part["method"], part["setting"], part["reason"]):
        if reason:
            who = f"{method} ({setting})" if setting else method
            told.setdefault(reason, [])
            told[reason] += [who] if who not in told[reason] else []
    return [_clean(f"{', '.join(who)}: {reason}") for reason, who in told.items()]


def _legend(frame: pd.DataFrame, gone: Sequence[str] = ()) -> str:
    words = ["accuracy: on the test set at the end of training"]
    if frame["seeds"].max() > 1:
        words[0] += ", mean over seeds ± standard error"
    words += [] if "share" in gone else ["share: accuracy / ceiling"]
    if frame["loss_above_floor"].notna().any():
        words.append("loss +: loss above the Bayes-optimal one")
    if frame["loss_floor"].isna().any() and frame["unigram_loss"].notna().any():
        words.append("unigram: loss of knowing only how common each label is")
    if frame["reference"].any():
        words.append("*: a reference line, scored beside the trained predictor on fewer sequences")
    return "; ".join(words)


def _heading(key: tuple[str, str], frame: pd.DataFrame) -> str:
    grid, task = key
    return _clean(task if len(set(frame["grid"])) == 1 else f"{grid}: {task}")


_LEAST = {"method": 24, "setting": 11, "status": 6}
"""Widths of columns of words, below which they do not shrink where room is short."""
_FIRST_TO_GO = (
    *("loss from start", "loss + from start"),
    *("params", "share", "seconds", "steps", "tokens", "chance"),
)
"""Columns that are left out, in this order, where room is still short."""


def print_summary(frame: pd.DataFrame, console: Console) -> None:
    """Print the table, a part for each task, aligned with one another.

    It needs about 100 columns; in fewer, columns are left out, and the last line names them.
    """
    parts = [(key, part, _columns(part), part.to_dict("records")) for key, part in _parts(frame)]
    widths: dict[str, int] = {}
    for _, _, columns, rows in parts:
        for column in columns:
            widest = max(len(column.head), *(len(column.text(row)) for row in rows))
            widths[column.head] = max(widths.get(column.head, 0), widest)
    least = {head: min(width, _LEAST.get(head, width)) for head, width in widths.items()}
    gone: list[str] = []
    for head in (head for head in _FIRST_TO_GO if head in widths):
        kept = [[one.head for one in columns if one.head not in gone] for _, _, columns, _ in parts]
        if max(sum(least[one] + 1 for one in heads) for heads in kept) > console.width:
            gone.append(head)
    gap = 2 if sum(widths.values()) + 2 * len(widths) <= console.width else 1
    for key, part, columns, rows in parts:
        console.print(Text.assemble((_heading(key, frame), "bold"), (f"  {_about(part)}", "dim")))
        columns = [column for column in columns if column.head not in gone]
        table = Table(box=None, padding=(0, gap, 0, 0), header_style="bold", pad_edge=False)
        for column in columns:
            justify: Literal["left", "right"] = "right" if column.right else "left"
            table.add_column(column.head, justify=justify, min_width=least[column.head], overflow="fold")
        for row in rows:
            tint = "dim" if row["reference"] else "" if "done" in row["status"] else "yellow"
            table.add_row(*(Text(column.text(row)) for column in columns), style=tint)
        console.print(table)
        for reason in _reasons(part):
            console.print(Text(reason, "yellow"))
        console.print()
    left_out = f"; left out in this narrow window: {', '.join(gone)}" if gone else ""
    console.print(Text(_legend(frame, gone) + left_out, "dim"))


# Markdown.


def escape(text: object) -> str:
    """Any text as plain words in a cell of a GitHub table."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(_clean(text), quote=False))


def markdown(frame: pd.DataFrame, results: pd.DataFrame, figures: Mapping[tuple[str, str], str]) -> str:
    """The table as GitHub Markdown, with what was run and where; `figures` names a figure for each (grid, task)."""
    runs = results.drop_duplicates(["grid", "id"])
    grids = ", ".join(dict.fromkeys(runs["grid"]))
    states = Counter(runs["state"])
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    lines = [f"# Results of {escape(grids)}", "", f"{len(runs)} cells: {escape(counts)}.", ""]
    for key, part in _parts(frame):
        own = runs[(runs["grid"] == key[0]) & (runs["task"] == key[1])]
        columns = _columns(part)
        if part["accuracy_low"].notna().any():
            place = [column.head for column in columns].index("accuracy") + 1
            columns.insert(place, Column("95 % interval", _interval))
        lines += [f"## {escape(_heading(key, frame))}", "", escape(_what(own)), ""]
        lines += [f"{escape(_about(part))}.", ""] if _about(part) else []
        lines += _table(columns, part.to_dict("records"))
        lines += ["", *(f"- {escape(reason)}" for reason in _reasons(part))]
        if key in figures:
            alt = escape(f"Accuracy against training tokens, {_heading(key, frame)}")
            lines += ["", f"![{alt}]({figures[key]}.png)"]
        else:
            lines += ["", "No figure: no evaluation of any cell could be read."]
        lines.append("")
    notes = [_legend(frame)]
    if 0 < frame["seeds"].max() < SEEDS_FOR_AN_INTERVAL:
        notes.append(f"no intervals: these take {SEEDS_FOR_AN_INTERVAL} seeds or more")
    lines += ["## How to read this", "", f"{escape('; '.join(notes))}.", "", "## What computed it", ""]
    lines += [f"- {escape(one)}" for one in _provenance(runs)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _interval(row: Any) -> str:
    return "-" if pd.isna(row["accuracy_low"]) else f"{row['accuracy_low']:.3f} to {row['accuracy_high']:.3f}"


def _table(columns: Sequence[Column], rows: Sequence[Any]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    heads = [line(escape(column.head) for column in columns), line("--:" if one.right else ":--" for one in columns)]
    return heads + [line(escape(column.text(row)) for column in columns) for row in rows]


def _what(runs: pd.DataFrame) -> str:
    """The sizes and budgets of one task's cells: each field with all its values."""
    words = []
    for name in _names(runs):
        if name.startswith(_TOLD) or name == "seed":
            values = sorted({_plain(one) for one in runs[name].dropna()}, key=_sortable)
            if values:
                short = name.removeprefix("task.").removeprefix("model.").removeprefix("training.")
                words.append(f"{short} {', '.join(f'{v:,}' if isinstance(v, int) else str(v) for v in values)}")
    return _clean("; ".join(words))


def _provenance(runs: pd.DataFrame) -> list[str]:
    """Commit, versions and hardware, each combination once with how many cells it computed."""
    columns = [name for name in _names(runs) if name.startswith("provenance.") and name not in _UNTOLD]
    known = runs[runs[columns].notna().any(axis=1)] if columns else runs.iloc[:0]
    if known.empty:
        return ["no finished cell says it"]
    told: Counter[str] = Counter()
    for row in known[columns].to_dict("records"):
        facts = {str(name).removeprefix("provenance."): _plain(value) for name, value in row.items() if pd.notna(value)}
        words = [f"commit {facts.pop('commit', 'unknown')}" + (" with changes" if facts.pop("dirty", False) else "")]
        words += [f"{name.removeprefix('packages.')} {value}" for name, value in facts.items()]
        told[", ".join(words)] += 1
    return [f"{words} ({count} {'cell' if count == 1 else 'cells'})" for words, count in told.most_common()]


_TOLD = ("task.", "model.", "training.budget.", "training.batch_size", "training.optimiser.lr")
_UNTOLD = ("provenance.host", "provenance.seed")
