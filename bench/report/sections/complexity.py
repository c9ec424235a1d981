"""Measured cost of a training step, of credit's way back, of a streamed token: how it grows, and the paper's O(.)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from bench.report import fits, plot
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, exhibit, uncounted
from bench.report.fits import (
    CONFIGURATION,
    DISTANCE,
    POSITION,
    QUANTITIES,
    WHO,
    Quantity,
    papers_growth,
    traced,
)
from bench.report.query import number
from bench.report.tables import without_idle
from bench.report.words import clean, counted, number_word, sentences

TITLE = "Cost of a training step and of inference"
COMMAND = "`python run_bench.py cost complexity`"
BACKBONE = "transformer"
"""The one that is drawn of a method that has several; tables have all."""
STEP, CREDIT = QUANTITIES[:4], QUANTITIES[6:8]
TOKEN = (QUANTITIES[9], QUANTITIES[8], QUANTITIES[10])


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """The overview with the step's costs drawn, every fit with its ends, credit paths, and inference."""
    frames = ((traced(data, name), axis) for name, axis in fits.FRAMES.items())
    steps, credit, inference = traces = [rows.assign(at=rows[axis]).dropna(subset="at") for rows, axis in frames]
    fitted = fits.fitted(data)
    yield _exhibit(
        *(data, "complexity", "Cost of a training step", steps, STEP, exponents(data)),
        *("Traced cost of one training step against the sequence length.", uncounted(steps)),
    )
    if len(fitted):
        title = "Every fitted exponent, with the values at both ends"
        yield _exhibit(
            *(data, "complexity-fits", title, pd.concat(traces), (), fitted.drop(columns=list(fits.FURTHER))),
            "Power laws and straight lines through the larger half of the points; a large constant part makes an "
            "exponent below 1 and a line with r2 near 1.",
        )
    table = credit[[*WHO, DISTANCE, "shortest", "longest", "outside"]].copy()
    table.insert(5, "paper", [papers_growth("credit_longest", *pair) for pair in zip(table["method"], table["phase"])])
    yield _exhibit(
        *(data, "credit-path", "Credit paths", credit, CREDIT, table),
        "Operations from the loss at j back to the input at i; where none is, the table says how credit flows.",
    )
    table = inference[[*CONFIGURATION, POSITION, "flops", "elementwise", "state_bytes", "seconds"]]
    for key in ("state_bytes", "token_flops"):
        table = table.assign(**{f"{key}_paper": [papers_growth(key, method, "") for method in table["method"]]})
    yield _exhibit(
        *(data, "inference", "Inference, token by token", inference, TOKEN, table),
        *("Cost of a token against its position; methods that train the same RNN coincide.", uncounted(inference)),
    )


def _exhibit(
    data: Data, name: str, title: str, rows: pd.DataFrame, drawn: Sequence[Quantity], table: pd.DataFrame, *caption: str
) -> Exhibit | Missing:
    if rows.empty:
        return Missing(name, title, f"nothing of it was traced; {COMMAND} does")
    how: dict[str, Any] = {"panels": _panels(rows, drawn), "across": 2 if len(drawn) != 3 else 3} if drawn else {}
    run = _ran(rows, drawn[0].against if drawn else "at")
    tidy = without_idle(table, *({"task"} if len(set(table["task"])) == 1 else ()))
    return exhibit(data, name, title, sentences(*caption), rows, run=run, table=tidy, **how)


def _ran(rows: pd.DataFrame, against: str) -> str:
    """What was traced for these rows."""
    texts = []
    sizes = {against: rows["at"], "batch size": number(rows["batch_size"]), "device": rows["device"]}
    for name, values in sizes.items():
        found = sorted(set(values.dropna()))
        texts += [f"{name} {', '.join(map(number_word, found))}"] if found else []
    grids, tasks = (", ".join(dict.fromkeys(rows[name])) for name in ("grid", "task"))
    configured = counted(len(rows[CONFIGURATION].drop_duplicates()), "configuration")
    what = "; ".join([f"`cost` of {grids or 'an unknown grid'}: {configured} on {tasks}", *texts])
    return f"{clean(what)}. Each was traced once: operations that ran depend on no seed."


