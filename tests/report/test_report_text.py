"""The first report as text and figures: what is printed, written and drawn, and a real run whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context, rcParams

from bench import report
from bench.build import build_method, build_task
from bench.report import style
from bench.report.data import load as read
from bench.report.words import escape
from bench.results import UNTOLD, load_curves, load_results, write_json
from bench.training import Trainer
from tests.helpers import folder_of, tiny_run
from tests.report.fabricated import curves, fake, levels, lines, means, printed, rename, score, seeds, undo, words

ROOT = Path(__file__).parents[2]


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


def test_the_knobs_of_a_task_have_a_panel_each_and_settings_of_a_method_a_line_each(tmp_path: Path) -> None:
    def lines() -> list[tuple[str, list[str]]]:
        return [(panel.title, [line.word for line in panel.lines]) for panel in curves(tmp_path)["retrieval"]]

    for length in (8, 16):
        seeds(tmp_path, [0.5], task={"name": "retrieval", "length": length})
    seeds(tmp_path, [0.7], "transformer", task={"name": "retrieval", "length": 8})
    assert lines() == [("length 8", ["bptt", "transformer"]), ("length 16", ["bptt"])]
    seeds(tmp_path, [0.9], task={"name": "retrieval", "length": 8}, model={"backbone": "gru"})
    both = ["bptt, backbone gru", "bptt, backbone transformer"]
    assert lines() == [("length 8", [*both, "transformer"]), ("length 16", both[1:])]
    seeds(tmp_path, [0.8, 0.8], "smt+dmt", task={"name": "retrieval", "length": 8})
    seeds(tmp_path, [0.4], {"name": "smt+dmt", "lambda_dyn": 1.0}, task={"name": "retrieval", "length": 8})
    assert lines() == [
        ("length 8", ["smt+dmt", *both, "transformer"]),
        ("length 8, lambda_dyn 1", ["smt+dmt"]),
        ("length 16", both[1:]),
    ]


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
