"""A comparison as output: the verdict, tables of text, Markdown for a pull request, plain data for JSON."""

from __future__ import annotations

import math
from typing import Any

from bench import outgoing
from bench.compare.judge import Comparison, Row

COLUMNS = ("cell", "number", "baseline", "results", "difference", "95 % interval", "tolerance", "seeds", "verdict")


def verdict(found: Comparison) -> str:
    """A summary in one line."""
    worse, better, unsure = (len(found.of(kind)) for kind in ("regression", "improvement", "unsure"))
    parts = [
        f"{len(found.rows)} numbers of {found.matched} configurations compared",
        f"{worse} regressed" if worse else "no regression",
        *([f"{better} improved"] if better else []),
        *([f"{unsure} unsure"] if unsure else []),
        *([f"{len(found.lost)} cells lost"] if found.lost else []),
        *([f"{len(found.missing)} missing"] if found.missing else []),
        *([f"{len(found.extra)} configurations in RESULTS only"] if found.extra else []),
    ]
    return ", ".join(parts)


def cells(row: Row) -> list[str]:
    """A row as texts, in the order of `COLUMNS`."""
    low, high = row.interval.low, row.interval.high
    interval = "too few seeds" if math.isnan(low) else f"{_by(row, low)} to {_by(row, high)}"
    verdict = f"{row.verdict} ({row.note})" if row.verdict == "unsure" and row.note else row.verdict
    return [
        row.cell,
        f"{row.metric}, {row.note}" if row.metric == "time" and row.verdict != "unsure" else row.metric,
        _plain(row.baseline),
        _plain(row.results),
        _by(row, row.interval.mean),
        interval,
        f"{row.tolerance:.0%}" if row.relative else f"{row.tolerance:g}",
        f"{row.interval.n} {'pairs' if row.paired else 'unpaired'}",
        verdict,
    ]


def sections(found: Comparison) -> dict[str, list[str]]:
    """The findings beside the tables, by heading, without empty ones."""
    found_by_heading = {
        "Cells that had a result and have none": found.lost,
        "In BASELINE, missing from RESULTS": found.missing,
        "In RESULTS only": found.extra,
        "What else differs (RESULTS against BASELINE)": found.notes,
    }
    return {heading: list(lines) for heading, lines in found_by_heading.items() if lines}


def markdown(found: Comparison) -> str:
    """Markdown for a pull request: the verdict first, then a table of changes, then all numbers, folded."""
    heading = "Regression" if found.regressed else "Incomplete" if found.failed else "No regression"
    lines = [
        f"### {heading}: {outgoing.markdown(found.results)} against {outgoing.markdown(found.baseline)}",
        "",
        f"{verdict(found)}.",
        "",
    ]
    changed = [*found.of("regression"), *found.of("unsure"), *found.of("improvement")]
    if changed:
        lines += [*_table(changed), ""]
    for heading, sentences in sections(found).items():
        lines += [f"**{heading}**", "", *(f"- {outgoing.markdown(sentence)}" for sentence in sentences), ""]
    if len(changed) < len(found.rows):
        lines += ["<details><summary>All numbers</summary>", "", *_table(list(found.rows)), "", "</details>", ""]
    return "\n".join(lines)


def plain(found: Comparison) -> dict[str, Any]:
    """A comparison as plain data; missing numbers are null."""
    rows = []
    for row in found.rows:
        numbers = {name: None if math.isnan(value) else value for name, value in row.interval._asdict().items()}
        rows.append({**row._asdict(), "interval": numbers})
    return {
        "results": found.results,
        "baseline": found.baseline,
        "failed": found.failed,
        "regressed": found.regressed,
        "matched": found.matched,
        "rows": rows,
        "lost": list(found.lost),
        "missing": list(found.missing),
        "extra": list(found.extra),
        "notes": list(found.notes),
    }


def _table(rows: list[Row]) -> list[str]:
    body = [" | ".join(map(outgoing.markdown, cells(row))) for row in rows]
    return [f"| {line} |" for line in (" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS), *body)]


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _by(row: Row, value: float) -> str:
    return f"{value:+.1%}" if row.relative else f"{value:+.4f}"
