"""The core of the tests on a real SLURM: grids as jobs, the same numbers, and jobs that go away."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.conftest import SLOW, User, wait_for

pytestmark = pytest.mark.slurm
Agree = Callable[[User], bool]


def test_a_grid_is_sent_as_arrays_of_the_sites_size_and_gives_the_numbers_of_the_local_launcher(
    user: User, agree: Agree
) -> None:
    user.grid({"parallel": 3, "gpus": 1}, method=["slow-bptt", "smt+dmt", "transformer"], seed=[0, 1])
    texts = user.run("--dry-run")
    assert re.findall(r"--array=(\S+)", texts) == ["0-3%2", "0-1%1"], "six jobs, at most four to an array"
    assert texts.count("--gpus-per-node=1") == 2 and "--cpus-per-task=1 " in texts.split("srun")[-1]
    assert not user.results.exists()
    told = user.run()
    assert "6 jobs submitted" in told and "6 cells: 6 done" in told
    assert agree(user)
    cell = user.status()[0]
    assert (cell["state"], cell["job_state"]) == ("done", None) and cell["job"]
    assert "6 kept from before" not in user.run("--dry-run") and "nothing submitted" in user.run()


def test_small_cells_share_a_job(user: User, agree: Agree) -> None:
    user.grid({"cells_per_job": 3, "at_once": 2}, method=["slow-bptt", "transformer"], seed=[0, 1])
    assert "2 jobs submitted" in user.run()
    assert agree(user)


def test_ctrl_c_leaves_the_jobs_and_a_requeue_a_kill_and_the_next_run_change_no_number(
    user: User, agree: Agree
) -> None:
    user.grid(seed=[0, 1])
    launcher = user.start(*user.command(), slow=0.5)
    first = user.running()
    launcher.send_signal(signal.SIGINT)
    out, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 130 and "the jobs continue" in out and "cancel grid.yaml" in out
    assert user.jobs()[user.job(first)] == "RUNNING"
    user.cluster.run("scontrol", "requeue", user.job(first))
    second = next(cell for cell in user.cells() if cell.path != first.path)
    wait_for(lambda: second.status["state"] == "running" and second.status.get("steps"))
    os.kill(second.status["pid"], signal.SIGKILL)
    told = user.run("--retry", "2", slow=0.5)
    assert "2 cells have jobs already" in told or "1 cell has a job already" in told
    assert user.states() == ["done", "done"] and first.status["attempt"] == 2
    assert agree(user)


def test_a_cancelled_job_is_noticed_and_its_cell_is_lost_until_the_next_run(user: User, agree: Agree) -> None:
    user.grid({"cpus": 4}, seed=[0, 1])  # one at a time
    launcher = user.start(*user.command(), slow=0.5)
    running = user.running()
    (pending,) = (cell for cell in user.cells() if cell.path != running.path)
    wait_for(lambda: user.jobs()[user.job(pending)] == "PENDING")
    (row,) = (row for row in user.status() if row["id"] == pending.path.name)
    assert row["state"] == "pending" and row["reason"] in ("Resources", "Priority"), row
    user.cluster.run("scancel", user.job(pending))
    user.cluster.run("scancel", user.job(running))
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 1, f"{out}\n{err}"
    for cell in (running, pending):
        assert cell.status["state"] == "lost", cell.status
        assert f"job {user.job(cell)} is CANCELLED" in cell.status["reason"]
    assert running.status["steps"] and (running.files / "checkpoint.pt").is_file()
    user.run()
    assert running.status["attempt"] == 2
    assert agree(user)


def test_detached_jobs_can_be_seen_and_cancelled(user: User) -> None:
    user.grid()
    out = user.run("--detach", slow=2.0)
    assert "follow with:" in out and "cancel with:" in out
    cell = user.running()
    (row,) = user.status()
    assert (row["state"], row["job"], row["job_state"]) == ("running", user.job(cell), "RUNNING")
    assert f"cancelled: {user.job(cell)}" in user.bench("cancel", "grid.yaml")
    wait_for(lambda: user.jobs()[user.job(cell)] == "CANCELLED")
    assert user.status()[0]["state"] == "stopped"
    assert "no jobs of grid.yaml wait or run" in user.bench("cancel", "grid.yaml")


def test_a_job_that_cannot_import_the_project_is_lost_with_its_last_words(user: User) -> None:
    user.grid({"python": "/usr/bin/python3 -S", "setup": ["unset PYTHONPATH"]})
    user.run("--retry", "0", code=1)
    (cell,) = user.cells()
    assert cell.status["state"] == "lost" and "No module named" in cell.status["reason"]


BAD = {
    "a time": ("slurm.minutes=12:00:00", "'12:00:00' given; should be minutes, a whole number"),
    "a time with days": ("slurm.minutes=1-00:00:00", "should be minutes, a whole number"),
    "an unknown key": ("slurm.gpu=1", "did you mean 'gpus'?"),
    "too many GPUs": ("slurm.gpus=9", "Requested node configuration is not available"),
    "an unknown partition": ("slurm.partition=bach", "did you mean 'batch'?"),
    "a directive of ours": ("slurm.directives={time: 5}", "is given by the setting 'minutes'"),
    "a bad option": ("slurm.directives={no-such-thing: 5}", "no-such-thing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_end_in_one_helpful_line(name: str, user: User) -> None:
    given, message = BAD[name]
    user.grid()
    err = user.run("--set", given, code=2)
    assert message in err and len(err.strip().splitlines()) == 1, err
    assert not list(user.results.glob("slurm/jobs/*")) and not set(user.jobs().values()) & {"PENDING", "RUNNING"}


def test_a_refusal_after_the_first_array_leaves_nothing_submitted(user: User) -> None:
    user.grid({"overrides": [{"where": {"seed": 5}, "set": {"gpus": 9}}]}, seed=[0, 1, 2, 3, 4, 5])
    err = user.run(code=2, slow=0.5)
    assert "Requested node configuration" in err and "node: " not in err
    assert not list(user.results.glob("slurm/jobs/*"))
    wait_for(lambda: not set(user.jobs().values()) & {"PENDING", "RUNNING", "COMPLETING"})
    assert set(user.states()) <= {"pending", "stopped"}


def test_without_sbatch_there_is_one_line(tmp_path: Path, user: User) -> None:
    user.grid()
    process = user.start("run", "grid.yaml", "--launcher", "slurm", "--plugin", str(SLOW), PATH=str(tmp_path))
    _, err = process.communicate()
    assert process.returncode == 2 and err.startswith("error: --launcher slurm: no sbatch on PATH"), err
