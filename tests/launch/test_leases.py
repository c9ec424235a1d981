"""A cell has one owner and one result, whatever stops, freezes, races or runs full."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import BadInput
from bench.launch import End, LaunchOptions, run_cell, run_cells
from bench.launch.cell import _clean_up
from bench.launch.lease import Lease, Lost, Seen, Watch, claim, gone, look, process
from bench.launch.plan import Board, Cell, Decision, prepare, seen_state
from bench.launch.plan import plan as decided
from bench.launch.worker import command
from bench.results import DamagedFile, Folder, load_curves, load_results, read_json, write_atomically, write_json
from tests.helpers import few, folder_of, tiny_run
from tests.launch.test_launch import ROOT, launch, numbers, plugin, tiny_grid, wait_for

__all__ = ["plugin"]

LONG = {"training": {"batch_size": 8, "budget": {"steps": 100_000}}, "evaluation": {"sequences": 8, "every": 0.5}}


def owned(folder: Folder, **facts: Any) -> Folder:
    """An attempt whose owner, on another host, has beaten once."""
    mine = claim(folder, look(folder))
    assert mine is not None
    write_json(mine.files / "beat", {**process(), "host": "elsewhere", "count": 1, **facts})
    return mine


def beat_of(mine: Folder) -> str:
    return (mine.files / "beat").read_text()


# Owning.


def test_of_many_that_claim_a_cell_one_gets_it(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    for already in range(5):
        seen = Seen("free", already, "")
        together = threading.Barrier(8)

        def go(seen: Seen = seen, together: threading.Barrier = together) -> Folder | None:
            together.wait()
            return claim(folder, seen)

        with ThreadPoolExecutor(8) as pool:
            won = [mine for mine in pool.map(lambda _, go=go: go(), range(8)) if mine is not None]
        assert [mine.attempt for mine in won] == [already + 1]


def test_an_attempt_is_free_when_it_has_said_its_end_or_its_process_is_gone(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    assert look(folder) == Seen("free")
    mine = owned(folder)
    assert look(folder).state == "owned"
    mine.set_status("running")
    assert look(folder).state == "owned"
    mine.set_status("stopped")
    assert look(folder).state == "free"


def test_a_status_that_cannot_be_read_ends_no_attempt(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    mine = owned(folder)
    mine.set_status("running")
    (mine.files / "status.json").write_text("")  # as a network file system may tell of one that is just replaced
    assert look(folder).state == "owned"
    assert claim(folder, Seen("free", 1, "an earlier beat")) is None


def test_a_process_is_gone_only_when_that_is_certain() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = process()
    born = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    theirs = {**mine, "pid": child.pid, "born": born}
    assert not gone(mine) and not gone(theirs) and not gone({})
    assert gone({**theirs, "born": "7"}), "another process has its number now"
    child.kill()
    wait_for(lambda: gone(theirs))  # (a zombie: its parent has not asked for it)
    child.communicate()
    assert gone(theirs)
    for other in ("host", "boot", "processes"):
        assert not gone({**theirs, other: "other"}), "of other machines nothing is known"


def test_a_running_cell_whose_process_is_gone_is_seen_as_stopped(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    mine = owned(folder)
    mine.set_status("running")
    assert seen_state(folder, folder.status) == ("running", None), "another host's processes are unknown"
    write_json(mine.files / "beat", {**process(), "born": "7"})
    assert seen_state(folder, folder.status) == ("stopped", "its process is gone")
    before = folder.status
    mine.set_status("done")
    assert seen_state(folder, before) == ("done", None), "it ended after its status was read"


def test_a_lease_runs_out_by_the_observers_own_clock_and_by_no_time_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, now = folder_of(tiny_run(), tmp_path), [1e9]  # a clock that has nothing to do with the owner's
    monkeypatch.setattr(time, "time", lambda: -1e9)  # jumped back
    mine, watch = owned(folder), Watch(10, lambda: now[0])

    def after(seconds: float) -> str:
        for _ in range(int(seconds)):
            now[0] += 1
            seen = watch.look(folder)
        return seen.state

    for count in (2, 3):
        assert after(10) == "owned"
        write_json(mine.files / "beat", {**json.loads(beat_of(mine)), "count": count})
        os.utime(mine.files / "beat", (0, 0))  # as coarse as times can be
    assert after(10) == "owned"
    assert after(2) == "free"


def test_the_longer_of_two_leases_counts_and_a_watcher_that_slept_holds_nothing_against_others(tmp_path: Path) -> None:
    folder, now = folder_of(tiny_run(), tmp_path), [0.0]
    owned(folder, lease=20.0)
    watch = Watch(10, lambda: now[0])
    watch.look(folder)
    now[0] += 1000  # stopped itself, perhaps together with the owner
    assert watch.look(folder).state == "owned"
    for _ in range(14):
        now[0] += 1
        assert watch.look(folder).state == "owned"
    now[0] += 2
    assert watch.look(folder).state == "free"


def test_an_owner_that_beat_again_after_it_was_seen_silent_keeps_its_cell(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    mine = owned(folder)
    silent = Seen("free", 1, beat_of(mine))
    write_json(mine.files / "beat", {"count": 2})
    assert claim(folder, silent) is None
    assert claim(folder, Seen("free", 1, beat_of(mine))) is not None


def test_the_heart_stops_when_no_step_is_made(tmp_path: Path) -> None:
    folder, stuck = folder_of(tiny_run(), tmp_path), threading.Event()
    mine = claim(folder, look(folder))
    assert mine is not None
    with Lease(mine, 0.24, 0.2, stuck.set) as lease:
        first = beat_of(mine)
        lease.moved()
        wait_for(lambda: beat_of(mine) != first)
        assert stuck.wait(5)
        last = beat_of(mine)
        time.sleep(0.1)
        assert beat_of(mine) == last
        lease.moved()
        wait_for(lambda: beat_of(mine) != last)


# Losing.


def test_an_owner_that_lost_its_cell_stops_and_writes_in_its_own_folder_only(tmp_path: Path) -> None:
    folder = folder_of(tiny_run("bptt", **LONG), tmp_path)
    others = []

    def listen(status: dict[str, Any]) -> None:
        if not others and status.get("steps", 0) > 3:
            others.append(folder.attempt_path(2))
            others[0].mkdir()

    end = run_cell(folder, listen=listen)
    assert end == End("elsewhere", "attempt 2 has taken over")
    assert folder.at(1).status["state"] == "lost"
    assert not any(others[0].iterdir()) and folder.result is None
    assert {file.name for file in folder.path.iterdir()} == {"run.json", "attempts"}


def test_an_owner_that_lost_its_cell_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    monkeypatch.setattr("bench.launch.lease.CHECK_SECONDS", 1e9)  # between two looks
    end = run_cell(folder, listen=lambda status: folder.attempt_path(2).mkdir(exist_ok=True))
    assert end.state == "elsewhere" and folder.result is None


def test_what_goes_wrong_in_an_attempt_that_lost_its_cell_is_no_end_of_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tiny_run("bptt", **LONG), tmp_path)

    def save(path: Path, *_: Any) -> None:
        def write(file: Any) -> None:
            file.write(b"half of it")
            folder.attempt_path(2).mkdir()  # the owner is stopped here past its lease, and who takes over tidies up
            _clean_up(folder.at(2))

        write_atomically(path, write)

    monkeypatch.setattr("bench.training.save_tensors", save)
    assert run_cell(folder, checkpoint_seconds=0.05) == End("elsewhere", "attempt 2 has taken over")
    assert folder.at(1).status["state"] == "lost"


@pytest.mark.slow
def test_a_worker_that_is_stopped_past_its_lease_comes_back_to_nothing_that_it_could_harm(tmp_path: Path) -> None:
    run = tiny_run("smt+dmt", training={"batch_size": 8, "budget": {"steps": 150}})
    whole, folder = folder_of(run, tmp_path / "whole"), folder_of(run, tmp_path / "cut")
    assert run_cell(whole).state == "done"
    options = {"checkpoint_seconds": 0.05, "lease_seconds": 1.2}
    answers, theirs = os.pipe()
    worker = subprocess.Popen(
        command(theirs),
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        pass_fds=[theirs],
    )
    os.close(theirs)
    assert worker.stdin is not None
    worker.stdin.write(json.dumps({"folder": str(folder.path), "seen": ["free", 0, ""], "options": options}) + "\n")
    worker.stdin.flush()
    wait_for(lambda: folder.at(1).checkpoints())
    worker.send_signal(signal.SIGSTOP)
    assert run_cell(folder, lease_seconds=1.2) == End("done")  # type: ignore[arg-type]
    before = (folder / "result.json").read_bytes()
    worker.send_signal(signal.SIGCONT)
    with os.fdopen(answers) as lines:
        said = [json.loads(lines.readline()) for _ in range(2)]
    assert said[0] == {"attempt": 1} and said[1]["state"] == "elsewhere"
    worker.communicate()
    assert folder.at(1).status["state"] == "lost"
    assert (folder / "result.json").read_bytes() == before and (folder.result or {})["attempt"] == 2
    assert numbers(folder.path) == numbers(whole.path)


def test_a_cell_whose_owner_is_alive_is_elsewhere(tmp_path: Path) -> None:
    folder, stop = folder_of(tiny_run("bptt", **LONG), tmp_path), threading.Event()
    ends = []
    thread = threading.Thread(target=lambda: ends.append(run_cell(folder, lease_seconds=3, should_stop=stop.is_set)))
    thread.start()
    wait_for(lambda: folder.status["state"] == "running")
    told = f"process {os.getpid()} on {process()['host']} runs it"
    assert run_cell(folder, lease_seconds=3) == End("elsewhere", told)
    stop.set()
    thread.join()
    assert ends == [End("stopped")] and folder.attempts() == [1]


# Publishing.


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_publish_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    folder = folder_of(tiny_run(), tmp_path)
    for n in (1, 2):
        folder.attempt_path(n).mkdir(parents=True)
    result, other = {"scores": [], "costs": {}}, {"scores": [{"predictor": "rnn"}], "costs": {}}
    assert folder.at(2).publish(result)
    assert not folder.at(1).publish(other)
    assert folder.result == {**result, "attempt": 2}
    assert folder.at(2).publish(result), "told of a failure after the name was made: it is its own"


@pytest.mark.slow
def test_a_cell_of_a_file_system_without_links_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("smt+dmt", training={"batch_size": 8, "budget": {"steps": 40}})
    whole, folder = folder_of(run, tmp_path / "whole"), folder_of(run, tmp_path / "cut")
    assert run_cell(whole).state == "done"
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "not supported")))
    ends = [run_cell(folder, should_stop=Steps(9)) for _ in range(9)]
    assert ends[0].state == "stopped" and ends[-1].state == "done" and not list(folder.attempt_path(1).glob("*.pt"))
    assert numbers(folder.path) == numbers(whole.path)


class Steps:
    """Asks to stop after so many looks."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def test_a_damaged_checkpoint_is_not_taken_up(tmp_path: Path) -> None:
    run = tiny_run("smt+dmt", training={"batch_size": 8, "budget": {"steps": 40}})
    whole, folder = folder_of(run, tmp_path / "whole"), folder_of(run, tmp_path / "cut")
    run_cell(whole)
    run_cell(folder, should_stop=Steps(5))
    saved = (folder.attempt_path(1) / "checkpoint.pt").read_bytes()
    run_cell(folder, should_stop=Steps(5))
    assert not (folder.attempt_path(1) / "checkpoint.pt").exists(), "the newer one is as far"
    (folder.attempt_path(1) / "checkpoint.pt").write_bytes(saved)
    (folder.attempt_path(2) / "checkpoint.pt").write_bytes(saved[:-99])
    assert run_cell(folder).state == "done"
    assert numbers(folder.path) == numbers(whole.path)


