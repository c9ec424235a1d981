"""The first report: its numbers to the digit, every cell's state, its figures, and folders that are not whole."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context, rcParams
from rich.console import Console

from bench import report
from bench.build import build_method, build_task
from bench.compare import judge, show, sides
from bench.errors import BadInput
from bench.report import style
from bench.report.data import load as read
from bench.report.data import read_results as load
from bench.report.sections.summary import exhibits
from bench.report.text import markdown
from bench.report.words import escape
from bench.results import UNTOLD, DamagedFile, Folder, load_curves, load_results, write_json
from bench.tolerances import Tolerances
from bench.training import Trainer
from tests.helpers import few, folder_of, tiny_run
from tests.report.fabricated import fake, levels, lines, means, only, rename, score, seeds, undo, words

ROOT = Path(__file__).parents[2]


def curves(root: Path) -> dict[str, Any]:
    """Task -> the panels of its learning curves."""
    return {exhibit.tasks[0]: exhibit.panels for exhibit in exhibits(read([root]))}


def printed(frame: pd.DataFrame, width: int = 110) -> str:
    console = Console(width=width, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    report.print_summary(frame, console)
    return console.export_text()


def cells(line: str) -> list[str]:
    """The cells of a printed line, which are two spaces or more apart."""
    return re.split(r" {2,}", line.strip())


# The numbers.


def test_the_table_holds_means_and_what_they_are_judged_against(tmp_path: Path) -> None:
    for seed, (accuracy, loss) in enumerate([(0.5, 1.0), (0.6, 1.1), (0.7, 1.5)]):
        fake(tmp_path / "g", tiny_run(seed=seed), [score(accuracy, loss)], tokens=1000 + seed)
    row = only(report.summary(tmp_path))
    assert row["grid"] == "g" and row["task"] == "retrieval" and row["method"] == "bptt" and row["setting"] == ""
    assert row["seeds"] == 3 and row["status"] == "3 done" and row["reason"] == ""
    expected = {
        **{"accuracy": 0.6, "accuracy_se": 0.1 / math.sqrt(3), "share_of_ceiling": 0.75},
        **{"chance": 0.125, "shortcut": 0.2, "accuracy_ceiling": 0.8},
        **{"loss": 1.2, "loss_above_floor": 1.1, "unigram_loss": 2.0},
        **{"tokens": 1001, "training_seconds": 2.5, "predictor_parameters": 6543},
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert row["shortcut_rule"] == "the commonest label"
    # All 27 resamples of three seeds: 1/27 have mean 0.5, 3/27 have 0.5333; so the 2.5 % point is the lowest mean.
    assert row["accuracy_low"] == pytest.approx(0.5) and row["accuracy_high"] == pytest.approx(0.7)


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
    one, two = only(frame, grid="one"), only(frame, grid="two")
    assert math.isnan(one["accuracy_se"]) and math.isnan(one["accuracy_low"])
    assert two["accuracy_se"] == pytest.approx(0.1) and math.isnan(two["accuracy_low"])


def test_losses_of_natural_tasks_are_in_bits_beside_the_unigram_model(tmp_path: Path) -> None:
    natural = {"loss_floor": None, "accuracy_ceiling": None, "unit": "bits", "unigram_loss": 3 * math.log(2)}
    fake(tmp_path, tiny_run(), [score(0.4, 2 * math.log(2), **natural)])
    frame = report.summary(tmp_path)
    row = only(frame)
    assert (row["loss"], row["unigram_loss"], row["unit"]) == pytest.approx((2.0, 3.0, "bits"))
    assert math.isnan(row["loss_above_floor"]) and math.isnan(row["share_of_ceiling"])
    text = printed(frame)
    assert "loss in bits" in text and "unigram" in text and "loss +" not in text
    assert text.splitlines()[2].split()[5:8] == ["-", "2.000", "3.000"]


def test_scores_on_streams_stand_beside_those_from_the_start_state(tmp_path: Path) -> None:
    for seed, (accuracy, start) in enumerate([(0.7, 0.3), (0.6, 0.5)]):
        streamed = score(accuracy, 0.9, start_accuracy=start, start_loss=1.3)
        fake(tmp_path / "g", tiny_run("tbptt", seed=seed), [streamed])
    fake(tmp_path / "g", tiny_run("bptt"), [score(0.55, 1.0)])
    frame = report.summary(tmp_path)
    row, other = only(frame, method="tbptt"), only(frame, method="bptt")
    assert (row["accuracy"], row["start_accuracy"]) == pytest.approx((0.65, 0.4))
    assert (row["loss"], row["start_loss"], row["loss_above_floor"]) == pytest.approx((0.9, 1.3, 0.8))
    assert math.isnan(other["start_accuracy"]) and math.isnan(other["start_loss"])
    heads, whole, streams = (cells(line) for line in printed(frame, 200).splitlines()[1:4])
    told = {name: (streams[at], whole[at]) for at, name in enumerate(heads) if "start" in name}
    assert told == {"from start": ("0.400", "-"), "loss + from start": ("1.200", "-")}
    report.write(tmp_path / "g", tmp_path / "out")
    for name in ("index.html", "summary.md", "summary.tex"):
        text = (tmp_path / "out" / name).read_text()
        assert "0.400" in text and "tbptt: scores are on held-out streams" in text, name


def test_scores_from_the_start_state_alone_have_no_column_for_streams(tmp_path: Path) -> None:
    seeds(tmp_path / "g", [0.5])
    frame = report.summary(tmp_path)
    assert "start" not in printed(frame, 200) and "start" not in markdown(frame, load(tmp_path), {})


def test_losses_from_the_start_state_are_in_the_tasks_unit(tmp_path: Path) -> None:
    natural = {"loss_floor": None, "accuracy_ceiling": None, "unit": "bits", "unigram_loss": 3 * math.log(2)}
    streamed = score(0.4, math.log(2), start_accuracy=0.2, start_loss=2 * math.log(2), **natural)
    fake(tmp_path, tiny_run("tbptt"), [streamed])
    frame = report.summary(tmp_path)
    assert only(frame)["start_loss"] == pytest.approx(2.0)
    heads, row = (cells(line) for line in printed(frame, 200).splitlines()[1:3])
    assert dict(zip(heads, row))["loss from start"] == "2.000"


def test_steps_are_told_exactly_and_with_those_of_phases_taken_over(tmp_path: Path) -> None:
    fake(tmp_path, tiny_run("bptt"), [score(0.5, 1.0)], tokens=25040)
    for seed, tokens in enumerate((3130, 3130, 3140)):
        inherited = {"steps": 1000, "tokens": 0, "training_seconds": 0.0}
        fake(tmp_path, tiny_run("transformer", seed=seed), [score(0.5, 1.0)], tokens, inherited=inherited)
    fake(tmp_path, tiny_run("smt"), [score(0.6, 1.0), score(0.8, 0.5, "teacher")], tokens=500)
    frame = report.summary(tmp_path)
    assert only(frame, method="bptt")["steps"] == 2504
    assert only(frame, method="transformer")["steps"] == pytest.approx(1313 + 1 / 3)
    heads, *rows = (cells(line) for line in printed(frame, 200).splitlines()[1:6])
    at = heads.index("steps")
    assert {row[0]: row[at] for row in rows if "teacher" not in row[0]} == {
        **{"bptt": "2,504", "transformer": "1,313.3", "smt": "50"}
    }
    text = markdown(frame, load(tmp_path), {})
    assert "| steps | tokens |" in text and "| 2,504 | 25k |" in text


def test_a_reference_line_has_its_own_row_and_no_parameters(tmp_path: Path) -> None:
    fake(tmp_path, tiny_run("smt"), [score(0.6, 1.0), score(0.8, 0.5, "teacher")])
    frame = report.summary(tmp_path)
    assert frame["predictor"].tolist() == ["rnn", "teacher"] and frame["reference"].tolist() == [False, True]
    assert frame["accuracy"].tolist() == [0.6, 0.8]
    assert math.isnan(frame["predictor_parameters"][1])
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


def test_cells_that_start_from_another_seeds_source_are_one_group_and_pay_for_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        source = tiny_run("smt", seed=seed)
        fake(tmp_path, source, [score(0.5, 1.0)])
        run = tiny_run("smt+dmt", seed=seed, init_from={"run": source.id, "phase": "smt"})
        fake(tmp_path, run, [score(0.5, 1.0)], 400, inherited={"tokens": 1000, "training_seconds": 7.0})
    row = only(report.summary(tmp_path), method="smt+dmt")
    assert (row["seeds"], row["setting"], row["tokens"], row["training_seconds"]) == (2, "", 1400, 9.5)
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
    row = only(report.summary(tmp_path))
    assert math.isnan(row["accuracy"]) and math.isnan(row["loss"]) and row["status"] == "done"
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
    row = only(frame, method="bptt")
    assert row["status"] == "3 done, not by one code"
    assert row["reason"] == "seeds were computed by different code: 0, 1 by aaaaaaaa; 2 by bbbbbbbb"
    assert only(frame, method="smt")["reason"] == "", "each method has a code of its own"
    for text in (printed(frame), markdown(frame, load(tmp_path), {})):
        assert "bptt: seeds were computed by different code" in " ".join(text.split())


# Text.


def test_names_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, method = "../<script>alert(1)</script>|$x_{$", "_a|[red]b*\x1b[2J"
    (folder,) = seeds(tmp_path / "g", [0.5])
    rename(folder, task, method)
    files = report.write(tmp_path / "g", tmp_path / "out")
    out = tmp_path / "out"
    assert {file.parent for file in files} <= {out, out / "figures", out / "tables"}
    assert all(file.is_file() for file in files)
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "<script" not in text and "\x1b" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("| \\_a"))
    assert "\\_a\\|\\[red\\]b\\*" in row
    heads = next(line for line in text.splitlines() if line.startswith("| method"))
    assert row.replace("\\|", "").count("|") == heads.count("|")
    shown = printed(report.summary(tmp_path / "g"))
    assert "_a|[red]b*" in shown and "\x1b" not in shown


def test_escape() -> None:
    assert escape("a|b<c>&*_`\\\n") == "a\\|b&lt;c&gt;&amp;\\*\\_\\`\\\\ "


def test_the_printed_table_is_aligned_and_fits(tmp_path: Path) -> None:
    for method in ("bptt", "transformer", "smt+dmt"):
        seeds(tmp_path, [0.5, 0.6, 0.7], method)
        seeds(tmp_path, [0.5, 0.6, 0.7], method, task="stack")
    text = printed(report.summary(tmp_path), 100)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(len(line) for line in lines) <= 100
    heads = [line for line in lines if line.startswith("method")]
    assert len(heads) == 2 and heads[0] == heads[1]
    rows = [line for line in lines if line.startswith(("bptt", "transformer", "smt+dmt"))]
    assert len(rows) == 6 and len({line.index("0.800") for line in rows}) == 1
    assert all(row.split()[1:] == rows[0].split()[1:] for row in rows)
    numbers = ["0.600", "±0.058", "0.125", "0.200", "0.800", "0.750", "1.000", "100", "1k", "2.5", "6.54k"]
    assert rows[0].split()[1:] == [*numbers, "3", "done"]
    assert [row.split()[0] for row in rows[:3]] == ["smt+dmt", "bptt", "transformer"]


def test_a_narrow_window_loses_columns_by_name_and_never_the_status(tmp_path: Path) -> None:
    seeds(tmp_path, [0.5, 0.6, 0.7])
    text = printed(report.summary(tmp_path), 72)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 72
    assert "3 done" in text and "ceiling" in text and "params" not in text.splitlines()[1]
    assert "left out in this narrow window: params" in " ".join(text.split())


def test_the_markdown_says_what_ran_and_where(tmp_path: Path) -> None:
    seeds(tmp_path / "g", [0.5, 0.6])
    report.write(tmp_path / "g", tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert text.startswith("# Results of g\n\n2 cells: 2 done.\n")
    assert "seed 0, 1" in text and "length 12" in text and "budget.steps 12" in text
    assert "| bptt | 0.550 ±0.050 |" in text and "no intervals" in text
    assert "commit abc123 with changes, torch 2.9, processor A CPU (2 cells)" in text
    assert "secret" not in text, "a host's name is nobody's business"
    assert "![Accuracy against training tokens, retrieval](figures/curves-retrieval.png)" in text


# Figures.


def test_figures_are_written_and_leave_the_users_settings_alone(tmp_path: Path) -> None:
    seeds(tmp_path / "g", [0.5, 0.6])
    seeds(tmp_path / "g", [0.5], task="stack")
    before = dict(rcParams)
    files = report.write(tmp_path / "g", tmp_path / "out")
    names = ["index.html", "summary.csv", "summary.md", "summary.tex"]
    assert [file.name for file in files if file.parent == tmp_path / "out"] == names
    drawn = tmp_path / "out" / "figures" / "curves-stack.png"
    assert drawn.read_bytes().startswith(b"\x89PNG") and drawn.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert all(file.stat().st_size > 5000 for file in files if file.suffix in (".png", ".pdf"))
    assert dict(rcParams) == before, "the backend among them"
    there = {file for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert there == set(files), "nothing else is left there"


@pytest.mark.slow
def test_figures_are_the_same_whatever_the_users_settings_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds(tmp_path / "g", [0.5, 0.6])

    def drawn(out: str) -> bytes:
        return (tmp_path / out / "figures" / "curves-retrieval.png").read_bytes()

    report.write(tmp_path / "g", tmp_path / "plain")
    with rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "red", "savefig.bbox": "tight"}):
        report.write(tmp_path / "g", tmp_path / "live")
    assert drawn("live") == drawn("plain")

    # A notebook's backend in another environment; a file that matplotlib itself cannot read.
    (tmp_path / "matplotlibrc").write_bytes(b"text.usetex: True  # \xff\n")
    monkeypatch.setenv("MPLBACKEND", "module://nowhere")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = "from bench import report; report.write('g', 'broken')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert drawn("broken") == drawn("plain")


def test_lines_are_means_over_finished_seeds(tmp_path: Path) -> None:
    *_, third = seeds(tmp_path, [0.4, 0.6, 0.9])
    undo(third, "diverged", reason="not finite")
    fake(tmp_path, tiny_run("smt+dmt"), [score(0.6, 1.0), score(0.8, 0.5, "teacher")])
    (panel,) = curves(tmp_path)["retrieval"]
    mean, *_ = lines(panel, word="bptt")
    np.testing.assert_allclose(np.stack([mean.x, mean.mean], 1), [[0, 0], [500, 0.25], [1000, 0.5]])
    (end,) = lines(panel, kind="end")
    assert end.mean.tolist() == [0.9] and end.method == "bptt", "one that is not finished is in no mean"
    assert levels(panel) == {"ceiling": [0.8], "shortcut": [0.2], "chance": [0.125]}
    assert means(panel, reference=True)[0][-1] == 0.8
    told = ["smt+dmt", "bptt", "not finished", "smt+dmt teacher (reference)", "ceiling", "shortcut", "chance"]
    assert words([panel]) == [*told, "smt+dmt: phase dmt"]


def test_every_method_has_a_style_of_its_own_whichever_others_there_are() -> None:
    numbers = {name: place for place, name in enumerate([*style.BUILT_IN, *(f"plugin-{i}" for i in range(12))])}
    many = style.styles(numbers, numbers)
    assert len(set(many.values())) == len(numbers) >= 16
    assert {name: style.styles([name], numbers)[name] for name in numbers} == many
    unknown = style.styles([f"older-{i}" for i in range(12)])
    assert len({look.color for look in unknown.values()}) == 12
    assert style.styles(["older-3"])["older-3"] == unknown["older-3"], "also where no grid.json numbers it"


def test_a_plugins_number_comes_from_the_grids_record(tmp_path: Path) -> None:
    (folder,) = seeds(tmp_path / "g", [0.5], "smt")
    rename(folder, "retrieval", "plugged-in")
    write_json(tmp_path / "g" / "grid.json", {"cells": {}, "stated": [], "methods": {"plugged-in": 11}})
    assert read([tmp_path]).looks["plugged-in"] == style.FURTHER[11 - len(style.BUILT_IN)]


def test_a_sweep_has_a_panel_for_each_setting(tmp_path: Path) -> None:
    for length in (8, 16):
        seeds(tmp_path, [0.5], task={"name": "retrieval", "length": length})
    seeds(tmp_path, [0.7], "transformer", task={"name": "retrieval", "length": 8})
    assert [panel.title for panel in curves(tmp_path)["retrieval"]] == ["length 8", "length 16"]


# The real thing.


def test_a_real_run_is_reported_as_the_trainer_wrote_it(tmp_path: Path) -> None:
    run = tiny_run({"name": "smt+dmt", "dmt": {"share": 0.5, "every": 3, "batch_size": 8}})
    folder = folder_of(run, tmp_path / "g")
    result = Trainer(run, folder).train()
    folder.set_status("done")
    frame = report.summary(tmp_path / "g")
    assert frame["predictor"].tolist() == ["rnn", "teacher"]
    for row, wanted in zip(frame.to_dict("records"), result["scores"]):
        for name in ("accuracy", "chance", "shortcut", "accuracy_ceiling", "loss", "shortcut_rule", "length"):
            assert row[name] == wanted[name]
        assert row["loss_above_floor"] == pytest.approx(wanted["loss"] - wanted["loss_floor"])
        assert row["tokens"] == result["costs"]["tokens"]
    assert frame["predictor_parameters"][0] == result["costs"]["predictor_parameters"]
    traits = {"traits.state": "constant", "traits.data": "sequences", "traits.recurrent": True, "traits.teacher": True}
    assert load_results(tmp_path / "g").iloc[0][list(traits)].to_dict() == traits
    files = report.write(tmp_path / "g", tmp_path / "out")
    names = ["index.html", "summary.csv", "summary.md", "summary.tex"]
    assert [file.name for file in files][:4] == names
    assert f"commit {result['provenance']['commit']}" in files[2].read_text()
    curves = load_curves(tmp_path / "g")
    assert set(curves["phase"]) == {"smt", "dmt"} and curves["tokens"].max() == result["costs"]["tokens"]
    assert load_results(tmp_path / "g")["accuracy"].tolist() == [row["accuracy"] for row in result["scores"]]


def test_what_older_results_do_not_say_of_their_method_is_what_the_trainer_says_now(tmp_path: Path) -> None:
    for name, known in UNTOLD.items():
        run = tiny_run(name)
        assert build_method(run, build_task(run)).traits() == known, name
    fake(tmp_path, tiny_run("transformer"), [score(0.5, 1.0)])
    fake(tmp_path, tiny_run("bptt"), [score(0.5, 1.0)], traits={"state": "growing"})
    told = load_results(tmp_path).set_index("method")["traits.state"].to_dict()
    assert told == {"transformer": "growing", "bptt": "growing"}, "what a result says goes before"
    grid = tmp_path / "traced"
    rows = [{"method": name, "position": 1} for name in ("transformer", "rtrl", "a-plugin")]
    rows.append({"method": "a-plugin", "position": 1, "state": "growing"})
    write_json(grid / "cost.json", {"steps": [], "inference": rows})
    states = read([grid]).inference["state"].fillna("not known").tolist()
    assert states == ["growing", "constant", "not known", "growing"]


def test_the_report_needs_neither_tasks_nor_methods() -> None:
    code = "import sys, bench.report; print([m for m in sys.modules if m.startswith(('bench.tasks', 'bench.methods'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
