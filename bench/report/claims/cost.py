"""Claims about cost, judged from what `cost` traced: one traced step or token has no seeds and needs none."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import Case, Part, apart, decide, stated
from bench.report.data import Data
from bench.report.fits import LENGTH, POSITION, SMT, fitted, traced
from bench.report.query import place
from bench.statistics import Interval

FLAT = (-math.inf, 0.05)
LINEAR = (0.95, 1.05)
ROLLOUT = (0.9, 1.1)
"""Linear, for DMT: its batched calls of the teacher are a constant part that weighs more than BPTT's."""
CHANGE = 0.05
"""Relative: what changes by less over the larger half of the positions is constant."""
STRAIGHT = 0.98
"""r2 of a straight line, from which on growth is linear."""
FEWEST = 3
TRACED = "traced by `cost complexity`"
HALF = "over the larger half"


@register_claim(
    "3",
    "In the sequence length T, a training step of SMT takes O(1) operations one after another, one of BPTT and of DMT "
    "O(T); credit travels O(1) operations under SMT and in a Transformer, O(T) under BPTT.",
    figure="complexity",
    grids=["complexity"],
)
def sequential(data: Data) -> Verdict:
    """Growth exponents of `whole.sequential_operations` in T, and lines through the shortest credit path by distance.

    A cost a + b T has an exponent below 1 at small T, so that fits are through the larger half of the lengths (those
    through all stand beside). Flat: at most 0.05; linear: 0.95 to 1.05, for DMT 0.9 to 1.1. A credit path is flat where
    a line through the larger half of the distances changes by at most 5 %, and linear where it rises by more with
    r2 >= 0.98.
    """
    table = fitted(data)

    def rows(key: str, methods: tuple[str, ...], phase: str | None) -> pd.DataFrame:
        own = table[(table["key"] == key) & table["method"].isin(methods)]
        return own if phase is None else own[own["phase"] == phase]

    steps = [
        _exponents(says, "sequential operations", LENGTH, rows("sequential_operations", methods, phase), limits, phase)
        for says, methods, phase, limits in (
            ("SMT's step stays flat", SMT, "smt", FLAT),
            ("the Transformer's step stays flat", ("transformer",), None, FLAT),
            ("BPTT's grows with T", ("bptt",), None, LINEAR),
            ("DMT's grows with T", SMT, "dmt", ROLLOUT),
        )
    ]
    paths = [
        _lines(says, "operations per position of distance", "distance", rows("credit_shortest", methods, phase), grows)
        for says, methods, phase, grows in (
            ("SMT's credit path stays flat", SMT, "smt", False),
            ("the Transformer's credit path stays flat", ("transformer",), None, False),
            ("BPTT's credit path grows with the distance", ("bptt",), None, True),
        )
    ]
    return decide(
        [*steps, *paths],
        "Contexts, futures or rollouts that are cut short of T, or lengths too small for what is "
        "constant to fade, change the exponent that is seen.",
    )


@register_claim(
    "4",
    "At inference the RNN takes constant memory and compute per token; a Transformer's grow with the position.",
    figure="inference",
    grids=["complexity"],
)
def streaming(data: Data) -> Verdict:
    """Bytes of carried state: exponent in the position, at most 0.05 for RNNs and 0.95 to 1.05 for the Transformer.

    An RNN is every method that declares a constant state, a Transformer what declares a growing one. FLOPs per token,
    elementwise work included: exponent at most 0.05 for RNNs; for the Transformer, whose projections are a constant
    part, a straight line (r2 >= 0.98) that rises by more than 5 %. Fits are over the larger half of positions.
    """
    inference, table = traced(data, "inference"), fitted(data)
    state = table["method"].map(dict(zip(inference["method"], inference["state"])))
    work, held = "FLOPs per token", "bytes of state"
    parts = [
        _exponents(says, words, POSITION, table[(table["key"] == key) & (state == kind)], limits)
        for says, words, key, kind, limits in (
            ("the RNN's state stays flat", held, "state_bytes", "constant", FLAT),
            ("its compute per token stays flat", work, "token_flops", "constant", FLAT),
            ("the Transformer's state grows with the position", held, "state_bytes", "growing", LINEAR),
        )
    ]
    growing = table[(table["key"] == "token_flops") & (state == "growing")]
    return decide(
        [*parts, _lines("its compute per token grows", "FLOPs more per position", POSITION, growing, True)],
        "At small positions what is constant, such as projections, hides what grows.",
    )


def _where(row: dict[Any, Any], rows: pd.DataFrame, phase: str | None = None) -> str:
    grid = row["grid"] if len(set(rows["grid"])) > 1 else None
    backbone = "" if row["method"] == "transformer" or not row["backbone"] else f" with {row['backbone']}"
    return place(grid, f"{row['task']}, {row['method']}{backbone}" + (f", phase {phase}" if phase else ""), ())


def _few(row: dict[Any, Any], x: str) -> dict[str, list[tuple[bool, str]]]:
    return {"": [(row["count"] < FEWEST or math.isnan(row["slope"]), f"fewer than {FEWEST} {x}s")]}


def _exponents(
    says: str, what: str, x: str, rows: pd.DataFrame, limits: tuple[float, float], phase: str | None = None
) -> Part:
    low, high = limits
    cases = []
    for row in rows.to_dict("records"):
        whole = (f"exponent of {what} over all {row['count']} {x}s", _interval(row["exponent_all"], row["error_all"]))
        effect = _interval(row["exponent"], row["error"])
        cases.append(Case(_where(row, rows, phase), effect, (whole,), _few(row, x)))
    words = f"at most {high}" if low == -math.inf else f"{low} to {high}"
    rule = apart(words, lambda effect: low <= effect.mean <= high, lambda effect: True)
    return Part(says, f"exponent of {what} {HALF}", rule, cases, TRACED, digits=2)


def _lines(says: str, what: str, x: str, rows: pd.DataFrame, grows: bool) -> Part:
    cases = []
    for row in rows.to_dict("records"):
        linear = row["change"] > CHANGE and row["slope_r2"] >= STRAIGHT
        holds = linear if grows else row["change"] <= CHANGE
        ends = [(row[at], row[value]) for at, value in (("fitted_from", "at_half"), ("last", "at_last"))]
        beside = tuple((f"{row['quantity']} at {x} {at:g}", _interval(value, math.nan)) for at, value in ends)
        effect = _interval(row["slope"], row["slope_error"])
        cases.append(Case(_where(row, rows, row["phase"]), effect, beside, _few(row, x), "for" if holds else "against"))
    rule = stated(f"a line with r2 >= {STRAIGHT}" if grows else "a change of at most 5 %")
    return Part(says, what, rule, cases, TRACED, digits=1 if x == POSITION else 2)


def _interval(value: float, error: float) -> Interval:
    """A number that was traced once, with the interval of its fit; without an error it has none."""
    return Interval(value, value - 1.96 * error, value + 1.96 * error, 1)
