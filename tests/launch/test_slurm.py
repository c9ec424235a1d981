"""What can be said of the SLURM launcher without a SLURM: settings, arrays, how a cell stands. See `tests/slurm`."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from bench import cli
from bench.config import Run
from bench.errors import BadInput
from bench.grid import make_grid
from bench.launch import slurm
from bench.launch.local import Interrupts, Outcome, run_cells
from bench.launch.plan import Cell, Decision, LaunchOptions
from bench.launch.progress import View
from bench.launch.slurm import Launch, gather, has_gpus, queue
from bench.launch.slurm.follow import Kept
from bench.launch.slurm.job import Job, Stop
from bench.launch.slurm.ledger import Ledger, Submission
from bench.launch.slurm.settings import request
from bench.launch.slurm.submit import arrays
from bench.results import Folder
from tests.helpers import TINY, tiny_run

GRID: dict[str, Any] = {
    "base": {"task": "retrieval", "model": TINY, "training.budget.steps": 6},
    "axes": {"method": ["bptt", "transformer"], "seed": [0, 1, 2, 3, 4]},
}


def cell(run: Run, root: Path = Path("nowhere")) -> Cell:
    return Cell(run, Folder(root / run.id), Decision("run", "pending"))


class Site:
    """A cluster that takes jobs and runs none: its programs are scripts, and the queue is what a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        number = f"n=$(($(cat {folder}/last 2>/dev/null || echo 0) + 1)); echo $n > {folder}/last"
        self.program("sbatch", f'{number}; cp "$1" {folder}/$n.sh; env > {folder}/$n.env; echo Submitted batch job $n')
        self.program("scontrol", "echo 'ClusterName = here'; echo 'MaxArraySize = 4'")
        self.program("squeue", f"env > {folder}/squeue.env; cat {folder}/queue")
        self.program("scancel", f'echo "$@" >> {folder}/cancelled')
        self.program("srun", "exit 1")
        self.queue({})

    def program(self, name: str, does: str) -> None:
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/sh\n{does}\n")
        file.chmod(0o755)

    def queue(self, jobs: dict[str, str]) -> None:
        (self.folder / "queue").write_text("".join(f"{name}|{state}|None|node1\n" for name, state in jobs.items()))

    def environment(self, of: str) -> dict[str, str]:
        """What a program saw: a job of this number, or squeue."""
        lines = (self.folder / f"{of}.env").read_text().splitlines()
        return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    monkeypatch.setenv("PATH", f"{made.folder}/bin:/usr/bin:/bin")
    queue.config.cache_clear()
    yield made
    queue.config.cache_clear()


