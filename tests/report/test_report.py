"""The first report: its numbers to the digit, every cell's state, and folders that are not whole."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import report
from bench.compare import judge, show, sides
from bench.errors import BadInput
from bench.report.data import load as read
from bench.report.data import read_results as load
from bench.report.text import markdown
from bench.results import DamagedFile, Folder, load_curves, load_results, write_json
from bench.tolerances import Tolerances
from tests.helpers import TINY, few, folder_of, tiny_run
from tests.report.fabricated import curves, expect, fake, only, printed, score, seeds, undo

ROOT = Path(__file__).parents[2]


def cells(line: str) -> list[str]:
    """The cells of a printed line, which are two spaces or more apart."""
    return re.split(r" {2,}", line.strip())


# The numbers.


def test_the_table_holds_means_and_what_they_are_judged_against(tmp_path: Path) -> None:
    for seed, (accuracy, loss) in enumerate([(0.5, 1.0), (0.6, 1.1), (0.7, 1.5)]):
        fake(tmp_path / "g", tiny_run(seed=seed), [score(accuracy, loss)], tokens=1000 + seed)
    row = only(report.summary(tmp_path))
    expect(row, grid="g", task="retrieval", method="bptt", setting="", seeds=3, status="3 done", reason="")
    # All 27 resamples of three seeds: 1/27 have mean 0.5, 3/27 have 0.5333; so the 2.5 % point is the lowest mean.
    expect(row, accuracy=(0.6, 0.5, 0.7), accuracy_se=0.1 / math.sqrt(3), share_of_ceiling=0.75)
    expect(row, chance=0.125, shortcut=0.2, shortcut_rule="the commonest label", accuracy_ceiling=0.8)
    expect(row, loss=1.2, loss_above_floor=1.1, unigram_loss=2.0)
    expect(row, tokens=1001, training_seconds=2.5, predictor_parameters=6543)


def test_a_name_that_is_not_in_the_letters_of_the_locale_is_told_in_letters(tmp_path: Path) -> None:
    grid = tmp_path / os.fsdecode(b"gr\xff")  # as any letter is that an ASCII locale has not
    fake(grid, tiny_run(), [score(0.5, 1.0)])
    report.write(grid, tmp_path / "out")
    assert set(load_results(grid)["grid"]) == {"gr\ufffd"}
    assert "gr\ufffd" in (tmp_path / "out" / "index.html").read_text("utf-8")
    side = sides.read(grid)
    assert "gr\ufffd" in show.markdown(judge.compare(side, side, Tolerances()))


def test_spread_needs_seeds(tmp_path: Path) -> None:
    seeds(tmp_path / "one", [0.5])
    seeds(tmp_path / "two", [0.5, 0.7])
    frame = report.summary(tmp_path)
    expect(only(frame, grid="one"), accuracy=(0.5, math.nan, math.nan), accuracy_se=math.nan)
    expect(only(frame, grid="two"), accuracy=(0.6, math.nan, math.nan), accuracy_se=0.1)


def test_losses_of_natural_tasks_are_in_bits_beside_the_unigram_model(tmp_path: Path) -> None:
    natural = {"loss_floor": None, "accuracy_ceiling": None, "unit": "bits", "unigram_loss": 3 * math.log(2)}
    fake(tmp_path, tiny_run(), [score(0.4, 2 * math.log(2), start_accuracy=0.2, start_loss=4 * math.log(2), **natural)])
    frame = report.summary(tmp_path)
    gaps = {"loss_above_floor": math.nan, "share_of_ceiling": math.nan}
    expect(only(frame), loss=2.0, start_loss=4.0, unigram_loss=3.0, unit="bits", **gaps)
    text = printed(frame, 200)
    assert "loss in bits" in text and "loss +" not in text
    heads, row = (cells(line) for line in text.splitlines()[1:3])
    told = {"share": "-", "loss": "2.000", "loss from start": "4.000", "unigram": "3.000"}
    assert dict(zip(heads, row)).items() >= told.items()


def test_scores_on_streams_stand_beside_those_from_the_start_state(tmp_path: Path) -> None:
    for seed, (accuracy, start) in enumerate([(0.7, 0.3), (0.6, 0.5)]):
        streamed = score(accuracy, 0.9, start_accuracy=start, start_loss=1.3)
        fake(tmp_path / "g", tiny_run("tbptt", seed=seed), [streamed])
    fake(tmp_path / "g", tiny_run("bptt"), [score(0.55, 1.0)])
    frame = report.summary(tmp_path)
    told = {"accuracy": 0.65, "start_accuracy": 0.4, "loss": 0.9, "start_loss": 1.3, "loss_above_floor": 0.8}
    expect(only(frame, method="tbptt"), **told)
    expect(only(frame, method="bptt"), start_accuracy=math.nan, start_loss=math.nan)
    heads, whole, streams = (cells(line) for line in printed(frame, 200).splitlines()[1:4])
    found = {name: (streams[at], whole[at]) for at, name in enumerate(heads) if "start" in name}
    assert found == {"from start": ("0.400", "-"), "loss + from start": ("1.200", "-")}
    report.write(tmp_path / "g", tmp_path / "out")
    for name in ("index.html", "summary.md", "summary.tex"):
        text = (tmp_path / "out" / name).read_text()
        assert "0.400" in text and "tbptt: scores are on held-out streams" in text, name


def test_scores_from_the_start_state_alone_have_no_column_for_streams(tmp_path: Path) -> None:
    seeds(tmp_path / "g", [0.5])
    frame = report.summary(tmp_path)
    assert "start" not in printed(frame, 200) and "start" not in markdown(frame, load(tmp_path), {})


def test_steps_are_told_exactly_and_with_those_of_phases_taken_over(tmp_path: Path) -> None:
    fake(tmp_path, tiny_run("bptt"), [score(0.5, 1.0)], tokens=25040)
    for seed, tokens in enumerate((3130, 3130, 3140)):
        inherited = {"steps": 1000, "tokens": 0, "training_seconds": 0.0}
        fake(tmp_path, tiny_run("transformer", seed=seed), [score(0.5, 1.0)], tokens, inherited=inherited)
    fake(tmp_path, tiny_run("smt"), [score(0.6, 1.0), score(0.8, 0.5, "teacher")], tokens=500)
    frame = report.summary(tmp_path)
    expect(only(frame, method="bptt"), steps=2504)
    expect(only(frame, method="transformer"), steps=1313 + 1 / 3)
    heads, *rows = (cells(line) for line in printed(frame, 200).splitlines()[1:6])
    told = {row[0]: row[heads.index("steps")] for row in rows if "teacher" not in row[0]}
    assert told == {"bptt": "2,504", "transformer": "1,313.3", "smt": "50"}
    text = markdown(frame, load(tmp_path), {})
    assert "| steps | tokens |" in text and "| 2,504 | 25k |" in text


def test_a_reference_line_has_its_own_row_and_no_parameters(tmp_path: Path) -> None:
    fake(tmp_path, tiny_run("smt"), [score(0.6, 1.0), score(0.8, 0.5, "teacher")])
    frame = report.summary(tmp_path)
    expect(only(frame, predictor="rnn"), reference=False, accuracy=0.6)
    expect(only(frame, predictor="teacher"), reference=True, accuracy=0.8, predictor_parameters=math.nan)
    lines = printed(frame).splitlines()
    assert any(line.startswith("smt teacher * ") and "0.800" in line for line in lines)
    assert "*: a reference line" in " ".join(lines)


def test_further_test_lengths_have_rows(tmp_path: Path) -> None:
    fake(tmp_path, tiny_run(), [score(0.7, 1.0), score(0.4, 1.5, length=24)])
    frame = report.summary(tmp_path)
    assert frame[["length", "accuracy"]].to_numpy().tolist() == [[12, 0.7], [24, 0.4]]
    assert "tested at" in printed(frame)


def test_settings_that_differ_are_told_and_seeds_are_not(tmp_path: Path) -> None:
    for length in (16, 8):
        seeds(tmp_path, [0.5, 0.6], task={"name": "retrieval", "length": length})
    frame = report.summary(tmp_path)
    assert frame["setting"].tolist() == ["length 8", "length 16"], "by size, not by spelling"
    assert frame["task.length"].tolist() == [8, 16] and frame["seeds"].tolist() == [2, 2]


def test_a_budget_that_follows_from_the_task_is_no_setting_of_its_own(tmp_path: Path) -> None:
    for length in (8, 16):
        training = {"budget": {"tokens": 100 * length}}
        seeds(tmp_path / "paired", [0.5], task={"name": "retrieval", "length": length}, training=training)
        seeds(tmp_path / "alone", [0.5], training=training)
    frame = report.summary(tmp_path)
    assert frame[frame["grid"] == "paired"]["setting"].tolist() == ["length 8", "length 16"]
    assert frame[frame["grid"] == "alone"]["setting"].tolist() == ["tokens 800", "tokens 1600"]


def test_a_curriculum_is_told_by_what_opens_it_and_gaps_and_evaluations_are_not_told(tmp_path: Path) -> None:
    for below, chrono, every in ((None, None, 0.5), (0.2, None, 0.5), (None, 12, 0.25)):
        growth = None if below is None else {"below": below, "lengths": [8]}
        training = {"budget": {"steps": 12}, "curriculum": growth}
        model = {**TINY, "backbone": "gru", "chrono": chrono}
        seeds(tmp_path, [0.5], training=training, model=model, evaluation={"every": every})
    frame = report.summary(tmp_path)
    assert sorted(frame["setting"]) == ["", "chrono 12", "curriculum below 0.2"]


def test_cells_that_start_from_another_seeds_source_are_one_group_and_pay_for_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        source = tiny_run("smt", seed=seed)
        fake(tmp_path, source, [score(0.5, 1.0)])
        run = tiny_run("smt+dmt", seed=seed, init_from={"run": source.id, "phase": "smt"})
        fake(tmp_path, run, [score(0.5, 1.0)], 400, inherited={"tokens": 1000, "training_seconds": 7.0})
    row = only(report.summary(tmp_path), method="smt+dmt")
    expect(row, setting="", tokens=1400, training_seconds=9.5, seeds=2)
    (panel,) = curves(tmp_path)["retrieval"]
    assert max(line.x[-1] for line in panel.lines) == 1400, "its curve begins where the source's ended"


# States.


def test_no_cell_is_dropped(tmp_path: Path) -> None:
    done, second, third = seeds(tmp_path, [0.5, 0.6, 0.7])
    undo(second, "diverged", reason="loss is not finite near step 50", tokens=500)
    undo(third, "failed", reason="ValueError: no")
    folder_of(tiny_run("smt"), tmp_path)
    folder_of(tiny_run("transformer"), tmp_path).set_status("skipped", reason="learns from dense targets only")
    folder_of(tiny_run("smt+dmt"), tmp_path).set_status("running", progress=0.25)
    frame = report.summary(tmp_path)
    told = {row["method"]: (row["status"], row["reason"], row["seeds"]) for row in frame.to_dict("records")}
    reasons = "diverged: loss is not finite near step 50 (seed 1); failed: ValueError: no (seed 2)"
    assert told == {
        "smt+dmt": ("running", "running: 25% of its budget used", 0),
        "smt": ("pending", "", 0),
        "bptt": ("1 done, 1 diverged, 1 failed", reasons, 1),
        "transformer": ("skipped", "skipped: learns from dense targets only", 0),
    }
    assert only(frame, method="bptt")["accuracy"] == 0.5, "only what is done is scored"
    text = " ".join(printed(frame, 200).split())
    assert all(status in text and reason in text for status, reason, _ in told.values())
    report.write(tmp_path, tmp_path / "out")
    markdown = (tmp_path / "out" / "summary.md").read_text()
    assert all(reason in markdown for _, reason, _ in told.values())
    assert "6 cells: " in markdown and "1 skipped" in markdown
    assert done.path.is_dir()


@pytest.mark.parametrize(
    "junk", few(["{", '{"scores": 3}', '[{"scores": [{}]}, 4]', "", "[]", "null", "7", '"x"', "\xff"])
)
@pytest.mark.parametrize("name", ["run.json", "status.json", "curve.json", "result.json"])
def test_damaged_files_are_told_not_raised(tmp_path: Path, name: str, junk: str) -> None:
    broken, _ = seeds(tmp_path / "g", [0.5, 0.7])
    (broken / name).write_bytes(junk.encode("latin-1"))
    if (name, junk) != ("curve.json", "[]"):
        with pytest.warns(DamagedFile, match=rf"{name}: damaged: "):
            load(tmp_path / "g"), load_curves(tmp_path / "g")
    frame = report.summary(tmp_path / "g")
    if name in ("curve.json", "status.json"):  # a result stands, whatever became of what is beside it
        assert only(frame)["accuracy"] == pytest.approx(0.6)
    else:
        row = only(frame, seeds=1)
        assert row["accuracy"] == 0.7
        assert "damaged" in " ".join(frame["status"]) and f"{name} " in " ".join(frame["reason"])
    assert printed(frame)
    results = load(tmp_path / "g")
    assert markdown(frame, results, {})
    assert len(curves(tmp_path / "g")["retrieval"]) == 1
    assert len(load_curves(tmp_path / "g")) >= 3


def test_numbers_that_are_none_are_gaps(tmp_path: Path) -> None:
    fake(tmp_path, tiny_run(), [score(math.nan, math.inf)])  # written as null
    expect(only(report.summary(tmp_path)), accuracy=math.nan, loss=math.nan, status="done")
    report.write(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("call", [report.summary, lambda path: report.write(path, path / "out")])
def test_an_empty_folder_is_one_line(tmp_path: Path, call: Any) -> None:
    with pytest.raises(BadInput, match=r"^no runs in .*run\.json.*$"):
        call(tmp_path)
    with pytest.raises(BadInput, match="no results folder"):
        call(tmp_path / "nowhere")


def test_grids_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    for place, accuracy in (("mine", 0.5), ("theirs", 0.7)):
        seeds(tmp_path / place / "quick", [accuracy])
    frame = report.summary(tmp_path)
    assert dict(zip(frame["grid"], frame["accuracy"])) == {"mine/quick": 0.5, "theirs/quick": 0.7}
    assert set(load_curves(tmp_path)["grid"]) == {"mine/quick", "theirs/quick"}


def test_a_cell_counts_once_however_often_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = tmp_path / "results" / "tiny"
    first, *_ = seeds(grid, [0.5, 0.6, 0.7])
    expected, curves = report.summary(grid), load_curves(grid)
    assert expected["seeds"].tolist() == [3]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(grid)
    shutil.copytree(grid, tmp_path / "copied" / "tiny")
    again = shutil.copytree(first.path, grid / "a copy")
    timed = json.loads((again / "result.json").read_text())
    write_json(again / "result.json", {**timed, "costs": {**timed["costs"], "training_seconds": 9.0}, "provenance": {}})
    undone = Folder(shutil.copytree(first.path, grid / "retrieval"))  # before its name: sorted first
    undo(undone, "stopped")
    for paths in ([grid, grid], ["results", "results/tiny"], [grid, "link"], ["copied", "results"], [tmp_path]):
        pd.testing.assert_frame_equal(report.summary(paths), expected)
        assert len(load_curves(paths)) == len(curves)
        data = read(paths)
        assert len(data.results) == 3 and set(data.results["id"]) == {tiny_run(seed=seed).id for seed in range(3)}


def test_a_cell_with_two_results_is_refused_with_both_places(tmp_path: Path) -> None:
    (cell,) = seeds(tmp_path / "tiny", [0.5])
    copy = Folder(shutil.copytree(cell.path, tmp_path / "tiny" / "copy"))
    result = json.loads((copy / "result.json").read_text())
    result["scores"][0]["loss"] = math.nextafter(result["scores"][0]["loss"], 2)
    write_json(copy / "result.json", result)
    with pytest.raises(BadInput) as told:
        report.write(tmp_path, tmp_path / "out")
    assert str(cell.path) in str(told.value) and str(copy.path) in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()
    undo(copy, "diverged", reason="no")
    with pytest.raises(BadInput, match="different scores"):
        load_results(tmp_path)


def test_two_versions_of_a_grid_are_told_apart_and_a_part_of_one_is_a_copy(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "tiny", tmp_path / "new" / "tiny"
    seeds(old, [0.167])
    seeds(new, [0.9])
    for grid in (old, new):
        write_json(grid / "cost.json", {"steps": [{"task": "retrieval", "at": str(grid)}]})
    frame = report.summary([old, new])
    assert dict(zip(frame["grid"], frame["accuracy"])) == {"old/tiny": 0.167, "new/tiny": 0.9}
    assert set(read([old, new]).steps["grid"]) == {"old/tiny", "new/tiny"}
    whole = tmp_path / "whole" / "tiny"
    _, second = seeds(whole, [0.9, 0.8])  # what `new` holds, and one seed more
    early = Path(shutil.copytree(whole, tmp_path / "early" / "tiny"))
    undo(Folder(early / second.path.name), "running")
    for paths in ([new, whole], [whole, early], [early, whole]):
        assert report.summary(paths)[["grid", "seeds"]].to_numpy().tolist() == [["tiny", 2]]


def test_a_mean_over_two_codes_is_told_beside_its_row(tmp_path: Path) -> None:
    made = {0: "a" * 16, 1: "a" * 16, 2: "b" * 16}
    for seed, digest in made.items():
        fake(tmp_path / "g", tiny_run(seed=seed), [score(0.5, 1.1)], digest=digest)
        fake(tmp_path / "g", tiny_run("smt", seed=seed), [score(0.5, 1.1)], digest="c" * 16)
    frame = report.summary(tmp_path)
    reason = "seeds were computed by different code: 0, 1 by aaaaaaaa; 2 by bbbbbbbb"
    expect(only(frame, method="bptt"), status="3 done, not by one code", reason=reason)
    expect(only(frame, method="smt"), reason="")  # each method has a code of its own
    for text in (printed(frame), markdown(frame, load(tmp_path), {})):
        assert "bptt: seeds were computed by different code" in " ".join(text.split())
