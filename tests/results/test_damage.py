"""What is damaged in a results folder is named, believed by nobody, and mended by `run` where that can be."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench import cli, report
from bench.compare import sides
from bench.errors import BadInput
from bench.launch import End, LaunchOptions, run_cell
from bench.launch.lease import claim, look
from bench.launch.slurm import queue
from bench.launch.slurm.ledger import Ledger
from bench.results import (
    Damaged,
    DamagedFile,
    Folder,
    load_curves,
    load_records,
    load_results,
    load_tensors,
    read,
    read_json,
    run_folders,
    save_tensors,
    standing,
    write_json,
    write_record,
)
from tests.faults.campaign import numbers
from tests.helpers import TINY, few, folder_of, tiny_run

LONG = {"training": {"batch_size": 8, "budget": {"steps": 40}}}
GRID = {
    "about": "small",
    "base": {
        "task": {"name": "retrieval", "length": 12},
        "method": "bptt",
        "model": TINY,
        "training": {"batch_size": 4, "budget": {"steps": 4}},
        "evaluation": {"sequences": 16, "reference_sequences": 4, "every": 0.5},
        "device": "cpu",
    },
    "axes": {"seed": [0, 1]},
}


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """What waits for ever fails instead."""
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def steps(left: int) -> Callable[[], bool]:
    looks = iter(range(10_000))
    return lambda: next(looks) >= left


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of two cells that are done."""
    root = tmp_path_factory.mktemp("whole")
    (root / "grid.yaml").write_text(yaml.safe_dump(GRID))
    assert run(root) == 0
    return root


