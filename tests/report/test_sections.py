"""What holds for every section: of whole grids, of nothing, of odd names, of unfinished cells, of damaged records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import bench
from bench.report import plot, sections
from bench.report.claims import judged
from bench.report.data import Data, load
from bench.report.exhibit import Exhibit, Missing
from bench.results import load_records
from tests.helpers import TINY, few, folder_of, tiny_run
from tests.report.fabricated import exhibits
from tests.report.grids import collection

ALWAYS = {
    "synthetic": ["synthetic", "synthetic-aggregate"],
    "complexity": ["complexity", "credit-path", "inference"],
    "claims": ["claims", "claims-numbers"],
    "lengths": ["length-generalisation"],
    "scaling": ["scaling", "compression"],
    "dynamics": ["gradient-norms", "drift", "geometry"],
    "ablations": ["ablation-lambda", "ablation-future", "ablation-backbone"],
    "provenance": ["cells"],
    **{name: [name] for name in ("efficiency", "diagnosis", "samples")},
    **{name: [] for name in ("ingredients", "online", "frontier", "estimators", "summary")},
}
"""Names of exhibits, which are links that others have made: of what is there for every report."""
OF_THE_SMALL = {
    "efficiency": ["efficiency-2"],
    "complexity": ["complexity-fits"],
    "samples": [
        f"samples-{task}" for task in ["keys-values", "modular-arithmetic", "retrieval", "stack", "string-copy"]
    ],
    "provenance": ["machines", "shared-configuration", "configurations"],
}
"""And of a report on all-small."""
NAMES = sections.names()
TRACED = ("complexity", "claims")
"""Sections that need no finished run."""
EVIL = "<script>alert(1)</script>$x_1$ & _y_"


def nothing() -> Data:
    empty = pd.DataFrame()
    return Data(empty, empty, empty, empty, empty, empty, empty, [], [])


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """All small grids with everything that is measured of them, of three seeds."""
    return load([collection(tmp_path_factory.mktemp("small"), "all-small")])


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Some of all, online methods too."""
    root = tmp_path_factory.mktemp("mixed")
    return load([collection(root, "ci", 3), collection(root / "small", "all-small", 12)])


def changed(data: Data, change: Any) -> Data:
    """The same with every frame changed."""
    frames = {name: getattr(data, name) for name in FRAMES}
    return replace(data, **{name: change(frame) for name, frame in frames.items()})


FRAMES = ("results", "curves", "steps", "credit", "inference", "gradients", "drift")
RECORDS = ("geometry", "samples", "diagnoses")


def renamed(frame: pd.DataFrame) -> pd.DataFrame:
    """A task, a method, a backbone and a grid are called as a plugin might call them."""
    names = {"retrieval": EVIL, "digits": "nan", "smt+dmt": EVIL, "bptt": "_", "gru": "../" + EVIL, "ci": EVIL}
    columns = [name for name in ("task", "method", "backbone", "grid") if name in frame]
    return frame.assign(**{name: frame[name].replace(names) for name in columns})


def test_there_is_a_list_of_every_section() -> None:
    assert set(NAMES) == set(ALWAYS)


@pytest.mark.parametrize("name", NAMES)
def test_exhibits_keep_their_names_and_say_what_would_bring_them(name: str) -> None:
    found = sections.section(name, nothing()).exhibits
    assert [exhibit.name for exhibit in found] == ALWAYS[name]
    missing = [exhibit for exhibit in found if exhibit.name != "claims"]
    assert all(isinstance(exhibit, Missing) and "run_bench.py" in exhibit.reason for exhibit in missing)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("ingredients", "online", "frontier", "estimators", "summary")]
)
def test_all_small_fills_every_section(small: Data, name: str) -> None:
    found = sections.section(name, small).exhibits
    assert sorted(exhibit.name for exhibit in found) == sorted([*ALWAYS[name], *OF_THE_SMALL.get(name, [])])
    for exhibit in found:
        assert isinstance(exhibit, Exhibit), exhibit
        assert exhibit.caption.count(". ") < 4 and len(exhibit.caption) < 400
        assert exhibit.table is None or len(exhibit.table), exhibit.name


