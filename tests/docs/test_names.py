"""Every name of this project that the README and the guides show exists."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.test_docs import PAGES, ROOT

ELSEWHERE = {"log", "U", "exp", "tanh", "softmax", "backward"}
"""Functions of formulas, and of torch."""
PAST = "## A method from before 0.2"
"""A section that names what no longer exists, at the end of its page."""


def spans(page: Path) -> list[str]:
    """What stands between backticks in running text."""
    text = re.sub(r"```.*?```", "", page.read_text().partition(PAST)[0], flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def dotted(page: Path) -> list[str]:
    """Names such as bench.models.Updater, in text and in the imports of code."""
    found = [name for span in spans(page) for name in re.findall(r"(?<![\w./-])bench(?:\.[A-Za-z_]\w*)+", span)]
    for block in blocks(page):
        for module, names in re.findall(r"^from (bench[\w.]*) import ([^(\n]+)$", block, re.MULTILINE):
            found += [f"{module}.{name.strip()}" for name in names.split(",")]
        found += re.findall(r"^import (bench[\w.]*)$", block, re.MULTILINE)
    return list(dict.fromkeys(found))


def called(page: Path) -> list[str]:
    """Functions that are shown with their arguments, such as advance(state, x)."""
    found = [match[1] for span in spans(page) if (match := re.match(r"(?:[\w.]+\.)?([A-Za-z_]\w*)\(", span))]
    return list(dict.fromkeys(name for name in found if name not in ELSEWHERE))


@cache
def defined() -> frozenset[str]:
    """Names that the sources, the templates and the examples define or use as attributes."""
    files = [*(ROOT / "bench").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    found: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
    return frozenset(found)


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_modules_and_their_members_exist(page):
    assert [name for name in dotted(page) if not exists(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_that_are_shown_with_arguments_exist(page):
    assert [name for name in called(page) if name not in defined()] == []


def test_a_name_that_does_not_exist_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    text = "Use `bench.models.Updatr`, `bench.models.Updater` and `settle(phase)`."
    page.write_text(f"{text}\n```python\nfrom bench import grids_\n```\n")
    assert [name for name in dotted(page) if not exists(name)] == ["bench.models.Updatr", "bench.grids_"]
    assert [name for name in called(page) if name not in defined()] == ["settle"]
