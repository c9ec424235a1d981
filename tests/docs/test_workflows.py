"""The workflows are YAML of the shape that GitHub asks for, ask for no more than they need, and call what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from bench.grid import grid_names
from tests.docs.test_docs import parse

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/workflow-for-plugins.yml"
FILES = [*sorted((ROOT / ".github/workflows").glob("*.yml")), EXAMPLE]


def load(file: Path) -> dict:
    return yaml.safe_load(file.read_text())


def steps(file: Path) -> list[dict]:
    return [step for job in load(file)["jobs"].values() for step in job["steps"]]


def lines(file: Path) -> list[str]:
    return [line for step in steps(file) for line in step.get("run", "").splitlines()]


def test_all_workflows_are_here():
    assert {file.name for file in FILES} == {"tests.yml", "grid.yml", "docs.yml", EXAMPLE.name}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_workflow_may_read_and_little_else(file):
    workflow = load(file)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    assert True in workflow  # the key `on`, as YAML 1.1 reads it
    assert "pull_request_target" not in workflow[True]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60
        extra = {} if name != "deploy" else {"pages": "write", "id-token": "write"}
        assert job.get("permissions", {}) == extra


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_pinned_to_major_versions_and_nothing_from_outside_is_put_into_a_shell(file):
    for step in steps(file):
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v0"))
        assert "${{" not in step.get("run", "")


def test_only_main_is_published():
    jobs = load(ROOT / ".github/workflows/docs.yml")["jobs"]
    assert "refs/heads/main" in jobs["deploy"]["if"] and "'push'" in jobs["deploy"]["if"]


def test_the_summary_is_written_also_when_the_grid_fails():
    (compare,) = [
        step for step in steps(ROOT / ".github/workflows/grid.yml") if "run_bench.py compare" in step.get("run", "")
    ]
    assert "!cancelled()" in compare["if"] and '--markdown "$GITHUB_STEP_SUMMARY"' in compare["run"]


CALLS = [(file, line) for file in FILES for line in lines(file)]


@pytest.mark.parametrize(("file", "line"), CALLS, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_every_command_in_a_workflow_exists(file, line):
    words = shlex.split(line)
    if words[:2] == ["python", "run_bench.py"] or words[0] == "bench":
        given = parse(words[2:] if words[0] == "python" else words[1:])
        assert given.get("grid") in {None, *grid_names()}
        if "baseline" in given and file != EXAMPLE:  # a plugin's own lies in its repository
            assert (ROOT / given["baseline"]).is_file()
        if "baseline" in given:
            assert Path(given["results"]).name in grid_names()
    elif words[0].startswith("."):
        assert (ROOT / words[0]).stat().st_mode & 0o111, f"{words[0]} cannot be executed"
    else:
        assert words[0] in ("pip", "pytest", "mkdocs", "echo")
