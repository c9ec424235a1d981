"""What `new` writes works at once: it passes `check` and its own tests."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench.cli import main


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param("method", "noisy-bptt", marks=pytest.mark.slow),
        ("task", "delayed_echo"),
        pytest.param("backbone", "leaky", marks=pytest.mark.slow),
    ],
)
def test_a_new_plugin_passes_check_and_its_own_tests(clean, tmp_path, capsys, kind, name):
    assert main(["new", kind, name, "--dir", str(tmp_path)]) == 0
    module = f"bench_{name.replace('-', '_')}"
    assert f"{module}.py" in capsys.readouterr().out
    folder = tmp_path / name
    assert main(["check", name, "--plugin", str(folder / f"{module}.py")]) == 0
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"][f"bench.{kind}s"] == {name: module}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(Path(__file__).parents[1])}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert " failed" not in done.stdout and " passed" in done.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["Noisy", "3rd", "a b", "a--b", "../a", "a/b", ""])
def test_a_name_that_cannot_be_one_is_refused(tmp_path, capsys, name):
    assert main(["new", "method", name, "--dir", str(tmp_path)]) == 2
    assert "small letters and digits" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path, capsys):
    assert main(["new", "method", "bptt", "--dir", str(tmp_path)]) == 2
    assert "there is a method 'bptt' already" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    assert main(["new", "task", "mine", "--dir", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["new", "task", "mine", "--dir", str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err
    assert main(["new", "methd", "mine"]) == 2
    assert "did you mean 'method'" in capsys.readouterr().err
