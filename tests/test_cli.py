"""The command line: what it shows, what it writes, and one helpful line for every mistake."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor, nn

import bench
from bench import cli, registry
from bench.errors import BadInput
from bench.methods.bptt import BPTT
from bench.models.mlp import MLPUpdater
from bench.results import Folder, load_tensors, read_json, save_tensors, write_json
from tests.helpers import TINY, few

ROOT = Path(__file__).parents[1]
GRID: dict[str, Any] = {
    "about": "two small cells",
    "base": {
        "task": {"name": "retrieval", "length": 12},
        "model": TINY,
        "training": {"batch_size": 8, "budget": {"steps": 6}},
        "evaluation": {"sequences": 32, "reference_sequences": 8, "every": 0.5},
        "device": "cpu",
    },
    "axes": {"method": ["bptt", "transformer"]},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with a grid file and no data sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(registry, "failures", {})
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(GRID))
    return tmp_path


def changed(**fields: Any) -> str:
    """The grid with dotted fields of its base replaced, as YAML."""
    return yaml.safe_dump({**GRID, "base": {**GRID["base"], **fields}})


BAD_GRIDS = {
    "unknown key": (changed(**{"model.memory_token": 3}), "did you mean 'memory_tokens'?"),
    "unknown key at the top": (yaml.safe_dump({**GRID, "axis": {}}), "did you mean 'axes'?"),
    "unknown section": (changed(modle={"d": 8}), "did you mean 'model'?"),
    "unknown knob": (changed(**{"task.symbol": 3}), "symbol"),
    "wrong type": (changed(seed="one"), "'one' given"),
    "unknown task": (changed(task="retreival"), "did you mean 'retrieval'?"),
    "unknown method": (yaml.safe_dump({**GRID, "axes": {"method": ["bptt", "smt+dtm"]}}), "did you mean 'smt+dmt'?"),
    "unknown backbone": (changed(**{"model.backbone": "grru"}), "did you mean 'gru'?"),
    "negative budget": (changed(training={"budget": {"steps": -5}}), "-5 given; should be greater than 0"),
    "two budgets": (changed(training={"budget": {"steps": 5, "tokens": 9}}), "exactly one of"),
    "a tab": ("base:\n\ttask: retrieval\n", "tab"),
    "not a mapping": ("- 1\n- 2\n", "list"),
    "not text": ("\x00\x01", "YAML"),
    "nothing": ("", "axes"),
}

BAD_COMMANDS = {
    "unknown command": ("rum small.yaml", "did you mean 'run'?"),
    "unknown option": ("run small.yaml --forse", "did you mean '--force'?"),
    "unknown short option": ("run small.yaml -q", "--workers"),
    "missing grid": ("run", "GRID is missing: A shipped grid's name"),
    "missing file": ("run nowhere.yaml", "No such file"),
    "unknown grid": ("run qick", "did you mean 'quick'?"),
    "one argument too many": ("run small.yaml other.yaml", "other.yaml"),
    "no number": ("run small.yaml --workers two", "'two' given; should be a valid integer"),
    "too few workers": ("run small.yaml --workers=0", "'0' given; should be greater than or equal to 1"),
    "negative retry": ("run small.yaml --retry -1", "'-1' given"),
    "option without its value": ("run small.yaml --set", "--set needs a value"),
    "unknown launcher": ("run small.yaml --launcher locale", "did you mean 'local'?"),
    "set without a value": ("run small.yaml --set seed", "KEY=VALUE"),
    "set of an unknown field": ("run small.yaml --set trainig.batch_size=2", "did you mean 'training'?"),
    "set of an unknown key": ("run small.yaml --set training.batchsize=2", "did you mean 'batch_size'?"),
    "set of a bad value": ("run small.yaml --set training.batch_size=many", "'many' given"),
    "impossible pair": (
        "run small.yaml --set method=smt --set method.start=context",
        "sequences longer than the context, 256",
    ),
    "data that is not here": ("run small.yaml --set task=mnist", "data fetch mnist"),
    "missing plugin": ("run small.yaml --plugin nowhere.py", "no file 'nowhere.py'"),
    "results that cannot be": ("run small.yaml --results small.yaml", "cannot write to small.yaml/small"),
    "dry run of an unknown grid": ("run qick --dry-run", "did you mean 'quick'?"),
    "unknown kind": ("list task", "did you mean 'tasks'?"),
    "status of nothing": ("status qick", "did you mean 'quick'?"),
    "report of nothing": ("report nowhere", "no results folder 'nowhere'"),
    "report without a folder": ("report", "RESULTS is missing"),
    "unknown measure": ("run small.yaml --measure costs", "did you mean 'cost'?"),
    "cost of an unknown grid": ("cost qick", "did you mean 'quick'?"),
    "cost at no length": ("cost small.yaml --lengths 8,x", "'8,x' given; should be whole numbers"),
    "cost at length 0": ("cost small.yaml --lengths 0", "0 given; should be 1 or more"),
    "cost of a collection": ("cost all-small", "gathers other grids"),
    "sample of nothing": ("sample nowhere", "is not a run's folder"),
    "diagnose nothing": ("diagnose nowhere", "is not a run's folder"),
    "unknown experiment": ("diagnose gradient-qualty", "did you mean 'gradient-quality'?"),
    "sequences of an experiment": ("diagnose convergence --sequences 4", "4 given; is for runs, not for convergence"),
    "keep a run's diagnosis": ("diagnose . --results x", "'x' given; is for one of influence-balancing"),
    "sample at a negative temperature": ("sample nowhere --temperature=-1", "'-1' given"),
    "unknown data command": ("data fech mnist", "did you mean 'fetch'?"),
    "unknown data set": ("data fetch mnits", "did you mean 'mnist'?"),
    "import of nothing": ("data import mnist --from nowhere", "'nowhere'"),
    "import from nowhere": ("data import mnist", "--from is missing"),
    "a dash for a command": ("-", "command: '-' is unknown; allowed: list, run"),
    "a dash for a data command": ("data -", "data: command: '-' is unknown; allowed: list, fetch, import"),
    "a flag with a value": ("run small.yaml --dry-run=maybe", "--dry-run takes no value"),
    "a lease without end": (
        "run small.yaml --lease inf",
        "lease: inf given; should be above 0 and at most 2,592,000 seconds",
    ),
    "a lease that is not a number": ("run small.yaml --lease nan", "run: --lease: 'nan' given"),
    "a lease of ages": ("run small.yaml --lease 1e12", "lease: 1000000000000.0 given"),
    "stuck that is not a number": ("run small.yaml --stuck nan", "run: --stuck: 'nan' given"),
    "cost at an absurd length": (
        "cost small.yaml --lengths 999999999999",
        "999999999999 given; should be up to 1,048,576",
    ),
    "absurdly many samples": (
        "sample nowhere --count 100000000",
        "'100000000' given; should be less than or equal to 10000",
    ),
    "a seed beyond all": (f"sample nowhere --seed {10**30}", "given; "),
    "sample without a temperature": ("sample nowhere --temperature nan", "--temperature: 'nan' given"),
    "a home of nobody": ("data import mnist --from ~nosuchuser/x", "there is no such home folder"),
    "check: an unknown field": ("check bptt --set sed=1", "'sed' is unknown"),
    "check: an unknown knob": ("check retrieval --set task.lenght=8", "task(retrieval).lenght: unknown key"),
    "check: a bad value": ("check gru --set model.d=x", "model.d: 'x' given"),
    "a long value": (f"run small.yaml --set seed={'x' * 5000}", f"'{'x' * 79}... given; should be a valid integer"),
    "a long name": (f"run {'x' * 5000}", "is unknown; allowed: "),
    "a long command": ("x" * 5000, "is unknown; allowed: "),
    "a status of a path": ("status ...yaml", "it names a folder"),
}


def assert_one_line(capsys: pytest.CaptureFixture[str], code: int, expected: str, folder: Path) -> None:
    out, err = capsys.readouterr()
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ") and len(err) <= 401 and err[:-1].isprintable()
    assert expected in err
    assert out == ""
    assert not (folder / "results").exists()


@pytest.mark.parametrize("name", BAD_GRIDS)
@pytest.mark.parametrize("command", ["run", "run --dry-run"])
def test_a_bad_grid_ends_in_one_helpful_line(
    name: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = BAD_GRIDS[name]
    (folder / "bad.yaml").write_text(text)
    assert_one_line(capsys, cli.main([*command.split(), "bad.yaml"]), expected, folder)


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_a_bad_command_ends_in_one_helpful_line(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, expected = BAD_COMMANDS[name]
    assert_one_line(capsys, cli.main(command.split()), expected, folder)


@pytest.mark.parametrize("command", ["", "--help", "run --help", "data", "data import --help", "-h"])
def test_help_is_not_an_error(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command.split()) == 0
    out, err = capsys.readouterr()
    assert "Usage: run_bench.py" in out
    assert err == ""


def test_every_option_has_a_help_text() -> None:
    import typer

    commands = [typer.main.get_command(cli.app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        assert command.help
        assert all(param.help for param in command.params), command.name
    assert len(commands) == 19


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"recurbench {bench.__version__}\n"


def test_list_shows_what_there_is_and_plugins_that_failed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.py").write_text("import no_such_package")
    assert cli.main(["list", "--json", "--plugin", "broken.py"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert {"retrieval", "digits"} <= {entry["name"] for entry in listing["tasks"]}
    assert {"bptt", "smt", "smt+dmt", "transformer"} <= {entry["name"] for entry in listing["methods"]}
    assert "ci" in {entry["name"] for entry in listing["grids"]}
    assert all(entry["about"] for kind in ("tasks", "methods", "backbones", "grids") for entry in listing[kind])
    kept = {kind: {entry["name"]: entry for entry in listing[kind]} for kind in ("tasks", "methods", "backbones")}
    assert kept["tasks"]["digits"]["continues"] and not kept["tasks"]["stack"]["continues"]
    assert [kept["methods"]["rtrl"][key] for key in ("form", "data")] == ["step", "streams"]
    assert [kept["methods"]["smt"][key] for key in ("form", "data")] == ["losses", "sequences"]
    assert [kept["backbones"]["lru"][key] for key in ("recurrence", "smt")] == ["linear", False]
    assert [kept["backbones"]["gru"][key] for key in ("recurrence", "smt")] == ["dense", True]
    assert listing["failures"] == {"broken.py": "ModuleNotFoundError: No module named 'no_such_package'"}

    assert cli.main(["list", "backbones"]) == 0
    out, err = capsys.readouterr()
    assert all(name in out for name in ("transformer", "mlp", "gru"))
    assert (
        err == "warning: plugin broken.py could not be loaded: ModuleNotFoundError: No module named 'no_such_package'\n"
    )
    registry._plugin_files.clear()


@pytest.mark.parametrize(
    "command", ["run small.yaml", "status small.yaml", "cost small.yaml", "check", "data fetch mnist"]
)
def test_a_plugin_that_was_asked_for_and_cannot_be_loaded_ends_the_command(
    command: str, folder: Path, clean: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.py").write_text("1 / 0")
    assert cli.main([*command.split(), "--plugin", "broken.py"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: --plugin broken.py could not be loaded: ZeroDivisionError: division by zero\n")


def test_data_list_tells_of_a_plugin_that_cannot_be_loaded(
    folder: Path, clean: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.py").write_text("1 / 0")
    assert cli.main(["data", "list", "--plugin", "broken.py"]) == 0
    assert "warning: plugin broken.py could not be loaded: ZeroDivisionError" in capsys.readouterr().err


def test_an_end_of_file_is_no_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def ends(*_: object) -> None:
        raise EOFError("nothing left")

    monkeypatch.setattr(registry, "load_plugin", ends)
    assert cli.main(["list", "--plugin", "x.py"]) == 2
    assert capsys.readouterr().err == "error: a file ends too early: nothing left\n"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "load_plugin", interrupted)
    assert cli.main(["list", "--plugin", "x.py"]) == 130


@pytest.mark.parametrize("options", [{"lease": math.inf}, {"lease": math.nan}, {"lease": 0}, {"stuck": math.nan}])
def test_a_wait_without_end_is_refused_in_python_too(options: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=r"(lease|stuck): .* given; should be above 0"):
        bench.run(GRID, **options)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("arguments", "code", "closed"),
    few(
        [
            ("status small.yaml", 0, ">&-"),
            ("run qick", 2, ">&- 2>&- <&-"),
            ("list grids", 0, "| true"),
            *(
                (arguments, code, closed)
                for arguments, code in (("list grids", 0), ("status small.yaml", 0), ("run qick", 2))
                for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-", "| true")
            ),
        ],
        2,
    ),
)
def test_closed_streams_end_cleanly(arguments: str, code: int, closed: str, folder: Path) -> None:
    shell = ["bash", "-c", f"{sys.executable} {ROOT / 'run_bench.py'} {arguments} {closed}"]
    done = subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == (0 if "|" in closed else code)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("launcher", few(["inline", "local"], 1))
def test_forty_ctrl_cs_end_a_run_like_one(launcher: str, folder: Path) -> None:
    (folder / "long.yaml").write_text(changed(**{"training.budget": {"steps": 10**7}}))
    command = [sys.executable, str(ROOT / "run_bench.py"), "run", "long.yaml", "--launcher", launcher, "--workers", "1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        until = time.monotonic() + 60
        while not list(folder.glob("results/long/*/attempts/*/curve.json")) and time.monotonic() < until:
            if list(folder.glob("results/long/*/attempts/*/status.json")):
                break
            time.sleep(0.1)
        for _ in range(40):
            run.send_signal(signal.SIGINT)
            time.sleep(0.02)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 130, (out, err)
    assert "Traceback" not in out + err


def test_data_list_is_there_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["digits"]["here"]
    assert not entries["mnist"]["here"]
    assert cli.main(["data", "list"]) == 0
    assert "data fetch mnist" in capsys.readouterr().out


def test_status_names_what_other_code_computed_and_means_over_two_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = ["--set", "method=bptt", "--set", "seed=[0,1,2]", "--set", "training.budget.steps=2"]
    assert cli.main(["run", "small.yaml", "--launcher", "inline", *sets]) == 0
    last = next(Path("results/small").glob("*-s2-*"))
    shutil.copytree(last, "results/small/copy")
    digest = read_json(last / "result.json")["digest"]
    write_json(last / "result.json", {**read_json(last / "result.json"), "digest": "0" * 16})
    capsys.readouterr()
    assert cli.main(["status", "small.yaml", "--json", *sets]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["digest"], row["stale"]) for row in rows] == [(digest, False), (digest, False), ("0" * 16, True)]
    mixed = f"retrieval bptt: seeds were computed by different code: 0, 1 by {digest[:8]}; 2 by 00000000"
    for command in (["status", "small.yaml", *sets], ["status", "small"]):  # `small` alone: nobody knows the grid
        assert cli.main(command) == 0
        out, err = capsys.readouterr()
        assert "3 cells: 3 done" in out and mixed in err
        assert ("stale" in out) == (sets[0] in command)


def test_dry_run_tells_what_would_happen_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BPTT, "targets", ("dense",))
    before = sorted(folder.rglob("*"))
    assert cli.main(["run", "small.yaml", "--dry-run", "--set", "model.backbone=[transformer, gru]"]) == 0
    assert sorted(folder.rglob("*")) == before
    out = capsys.readouterr().out.splitlines()
    (transformer,) = (line.split() for line in out if line.startswith("retrieval-transformer"))
    assert transformer[1:4] == ["retrieval", "transformer", "-"]
    assert int(transformer[4].replace(",", "")) > 500
    assert transformer[5:] == ["6", "steps", "cpu/float32", "runs"]
    bptt = [line for line in out if line.startswith("retrieval-bptt")]
    assert len(bptt) == 2
    assert all("is skipped: bptt learns from dense targets only" in line for line in bptt)
    assert out[-1] == "3 cells: 1 would run, 2 would be skipped"


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        (["method=smt", "model.backbone=lstm"], "the state of lstm is not one"),
        (
            ["method=rtrl", "method.max_bytes=1000", "model.backbone=tanh", "model.updater_width=5", "task.symbols=3"],
            # 4 lanes of 5 units times (4 symbols of width 8, a map from 5 + 8 to 5), each number in 4 bytes
            f"would take {4 * 5 * (4 * 8 + 13 * 5 + 5) * 4:,} bytes, above method.max_bytes, 1,000",
        ),
    ],
)
def test_dry_run_says_why_a_method_cannot_train_a_backbone(
    folder: Path, capsys: pytest.CaptureFixture[str], sets: list[str], reason: str
) -> None:
    options = [word for one in [*sets, "training.batch_size=4"] for word in ("--set", one)]
    assert cli.main(["run", "small.yaml", "--dry-run", *options]) == 0
    *_, cell, _, last = capsys.readouterr().out.splitlines()
    assert "is skipped: " in cell and reason in cell and last == "1 cells: 1 would be skipped"


def test_a_path_at_home_is_there_and_not_in_a_folder_called_tilde(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "home" / "mine.yaml").write_text(yaml.safe_dump(GRID))
    short = ["--set", "training.budget.steps=1", "--set", "method=bptt", "--measure", "none", "--launcher", "inline"]
    assert cli.main(["run", "~/mine.yaml", "--results", "~/kept", *short]) == 0
    assert list((folder / "home" / "kept" / "mine").glob("*/result.json")) and not (folder / "~").exists()
    assert cli.main(["report", "~/kept/mine", "--out=~/page"]) == 0
    assert list((folder / "home" / "page").glob("*.html"))
    assert len(bench.load_results("~/kept/mine")) == 1
    capsys.readouterr()


def test_a_home_that_is_not_there_is_one_line_and_no_folder_called_tilde(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "small.yaml", "--results", "~nosuchuser/kept"]) == 2
    assert capsys.readouterr().err.startswith("error: ~nosuchuser/kept: there is no such home folder")
    for call in (
        lambda: bench.run("small.yaml", results="~nosuchuser/kept"),
        lambda: bench.load_results("~nosuchuser"),
    ):
        with pytest.raises(BadInput, match="no such home folder"):
            call()
    assert not list(folder.glob("~*"))


def test_the_package_is_a_program_that_knows_its_name(folder: Path) -> None:
    (folder / "queue.py").write_text("raise SystemExit('queue of the working folder')\n")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "new", "method", "mine"],
        env={**os.environ, "PYTHONPATH": str(Path(bench.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "try it:      python -m bench check mine" in done.stdout


def test_run_and_status_and_report_from_end_to_end(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["status", "small.yaml"]) == 0
    assert "2 cells: 2 pending" in capsys.readouterr().out

    assert cli.main(["run", "small.yaml", "--launcher", "inline"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "2 of 2 cells: retrieval-transformer-s0-" in out
    assert "2 cells: 2 done" in out
    assert "results are in results/small" in out

    frame = bench.run(GRID, name="python", launcher="inline")
    columns = ["id", "state", "predictor", "accuracy", "loss", "valid_accuracy", "steps", "tokens"]
    assert frame[columns].equals(bench.load_results("results/small")[columns])
    assert len(frame) == 2

    assert cli.main(["run", "small.yaml", "--dry-run"]) == 0
    assert "2 cells: 2 are kept" in capsys.readouterr().out

    (one,) = Path("results/small").glob("retrieval-bptt-*")
    (one / "result.json").unlink()
    (one / "attempts/000001/status.json").write_text(
        json.dumps({"state": "stopped", "reason": None, "progress": 0.5, "loss": 1.25})
    )
    assert cli.main(["status", "small.yaml", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["state"], row["progress"]) for row in rows] == [("stopped", 0.5), ("done", 1.0)]
    assert cli.main(["status", "python"]) == 0, "a grid that has no file is told from its folder"
    assert "2 done" in capsys.readouterr().out

    with monkeypatch.context() as small:
        small.setattr("bench.cli.plan.MANY", 1)
        small.setattr("bench.cli.status.MANY", 1)
        assert cli.main(["status", "small.yaml"]) == 0
        out = capsys.readouterr().out
        assert one.name in out and "retrieval-transformer" not in out
        assert "2 cells: 1 done, 1 stopped (list them with --all)" in out
        assert cli.main(["status", "small.yaml", "--all"]) == 0
        assert "retrieval-transformer" in capsys.readouterr().out
        assert cli.main(["run", "small.yaml", "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert one.name in out and "retrieval-transformer" not in out

    assert cli.main(["report", "results/small", "--out", "page"]) == 0
    assert any(Path("page").iterdir())


@pytest.mark.slow
def test_letters_that_the_terminal_has_not_end_nothing(folder: Path) -> None:
    grid = {**GRID, "about": "cells → numbers", "axes": {"method": ["bptt"], "seed": [0, 1]}}
    Path("grid.yaml").write_text(yaml.safe_dump(grid, allow_unicode=True), "utf-8")
    command = [sys.executable, ROOT / "run_bench.py", "run", "grid.yaml", "--launcher", "inline"]
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=ascii_only, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mean over seeds ? standard error" in done.stdout


def test_a_cell_that_fails_makes_the_exit_code_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(BPTT, "gradients", fail)
    assert cli.main(["run", "small.yaml", "--launcher", "inline"]) == 1
    states = {row["method"]: (row["state"], row["reason"]) for _, row in bench.load_results("results").iterrows()}
    assert states["bptt"] == ("failed", "ZeroDivisionError: by zero")
    assert states["transformer"][0] == "done"


def test_an_unknown_name_recalls_the_plugin_that_failed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text("raise RuntimeError('not today')")
    assert cli.main(["run", "small.yaml", "--set", "task=mine", "--plugin", "mine.py"]) == 2
    assert "plugin mine.py could not be loaded: RuntimeError: not today" in capsys.readouterr().err
    registry._plugin_files.clear()


# Measures.


def test_cost_prints_and_keeps_the_table_that_the_report_reads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["cost", "small.yaml", "--lengths", "8,16", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {(row["method"], row["length"]) for row in record["steps"]} == {
        (method, length) for method in ("bptt", "transformer") for length in (8, 16)
    }
    assert read_json(folder / "results/small/cost.json") == record
    assert cli.main(["cost", "small.yaml", "--lengths", "8,16"]) == 0
    shown = capsys.readouterr().out
    assert "bptt" in shown and "transformer" in shown and "O(T)" in shown
    assert not list((folder / "results").glob("small/*/result.json"))  # nothing was trained
    assert cli.main(["report", "results/small", "--out", "page"]) == 0
    assert "complexity" in (folder / "page/index.html").read_text()


def test_a_run_names_the_operators_that_no_rule_counts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pooled(MLPUpdater):
        def forward(self, memory: Tensor, token: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool2d(super().forward(memory, token), memory.shape[1:])

    registry.backbones.names()  # the built-in ones are loaded first
    monkeypatch.setattr(registry.backbones, "_classes", {**registry.backbones._classes, "pooled": Pooled})
    command = ["run", "small.yaml", "--launcher", "inline", "--set", "method=bptt", "--set", "model.backbone=pooled"]
    assert cli.main([*command, "--measure", "cost"]) == 0
    assert "FLOPs are too low" in (out := capsys.readouterr().out) and "aten._adaptive_avg_pool2d.default" in out
    assert cli.main([*command, "--set", "training.budget={flops: 1000000}"]) == 0
    assert "its budget of FLOPs bought too much: no rule counts aten._adaptive" in capsys.readouterr().out


def test_a_run_measures_what_it_is_asked_to(folder: Path) -> None:
    assert cli.main(["run", "small.yaml", "--launcher", "inline", "--measure", "cost,samples"]) == 0
    for cell in (folder / "results/small").glob("retrieval-*"):
        assert (cell / "cost.json").is_file() and (cell / "samples.json").is_file()
        assert not (cell / "dynamics.json").exists()


def test_sample_shows_what_a_trained_model_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "digits.yaml").write_text(changed(task={"name": "digits", "length": 16}))
    sets = ["--set", "method=transformer"]
    assert cli.main(["run", "digits.yaml", "--launcher", "inline", *sets]) == 0
    (cell,) = (folder / "results/digits").glob("digits-*")
    capsys.readouterr()
    assert cli.main(["sample", str(cell), "--count", "2", "--out", "digits.png"]) == 0
    shown = capsys.readouterr().out
    assert "written to digits.png" in shown and (folder / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["sample", str(cell), "--count", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "image" and len(record["written"]) == 2
    (cell / "attempts/000001/weights-train.pt").unlink()
    assert cli.main(["sample", str(cell)]) == 2
    assert "has no weights-train.pt" in capsys.readouterr().err


def test_diagnose_says_why_a_run_of_smt_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["--set", "method=[smt-dense+dmt, bptt]"]
    assert cli.main(["run", "small.yaml", "--launcher", "inline", "--measure", "diagnosis", *methods]) == 0
    (cell,) = (folder / "results/small").glob("retrieval-*smt-dense*")
    (other,) = (folder / "results/small").glob("retrieval-*bptt*")
    capsys.readouterr()
    assert cli.main(["diagnose", str(cell), "--out", "why.png"]) == 0
    shown = capsys.readouterr().out
    record = read_json(cell / "diagnosis.json")["diagnosis"]
    assert shown.startswith(record["verdict"]) and "steps from the teacher's memory" in shown
    assert "written to why.png" in shown and (folder / "why.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["diagnose", str(cell), "--json", "--sequences", "16"]) == 0
    assert json.loads(capsys.readouterr().out)["sequences"] == 16
    assert cli.main(["diagnose", str(cell)]) == 0
    assert "run GRID --measure diagnosis" in capsys.readouterr().out
    assert read_json(other / "diagnosis.json")["diagnosis"] is None and cli.main(["diagnose", str(other)]) == 2
    assert "should be a run of a method with a teacher, not of bptt" in capsys.readouterr().err


def test_an_experiment_is_done_kept_shown_and_found_by_the_report(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.measure.online import costs

    monkeypatch.setattr(costs.measure, "__defaults__", ((4, 8), (8, 16)))
    assert cli.main(["diagnose", "credit-costs", "--results", "kept", "--out", "costs.png"]) == 0
    shown = capsys.readouterr().out
    assert "kf-rtrl" in shown and "the record is in kept/credit-costs.json" in shown
    assert (folder / "costs.png").read_bytes().startswith(b"\x89PNG")
    assert {one["value"] for one in read_json(folder / "kept/credit-costs.json")["found"]} == {4, 8, 16}
    assert cli.main(["diagnose", "credit-costs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(folder / "kept/credit-costs.json")
    assert cli.main(["run", "small.yaml", "--launcher", "inline", "--set", "method=bptt", "--results", "kept"]) == 0
    assert cli.main(["report", "kept", "--out", "page"]) == 0
    assert (folder / "page/tables/credit-costs.csv").is_file() and (folder / "page/figures/credit-costs.png").is_file()


def test_weights_that_are_not_finite_have_no_score_and_write_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After one step at an absurd rate, which no training loss follows, the largest of NaN logits is class 0."""
    task = {"name": "parity", "length": 8}
    training = {"batch_size": 8, "budget": {"steps": 1}, "optimiser": {"lr": 1e30, "warmup": 0.0}}
    (folder / "nan.yaml").write_text(changed(task=task, training=training))
    run = ["run", "nan.yaml", "--launcher", "inline"]
    assert cli.main(run) == 1
    assert "2 diverged" in capsys.readouterr().out
    for cell in (folder / "results/nan").glob("parity-*"):
        assert not (cell / "result.json").exists()
        status = Folder(cell).status
        assert (status["state"], status["accuracy"], status["loss"]) == ("diverged", None, None)
        assert cli.main(["sample", str(cell)]) == 2
        assert "the run is diverged" in capsys.readouterr().err

    assert cli.main([*run, "--set", "training.optimiser.lr=0.001", "--set", "method=bptt"]) == 0
    (cell,) = [file.parent for file in (folder / "results/nan").glob("parity-*/result.json")]
    weights = Folder(cell).weights("train")
    save_tensors(weights, {name: one * math.nan for name, one in load_tensors(weights).items()})
    capsys.readouterr()
    assert cli.main(["sample", str(cell)]) == 2
    error = capsys.readouterr().err
    assert "is not finite" in error and error.count("\n") == 1


