"""Numbers and names in words: on one line, without control characters, as short as a reader needs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench import outgoing
from bench.statistics import SEEDS_FOR_AN_INTERVAL

clean, escape = outgoing.clean, outgoing.markdown


def whole_as_int(value: Any) -> Any:
    """Whole numbers as int: a column with gaps holds them as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sortable(value: Any) -> tuple[int, float, str]:
    """A key that sorts numbers by size, and the rest by name after them."""
    number = isinstance(value, int | float)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def number_word(value: Any) -> str:
    """A number without needless digits; anything else as it is."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else clean(value)


def file_name(text: str, taken: set[str]) -> str:
    """A name that every file system takes; one of its own for each text."""
    base = name = re.sub(r"[^A-Za-z0-9+_.-]+", "-", text).strip(".-") or "task"
    number = 2
    while name.lower() in taken | {"summary"}:
        name, number = f"{base}-{number}", number + 1
    taken.add(name.lower())
    return name


def fixed(value: float) -> str:
    """A number with three decimals; a dash for a gap."""
    return "-" if pd.isna(value) else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    """`1 cell`, `2,000 cells`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def count(value: float) -> str:
    """A count in four characters or so: 950, 61.4k, 3.5M."""
    if pd.isna(value):
        return "-"
    power = 0 if abs(value) < 1000 else min(3, int(math.log10(abs(value))) // 3)
    scaled, letter = value / 1000**power, ("", "k", "M", "G")[power]
    digits = 0 if not letter or scaled >= 100 else 2 if scaled < 10 else 1
    text = f"{scaled:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if digits else text) + letter


def interval(values: Sequence[float], digits: int = 3) -> str:
    """`0.412 [0.380, 0.450]` of a mean and the ends of its interval; without brackets where there is none."""
    mean, low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in values[:3])  # (+ 0.0: no minus zero)
    mean = "unknown" if np.isnan(values[0]) else mean
    return mean if np.isnan(values[1]) else f"{mean} [{low}, {high}]"


def few_seeds(table: pd.DataFrame | None) -> str:
    """A sentence on means of a table that have too few seeds for an interval; nothing where there are none."""
    if table is None or "seeds" not in table or not pd.api.types.is_numeric_dtype(table["seeds"]):
        return ""
    few = int((table["seeds"] < SEEDS_FOR_AN_INTERVAL).sum())
    sentence = f"{few} of {len(table)} means have fewer than {SEEDS_FOR_AN_INTERVAL} seeds and no interval."
    return sentence if few else ""


def sentences(*parts: str) -> str:
    """Those that say something, one after the other."""
    return clean(" ".join(filter(None, parts)))
