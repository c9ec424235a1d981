"""The summary as text: in the terminal, and as GitHub Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.report.exhibit import sizes
from bench.report.formats import rows_of
from bench.report.query import provenance
from bench.report.summary import about, by_task, heading, reasons
from bench.report.words import clean, count, counted, escape, fixed
from bench.statistics import SEEDS_FOR_AN_INTERVAL


class Column(NamedTuple):
    """A column as people read it: its head, and the text of a row's cell."""

    head: str
    text: Callable[[Any], str]
    right: bool = True


def _fixed(name: str, less: str = "") -> Callable[[Any], str]:
    return lambda row: fixed(row[name] - (row[less] if less else 0))


def _seconds(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _steps(value: float) -> str:
    """Optimiser steps: the number where seeds agree, else their mean."""
    return "-" if pd.isna(value) else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _accuracy(row: Any) -> str:
    return fixed(row["accuracy"]) + ("" if pd.isna(row["accuracy_se"]) else f" ±{row['accuracy_se']:.3f}")


def _interval(row: Any) -> str:
    return "-" if pd.isna(row["accuracy_low"]) else f"{row['accuracy_low']:.3f} to {row['accuracy_high']:.3f}"


def _who(row: Any) -> str:
    return clean(f"{row['method']} {row['predictor']} *" if row["reference"] else row["method"])


def _own(head: str, text: Callable[[Any], str], right: bool = True) -> Column:
    """A column of what a reference line has not."""
    return Column(head, lambda row: "" if row["reference"] else text(row), right)


def _columns(part: pd.DataFrame) -> list[Column]:
    """The columns of one task's table: those that say something there."""
    streamed = bool(part["start_accuracy"].notna().any())
    natural = bool(part["loss_floor"].isna().all() and part["loss"].notna().any())
    several_lengths = part.groupby(["method", "setting"])["length"].nunique().max() > 1
    every = [
        (True, Column("method", _who, right=False)),
        (part["setting"].any(), Column("setting", lambda row: clean(row["setting"]), right=False)),
        (several_lengths, Column("tested at", lambda row: count(row["length"]))),
        (True, Column("accuracy", _accuracy)),
        (streamed, Column("from start", _fixed("start_accuracy"))),
        (True, Column("chance", _fixed("chance"))),
        (True, Column("shortcut", _fixed("shortcut"))),
        (True, Column("ceiling", _fixed("accuracy_ceiling"))),
        (True, Column("share", _fixed("share_of_ceiling"))),
        (natural, Column("loss", _fixed("loss"))),
        (natural and streamed, Column("loss from start", _fixed("start_loss"))),
        (natural, Column("unigram", _fixed("unigram_loss"))),
        (not natural, Column("loss +", _fixed("loss_above_floor"))),
        (not natural and streamed, Column("loss + from start", _fixed("start_loss", less="loss_floor"))),
        (True, _own("steps", lambda row: _steps(row["steps"]))),
        (True, _own("tokens", lambda row: count(row["tokens"]))),
        (True, _own("seconds", lambda row: _seconds(row["training_seconds"]))),
        (part["compile_seconds"].gt(0).any(), _own("compiling", lambda row: _seconds(row["compile_seconds"]))),
        (True, _own("params", lambda row: count(row["predictor_parameters"]))),
        (True, _own("status", lambda row: clean(row["status"]), right=False)),
    ]
    return [column for wanted, column in every if wanted]


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


LEAST = {"method": 24, "setting": 11, "status": 6}
"""Widths of columns of words, below which they do not shrink where room is short."""
FIRST_TO_GO = (*("loss from start", "loss + from start"), *("params", "share", "seconds", "steps", "tokens", "chance"))
"""Columns that are left out, in this order, where room is still short."""


def print_summary(frame: pd.DataFrame, console: Console) -> None:
    """Print the table, a part for each task; in fewer than some 100 columns without some, which the last line names."""
    parts = [(key, part, _columns(part), part.to_dict("records")) for key, part in by_task(frame)]
    widths: dict[str, int] = {}
    for _, _, columns, rows in parts:
        for column in columns:
            widest = max(len(column.head), *(len(column.text(row)) for row in rows))
            widths[column.head] = max(widths.get(column.head, 0), widest)
    least = {head: min(width, LEAST.get(head, width)) for head, width in widths.items()}
    gone: list[str] = []
    for head in (head for head in FIRST_TO_GO if head in widths):
        kept = [[column.head for column in columns if column.head not in gone] for _, _, columns, _ in parts]
        if max(sum(least[head] + 1 for head in heads) for heads in kept) > console.width:
            gone.append(head)
    gap = 2 if sum(widths.values()) + 2 * len(widths) <= console.width else 1
    for key, part, columns, rows in parts:
        console.print(Text.assemble((heading(key, frame), "bold"), (f"  {about(part)}", "dim")))
        columns = [column for column in columns if column.head not in gone]
        table = Table(box=None, padding=(0, gap, 0, 0), header_style="bold", pad_edge=False)
        for column in columns:
            justify: Literal["left", "right"] = "right" if column.right else "left"
            table.add_column(column.head, justify=justify, min_width=least[column.head], overflow="fold")
        for row in rows:
            tint = "dim" if row["reference"] else "" if "done" in row["status"] else "yellow"
            table.add_row(*(Text(column.text(row)) for column in columns), style=tint)
        console.print(table)
        for reason in reasons(part):
            console.print(Text(reason, "yellow"))
        console.print()
    left_out = f"; left out in this narrow window: {', '.join(gone)}" if gone else ""
    console.print(Text(_legend(frame, gone) + left_out, "dim"))


def markdown(frame: pd.DataFrame, results: pd.DataFrame, figures: Mapping[tuple[str, str], str]) -> str:
    """The table as GitHub Markdown, with what was run and where; `figures` names a figure for each (grid, task)."""
    runs = results.drop_duplicates(["grid", "id"])
    counts = ", ".join(f"{number} {state}" for state, number in Counter(runs["state"]).most_common())
    lines = [f"# Results of {escape(', '.join(dict.fromkeys(runs['grid'])))}", ""]
    lines += [f"{len(runs)} cells: {escape(counts)}.", ""]
    for key, part in by_task(frame):
        own = runs[(runs["grid"] == key[0]) & (runs["task"] == key[1])]
        columns = _columns(part)
        if part["accuracy_low"].notna().any():
            place = [column.head for column in columns].index("accuracy") + 1
            columns.insert(place, Column("95 % interval", _interval))
        lines += [f"## {escape(heading(key, frame))}", "", escape(sizes(own)), ""]
        lines += [f"{escape(about(part))}.", ""] if about(part) else []
        rows = [[column.text(row) for column in columns] for row in part.to_dict("records")]
        lines += rows_of([(column.head, column.right) for column in columns], rows)
        lines += ["", *(f"- {escape(reason)}" for reason in reasons(part)), ""]
        alt = escape(f"Accuracy against training tokens, {heading(key, frame)}")
        gone = "No figure: no evaluation of any cell could be read."
        lines += [f"![{alt}](figures/{figures[key]}.png)" if key in figures else gone, ""]
    notes = [_legend(frame)]
    if 0 < frame["seeds"].max() < SEEDS_FOR_AN_INTERVAL:
        notes.append(f"no intervals: these take {SEEDS_FOR_AN_INTERVAL} seeds or more")
    lines += ["## How to read this", "", f"{escape('; '.join(notes))}.", "", "## What computed it", ""]
    lines += [f"- {escape(line)}" for line in _provenance(runs)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _provenance(runs: pd.DataFrame) -> list[str]:
    """Commit, versions and hardware, each combination once with how many cells it computed."""
    counts: Counter[str] = Counter()
    for row in provenance(runs).to_dict("records"):
        facts = {str(name): value for name, value in row.items() if pd.notna(value)}
        words = [f"commit {facts.pop('commit', 'unknown')}" + (" with changes" if facts.pop("dirty", False) else "")]
        counts[", ".join([*words, *(f"{name} {value}" for name, value in facts.items())])] += 1
    found = [f"{words} ({counted(number, 'cell')})" for words, number in counts.most_common()]
    return found or ["no finished cell says it"]
