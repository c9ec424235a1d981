"""What all claims share: which cells are compared, what an interval says, what plugins may do wrong, the section."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import bench
from bench.errors import BadInput
from bench.grid import SHIPPED
from bench.registry import load_plugin
from bench.report import data as reading
from bench.report import query
from bench.report.claims import VERDICTS, Verdict, base, judged, register_claim
from bench.report.claims.findings import Case, Part, Said, ahead, decide, within
from bench.report.claims.learning import final
from bench.report.data import Data
from bench.report.exhibit import Exhibit
from bench.report.sections import estimators
from bench.report.sections.claims import exhibits
from bench.report.sweeps import ladders, pairs
from bench.statistics import Interval
from tests.helpers import TINY
from tests.report.labs import (
    CHANCE,
    HIGH,
    LOW,
    MIDDLE,
    PAPERS,
    Lab,
    entry,
    synthetic,
    verdict,
)

# Comparing cells.


def compared(lab: Lab) -> list[str]:
    runs = query.base(final(lab.data()))
    runs = runs[~runs["reference"]]
    return [pair.where for pair in pairs(runs[runs["method"] == "smt+dmt"], runs[runs["method"] == "bptt"])]


def test_ablations_are_no_settings_of_a_comparison() -> None:
    lab = Lab().add("bptt", LOW)
    for dyn, unif in ((1.0, 0.001), (0.1, 0.001), (10.0, 0.001), (1.0, 0.0), (1.0, 0.1)):
        lab.add("smt+dmt", HIGH, method__lambda_dyn=dyn, method__lambda_unif=unif)
    assert compared(lab) == ["retrieval"]
    found = verdict("1", lab.data())
    assert entry(found, "retrieval: accuracy of smt+dmt")["n"] == 3


def test_an_axis_of_a_method_is_compared_at_each_value() -> None:
    lab = Lab().add("bptt", LOW)
    for every in (4, 16):
        lab.add("smt+dmt", HIGH, method__dmt__every=every)
    assert compared(lab) == ["retrieval, every 4", "retrieval, every 16"]


def test_what_follows_from_the_backbone_is_not_told() -> None:
    lab = Lab().add("smt+dmt", HIGH, model__backbone="transformer", training__optimiser__lr=1e-3)
    for backbone, lr in (("transformer", 2e-3), ("gru", 4e-3)):
        lab.add("bptt", LOW, model__backbone=backbone, training__optimiser__lr=lr)
    assert compared(lab) == ["retrieval, backbone transformer"]
    for backbone, lr in (("transformer", 8e-3), ("gru", 16e-3)):
        lab.add("bptt", MIDDLE, model__backbone=backbone, training__optimiser__lr=lr)
    told = [
        "retrieval, backbone transformer, lr 0.001, lr 0.002",
        "retrieval, backbone transformer, lr 0.001, lr 0.008",
    ]
    assert compared(lab) == told


def test_only_equal_settings_are_compared() -> None:
    lab = Lab().add("smt+dmt", HIGH, task__length=8).add("bptt", LOW, task__length=16)
    assert compared(lab) == []
    lab.add("bptt", LOW, task__length=8)
    assert compared(lab) == ["retrieval, length 8"]
    lab = Lab().add("smt+dmt", HIGH, training__budget__tokens=100).add("bptt", LOW, training__budget__tokens=200)
    assert compared(lab) == [], "equal settings have equal budgets"


def test_what_two_grids_share_counts_once_and_what_differs_twice() -> None:
    lab = Lab()
    for grid, bptt in (("one", LOW), ("two", LOW), ("three", MIDDLE)):
        lab.add("smt+dmt", HIGH, grid=grid).add("bptt", bptt, grid=grid)
    assert compared(lab) == ["one: retrieval", "three: retrieval"]


def test_a_ladder_varies_in_one_field_and_in_what_follows_from_it() -> None:
    lab = Lab()
    for size, context in ((1, 64), (2, 64), (4, 64), (4, 8)):
        lab.add("smt+dmt", HIGH, model__memory_tokens=size, method__context=context, training__batch_size=8 * size)
    (found,) = ladders(lab.data(), final(lab.data()), "model.memory_tokens", 3)
    assert found.rungs == (1, 2, 4) and found.where == "retrieval, context 64, smt+dmt"
    assert found.at(2)["accuracy"].tolist() == HIGH
    assert ladders(lab.data(), final(lab.data()), "method.context", 3) == []


# Verdicts.


@pytest.mark.parametrize(
    ("rule", "effect", "said"),
    [
        (ahead(0.02), (0.1, 0.05, 0.2), "for"),
        (ahead(0.02), (0.01, 0.005, 0.03), "unclear"),
        (ahead(0.02), (-0.1, -0.2, -0.05), "against"),
        (ahead(0.02), (0.01, -0.01, 0.02), "level"),
        (ahead(0.02), (0.1, -0.05, 0.2), "unclear"),
        (within(0, 1), (0.5, 0, 1), "for"),
        (within(0, 1), (1, 0.5, 1.5), "unclear"),
        (within(0, 1), (2, 1.5, 3), "against"),
        (within(high=1), (-9, -10, 0), "for"),
        (within(0, 1).opposite(), (0.5, 0, 1), "against"),
        (within(0, 1).opposite(), (2, 1.5, 3), "for"),
        (within(0, 1), (0.5, math.nan, math.nan), "unclear"),
    ],
)
def test_what_an_interval_says(rule: Any, effect: tuple[float, float, float], said: str) -> None:
    assert rule.says(Interval(*effect, 3)) == said


def part(*said: Said) -> Part:
    cases = [Case(f"setting {i}", Interval(0.1, 0.05, 0.2, 3), said=word) for i, word in enumerate(said)]
    return Part("it is so", "effect", ahead(0.02), cases)


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([part("for")], "supported"),
        ([part("against")], "contradicted"),
        ([part("unclear")], "inconclusive"),
        ([part()], "not tested"),
        ([part("for", "for", "unclear")], "supported"),
        ([part("for", "unclear")], "inconclusive"),
        ([part("for", "for", "against")], "mixed"),
        ([part("for"), part("against")], "mixed"),
        ([part("for"), part("for", "against")], "mixed"),
        ([part("for"), part("unclear")], "inconclusive"),
        ([part("against"), part("unclear")], "contradicted"),
        ([part("for"), part()], "inconclusive"),
        ([part("against"), part()], "contradicted"),
    ],
)
def test_a_claim_falls_with_one_part_and_stands_with_all(parts: list[Part], word: str) -> None:
    found = decide(parts, "why")
    assert found.verdict == word
    assert (found.why == "why") == (word in ("contradicted", "mixed"))
    if any(not statement.cases for statement in parts):
        assert "No finished runs: it is so" in found.because


def test_what_leaves_a_case_undecided_is_told_and_the_first_reason_counts() -> None:
    effect = Interval(0.1, 0.05, 0.2, 3)
    unless = {"": [(False, "never")], "for": [(True, "not yet"), (True, "later")], "against": [(True, "no")]}
    (found,) = Part("", "", ahead(0.02), [Case("here", effect, (), unless)]).findings
    assert (found.outcome, found.note) == ("unclear", "not yet")
    (found,) = Part("", "", ahead(0.02), [Case("here", Interval(0.01, -0.01, 0.02, 3), (), unless)]).findings
    assert (found.outcome, found.note) == ("against", "level")


def test_the_sentence_names_where_it_is_otherwise() -> None:
    because = decide([part("for", "for", "against", "unclear")], "why").because
    assert "it is so at 2 of 4 settings" in because and "setting 2 with 0.100 [0.050, 0.200]" in because


def test_a_lead_does_not_count_while_the_other_may_catch_up() -> None:
    lab = Lab().add("smt+dmt", MIDDLE, chance=0.0).add("bptt", [0.45, 0.44, 0.46], rising=True, chance=0.0)
    assert "bptt was still learning" in verdict("1", lab.data()).because
    lab = Lab().add("smt+dmt", MIDDLE).add("bptt", [0.45, 0.44, 0.46])
    assert "still learning" not in verdict("1", lab.data()).because
    lab = Lab().add("smt+dmt", HIGH, chance=0.0).add("bptt", LOW, rising=True, chance=0.0)
    assert "still learning" not in verdict("1", lab.data()).because, "0.03 a tenth do not close a gap of 0.61"


def test_who_falls_behind_while_still_learning_is_not_contradicted() -> None:
    lab = Lab().add("smt+dmt", [0.8, 0.81, 0.79], before_dmt=0.0, rising=True).add("bptt", HIGH)
    found = verdict("1", lab.data())
    assert found.verdict == "inconclusive" and "smt+dmt was still learning" in found.because


@pytest.mark.parametrize(
    ("smt", "bptt", "word", "note"),
    [
        ([1.0, 1.0, 1.0], [0.99, 0.99, 1.0], "inconclusive", "both solve it"),
        (CHANCE, CHANCE, "inconclusive", "neither is above chance"),
        (MIDDLE, MIDDLE, "contradicted", "level"),
        ([0.9, 0.3, 0.5], MIDDLE, "inconclusive", "too wide"),
    ],
)
def test_what_is_no_lead(smt: Sequence[float], bptt: Sequence[float], word: str, note: str) -> None:
    found = verdict("1", Lab().add("smt+dmt", smt).add("bptt", bptt).data())
    assert found.verdict == word and note in found.because


def test_settings_that_disagree_are_mixed() -> None:
    lab = synthetic(HIGH, LOW).add("smt+dmt", LOW, task__length=99).add("bptt", HIGH, task__length=99)
    found = verdict("1", lab.data())
    assert found.verdict == "mixed" and "retrieval, length 99 with -0.610" in found.because and found.why


def test_some_of_the_five_tasks_do_not_support_a_claim_of_all() -> None:
    lab = Lab().add("smt+dmt", HIGH, "stack").add("bptt", LOW, "stack")
    found = verdict("1", lab.data())
    assert found.verdict == "inconclusive"
    assert "retrieval, string-copy, keys-values, modular-arithmetic" in found.because


def test_what_a_new_phase_changes_at_once_is_no_learning_pace() -> None:
    data = Lab().add("smt+dmt", [0.8]).data()
    curves = data.curves.iloc[[0, 0, 0, 0]].assign(
        phase=["smt", "smt", "dmt", "dmt"], tokens=[0, 940, 960, 1000], accuracy=[0.1, 0.3, 0.78, 0.8]
    )
    assert final(replace(data, curves=curves))["rise"].tolist() == pytest.approx([0.02])
    alone = replace(data, curves=curves.iloc[:3])
    assert final(alone)["rise"].isna().all(), "one evaluation of a phase has no pace"


def test_the_pace_is_that_of_the_last_tenth() -> None:
    data = Lab().add("bptt", [0.5, 0.6], rising=True, falls=1.0).data()
    assert final(data)["rise"].tolist() == pytest.approx([0.05, 0.06])
    assert final(data)["fall"].tolist() == pytest.approx([0.0, 0.0])
    between = data.curves[data.curves["tokens"].isin([0, 800, 1000])]
    found = final(replace(data, curves=between))
    assert found["rise"].tolist() == pytest.approx([0.05, 0.06]), "between evaluations, on a straight line"


# Plugins.


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Claims that a test registers are gone after it."""
    monkeypatch.setattr(base, "_claims", dict(base._claims))
    return


