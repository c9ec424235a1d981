"""How an attack is made: files in an empty folder, one command there, and what became of it.

The program is imported once, from whatever tree is attacked, and every command runs in a fork of this process: it
starts in milliseconds, ends as a process does, and nothing that it does reaches the next one. POSIX only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 20.0
MEMORY = 3 << 30  # bytes of address space that an attack may add: what eats more has lost
LONGEST_LINE = 400
READ = (".csv", ".md", ".html", ".tex", ".sh")
IMPORTED = (
    *("torch", "pandas", "seaborn", "scipy.stats", "bench.cli", "bench.grid", "bench.launch.slurm"),
    *("bench.results", "bench.measure", "bench.compare", "bench.report"),
)
"""What takes longest to import of all that commands need."""

BASE: dict[str, Any] = {
    "task": {"name": "retrieval", "length": 12},
    "model": {
        **{"d": 8, "memory_tokens": 2, "heads": 2},
        **{"encoder_layers": 1, "decoder_layers": 1, "updater_layers": 1},
    },
    "training": {"batch_size": 8, "budget": {"steps": 2}},
    "evaluation": {"sequences": 32, "reference_sequences": 8, "every": 0.5},
    "device": "cpu",
}
"""The base of a grid whose cells take a moment."""

Content = str | bytes | Callable[[Path], object]
"""A file's content, or what makes it: a fifo, a link, a folder."""


@dataclass(frozen=True)
class Attack:
    """One command and the files that it finds. `kind` is what is counted, `what` tells one from another."""

    kind: str
    what: str
    argv: Sequence[str]
    files: Mapping[str, Content] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    bad: bool = True
    """Whether the command has to be refused."""
    within: Callable[[], object] = lambda: None
    """What is done in the command's process before it starts."""


@dataclass(frozen=True)
class Outcome:
    """What became of an attack."""

    attack: Attack
    code: int
    out: str
    err: str
    seconds: float
    hung: bool
    left: tuple[str, ...]
    """Files that were not there before."""
    made: Mapping[str, bytes] = field(default_factory=dict)
    """What people read among them: tables, text and pages."""

    @property
    def traceback(self) -> bool:
        """Whether it ended with one, or by a signal."""
        return not self.hung and (self.code < 0 or "Traceback (most recent call last)" in self.err + self.out)

    def faults(self) -> list[str]:
        """What should not be, in words."""
        if self.hung:
            return ["hang"]
        if self.traceback:
            return ["traceback"]
        if not self.attack.bad:
            return [] if self.code in (0, 1) else [f"refused (exit code {self.code})"]
        if self.code == 0:
            return ["accepted"]
        lines = self.err.splitlines()
        found = []
        if self.code != 2:
            found.append(f"exit code {self.code}")
        elif len(lines) != 1 or not lines[0].startswith("error: "):
            found.append(f"{len(lines)} lines")
        if any(len(line) > LONGEST_LINE for line in lines):
            found.append("long line")
        if any(not one.isprintable() for line in lines for one in line):
            found.append("control characters")
        if self.left:
            found.append("left files")
        return found

    def __str__(self) -> str:
        words = " ".join(one if len(one) < 60 else f"{one[:57]}..." for one in self.attack.argv)
        said = (self.err.strip() or self.out.strip()).splitlines()[-1:] or ["nothing"]
        told = f"{self.attack.kind}: {self.attack.what[:120]!r} [{words!r}] code {self.code}: {said[0][:300]!r}"
        return "".join(one if one.isprintable() else "?" for one in told)


