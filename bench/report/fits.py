"""How every traced cost grows: power laws and straight lines through the larger half of the points, and the ends.

A cost a + b T has a fitted exponent below 1 while a weighs: fits are through the larger half of the lengths, and the
slope of a straight line, with its r2, stands beside every exponent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import linregress

from bench.report.data import Data
from bench.report.query import number, remembered, with_columns
from bench.report.tables import in_order
from bench.statistics import PowerLaw, power_law

UNKNOWN = "not known"
SMT = ("smt", "smt+dmt")
CONFIGURATION = ["grid", "task", "method", "backbone"]
WHO = [*CONFIGURATION, "phase"]


class Quantity(NamedTuple):
    """Something that was measured against something else."""

    key: str  # the name of its columns in the overview
    name: str
    frame: str  # the field of `Data` that holds it
    column: str
    against: str
    unit: str = ""


LENGTH, DISTANCE, POSITION = "length", "distance", "position"
AXES = {LENGTH: "sequence length T", DISTANCE: "distance j - i of loss and input", POSITION: "position in the sequence"}
SYMBOLS = {LENGTH: "T", DISTANCE: "j - i", POSITION: "position"}
FRAMES = {"steps": LENGTH, "credit": DISTANCE, "inference": POSITION}
"""Fields of `Data`, and what their rows are measured against."""
QUANTITIES = (
    Quantity("sequential_operations", "sequential operations", "steps", "whole.sequential_operations", LENGTH),
    Quantity("sequential_flops", "sequential FLOPs", "steps", "whole.sequential_flops", LENGTH),
    Quantity("flops", "total FLOPs", "steps", "work", LENGTH),
    Quantity("peak_bytes", "peak memory", "steps", "peak_bytes", LENGTH, "bytes"),
    Quantity("gpu_bytes", "peak memory of the GPU", "steps", "allocated_bytes", LENGTH, "bytes"),
    Quantity("carried_bytes", "memory carried between steps", "steps", "carried_bytes", LENGTH, "bytes"),
    Quantity("credit_longest", "longest credit path", "credit", "longest", DISTANCE, "operations"),
    Quantity("credit_shortest", "shortest credit path", "credit", "shortest", DISTANCE, "operations"),
    Quantity("state_bytes", "carried state", "inference", "state_bytes", POSITION, "bytes"),
    Quantity("token_flops", "FLOPs per token", "inference", "work", POSITION),
    Quantity("token_seconds", "seconds per token", "inference", "seconds", POSITION),
)


def papers_growth(quantity: str, method: str, phase: str) -> str:
    """What the paper says of how a quantity grows (arXiv 2606.06479, claims 3 and 4 of METHODS.md), as far as known."""
    smt = method in SMT
    if quantity == "sequential_operations":
        return "O(T)" if method == "bptt" or (smt and phase == "dmt") else "O(1)" if smt else UNKNOWN
    if quantity.startswith("credit_"):
        flat = method == "transformer" or (smt and phase == "smt")
        return "O(1)" if flat else "O(T)" if method == "bptt" else UNKNOWN
    if quantity in ("state_bytes", "token_flops"):
        return "O(1)" if smt or method == "bptt" else "O(T)" if method == "transformer" else UNKNOWN
    return UNKNOWN


@remembered
def traced(data: Data, name: str) -> pd.DataFrame:
    """The rows of one of `FRAMES` that name a method, with every column that is used; `work` is all arithmetic."""
    columns = [quantity.column for quantity in QUANTITIES if quantity.column != "work"]
    numbers = (*columns, *AXES, "whole.flops", "whole.elementwise", "flops", "elementwise")
    rows = with_columns(getattr(data, name), *WHO, *numbers, "batch_size", "device", "outside", "uncounted", "state")
    for column in numbers:
        rows[column] = number(rows[column])
    for column in WHO:
        rows[column] = rows[column].astype(object).where(rows[column].notna(), "").map(str)
    work = rows["whole.flops"].fillna(rows["flops"])
    rows = rows.assign(work=work + rows["whole.elementwise"].fillna(rows["elementwise"]).fillna(0))
    phases = {phase: place for place, phase in enumerate(dict.fromkeys(rows["phase"]))}  # as they were trained
    rows = rows.assign(at=rows["phase"].map(phases))
    return in_order(rows[rows["method"] != ""], "grid", "task", "method", "at")


def configurations(rows: pd.DataFrame, quantity: Quantity) -> Iterator[tuple[dict[str, str], pd.Series]]:
    """Who, and the quantity against what it grows in; the mean where several traced models share a name."""
    known = rows.dropna(subset=[quantity.column, quantity.against])
    for key, part in known.groupby(WHO, sort=False):
        yield dict(zip(WHO, map(str, key))), part.groupby(quantity.against)[quantity.column].mean()


@remembered
def fitted(data: Data) -> pd.DataFrame:
    """A row per configuration, phase and quantity: the power law and the line over the larger half, and the ends.

    `exponent` with its standard `error`, `r2` of the fit in logarithms; `slope` (per unit of what it grows in) and
    `slope_r2` of a straight line; `points` in the fit, from `fitted_from` on; `exponent_all` over all points;
    `first` and `last` with the values `at_first` and `at_last`; `paper`, what it says. Then `FURTHER`.
    """
    found = []
    for quantity in QUANTITIES:
        for who, values in configurations(traced(data, quantity.frame), quantity):
            x, y = values.index.to_numpy(dtype=float), values.to_numpy(dtype=float)
            half = len(x) // 2
            law, whole = _law(x[half:], y[half:]), _law(x, y)
            row = {
                **{"quantity": quantity.name, "key": quantity.key, "in": SYMBOLS[quantity.against]},
                "paper": papers_growth(quantity.key, who["method"], who["phase"]),
                **{"exponent": law.exponent, "error": law.error, "r2": law.r2},
                **{"exponent_all": whole.exponent, "error_all": whole.error},
                **{"points": len(x) - half, "fitted_from": x[half], "at_half": y[half], "count": len(x)},
                **{"first": x[0], "at_first": y[0], "last": x[-1], "at_last": y[-1]},
            }
            found.append({**who, **row, **_line(x[half:], y[half:])})
    return pd.DataFrame(found, columns=[*WHO, *COLUMNS, *FURTHER])


COLUMNS = (
    *("quantity", "in", "paper", "exponent", "error", "r2", "slope", "slope_r2", "points"),
    *("fitted_from", "exponent_all", "first", "at_first", "last", "at_last"),
)
FURTHER = ("key", "count", "error_all", "at_half", "slope_error", "change")
"""The quantity's key; all points; standard errors of exponent_all and slope; the value where the fit begins; and the
line's change from there to the end, over the mean."""


def _law(x: np.ndarray, y: np.ndarray) -> PowerLaw:
    """`power_law`, with exponent and error exactly 0 for what is constant."""
    law = power_law(x, y)
    return law._replace(exponent=0.0, error=0.0) if law.n > 1 and np.ptp(y) == 0 else law


def _line(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The columns of a straight line; nothing for fewer than two points, no error for fewer than three."""
    if len(x) < 2:
        return {}
    fit = linregress(x, y)
    change = fit.slope * (x[-1] - x[0]) / abs(y.mean()) if y.mean() else 0.0
    r2 = 1.0 if np.ptp(y) == 0 else fit.rvalue**2
    return {"slope": fit.slope, "slope_error": fit.stderr if len(x) > 2 else math.nan, "slope_r2": r2, "change": change}
