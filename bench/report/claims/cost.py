"""Claims about cost, judged from what `cost` traced: one traced step or token has no seeds and needs none."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import linregress

from bench.report.claims.base import Verdict, register_claim
from bench.report.claims.findings import Finding, Part, decide
from bench.report.data import Data
from bench.report.query import having, number, place
from bench.statistics import Interval, power_law

FLAT = (float("-inf"), 0.05)
LINEAR = (0.95, 1.05)
ROLLOUT = (0.9, 1.1)
"""Linear, for DMT: its batched calls of the teacher are a constant part that weighs more than BPTT's."""
CHANGE = 0.05
"""Relative: what changes by less over the larger half of the positions is constant."""
STRAIGHT = 0.98
"""r2 of a straight line, from which on growth is linear."""
FEWEST = 3
NAN = float("nan")
SMT = ("smt", "smt+dmt")
OPERATIONS = "sequential operations"
WORK, BYTES = "FLOPs per token", "bytes of state"
IDENTITY = ("grid", "task", "method", "backbone")

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
    steps = data.steps.rename(columns={"whole.sequential_operations": OPERATIONS})
    cases = [
        ("SMT's step stays flat", SMT, "smt", FLAT),
        ("the Transformer's step stays flat", ("transformer",), None, FLAT),
        ("BPTT's grows with T", ("bptt",), None, LINEAR),
        ("DMT's grows with T", SMT, "dmt", ROLLOUT),
    ]
    parts = [
        Part(
            says,
            f"exponent of {OPERATIONS} {HALF}",
            _within(limits),
            _exponents(steps, methods, phase, "length", OPERATIONS, limits),
            f"no step of {' or '.join(methods)} was traced; `cost complexity` does.",
            digits=2,
        )
        for says, methods, phase, limits in cases
    ]
    for says, methods, phase, grows in (
        ("SMT's credit path stays flat", SMT, "smt", False),
        ("the Transformer's credit path stays flat", ("transformer",), None, False),
        ("BPTT's credit path grows with the distance", ("bptt",), None, True),
    ):
        found = [
            _line(where, part["distance"], part["shortest"], grows)
            for where, part in _configurations(data.credit, methods, phase, "distance", "shortest")
        ]
        rule = f"a line with r2 >= {STRAIGHT}" if grows else "a change of at most 5 %"
        missing = f"no credit path of {' or '.join(methods)} was traced; `cost complexity` does."
        parts.append(Part(says, "operations per position of distance", rule, found, missing, digits=2))
    return decide(
        parts,
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
    inference = having(data.inference, "flops", "elementwise", "state_bytes", "state")
    work = number(inference["flops"]) + number(inference["elementwise"]).fillna(0)
    inference = inference.assign(**{WORK: work, BYTES: inference["state_bytes"]})
    missing = "no streaming of {} was traced; `cost complexity` does."
    parts = []
    constant, growing = (inference[inference["state"] == state] for state in ("constant", "growing"))
    for says, rows, column, limits in (
        ("the RNN's state stays flat", constant, BYTES, FLAT),
        ("its compute per token stays flat", constant, WORK, FLAT),
        ("the Transformer's state grows with the position", growing, BYTES, LINEAR),
    ):
        found = _exponents(rows, None, None, "position", column, limits)
        told = missing.format("an RNN" if rows is constant else "a Transformer")
        parts.append(Part(says, f"exponent of {column} {HALF}", _within(limits), found, told, digits=2))
    found = [
        _line(where, part["position"], part[WORK], True)
        for where, part in _configurations(growing, None, None, "position", WORK)
    ]
    rule = f"a line with r2 >= {STRAIGHT}"
    parts.append(
        Part(
            "its compute per token grows",
            "FLOPs more per position",
            rule,
            found,
            missing.format("a Transformer"),
            digits=1,
        )
    )
    return decide(parts, "At small positions what is constant, such as projections, hides what grows.")


def _within(limits: tuple[float, float]) -> str:
    low, high = limits
    return f"at most {high}" if low == float("-inf") else f"{low} to {high}"


def _configurations(
    frame: pd.DataFrame, methods: tuple[str, ...] | None, phase: str | None, x: str, y: str
) -> list[tuple[str, pd.DataFrame]]:
    """(where, mean of y for each x) of every traced configuration of these methods (None: of all) that has values."""
    rows = having(frame, *IDENTITY, "phase", x, y)
    rows = rows if methods is None else rows[rows["method"].isin(methods)]
    rows = rows if phase is None else rows[rows["phase"] == phase]
    rows = rows.assign(**{name: number(rows[name]) for name in (x, y)}).dropna(subset=[x, y])
    found = []
    several = len(set(rows["grid"])) > 1
    for (grid, task, method, backbone), part in rows.groupby(list(IDENTITY), dropna=False, sort=False):
        words = (
            f"{method}"
            if method == "transformer" or backbone != backbone or backbone is None
            else f"{method} with {backbone}"
        )
        words += f", phase {phase}" if phase else ""
        where = place(str(grid) if several else None, f"{task}, {words}", ())
        found.append((where, part.groupby(x)[y].mean().reset_index()))
    return found


def larger_half(x: pd.Series) -> pd.Series:
    """Which of these sorted, distinct values are in the larger half; of an odd number, the middle one too."""
    return pd.Series(np.arange(len(x)) >= len(x) // 2, index=x.index)


def _exponents(
    frame: pd.DataFrame,
    methods: tuple[str, ...] | None,
    phase: str | None,
    x: str,
    y: str,
    limits: tuple[float, float],
) -> list[Finding]:
    found = []
    for where, part in _configurations(frame, methods, phase, x, y):
        half = part[larger_half(part[x])]
        fit, whole = (power_law(one[x].to_numpy(), one[y].to_numpy()) for one in (half, part))
        effect = _interval(fit.exponent, fit.error)
        beside = ((f"exponent of {y} over all {len(part)} {x}s", _interval(whole.exponent, whole.error)),)
        if len(part) < FEWEST or np.isnan(fit.exponent):
            found.append(Finding(where, "unclear", effect, beside, f"fewer than {FEWEST} {x}s"))
        else:
            low, high = limits
            found.append(Finding(where, "for" if low <= fit.exponent <= high else "against", effect, beside))
    return found


def _known(value: float) -> Interval:
    """What was traced once, and has no interval."""
    return Interval(value, NAN, NAN, 1)


def _interval(value: float, error: float) -> Interval:
    return Interval(value, value - 1.96 * error, value + 1.96 * error, 1)


def _line(where: str, x: pd.Series, y: pd.Series, grows: bool) -> Finding:
    if len(x) < FEWEST:
        return Finding(where, "unclear", _known(NAN), note=f"fewer than {FEWEST} {x.name}s")
    half = larger_half(x)
    x, y = x[half], y[half]
    fit = linregress(x, y)
    change = fit.slope * (x.iloc[-1] - x.iloc[0]) / abs(y.mean()) if y.mean() else 0.0
    linear = change > CHANGE and fit.rvalue**2 >= STRAIGHT
    error = float(fit.stderr) if len(x) > 2 else NAN
    ends = ((f"{y.name} at {x.name} {x.iloc[at]:g}", _known(float(y.iloc[at]))) for at in (0, -1))
    good = linear if grows else change <= CHANGE
    return Finding(where, "for" if good else "against", _interval(float(fit.slope), error), tuple(ends))
