"""The traced cost of a column of a stream for online methods, as a function of n and of T.

flops   arithmetic per column and lane, element-wise operators included
bytes   peak memory of a step's tensors, per lane
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.config import Run
from bench.feasibility import impossible
from bench.measure.cost import step_costs

UNITS = (8, 16, 32, 64, 128)
LENGTHS = (8, 16, 32, 64, 128)
AT_UNITS, AT_LENGTH, LANES = 16, 8, 4
"""The units where T varies, the columns where n varies, and the lanes of both."""
METHODS: tuple[Mapping[str, Any], ...] = (
    {"name": "bptt"},
    {"name": "tbptt", "k1": 8, "k2": 8},
    *({"name": name, "update_every": 1} for name in ("rtrl", "kf-rtrl", "nobacktrack", "uoro")),
)
CELLS = ("tanh", "elstm")
ONLY = {"elstm": ("bptt", "rtrl")}
"""The methods that are measured on a cell; on any other cell all are."""


def run_of(method: Mapping[str, Any], cell: str, units: int) -> Run:
    """A run with a linear readout and three symbols that updates at every column."""
    model = {"backbone": cell, "updater_width": units, "d": 4, "heads": 1, "memory_tokens": 1, "updater_layers": 1}
    return Run.parse(
        {
            "task": {"name": "anbn"},
            "method": dict(method),
            "model": {**model, "decoder_layers": 1, "readout": "linear", "embedding": "fixed"},
            "training": {"batch_size": LANES, "budget": {"steps": 1}},
        }
    )


def measure(units: Sequence[int] = UNITS, lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    """A row {method, setting, axis, value, flops, bytes} for each feasible method, cell and point."""
    points = [("units", n, n, AT_LENGTH) for n in units] + [("columns", t, AT_UNITS, t) for t in lengths]
    return [
        {"method": method["name"], "setting": setting, "axis": axis, "value": value, **_traced(method, cell, n, t)}
        for method, cell, setting in _cases()
        for axis, value, n, t in points
        if impossible(run_of(method, cell, n)) is None
    ]


def _cases() -> Iterator[tuple[Mapping[str, Any], str, str]]:
    for cell in CELLS:
        for method in METHODS:
            if method["name"] in ONLY.get(cell, (method["name"],)):
                words = [f"k {method['k2']}"] if "k2" in method else []
                yield method, cell, ", ".join(words + ([cell] if cell != CELLS[0] else []))


def _traced(method: Mapping[str, Any], cell: str, units: int, length: int) -> dict[str, float]:
    (step,) = step_costs(run_of(method, cell, units), length).values()
    flops = (step["whole"]["flops"] + step["whole"]["elementwise"]) / step["tokens"]
    return {"flops": flops, "bytes": step["peak_bytes"] / LANES}