class Target:
    """The program of a tree."""

    def __init__(self, tree: Path = ROOT) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        sys.path.insert(0, str(tree.resolve()))
        for name in IMPORTED:
            importlib.import_module(name)
        bench = sys.modules["bench"]
        if tree.resolve() not in Path(str(bench.__file__)).resolve().parents:
            raise SystemExit(f"bench was imported from {bench.__file__}, not from {tree}")
        sys.modules["torch"].set_num_threads(1)
        registry = importlib.import_module("bench.registry")
        for one in registry.REGISTRIES:
            one.names()
        self.script = sys.modules["bench.cli"].script

    def run(
        self, attack: Attack, seconds: float = HANG_SECONDS, after: Callable[[Path], object] = lambda folder: None
    ) -> Outcome:
        """Make the attack in a folder of its own, which is then removed; `after` looks at it before."""
        with tempfile.TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True) as root:
            folder = Path(root) / "here"
            folder.mkdir()
            for name, content in attack.files.items():
                place(folder / name, content)
            before = _listed(folder)
            out, err = Path(root) / "out", Path(root) / "err"
            began = time.monotonic()
            pid = os.fork()
            if pid == 0:
                self._attacked(attack, folder, out, err)
            code, hung = _wait(pid, seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # its workers
            texts = [path.read_bytes().decode("utf-8", "replace") if path.exists() else "" for path in (out, err)]
            left = tuple(sorted(name for name in _listed(folder) - before if not _harmless(name)))
            made = {name: (folder / name).read_bytes() for name in left if name.endswith(READ)}
            after(folder)
            return Outcome(attack, code, *texts, time.monotonic() - began, hung, left, made)

    def _attacked(self, attack: Attack, folder: Path, out: Path, err: Path) -> None:
        """The fork: everything that is the command's own, then the command. Does not return."""
        code = 99
        try:
            os.setsid()
            os.chdir(folder)
            for number, path in enumerate((os.devnull, out, err)):
                opened = os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY)
                os.dup2(opened, number)
                os.close(opened)
            sys.stdout, sys.stderr = (
                os.fdopen(one, "w", encoding="utf-8", errors="backslashreplace") for one in (1, 2)
            )
            os.environ.update({"BENCH_DATA": str(folder / "data"), "HOME": str(folder), **attack.env})
            sys.argv = ["run_bench.py", *attack.argv]
            signal.signal(signal.SIGINT, signal.default_int_handler)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            attack.within()
            self.script()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1  # as `script` ends
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code)


def _wait(pid: int, seconds: float) -> tuple[int, bool]:
    """Its exit code, negative for a signal, and whether it had to be ended."""
    until, pause = time.monotonic() + seconds, 0.002
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGKILL, True


def place(path: Path, content: Content) -> None:
    """Make one of the files that an attack finds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, "utf-8", errors="surrogateescape")


def fifo(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def folder(path: Path) -> None:
    """A folder where a file should be."""
    path.mkdir()


def link(target: str) -> Callable[[Path], object]:
    """A link, dangling where there is no such target."""
    return lambda path: path.symlink_to(target)


def _listed(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}


def _harmless(name: str) -> bool:
    """Whether it is a library's cache, Python's of a plugin, or the lock of a data set's folder."""
    return name.startswith((".", "__pycache__")) or name.endswith("/lock")


@dataclass
class Campaign:
    """Attacks and what came of them: counts by kind and by fault, and the outcomes that have faults."""

    target: Target
    counts: Counter[str] = field(default_factory=Counter)
    found: dict[str, list[Outcome]] = field(default_factory=dict)

    def run(self, attacks: Iterable[Attack], judge: Callable[[Outcome], list[str]] = Outcome.faults) -> Campaign:
        """All of them, one after another."""
        for attack in attacks:
            outcome = self.target.run(attack)
            self.counts["attacks"] += 1
            self.counts[f"of kind: {attack.kind}"] += 1
            if self.counts["attacks"] % 100 == 0:
                told = ", ".join(f"{len(outcomes)} {fault}" for fault, outcomes in self.found.items())
                print(f"{self.counts['attacks']} attacks: {told or 'no faults'}", file=sys.stderr, flush=True)
            for fault in judge(outcome):
                self.found.setdefault(fault, []).append(outcome)
        return self

    def told(self, most: int) -> list[str]:
        """The counts, and up to `most` outcomes of each fault, a line each."""
        lines = [f"{count:6}  {name}" for name, count in self.counts.items()]
        for fault, outcomes in sorted(self.found.items()):
            lines += [f"{len(outcomes):6}  {fault}", *(f"          {one}" for one in outcomes[:most])]
        return lines


def options(about: str, count: int | None = None) -> argparse.ArgumentParser:
    """The options that every campaign has; `count` is how many attacks it makes unless told."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--count", type=int, default=count, help=f"of attacks; {count or 'all'} unless given")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose program is attacked")
    parser.add_argument("--show", type=int, default=20, help="outcomes told of each fault")
    return parser


def ended(held: bool, began: float) -> int:
    """Say how a campaign that began then (`time.monotonic`) ended; its exit code."""
    print(f"{'everything' if held else 'NOT everything'} held, in {time.monotonic() - began:.0f} s")
    return 0 if held else 1
