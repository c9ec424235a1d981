"""Measured cost: of a training step, of credit's way back, of a streamed token; how each grows, and the paper's O(.).

A cost a + b T has a fitted exponent below 1 while a weighs: fits are through the larger half of the lengths, and the
slope of a straight line, with its r2, stands beside every exponent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import linregress

from bench.report import plot, style
from bench.report.claims.cost import SMT, larger_half
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section, exhibit, uncounted
from bench.report.query import having, number
from bench.report.words import clean, counted, sentences
from bench.statistics import PowerLaw, power_law

COMMAND = "`python run_bench.py cost complexity`"
UNKNOWN = "not known"
CONFIGURATION = ["grid", "task", "method", "backbone"]
WHO = [*CONFIGURATION, "phase"]
BACKBONE = "transformer"
"""The one that is drawn of a method that has several; tables have all."""


class Quantity(NamedTuple):
    """Something that was measured against something else."""

    key: str
    """Of its columns in the overview."""
    name: str
    frame: str
    """The field of `Data` that holds it."""
    column: str
    against: str
    unit: str


LENGTH, DISTANCE, POSITION = "length", "distance", "position"
QUANTITIES = (
    Quantity("sequential_operations", "sequential operations", "steps", "whole.sequential_operations", LENGTH, ""),
    Quantity("sequential_flops", "sequential FLOPs", "steps", "whole.sequential_flops", LENGTH, ""),
    Quantity("flops", "total FLOPs", "steps", "work", LENGTH, ""),
    Quantity("peak_bytes", "peak memory", "steps", "peak_bytes", LENGTH, "bytes"),
    Quantity("gpu_bytes", "peak memory of the GPU", "steps", "allocated_bytes", LENGTH, "bytes"),
    Quantity("carried_bytes", "memory carried between steps", "steps", "carried_bytes", LENGTH, "bytes"),
    Quantity("credit_longest", "longest credit path", "credit", "longest", DISTANCE, "operations"),
    Quantity("credit_shortest", "shortest credit path", "credit", "shortest", DISTANCE, "operations"),
    Quantity("state_bytes", "carried state", "inference", "state_bytes", POSITION, "bytes"),
    Quantity("token_flops", "FLOPs per token", "inference", "work", POSITION, ""),
    Quantity("token_seconds", "seconds per token", "inference", "seconds", POSITION, ""),
)
STEP, CREDIT = QUANTITIES[:4], QUANTITIES[6:8]
TOKEN = (QUANTITIES[9], QUANTITIES[8], QUANTITIES[10])
AXES = {LENGTH: "sequence length T", DISTANCE: "distance j - i of loss and input", POSITION: "position in the sequence"}
SYMBOLS = {LENGTH: "T", DISTANCE: "j - i", POSITION: "position"}


def paper(quantity: str, method: str, phase: str) -> str:
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


def section(data: Data) -> Section:
    """The overview with the step's costs drawn, every fit with its ends, credit paths, and inference."""
    frames = {name: _rows(getattr(data, name)) for name in ("steps", "credit", "inference")}
    fitted = fits(frames)
    exhibits = (
        _overview(data, frames, fitted),
        *_fits(data, frames, fitted),
        _credit(data, frames["credit"]),
        _inference(data, frames["inference"]),
    )
    return Section("complexity", "Cost of a training step and of inference", exhibits)


def exponents(data: Data) -> pd.DataFrame:
    """A row per grid, task, method, backbone and phase: how everything that was traced grows, and the paper's O(.).

    Exponents over the larger half of the lengths T: sequential_operations, sequential_flops, flops (elementwise work
    included), peak_bytes and, of a GPU, gpu_bytes; of the distances j - i: credit_longest and credit_shortest, NaN
    where autograd has no path (then `outside` may say how credit flows); of the positions, and the same for all phases:
    state_bytes, token_flops. Values at the ends: operations_at_smallest_T, operations_at_largest_T,
    carried_bytes_at_largest_T (what a step of a stream leaves to the next), and the operations on the credit paths of
    the largest distance, longest_path and shortest_path. Columns "paper: ..." have O(1), O(T) or
    "not known". Columns of what was not traced at all are left out.
    """
    frames = {name: _rows(getattr(data, name)) for name in ("steps", "credit", "inference")}
    return _exponents(fits(frames), frames["credit"])