def test_every_claim_but_those_on_long_sequences_is_tested_by_all_small(small: Data) -> None:
    verdicts = {claim.key: found for claim, found in judged(small)}
    untested = {key for key, found in verdicts.items() if found.verdict == "not tested"}
    assert untested == {"2", "ours-2", "ours-5"}, "of length 128, or beyond a curriculum of lengths"
    assert not [found.because for found in verdicts.values() if "failed" in found.because]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_words_like_others(mixed: Data, name: str) -> None:
    odd = changed(mixed, renamed)
    found = sections.section(name, odd).exhibits
    assert not [exhibit for exhibit in found if isinstance(exhibit, Missing) and "could not be made" in exhibit.reason]
    for exhibit in found:
        if isinstance(exhibit, Exhibit) and exhibit.panels:
            plot.draw(exhibit.panels[:2], odd.looks, exhibit.across)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*TRACED, "summary", "provenance")])
def test_cells_that_are_not_done_are_left_out(mixed: Data, name: str) -> None:
    failed = replace(mixed, results=mixed.results.assign(state="failed"))
    assert all(isinstance(exhibit, Missing) for exhibit in sections.section(name, failed).exhibits)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*TRACED, "provenance")])
def test_cells_without_results_fill_no_section(tmp_path: Path, name: str) -> None:
    for seed, state in enumerate(("pending", "running", "failed", "done")):
        folder_of(tiny_run(seed=seed), tmp_path).set_status(state)
    for exhibit in exhibits(tmp_path, name).values():
        assert isinstance(exhibit, Missing) or not exhibit.panels, exhibit.name


@pytest.mark.parametrize("junk", few([[[1, 2, 3]], "x", None], 1))
def test_damaged_records_end_nothing(mixed: Data, junk: Any) -> None:
    """Every field of every record in turn, and numbers of traces."""
    records = {
        name: [
            (run, {**record, list(record)[place % len(record)]: junk}) if place % 2 else (run, record)
            for place, (run, record) in enumerate(getattr(mixed, name))
        ]
        for name in RECORDS
    }
    odd = {
        name: frame.assign(**{column: frame[column].astype(object).where(frame.index % 2 > 0, "?")})
        for name, column in (("gradients", "norm"), ("drift", "delta"), ("steps", "length"))
        for frame in [getattr(mixed, name)]
    }
    damaged = replace(mixed, **records, **odd)
    for name in ("dynamics", "samples", "diagnosis", "complexity", "ablations"):
        for exhibit in sections.section(name, damaged).exhibits:
            assert isinstance(exhibit, Exhibit) or "could not be made" not in exhibit.reason, exhibit
    assert not [found.because for _, found in judged(damaged) if "failed" in found.because]


@pytest.mark.slow
def test_real_runs_fill_every_section(tmp_path: Path) -> None:
    """What runs and measures write now, in one tiny grid along all that sections look for."""
    ladders = {"model.backbone": ["mlp"], "model.memory_tokens": [1]}
    grid = {
        "base": {
            "task": "retrieval",
            "model": {**TINY, "backbone": "gru"},
            "training": {"batch_size": 8, "budget": {"steps": 8}},
            "evaluation": {"sequences": 16, "reference_sequences": 8, "every": 0.5, "lengths": [24]},
        },
        "axes": {"seed": [0, 1]},
        "parts": [
            {
                "axes": {"method": ["smt+dmt"], "task.length": [8, 12]},
                "ladders": {"method.lambda_unif": [0.0], "method.future": [1], **ladders},
            },
            {"axes": {"method": ["bptt", "transformer"], "task.length": [8, 12]}, "ladders": ladders},
        ],
        "measure": ["cost", "dynamics", "samples", "diagnosis"],
    }
    bench.run(grid, results=tmp_path, launcher="inline")
    data = load([tmp_path])
    assert len(load_records([tmp_path], "samples.json")) == len(set(data.results["id"]))
    found = [exhibit for name in NAMES for exhibit in sections.section(name, data).exhibits]
    gone = {exhibit.name for exhibit in found if isinstance(exhibit, Missing)}
    assert gone == {"complexity", "credit-path", "inference"}, "what `cost` brings"