@pytest.mark.parametrize(("error", "state"), few([(MemoryError(), "oom"), (OSError(errno.EIO, "no"), "failed")], 1))
def test_a_checkpoint_that_memory_or_a_disk_does_not_let_read_is_not_thrown_away(
    error: Exception, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("smt+dmt", training={"batch_size": 8, "budget": {"steps": 40}})
    whole, folder = folder_of(run, tmp_path / "whole"), folder_of(run, tmp_path / "cut")
    run_cell(whole)
    run_cell(folder, should_stop=Steps(9))
    monkeypatch.setattr("bench.training.load_tensors", lambda *_: (_ for _ in ()).throw(error))
    assert run_cell(folder).state == state
    monkeypatch.undo()
    steps: list[int] = []
    assert run_cell(folder, listen=lambda status: steps.append(status.get("steps", 0))).state == "done"
    assert 0 not in steps[1:] and numbers(folder.path) == numbers(whole.path)


@pytest.mark.parametrize("kept", [True, False])
def test_a_damaged_result_is_set_aside_and_taken_from_its_attempt_or_made_again(
    kept: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(tiny_grid(), tmp_path, launcher="inline")
    (folder,) = (Folder(path) for path in tmp_path.iterdir())
    before = numbers(folder.path)
    (folder / "result.json").unlink()
    (folder / "result.json").write_text('{"scores": [')
    if not kept:
        (folder.attempt_path(1) / "result.json").write_text("")
    with pytest.warns(DamagedFile, match=r"result.json: damaged: is not JSON.*; the cell is not done"):
        assert launch(tiny_grid(), tmp_path, launcher="inline", quiet=False).exit_code == 0
    assert numbers(folder.path) == before
    assert (folder.attempt_path(2) / "damaged-result.json").is_file()
    assert (folder.result or {})["attempt"] == (1 if kept else 2)
    then = f"taken from {folder.attempt_path(1) / 'result.json'} again" if kept else "the cell starts again"
    assert f"put aside as attempts/000002/damaged-result.json, {then}" in capsys.readouterr().out
    assert launch(tiny_grid(), tmp_path, launcher="inline").exit_code == 0
    assert folder.attempts() == [1, 2], "once"


def test_who_sets_a_damaged_result_aside_too_late_takes_no_whole_one_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = folder_of(tiny_run(), tmp_path), Path.rename
    (folder / "result.json").write_text('{"scores": [')

    def stopped_before(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        assert run_cell(folder, Seen("free", 1, "")) == End("done")
        return rename(self, target)

    late = folder.at(1)
    late.files.mkdir(parents=True)
    late.set_status("stopped")
    monkeypatch.setattr(Path, "rename", stopped_before)
    _clean_up(late)
    assert (folder.result or {})["attempt"] == 2
    assert not (late.files / "damaged-result.json").exists()


# Forgetting.


def fresh(folder: Folder) -> list[Any]:
    (cell,) = decided([folder.run()], folder.path.parent, LaunchOptions(force=True))
    assert cell.decision == Decision("run", "pending", fresh=True)
    return [cell]


def test_what_another_process_is_at_is_not_forgotten(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    mine = owned(folder)
    thread = threading.Timer(0.7, lambda: write_json(mine.files / "beat", {"count": 2, "host": "there", "pid": 4}))
    thread.start()
    with pytest.raises(BadInput, match="process 4 on there is running it"):
        prepare(fresh(folder), 5)
    assert folder.attempts() == [1]


def test_what_is_forgotten_leaves_its_number_so_that_who_comes_back_knows_it_lost(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    lost = Lease(owned(folder), 1)
    prepare(fresh(folder), 0.6)
    assert folder.attempts() == [2] and folder.status == {"state": "pending"}
    assert {file.name for file in folder.path.iterdir()} == {"run.json", "attempts"}
    with pytest.raises(Lost):
        lost.check()
    with pytest.raises(OSError, match="beat"):
        lost._write()
    assert run_cell(folder) == End("done") and (folder.result or {})["attempt"] == 3


@pytest.mark.parametrize("forgotten", [True, False])
def test_who_forgets_too_late_takes_nothing_from_later_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    folder, forget = folder_of(tiny_run(), tmp_path), Folder.forget
    owned(folder).set_status("failed")
    cells = fresh(folder)

    def stopped_before(mine: Folder) -> None:  # past its lease
        if forgotten:
            later = claim(folder, Seen("free", 2, beat_of(mine)))
            assert later is not None
            forget(later)
            later.set_status("pending")
            assert run_cell(folder, look(folder)) == End("done")
        else:
            assert run_cell(folder, Seen("free", 2, beat_of(mine))) == End("done")
        forget(mine)

    monkeypatch.setattr(Folder, "forget", stopped_before)
    with pytest.raises(BadInput, match="another process has begun to run it"):
        prepare(cells, 5)
    assert (folder.result or {})["attempt"] == (4 if forgotten else 3)
    assert (folder.files / "weights-train.pt").is_file()


def test_who_forgets_has_a_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, forget, beats = folder_of(tiny_run(), tmp_path), Folder.forget, set()
    assert run_cell(folder) == End("done")

    def slow(mine: Folder) -> None:
        wait_for(lambda: beats.add(beat_of(mine)) or len(beats) > 2)
        forget(mine)

    monkeypatch.setattr(Folder, "forget", slow)
    prepare(fresh(folder), 0.6)
    assert folder.status == {"state": "pending"} and folder.attempts() == [2]


# Launchers.


def test_two_launchers_share_the_cells_of_a_grid(plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("MEETING", str(tmp_path / "meeting"))
    grid = tiny_grid(method=["sociable"], seed=list(range(6)))
    with ThreadPoolExecutor(2) as pool:  # those of the fault campaign are processes
        outcomes = list(pool.map(lambda _: launch(grid, tmp_path / "grid", stuck_seconds=120), range(2)))
    cells = [Folder(path) for path in (tmp_path / "grid").iterdir()]
    assert [(cell.status["state"], len(cell.attempts())) for cell in cells] == [("done", 1)] * 6
    assert len({cell.status["pid"] for cell in cells}) == 2, "each has done some"
    for outcome in outcomes:
        assert outcome.exit_code == 0
        assert outcome.ends == {cell.path.name: End("done") for cell in cells}, "each knows of all"


def test_a_cell_that_runs_elsewhere_is_waited_for_and_taken_over_when_its_lease_runs_out(tmp_path: Path) -> None:
    (run,) = (tiny_run(),)
    folder = folder_of(run, tmp_path / "grid")
    other = owned(folder)
    began = time.monotonic()
    outcome = run_cells([run], tmp_path / "grid", LaunchOptions(launcher="inline", quiet=True, lease_seconds=2))
    assert outcome.exit_code == 0 and (folder.result or {})["attempt"] == 2
    assert time.monotonic() - began > 2
    assert other.attempt == 1


def test_how_a_cell_ended_elsewhere_is_how_it_ended(tmp_path: Path) -> None:
    run = tiny_run()
    mine = owned(folder_of(run, tmp_path / "grid"))
    threading.Timer(1, lambda: mine.set_status("failed", reason="no luck")).start()
    outcome = run_cells([run], tmp_path / "grid", LaunchOptions(quiet=True))
    assert outcome.ends[run.id] == End("failed", "no luck") and outcome.exit_code == 1


@pytest.mark.slow
def test_memory_that_ran_out_is_no_end_for_other_launchers_while_there_are_attempts_left(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, lost = [], Board.lost

    def noting(board: Board, cell: Cell, end: End, mine: Folder | None = None) -> list[Cell]:
        seen.append((end.state, cell.folder.status["state"]))
        return lost(board, cell, end, mine)

    monkeypatch.setattr(Board, "lost", noting)
    outcome = launch(tiny_grid(method=["hungry"]), tmp_path / "grid")
    assert [end.state for end in outcome.ends.values()] == ["oom"]
    assert seen == [("oom", "stopped"), ("oom", "oom")]


def test_a_cell_whose_worker_dies_at_its_measures_is_done(tmp_path: Path) -> None:
    run = tiny_run()
    folder = folder_of(run, tmp_path)
    assert run_cell(folder) == End("done")
    board, killed = Board([Cell(run, folder, Decision("run", "done"), 1)], retry=0), End("failed", "killed")
    cell, mine = board.take(), claim(folder, look(folder))
    assert cell is not None and mine is not None
    mine.set_status("running")
    board.lost(cell, killed, mine)
    assert board.ends == {run.id: End("done")}
    assert mine.status["state"] == "done" and mine.status["unmeasured"] == {"all": "killed (attempt 1 of 1)"}


def test_a_cell_whose_source_failed_here_and_that_another_runs_is_left_to_that(tmp_path: Path) -> None:
    source = tiny_run("smt")
    run = tiny_run("smt+dmt", init_from={"run": source.id, "phase": "smt"})
    cells = [Cell(one, folder_of(one, tmp_path), Decision("run", "pending")) for one in (source, run)]
    owned(cells[1].folder).set_status("running")
    board = Board(cells)
    assert len(board.end(cells[0], End("failed"))) == 2
    assert look(cells[1].folder).state == "owned"


@pytest.mark.slow
def test_a_worker_that_makes_no_step_is_killed_and_its_cell_fails_when_it_is_out_of_attempts(
    plugin: None, tmp_path: Path
) -> None:
    outcome = launch(tiny_grid(method=["sleepy"]), tmp_path / "grid", stuck_seconds=3, lease_seconds=3, retry=0)
    (end,) = outcome.ends.values()
    assert end == End("failed", "no step for 3 s, see log.txt (attempt 1 of 1)")
    (folder,) = (Folder(path) for path in (tmp_path / "grid").iterdir())
    assert (folder.status["state"], folder.status["reason"]) == end
    assert "every thread is at:" in (folder.files / "log.txt").read_text()


@pytest.mark.slow
def test_a_frozen_worker_is_killed_and_its_cell_goes_on(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALLED", str(tmp_path / "signalled"))
    assert launch(tiny_grid(method=["frozen"]), tmp_path / "grid", lease_seconds=2).exit_code == 0
    (cell,) = (Folder(path) for path in (tmp_path / "grid").iterdir())
    assert (cell.result or {})["attempt"] == 2
    assert cell.at(1).status["reason"] == "no heartbeat for 2 s (attempt 1 of 2)"


# Disks.


@pytest.mark.slow
def test_a_disk_that_runs_full_ends_the_launch_with_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    grid = tiny_grid(method=["smt+dmt"], seed=[0, 1])
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    command = [sys.executable, str(ROOT / "run_bench.py"), "run", "grid.yaml", "--workers", "1"]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    full = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=small_files)
    assert full.returncode == 2
    (line,) = full.stderr.splitlines()
    assert line.startswith("error: results cannot be written: cannot write ") and line.endswith(".pt: File too large")
    assert "continue with: " in full.stdout.splitlines()[-1]
    for file in (tmp_path / "results").rglob("*.*"):
        assert not file.name.startswith("."), "nothing half written is left"
        assert file.suffix != ".json" or read_json(file) is not None
    assert launch(grid, tmp_path / "results" / "grid", launcher="inline").exit_code == 0
    assert launch(grid, tmp_path / "undisturbed", launcher="inline").exit_code == 0
    for cell in (tmp_path / "undisturbed").iterdir():
        assert numbers(tmp_path / "results/grid" / cell.name) == numbers(cell)


def test_an_attempt_that_cannot_write_its_first_beat_leaves_nothing_to_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tiny_run(), tmp_path)

    def full(self: Path, text: str) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    end = run_cell(folder)
    assert end.state == "stopped" and (end.reason or "").endswith("beat: No space left on device")
    monkeypatch.undo()
    assert look(folder) == Seen("free") and run_cell(folder) == End("done")


def test_who_describes_a_run_at_the_same_moment_as_another_is_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, replace = tiny_run(), Path.replace
    folder = Folder(tmp_path / run.id)

    def slow(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        Folder(folder.path).describe(run)
        folder.attempt_path(1).mkdir(parents=True)
        _clean_up(folder.at(1))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", slow)
    folder.describe(run)
    assert folder.run() == run


def test_a_folder_that_becomes_read_only_ends_the_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, grid = Path.mkdir, tiny_grid(seed=[0, 1])

    def mkdir(self: Path, *args: Any, **kwargs: Any) -> None:
        if self.parent.name == "attempts":
            raise OSError(errno.EROFS, "Read-only file system")
        before(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    outcome = launch(grid, tmp_path / "grid", launcher="inline")
    assert outcome.exit_code == 2 and (outcome.halted or "").endswith("attempts/000001: Read-only file system")
    assert sorted(end.state for end in outcome.ends.values()) == ["pending", "stopped"]
    monkeypatch.undo()
    assert launch(grid, tmp_path / "grid", launcher="inline").exit_code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    folder.mkdir(mode=0o555)
    with pytest.raises(BadInput, match="--results: cannot write to .*Permission denied"):
        launch(tiny_grid(), folder)


# Readers.


def test_a_folder_that_is_older_than_attempts_is_read_and_kept(tmp_path: Path) -> None:
    grid, folder = tiny_grid(), tmp_path / "grid"
    launch(grid, folder, launcher="inline")
    (cell,) = (Folder(path) for path in folder.iterdir())
    rows, curves, before = load_results(folder), load_curves(folder), numbers(cell.path)
    for file in cell.attempt_path(1).iterdir():
        if file.name != "result.json":
            file.rename(cell / file.name)
    (cell.attempt_path(1) / "result.json").unlink()
    cell.attempt_path(1).rmdir()
    (cell / "attempts").rmdir()
    write_json(cell / "result.json", {name: value for name, value in (cell.result or {}).items() if name != "attempt"})
    assert cell.status["state"] == "done" and numbers(cell.path) == before
    assert load_results(folder).equals(rows) and load_curves(folder).equals(curves)
    outcome = launch(grid, folder, launcher="inline", measures=("dynamics",))
    assert outcome.exit_code == 0 and (cell / "dynamics.json").is_file() and numbers(cell.path) == before


def test_a_result_of_another_form_is_damaged_though_the_newest_attempt_has_told_nothing(tmp_path: Path) -> None:
    launch(tiny_grid(), tmp_path / "grid", launcher="inline")
    (cell,) = (Folder(path) for path in (tmp_path / "grid").iterdir())
    rows = load_results(tmp_path / "grid")
    cell.attempt_path(2).mkdir()
    assert load_results(tmp_path / "grid").equals(rows), "it has just begun, to measure what is done"
    (cell / "result.json").write_text("{}")
    assert list(load_results(tmp_path / "grid")["state"]) == ["damaged"]
