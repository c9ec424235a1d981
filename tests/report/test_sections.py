"""What holds for every section: which exhibits there are, and what is said of folders that hold nothing for them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from bench.report.claims import section as claims
from bench.report.data import Data, load
from bench.report.exhibit import Exhibit, Missing
from bench.report.sections import TITLES
from tests.helpers import folder_of, tiny_run

EXHIBITS = {
    "complexity": ["complexity", "credit-path", "inference"],
    "synthetic": ["synthetic", "synthetic-aggregate"],
    "lengths": ["length-generalisation"],
    "efficiency": ["efficiency"],
    "scaling": ["scaling", "compression"],
    "dynamics": ["gradient-norms", "drift", "geometry"],
    "diagnosis": ["diagnosis"],
    "samples": ["samples"],
    "ablations": ["ablation-lambda", "ablation-future", "ablation-backbone"],
    "online": [],
    "provenance": ["cells"],
}
"""Names of exhibits, which are links that others have made: of what is there for every report."""


def nothing() -> Data:
    empty = pd.DataFrame()
    return Data(empty, empty, empty, empty, empty, empty, empty, [], [])


@pytest.mark.parametrize("name", TITLES)
def test_exhibits_keep_their_names_and_say_what_would_bring_them(name: str) -> None:
    found = import_module(f"bench.report.sections.{name}").section(nothing()).exhibits
    assert [one.name for one in found] == EXHIBITS[name]
    assert all(isinstance(one, Missing) and "run_bench.py" in one.reason for one in found)


def test_claims_keep_their_names() -> None:
    assert [one.name for one in claims(nothing()).exhibits] == ["claims", "claims-numbers"]


@pytest.mark.parametrize("state", ["pending", "running", "failed", "done"])
def test_cells_without_results_fill_no_section(tmp_path: Path, state: str) -> None:
    folder_of(tiny_run(), tmp_path).set_status(state)
    data = load([tmp_path])
    for name in (name for name in TITLES if name != "provenance"):
        for one in import_module(f"bench.report.sections.{name}").section(data).exhibits:
            assert isinstance(one, Missing), one.name


def test_captions_are_two_sentences_at_most_besides_what_is_missing(tmp_path: Path) -> None:
    folder_of(tiny_run(), tmp_path)
    for one in import_module("bench.report.sections.provenance").section(load([tmp_path])).exhibits:
        assert not isinstance(one, Exhibit) or one.caption.count(". ") < 3