PLUGIN = """
from bench.report.claims import Verdict, register_claim

@register_claim("a-plugin", "<script>alert(1)</script> & $x_1$", figure="synthetic", grids=["mine.yaml"])
def judge(data):
    return Verdict("supported", f"{len(data.results)} rows [red]*said*[/red] so.")
"""


@pytest.mark.usefixtures("claims")
def test_a_plugin_file_brings_its_own_claim_and_its_text_stays_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    load_plugin(file)
    pairs = judged(Lab().add("bptt", LOW).data())
    assert [claim.key for claim, _ in pairs] == [*PAPERS, "a-plugin"]
    made, _ = exhibits(Lab().add("bptt", LOW).data())
    assert isinstance(made, Exhibit) and made.table is not None
    row = made.table.iloc[-1]
    assert row["text"] == "<script>alert(1)</script> & $x_1$" and row["because"] == "3 rows [red]*said*[/red] so."


@pytest.mark.usefixtures("claims")
def test_a_key_belongs_to_one_claim() -> None:
    def mine(data: Data) -> Verdict:
        raise NotImplementedError

    register_claim("mine", "One.", "synthetic", [])(mine)
    register_claim("mine", "One, imported again.", "synthetic", [])(mine)
    with pytest.raises(
        BadInput, match=r"^claim '1' is registered twice: at .*accuracy\.py:\d+ and at .*test_claims_rules\.py:\d+$"
    ):
        register_claim("1", "Another.", "synthetic", [])(mine)


