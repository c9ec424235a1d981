"""The claims of the paper (Kumar & Isola, arXiv 2606.06479), and this project's own, each with a verdict from the data.

A claim is data and one small function, its judge, whose docstring says by what rule it decides. A plugin file brings
its own, which are there once `--plugin FILE` has imported it:

    from bench.report.claims import Verdict, register_claim

    @register_claim("online", "RTRL learns what BPTT learns.", figure="synthetic", grids=["my-grid.yaml"])
    def online(data: Data) -> Verdict:
        return Verdict("not tested", "No cell has been trained with rtrl.")

How verdicts are reached: seeds are the unit, methods are paired by seed, and an effect counts when its 95 % bootstrap
interval excludes zero and its mean is beyond a margin that matters in practice. The margin is needed: of three seeds
the interval excludes zero whenever all three agree, which happens by chance one time in four. Claims that two things
are equal are judged by margins of equivalence. Fewer than three seeds decide nothing.
"""

from __future__ import annotations

import pandas as pd

from bench.report.claims import ablations, accuracy, cost, growth, inside, online, ours
from bench.report.claims.base import VERDICTS, Claim, Verdict, register_claim, registered
from bench.report.data import Data
from bench.report.query import remembered

__all__ = ["VERDICTS", "Claim", "Verdict", "judged", "register_claim"]

REGISTERING = (accuracy, cost, inside, growth, ablations, online, ours)
"""The modules that register the papers' claims, and this project's own."""


@remembered
def judged(data: Data) -> list[tuple[Claim, Verdict]]:
    """Every claim that the data is about, with its verdict: the paper's in their order, then others.

    A judge that raises, or returns no verdict, makes its own claim inconclusive with that reason, and stops nothing.
    """
    return [(claim, _verdict(claim, data)) for claim in registered() if claim.when(data)]


def _verdict(claim: Claim, data: Data) -> Verdict:
    try:
        verdict = claim.judge(data)
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        return Verdict("inconclusive", f"The function that judges this claim failed: {type(error).__name__}: {text}.")
    if isinstance(verdict, Verdict) and isinstance(verdict.numbers, pd.DataFrame):
        return verdict
    return Verdict("inconclusive", f"The function that judges this claim returned {verdict!r:.80}, no verdict.")
