"""The regime of a verdict: lengths, budgets and forms of the methods. What holds in one need not hold in another."""

from __future__ import annotations

import pandas as pd

from bench.report.query import CURRICULUM, WAYS, names_of, number
from bench.report.words import counted


def as_published(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs at one fixed length from the first batch on, with gates that begin as usual."""
    return runs[~runs[names_of(runs, tuple(WAYS.values()))].notna().any(axis=1)]


def regime(runs: pd.DataFrame) -> str:
    """`smt+dmt and bptt at lengths 8 to 32, 600,000 tokens, 3 seeds`."""
    if runs.empty:
        return ""
    budgets = [
        _span(runs[name], name.rpartition(".")[2].replace("_", " ")) for name in names_of(runs, "training.budget.")
    ]
    lengths = _span(runs["task.length"], "")
    *methods, last = dict.fromkeys(runs["method"])
    named = f"{', '.join(methods)} and {last}" if methods else last
    words = [f"{named} at length{'s' * (' to ' in lengths)} {lengths}" if lengths else named, *budgets]
    words.append(counted(runs["seed"].nunique(), "seed"))
    if runs[names_of(runs, CURRICULUM)].notna().any(axis=None):
        words.append("some with a curriculum of lengths")
    return ", ".join(filter(None, words))


def _span(values: pd.Series, unit: str) -> str:
    known = number(values).dropna()
    if known.empty:
        return ""
    low, high = known.min(), known.max()
    shown = [f"{value:,.0f}" if value == round(value) else f"{value:g}" for value in (low, high)]
    return f"{' to '.join(dict.fromkeys(shown))} {unit}".strip()