def test_a_phase_that_would_take_no_step_is_told_before_training(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"batch_size": 8, "budget": {"tokens": 8 * 12 * 5}, "accumulate": 6}
    (folder / "idle.yaml").write_text(changed(training=training))
    assert cli.main(["run", "idle.yaml", "--dry-run"]) == 0
    assert "takes no step: its share of the budget gives 5 of the 6" in capsys.readouterr().out.replace("\n", " ")
    assert cli.main(["run", "idle.yaml"]) == 2
    assert "takes no step" in capsys.readouterr().err


@pytest.mark.slow
def test_a_collection_runs_all_and_ends_with_the_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "both.yaml").write_text("grids: [small.yaml]\ncost: [small.yaml]\n")
    assert cli.main(["run", "both.yaml", "--launcher", "inline", "--dry-run"]) == 0
    assert "2 would run" in capsys.readouterr().out and not (folder / "results").exists()
    assert cli.main(["run", "both.yaml", "--launcher", "inline"]) == 0
    assert "report of all: results/both/report/index.html" in capsys.readouterr().out
    assert (folder / "results/both/small/cost.json").is_file()
    assert len(list((folder / "results/both/small").glob("retrieval-*/result.json"))) == 2
    assert cli.main(["status", "both.yaml"]) == 0
    assert "2 cells: 2 done" in capsys.readouterr().out
