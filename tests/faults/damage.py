"""A campaign of damage: every file of a cell, damaged in every way, under every command.

    python tests/faults/damage.py --seed 0
    python tests/faults/damage.py --count 60 --tree ../other-checkout

A grid is run once: cells that are done and measured, and one that was stopped past its first phase. Then, each time in
a fresh copy, one file of a cell or of its grid is cut, emptied, overwritten, flipped in some bits, given another form
or another cell's content, replaced by a fifo, a folder or a link, or removed; and one command is run. What must hold:
no traceback, no hang, no number that differs from the undamaged one's unless the file is named, no result lost, and
after `run` every cell is done with the numbers of the undisturbed grid. Without `--count` all are tried; with it so
many, chosen by the seed. Another checkout's own program is attacked with `--tree`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parents[2]))

import torch
import yaml

from tests.faults.attack import (
    BASE,
    HANG_SECONDS,
    LONGEST_LINE,
    Attack,
    Outcome,
    Target,
    ended,
    fifo,
    folder,
    link,
    options,
)

GRID: dict[str, Any] = {
    "about": "small",
    "base": {
        **BASE,
        "training": {"batch_size": 4, "budget": {"steps": 24}},
        "evaluation": {"sequences": 16, "reference_sequences": 4, "every": 0.5},
    },
    "axes": {"method": ["bptt", "smt+dmt"], "seed": [0, 1]},
}
STOP = 23
"""Batches after which a cell is stopped: in its second phase."""
MEASURES = ("cost", "dynamics", "samples", "diagnosis", "calibration")
OPTIONAL = ("status.json", "curve.json", "log.txt", "beat", ".pt", *(f"{name}.json" for name in MEASURES))
"""How the names end of files that may be missing: then there is less to tell, and nothing is damaged."""
NAMED = ("run.json", "result.json", "status.json")
"""Files whose damage `status`, `run`, `report` and `compare` name, each of them."""

# Kinds of damage: functions of the file, the same file of another cell, and a generator of random numbers.

Damage = Callable[[Path, Path, random.Random], object]


def rewritten(make: Callable[[bytes, random.Random], bytes]) -> Damage:
    def damage(path: Path, other: Path, rng: random.Random) -> None:
        data = path.read_bytes()
        path.unlink()  # and not through a hard link
        path.write_bytes(make(data, rng))

    return damage


def replaced(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path, other: Path, rng: random.Random) -> None:
        path.unlink()
        make(path)

    return damage


def flipped(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 5, 40))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def swapped(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()
    shutil.copy(other, path)


def retyped(sealed: bool) -> Callable[[bytes, random.Random], bytes]:
    """One value in it has another type; with a checksum that fits, or as older files are, without one."""

    def make(data: bytes, rng: random.Random) -> bytes:
        value = json.loads(data)
        places = list(leaves(value))
        holder, key = rng.choice(places)
        others = [[], {}, [1], {"a": 1}, True, 5 if isinstance(holder[key], str) else "x"]
        holder[key] = rng.choice(others)
        if sealed and isinstance(value, dict) and "checksum" in value:
            del value["checksum"]
            body = json.dumps(value, indent=1).encode().removeprefix(b"{\n")
            return b'{"checksum": "%08x",\n%s' % (zlib.crc32(body), body)
        if isinstance(value, dict):
            for name in ("checksum", "cell"):
                value.pop(name, None)
        return json.dumps(value, indent=1).encode()

    return make


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in it, as holder and key."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key not in ("checksum", "cell"):
            yield value, key
            yield from leaves(one)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**27)


class Evil:
    """A pickle that leaves a trace where it is executed."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(2**27))


def reshaped(path: Path, other: Path, rng: random.Random) -> None:
    """A file of torch's own, with something else in it, or something left out."""
    saved = torch.load(path, weights_only=True)
    path.unlink()
    tree = saved.get("tree", saved)
    key = rng.choice(sorted(tree))
    kind = rng.choice(("left out", "another type", "cut"))
    if kind == "left out":
        del tree[key]
    elif kind == "cut" and isinstance(tree[key], torch.Tensor):
        tree[key] = tree[key].flatten()[:1].clone()
    else:
        tree[key] = rng.choice((None, 5, "x", [], {}, {"a": 1}))
    torch.save(saved, path)


