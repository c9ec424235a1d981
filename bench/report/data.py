"""Everything the report reads, read once: results, curves and what was measured, as tidy frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import BadInput
from bench.measure.online import EXPERIMENTS
from bench.report.style import Style, order, styles
from bench.results import (
    Paths,
    load_curves,
    load_grids,
    load_records,
    load_results,
    placed,
    read_json,
    run_folders,
    tell_apart,
    traits,
)
from bench.results.frames import scale_of

WORK = ("flops", "sequential_flops", "sequential_operations")
NUMBERS = (
    *("length", "accuracy", "loss", "unit_loss", "start_accuracy", "start_loss", "progress"),
    *("chance", "shortcut", "accuracy_ceiling", "loss_floor", "unigram_loss"),
    *("steps", "tokens", "training_seconds", "compile_seconds", "parameters", "predictor_parameters"),
    *("inherited.steps", "inherited.tokens", "inherited.training_seconds"),
)
TEXTS = (
    *("backbone", "predictor", "reference", "reason", "shortcut_rule", "unit", "seed", "digest", "task.length"),
    *("uncounted", "group", "off", "rung"),
)
EMPTY = list(dict.fromkeys(("grid", "id", "task", "method", "backbone", "seed", "state", *NUMBERS, *TEXTS)))
LINKS = ["init_from.run", "init_from.phase"]


@dataclass(frozen=True)
class Data:
    """The contents of one or several results folders. Frames may be empty, never absent.

    Frames with one row per something of a run begin with the run's identity: grid, id, task, method, backbone, seed,
    then its whole config as dotted columns (`task.length`, `model.d`, `method.lambda_dyn`, ...).
    """

    results: pd.DataFrame
    """`read_results`: a row per run, scored predictor and test length."""
    curves: pd.DataFrame
    """`load_curves`: a row per evaluation and scored predictor; with unit_loss, in the task's unit, and what had been
    spent until then, phases that `init_from` brought included: `spent.tokens`, `spent.training_seconds`, and where the
    run's cost was traced (else NaN) `spent.flops` (elementwise work included), `spent.sequential_flops`,
    `spent.sequential_operations`."""
    steps: pd.DataFrame
    """Complexity (`cost GRID`), a row per configuration, phase and length: grid, task, method, backbone, phase, length,
    batch_size, peak_bytes, carried_bytes (from one step of a stream to the next), uncounted (operators that no rule
    counts, as text), and for each `part` in forward, backward, whole: `<part>.flops`, `<part>.elementwise`,
    `<part>.operations`, `<part>.sequential_operations`, `<part>.sequential_flops`."""
    credit: pd.DataFrame
    """Credit paths: grid, task, method, backbone, phase, length, distance, shortest, longest, outside (how credit also
    flows outside autograd, or None)."""
    inference: pd.DataFrame
    """Streaming: grid, task, method, backbone, state (constant or growing, as the method declares; None where that is
    not known), position, flops, elementwise, uncounted, state_bytes, seconds; per token and sequence."""
    gradients: pd.DataFrame
    """Norms of dL/dm_t: identity columns, when (init or trained), t, norm, loss_at (the column the loss is at)."""
    drift: pd.DataFrame
    """Distance of the rollout from the teacher's memories: identity columns, phase (after which), t, delta,
    accuracy (of the readout on the rollout at t; NaN where nothing is scored)."""
    geometry: list[tuple[dict[str, Any], dict[str, Any]]]
    """(identity columns, record): points (n, 2) of the first two principal components of m_t, label (n), colour_by,
    explained (shares of variance of the leading components), origin and field ((g, 2) each: where the updater takes
    memories of the plane, and their displacement), effective_rank."""
    samples: list[tuple[dict[str, Any], dict[str, Any]]]
    """(identity columns, record), as `bench.measure.samples` writes it."""
    folders: tuple[Path, ...] = ()
    uncounted: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Operators that no rule counts in the traced costs that `spent.*` of the curves are made of: identity columns,
    uncounted, as text."""
    diagnoses: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    """(identity columns, record), as `bench.measure.diagnosis.diagnose` gives it, of methods with a teacher."""
    grids: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of a grid -> its grid.json; older folders have none."""
    memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `query.remembered` has found in these frames."""

    @cached_property
    def methods(self) -> list[str]:
        """All methods, in the order in which the report lists them."""
        named = (*self.results.get("method", ()), *self.steps.get("method", ()))
        return sorted({name for name in named if isinstance(name, str)}, key=order)

    @cached_property
    def names(self) -> list[str]:
        """All grids."""
        return list(dict.fromkeys(map(str, [*self.results.get("grid", ()), *self.steps.get("grid", ())])))

    @cached_property
    def looks(self) -> dict[str, Style]:
        """How each method is drawn."""
        numbers: dict[str, int] = {}
        for record in self.grids.values():
            numbers |= record.get("methods", {})
        frames = (self.results, self.steps, self.credit, self.inference)
        return styles([str(name) for frame in frames for name in frame.get("method", ())], numbers)