@pytest.fixture
def grid(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def run(root: Path, *options: str) -> int:
    return command("run", str(root / "grid.yaml"), "--launcher", "inline", "--results", str(root), *options)


def command(*line: str) -> int:
    with within(60):
        return cli.main(line)


def cells(root: Path) -> list[Folder]:
    return list(run_folders(root / "grid"))


def wreck(path: Path, text: str | bytes) -> None:
    """Other content under the same name, and under no other that the file has."""
    path.unlink()
    path.write_bytes(text.encode("latin1") if isinstance(text, str) else text)


# One file.


def test_no_flipped_bit_of_a_record_is_read_as_another_value(tmp_path: Path) -> None:
    value, path = {"scores": [0.25, 0.5], "name": "é"}, tmp_path / "r.json"
    write_record(path, value, "0123456789abcdef")
    data = path.read_bytes()
    found = 0
    for place in range(len(data)):
        for bit in range(8):
            wreck(path, data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                assert read(path, None, "0123456789abcdef") == value  # (of a space before the record, say)
            except Damaged:
                found += 1
    assert found > 7.9 * len(data)


def test_a_file_of_another_cell_is_damaged_and_one_that_says_no_cell_is_older(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_record(path, {"a": 1}, "0" * 16)
    with pytest.raises(Damaged, match=r"r.json: damaged: belongs to another cell, '0000000000000000'"):
        read(path, None, "1" * 16)
    wreck(path, path.read_text().replace("checksum", "chequesum"))
    with pytest.raises(Damaged, match="has lost its checksum"):
        read(path, None, "0" * 16)
    write_json(path, {"a": 1})
    assert read(path, None, "1" * 16) == {"a": 1}


def test_a_list_is_read_as_the_list_that_was_written(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", [{"a": 1.5}], "0" * 16)
    assert read(tmp_path / "r.json") == [{"a": 1.5}]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "is a broken link"),
        (lambda path: path.symlink_to(path.name), "is not a regular file"),
        (lambda path: path.mkdir(), "is a folder, should be a file"),
        (lambda path: path.touch() or os.truncate(path, 2**27), "has 128 MiB; should have 64 at most"),
        (lambda path: path.write_text(""), "is empty"),
        (lambda path: path.write_text("[" * 100_000), "is not JSON: recursion limit"),
        (lambda path: path.write_bytes(b'"\xff"'), "is not JSON"),
        (lambda path: path.write_text('{"a": NaN}'), "is not JSON"),
    ],
)
def test_what_is_no_file_of_json_is_told_without_waiting(make: Any, reason: str, tmp_path: Path) -> None:
    make(tmp_path / "r.json")
    with within(10), pytest.raises(Damaged, match=reason):
        read(tmp_path / "r.json")
    with pytest.warns(DamagedFile, match=reason):
        assert read_json(tmp_path / "r.json") is None


def test_no_flipped_bit_of_tensors_is_taken_up(tmp_path: Path) -> None:
    tree, path = {"a": torch.arange(6.0), "b": {"c": torch.ones(2, 3), "d": 5}}, tmp_path / "t.pt"
    save_tensors(path, tree, "0" * 16)
    data, rng = path.read_bytes(), random.Random(0)
    found = 0
    for _ in range(500):
        place = rng.randrange(len(data))
        wreck(path, data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
        try:
            read_back = load_tensors(path, identity="0" * 16)
            assert torch.equal(read_back["a"], tree["a"]) and torch.equal(read_back["b"]["c"], tree["b"]["c"])
            assert read_back["b"]["d"] == 5
        except Damaged:
            found += 1
    assert found > 100  # (most of so small a file is padding)


def test_tensors_of_another_cell_are_damaged_and_older_ones_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    save_tensors(path, {"a": torch.ones(2)}, "0" * 16)
    with pytest.raises(Damaged, match="belongs to another cell"):
        load_tensors(path, identity="1" * 16)
    torch.save({"a": torch.ones(2)}, path)
    assert torch.equal(load_tensors(path, identity="1" * 16)["a"], torch.ones(2))


# Checkpoints.


def stopped(root: Path) -> Folder:
    folder = folder_of(tiny_run("bptt", **LONG), root)
    assert run_cell(folder, should_stop=steps(9)).state == "stopped"
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = folder_of(tiny_run("bptt", **LONG), tmp_path_factory.mktemp("undisturbed"))
    assert run_cell(folder).state == "done"
    return numbers(folder.path)


def flipped(data: bytes) -> bytes:
    """37 bits, as they were when a run took them up and ended with another loss."""
    found, rng = bytearray(data), random.Random(1)
    for _ in range(37):
        found[rng.randrange(len(found) // 4, 3 * len(found) // 4)] ^= 1 << rng.randrange(8)
    return bytes(found)


@pytest.mark.parametrize(
    "damage",
    few(
        [
            lambda data: data[:20_000],
            flipped,
            lambda data: bytes(len(data)),
            lambda data: random.Random(0).randbytes(len(data)),
            *(lambda data, n=n: data[:n] for n in (0, 1, 4000, -99)),
        ],
        2,
    ),
)
def test_a_cell_whose_checkpoint_is_damaged_begins_anew_and_says_so(
    damage: Any, tmp_path: Path, undisturbed: Any
) -> None:
    folder = stopped(tmp_path)
    file = folder.files / "checkpoint.pt"
    wreck(file, damage(file.read_bytes()))
    assert run_cell(folder).state == "done"
    assert numbers(folder.path) == undisturbed
    (note,) = folder.status["notes"]
    assert note.startswith(f"{file}: damaged: ") and note.endswith("put aside as damaged-checkpoint.pt; started again")
    assert (folder.files / "damaged-checkpoint.pt").is_file()
    assert note in (folder.files / "log.txt").read_text()


FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no random numbers": lambda saved: saved.pop("data"),
    "other counters": lambda saved: saved.update(counters={"a": 1}),
    "counters of text": lambda saved: saved["counters"].update(steps="x"),
    "no counters": lambda saved: saved.pop("counters"),
    "no curve": lambda saved: saved.update(curve=None),
    "no method": lambda saved: saved.pop("method"),
    "other shapes": lambda saved: saved["method"].update({next(iter(saved["method"])): torch.zeros(1)}),
    "no optimiser": lambda saved: saved["engine"].update(optimiser={}),
    "a phase too many": lambda saved: saved["counters"].update(phase=7),
    "no digest": lambda saved: saved.pop("digest"),
}


@pytest.mark.parametrize("form", few(FORMS, 2))
def test_a_checkpoint_of_another_form_is_damaged(form: str, tmp_path: Path, undisturbed: Any) -> None:
    folder = stopped(tmp_path)
    file = folder.files / "checkpoint.pt"
    saved = load_tensors(file)
    FORMS[form](saved)
    save_tensors(file, saved, folder.identity)
    assert run_cell(folder).state == "done"
    assert numbers(folder.path) == undisturbed
    assert "damaged: has an unexpected form" in folder.status["notes"][0]


def test_a_finished_phase_whose_weights_are_damaged_is_trained_anew(tmp_path: Path) -> None:
    run = tiny_run("smt+dmt", **LONG)
    whole, folder = folder_of(run, tmp_path / "whole"), folder_of(run, tmp_path / "cut")
    run_cell(whole)
    while not (folder.newest and folder.weights("smt").exists()):
        assert run_cell(folder, should_stop=steps(9)).state == "stopped"
    file = folder.weights("smt")
    wreck(file, file.read_bytes()[:-99])
    assert run_cell(folder).state == "done"
    assert numbers(folder.path) == numbers(whole.path)
    assert "weights-smt.pt: damaged: " in folder.status["notes"][0]


# Weights.


@pytest.mark.parametrize(
    "damage",
    few([flipped, lambda data: b"", lambda data: data[:-99], lambda data: bytes(len(data)), lambda data: b"x"], 2),
)
def test_sample_says_in_a_line_that_weights_are_damaged(damage: Any, grid: Path, capsys: Any) -> None:
    folder = cells(grid)[0]
    wreck(folder.weights("train"), damage(folder.weights("train").read_bytes()))
    assert command("sample", str(folder.path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder.weights('train')}: damaged: ")


def test_weights_of_another_form_or_cell_are_told_too(grid: Path, capsys: Any) -> None:
    one, other = cells(grid)
    own = one.weights("train").read_bytes()
    torch.save({"cell": one.identity, "tree": {"a": torch.zeros(1)}}, one.weights("train"))
    assert command("sample", str(one.path)) == 2
    assert "holds other tensors than the method has" in capsys.readouterr().err
    wreck(one.weights("train"), other.weights("train").read_bytes())
    assert command("sample", str(one.path)) == 2
    assert "belongs to another cell" in capsys.readouterr().err
    wreck(one.weights("train"), own)
    assert command("sample", str(one.path)) == 0


def test_who_starts_from_damaged_weights_fails_with_their_name(tmp_path: Path) -> None:
    source = folder_of(tiny_run("smt+dmt"), tmp_path)
    run_cell(source)
    start = {"init_from": {"run": source.path.name, "phase": "smt"}}
    folder = folder_of(tiny_run("smt+dmt", **start, training=LONG["training"]), tmp_path)
    file = source.weights("smt")
    wreck(file, flipped(file.read_bytes()))
    assert run_cell(folder) == End("failed", f"BadInput: init_from.run: {file}: damaged: {crc(file)}")


def crc(file: Path) -> str:
    with pytest.raises(Damaged) as caught:
        load_tensors(file)
    return caught.value.reason


# A cell's records.


@pytest.mark.parametrize(
    "damage", few(["another's", "{", "link", "", "[]", "5", "{}", '{"schema": 1, "id": "x"}', "folder"], 2)
)
def test_a_damaged_run_json_is_named_by_all_and_written_anew_by_run(damage: str, grid: Path, capsys: Any) -> None:
    one, other = cells(grid)
    file, before = one / "run.json", (one / "run.json").read_bytes()
    if damage in ("link", "folder"):
        file.unlink()
        file.symlink_to("nowhere") if damage == "link" else file.mkdir()
    else:
        wreck(file, (other / "run.json").read_bytes() if damage == "another's" else damage)
    assert standing(one).state == "damaged"
    for line in (
        ["status", str(grid / "grid.yaml"), "--results", str(grid)],
        ["report", str(grid / "grid"), "--out", str(grid / "out")],
        ["compare", str(grid / "grid"), str(grid / "grid")],
    ):
        assert command(*line) in (0, 1)
        assert f"warning: {file}: damaged: " in capsys.readouterr().err, line
    frame = load_results(grid / "grid")
    assert sorted(frame["state"]) == ["damaged", "done"] and frame["reason"].iloc[0].startswith("run.json ")
    assert run(grid) == 0
    assert "; written again" in capsys.readouterr().err
    assert file.read_bytes() == before and one.attempts() == [1], "the result stands"
    assert run(grid) == 0 and "damaged" not in capsys.readouterr().err


def test_a_cell_that_has_not_begun_does_not_take_over_the_run_of_another(grid: Path) -> None:
    one, other = cells(grid)
    expected = numbers(other.path)
    shutil.rmtree(other.path)
    other.path.mkdir()
    shutil.copy(one / "run.json", other / "run.json")
    assert run(grid) == 0
    assert other.run().seed == 1 and numbers(other.path) == expected
    shutil.copy(one / "run.json", other / "run.json")
    with pytest.raises(Damaged, match=r"belongs to another cell, 'retrieval-bptt-s0"):
        other.run()


def test_a_worker_does_not_believe_the_run_json_of_another_cell(grid: Path) -> None:
    one, other = cells(grid)
    shutil.copy(one / "run.json", other / "run.json")
    (other / "result.json").unlink()
    end = run_cell(other)
    assert end.state == "failed" and f"{other / 'run.json'}: damaged: belongs to another cell" in (end.reason or "")


def test_results_that_have_changed_places_are_not_believed(grid: Path, capsys: Any) -> None:
    one, other = cells(grid)
    expected = [numbers(cell.path) for cell in (one, other)]
    (one / "result.json").rename(grid / "kept")
    (other / "result.json").rename(one / "result.json")
    (grid / "kept").rename(other / "result.json")
    with pytest.warns(DamagedFile, match="result.json: damaged: belongs to another cell"):
        assert set(load_results(grid / "grid")["state"]) == {"damaged"}
    with pytest.warns(DamagedFile, match="result.json: damaged: belongs to another cell"):
        assert {cell.state for cell in sides.from_folder(grid / "grid").cells} == {"damaged"}
    assert run(grid) == 0
    assert "taken from" in capsys.readouterr().out, "each attempt has kept its own"
    assert [numbers(cell.path) for cell in (one, other)] == expected


@pytest.mark.parametrize("damage", ["", "{", "[]", "5", "[[[[", '{"a": 1}', '{"state": 5}', '{"state": "gone"}'])
def test_a_damaged_status_takes_no_result_away_and_is_mended(damage: str, grid: Path, capsys: Any) -> None:
    one = cells(grid)[0]
    file = one.files / "status.json"
    wreck(file, damage)
    with pytest.warns(DamagedFile, match=r"status.json: damaged: "):
        assert list(load_results(grid / "grid")["state"]) == ["done", "done"]
    assert command("status", str(grid / "grid.yaml"), "--results", str(grid)) == 0
    said = capsys.readouterr()
    assert "2 done" in said.out and f"warning: {file}: damaged: " in said.err
    assert run(grid) == 0
    assert "written again, as there is a result" in capsys.readouterr().err
    assert one.read_status() == {"state": "done", "reason": None} and one.attempts() == [1]


@pytest.mark.parametrize(
    "damage", few(['{"scores": [{}], "costs": {}}', "fifo", "", "{}", '{"a": 1}', "5", "link", "folder"])
)
def test_a_damaged_result_is_not_done_once(damage: str, grid: Path, capsys: Any) -> None:
    one = cells(grid)[0]
    expected, file = numbers(one.path), one / "result.json"
    (one.attempt_path(1) / "result.json").unlink()
    if damage in ("link", "fifo", "folder"):
        file.unlink()
        {"link": lambda: file.symlink_to("nowhere"), "fifo": lambda: os.mkfifo(file), "folder": file.mkdir}[damage]()
    else:
        wreck(file, damage)
    assert command("status", str(grid / "grid.yaml"), "--results", str(grid)) == 0
    said = capsys.readouterr()
    assert "1 damaged, 1 done" in said.out and f"warning: {file}: damaged: " in said.err
    assert run(grid) == 0
    assert "; the cell is not done" in capsys.readouterr().err
    assert numbers(one.path) == expected and one.attempts() == [1, 2]
    assert run(grid) == 0 and one.attempts() == [1, 2]


def test_a_result_is_published_though_something_else_has_its_name(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    folder.attempt_path(1).mkdir(parents=True)
    (folder / "result.json").symlink_to("nowhere")
    assert folder.at(1).publish({"scores": [], "costs": {}})
    assert folder.result == {"scores": [], "costs": {}, "attempt": 1}


@pytest.mark.parametrize("what", ["attempts", "attempts/000001", "."])
def test_what_lies_where_a_folder_should_be_is_put_aside(what: str, grid: Path, capsys: Any) -> None:
    one = cells(grid)[0]
    expected, place = numbers(one.path), one.path / what
    if what == "attempts/000001":
        (one / "result.json").unlink()
    shutil.rmtree(place)
    place.write_text("x") if what != "." else one.path.write_text("x")
    (one / "result.json").unlink(missing_ok=True) if what == "attempts" else None
    assert run(grid) == 0
    assert numbers(one.path) == expected
    if what != "attempts/000001":
        assert "put aside as" in capsys.readouterr().err


def test_no_attempt_is_claimed_where_attempts_is_a_file(tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    (folder / "attempts").write_text("x")
    with pytest.raises(Damaged, match="attempts: damaged: should be a folder"):
        claim(folder, look(folder))
    with within(20):
        assert run_cell(folder).state == "failed"


@pytest.mark.parametrize(
    ("name", "damage"),
    few(
        [
            ("status.json", '{"state": "stopped", "progress": "x"}'),
            ("status.json", '{"state": "running", "updated": "x"}'),
            ("cost.json", '{"phases": [null]}'),
            ("dynamics.json", "{}"),
            ("samples.json", '{"schema": 1}'),
            ("cost.json", "[" * 9999),
            ("dynamics.json", '{"gradients": 1.5}'),
            ("dynamics.json", '{"gradients": [{"t": 5, "norm": [1]}]}'),
            ("samples.json", "[5]"),
            ("calibration.json", '{"matmul": {"mean": "x"}, "chain": {"mean": 1.0}}'),
            ("run.json", '{"schema": "abc"}'),
            ("curve.json", '[{"scores": [{}]}, 4]'),
        ],
        5,
    ),
)
def test_a_file_of_another_form_is_named_by_every_reader(name: str, damage: str, grid: Path, capsys: Any) -> None:
    one = cells(grid)[0]
    file = (one.files if name in ("status.json", "curve.json") else one.path) / name
    if name == "status.json":
        (one / "result.json").unlink()
    file.write_text(damage)
    readers = {
        "status": ["status", str(grid / "grid.yaml"), "--results", str(grid)],
        "report": ["report", str(grid / "grid"), "--out", str(grid / "out")],
        "compare": ["compare", str(grid / "grid"), str(grid / "grid")],
    }
    left = {"cost.json": ["report", "compare"], "calibration.json": ["compare"], "run.json": [*readers]}
    for reader in left.get(name, ["status", "report"] if name == "status.json" else ["report"]):
        assert command(*readers[reader]) in (0, 1)
        assert f"warning: {file}: damaged: " in capsys.readouterr().err, reader


def test_a_folder_in_the_place_of_grid_json_is_put_aside(grid: Path, capsys: Any) -> None:
    file = grid / "grid" / "grid.json"
    before = file.read_bytes()
    file.unlink()
    file.mkdir()
    assert run(grid) == 0
    assert f"warning: {file}: damaged: " in capsys.readouterr().err
    assert file.read_bytes() == before and (grid / "grid" / "damaged-grid.json").is_dir()


def test_frames_leave_out_what_is_damaged_and_keep_what_is_beside_it(grid: Path) -> None:
    one, other = cells(grid)
    wreck(one.files / "curve.json", "{")
    for cell in (one, other):
        cell.write(cell / "samples.json", {"predictor": "rnn", "written": [], "completed": []})
    wreck(one / "samples.json", (other / "samples.json").read_bytes())
    with pytest.warns(DamagedFile, match="curve.json: damaged: is not JSON"):
        assert set(load_curves(grid / "grid")["id"]) == {other.path.name}
    with pytest.warns(DamagedFile, match="samples.json: damaged: belongs to another cell"):
        assert [run["id"] for run, _ in load_records(grid / "grid", "samples.json")] == [other.path.name]


def test_an_older_folder_has_no_checksums_and_is_read_all_the_same(grid: Path) -> None:
    before = load_results(grid / "grid"), load_curves(grid / "grid")
    for file in (grid / "grid").rglob("*.json"):
        record = json.loads(file.read_text())
        for name in ("checksum", "cell"):
            record.pop(name, None)
        if file.name == "run.json":
            record["schema"] = 1
        write_json(file, record.get("records", record))
    for one, two in zip(before, (load_results(grid / "grid"), load_curves(grid / "grid")), strict=True):
        assert one.equals(two)
    assert run(grid) == 0 and all(cell.attempts() == [1] for cell in cells(grid))


# Folders.


def test_force_deletes_nothing_that_is_not_its_own(grid: Path) -> None:
    one = cells(grid)[0]
    elsewhere = grid / "elsewhere"
    one.path.rename(elsewhere)
    one.path.symlink_to(elsewhere)
    notes = [one / "notes.txt", one.attempt_path(1) / "notes.txt", elsewhere / "mine.json"]
    for note in notes:
        note.write_text("mine")
    assert run(grid, "--force") == 0
    assert all(note.read_text() == "mine" for note in notes)
    assert sorted(file.name for file in one.attempt_path(1).iterdir()) == ["notes.txt"]
    assert one.attempts()[-1] == 3 and not list(elsewhere.rglob(".forgotten*"))


def test_a_cell_behind_a_link_and_one_that_cannot_be_listed_are_there(
    grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = cells(grid)
    one.path.rename(grid / "elsewhere")
    one.path.symlink_to(grid / "elsewhere")
    (grid / "grid" / "loop").symlink_to(grid)
    assert list(load_results(grid / "grid")["state"]) == ["done", "done"]
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == other.path:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    opened = os.open

    def denied(path: Any, *rest: Any, **more: Any) -> int:
        if other.path in Path(path).parents:
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "open", denied)
    with pytest.warns(DamagedFile, match="run.json: cannot be read: Permission denied"):
        assert sorted(load_results(grid / "grid")["state"]) == ["damaged", "done"]


def test_a_cell_without_its_run_json_does_not_vanish(grid: Path) -> None:
    one = cells(grid)[0]
    (one / "run.json").unlink()
    with pytest.warns(DamagedFile, match="run.json: damaged: is missing"):
        assert sorted(load_results(grid / "grid")["state"]) == ["damaged", "done"]
    assert run(grid) == 0
    assert list(load_results(grid / "grid")["state"]) == ["done", "done"]


# Leases and clusters.


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e12, -1.0])
def test_no_lease_is_so_long_that_a_cell_is_never_taken_over(seconds: float) -> None:
    with pytest.raises(BadInput, match=r"lease: .* given; should be above 0 and at most 2,592,000 seconds"):
        LaunchOptions(lease_seconds=seconds)
    assert LaunchOptions(stuck_seconds=None).stuck_seconds is None


@pytest.mark.parametrize("beat", ["", "5", "{}", '{"pid": 1, "host": "x", "lease": 1e300}', '{"pid": "x"}', "\xff"])
def test_a_damaged_beat_says_nothing(beat: str, tmp_path: Path) -> None:
    folder = folder_of(tiny_run(), tmp_path)
    folder.attempt_path(1).mkdir(parents=True)
    (folder.attempt_path(1) / "beat").write_bytes(beat.encode("latin1"))
    seen = look(folder)
    assert seen.state == "owned" and seen.owner == "another process"


@pytest.mark.parametrize("record", ["{}", "5", "[]", "{", '{"number": 7}'])
def test_a_damaged_file_of_a_job_is_told_and_left_out(record: str, grid: Path, capsys: Any) -> None:
    jobs = grid / "grid" / "slurm" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "7.json").write_text(record)
    with pytest.warns(DamagedFile, match="7.json: damaged: "):
        assert Ledger(grid / "grid").read() == []
    assert command("status", str(grid / "grid.yaml"), "--results", str(grid)) == 0
    assert f"warning: {jobs / '7.json'}: damaged: " in capsys.readouterr().err


def test_what_slurm_says_may_be_no_number_and_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "scontrol"
    program.write_bytes(b"#!/bin/sh\nprintf 'MaxArraySize = many\\nClusterName = \\377x\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    queue.config.cache_clear()
    try:
        with pytest.raises(queue.Silent, match="MaxArraySize = 'many', which should be a number"):
            queue.largest_array()
        assert queue.cluster() == "\N{REPLACEMENT CHARACTER}x"
    finally:
        queue.config.cache_clear()


def test_the_summary_of_run_reads_as_the_report_does(grid: Path) -> None:
    wreck(cells(grid)[0] / "result.json", "{}")
    with pytest.warns(DamagedFile):
        assert list(report.summary(grid / "grid")["status"]) == ["1 done, 1 damaged"]