def launch(root: Path, *runs: Run, settings: dict[str, Any] | None = None, **options: Any) -> Launch:
    return Launch(runs or [tiny_run()], root / "grid", LaunchOptions("slurm", quiet=True, **options), settings or {})


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Follow a launch, while one thing after another happens; then comes Ctrl-C."""

    def watch(*made: Launch | Callable[[], object], always: Callable[[], object] = list) -> Outcome:
        launches = [one for one in made if isinstance(one, Launch)]
        events = made[len(launches) :]
        left = [step for event in events for step in (event, *[lambda: None] * 4)]
        interrupts, began = Interrupts(), 0.0

        def clock() -> float:
            nonlocal began
            began += 20.0
            return began

        def sleep(seconds: float) -> None:
            always()
            if left:
                left.pop(0)()
            else:
                interrupts.count = 1

        with monkeypatch.context() as patch:
            patch.setattr("bench.launch.slurm.follow.time", SimpleNamespace(monotonic=clock, sleep=sleep))
            for one in launches:
                one.begin(interrupts)
            return launches[0].follow(launches[1:])

    return watch


def test_a_cell_has_not_ended_before_it_is_measured(site: Site, follow: Callable[..., Outcome], tmp_path: Path) -> None:
    run = tiny_run(training={"batch_size": 8, "budget": {"steps": 2}})
    run_cells([run], tmp_path / "grid", LaunchOptions("inline", quiet=True))
    made, cost = launch(tmp_path, run, measures=("cost",), retry=0), tmp_path / "grid" / run.id / "cost.json"
    made.submit()
    site.queue({"1": "RUNNING"})
    assert follow(made).ends[run.id].state == "pending", "its job is at it"
    assert follow(made, lambda: cost.write_text("{}")).ends[run.id].state == "done"
    cost.unlink()
    assert follow(made, lambda: site.queue({"1": "FAILED"})).ends[run.id].state == "lost"
    made = launch(tmp_path, run, measures=("cost",))
    made.submit()
    assert made.told() == "grid: 1 job submitted (2)"
    packed = Job(str(tmp_path / "grid"), [run.id, "other"], {"measures": ("cost",)})
    assert packed._is_left(Folder(cost.parent)), "a packed job that was sent to measure a cell does not pass it by"
    cost.write_text("{}")
    assert not packed._is_left(Folder(cost.parent))


@pytest.fixture
def handlers() -> Iterator[None]:
    """What a job sets, set back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_cell_that_starts_from_a_lost_one_waits_for_it(
    site: Site, follow: Callable[..., Outcome], tmp_path: Path
) -> None:
    case = {"method": "smt+dmt", "init_from": {"method": "smt", "phase": "smt"}}
    runs = make_grid("grid", {**GRID, "axes": {"case": [case, {"method": "smt"}]}}, ["device=cpu"]).runs
    made = launch(tmp_path, *runs)
    assert "--dependency='afterany:<1>'\n" in made.dry()[1]
    made.submit()
    assert "--dependency=afterany:1\n" in (site.folder / "2.sh").read_text()
    source, second = (next(run.id for run in runs if run.method == name) for name in ("smt", "smt+dmt"))
    folders = {name: Folder(tmp_path / "grid" / name) for name in (source, second)}
    job = Job(str(tmp_path / "grid"), [second], {})
    assert job() == {second: "pending"}, "too early: the job of its source was lost"
    site.queue({"1": "NODE_FAIL", "2": "COMPLETED"})
    follow(made, lambda: site.queue({"1": "NODE_FAIL", "2": "COMPLETED", "3": "RUNNING"}))
    assert "dependency" not in (site.folder / "3.sh").read_text()
    assert "--dependency=afterany:3\n" in (site.folder / "4.sh").read_text()
    site.queue({"3": "RUNNING"})
    launch(tmp_path, *runs).submit()
    assert "--dependency=afterany:3\n" in (site.folder / "5.sh").read_text(), "its source has a job already"
    folders[source].set_status("failed")
    assert not job._waits(folders[second]), "then it cannot be done: that is for the cell itself to say"


def test_a_cell_whose_owner_has_no_job_is_not_lost_while_its_heart_beats(
    site: Site, follow: Callable[..., Outcome], tmp_path: Path
) -> None:
    made, beats, folder = launch(tmp_path, retry=0), count(), Folder(tmp_path / "grid" / tiny_run().id)
    folder.at(1).files.mkdir(parents=True)
    folder.set_status("running", updated=1.0)

    def beat() -> None:
        (folder.files / "beat").write_text(f'{{"host": "elsewhere", "pid": 1, "count": {next(beats)}}}')

    beat()
    made.submit()
    (cell,) = made.cells
    assert folder.status["state"] == "running", "else it would seem free"
    site.queue({"1": "COMPLETED"})
    assert follow(made, list, list, always=beat).ends[cell.id].state == "pending"
    assert cell.folder.status["state"] == "running"
    assert follow(made, list).ends[cell.id].state == "lost"