def load(paths: Sequence[Path | str]) -> Data:
    """Read results folders (grids', or folders above them). Raises `BadInput` for one with no run, traced cost or
    record of `diagnose`.
    """
    folders = tuple(Path(path) for path in paths)
    cells = placed([folder for folder in folders if not _no_runs(folder)])
    records = {name: _records(cells, f"{name}.json") for name in ("cost", "dynamics", "samples", "diagnosis")}
    results = read_results(cells) if cells else pd.DataFrame(columns=EMPTY)
    curves = _with_work(_with_objects(load_curves(cells)), records["cost"])
    dynamics, diagnoses = records["dynamics"], records["diagnosis"]
    return Data(
        *(results, _in_unit(curves, results), *_complexity(folders)),
        _long(dynamics, "gradients", ("t", "norm")),
        _long(dynamics, "drift", ("t", "delta", "accuracy")),
        [(run, record["geometry"]) for run, record in dynamics if record.get("geometry")],
        *(records["samples"], folders, _uncounted(records["cost"])),
        [(run, record["diagnosis"]) for run, record in diagnoses if record.get("diagnosis")],
        load_grids(cells),
    )


def read_results(paths: Paths) -> pd.DataFrame:
    """`load_results` with every column that reports use, numbers as numbers. Raises `BadInput` when no run is there."""
    results = load_results(paths)
    if results.empty:
        where = ", ".join(repr(str(path)) for path in ([paths] if isinstance(paths, Path | str) else paths))
        raise BadInput(f"no runs in {where}: no folder there has a run.json, as `run GRID` writes it")
    results = results.reindex(columns=[*results, *(name for name in (*NUMBERS, *TEXTS) if name not in results)])
    for name in NUMBERS:
        results[name] = pd.to_numeric(results[name], errors="coerce").astype(float)
    results = _with_objects(results)
    results["reference"] = results["reference"].eq(True)
    results["task"] = results["task"].astype(object).where(results["task"].notna(), "(unknown task)")
    results["method"] = results["method"].astype(object).where(results["method"].notna(), results["id"])
    return results.copy()  # (in one piece)


