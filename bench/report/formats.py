"""A table as people read it (numbers rounded), and as CSV (every digit), Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api import types

from bench.outgoing import spreadsheet
from bench.report.exhibit import Exhibit
from bench.report.words import clean, escape

DIGITS = 4
"""Significant digits of the largest number of a column; its smaller ones have as many decimals."""
LONG = 40
"""Rows from which a LaTeX table may break over pages."""
GAP = "-"


class Shown(NamedTuple):
    """A column as people read it; `keys` are what it sorts by: numbers, or None where there is nothing to sort by."""

    name: str
    head: str
    texts: list[str]
    keys: list[float | None] | None


def shown(table: pd.DataFrame) -> list[Shown]:
    """The columns of a table with numbers rounded to four significant digits or so, gaps as a dash."""
    return [_shown(str(name), table.iloc[:, place]) for place, name in enumerate(table)]


def _shown(name: str, column: pd.Series) -> Shown:
    head = clean(name).replace("_", " ")
    values = [None if _is_gap(value) else value for value in column.tolist()]
    if _is_numeric(column, values):
        numbers = [None if value is None else float(value) for value in values]
        return Shown(name, head, rounded(numbers), numbers)
    return Shown(name, head, [_text(value) for value in values], None)


def _is_gap(value: Any) -> bool:
    return value is None or (not isinstance(value, list | tuple | dict | set) and pd.isna(value) is True)


def _is_numeric(column: pd.Series, values: Sequence[Any]) -> bool:
    if types.is_bool_dtype(column):
        return False
    numbers = [types.is_number(value) and not isinstance(value, bool) for value in values if value is not None]
    return all(numbers) and (bool(numbers) or types.is_numeric_dtype(column))


def _text(value: Any) -> str:
    return GAP if value is None else ("no", "yes")[value] if isinstance(value, bool) else clean(value)


def rounded(numbers: Sequence[float | None]) -> list[str]:
    """Numbers of one column, with equal decimals where that leaves the smallest at least two digits."""
    sizes = [abs(float(number)) for number in numbers if number and math.isfinite(number)]
    top, bottom = max(sizes, default=0.0), min(sizes, default=0.0)
    if all(size.is_integer() for size in sizes):
        decimals, most = 0, 1e7
    else:
        decimals = _decimals(top)
        most = math.inf if 1e-3 <= top < 1e5 and bottom * 10**decimals >= 10 else 0.0
    texts = []
    for value in numbers:
        if value is None or not math.isfinite(value):
            texts.append(str(value) if value is not None and math.isinf(value) else GAP)
        else:
            texts.append(f"{value:,.{decimals}f}" if abs(value) < most else _alone(value))
    return texts


def _decimals(size: float) -> int:
    """So many that a number of this size has `DIGITS` digits; below 1, three that are not leading zeros."""
    return max(0, DIGITS - 1 - max(-9, math.floor(math.log10(size))) - (size < 1))


def _alone(value: float) -> str:
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e7:
        return f"{value:,.{_decimals(abs(value))}f}"
    digits, power = f"{value:.{DIGITS - 1}e}".split("e")
    return f"{digits}e{int(power)}"


def csv(table: pd.DataFrame) -> str:
    """The table whole and at full precision; texts that a spreadsheet would compute are guarded."""
    guarded = table.rename(columns=spreadsheet)
    for place, kind in enumerate(table.dtypes):
        if not (types.is_numeric_dtype(kind) or types.is_bool_dtype(kind)):
            guarded.isetitem(place, np.array([*map(spreadsheet, table.iloc[:, place])], dtype=object))
    return guarded.to_csv(index=False, lineterminator="\n")


def markdown(exhibit: Exhibit) -> str:
    """Title, caption, the table if there is one, and what was run, as GitHub Markdown."""
    lines = [f"# {escape(exhibit.title)}", "", escape(exhibit.caption), ""]
    if exhibit.table is not None:
        columns = shown(exhibit.table)
        rows = zip(*(column.texts for column in columns))
        lines += [*rows_of([(column.head, column.keys is not None) for column in columns], rows), ""]
    return "\n".join([*lines, f"What was run: {escape(exhibit.run)}"]) + "\n"


def rows_of(heads: Sequence[tuple[str, bool]], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table; with every head stands whether its column is aligned at the right."""
    aligned = ["--:" if right else ":--" for _, right in heads]
    cells = [map(escape, row) for row in ([head for head, _ in heads], *rows)]
    head, *body = (f"| {' | '.join(row)} |" for row in cells)
    return [head, f"| {' | '.join(aligned)} |", *body]


def latex(exhibit: Exhibit) -> str:
    """The table of an exhibit as LaTeX; it needs the package booktabs, and longtable when it is long."""
    columns = shown(exhibit.table) if exhibit.table is not None else []
    frame = pd.DataFrame({column.head: column.texts for column in columns})
    styler = frame.style.hide(axis=0).format(escape="latex").format_index(escape="latex", axis=1)
    kind = "longtable" if len(frame) > LONG else None
    text = styler.to_latex(
        hrules=True, column_format="".join("r" if column.keys else "l" for column in columns), environment=kind
    )
    comments = [f"% {clean(words)}" for words in (exhibit.title, exhibit.caption, exhibit.run) if words]
    return "\n".join([*comments, "% needs \\usepackage{booktabs" + (",longtable}" if kind else "}"), text])