@pytest.mark.usefixtures("claims")
@pytest.mark.parametrize(("returned", "told"), [(None, "None, no verdict"), ("supported", "'supported', no verdict")])
def test_what_is_no_verdict_is_inconclusive(returned: Any, told: str) -> None:
    register_claim("odd", "Odd.", "synthetic", [])(lambda data: returned)
    (found,) = [judgement for claim, judgement in judged(Lab().data()) if claim.key == "odd"]
    assert found.verdict == "inconclusive" and told in found.because


@pytest.mark.usefixtures("claims")
def test_a_judge_that_raises_stops_nothing() -> None:
    def broken(data: Data) -> Verdict:
        raise KeyError("no\nsuch <column>")

    register_claim("broken", "Broken.", "synthetic", [])(broken)
    found = {claim.key: judgement for claim, judgement in judged(Lab().data())}
    assert len(found) == 15 and found["broken"].verdict == "inconclusive"
    assert "KeyError: 'no\\nsuch <column>'" in found["broken"].because
    assert found["broken"].numbers.empty


def test_a_verdict_is_one_of_five_words() -> None:
    with pytest.raises(BadInput, match="'true' given; should be one of supported, contradicted"):
        Verdict("true", "")  # type: ignore[arg-type]


# The section.


def test_the_section_has_every_verdict_and_every_number() -> None:
    lab = synthetic(HIGH, LOW)
    verdicts, numbers = exhibits(lab.data())
    assert isinstance(verdicts, Exhibit) and isinstance(numbers, Exhibit)
    table = verdicts.table
    assert table is not None and numbers.table is not None
    assert list(table) == ["claim", "text", "verdict", "because", "regime", "why", "figure", "grids"]
    assert table["claim"].tolist() == PAPERS and set(table["verdict"]) <= set(VERDICTS)
    assert list(numbers.table) == ["claim", "what", "value", "low", "high", "n"]
    pd.testing.assert_frame_equal(
        numbers.table[numbers.table["claim"] == "1"].drop(columns="claim"), verdict("1", lab.data()).numbers
    )
    counts = table["verdict"].value_counts()
    assert f"14 claims: {counts['supported']} supported" in verdicts.caption


