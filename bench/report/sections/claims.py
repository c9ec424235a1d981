"""The paper's claims: a table of verdicts, and one of all numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from bench.report.claims import VERDICTS, judged
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing

TITLE = "The paper's claims"
HOW = (
    "Seeds are the unit and methods are paired by seed; an effect counts when its 95 % bootstrap interval excludes "
    "zero and it is large enough to matter. Of three seeds, an interval excludes zero when all agree, which happens by "
    "chance one time in four."
)


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """All verdicts, and their numbers."""
    pairs = judged(data)
    table = pd.DataFrame(
        [
            {
                **{"claim": claim.key, "text": claim.text, "verdict": found.verdict, "because": found.because},
                **{"regime": found.regime, "why": found.why, "figure": claim.figure, "grids": ", ".join(claim.grids)},
            }
            for claim, found in pairs
        ]
    )
    counts = table["verdict"].value_counts()
    totals = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if word in counts)
    caption = f"Of {len(table)} claims: {totals}. A verdict holds for the sizes and budgets that were run."
    run = f"Judged from {', '.join(data.names) or 'nothing'}. {HOW}"
    yield Exhibit("claims", "Claims", caption, run, table=table)
    frames = [found.numbers.assign(claim=claim.key) for claim, found in pairs if not found.numbers.empty]
    name, title = "claims-numbers", "Numbers behind the verdicts"
    if frames:
        numbers = pd.concat(frames, ignore_index=True)
        numbers = numbers[["claim", *(column for column in numbers if column != "claim")]]
        caption = "low and high are the 95 % interval of the mean over n seeds, or of the fit to traced costs."
        yield Exhibit(name, title, caption, run, table=numbers)
    else:
        yield Missing(name, title, "no claim was tested; `python run_bench.py run all-small` tests all")
