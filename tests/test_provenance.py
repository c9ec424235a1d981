"""Whose commit a result is said to be of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import provenance
from tests.helpers import tiny_run


def test_the_commit_is_that_of_our_sources_and_not_of_a_repository_around_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=me", "-c", "user.email=me@here", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def told() -> tuple[str | None, bool | None]:
        facts = provenance.describe(tiny_run())
        return facts["commit"], facts["dirty"]

    # An environment inside the repository of something else.
    source = tmp_path / "venv" / "bench" / "provenance.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    (tmp_path / "thesis.tex").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(source))
    git("init")
    git("add", "thesis.tex")
    git("commit", "-m", "theirs")
    (tmp_path / "thesis.tex").write_text("changed")
    assert told() == (None, None)

    git("add", ".")
    git("commit", "-m", "ours")
    assert told() == (git("rev-parse", "HEAD"), False)
    source.write_text("changed")
    assert told() == (git("rev-parse", "HEAD"), True)