def test_claims_name_shipped_grids_and_exhibits() -> None:
    shipped = {Path(str(file)).stem for file in SHIPPED.iterdir()}
    exhibits = (
        "complexity inference synthetic length-generalisation efficiency scaling compression gradient-norms drift"
    )
    exhibits += " geometry ablation-lambda ablation-future ablation-backbone"
    exhibits += " frontier-anbn frontier-copy-curriculum frontier-shakespeare"
    alone = estimators.EXHIBITS  # experiments need no grid
    for claim in base.registered():
        assert set(claim.grids) <= shipped and (claim.grids or claim.figure in alone or claim.key == "online-7"), (
            claim.key
        )
        assert claim.figure in (*exhibits.split(), *alone), claim.key


@pytest.mark.slow
def test_real_runs_are_judged(tmp_path: Path) -> None:
    grid = {
        "base": {
            "model": TINY,
            "training": {"batch_size": 8, "budget": {"steps": 4}},
            "evaluation": {"sequences": 16, "reference_sequences": 8, "every": 0.5, "lengths": [16]},
        },
        "axes": {"method": ["smt+dmt", "bptt", "transformer"], "seed": [0, 1, 2], "task.length": [8, 12]},
        "parts": [{"axes": {"task": ["retrieval"]}}],
    }
    bench.run(grid, results=tmp_path, launcher="inline")
    data = reading.load([tmp_path])
    found = {claim.key: judgement for claim, judgement in judged(data)}
    untested = {key for key, judgement in found.items() if judgement.verdict == "not tested"}
    assert untested == set(PAPERS) - {"1", "6", "7"}
    assert not any("failed" in judgement.because for judgement in found.values())
    scores = data.results[(data.results["length"] == data.results["task.length"]) & ~data.results["reference"]]
    scores = scores[scores["task.length"] == 12].set_index(["method", "seed"])["accuracy"]
    wanted = (scores["smt+dmt"] - scores["bptt"]).mean()
    told = entry(found["1"], "retrieval, length 12: accuracy, smt+dmt minus bptt")
    assert told["value"] == pytest.approx(wanted) and told["n"] == 3
