"""What a launch promises: nothing that is done is lost, nothing that goes wrong in one cell touches another."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench import registry
from bench.config import InitFrom
from bench.errors import BadInput
from bench.grid import make_grid
from bench.launch import End, LaunchOptions, Outcome, local, run_cells
from bench.launch.local import Interrupts, Pool, quota, slots_for
from bench.launch.plan import Board, Cell, Decision, decide, plan
from bench.launch.progress import View
from bench.launch.share import Share
from bench.results import Folder, load_tensors, out_of_memory, read_json, write_json
from tests.helpers import TINY, tiny_run

ROOT = Path(__file__).parents[2]
MISBEHAVES = Path(__file__).with_name("plugin_misbehaves.py")

# A second or two a cell, so that there is something to interrupt.
SLOW = {
    "base": {
        "task": {"name": "retrieval", "length": 16},
        "model": TINY,
        "training": {"batch_size": 8, "budget": {"steps": 200}},
        "evaluation": {"sequences": 32, "reference_sequences": 8, "every": 0.25},
        "device": "cpu",
    },
    "axes": {"method": ["smt+dmt", "bptt"]},
    "overrides": [{"where": {"method": "smt+dmt"}, "set": {"training.budget": {"steps": 300}}}],
}


def tiny_grid(**axes: list[Any]) -> dict[str, Any]:
    """Cells that take a tenth of a second."""
    base = {**SLOW["base"], "training": {"batch_size": 8, "budget": {"steps": 6}}}
    return {"base": base, "axes": {"method": ["bptt"], **axes}}


def launch(grid: dict[str, Any], folder: Path, **options: Any) -> Outcome:
    return run_cells(make_grid("grid", grid).runs, folder, LaunchOptions(**{"quiet": True, "workers": 1, **options}))


def numbers(folder: Path) -> dict[str, Any]:
    """All that a cell computed, apart from seconds: curve, scores, costs, and the weights, exactly."""
    costs = ("training_seconds", "cpu_seconds", "evaluation_seconds", "compile_seconds")
    files = Folder(folder).files
    result, curve = read_json(folder / "result.json"), read_json(files / "curve.json")
    weights = {
        file.name: {name: value.numpy().tobytes() for name, value in load_tensors(file).items()}
        for file in files.glob("weights-*.pt")
    }
    return {
        "scores": result["scores"],
        "costs": {name: value for name, value in result["costs"].items() if name not in costs},
        "curve": [{name: value for name, value in point.items() if name not in costs} for point in curve],
        "weights": weights,
    }


def all_numbers(folder: Path) -> dict[str, Any]:
    return {run.name: numbers(run) for run in sorted(folder.iterdir()) if run.is_dir()}


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


def newly_running(folder: Path, cell: str, known: list[int]) -> tuple[int, Path] | None:
    """Process and folder of a cell that runs, if it runs in none of these processes."""
    for found in folder.glob(cell):
        status = Folder(found).status
        if status["state"] == "running" and status["pid"] not in known:
            return status["pid"], found
    return None


def points(folder: Path) -> int:
    """How many points the cell's curve has so far."""
    return len(read_json(Folder(folder).files / "curve.json") or [])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slow cells, run in this process with nothing in their way."""
    folder = tmp_path_factory.mktemp("undisturbed") / "grid"
    assert launch(SLOW, folder, launcher="inline").exit_code == 0
    return folder


@pytest.fixture
def plugin() -> Iterator[None]:
    """The misbehaving plugin, loaded for one test."""
    before = [(kind, {name: kind.get(name) for name in kind.names()}) for kind in registry.REGISTRIES]
    registry.load_plugin(MISBEHAVES)
    yield
    for kind, classes in before:
        kind._classes = classes
    registry._plugin_files.clear()


@pytest.mark.slow
def test_workers_that_are_killed_at_several_moments_cost_attempts_and_change_no_number(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder, outcomes = tmp_path / "grid", []
    killed: list[int] = []

    def run() -> None:
        outcomes.append(launch(SLOW, folder, retry=9, checkpoint_seconds=0.1))

    thread = threading.Thread(target=run)
    thread.start()
    for cell, reached in (
        ("retrieval-smt+dmt-*", lambda at: True),
        ("retrieval-smt+dmt-*", lambda at: bool(Folder(at).checkpoints())),
        ("retrieval-smt+dmt-*", lambda at: points(at) > 2),  # past the middle: an evaluation in the second phase
        ("retrieval-bptt-*", lambda at: bool(Folder(at).checkpoints())),
    ):
        pid, at = wait_for(lambda cell=cell: newly_running(folder, cell, killed))
        wait_for(lambda at=at, reached=reached: reached(at))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
    thread.join()
    assert outcomes[0].exit_code == 0
    attempts = {path.name.split("-s0-")[0]: Folder(path).status["attempt"] for path in folder.iterdir()}
    assert attempts == {"retrieval-smt+dmt": 4, "retrieval-bptt": 2}
    assert all_numbers(folder) == all_numbers(undisturbed)
    assert not list(folder.glob("*/**/.*")), "temporary files are left"


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_costs_its_cell_one_attempt_and_the_next_cell_none(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALLED", str(tmp_path / "signalled"))
    folder = tmp_path / "grid"
    assert launch(tiny_grid(method=["told-to-end"], seed=[0, 1]), folder).exit_code == 0
    (told,) = (cell for cell in map(Folder, folder.iterdir()) if len(cell.attempts()) > 1)
    assert told.at(1).status["reason"] == "worker ended by SIGTERM (attempt 1 of 2)"
    assert sorted(len(Folder(path).attempts()) for path in folder.iterdir()) == [1, 2]


@pytest.mark.slow
def test_a_stopped_and_a_killed_launcher_lose_nothing(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(SLOW))
    folder = tmp_path / "results" / "grid"
    command = [sys.executable, str(ROOT / "run_bench.py"), "run", "grid.yaml", "--workers", "1"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def progress(method: str) -> Callable[[], bool]:
        return lambda: any(points(path) > 1 for path in folder.glob(f"retrieval-{method}-*"))

    # Ctrl-C, in the first cell.
    launcher = start()
    wait_for(progress("smt+dmt"))
    launcher.send_signal(signal.SIGINT)
    out, err = launcher.communicate(timeout=120)
    assert (launcher.returncode, err) == (130, "")
    assert "run_bench.py run grid.yaml --workers 1" in out.splitlines()[-1], "it says how to go on"
    (stopped,) = (Folder(path) for path in folder.glob("retrieval-smt+dmt-*"))
    assert stopped.status["state"] == "stopped"
    assert (stopped.files / "checkpoint.pt").is_file()

    # kill -9 of the launcher, in the second: its worker notices, and stops with a checkpoint too.
    launcher = start()
    wait_for(progress("bptt"))
    launcher.kill()
    launcher.communicate()
    assert numbers(stopped.path) == numbers(undisturbed / stopped.path.name)
    (orphan,) = (Folder(path) for path in folder.glob("retrieval-bptt-*"))
    wait_for(lambda: orphan.status["state"] == "stopped")
    assert (orphan.files / "checkpoint.pt").is_file()

    assert launch(SLOW, folder, launcher="inline").exit_code == 0
    assert all_numbers(folder) == all_numbers(undisturbed)


def test_what_is_done_is_skipped_stale_cells_are_named_and_force_runs_all_anew(tmp_path: Path) -> None:
    grid, folder = tiny_grid(seed=[0, 1]), tmp_path / "grid"

    def made() -> list[int]:
        return [file.stat().st_mtime_ns for file in sorted(folder.glob("*/attempts/*/weights-train.pt"))]

    launch(grid, folder, launcher="inline")
    first, expected = made(), all_numbers(folder)

    assert launch(grid, folder, launcher="inline").exit_code == 0
    assert made() == first, "the second launch trains nothing"

    old = sorted(folder.glob("*/result.json"))[1]
    write_json(old, {**read_json(old), "digest": "0" * 16})
    outcome = launch(grid, folder, launcher="inline")
    assert (outcome.stale, made()) == ((old.parent.name,), first), "stale cells are named and kept"

    outcome = launch(grid, folder, launcher="inline", stale=True)
    assert outcome.stale == ()
    assert [new == before for new, before in zip(made(), first)] == [True, False]

    launch(grid, folder, launcher="inline", force=True)
    assert made()[0] != first[0]
    assert all_numbers(folder) == expected


def test_a_cell_that_goes_wrong_ends_alone_with_its_reason(plugin: None, tmp_path: Path) -> None:
    grid = tiny_grid(method=["talkative", "nan-loss", "hungry", "suicidal", "dense-only", "bptt"])
    grid["parts"] = [{"axes": {}}, {"axes": {"task": ["raises", "exits"], "method": ["bptt"]}}]
    outcome = launch(grid, tmp_path / "grid", retry=0)
    ends = {tuple(name.split("-s0-")[0].split("-", 1)): end for name, end in outcome.ends.items()}
    reasons = {name: end.reason or "" for name, end in ends.items()}
    assert {name: end.state for name, end in ends.items()} == {
        ("retrieval", "talkative"): "done",
        ("retrieval", "nan-loss"): "diverged",
        ("retrieval", "hungry"): "oom",
        ("retrieval", "suicidal"): "failed",
        ("retrieval", "dense-only"): "skipped",
        ("retrieval", "bptt"): "done",
        ("raises", "bptt"): "failed",
        ("exits", "bptt"): "failed",
    }
    assert outcome.exit_code == 1
    assert reasons["raises", "bptt"] == "LookupError: no such book"
    assert reasons["exits", "bptt"] == "SystemExit: goodbye"
    assert reasons["retrieval", "suicidal"] == "worker killed by signal 9 (attempt 1 of 1)"
    assert "not finite" in reasons["retrieval", "nan-loss"]
    assert "memory" in reasons["retrieval", "hungry"]
    assert "dense targets only" in reasons["retrieval", "dense-only"]
    for name, end in outcome.ends.items():
        status = Folder(tmp_path / "grid" / name).status
        assert (status["state"], status["reason"]) == end, "the folder tells what the launcher was told"

    def log_of(cell: str) -> str:
        return next((tmp_path / "grid").glob(f"{cell}-*/attempts/*/log.txt")).read_text()

    assert "Traceback" in log_of("raises-bptt")
    assert 'raise LookupError("no such book' in log_of("raises-bptt")
    for said in ("said by the plugin", '{"state": "done"}', "written by the plugin", "shouted by the plugin"):
        assert said in log_of("retrieval-talkative")
    assert log_of("retrieval-talkative").count("needlessly imported: []") == 6, "at every step"
    assert "plugin" not in log_of("retrieval-bptt")


def test_a_cell_waits_for_the_one_it_starts_from(tmp_path: Path) -> None:
    grid = tiny_grid(method=["smt+dmt", "smt"])  # the source comes second
    grid["overrides"] = [{"where": {"method": "smt+dmt"}, "set": {"init_from": {"method": "smt", "phase": "smt"}}}]
    outcome = launch(grid, tmp_path / "grid", launcher="inline")
    assert outcome.exit_code == 0
    (dmt,) = (tmp_path / "grid").glob("retrieval-smt+dmt-*")
    (smt,) = (tmp_path / "grid").glob("retrieval-smt-*")
    started = {folder: Folder(folder).status["started"] for folder in (smt, dmt)}
    assert started[smt] < started[dmt]


def board_of(*links: str | None) -> Board:
    """Cells that start from one another: each names its source by place, or None."""
    cells: list[Cell] = []
    for i, link in enumerate(links):
        source = None if link is None else InitFrom(run=cells[int(link)].id, phase="smt")
        method = "smt" if source is None else "smt+dmt"
        fields = {} if source is None else {"init_from": source.model_dump()}
        run = tiny_run(method, seed=i, **fields)
        cells.append(Cell(run, Folder(f"/nowhere/{run.id}"), Decision("run", "pending")))
    return Board(cells)


def test_cells_whose_source_is_not_done_fail_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "set_status", lambda *_, **__: None)
    board = board_of(None, "0", "1", None)
    first = board.take()
    assert first is not None
    assert (first.run.seed, board.take().run.seed, board.take()) == (0, 3, None), "the others wait"  # type: ignore[union-attr]
    ended = board.end(first, End("oom"))
    assert [cell.run.seed for cell in ended] == [0, 1, 2]
    assert board.ends[ended[1].id] == End("failed", f"starts from {first.id}, which is oom")
    assert board.ends[ended[2].id].state == "failed"


def test_a_lost_worker_costs_one_attempt_of_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "set_status", lambda *_, **__: None)
    board = board_of(None, None)
    first = board.take()
    assert first is not None
    assert board.lost(first, End("failed", "worker killed by signal 9")) == []
    assert board.take() is first, "it is first in line"
    assert board.lost(first, End("failed", "worker killed by signal 9")) == [first]
    assert board.ends[first.id] == End("failed", "worker killed by signal 9 (attempt 2 of 2)")


NOTHING = LaunchOptions()
FORCE, STALE = LaunchOptions(force=True), LaunchOptions(stale=True)


@pytest.mark.parametrize(
    ("state", "made_by", "refusal", "options", "expected"),
    [
        ("pending", None, None, NOTHING, "run"),
        ("done", "now", None, NOTHING, "keep"),
        ("done", "now", None, STALE, "keep"),
        ("done", "now", None, FORCE, "run fresh"),
        ("done", "before", None, NOTHING, "keep stale"),
        ("done", "before", None, STALE, "run fresh"),
        ("done", None, None, NOTHING, "run"),  # its result is gone
        ("diverged", "now", None, NOTHING, "keep"),
        ("diverged", "now", None, FORCE, "run fresh"),
        ("failed", None, None, NOTHING, "run"),
        ("oom", None, None, NOTHING, "run"),
        ("stopped", None, None, NOTHING, "run"),
        ("running", None, None, NOTHING, "run"),  # its launcher died
        ("skipped", None, None, NOTHING, "run"),  # what it lacked is here now
        ("pending", None, "no data", NOTHING, "skip"),
        ("pending", None, "no data", FORCE, "skip"),
        ("done", "now", "no data", FORCE, "keep"),  # what cannot be made again is not thrown away
    ],
)
def test_what_is_decided(
    state: str, made_by: str | None, refusal: str | None, options: LaunchOptions, expected: str
) -> None:
    decision = decide({"state": state}, made_by, "now", refusal, options)
    words = [decision.action, *(["fresh"] if decision.fresh else []), *(["stale"] if decision.stale else [])]
    assert " ".join(words) == expected


@pytest.mark.parametrize(
    ("task", "evaluation", "reason"),
    [
        (
            {"name": "modular-arithmetic", "length": 9},
            {"score_from": 8},
            "score_from: 8 given; should be at most 6, the last column that modular-arithmetic scores at length 9",
        ),
        ({"name": "parity", "length": 8}, {"lengths": [16], "score_from": 7}, None),
        (
            {"name": "stack", "length": 8, "depth": 1},
            {"lengths": [5], "score_from": 4},
            "score_from: 4 given; should be at most 3, the last column that stack scores at length 5",
        ),
        (
            {"name": "keys-values", "length": 18, "span": 1, "key_symbols": 8},
            {"lengths": [32]},
            "evaluation.lengths: keys-values: length 32 has 15 pairs, .* a length of at most 18",
        ),
        (
            {"name": "retrieval"},
            {"lengths": [2]},
            "evaluation.lengths: retrieval: length 2 given; should be at least 3",
        ),
        ({"name": "stack"}, {"lengths": [1]}, "evaluation.lengths: stack: length 1 given; should be at least 2"),
        ({"name": "digits"}, {"lengths": [9599]}, None),
        ({"name": "digits"}, {"lengths": [9600]}, "evaluation.lengths: digits: length 9600 given; .* at most 9599"),
        ({"name": "digits", "length": 10_000}, {}, "the valid split has 9600 tokens, so at most 9599"),
    ],
)
def test_what_cannot_be_drawn_or_scored_is_refused_with_the_bound_before_it_runs(
    tmp_path: Path, task: dict[str, Any], evaluation: dict[str, Any], reason: str | None
) -> None:
    (cell,) = plan([tiny_run(task=task, evaluation=evaluation)], tmp_path, LaunchOptions())
    assert cell.decision.action == ("skip" if reason else "run")
    assert reason is None or re.search(reason, cell.decision.reason or "")


def test_training_data_shorter_than_a_window_are_refused(tmp_path: Path, clean: None) -> None:
    class LittleToTrainOn(registry.tasks.get("digits")):  # type: ignore[misc]
        def tokens(self, split: str) -> int:
            return 50 if split == "train" else super().tokens(split)

    registry.register_task("little")(LittleToTrainOn)
    (cell,) = plan([tiny_run(task={"name": "little", "length": 64})], tmp_path, LaunchOptions())
    assert "the train split has 50 tokens, so at most 49" in (cell.decision.reason or "")


def test_a_rollout_that_ends_before_the_first_scored_position_is_refused(tmp_path: Path) -> None:
    def refusal(score_from: int) -> str | None:
        method = {"name": "smt+dmt", "dmt": {"rollout": 6}}
        run = tiny_run(method, "parity", evaluation={"score_from": score_from})
        return plan([run], tmp_path, LaunchOptions())[0].decision.reason

    assert refusal(5) is None
    assert refusal(6) == "dmt.rollout (6) ends before the first scored position, 6"


def test_a_cell_that_was_killed_between_its_result_and_its_last_word_is_done(tmp_path: Path) -> None:
    launch(tiny_grid(), tmp_path, launcher="inline")
    (folder,) = (Folder(path) for path in tmp_path.iterdir() if path.is_dir())
    before = (folder / "result.json").stat().st_mtime_ns
    folder.at(1).set_status("running", pid=1, host="elsewhere")
    assert launch(tiny_grid(), tmp_path, launcher="inline").exit_code == 0
    assert (folder / "result.json").stat().st_mtime_ns == before
    assert folder.status["state"] == "done"


def test_tensorboard_events_are_written_when_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    launch(tiny_grid(), tmp_path, launcher="inline", tensorboard=True)
    assert list(tmp_path.glob("*/attempts/*/events.out.tfevents.*"))


def test_tensorboard_that_is_missing_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.launch.local.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"recurbench\[tensorboard\]"):
        launch(tiny_grid(), tmp_path / "grid", tensorboard=True)
    assert not (tmp_path / "grid").exists()


def test_memory_that_ran_out_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes do not match"))


class Undead:
    """A process that a dead file system holds: it does not even end when it is killed."""

    pid, returncode = 1, None

    def __init__(self) -> None:
        self.stdin = io.BytesIO()

    def kill(self) -> None: ...

    terminate = kill

    def poll(self) -> None: ...

    def wait(self, timeout: float | None = None) -> None:
        assert timeout is not None, "this would take forever"
        raise subprocess.TimeoutExpired("worker", timeout)


@pytest.mark.parametrize("stop", [True, False])
def test_a_worker_that_cannot_be_killed_does_not_hold_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: bool
) -> None:
    monkeypatch.setattr("bench.launch.local.GRACE", 0.1)
    board = Board([Cell(run := tiny_run(), Folder(tmp_path / run.id), Decision("run", "pending"))], retry=0)
    view = View(board)
    pool = Pool(Share(board, view, LaunchOptions(workers=1)), Interrupts())
    (slot,), process = pool.slots, Undead()
    slot.cell, slot.process, slot.answers = board.take(), process, io.BytesIO()  # type: ignore[assignment]
    monkeypatch.setattr(pool, "selector", Selector())
    if stop:
        pool._stop()
        assert board.ends[run.id].state == "stopped"
    else:
        pool._end_dead(slot)  # it closed its pipe
        assert board.ends[run.id] == End("failed", "worker cannot be killed (attempt 1 of 1)")
    assert process.stdin.closed and slot.process is None


class Selector:
    """Nothing is ever heard."""

    def select(self, seconds: float) -> list[Any]:
        time.sleep(seconds)
        return []

    def unregister(self, file: Any) -> None: ...


def test_workers_are_one_per_core_divided_by_threads_and_one_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.launch.local.cores", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert len(slots_for([tiny_run(seed=i) for i in range(9)], None)) == 4
    assert len(slots_for([tiny_run(seed=i, threads=2) for i in range(9)], None)) == 2
    assert len(slots_for([tiny_run()], None)) == 1, "no more than cells"
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1234")
    (slot,) = slots_for([tiny_run()], None)
    assert slot.environment["MALLOC_TRIM_THRESHOLD_"] == "1234", "what the user has set stays"
    assert int(slot.environment["MALLOC_MMAP_THRESHOLD_"]) > 2**20
    assert len(slots_for([tiny_run(seed=i) for i in range(9)], 7)) == 7
    slots = slots_for([tiny_run(seed=i, device="cuda") for i in range(9)], None)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["3", "5"]


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),  # the one above holds too
        ("0::/\n", {"cpu.max": "max 100000\n"}, float("inf")),
        ("4:memory:/x\n1:cpu,cpuacct:/x\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "10000"}, 5),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "10000"}, float("inf")),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, groups: str, files: dict[str, str], cores: float) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    assert quota(tmp_path / "groups", tmp_path / "cgroup") == cores


def test_workers_are_no_more_than_the_quota_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    for allowed, count in ((0.5, 1), (2.5, 2), (float("inf"), 64)):
        monkeypatch.setattr("bench.launch.local.quota", lambda allowed=allowed: allowed)
        assert local.cores() == count


@pytest.mark.slow
def test_neither_files_of_the_working_folder_nor_what_is_printed_get_between_launcher_and_worker(
    tmp_path: Path,
) -> None:
    for name in ("bench", "queue", "sitecustomize", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the working folder')\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sitecustomize.py").write_text("print('a word of the site')\n")
    (tmp_path / "mine" / "neighbour.py").write_text("print('a word of a plugin \u2192')\n")
    (tmp_path / "plugin.py").write_text("import neighbour\n")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(tiny_grid()))
    command = [sys.executable, ROOT / "run_bench.py", "run", "grid.yaml", "--workers", "1", "--plugin", "plugin.py"]
    environment = {**os.environ, "PYTHONPATH": "mine", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "1 cells: 1 done" in done.stdout
    (status,) = (Folder(path).status for path in (tmp_path / "results" / "grid").iterdir() if path.is_dir())
    assert (status["state"], status["attempt"]) == ("done", 1)


@pytest.mark.slow
def test_workers_of_a_notebook_take_no_file_of_its_folder_for_a_module_of_python(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('queue of the working folder')\n")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(tiny_grid()))
    notebook = "import queue, sys; sys.path.insert(0, ''); import bench; print(*bench.run('grid.yaml')['state'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", notebook]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_a_grid_and_gets_what_the_command_line_gets(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(tiny_grid()))
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import bench\n"
        "assert 'torch' not in sys.modules, 'importing bench is light'\n"
        f"frame = bench.run('grid.yaml', set=['seed=3'], results='from-script')\n"
        "print(frame[['id', 'state', 'accuracy', 'loss']].to_json(orient='records', double_precision=15))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)
    launch({**tiny_grid(), "axes": {"method": ["bptt"], "seed": [3]}}, tmp_path / "grid", launcher="inline")
    (other,) = all_numbers(tmp_path / "grid").items()
    assert row["state"] == "done"
    assert row["id"] == other[0]
    assert row["loss"] == pytest.approx(other[1]["scores"][0]["loss"], abs=1e-14)  # JSON with 15 digits


# Measures of finished cells.


def test_measures_are_made_when_a_cell_is_done_and_later_where_they_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    assert launch(tiny_grid(), folder, launcher="inline").exit_code == 0
    (cell,) = (Folder(path) for path in folder.iterdir() if path.is_dir())
    assert not (cell / "cost.json").exists()
    before = numbers(cell.path)
    assert launch(tiny_grid(), folder, measures=("cost", "dynamics")).exit_code == 0
    assert read_json(cell / "cost.json")["phases"] and read_json(cell / "dynamics.json")["gradients"]
    assert numbers(cell.path) == before and cell.status["unmeasured"] == {}
    written = (cell / "cost.json").stat().st_mtime_ns
    assert launch(tiny_grid(), folder, launcher="inline", measures=("cost", "dynamics")).exit_code == 0
    assert (cell / "cost.json").stat().st_mtime_ns == written


def test_a_measure_that_fails_takes_no_result_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Folder, name: str) -> dict[str, Any]:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("bench.launch.cell.measure", fails)
    folder = tmp_path / "grid"
    assert launch(tiny_grid(), folder, launcher="inline", measures=("dynamics",)).exit_code == 0
    (cell,) = (Folder(path) for path in folder.iterdir() if path.is_dir())
    assert cell.status["state"] == "done" and (cell / "result.json").is_file()
    assert cell.status["unmeasured"] == {"dynamics": "RuntimeError: no such luck"}
    assert "no such luck" in (cell.files / "log.txt").read_text()


def test_a_stale_cell_is_not_measured_by_other_code() -> None:
    status, options = {"state": "done"}, LaunchOptions(measures=("cost",))
    assert decide(status, "old", "new", None, options, unmeasured=True).action == "keep"
    assert decide(status, "new", "new", None, options, unmeasured=True) == Decision("run", "done")