def test_of_two_that_follow_one_sends_a_lost_cell_again(
    site: Site, follow: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, sure = launch(tmp_path), Launch._surely_gone
    made.submit()
    site.queue({"1": "FAILED"})

    def meanwhile(self: Launch, cell: Cell, status: Any) -> bool:
        if not (site.folder / "2.sh").is_file():
            launch(tmp_path).submit()
            site.queue({"2": "PENDING"})
        return sure(self, cell, status)

    monkeypatch.setattr(Launch, "_surely_gone", meanwhile)
    monkeypatch.setattr("bench.launch.slurm.follow.LOOKS", 1)
    follow(made, list)
    assert (site.folder / "2.sh").is_file() and not (site.folder / "3.sh").is_file()


def test_a_cell_that_is_lost_while_another_grid_is_followed_is_sent_again(
    site: Site, follow: Callable[..., Outcome], tmp_path: Path
) -> None:
    first, second = launch(tmp_path / "first"), launch(tmp_path / "second")
    first.submit()
    second.submit()
    site.queue({"1": "RUNNING", "2": "FAILED"})
    follow(first, second, lambda: site.queue({"1": "RUNNING", "3": "PENDING"}))
    assert (site.folder / "3.sh").is_file() and "sent again (job 3)" in str(told(second.view))


def told(view: View) -> list[str]:
    said: list[str] = []
    assert isinstance(view, Kept)
    view.tell(SimpleNamespace(say=said.append, ended=list))  # type: ignore[arg-type]
    return said


def test_what_ended_while_the_queue_was_asked_is_not_lost(site: Site, tmp_path: Path) -> None:
    made = launch(tmp_path)
    made.submit()
    (cell,) = made.cells
    statuses: dict[str, dict[str, Any]] = {cell.id: {"state": "running", "updated": 1.0}}
    cell.folder.set_status("failed", reason="it says why")
    sights, _ = slurm.sights(tmp_path / "grid", statuses)
    assert sights[cell.id].state == statuses[cell.id]["state"] == "failed"


def test_a_reason_may_have_any_character(site: Site) -> None:
    site.program("squeue", "echo '7|PENDING|down | see the wiki|'")
    assert queue.jobs(["7"]) == {"7": queue.Job("PENDING", "down | see the wiki", "")}


def test_an_sbatch_that_was_interrupted_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    site.program("sbatch", "kill -9 $$")  # (SIGINT may be ignored here)
    with pytest.raises(BadInput, match="it was interrupted"):
        launch(tmp_path).submit()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    site.program("sbatch", "kill -2 $PPID; kill -9 $$")
    assert cli.main(["run", "grid.yaml", "--launcher", "slurm"]) == 130
    assert capsys.readouterr().out == "stopped; nothing was submitted\n"


def test_a_cell_whose_source_is_diverged_is_not_sent(
    site: Site, follow: Callable[..., Outcome], tmp_path: Path
) -> None:
    case = {"method": "smt+dmt", "init_from": {"method": "smt", "phase": "smt"}}
    runs = make_grid("grid", {**GRID, "axes": {"case": [case, {"method": "smt"}]}}, ["device=cpu"]).runs
    made = launch(tmp_path, *runs)
    source, second = (next(run for run in runs if run.method == name) for name in ("smt", "smt+dmt"))
    Folder(tmp_path / "grid" / source.id).describe(source)
    Folder(tmp_path / "grid" / source.id).set_status("diverged", digest="of the code then")
    assert made.dry() == []
    made.submit()
    assert made.told() == "grid: nothing submitted"
    assert {name: end.state for name, end in follow(made).ends.items()} == {source.id: "diverged", second.id: "failed"}


@pytest.mark.usefixtures("handlers")
def test_a_job_whose_cell_is_stuck_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else it would hold its GPU until the time limit."""
    Folder(tmp_path / "cell").describe(tiny_run())

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("bench.launch.slurm.job.run_cell", lambda *_, on_stuck, **__: on_stuck())
    with pytest.raises(SystemExit, match="86"):
        Job(str(tmp_path), ["cell"], {"stuck_seconds": 5})()


def test_a_job_of_another_cluster_is_not_lost(site: Site, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(Submission("7", False, 1.0, "there", [["cell"]]))
    ledger.read()
    ledger.look(["cell"])
    sight = ledger.sight("cell", {"state": "pending"})
    assert (sight.state, sight.reason) == ("pending", "its job is on cluster there")


def test_a_launcher_that_is_in_a_job_itself_sends_jobs_that_do_not_see_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SLURM_MEM_PER_CPU", "SLURM_ARRAY_JOB_ID", "SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SQUEUE_USERS"):
        monkeypatch.setenv(name, "1")
    for name in ("SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "mine")
    launch(tmp_path, settings={"partition": "gpu"}).submit()
    seen = {name: value for name, value in site.environment("1").items() if name.startswith(("SLURM_", "SBATCH_"))}
    assert seen == {"SLURM_CONF": "mine", "SBATCH_ACCOUNT": "mine"}
    launch(tmp_path).submit()
    assert "SQUEUE_USERS" not in site.environment("squeue")


def test_a_dry_run_shows_the_same_files_where_there_is_no_slurm(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**GRID, "slurm": {"gpus": 1, "minutes": 20, "parallel": 7}}))
    words = ["run", str(tmp_path / "grid.yaml"), "--launcher", "slurm", "--results", str(tmp_path / "results")]
    site.program("scontrol", "echo 'MaxArraySize = 1001'")
    assert cli.main([*words, "--dry-run"]) == 0
    there, said = capsys.readouterr()
    assert not said
    monkeypatch.setenv("PATH", str(tmp_path))
    queue.config.cache_clear()
    assert cli.main([*words, "--dry-run"]) == 0
    here, said = capsys.readouterr()
    assert here == there and "--array=0-9%7" in here and "--gpus-per-node=1" in here
    assert said.startswith("warning: no sbatch on PATH") and not (tmp_path / "results").exists()
    assert cli.main(words) == 2, "nothing can be sent from here"


def test_a_checkout_whose_path_has_a_space_is_found_by_jobs(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.launch.slurm.submit.ROOT", Path("/my code"))
    (text,) = launch(tmp_path).dry()
    line = next(line for line in text.splitlines() if "PYTHONPATH" in line)
    told = subprocess.run(["bash", "-c", f"{line}; echo $PYTHONPATH"], capture_output=True, text=True, check=True)
    assert told.stdout.split(":")[0].strip() == "/my code"


def test_a_job_looks_for_no_module_in_the_working_folder(site: Site, tmp_path: Path) -> None:
    for settings, python in (({}, shlex.quote(sys.executable)), ({"python": "run-in image python3"}, "image python3")):
        (text,) = launch(tmp_path, settings=settings).dry()
        assert f" {python} -P -u -m submitit" in text


def test_a_folder_whose_name_slurm_would_change_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a%j/grid: .* no % in its path"):
        launch(tmp_path / "a%j")
    assert not (tmp_path / "a%j").exists()


def test_a_folder_whose_name_would_be_lines_of_the_script_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has a line break or another control character in it; rename it"):
        launch(tmp_path / "a\ntouch pwned", tiny_run()).dry()


def test_a_mistake_in_the_section_of_jobs_is_found_without_a_cluster_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = {"task": "retrieval", "method": "bptt", "training.budget.steps": 1}
    (tmp_path / "g.yaml").write_text(json.dumps({"base": base, "axes": {"seed": [0]}, "slurm": {"minuts": 5}}))
    assert cli.main(["run", "g.yaml", "--dry-run"]) == 2
    assert "slurm.minuts: unknown key" in capsys.readouterr().err


def test_the_command_line_wins_over_the_profile_and_the_profile_over_the_grid(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("partition: gpu\nminutes: 20\nsetup: [module load cuda]\n")
    merged = gather({"minutes": 10, "gpus": 1}, str(tmp_path / "cluster.yaml"), [("minutes", 30)])
    assert merged == {"partition": "gpu", "minutes": 30, "setup": ["module load cuda"], "gpus": 1}
    assert has_gpus(merged) and not has_gpus({}) and has_gpus({"directives": {"gres": "gpu:a100:1"}})
    assert not has_gpus({"directives": {"exclude": "gpu07"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minutes: 12:00:00", "cluster.yaml.minutes: '12:00:00' given; should be minutes, a whole number"),
        ("minutes: '60'", "should be minutes, a whole number"),
        ("gpu: 1", "did you mean 'gpus'?"),
        ("memory: 4GB", "'4GB' given"),
        ("setup: module load cuda", "'module load cuda' given"),
        ("directives: {--exclude: node1}", "without the dashes"),
        ("directives: {cpus_per_task: 3}", "is given by the setting 'cpus'"),
        ("directives: {array: 3}", "is given by the setting 'parallel'"),
        ("- gpus", "should hold settings"),
        ("overrides: [{where: {}, set: {gpu: 1}}]", "overrides.0.set.gpu"),
        (
            "overrides: [{where: {task.lenght: 8}, set: {gpus: 1}}]",
            "slurm.overrides.0.where: task: 'lenght' is unknown",
        ),
        ('partition: "gpu\\ntouch pwned"', "partition: 'gpu\\ntouch pwned' given; should not contain line breaks"),
        ('account: "a\\rb"', "should not contain line breaks or other control characters"),
        ('qos: "a\\0"', "should not contain line breaks or other control characters"),
        ('constraint: "a\\nb"', "constraint: 'a\\nb' given"),
        ('python: "python\\ntouch pwned"', "python: 'python\\ntouch pwned' given"),
        ('setup: ["a\\0b"]', "should not contain NUL"),
        ('directives: {comment: "a\\ntouch pwned"}', "should not contain line breaks"),
        ('directives: {"x\\ntouch pwned": 1}', "'x\\ntouch pwned' is not the name of an option"),
        ('directives: {"a b=c": 1}', "'a b=c' is not the name of an option"),
        ("[" * 100, "is nested more than 32 deep"),
    ],
)
def test_a_bad_profile_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(BadInput) as raised:
        gather({}, str(tmp_path / "cluster.yaml"), [])
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "slurm.gpus=1"], "--set slurm.gpus: is for --launcher slurm"),
        (["--detach"], "--detach: is for --launcher slurm"),
        (["--launcher", "slurm"], "no sbatch on PATH"),
        (["--launcher", "slrum"], "did you mean 'slurm'?"),
        (
            ["--launcher", "slurm", "--set", "slurm.gpus=1", "--set", "slurm.gpus=2"],
            "--set slurm.gpus=2: slurm.gpus is given twice",
        ),
    ],
)
def test_the_command_line_says_what_is_wrong(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["run", "ci", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1


def test_gpus_on_the_cluster_decide_what_device_auto_means() -> None:
    def site(section: Any) -> tuple[Any, bool]:
        return {**section, "gpus": 1}, True

    elsewhere = make_grid("grid", GRID, (), site)
    assert {(run.device, run.precision) for run in elsewhere.runs} == {("cuda", "bfloat16")}
    assert elsewhere.slurm == {"gpus": 1}
    with pytest.raises(BadInput, match=r"slurm\.gpus is 0"):
        make_grid("grid", GRID, ["device=cuda"], lambda section: (section, False))


def test_cells_are_packed_grouped_and_cut_into_arrays() -> None:
    cells = [cell(run) for run in make_grid("grid", GRID, ["device=cpu"]).runs]
    settings = {
        "parallel": 3,
        "cells_per_job": 2,
        "overrides": [{"where": {"method": "transformer"}, "set": {"cells_per_job": 1, "minutes": 9}}],
    }
    found = arrays(cells, settings, largest=2)
    assert [[len(job) for job in one.jobs] for one in found] == [[2, 2], [1], [1, 1], [1, 1], [1]]
    assert [one.parallel for one in found] == [2, 1, 1, 1, 1], "three at a time, of all that ask for the same"
    assert {one.request.minutes for one in found} == {60, 9}


def test_a_cell_is_sent_after_the_one_that_it_starts_from() -> None:
    case = {"method": "smt+dmt", "init_from": {"method": "smt", "phase": "smt"}}
    grid = make_grid("grid", {**GRID, "axes": {"case": [case, {"method": "smt"}]}}, ["device=cpu"])
    found = arrays([cell(run) for run in grid.runs], {}, largest=10)
    assert [one.jobs[0][0].run.method for one in found] == ["smt", "smt+dmt"] and [one.wave for one in found] == [0, 1]


def test_a_condition_that_no_cell_can_meet_is_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'memory_tokens'"):
        request({"overrides": [{"where": {"model.memory_token": 2}, "set": {}}]}, tiny_run())


def test_a_cell_for_a_gpu_whose_job_asks_for_none_is_refused() -> None:
    settings = {"overrides": [{"where": {"seed": 1}, "set": {"gpus": 1}}]}
    assert request(settings, tiny_run(device="cuda", seed=1)).gpus == 1
    with pytest.raises(BadInput, match="is for a GPU, and its job asks for none"):
        request(settings, tiny_run(device="cuda", seed=0))


def test_a_warning_that_would_come_at_once_is_refused() -> None:
    with pytest.raises(BadInput, match=r"slurm\.signal_seconds: 90 given; should be less"):
        request({"minutes": 1}, tiny_run())
    assert request({"minutes": 1, "signal_seconds": 20}, tiny_run()).minutes == 1


def test_processors_are_those_of_the_cells_that_run_at_once() -> None:
    assert request({"cells_per_job": 4, "at_once": 2}, tiny_run(threads=3)).cpus == 6
    assert request({"at_once": 2}, tiny_run(threads=3)).cpus == 3
    assert request({"cpus": 8}, tiny_run(threads=3)).cpus == 8


RUNNING, WAITING = queue.Job("RUNNING", node="node1"), queue.Job("PENDING", "Priority")
KILLED = queue.Job("OUT_OF_MEMORY", "OutOfMemory", "node1")


@pytest.mark.parametrize(
    ("state", "job", "cancelled", "seen", "reason"),
    [
        ("pending", WAITING, False, "pending", "Priority"),
        ("running", WAITING, False, "pending", "Priority"),  # put back into the queue
        ("stopped", WAITING, False, "pending", "Priority"),
        ("pending", RUNNING, False, "pending", "its job is running"),
        ("running", RUNNING, False, "running", None),
        ("done", RUNNING, False, "done", None),  # others of its job go on
        ("done", None, False, "done", None),
        ("failed", KILLED, False, "failed", None),
        ("running", KILLED, False, "lost", "job 7_1 is OUT_OF_MEMORY (OutOfMemory) on node1; it said: Killed"),
        ("running", None, False, "lost", "job 7_1 is gone from the queue; it said: Killed"),
        ("pending", queue.Job("CANCELLED"), True, "stopped", "job 7_1 was cancelled"),
        ("lost", RUNNING, False, "pending", "its job is running"),  # somebody sent it again
    ],
)
def test_how_a_cell_stands(
    state: str, job: queue.Job | None, cancelled: bool, seen: str, reason: str | None, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(Submission("7", True, 1.0, "here", [["other"], ["cell"]], cancelled=cancelled))
    ledger.logs.mkdir()
    (ledger.logs / "7_1_0_log.err").write_text("submitit WARNING - x\nKilled\nsrun: error: node1: task 0: Killed\n")
    ledger.read()
    ledger.queue = {"7_1": job} if job else {}
    sight = ledger.sight("cell", {"state": state})
    assert (sight.state, sight.reason, sight.job) == (seen, reason, "7_1")
    assert ledger.sight("unknown", {"state": state}).state == state


def test_a_job_that_still_runs_counts_more_than_a_later_one_that_is_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number, submitted in (("7", 1.0), ("9", 2.0)):
        ledger.write(Submission(number, False, submitted, "here", [["cell"]]))
    ledger.read()
    ledger.queue = {"7": RUNNING, "9": KILLED}
    assert ledger.active("cell") and ledger.sight("cell", {"state": "running"}).job == "7"


@pytest.mark.parametrize(
    ("told", "minutes", "warned", "timed_out"),
    [
        ("RunTime=1 PreemptEligibleTime=x PreemptTime=2026-01-01T00:00:00", 1, 30.0, False),
        ("PreemptEligibleTime=x PreemptTime=None", 1, 30.0, True),
        ("PreemptEligibleTime=x PreemptTime=None", 60, 30.0, False),
        ("PreemptEligibleTime=x PreemptTime=None", 60, 3480.0, True),
        (None, 60, 3480.0, True),
    ],
)
def test_a_preemption_is_no_time_limit(
    told: str | None, minutes: int, warned: float, timed_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if told is None:
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, 0, told, "")

    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(subprocess, "run", show)
    assert Job("grid", ["cell"], {}, minutes=minutes)._timed_out(warned) is timed_out


@pytest.mark.usefixtures("handlers")
def test_a_warning_only_sets_a_flag_and_what_is_kept_is_the_description() -> None:
    called: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    stop = Stop()
    signal.raise_signal(signal.SIGUSR2)
    signal.raise_signal(signal.SIGUSR2)
    assert stop.count == 1 and stop.warned is not None and not called
    stop.requeue(timed_out=False)
    assert called == [signal.SIGUSR2]
    job = Job("grid", ["cell"], {"checkpoint_seconds": 20.0})
    assert job.checkpoint().function is job and set(map(type, vars(job).values())) <= {str, list, dict, int}
