"""YAML from a user: limits, and a line with its place for everything odd."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BadInput
from bench.grid import load_collection, load_grid, make_grid
from bench.read_yaml import ALIASES, BYTES, DEPTH, VALUES, parse_yaml, read_yaml

BASE = {"task": "retrieval", "method": "bptt", "training.budget.steps": 1, "device": "cpu"}


@pytest.mark.parametrize(
    "text",
    ["!!bool x", '!!int ""', "!!timestamp x", "!!map [a]", "!!python/name:os.system", "!foo x", "!!set [a]", "!<x> y"],
)
def test_a_tag_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(BadInput, match=r"g\.yaml, line 2: tags such as '.*' are not read"):
        parse_yaml(f"a: 1\nb: {text}\n", "g.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("&a [*a]", "*a is within what it stands for"),
        ("{x: &a {d: *a}}", "*a is within what it stands for"),
        ("[" * 1000, f"is nested more than {DEPTH} deep"),
        ("{a: " * 1000, f"is nested more than {DEPTH} deep"),
        ("- " * 1000, f"is nested more than {DEPTH} deep"),
        ("{a: &a {x: 1}, b: {<<: *a}}", "merge keys (<<) are not read"),
        ("{[a]: b}", "a key should be a name"),
        ("9" * 5000, "is not a number"),
        ("a\0b", "is not YAML"),
        ("x" * (BYTES + 1), f"YAML may have up to {BYTES:,}"),
        ("[" + "1, " * VALUES + "1]", f"has more than {VALUES:,} values"),
        (f"a: &a 1\nb: [{', '.join(['*a'] * (ALIASES + 1))}]", f"has more than {ALIASES} aliases"),
    ],
)
def test_what_is_too_much_or_odd_ends_in_a_short_line(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=re.escape(reason)) as caught:
        parse_yaml(text, "g.yaml")
    assert str(caught.value).startswith("g.yaml") and "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_what_just_fits_is_read() -> None:
    assert parse_yaml("[" * DEPTH + "]" * DEPTH, "x") is not None
    assert parse_yaml(f"a: &a 1\nb: [{', '.join(['*a'] * ALIASES)}]", "x")["b"] == [1] * ALIASES
    assert parse_yaml("'<<': 1", "x") == {"<<": 1}


def test_aliases_of_aliases_count_for_what_they_stand_for() -> None:
    levels = ["b0: &b0 [x]"] + [f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(BadInput, match="has more than 100,000 values, counting what aliases stand for"):
        parse_yaml("\n".join(levels), "bomb.yaml")


def test_a_date_is_a_text_and_its_field_is_named() -> None:
    assert parse_yaml("2020-01-01", "x") == "2020-01-01"
    with pytest.raises(BadInput, match=r"seed: '2020-01-01' given; should be a valid integer"):
        make_grid("g", {"base": BASE, "axes": {"seed": [parse_yaml("2020-01-01", "x")]}})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are pipes on POSIX only")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"#" * (BYTES + 1))
    reasons = {
        "pipe": "is not a regular file",
        "device": "is not a regular file",
        "folder": "is a folder",
        "large": "1,048,577 bytes",
    }
    for name, reason in reasons.items():
        with pytest.raises(BadInput, match=reason):
            load_grid(str(tmp_path / f"{name}.yaml"))
    with pytest.raises(BadInput, match="a name that no file can have"):
        read_yaml(Path("a\0b.yaml"), "grid")


# Grids.


def test_cells_are_counted_before_they_are_made() -> None:
    axes = {
        f"model.{name}": list(range(1, 21))
        for name in ("d", "heads", "memory_tokens", "encoder_layers", "decoder_layers")
    }
    with pytest.raises(BadInput, match=r"has 3,200,000 cells; should have at most 100,000"):
        make_grid("g", {"base": BASE, "axes": axes})
    with pytest.raises(BadInput, match=r"has 102,010 cells"):
        make_grid("g", {"base": BASE, "axes": {"seed": [*range(1010)]}, "ladders": {"model.d": [*range(1, 101)]}})
    with pytest.raises(BadInput, match=r"has about 10\^13 cells"):
        make_grid(
            "g", {"base": BASE, "axes": {f"model.{i}": [*range(1000)] for i in range(4)} | {"seed": [*range(10)]}}
        )
    with pytest.raises(BadInput, match=r"has about 10\^6020 cells"):  # more digits than Python writes
        make_grid("g", {"base": BASE, "axes": {f"model.{i}": [1, 2] for i in range(20_000)}})


STACK = {"task": "stack"}
"""A task of none of the cells."""


def override(where: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return {"overrides": [{"where": where, "set": fields}]}


WRONG_INSIDE = {
    "a key of a part": ({"parts": [{"axs": {}}]}, r"parts\.0\.axs: unknown key; .*did you mean 'axes'"),
    "a key of an override": ({"overrides": [{"were": {}, "set": {}}]}, r"overrides\.0\.were: unknown key; .*'where'"),
    "where: a knob": (override({"task.lenght": 8}, {"seed": 1}), "'lenght' is unknown; .*'length'"),
    "where: deep": (override({"training.optimiser.lrr": 1}, {}), "'lrr' is unknown; .*'lr'"),
    "where: nothing": (override({"model.d": []}, {}), r"where.model: d: \[\] given; should have at least one value"),
    "set: deep": (override(STACK, {"training.optimiser.lrr": 1}), "'lrr' is unknown"),
    "set: a knob": (override(STACK, {"task.depht": 1}), "'depht' is unknown"),
    "set: another's knob": (override(STACK, {"task.keys": 1}), "'keys' is unknown"),
    "set: a value": (override(STACK, {"training.optimiser.lr": "x"}), "lr: 'x' given"),
    "set: a list": (override(STACK, {"model.d": [8, 16]}), r"d: \[8, 16\] given"),
    "set: a name": (override(STACK, {"method": "bppt"}), "'bppt' is unknown; .*'bptt'"),
    "set: init_from": (override(STACK, {"init_from": {"metod": "smt"}}), "'metod'"),
    "an override of a part": ({"parts": [override({"model.dd": 8}, {})]}, "'dd' is unknown"),
    "a base that an axis replaces": ({"base": {**BASE, "seed": "one"}}, "seed: 'one' given"),
    "many dots": ({"base": {**BASE, "model." * 2000 + "d": 1}}, "has more than 8 dots"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_INSIDE)
def test_a_mistake_is_found_wherever_it_is_though_nothing_matches(name: str) -> None:
    grid, message = WRONG_INSIDE[name]
    with pytest.raises(BadInput, match=message) as caught:
        make_grid("g", {"base": BASE, "axes": {"seed": [0]}, **grid})
    assert len(str(caught.value)) < 400


def test_an_override_may_set_what_a_cell_may_have() -> None:
    override = {
        "where": {"task": "stack"},
        "set": {
            "device": "auto",
            "precision": "auto",
            "init_from": {"method": "smt", "phase": "smt"},
            "training.curriculum": None,
        },
    }
    assert len(make_grid("g", {"base": BASE, "axes": {"seed": [0]}, "overrides": [override]}).runs) == 1


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "a\nb", "\x1b[31m", ".hidden", " a", "x" * 201, "\udcff"]
)
def test_a_grid_whose_name_can_be_no_folder_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="it names a folder"):
        make_grid(name, {"base": BASE, "axes": {"seed": [0]}})


@pytest.mark.parametrize("name", ["..", ".", "a\nb", "\x1b[31m"])
def test_a_file_whose_name_can_be_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.yaml").write_text("base: {}")
    with pytest.raises(BadInput, match="it names a folder"):
        load_collection(str(tmp_path / f"{name}.yaml"))


def test_two_grids_of_a_collection_do_not_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("grids: [quick, sub/Quick.yaml]")
    with pytest.raises(BadInput, match=r"grid all: grids: two are called 'Quick', and would share a folder"):
        load_collection(str(tmp_path / "all.yaml"))


def test_a_run_to_start_from_is_named_by_its_id_and_not_by_a_path() -> None:
    base = {**BASE, "init_from": {"run": "../../../x", "phase": "train"}}
    with pytest.raises(
        BadInput, match="init_from.run: '../../../x' given; it names a folder, and should not .* begin with a dot"
    ):
        make_grid("g", {"base": base, "axes": {"seed": [0]}})
