"""Data files that are damaged or lie about their size, and records of data sets that say something else."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from bench.errors import BadInput
from bench.tasks import data
from tests.faults.hostile import header, npy, patched, png, zipped

INFLATED = zlib.compress(b"x" * (80 << 20))
IMAGES, NAMES = npy(np.zeros((3, 64, 64), np.uint8)), npy(np.array(["n1_1-1", "n1_2-1", "n1_3-1"]))
MEMBERS = {"images.npy": IMAGES, "names.npy": NAMES}
GOOD, LZMA = zipped(MEMBERS), zipped(MEMBERS, zipfile.ZIP_LZMA)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(name: str, source: Path, naming: str) -> str:
    """The one line that importing this must end in, which has to name the file."""
    with pytest.raises(BadInput) as caught:
        data.import_(name, source)
    message = str(caught.value)
    assert "\n" not in message and naming in message, message
    return message


PICTURES = {
    "a zTXt bomb": png(64, (b"zTXt", b"k\0\0" + INFLATED)),
    "an iTXt bomb": png(64, (b"iTXt", b"k\0\1\0\0\0" + INFLATED)),
    "a short pHYs": png(64, (b"pHYs", b"x")),
    "a short gAMA": png(64, (b"gAMA", b"")),
    "an empty tRNS": png(64, (b"tRNS", b"")),
    "no pixels": png(64, body=b""),
    "half of it": png(64)[:60],
    "8192 pixels": png(8192, body=b""),
    "nothing": b"",
}


@pytest.mark.parametrize("what", PICTURES)
def test_any_failure_of_the_png_decoder_names_the_file(what: str, tmp_path: Path) -> None:
    for i in range(60):  # of many photographs, so that each split has some
        (tmp_path / f"n{i}_1-1.png").write_bytes(PICTURES[what])
    refused("sketchy", tmp_path, "_1-1.png ")


ARCHIVES = {
    "encrypted": patched(GOOD, 8, b"\1\0"),
    "of an odd compression": patched(GOOD, 10, b"\x63\0"),
    "of corrupt lzma": LZMA.replace(b"\x5d\0\0", b"\xff" * 3),
    "of 10^15 bytes": zipped({"images.npy": header("'|u1'", "(1000000, 32000, 32000)"), "names.npy": NAMES}),
    "of less than it says": zipped({"images.npy": header("'|u1'", "(1000, 64, 64)"), "names.npy": NAMES}),
    "with names of gigabytes": zipped({"images.npy": IMAGES, "names.npy": header("'<U999999999'", "(3,)")}),
    "of a header that is no Python": zipped({"images.npy": header("'|u1'", "((3, 64"), "names.npy": NAMES}),
    "of objects": zipped({"images.npy": header("'|O'", "(3, 64, 64)") + b"x", "names.npy": NAMES}),
    "of texts": zipped({"images.npy": b"text", "names.npy": b"text"}),
    "cut": GOOD[:200],
    "an array alone": IMAGES,
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("what", ARCHIVES)
def test_any_failure_of_the_archive_names_the_file(what: str, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(ARCHIVES[what])
    refused("sketchy", tmp_path / "d.npz", "d.npz")


def test_what_is_packed_is_read_no_further_than_its_known_size(tmp_path: Path) -> None:
    names = ("train-images", "train-labels", "t10k-images", "t10k-labels")
    bomb = gzip.compress(bytes(200 << 20), 1)
    for name in names:
        kind = "idx3" if "images" in name else "idx1"
        (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(bomb)
    assert "has more than 78,400,016 bytes" in refused("mnist", tmp_path, "train-images-idx3-ubyte.gz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are pipes on POSIX only")
@pytest.mark.parametrize("name", ["sketchy", "tinystories", "shakespeare"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / f"a-1.{'png' if name == 'sketchy' else 'txt'}")
    assert "is not a regular file" in refused(name, tmp_path / "d", "a-1.")
    refused(name, next((tmp_path / "d").iterdir()), "no file or folder")


STORIES = b"".join(b"Once %d upon a time.<|endoftext|>" % i for i in range(40))
WHOLE = {"version": 2, "folder": "arrays-x", "arrays": {"train": [5]}, "counts": {}, "settings": {}, "fingerprint": "x"}
RECORDS = {
    "a number": "5",
    "a text": '"x"',
    "a list": "[]",
    "half": '{"version": 2}',
    "deep": "[" * 100_000,
    "no text": "\udcff",
    "a folder above": json.dumps({**WHOLE, "folder": "../../.."}),
    "an array above": json.dumps({**WHOLE, "arrays": {"../../x": [1]}}),
    "odd shapes": json.dumps({**WHOLE, "arrays": {"train": "x"}}),
    "odd counts": json.dumps({**WHOLE, "counts": {"train": 5}}),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_damaged_record_is_told_and_imported_over(what: str, cache: Path, tmp_path: Path) -> None:
    file = cache / "tinystories" / "prepared.json"
    file.parent.mkdir(parents=True)
    file.write_text(RECORDS[what], "utf-8", errors="surrogateescape")
    (entry,) = (one for one in data.catalogue() if one.name == "tinystories")
    assert entry.here is None and "is damaged" in entry.hint
    (tmp_path / "d.txt").write_bytes(STORIES)
    assert data.import_("tinystories", tmp_path / "d.txt").here is not None


@pytest.mark.parametrize("text", ["5", "[]", "{", '{"http://x": 5}', '{"http://x": {"sha256": 5}}', "[" * 100_000])
def test_damaged_hashes_are_told_and_nothing_is_downloaded(text: str, cache: Path) -> None:
    file = cache / "tinystories" / "recorded-hashes.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    sources = (data.Source("http://127.0.0.1:9/never-asked.txt"),)
    with pytest.raises(BadInput, match=r"recorded-hashes\.json is damaged; delete it"):
        data.fetch("tinystories", sources=sources)


def test_an_empty_array_is_damaged_and_no_end_of_file(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(STORIES)
    entry = data.import_("tinystories", tmp_path / "d.txt")
    (Path(entry.here or "") / "train.npy").write_bytes(b"")
    with pytest.raises(BadInput, match=r"train\.npy is damaged \(.*\); fetch or import tinystories again"):
        data.arrays("tinystories", data.datasets()["tinystories"])
