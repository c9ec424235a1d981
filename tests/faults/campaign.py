"""A fault campaign: two launchers share a grid of every method while their processes are killed and frozen at random.

    python tests/faults/campaign.py --kills 200 --seed 0

Each shot is a SIGKILL of a launcher or a worker, or now and then a SIGSTOP of a worker past its lease: alone, or with
its launcher, as a machine that hangs, so that the other launcher takes the cell over before SIGCONT. Launchers that
were killed are started again. When the grid is done its cells are compared with the undisturbed ones, bit for bit; then
it starts again in another folder, until there were enough kills. It ends with the counts, and with exit code 1 when
something did not hold.
Linux only: processes are found in /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MARK = "BENCH_FAULT_CAMPAIGN"
LEASE = 6.0
"""Seconds; longer than what an observer that was itself stopped holds against others (`GAP_SECONDS` in the lease)."""
TINY = {"d": 8, "memory_tokens": 2, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "updater_layers": 1}
SHOTS = {"at work": 6.0, "freeze": 0.6, "launcher": 2.0, "worker": 1.0}
"""Kinds of shots, and how often they come."""
METHODS = ["bptt", "smt", "smt+dmt", "smt-dense+dmt", "tbptt", "transformer"]

GRID = {
    "base": {
        "task": {"name": "retrieval", "length": 16},
        "model": TINY,
        "training": {"batch_size": 8, "budget": {"steps": 300}},
        "evaluation": {
            **{"sequences": 32, "reference_sequences": 8, "every": 0.25},
            "stream": {"lanes": 4, "burn_in": 16, "columns": 32},
        },
        "device": "cpu",
    },
    "axes": {"method": METHODS},
}


def launch(folder: Path, seeds: int, steps: int, launcher: str = "local") -> int:
    """What a launcher process of the campaign does."""
    from bench.grid import make_grid
    from bench.launch import LaunchOptions, run_cells

    sets = [f"seed={list(range(seeds))}", f"training.budget.steps={steps}"]
    options = LaunchOptions(
        launcher=launcher,  # type: ignore[arg-type]
        workers=1,
        retry=10_000,
        quiet=True,
        checkpoint_seconds=0.2,
        lease_seconds=LEASE,
    )
    return run_cells(make_grid("grid", GRID, sets).runs, folder, options).exit_code


def numbers(folder: Path) -> dict[str, Any]:
    """All that a cell computed, apart from seconds, exactly."""
    from bench.results import Folder, load_tensors, read_json

    files = Folder(folder).files
    result = read_json(folder / "result.json")
    weights = {
        file.name: {name: value.numpy().tobytes() for name, value in load_tensors(file).items()}
        for file in files.glob("weights-*.pt")
    }
    return {
        "scores": result["scores"],
        "costs": _timeless(result["costs"]),
        "curve": [_timeless(point) for point in read_json(files / "curve.json")],
        "weights": weights,
    }


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not name.endswith("_seconds")}


@dataclass
class Campaign:
    """The state of a campaign: its processes, and what has been seen."""

    root: Path
    kills: int
    seed: int = 0
    seeds: int = 2
    steps: int = 150
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.mark = f"{os.getpid()}-{self.seed}"
        self.launchers: list[subprocess.Popen[bytes] | None] = [None, None]
        self.published: dict[Path, tuple[int, int]] = {}
        self.due = list(SHOTS)

    def run(self) -> bool:
        """All rounds. Returns whether everything held."""
        undisturbed = self.root / "undisturbed"
        if launch(undisturbed, self.seeds, self.steps, "inline") != 0:
            raise RuntimeError("the undisturbed grid did not end well")
        self.expected = {path.name: numbers(path) for path in undisturbed.iterdir() if path.is_dir()}
        try:
            while self.counts["kills"] < self.kills and not self.faults:
                self.round(self.root / f"round-{self.counts['rounds']:03}")
                print(f"round {self.counts['rounds']}: {self.counts['kills']} of {self.kills} kills", flush=True)
        finally:
            self.end()
        return not self.faults

    def round(self, folder: Path) -> None:
        """Shoot until the grid is done or there were enough kills; let it end; look at what is there."""
        self.counts["rounds"] += 1
        self.published = {}
        while not all(self.ended):
            for i in (0, 1):
                self.start(i, folder)
            until = time.monotonic() + self.random.uniform(0.05, 1.2)
            while time.monotonic() < until:
                self.observe(folder)
                time.sleep(0.02)
            if self.counts["kills"] < self.kills:
                self.shoot(folder)
        for launcher in self.launchers:
            assert launcher is not None
            if launcher.returncode != 0:
                self.faults.append(f"{folder.name}: a launcher ended with code {launcher.returncode}")
        self.launchers = [None, None]
        while self.processes():  # orphans on their way out: nothing that they do may harm
            time.sleep(0.1)
        self.observe(folder)
        self.check(folder)

    @property
    def ended(self) -> list[bool]:
        """Which launchers have ended by themselves."""
        return [one is not None and one.poll() is not None and one.returncode >= 0 for one in self.launchers]

    def start(self, i: int, folder: Path) -> None:
        """Start a launcher that does not run, unless it has found everything done."""
        one = self.launchers[i]
        if one is not None and (one.poll() is None or one.returncode >= 0):
            return
        self.counts["launchers started"] += 1
        command = [
            sys.executable,
            __file__,
            "--launch",
            str(folder),
            "--seeds",
            str(self.seeds),
            "--steps",
            str(self.steps),
        ]
        env = {**os.environ, MARK: self.mark, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.launchers[i] = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)

    # Shots.

    def processes(self) -> dict[int, str]:
        """The living processes of this campaign, and whether they are a launcher or a worker."""
        found = {}
        wanted = f"{MARK}={self.mark}".encode()
        for place in Path("/proc").iterdir():
            if place.name.isdecimal() and int(place.name) != os.getpid():
                with suppress(OSError):
                    if wanted in (place / "environ").read_bytes().split(b"\0"):
                        command = (place / "cmdline").read_bytes()
                        found[int(place.name)] = "worker" if b"bench.launch.worker" in command else "launcher"
        return found

    def at_work(self, folder: Path) -> dict[int, int]:
        """The workers that have begun a cell, and their launchers."""
        from bench.launch.lease import look

        found = {}
        for cell in self.cells(folder):
            with suppress(ValueError, OSError, IndexError):
                if look(cell).state == "owned":
                    pid = _owner(cell)
                    found[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return found

    def shoot(self, folder: Path) -> None:
        """One shot, at a process chosen at random: each kind once, then most often at a worker that is at a cell."""
        alive, at_work = self.processes(), self.at_work(folder)
        kind = self.due[0] if self.due else self.random.choices(list(SHOTS), list(SHOTS.values()))[0]
        pids = {
            "at work": [pid for pid in at_work if pid in alive],
            "launcher": [pid for pid, role in alive.items() if role == "launcher"] if at_work else [],
            "worker": [pid for pid, role in alive.items() if role == "worker" and pid not in at_work],
            "freeze": [pid for pid in at_work if alive.get(pid) == "worker"],
        }[kind]
        if not pids:
            return
        self.due = self.due[1:]
        pid = self.random.choice(sorted(pids))
        if kind == "freeze":
            together = self.random.random() < 0.7
            chosen = [at_work[pid], pid] if together and at_work[pid] in alive else [pid]
            self.freeze(folder, chosen)
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.counts["kills"] += 1
            self.counts[f"kills: {'worker at a cell' if kind == 'at work' else kind}"] += 1

    def freeze(self, folder: Path, pids: list[int]) -> None:
        """Stop processes past the lease, hold fire until another attempt has begun at the cell, and let them go on."""
        before = {cell.path: cell.newest for cell in self.cells(folder) if pids[-1] == _owner(cell)}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.counts["frozen with their launcher" if len(pids) > 1 else "frozen alone"] += 1
        began = time.monotonic()
        while time.monotonic() - began < 8 * LEASE:
            self.observe(folder)
            for i in (0, 1):
                self.start(i, folder)
            if any(cell.newest != before.get(cell.path, cell.newest) for cell in self.cells(folder)):
                self.counts["frozen until another took over"] += 1
                break
            time.sleep(0.05)
        time.sleep(self.random.uniform(0, 1))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # What is seen.

    def cells(self, folder: Path) -> Iterator[Any]:
        """The run folders of a round."""
        from bench.results import Folder

        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir():
                yield Folder(path)

    def observe(self, folder: Path) -> None:
        """A result that is there must stay what it is."""
        for cell in self.cells(folder):
            with suppress(FileNotFoundError):
                facts = (cell / "result.json").stat()
                seen = facts.st_ino, facts.st_mtime_ns
                if self.published.setdefault(cell.path, seen) != seen:
                    self.faults.append(f"{cell.path}: published twice")

    def check(self, folder: Path) -> None:
        """Every cell equals the undisturbed one, every file is whole, every result is of one attempt."""
        from bench.results import load_tensors

        cells = list(self.cells(folder))
        if {cell.path.name for cell in cells} != set(self.expected):
            self.faults.append(f"{folder.name}: other cells than there should be")
        for cell in cells:
            name = f"{folder.name}/{cell.path.name}"
            if cell.status["state"] != "done":
                self.faults.append(f"{name}: is {cell.status['state']}")
                continue
            if numbers(cell.path) != self.expected[cell.path.name]:
                self.faults.append(f"{name}: other numbers than undisturbed")
            attempts = cell.attempts()
            self.counts["cells"] += 1
            self.counts["attempts"] += len(attempts)
            self.counts["attempts that lost their cell"] += sum(cell.at(n).status["state"] == "lost" for n in attempts)
            linked = [n for n in attempts if _same(cell.attempt_path(n) / "result.json", cell / "result.json")]
            if linked != [(cell.result or {}).get("attempt")]:
                self.faults.append(f"{name}: published by {linked}")
            for file in cell.path.rglob("*"):
                try:
                    if file.name.startswith(".") or file.is_dir():
                        continue
                    if file.suffix == ".json" or file.name == "beat":
                        json.loads(file.read_bytes())
                    elif file.suffix == ".pt":
                        load_tensors(file)
                    self.counts["files read"] += 1
                except Exception as error:
                    self.faults.append(f"{file}: damaged: {error}")

    def end(self) -> None:
        """End what is left of this campaign's processes."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for one in self.launchers:
            if one is not None:
                one.wait()


def _owner(cell: Any) -> int:
    """The process that is or was last at a cell; 0 when that is not known."""
    with suppress(OSError, ValueError):
        return int(json.loads((cell.attempt_path(cell.newest) / "beat").read_text())["pid"])
    return 0


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description="Kill and freeze launchers and workers at random; compare the results."
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the shots; their moments also depend on the machine")
    parser.add_argument("--seeds", type=int, default=2, help="cells per method")
    parser.add_argument("--steps", type=int, default=150, help="of a cell")
    parser.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.launch:
        return launch(given.launch, given.seeds, given.steps)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        campaign = Campaign(Path(root), given.kills, given.seed, given.seeds, given.steps)
        held = campaign.run()
    for name, count in sorted(campaign.counts.items()):
        print(f"{count:6}  {name}")
    for fault in campaign.faults:
        print(f"did not hold: {fault}")
    print(f"{'everything held' if held else 'NOT everything held'}, in {time.monotonic() - began:.0f} s")
    return 0 if held else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
