"""What happens on clusters: time limits, preemption, crashes, restarts, several users; the numbers stay the same.

These take minutes, most of them SLURM's own: it looks at time limits every half minute, and at dead nodes even less.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from bench import load_results
from bench.results import read_json
from tests.slurm.cluster import Cluster, Settings
from tests.slurm.conftest import GRID, User, wait_for

pytestmark = pytest.mark.slurm
Agree = Callable[[User], bool]


def attempts(user: User) -> list[int]:
    return [cell.status["attempt"] for cell in user.cells()]


def starts(user: User) -> int:
    """How often cells were begun, or gone on with."""
    return sum(cell.newest for cell in user.cells())


def test_three_time_limits_in_one_cell_and_in_a_packed_job(user: User, agree: Agree) -> None:
    limits = {"minutes": 1, "signal_seconds": 20}
    packed = {"where": {"seed": [1, 2]}, "set": {"cells_per_job": 2, "at_once": 2}}
    user.grid({**limits, "overrides": [packed]}, seed=[0, 1, 2])
    user.run("--retry", "0", slow=3.0, timeout=600)
    assert user.states() == ["done"] * 3
    for cell in user.cells():
        assert cell.newest >= 4
    assert agree(user)


def test_time_limits_are_counted_when_the_site_wants_it(user: User) -> None:
    user.grid({"minutes": 1, "signal_seconds": 20, "timeouts": 0})
    user.run("--retry", "0", slow=3.0, code=1)
    (cell,) = user.cells()
    assert cell.status["state"] == "lost" and "timed-out too many times" in cell.status["reason"]
    assert (cell.files / "checkpoint.pt").is_file()


def test_preemption_costs_nothing_even_in_a_short_job(user: User, agree: Agree) -> None:
    user.grid({"minutes": 9, "timeouts": 0, "cpus": 4})
    launcher = user.start(*user.command("--retry", "0"), slow=0.5)
    cell = user.running()
    user.cluster.run("sbatch", "--partition=urgent", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 4")
    wait_for(lambda: cell.status["state"] == "stopped", 30)
    steps = cell.status["steps"]
    out, err = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, f"{out}\n{err}\n{user.log()}"
    assert attempts(user) == [2] and steps
    assert agree(user)


def test_a_worker_of_a_packed_job_is_killed_and_its_cell_goes_on_in_the_same_job(user: User, agree: Agree) -> None:
    user.grid({"cells_per_job": 2, "at_once": 2}, seed=[0, 1])
    launcher = user.start(*user.command(), slow=0.4)
    os.kill(user.running().status["pid"], signal.SIGKILL)
    assert launcher.wait(240) == 0
    assert starts(user) == 3 and len(list((user.results / "slurm" / "jobs").iterdir())) == 1
    assert agree(user)


def test_the_node_crashes_and_comes_back(user: User, agree: Agree) -> None:
    user.grid(seed=[0, 1])
    launcher = user.start(*user.command("--retry", "0"), slow=0.5)
    user.running()
    user.cluster.kill_node("node1")
    user.cluster.start_node("node1")
    out, err = launcher.communicate(timeout=400)
    assert launcher.returncode == 0, f"{out}\n{err}\n{user.log()}"
    assert starts(user) > 2
    assert agree(user)


def test_the_controller_is_restarted_while_jobs_run(user: User, agree: Agree) -> None:
    user.grid(seed=[0, 1])
    launcher = user.start(*user.command("--retry", "0"), slow=0.5)
    user.running()
    user.cluster.kill_controller()
    row = user.status()[0]
    assert row["state"] in ("running", "pending") and row["job_state"] is None
    user.cluster.start_controller()
    out, err = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, f"{out}\n{err}\n{user.log()}"
    assert "lost" not in out
    assert starts(user) == 2
    assert agree(user)


def test_two_launchers_and_one_that_is_killed_share_the_jobs(user: User, agree: Agree) -> None:
    user.grid({"parallel": 2}, seed=[0, 1, 2])
    launchers = [user.start(*user.command(), slow=0.3) for _ in range(3)]
    user.running()
    launchers[0].kill()
    for launcher in launchers[1:]:
        out, err = launcher.communicate(timeout=240)
        assert launcher.returncode == 0, f"{out}\n{err}\n{user.log()}"
    assert starts(user) == 3 and len(list((user.results / "slurm" / "jobs").iterdir())) == 1
    assert agree(user)


def test_a_cell_waits_for_the_one_that_it_starts_from(user: User) -> None:
    smt = {"training.budget": {"steps": 12}}
    cases = [{"method": "smt", **smt}, {"method": "smt+dmt", "init_from": {"method": "smt", "phase": "smt"}, **smt}]
    (user.folder / "grid.yaml").write_text(yaml.safe_dump({**GRID, "axes": {"case": cases}}))
    assert "2 cells: 2 done" in user.run()
    (second,) = (cell for cell in user.cells() if "smt+dmt" in cell.path.name)
    assert read_json(second / "result.json")["inherited"]
    (file,) = (user.results / "slurm" / "logs").glob(f"{user.job(second)}_submission.sh")
    assert "--dependency=afterany:" in file.read_text()


def test_the_ci_grid_ends_with_the_table_of_the_local_launcher(user: User) -> None:
    user.bench("run", "ci", "--results", "local", timeout=900)  # a hundred cells, and the machine may be busy
    user.bench("run", "ci", "--results", "jobs", "--launcher", "slurm", "--set", "slurm.cells_per_job=20", timeout=900)
    one, two = (load_results(user.folder / name / "ci") for name in ("local", "jobs"))
    timings = [column for column in one if column.endswith("_seconds")]
    assert len(one) and one.drop(columns=timings).equals(two.drop(columns=timings))


@pytest.fixture(scope="module")
def accounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster where `sacct` answers, and memory is watched."""
    made = Cluster(tmp_path_factory.mktemp("accounted"))
    try:
        made.start(Settings(sacct=True, memory_kill=True))
        yield made
    finally:
        made.stop()


def test_the_same_where_sacct_answers(accounted: Cluster, cluster: Cluster, tmp_path: Path, agree: Agree) -> None:
    assert "JobID" in accounted.run("sacct")
    with pytest.raises((RuntimeError, subprocess.SubprocessError)):
        cluster.run("sacct")
    user = User(accounted, tmp_path)
    user.grid({"memory": 1.5}, seed=[0, 1])
    launcher = user.start(*user.command(), slow=0.5)
    cell = user.running()
    accounted.run("scancel", user.job(cell))
    assert launcher.wait(120) == 1 and sorted(user.states()) == ["done", "lost"]
    user.run()
    assert agree(user)


def test_a_job_that_takes_too_much_memory_is_lost_and_goes_on_with_more(
    accounted: Cluster, tmp_path: Path, agree: Agree
) -> None:
    user = User(accounted, tmp_path)
    user.grid()
    user.run("--retry", "0", "--set", "slurm.memory=0.1", slow=0.5, code=1)
    (cell,) = user.cells()
    assert cell.status["state"] == "lost" and "memory limit" in cell.status["reason"], cell.status
    user.run("--set", "slurm.memory=1.5")
    assert agree(user)
