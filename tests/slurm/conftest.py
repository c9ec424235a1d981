"""A cluster for the tests that are marked `slurm`, and a user who runs bench on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.results import Folder, load_tensors, read_json
from tests.helpers import TINY
from tests.slurm.cluster import Cluster, Settings, missing

ROOT = Path(__file__).parents[2]
SLOW = Path(__file__).with_name("plugin_slow.py")

GRID: dict[str, Any] = {
    "base": {
        "task": {"name": "retrieval", "length": 12},
        "model": TINY,
        "training": {"batch_size": 8, "budget": {"steps": 40}},
        "evaluation": {"sequences": 32, "reference_sequences": 8, "every": 0.25},
        "device": "cpu",
    },
    "axes": {"method": ["slow-bptt"], "seed": [0]},
    "slurm": {"poll_seconds": 1},
}
"""One cell of 40 steps, each of which takes SLOW_SECONDS."""


ASKED = "starts a cluster: run with BENCH_SLURM=core, or BENCH_SLURM=all for what takes minutes of SLURM's own"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    asked = os.environ.get("BENCH_SLURM")
    absent = None if asked is None else missing()
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("slurm"):
            wanted = asked == "all" or (asked == "core" and item.path.name == "test_core.py")
            if reason := absent or (None if wanted else ASKED):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node with four CPUs and two GPUs, arrays of at most four jobs, no accounting."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start(Settings(max_array=4))
        yield made
    finally:
        made.stop()


class User:
    """Somebody at the cluster, in a folder of their own."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.results = folder / "results" / "grid"

    def grid(self, slurm: dict[str, Any] | None = None, **axes: list[Any]) -> None:
        """Write grid.yaml."""
        grid = {**GRID, "axes": {**GRID["axes"], **axes}, "slurm": {**GRID["slurm"], **(slurm or {})}}
        (self.folder / "grid.yaml").write_text(yaml.safe_dump(grid))

    def start(self, *words: str, slow: float = 0.0, **environment: str) -> subprocess.Popen[str]:
        """A command of bench, started."""
        command = [sys.executable, str(ROOT / "run_bench.py"), *words]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.cluster.environment, "SLOW_SECONDS": str(slow), "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def bench(self, *words: str, slow: float = 0.0, code: int = 0, timeout: float = 240) -> str:
        """What a command of bench says; it must end with this code."""
        process = self.start(*words, slow=slow)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"still running after {timeout} s:\n{out}\n{err}\n{self.log()}") from None
        assert process.returncode == code, f"{out}\n{err}\n{self.log()}"
        return out if code != 2 else err

    def run(self, *words: str, slow: float = 0.0, code: int = 0, timeout: float = 240) -> str:
        """`run` of the grid on the cluster."""
        return self.bench(*self.command(*words), slow=slow, code=code, timeout=timeout)

    def command(self, *words: str) -> list[str]:
        return ["run", "grid.yaml", "--launcher", "slurm", "--plugin", str(SLOW), *words]

    def status(self) -> list[dict[str, Any]]:
        """`status --json`, of the cells in the order of their ids."""
        rows = json.loads(self.bench("status", "grid.yaml", "--plugin", str(SLOW), "--json"))
        return sorted(rows, key=lambda row: str(row["id"]))

    def cells(self) -> list[Folder]:
        return [Folder(file.parent) for file in sorted(self.results.glob("*/run.json"))]

    def states(self) -> list[str]:
        return [cell.status["state"] for cell in self.cells()]

    def running(self) -> Folder:
        """A cell that trains, once there is one and it has told of its progress."""

        def found() -> Folder | None:
            told = [cell for cell in self.cells() if cell.status["state"] == "running" and cell.status.get("steps")]
            return told[0] if told else None

        return wait_for(found, 90)

    def jobs(self) -> dict[str, str]:
        """The state of each job that the queue knows, by its number."""
        told = self.cluster.run("squeue", "--noheader", "--array", "--states=all", "--format=%i %T")
        return dict(line.split() for line in told.splitlines())

    def job(self, cell: Folder) -> str:
        """The number of the last job of a cell."""
        for file in sorted((self.results / "slurm" / "jobs").glob("*.json"), key=lambda file: -int(file.stem)):
            record = read_json(file)
            for i, cells in enumerate(record["cells"]):
                if cell.path.name in cells:
                    return f"{record['number']}_{i}" if record["array"] else str(record["number"])
        raise AssertionError(f"{cell.path.name} has no job")

    def log(self) -> str:
        """The ends of all logs, for a message."""
        files = [*self.results.glob("*/attempts/*/log.txt"), *self.results.glob("slurm/logs/*.err")]
        return "\n".join(f"== {file.name}\n{file.read_text()[-1500:]}" for file in files)


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path) -> Iterator[User]:
    """Somebody whose jobs are cancelled when they leave."""
    yield User(cluster, tmp_path)
    cluster.run("scancel", "--state=PENDING", f"--user={os.environ.get('USER', 'root')}", check=False)
    cluster.run("scancel", f"--user={os.environ.get('USER', 'root')}", check=False)


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of all cells that the tests have, from this machine's launcher with nothing in its way."""
    user = User(cluster, tmp_path_factory.mktemp("undisturbed"))
    user.grid(method=["slow-bptt", "smt+dmt", "transformer"], seed=[0, 1, 2])
    user.bench("run", "grid.yaml", "--plugin", str(SLOW))
    return numbers(user.results)


@pytest.fixture
def agree(undisturbed: dict[str, Any]) -> Callable[[User], bool]:
    """Whether a user's cells, all of them done, have the undisturbed numbers bit for bit."""

    def compare(user: User) -> bool:
        found = numbers(user.results)
        return bool(found) and found == {name: undisturbed[name] for name in found}

    return compare


def numbers(grid: Path) -> dict[str, Any]:
    """All that the cells of a grid computed, apart from seconds: curves, scores, costs, and the weights, exactly."""
    seconds = ("training_seconds", "cpu_seconds", "evaluation_seconds", "compile_seconds")
    found = {}
    for folder in sorted(file.parent for file in grid.glob("*/run.json")):
        result, curve = read_json(folder / "result.json"), read_json(Folder(folder).files / "curve.json")
        assert result is not None, f"{folder.name} is not done: {Folder(folder).status}"
        found[folder.name] = {
            "scores": result["scores"],
            "costs": {name: value for name, value in result["costs"].items() if name not in seconds},
            "curve": [{name: value for name, value in point.items() if name not in seconds} for point in curve],
            "weights": {
                file.name: {name: value.numpy().tobytes() for name, value in load_tensors(file).items()}
                for file in Folder(folder).files.glob("weights-*.pt")
            },
        }
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    return found