ANY: dict[str, Damage] = {
    "missing": replaced(lambda path: None),
    "empty": rewritten(lambda data, rng: b""),
    "half": rewritten(lambda data, rng: data[: len(data) // 2]),
    "cut": rewritten(lambda data, rng: data[: rng.randrange(1, len(data))]),
    "longer": rewritten(lambda data, rng: data + rng.randbytes(rng.randrange(1, 99))),
    "garbage": rewritten(lambda data, rng: rng.randbytes(len(data))),
    "zeros": rewritten(lambda data, rng: bytes(len(data))),
    "flipped": rewritten(flipped),
    "another cell's": swapped,
    "fifo": replaced(fifo),
    "folder": replaced(folder),
    "dangling link": replaced(link("nowhere")),
    "link to itself": lambda path, other, rng: replaced(link(path.name))(path, other, rng),
    "device": replaced(link("/dev/zero")),
    "large": replaced(sparse),
}
JSON: dict[str, Damage] = {
    **{
        f"is {text[:9]}": rewritten(lambda data, rng, text=text: text.encode("latin1"))  # type: ignore[misc]
        for text in ("[]", "{}", "5", '"x"', "null", "[" * 99_999, '{"a": NaN}', "\xff", '{"schema": 9e999}', "[{}]")
    },
    "another type": rewritten(retyped(sealed=True)),
    "another type, older": rewritten(retyped(sealed=False)),
}
TENSORS: dict[str, Damage] = {
    "other content": reshaped,
    "evil": replaced(lambda path: torch.save(Evil(), path)),
    "bomb": replaced(bomb),
    "foreign": replaced(lambda path: torch.save({"a": torch.zeros(3)}, path)),
}
PLACES: dict[str, Damage] = {
    "a file": lambda path, other, rng: (shutil.rmtree(path), path.write_text("x")),
    "no more": lambda path, other, rng: shutil.rmtree(path),
    "a dangling link": lambda path, other, rng: (shutil.rmtree(path), path.symlink_to("nowhere")),
    "a fifo, really": lambda path, other, rng: (shutil.rmtree(path), os.mkfifo(path)),
}
UNSEEN = ("another type", "another type, older")
"""Not every reader goes by every value, and who changes one and its checksum too is not found out."""


@dataclass
class Prepared:
    """The undamaged folder, and what every command says and leaves there."""

    root: Path
    done: str = ""
    other: str = ""
    """Another cell that is done, like `done` but for its seed."""
    stopped: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from bench.grid import load_grid
        from bench.launch import LaunchOptions, run_cell, run_cells
        from bench.results import Folder, write_json
        from tests.faults.campaign import numbers

        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "grid.yaml").write_text(yaml.safe_dump(GRID))
        loaded, results = load_grid(str(self.root / "grid.yaml"), ()), self.root / "results" / "grid"
        options = LaunchOptions("inline", measures=MEASURES, quiet=True)
        assert run_cells(loaded.runs, results, options, loaded.record()).exit_code == 0
        self.numbers = {run.id: numbers(results / run.id) for run in loaded.runs}
        dmt = {run.seed: run for run in loaded.runs if run.method == "smt+dmt"}
        shutil.rmtree(results / dmt[1].id)
        self.stopped = dmt[1].id
        at, looks = Folder(results / self.stopped), iter(range(99))
        at.describe(dmt[1])
        assert run_cell(at, lease_seconds=1, should_stop=lambda: next(looks) >= STOP).state == "stopped"
        assert (at.files / "weights-smt.pt").exists() and (at.files / "checkpoint.pt").exists()
        self.done = dmt[0].id
        self.other = next(run.id for run in loaded.runs if run.method == "bptt")
        sent = {"number": "7", "array": False, "submitted": 0.0, "cluster": "here", "cells": [[self.other]]}
        write_json(results / "slurm" / "jobs" / "7.json", sent)

    def files(self) -> list[Path]:
        """What is damaged, below `results/grid`."""
        results = self.root / "results" / "grid"
        found = [file for name in (self.done, self.stopped) for file in sorted((results / name).rglob("*"))]
        found += [results / "grid.json", results / "slurm/jobs/7.json", *sorted(results.glob(".costs/*.json"))[:1]]
        return [file.relative_to(results) for file in found if file.is_file() and file.name != ".beat.new"]

    def damages(self) -> Iterator[tuple[Path, str, Damage]]:
        """File, kind and damage: all of them."""
        for file in self.files():
            kinds = ANY | (JSON if file.suffix == ".json" or file.name == "beat" else {})
            for kind, damage in (kinds | (TENSORS if file.suffix == ".pt" else {})).items():
                if kind == "another cell's" and not self.twin(file).is_file():
                    continue
                if kind.startswith("another type") and file.name == "beat":
                    continue
                yield file, kind, damage
        for name in (self.done, self.stopped):
            for place in (Path(name), Path(name, "attempts"), Path(name, "attempts", "000001")):
                for kind, damage in PLACES.items():
                    yield place, kind, damage

    def twin(self, file: Path) -> Path:
        """The same file of another cell."""
        return self.root / "results" / "grid" / Path(self.other, *file.parts[1:])


@dataclass
class Commands:
    """The commands, by name; what they print of the undamaged folder, and the tables they leave."""

    prepared: Prepared
    target: Target
    whole: dict[str, Any] = field(default_factory=dict)

    def lines(self, cell: str) -> dict[str, list[str]]:
        run = f"results/grid/{cell}"
        return {
            "status": ["status", "grid.yaml", "--json"],
            "status, as a table": ["status", "grid.yaml", "--all"],
            "run": ["run", "grid.yaml", "--launcher", "inline", "--lease", "1"],
            "run --dry-run": ["run", "grid.yaml", "--dry-run"],
            "report": ["report", "results/grid", "--out", "out"],
            "compare": ["compare", "results/grid", "baseline", "--json", "--partial"],
            "sample": ["sample", run, "--json"],
            "diagnose": ["diagnose", run, "--json", "--sequences", "8"],
            "cancel": ["cancel", "grid.yaml"],
        }

    def attack(self, name: str, file: Path, kind: str, damage: Damage | None, seed: int) -> Attack:
        """A command on a copy of the folder in which one file is damaged."""

        def copied(place: Path) -> None:
            shutil.copytree(self.prepared.root / "results", place, symlinks=True)
            if damage is not None:
                damage(place / "grid" / file, self.prepared.twin(file), random.Random(f"{seed} {file} {kind}"))

        cell = file.parts[0] if file.parts[0] in (self.prepared.done, self.prepared.stopped) else self.prepared.done
        files = {"grid.yaml": yaml.safe_dump(GRID), "results": copied}
        if name == "compare":
            files["baseline"] = lambda place: shutil.copytree(self.prepared.root / "results", place)
        return Attack(name, f"{file}: {kind}", self.lines(cell)[name], files, within=_without_figures)

    def expected(self, name: str, cell: str) -> Any:
        """What the command says of the undamaged folder."""
        if (name, cell) not in self.whole:
            outcome = self.target.run(self.attack(name, Path(cell, "run.json"), "", None, 0), 10 * HANG_SECONDS)
            if outcome.faults() not in ([], ["accepted"]) and outcome.code not in (1, 2):
                raise RuntimeError(f"the undamaged folder: {outcome}")
            self.whole[name, cell] = said(outcome)
        return self.whole[name, cell]


def _without_figures() -> None:
    """No pictures are drawn, which takes most of a report's time; all that they show is computed."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda *_, **__: None  # type: ignore[method-assign]


def said(outcome: Outcome) -> Any:
    """The numbers that a command gave: what it printed as JSON, and its tables."""
    tables = {name: text for name, text in outcome.made.items() if name.endswith(".csv") and name.startswith("out")}
    printed = None
    with suppress(ValueError):
        printed = json.loads(outcome.out)
    if isinstance(printed, list):  # of `status`: what may be told without a word is the state and why
        told = ("id", "phase", "progress", "steps", "tokens", "loss", "accuracy", "digest")
        printed = [{key: row[key] for key in told} for row in printed]
    return printed, tables


@dataclass
class Damages:
    """A campaign: counts, and what did not hold."""

    prepared: Prepared
    commands: Commands
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    found: dict[str, list[str]] = field(default_factory=dict)

    def run(self, count: int | None = None) -> bool:
        """All damages, or so many; returns whether everything held."""
        every = [
            (file, kind, damage, name)
            for file, kind, damage in self.prepared.damages()
            for name in self.commands.lines("")
        ]
        if count is not None:
            every = random.Random(self.seed).sample(every, min(count, len(every)))
        for file, kind, damage, name in every:
            self.one(file, kind, damage, name)
        return not self.found

    def one(self, file: Path, kind: str, damage: Damage, name: str) -> None:
        """One damage under one command."""
        attack = self.commands.attack(name, file, kind, damage, self.seed)
        kept: list[str] = []
        outcome = self.commands.target.run(attack, after=lambda place: kept.extend(self.after(place, file, name)))
        self.counts["commands"] += 1
        self.counts[f"under {name}"] += 1
        self.counts[f"files named {file.name if '.' in file.name else 'attempts, beat or the cell itself'}"] += 1
        for fault in [*self.judged(outcome, file, kind, name), *kept]:
            self.found.setdefault(fault.partition(":")[0], []).append(f"{outcome} {fault}")
        if self.counts["commands"] % 100 == 0:
            told = ", ".join(f"{len(some)} {fault}" for fault, some in self.found.items()) or "no faults"
            print(f"{self.counts['commands']} commands: {told}", file=sys.stderr, flush=True)

    def judged(self, outcome: Outcome, file: Path, kind: str, name: str) -> Iterator[str]:
        """What should not be, from what the command said."""
        if outcome.hung:
            yield "hang"
            return
        if outcome.traceback or outcome.code not in (0, 1, 2):
            yield f"traceback: {outcome.err[-400:]}"
            return
        text = outcome.out + outcome.err
        lines = [one for one in text.splitlines() if one.startswith(("error:", "warning:"))]
        if any(len(one) > LONGEST_LINE for one in lines):
            yield "long line"
        if outcome.code == 2 and not any(one.startswith("error:") for one in lines):
            yield "exit code 2 without a line"
        named = str(file) in text or file.name in text
        lawful = (kind == "missing" and file.name.endswith(OPTIONAL)) or kind == "no more" or outcome.code == 2
        lawful |= (file.name, kind) == ("curve.json", "is []")  # that of a cell before its first evaluation
        unseen = named or lawful or kind in UNSEEN or name == "run"
        if not unseen and said(outcome) != self.commands.expected(name, attacked(self.prepared, file)):
            yield "other numbers without a word"
        counts = file.name in NAMED and (len(file.parts) == 2 or file.name == "status.json")
        hidden = kind == "missing" and (file.name == "status.json" or file.parts[0] == self.prepared.stopped)
        readers = ("status", "status, as a table", "run", "report", "compare")
        if counts and kind not in UNSEEN and not hidden and not named and name in readers:
            yield "damage that is not named"

    def after(self, place: Path, file: Path, name: str) -> Iterator[str]:
        """What should not be, from what the command left."""
        from bench.results import Folder
        from tests.faults.campaign import numbers

        if (place / "pwned").exists():
            yield "a pickle was executed"
        results = place / "results" / "grid"
        for cell, expected in self.prepared.numbers.items():
            mended = name == "run"
            if cell == self.prepared.stopped and not mended:
                continue
            hurt = file.parts[0] == cell and file.name not in ("log.txt", "beat")
            if hurt and not mended:
                beside = len(file.parts) > 1 and file != Path(cell, "result.json") and file.name != "attempts"
                before = self.prepared.root / "results" / "grid" / cell / "result.json"
                kept = beside and file.suffix in (".json", ".pt")
                if kept and (results / cell / "result.json").read_bytes() != before.read_bytes():
                    yield f"a result lost: {cell}"
                continue
            try:
                if Folder(results / cell).status["state"] != "done":
                    yield f"a result lost: {cell} is {Folder(results / cell).status}"
                elif not hurt or mended:
                    now = numbers(results / cell)
                    same = now == expected if not _beyond(file, cell) else now["scores"] == expected["scores"]
                    if not same:
                        yield f"other numbers after all: {cell}"
            except Exception as error:
                if not (hurt and _beyond(file, cell)):
                    yield f"a result lost: {cell}: {type(error).__name__} {error}"


def attacked(prepared: Prepared, file: Path) -> str:
    """The cell that a damaged file is of, as far as a command is told it."""
    return file.parts[0] if file.parts[0] in (prepared.done, prepared.stopped) else prepared.done


def _beyond(file: Path, cell: str) -> bool:
    """Whether `run` does not make it anew where the result is whole: curves and weights of a cell that is done."""
    return file.parts[0] == cell and (file.name == "curve.json" or file.suffix == ".pt" or "attempts" in file.parts)


def main() -> int:
    """The command."""
    given = options("Damage files of results in every way, under every command.").parse_args()
    began = time.monotonic()
    target = Target(given.tree)
    with tempfile.TemporaryDirectory() as root:
        prepared = Prepared(Path(root) / "whole")
        campaign = Damages(prepared, Commands(prepared, target), given.seed)
        held = campaign.run(given.count)
    for name, number in sorted(campaign.counts.items()):
        print(f"{number:6}  {name}")
    for fault, outcomes in sorted(campaign.found.items()):
        print(f"{len(outcomes):6}  {fault}")
        for one in outcomes[: given.show]:
            print(f"          {one}"[:900])
    return ended(held, began)


if __name__ == "__main__":
    sys.exit(main())