# Numbers.


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that name a method, with every column that is used: names as text, numbers, `work` for all arithmetic."""
    columns = [one.column for one in QUANTITIES if one.column != "work"]
    numbers = (*columns, *AXES, "whole.flops", "whole.elementwise", "flops", "elementwise")
    rows = having(frame, *WHO, *numbers, "batch_size", "device", "outside", "uncounted")
    for name in numbers:
        rows[name] = number(rows[name])
    for name in WHO:
        rows[name] = rows[name].astype(object).where(rows[name].notna(), "").map(str)
    work = rows["whole.flops"].fillna(rows["flops"])
    rows = rows.assign(work=work + rows["whole.elementwise"].fillna(rows["elementwise"]).fillna(0))
    return rows[rows["method"] != ""]


def _configurations(rows: pd.DataFrame, quantity: Quantity) -> Iterator[tuple[dict[str, str], pd.Series]]:
    """Who, and the quantity against what it grows in; the mean where several traced models share a name."""
    known = rows.dropna(subset=[quantity.column, quantity.against])
    order = {name: place for place, name in enumerate(dict.fromkeys(rows["phase"]))}  # as they were trained
    known = known.assign(rank=known["method"].map(style.order), at=known["phase"].map(order))
    for key, part in known.sort_values(["grid", "task", "rank", "at"], kind="stable").groupby(WHO, sort=False):
        yield dict(zip(WHO, map(str, key))), part.groupby(quantity.against)[quantity.column].mean()


def fits(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per configuration, phase and quantity: the power law and the line over the larger half, and the ends.

    `exponent` with its standard `error`, `r2` of the fit in logarithms; `slope` (per unit of what it grows in) and
    `slope_r2` of a straight line; `points` in the fit, from `fitted_from` on; `exponent_all` over all points;
    `first` and `last` with the values `at_first` and `at_last`; `paper`, what it says.
    """
    found = []
    for quantity in QUANTITIES:
        for who, values in _configurations(frames[quantity.frame], quantity):
            x, y = (pd.Series(one, dtype=float).reset_index(drop=True) for one in (values.index, values.to_numpy()))
            half = larger_half(x)
            law, whole = _law(x[half], y[half]), _law(x, y)
            slope, straight = _line(x[half].to_numpy(), y[half].to_numpy())
            found.append(
                {
                    **who,
                    "key": quantity.key,
                    "quantity": quantity.name,
                    "in": SYMBOLS[quantity.against],
                    "paper": paper(quantity.key, who["method"], who["phase"]),
                    **{"exponent": law.exponent, "error": law.error, "r2": law.r2},
                    **{"slope": slope, "slope_r2": straight},
                    **{"points": int(half.sum()), "fitted_from": x[half].min(), "exponent_all": whole.exponent},
                    **{"first": x.iloc[0], "at_first": y.iloc[0], "last": x.iloc[-1], "at_last": y.iloc[-1]},
                }
            )
    return pd.DataFrame(found, columns=FITS)


FITS = [
    *(*WHO, "key", "quantity", "in", "paper", "exponent", "error", "r2", "slope", "slope_r2", "points"),
    *("fitted_from", "exponent_all", "first", "at_first", "last", "at_last"),
]


