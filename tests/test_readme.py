"""What the README shows works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import bench
from bench import registry
from bench.cli import main
from tests.helpers import TINY

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PLUGIN, EXAMPLE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^python run_bench.py (.*)$", TEXT, re.MULTILINE)]


def test_exactly_two_commands_do_all_the_set_up():
    set_up = re.findall(r"^python3 -m venv .*$", TEXT, re.MULTILINE)
    assert len(set_up) == 2
    assert set_up[0].endswith("run_bench.py run quick") and "pytest" in set_up[1]


def test_the_example_from_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(EXAMPLE, names)
    frame = names["frame"]
    assert set(frame["method"]) == {"bptt", "transformer"} and set(frame["state"]) == {"done"}
    assert "accuracy" in capsys.readouterr().out


def test_the_method_shown_there_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))
    monkeypatch.setattr(registry, "_plugin_files", [])
    (tmp_path / "fading.py").write_text(PLUGIN)
    base = {"task": {"name": "parity", "length": 12}, "model": TINY, "training": {"batch_size": 8, "budget.steps": 4}}
    grid = {"base": {**base, "evaluation.sequences": 16}, "axes": {"method": ["fading-bptt"]}}
    frame = bench.run(grid, results=tmp_path, plugins=[tmp_path / "fading.py"], launcher="inline")
    assert frame["state"].tolist() == ["done"]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command[0] == "run"], ids=" ".join)
def test_every_grid_command_shown_is_a_valid_one(command, tmp_path, capsys):
    assert main([*command, *([] if "--dry-run" in command else ["--dry-run"]), "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize("command", [command for command in COMMANDS if command[0] != "run"], ids=" ".join)
def test_every_other_command_shown_exists(command, capsys):
    words = command[:2] if command[0] == "data" else command[:1]
    assert main([*words, "--help"]) == 0


def test_every_grid_shown_is_shipped():
    from bench.grid import grid_names

    assert set(re.findall(r"run_bench\.py run ([\w-]+)", TEXT)) <= set(grid_names())