# What each column of the table of exponents is: a quantity and a column of its fits, or what the paper says of one.
COLUMNS = {
    "sequential_operations": ("sequential_operations", "exponent"),
    "paper: operations": ("sequential_operations", "paper"),
    "operations_at_smallest_T": ("sequential_operations", "at_first"),
    "operations_at_largest_T": ("sequential_operations", "at_last"),
    **{key: (key, "exponent") for key in ("sequential_flops", "flops", "peak_bytes", "gpu_bytes")},
    "carried_bytes_at_largest_T": ("carried_bytes", "at_last"),
    **{key: (key, "exponent") for key in ("credit_longest", "credit_shortest")},
    "paper: credit path": ("credit_longest", "paper"),
    "longest_path": ("credit_longest", "at_last"),
    "shortest_path": ("credit_shortest", "at_last"),
    "state_bytes": ("state_bytes", "exponent"),
    "paper: state": ("state_bytes", "paper"),
    "token_flops": ("token_flops", "exponent"),
    "paper: FLOPs per token": ("token_flops", "paper"),
}


def exponents(data: Data) -> pd.DataFrame:
    """A row per grid, task, method, backbone and phase: how everything that was traced grows, and the paper's O(.).

    The columns are `COLUMNS`: exponents over the larger half of lengths, distances or positions, NaN where autograd has
    no path (then `outside` may say how credit flows), values at the ends, and the paper's O(1), O(T) or "not known".
    Columns of what was not traced at all are left out.
    """
    fitted, credit = fits.fitted(data), traced(data, "credit")
    streamed = fitted["in"] == fits.SYMBOLS[POSITION]
    outside = credit[credit["outside"].notna()].drop_duplicates(WHO)[[*WHO, "outside"]]
    trained = pd.concat([fitted.loc[~streamed, WHO], outside[WHO]]).drop_duplicates()
    inference = fitted[streamed].drop(columns="phase").merge(trained, on=CONFIGURATION, how="left")  # for all phases
    fitted = pd.concat([fitted[~streamed], inference.fillna({"phase": ""})])
    table = pd.concat([trained, fitted[WHO]]).drop_duplicates(ignore_index=True)
    for name, (key, column) in COLUMNS.items():
        own = fitted[fitted["key"] == key]
        if len(own) and column == "paper":
            table[name] = [papers_growth(key, method, phase) for method, phase in zip(table["method"], table["phase"])]
        elif len(own):
            table = table.merge(own[[*WHO, column]].rename(columns={column: name}), on=WHO, how="left")
    return table.merge(outside, on=WHO, how="left") if len(outside) else table


def _panels(rows: pd.DataFrame, quantities: Sequence[Quantity]) -> list[plot.Panel]:
    """A panel per quantity, of the (grid, task) with most fits.configurations, and of a method with one backbone."""
    counts = rows.drop_duplicates(WHO).groupby(["grid", "task"], sort=False).size()
    grid, task = map(str, counts.index[counts.argmax()])  # type: ignore[call-overload]
    here = rows[(rows["grid"] == grid) & (rows["task"] == task)]
    has = {method: set(part["backbone"]) for method, part in here.groupby("method", sort=False)}
    shown = {method: BACKBONE if BACKBONE in own else min(own) for method, own in has.items()}
    here = here[here["backbone"] == here["method"].map(shown)]
    return [_panel(here, quantity, task if len(counts) > 1 else "") for quantity in quantities]


def _panel(rows: pd.DataFrame, quantity: Quantity, task: str) -> plot.Panel:
    lines = []
    phases = {method: list(dict.fromkeys(part["phase"])) for method, part in rows.groupby("method", sort=False)}
    for who, values in fits.configurations(rows, quantity):
        own = phases[who["method"]]
        phase = f"phase {who['phase']}" if len(own) > 1 else ""
        backbone = "" if who["backbone"] in ("", BACKBONE) else f"backbone {who['backbone']}"
        word = ", ".join(filter(None, (who["method"], phase, backbone)))
        values = values[(values > 0) & (values.index > 0)]
        after = len(own) - 1 - own.index(who["phase"])  # phases before the last have dashes
        x, y = values.index.to_numpy(dtype=float), values.to_numpy(dtype=float)
        lines.append(plot.Line(word, x, y, method=who["method"], variant=after))
    unit = f" ({quantity.unit})" if quantity.unit else ""
    name = quantity.name[:1].upper() + quantity.name[1:] + unit
    return plot.Panel(task, fits.AXES[quantity.against], name, [line for line in lines if len(line.x)], ylog=True)
