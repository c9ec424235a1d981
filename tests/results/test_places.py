"""grid.json: every cell's group, place and what it departs in; launches into one folder merge; a reader looks it up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import sources
from bench.grid import make_grid
from bench.results import (
    Folder,
    groups,
    load_curves,
    load_grids,
    load_records,
    load_results,
    read_grid,
    read_json,
    write_grid,
    write_json,
)
from bench.training import Trainer
from tests.helpers import TINY, tiny_run

BASE = {
    "task": {"name": "retrieval", "length": 8},
    "method": "bptt",
    "model": TINY,
    "training": {"batch_size": 4, "budget": {"steps": 2}},
    "evaluation": {"sequences": 8, "every": 1.0},
}


def record(**keys: Any) -> dict[str, Any]:
    return make_grid("g", {"base": BASE, **keys}).record()


def offs(found: dict[str, Any], name: str) -> dict[Any, list[str]]:
    """Value at an axis, or the rung, -> the fields off."""
    return {cell["at"].get(name, cell["rung"]): cell["off"] for cell in found["cells"].values()}


def test_a_cell_knows_its_rung_and_the_base_has_none() -> None:
    found = record(axes={"seed": [0, 1]}, ladders={"model.d": [16, 8], "model.memory_tokens": [4]})
    cells = list(found["cells"].values())
    assert [(cell["seed"], cell["rung"], cell["off"]) for cell in cells] == [
        *((seed, None, []) for seed in (0, 1)),  # d 8 is the base again
        *((seed, "model.d", ["model.d"]) for seed in (0, 1)),
        *((seed, "model.memory_tokens", ["model.memory_tokens"]) for seed in (0, 1)),
    ]
    assert found["stated"] == [["model.d"], ["model.memory_tokens"]]
    assert len({cell["group"] for cell in cells}) == 3


def test_what_follows_from_a_rung_is_not_stated() -> None:
    overrides = [{"where": {"model.d": 16}, "set": {"model.heads": 4}}]
    found = record(axes={"model.d": [8, 16]}, overrides=overrides)
    assert found["stated"] == [["model.d"]]


@pytest.mark.parametrize(
    ("axis", "values", "off"),
    [
        ("model.backbone", ["transformer", "gru"], {"transformer": [], "gru": ["model.backbone"]}),
        ("model.backbone", ["gru", "lstm"], {"gru": [], "lstm": []}),  # the default is neither
        ("task.length", [8, 16], {8: [], 16: []}),  # a task is as hard as it is
        ("training.optimiser.lr", [1e-3, 1e-2], {1e-3: [], 1e-2: ["training.optimiser.lr"]}),
    ],
)
def test_an_axis_departs_from_the_default_that_is_among_its_values(
    axis: str, values: list[Any], off: dict[Any, list[str]]
) -> None:
    base = {**BASE, "training.optimiser.lr": 1e-3}
    assert offs(make_grid("g", {"base": base, "axes": {axis: values}}).record(), axis) == off


def test_an_override_for_a_method_is_its_default() -> None:
    overrides = [{"where": {"method": "bptt"}, "set": {"model.backbone": "gru"}}]
    found = record(axes={"model.backbone": ["transformer", "gru"]}, overrides=overrides)
    assert offs(found, "model.backbone") == {"gru": [], "transformer": ["model.backbone"]}


def test_the_fields_of_a_case_vary_together() -> None:
    found = record(axes={"case": [{"task.length": 8, "model.d": 8}, {"task.length": 12, "model.d": 16}]})
    assert found["stated"] == [["task.length", "model.d"]]
    assert all(cell["off"] == [] for cell in found["cells"].values())


def test_a_cell_of_several_parts_is_the_base_where_one_of_them_says_so() -> None:
    parts = [{"axes": {"model.backbone": ["transformer", "gru"]}}, {"base": {"model.backbone": "gru"}}]
    assert [cell["off"] for cell in record(parts=parts)["cells"].values()] == [[], []]


def test_a_source_is_known_by_its_group_whatever_its_seed() -> None:
    described = {}
    for seed in (0, 1):
        for weight in (0.1, 1.0):
            source = tiny_run({"name": "smt", "lambda_dyn": weight}, seed=seed)
            run = tiny_run("smt+dmt", seed=seed, init_from={"run": source.id, "phase": "smt"})
            described |= {f"{weight}-{seed}": source.describe(), f"from {weight}-{seed}": run.describe()}
            described[source.id] = source.describe()
    found = groups(described)
    assert found["from 0.1-0"] == found["from 0.1-1"] != found["from 1.0-0"] == found["from 1.0-1"]
    alone = groups({name: one for name, one in described.items() if name.startswith("from")})
    assert alone["from 0.1-0"] == alone["from 0.1-1"], "where the source is not there, by its id"


def test_a_launch_writes_it_and_a_second_one_adds_to_it(tmp_path: Path) -> None:
    for seed in ("[0]", "[0,1]"):
        bench.run({"base": BASE}, results=tmp_path, launcher="inline", set=[f"seed={seed}"])
    found = read_grid(tmp_path / "grid")
    assert found is not None and [one["set"] for one in found["launches"]] == [["seed=[0]"], ["seed=[0,1]"]]
    assert found["launches"][0]["grid"]["base"]["method"] == "bptt"
    frame = load_results(tmp_path)
    assert set(found["cells"]) == set(frame["id"]) and frame["group"].nunique() == 1
    assert set(frame["off"]) == {""} and frame["rung"].isna().all()
    assert load_grids(tmp_path)["grid"]["compare"]["accuracy"] == 0.03
    told = {read_json(tmp_path / "grid" / name / "run.json")["group"] for name in frame["id"]}
    assert told == set(frame["group"]) == set(load_curves(tmp_path)["group"])


def test_a_launch_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    write_grid(tmp_path, record())
    before = (tmp_path / "grid.json").stat().st_mtime_ns
    write_grid(tmp_path, record())
    assert (tmp_path / "grid.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("junk", ["", "[]", '{"cells": 3}', '{"cells": {"x": 1}}'])
def test_a_folder_without_it_has_groups_all_the_same(tmp_path: Path, junk: str) -> None:
    for seed in (0, 1):
        run = tiny_run(seed=seed)
        Folder(tmp_path / run.id).describe(run)
        file = tmp_path / run.id / "run.json"
        write_json(file, {name: value for name, value in read_json(file).items() if name != "group"})
    (tmp_path / "grid.json").write_text(junk)
    frame = load_results(tmp_path)
    assert frame["group"].nunique() == 1 and frame["group"].notna().all() and frame["off"].isna().all()
    assert load_grids(tmp_path) == {} and load_records(tmp_path, "cost.json") == []


def test_the_reader_is_no_part_of_what_computes_a_cell() -> None:
    modules = set(sources.of(Trainer))
    assert "bench.results.folder" in modules
    assert not {"bench.results.frames", "bench.results.places", "bench.state"} & modules


def test_a_record_is_plain_data() -> None:
    found = make_grid("g", {"base": BASE, "axes": {"seed": (0, 1)}}).record()
    assert found["launches"][0]["grid"]["axes"] == {"seed": [0, 1]}
    assert dataclasses.is_dataclass(make_grid("g", {"base": BASE}))