def _law(x: pd.Series, y: pd.Series) -> PowerLaw:
    """`power_law`, with exponent and error exactly 0 for what is constant."""
    law = power_law(x.to_numpy(), y.to_numpy())
    return law._replace(exponent=0.0, error=0.0) if law.n > 1 and np.ptp(y) == 0 else law


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and r2 of a straight line; NaN for fewer than two points."""
    if len(x) < 2:
        return float("nan"), float("nan")
    fit = linregress(x, y)
    return float(fit.slope), 1.0 if np.ptp(y) == 0 else float(fit.rvalue**2)


PAPER = {"operations": "sequential_operations", "credit path": "credit_longest", "state": "state_bytes"}
PAPER |= {"FLOPs per token": "token_flops"}
"""What the paper speaks of, by the quantity that stands for it."""
COLUMNS = {
    "sequential_operations": ("sequential_operations", "exponent"),
    "paper: operations": "operations",
    "operations_at_smallest_T": ("sequential_operations", "at_first"),
    "operations_at_largest_T": ("sequential_operations", "at_last"),
    **{one: (one, "exponent") for one in ("sequential_flops", "flops", "peak_bytes", "gpu_bytes")},
    "carried_bytes_at_largest_T": ("carried_bytes", "at_last"),
    **{one: (one, "exponent") for one in ("credit_longest", "credit_shortest")},
    "paper: credit path": "credit path",
    "longest_path": ("credit_longest", "at_last"),
    "shortest_path": ("credit_shortest", "at_last"),
    "state_bytes": ("state_bytes", "exponent"),
    "paper: state": "state",
    "token_flops": ("token_flops", "exponent"),
    "paper: FLOPs per token": "FLOPs per token",
}
"""Of `exponents`: the quantity and the column of its fits, or what the paper speaks of."""


def _exponents(fitted: pd.DataFrame, credit: pd.DataFrame) -> pd.DataFrame:
    streamed = fitted["in"] == SYMBOLS[POSITION]  # once for all phases
    told = credit[credit["outside"].notna()].drop_duplicates(WHO)[[*WHO, "outside"]]
    table = pd.concat([fitted.loc[~streamed, WHO], told[WHO]]).drop_duplicates(ignore_index=True)
    alone = fitted.loc[streamed, WHO].drop_duplicates()
    known = set(table[CONFIGURATION].itertuples(index=False, name=None))
    new = [one not in known for one in alone[CONFIGURATION].itertuples(index=False, name=None)]
    table = pd.concat([table, alone[new]], ignore_index=True)
    for name, source in COLUMNS.items():
        key, column = (PAPER[source], None) if isinstance(source, str) else source
        own = fitted[fitted["key"] == key]
        if own.empty:
            continue
        if column is None:
            table[name] = [paper(key, method, phase) for method, phase in zip(table["method"], table["phase"])]
        else:
            on = CONFIGURATION if own["in"].iloc[0] == SYMBOLS[POSITION] else WHO
            table = table.merge(own[[*on, column]].rename(columns={column: name}), on=on, how="left")
    return table.merge(told, on=WHO, how="left") if len(told) else table


# The exhibits.


def _exhibit(
    data: Data,
    name: str,
    title: str,
    caption: str,
    rows: pd.DataFrame,
    against: str,
    table: pd.DataFrame,
    **figure: Any,
) -> Exhibit:
    idle = [column for column in ("grid", "task") if column in table and len(set(table[column])) == 1]
    table = table.drop(columns=idle).reset_index(drop=True)
    return exhibit(data, name, title, caption, rows, run=_ran(rows, against), table=table, **figure)


def _ran(rows: pd.DataFrame, against: str) -> str:
    """What was traced for these rows."""
    configurations = counted(len(rows[CONFIGURATION].drop_duplicates()), "configuration")
    grids, tasks = (", ".join(dict.fromkeys(rows[name])) for name in ("grid", "task"))
    values = ", ".join(f"{value:g}" for value in sorted(set(rows[against].dropna())))
    batches = ", ".join(f"{size:g}" for size in sorted(set(number(rows["batch_size"]).dropna())))
    devices = ", ".join(sorted(set(rows["device"].dropna().map(str))))
    words = [f"`cost` of {grids or 'an unknown grid'}: {configurations} on {tasks}", f"{against} {values}"]
    words += [f"batch size {batches}"] if batches else []
    words += [f"device {devices}"] if devices else []
    return clean("; ".join(words)) + ". Each was traced once: operations that ran depend on no seed."


def _overview(data: Data, frames: dict[str, pd.DataFrame], fitted: pd.DataFrame) -> Exhibit | Missing:
    steps = frames["steps"]
    rows = steps.dropna(subset=[LENGTH])
    if not (fitted["in"] == SYMBOLS[LENGTH]).any():
        return Missing("complexity", "Cost of a training step", f"no training step was traced; {COMMAND} does")
    caption = sentences(
        "Traced cost of one training step against the sequence length; the table has exponents over the larger half.",
        uncounted(steps),
    )
    table = _exponents(fitted, frames["credit"])
    return _exhibit(
        data,
        "complexity",
        "Cost of a training step",
        caption,
        rows,
        LENGTH,
        table,
        panels=_panels(rows, STEP),
        across=2,
    )


def _fits(data: Data, frames: dict[str, pd.DataFrame], fitted: pd.DataFrame) -> Iterator[Exhibit]:
    """Every fit, with the values at both ends; nothing where nothing was traced."""
    if fitted.empty:
        return
    at = "lengths, distances and positions"
    rows = pd.concat([frame.assign(**{at: frame[name]}) for name, frame in zip(AXES, frames.values())])
    caption = (
        "Power laws through the larger half of the points; a quantity with a large constant part has an exponent below "
        "1 and a straight line, whose slope stands beside, with r2 near 1."
    )
    title = "Every fitted exponent, with the values at both ends"
    yield _exhibit(data, "complexity-fits", title, caption, rows, at, fitted.drop(columns="key"))


def _credit(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    rows = rows.dropna(subset=[DISTANCE])
    if rows.empty:
        return Missing("credit-path", "Credit paths", f"no credit path was traced; {COMMAND} does")
    gone = {}
    for (method, phase), part in rows.groupby(["method", "phase"], sort=False):
        if part[["shortest", "longest"]].isna().to_numpy().all():
            told = "no path" if part["outside"].isna().any() else f"outside autograd: {part['outside'].iloc[0]}"
            gone[str(method), str(phase)] = told
    words = "; ".join(f"{method}, phase {phase}: {why}" for (method, phase), why in gone.items())
    caption = sentences(
        "Operations from the loss at j back to the input at i.", f"Not drawn: {words}." if words else ""
    )
    table = _sorted(rows)[[*WHO, DISTANCE, "shortest", "longest", "outside"]]
    table.insert(5, "paper", [paper("credit_longest", *one) for one in zip(table["method"], table["phase"])])
    panels = _panels(rows, CREDIT)
    return _exhibit(data, "credit-path", "Credit paths", caption, rows, DISTANCE, table, panels=panels, across=2)


def _inference(data: Data, rows: pd.DataFrame) -> Exhibit | Missing:
    rows = rows.dropna(subset=[POSITION])
    title = "Inference, token by token"
    if rows.empty:
        return Missing("inference", title, f"no streamed token was traced; {COMMAND} does")
    caption = sentences(
        "Cost of a token against its position; methods that train the same RNN coincide, and seconds are noisy.",
        uncounted(rows),
    )
    table = _sorted(rows)[[*CONFIGURATION, POSITION, "flops", "elementwise", "state_bytes", "seconds"]]
    for key in ("state_bytes", "token_flops"):
        table[f"{key}_paper"] = [paper(key, method, "") for method in table["method"]]
    return _exhibit(data, "inference", title, caption, rows, POSITION, table, panels=_panels(rows, TOKEN))


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    """In the order of legends."""
    ranked = rows.assign(rank=rows["method"].map(style.order))
    return ranked.sort_values(["grid", "task", "rank"], kind="stable").reset_index(drop=True)


def _panels(rows: pd.DataFrame, quantities: Sequence[Quantity]) -> list[plot.Panel]:
    """A panel per quantity, of the (grid, task) with most configurations, and of a method with one backbone."""
    counts = Counter(zip(*(rows.drop_duplicates(WHO)[name] for name in ("grid", "task"))))
    (grid, task), _ = counts.most_common(1)[0]
    here = rows[(rows["grid"] == grid) & (rows["task"] == task)]
    has = {method: set(part["backbone"]) for method, part in here.groupby("method", sort=False)}
    shown = {method: BACKBONE if BACKBONE in own else min(own) for method, own in has.items()}
    here = here[[shown[method] == backbone for method, backbone in zip(here["method"], here["backbone"])]]
    phases = {str(method): list(dict.fromkeys(part["phase"])) for method, part in here.groupby("method", sort=False)}
    return [_panel(here, quantity, phases, task if len(counts) > 1 else "") for quantity in quantities]


def _panel(rows: pd.DataFrame, quantity: Quantity, phases: Mapping[str, list[str]], task: str) -> plot.Panel:
    lines = []
    for who, values in _configurations(rows, quantity):
        own = phases[who["method"]]
        word = who["method"] + (f", phase {who['phase']}" if len(own) > 1 else "")
        word += "" if who["backbone"] in ("", BACKBONE) else f", backbone {who['backbone']}"
        values = values[(values > 0) & (values.index > 0)]
        after = len(own) - 1 - own.index(who["phase"])  # phases before the last have dashes
        x, y = values.index.to_numpy(dtype=float), values.to_numpy(dtype=float)
        lines.append(plot.Line(word, x, y, method=who["method"], variant=after))
    unit = f" ({quantity.unit})" if quantity.unit else ""
    name = quantity.name[:1].upper() + quantity.name[1:] + unit
    return plot.Panel(task, AXES[quantity.against], name, [one for one in lines if len(one.x)], ylog=True)
