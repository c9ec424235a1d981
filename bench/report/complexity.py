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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import linregress

from bench.report import lines, style
from bench.report.claims.cells import having, number
from bench.report.claims.cost import SMT, larger_half
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.statistics import PowerLaw, power_law
from bench.report.style import Style
from bench.report.tables import _clean

COMMAND = "`python run_bench.py cost complexity`"
UNKNOWN = "not known"
WHO = ["grid", "task", "method", "backbone", "phase"]
BACKBONE = "transformer"
"""The one that is drawn of a method that has several; tables have all."""
DASHES: Sequence[Any] = ("-", (0, (4, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
"""Of phases, the last first."""


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
    Quantity("sequential_flops", "sequential FLOPs", "steps", "whole.sequential_flops", LENGTH, "FLOPs"),
    Quantity("flops", "total FLOPs", "steps", "work", LENGTH, "FLOPs"),
    Quantity("peak_bytes", "peak memory", "steps", "peak_bytes", LENGTH, "bytes"),
    Quantity("gpu_bytes", "peak memory of the GPU", "steps", "allocated_bytes", LENGTH, "bytes"),
    Quantity("carried_bytes", "memory carried between steps", "steps", "carried_bytes", LENGTH, "bytes"),
    Quantity("credit_longest", "longest credit path", "credit", "longest", DISTANCE, "operations"),
    Quantity("credit_shortest", "shortest credit path", "credit", "shortest", DISTANCE, "operations"),
    Quantity("state_bytes", "carried state", "inference", "state_bytes", POSITION, "bytes"),
    Quantity("token_flops", "FLOPs per token", "inference", "work", POSITION, "FLOPs"),
    Quantity("token_seconds", "seconds per token", "inference", "seconds", POSITION, ""),
)
STEP = QUANTITIES[:4]
CREDIT = QUANTITIES[6:8]
TOKEN = QUANTITIES[8:]
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
    frames = _frames(data)
    fitted = fits(frames)
    looks = style.styles([*map(str, data.methods), *(one for frame in frames.values() for one in frame["method"])])
    exhibits = (
        _overview(frames, fitted, looks),
        *_fits(frames, fitted),
        _credit(frames["credit"], fitted, looks),
        _inference(frames["inference"], fitted, looks),
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
    frames = _frames(data)
    return _exponents(fits(frames), frames["credit"])


# Numbers.


def _frames(data: Data) -> dict[str, pd.DataFrame]:
    return {name: _rows(getattr(data, name)) for name in ("steps", "credit", "inference")}


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that name a method, with every column that is used: names as text, numbers, `work` for all arithmetic."""
    columns = [one.column for one in QUANTITIES if one.column != "work"]
    wanted = (*WHO, *columns, LENGTH, DISTANCE, POSITION, "batch_size", "device", "outside", "uncounted")
    rows = having(frame, *wanted, "whole.flops", "whole.elementwise", "flops", "elementwise")
    for name in (*columns, LENGTH, DISTANCE, POSITION, "whole.flops", "whole.elementwise", "flops", "elementwise"):
        rows[name] = number(rows[name]).replace([np.inf, -np.inf], np.nan)
    for name in WHO:
        rows[name] = rows[name].astype(object).where(rows[name].notna(), "").map(str)
    work = rows["whole.flops"].fillna(rows["flops"])
    rows = rows.assign(work=work + rows["whole.elementwise"].fillna(rows["elementwise"]).fillna(0))
    return rows[rows["method"] != ""]


def _configurations(rows: pd.DataFrame, quantity: Quantity) -> Iterator[tuple[dict[str, str], pd.Series]]:
    """Who, and the quantity against what it grows in; the mean where several traced models share a name."""
    known = rows.dropna(subset=[quantity.column, quantity.against])
    known = known.assign(rank=known["method"].map(style.order))
    order = {name: place for place, name in enumerate(dict.fromkeys(rows["phase"]))}  # as they were trained
    known = known.assign(at=known["phase"].map(order)).sort_values(["grid", "task", "rank", "at"], kind="stable")
    for key, part in known.groupby(WHO, sort=False):
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
    known = set(table[WHO[:4]].itertuples(index=False, name=None))
    new = [one not in known for one in alone[WHO[:4]].itertuples(index=False, name=None)]
    table = pd.concat([table, alone[new]], ignore_index=True)
    for name, source in COLUMNS.items():
        key, column = (PAPER[source], None) if isinstance(source, str) else source
        own = fitted[fitted["key"] == key]
        if own.empty:
            continue
        if column is None:
            table[name] = [paper(key, method, phase) for method, phase in zip(table["method"], table["phase"])]
        else:
            on = WHO[:4] if own["in"].iloc[0] == SYMBOLS[POSITION] else WHO
            table = table.merge(own[[*on, column]].rename(columns={column: name}), on=on, how="left")
    return table.merge(told, on=WHO, how="left") if len(told) else table


def _without_idle(table: pd.DataFrame) -> pd.DataFrame:
    idle = [name for name in ("grid", "task") if name in table and len(set(table[name])) == 1]
    return table.drop(columns=idle).reset_index(drop=True)


# Words.


def _who(who: Any, phases: int = 1) -> str:
    return who["method"] + (f", phase {who['phase']}" if phases > 1 else "")


def _by_phase(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for (method, phase), part in rows.groupby(["method", "phase"], sort=False):
        yield (str(method), str(phase)), part


def _phases(rows: pd.DataFrame) -> dict[str, list[str]]:
    """The phases of each method, in their order."""
    return {str(method): list(dict.fromkeys(part["phase"])) for method, part in rows.groupby("method", sort=False)}


def _told(fitted: pd.DataFrame, key: str, column: str = "exponent", digits: int = 2) -> str:
    """`smt+dmt, phase smt 0.00; bptt 0.98 to 1.01`: the span over backbones and tasks."""
    own = fitted[fitted["key"] == key]
    phases, words = _phases(fitted[fitted["phase"] != ""]), []
    for (method, phase), part in _by_phase(own):
        ends = sorted({f"{round(one, digits) + 0.0:.{digits}f}" for one in part[column].dropna()}, key=float)
        span = ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}" if ends else "unknown"
        many = len(phases.get(method, ())) if phase else 1
        words.append(f"{_who({'method': method, 'phase': phase}, many)} {span}")
    return "; ".join(words)


def _ran(rows: pd.DataFrame, against: str) -> str:
    """What was traced for these rows."""
    configurations = rows[WHO[:4]].drop_duplicates()
    count = f"{len(configurations)} configuration{'' if len(configurations) == 1 else 's'}"
    grids, tasks = (", ".join(dict.fromkeys(rows[name])) for name in ("grid", "task"))
    values = ", ".join(f"{value:g}" for value in sorted(set(rows[against].dropna())))
    batches = ", ".join(f"{size:g}" for size in sorted(set(number(rows["batch_size"]).dropna())))
    devices = ", ".join(sorted(set(rows["device"].dropna().map(str))))
    words = [f"`cost` of {grids or 'an unknown grid'}: {count} on {tasks}", f"{against} {values}"]
    words += [f"batch size {batches}"] if batches else []
    words += [f"device {devices}"] if devices else []
    return _clean("; ".join(words)) + ". Each was traced once: operations that ran depend on no seed."


def _methods(rows: pd.DataFrame) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(sorted(set(rows["task"]))), tuple(sorted(set(rows["method"]), key=style.order))


# The exhibits.


def _overview(frames: dict[str, pd.DataFrame], fitted: pd.DataFrame, looks: dict[str, Style]) -> Exhibit | Missing:
    steps = frames["steps"]
    own = fitted[fitted["in"] == SYMBOLS[LENGTH]]
    if own.empty:
        return Missing("complexity", "Cost of a training step", f"no training step was traced; {COMMAND} does")
    first, last = own["fitted_from"].min(), own["last"].max()
    caption = (
        f"Exponents e of T^e, fitted from T = {first:g} to {last:g} (the larger half of the lengths, as a + b T looks "
        f"shallower at small T). Sequential operations: {_told(own, 'sequential_operations')}. "
        f"Total FLOPs, elementwise work included: {_told(own, 'flops')}. "
        f"Beside them the paper's O(.), as far as it is known.{lines.uncounted(steps)}"
    )
    figure, note = _drawn(steps, STEP, looks, across=2)
    return Exhibit(
        "complexity",
        "Cost of a training step",
        _clean(caption + note),
        _ran(steps.dropna(subset=[LENGTH]), LENGTH),
        figure,
        _without_idle(_exponents(fitted, frames["credit"])),
        *_methods(own),
    )


def _fits(frames: dict[str, pd.DataFrame], fitted: pd.DataFrame) -> Iterator[Exhibit]:
    """Every fit, with the values at both ends; nothing where nothing was traced."""
    if fitted.empty:
        return
    rows = pd.concat([frame.assign(x=frame[name]) for name, frame in zip(AXES, frames.values())])
    rough = int((fitted["r2"] < 0.95).sum())
    caption = (
        f"{len(fitted)} fits through the larger half of the points, {rough} of them with r2 below 0.95 in logarithms. "
        "A quantity that grows linearly from a large constant part has an exponent below 1, and a straight line, whose "
        f"slope per step stands beside, with r2 near 1.{lines.uncounted(rows)}"
    )
    yield Exhibit(
        "complexity-fits",
        "Every fitted exponent, with the values at both ends",
        caption,
        _ran(rows, "x").replace("; x ", "; lengths, distances and positions "),
        None,
        _without_idle(fitted.drop(columns="key")),
        *_methods(fitted),
    )


def _credit(rows: pd.DataFrame, fitted: pd.DataFrame, looks: dict[str, Style]) -> Exhibit | Missing:
    rows = rows.dropna(subset=[DISTANCE])
    if rows.empty:
        return Missing("credit-path", "Credit paths", f"no credit path was traced; {COMMAND} does")
    outside = rows[rows["outside"].notna()]
    phases = _phases(rows)
    told = [
        f"{_who({'method': method, 'phase': phase}, len(phases[method]))} ({part['outside'].iloc[0]})"
        for (method, phase), part in _by_phase(outside)
    ]
    caption = "Operations from the loss at j back to the input at i."
    if len(fitted[fitted["key"] == "credit_longest"]):
        caption += (
            f" Operations more per step of distance, on the longest path: {_told(fitted, 'credit_longest', 'slope', 1)}"
            f"; on the shortest: {_told(fitted, 'credit_shortest', 'slope', 1)}."
        )
    caption += f" Credit flows outside autograd: {'; '.join(told)}." if told else ""
    gone = {
        who: "no path" if part["outside"].isna().any() else "outside autograd"
        for who, part in _by_phase(rows)
        if part[["shortest", "longest"]].isna().to_numpy().all()
    }
    figure, note = _drawn(rows, CREDIT, looks, across=2, gone=gone)
    table = _sorted(rows)[[*WHO, DISTANCE, "shortest", "longest", "outside"]]
    table.insert(5, "paper", [paper("credit_longest", *one) for one in zip(table["method"], table["phase"])])
    return Exhibit(
        "credit-path",
        "Credit paths",
        _clean(caption + note),
        _ran(rows, DISTANCE),
        figure,
        _without_idle(table),
        *_methods(rows),
    )


def _inference(rows: pd.DataFrame, fitted: pd.DataFrame, looks: dict[str, Style]) -> Exhibit | Missing:
    rows = rows.dropna(subset=[POSITION])
    if rows.empty:
        return Missing("inference", "Inference, token by token", f"no streamed token was traced; {COMMAND} does")
    caption = (
        f"Growth with the position p, as p^e: carried state {_told(fitted, 'state_bytes')}; FLOPs per token "
        f"{_told(fitted, 'token_flops')}. FLOPs more per position, of a straight line: "
        f"{_told(fitted, 'token_flops', 'slope', 0)}. Methods that train the same RNN coincide. "
        f"Seconds are a median of few tokens, and noisy.{lines.uncounted(rows)}"
    )
    figure, note = _drawn(rows, (TOKEN[1], TOKEN[0], TOKEN[2]), looks, across=3)
    columns = [*WHO[:4], POSITION, "flops", "elementwise", "state_bytes", "seconds"]
    table = _sorted(rows)[columns]
    for key in ("state_bytes", "token_flops"):
        table[f"{key}_paper"] = [paper(key, method, "") for method in table["method"]]
    return Exhibit(
        "inference",
        "Inference, token by token",
        _clean(caption + note),
        _ran(rows, POSITION),
        figure,
        _without_idle(table),
        *_methods(rows),
    )


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    """In the order of legends."""
    ranked = rows.assign(rank=rows["method"].map(style.order))
    return ranked.sort_values(["grid", "task", "rank"], kind="stable").reset_index(drop=True)


# Drawing.


def _drawn(
    rows: pd.DataFrame,
    quantities: Sequence[Quantity],
    looks: dict[str, Style],
    across: int,
    gone: Mapping[tuple[str, str], str] = {},
) -> tuple[Figure, str]:
    """A panel per quantity of the (grid, task) with most configurations, and a sentence where there are others.

    `gone` are the (method, phase) that have no line, and why.
    """
    counts = Counter(zip(*(rows.drop_duplicates(WHO)[name] for name in ("grid", "task"))))
    (grid, task), _ = counts.most_common(1)[0]
    note = f" The figure shows {task} of {grid}, one of {len(counts)} tasks." if len(counts) > 1 else ""
    here = rows[(rows["grid"] == grid) & (rows["task"] == task)]
    has = set(zip(here["method"], here["backbone"]))
    shown = {
        method: BACKBONE if (method, BACKBONE) in has else min(own for who, own in has if who == method)
        for method in dict.fromkeys(here["method"])
    }
    left = sorted({backbone for method, backbone in has if backbone != shown[method]})
    note += f" The figure shows backbone {BACKBONE}, the table also {' and '.join(left)}." if left else ""
    here = here[[shown[method] == backbone for method, backbone in zip(here["method"], here["backbone"])]]
    phases = _phases(here)
    down = -(-len(quantities) // across)
    figure = Figure(figsize=(9.0 if across == 3 else 7.6, 1.2 + 2.3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    drawn: dict[str, Line2D] = {}
    for panel, quantity in zip(panels, quantities):
        for who, values in _configurations(here, quantity):
            many = phases[who["method"]]
            look, word = _look(who, many, looks), _who(who, len(many))
            word += "" if who["backbone"] in ("", BACKBONE) else f", backbone {who['backbone']}"
            values = values[(values > 0) & (values.index > 0)]
            drawn.setdefault(word, Line2D([], [], lw=1.5, ms=5, **look))
            thick = 1 + 0.35 * max(0, 3 - list(drawn).index(word))  # equal lines show below one another
            panel.plot(values.index, values.to_numpy(), ms=3 * thick, lw=1.2 * thick, **look)
        _axes(panel, quantity)
    for (method, phase), why in gone.items():
        who, many = {"method": method, "phase": phase}, phases.get(method, [])
        drawn[f"{_who(who, len(many))} ({why})"] = Line2D([], [], ms=5, **{**_look(who, many, looks), "ls": ""})
    lines.legend(figure, drawn)
    return figure, note


def _look(who: dict[str, str], phases: Sequence[str], looks: dict[str, Style]) -> dict[str, Any]:
    """A method's colour and marker; phases before its last one with dashes and open markers."""
    look = looks[who["method"]]
    after = len(phases) - 1 - phases.index(who["phase"]) if who["phase"] in phases else 0
    face = "white" if after else look.color
    return {"color": look.color, "marker": look.marker, "mfc": face, "ls": DASHES[after % len(DASHES)]}


def _axes(panel: Axes, quantity: Quantity) -> None:
    unit = f" ({quantity.unit})" if quantity.unit and quantity.unit != "FLOPs" else ""
    panel.set_title(f"{quantity.name[:1].upper()}{quantity.name[1:]}{unit}", loc="left")
    panel.set_xlabel(AXES[quantity.against])
    places = sorted({float(x) for line in panel.get_lines() for x in np.asarray(line.get_xdata(), dtype=float)})
    if places:
        lines.spread(panel.xaxis, places)
        style.logarithmic(panel.yaxis)