def _with_objects(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with text as objects, which are compared and grouped sooner than pandas' own texts."""
    texts = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    return frame.astype(dict.fromkeys(texts, object)).copy()  # (in one piece)


def _in_unit(curves: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """The curves with their loss in the task's unit too."""
    if curves.empty or "loss" not in curves:
        return curves
    units = results.dropna(subset=["unit"]).drop_duplicates(["grid", "id"]).set_index(["grid", "id"])["unit"]
    unit = units.reindex(pd.MultiIndex.from_frame(curves[["grid", "id"]])).to_numpy()
    scale = np.array([scale_of(name) for name in unit])
    return curves.assign(unit_loss=pd.to_numeric(curves["loss"], errors="coerce").astype(float) * scale)


def _no_runs(folder: Path) -> bool:
    """Whether a folder holds no run, but what `cost GRID` traced or `diagnose` kept. Raises `BadInput` if neither."""
    if next(run_folders(folder), None) is not None:
        return False
    if not any(path.stem in EXPERIMENTS or path.name == "cost.json" for path in folder.rglob("*.json")):
        read_results(folder)
    return True


def _records(cells: Paths, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(run, record) for run, record in load_records(cells, name) if isinstance(record, dict)]


def _complexity(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables that `cost GRID` left in grids' own folders; a run's cost.json has no "steps"."""
    found: dict[str, list[dict[str, Any]]] = {"steps": [], "credit": [], "inference": []}
    records = {}
    for file in sorted({file.resolve() for folder in folders for file in folder.rglob("cost.json")}):
        record = read_json(file)
        if isinstance(record, dict) and isinstance(record.get("steps"), list):
            records[file.parent] = record
    for grid, name in tell_apart({grid: {"steps": record["steps"]} for grid, record in records.items()}).items():
        for part, rows in found.items():
            own = [row for row in records[grid].get(part, []) if isinstance(row, dict)]
            named = [row | {"uncounted": _names(row)} if "uncounted" in row else row for row in own]
            rows += [{"grid": name, **row} for row in named]
    for row in found["inference"]:
        row.setdefault("state", traits(row.get("method")).get("state"))
    steps, credit, inference = (pd.json_normalize(rows) for rows in found.values())
    return steps, credit, inference


def uncounted(folder: Path) -> pd.DataFrame:
    """`Data.uncounted` alone."""
    return _uncounted(_records([folder], "cost.json"))


def _uncounted(records: list[tuple[dict[str, Any], dict[str, Any]]]) -> pd.DataFrame:
    rows = [{**run, "uncounted": _names(phase)} for run, record in records for phase in record.get("phases") or []]
    return pd.DataFrame([row for row in rows if row["uncounted"]])


def _names(traced: dict[str, Any]) -> str:
    """What was traced and not counted, in words; nothing where all was."""
    return ", ".join(sorted(traced.get("uncounted") or {}))


def _long(records: list[tuple[dict[str, Any], dict[str, Any]]], name: str, columns: Sequence[str]) -> pd.DataFrame:
    """A row per entry of the lists under `columns`, beside the run's identity and the record's other fields."""
    found: list[dict[str, Any]] = []
    for place, (_, record) in enumerate(records):
        for entry in record.get(name) or []:
            lists = {column: entry.get(column) or [] for column in columns}
            others = {key: value for key, value in entry.items() if key not in columns}
            rows = zip_longest(*lists.values(), fillvalue=float("nan"))
            found += [{**dict(zip(columns, row)), **others, "run": place} for row in rows]
    if not found:
        return pd.DataFrame()
    long = _with_objects(pd.DataFrame(found))
    shared = pd.DataFrame([run for run, _ in records], dtype=object).iloc[long.pop("run")].reset_index(drop=True)
    return pd.concat([shared.drop(columns=[column for column in long if column in shared]), long], axis=1)


def _with_work(curves: pd.DataFrame, costs: list[tuple[dict[str, Any], dict[str, Any]]]) -> pd.DataFrame:
    """The curves with `spent.*`, phases of `init_from` included; work is that of a traced batch, times those drawn."""
    if curves.empty:
        return curves
    wanted = (*LINKS, "phase", "tokens", "training_seconds")
    points = curves.reindex(columns=[*curves, *(name for name in wanted if name not in curves)])
    for name in ("tokens", "training_seconds"):
        points[name] = pd.to_numeric(points[name], errors="coerce").astype(float)
    rates = pd.DataFrame(
        [
            {"grid": run["grid"], "id": run["id"], "phase": phase["phase"], **_per_token(phase)}
            for run, record in costs
            for phase in record.get("phases") or []
        ],
        columns=["grid", "id", "phase", *WORK],
    )
    rate = points[["grid", "id", "phase"]].merge(rates, how="left", on=["grid", "id", "phase"])
    by_run = [points["grid"], points["id"]]
    fresh = points.groupby(["grid", "id"])["tokens"].diff().fillna(points["tokens"])  # since the point before
    spent = pd.DataFrame({name: points[name] for name in ("tokens", "training_seconds")})
    for name in WORK:
        spent[name] = (fresh * rate[name].to_numpy(dtype=float)).groupby(by_run).cumsum()
    sources = pd.MultiIndex.from_frame(points[["grid", *LINKS]])
    linked = points[LINKS[0]].notna().to_numpy()
    own = spent
    for _ in range(1 + points.loc[linked, "id"].nunique()):  # a source may have a source
        totals = spent.assign(grid=points["grid"], id=points["id"], phase=points["phase"])
        totals = totals.groupby(["grid", "id", "phase"]).last()
        brought = totals.reindex(sources).to_numpy(dtype=float, na_value=float("nan"))
        before, spent = spent, own + np.where(linked[:, None], brought, 0.0)
        if spent.equals(before):
            break
    return pd.concat([points, spent.add_prefix("spent.")], axis=1)


def _per_token(phase: dict[str, Any]) -> dict[str, float]:
    """What a token costs in this phase, from the traced batch: all arithmetic, and the longest chain's share of it."""
    tokens, whole = phase["tokens"], phase["whole"]
    return {
        "flops": (whole["flops"] + whole["elementwise"]) / tokens,
        "sequential_flops": whole["sequential_flops"] / tokens,
        "sequential_operations": whole["sequential_operations"] / tokens,
    }
