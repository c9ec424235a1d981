"""Data sets: importing the user's files, fetching public ones, and what is left behind when either goes wrong."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import cli
from bench.errors import BadInput
from bench.tasks import data, mnist, sketchy

REPOSITORY = Path(__file__).resolve().parents[2]
REAL = REPOSITORY.parent / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not beside this repository")
END = "<|endoftext|>"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BENCH_DATA", str(folder))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes. The lock, an empty file, is not data."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(action: Callable[[], object]) -> str:
    """The message of the `BadInput` that `action` must raise, which must be one line."""
    with pytest.raises(BadInput) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


# --- small files in the true formats -------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """24 + 5 images as the contents of the four files, which stand for the published ones."""
    rng = np.random.default_rng(0)
    files = {}
    for name, count in (("train", 24), ("t10k", 5)):
        files[f"{name}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{name}-labels-idx1-ubyte"] = idx(rng.integers(0, 10, count, dtype=np.uint8))
    for stem, raw in files.items():
        known = mnist.Published(24 if "train" in stem else 5, "", hashlib.sha256(raw).hexdigest())
        monkeypatch.setitem(mnist.PUBLISHED, stem, known)
    return files


def write_mnist(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for stem, raw in files.items():
        (folder / f"{stem}.gz").write_bytes(gzip.compress(raw))
    return folder


def stories(first: int, last: int) -> list[str]:
    return [f"Story {i}: a caf\u00e9 {'cat' * (i % 7)}." for i in range(first, last)]


def text(first: int, last: int) -> bytes:
    return "".join(f"{story}\n{END}\n" for story in stories(first, last)).encode()


def ascii_only(parts: list[str]) -> bytes:
    return "".join(c for part in parts for c in part if c.isascii()).encode()


def drawings(count: int, side: int = 64) -> tuple[list[str], np.ndarray]:
    """Two drawings of each of `count` photographs: light paper with noise."""
    names = [f"n{photo:08d}_{photo % 3}-{i}" for photo in range(count) for i in (1, 2)]
    return names, np.random.default_rng(1).integers(120, 256, (len(names), side, side), dtype=np.uint8)


def write_npz(path: Path, names: list[str], images: np.ndarray) -> Path:
    groups = np.unique([name.rpartition("-")[0] for name in names], return_inverse=True)[1]
    np.savez_compressed(path, images=images, names=names, photo_group=groups, labels=np.zeros(len(names), np.uint8))
    return path


def write_png(folder: Path, names: list[str], images: np.ndarray, mode: str = "L") -> Path:
    for i, (name, image) in enumerate(zip(names, images, strict=True)):
        target = folder / f"class{i % 3}" / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(target)
    return folder


# --- import ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gz", "unpacked", "packed again"])
def test_mnist_is_imported_whatever_way_it_is_packed(cache, tmp_path, monkeypatch, form):
    files = small_mnist(monkeypatch)
    folder = write_mnist(tmp_path / "mine", files)
    if form != "gz":
        for stem, raw in files.items():
            (folder / f"{stem}.gz").unlink()
            name = stem.replace("-idx", ".idx") if form == "unpacked" else f"{stem}.gz"
            (folder / name).write_bytes(raw if form == "unpacked" else gzip.compress(raw, 1))
    entry = data.import_("mnist", folder)
    assert entry.counts["train"] == {"tokens": 22 * 784, "images": 22}
    arrays, about = data.arrays("mnist", data.datasets()["mnist"])
    train = files["train-images-idx3-ubyte"][16:]
    assert arrays["train"].tobytes() == train[: 22 * 784]
    assert arrays["valid"].tobytes() == train[22 * 784 :]
    assert arrays["test"].tobytes() == files["t10k-images-idx3-ubyte"][16:]
    assert isinstance(arrays["train"], np.memmap)
    read = {source["file"]: source["sha256"] for source in about["sources"]}
    assert read == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def swap(folder: Path, a: str, b: str) -> None:
    left, right = folder / f"{a}.gz", folder / f"{b}.gz"
    kept = left.read_bytes()
    left.write_bytes(right.read_bytes())
    right.write_bytes(kept)


def repack(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


TRAIN, LABELS, TEST = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"
MNIST_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (lambda f: (f / f"{LABELS}.gz").unlink(), f"has no {LABELS}.gz"),
    "train and test are swapped": (lambda f: swap(f, TRAIN, TEST), "says it has 5 images; should be 24"),
    "images and labels are swapped": (lambda f: swap(f, TRAIN, LABELS), "is not an IDX file of images"),
    "the gzip is cut": (
        lambda f: (f / f"{TRAIN}.gz").write_bytes((f / f"{TRAIN}.gz").read_bytes()[:-2000]),
        "truncated or damaged",
    ),
    "the gzip is garbled": (
        lambda f: (f / f"{TRAIN}.gz").write_bytes((f / f"{TRAIN}.gz").read_bytes()[:500] + b"garbage" * 9),
        "truncated or damaged",
    ),
    "the contents are cut": (lambda f: repack(f / f"{TRAIN}.gz", lambda raw: raw[:-1]), "truncated or damaged"),
    "the contents go on": (lambda f: repack(f / f"{LABELS}.gz", lambda raw: raw + b"\0"), "truncated or damaged"),
    "the images have another size": (
        lambda f: repack(f / f"{TEST}.gz", lambda raw: idx(np.zeros((5, 14, 56), np.uint8))),
        "images of 14x56 pixels; should be 28x28",
    ),
    "it is another data set of this form": (
        lambda f: repack(f / f"{TRAIN}.gz", lambda raw: raw[:16] + bytes(len(raw) - 16)),
        "another data set?",
    ),
    "it is text": (
        lambda f: (f / f"{LABELS}.gz").write_bytes(b"<html>not found</html>"),
        "is not an IDX file of labels",
    ),
    "it is empty": (lambda f: (f / f"{LABELS}.gz").write_bytes(b""), "is not an IDX file of labels"),
}


@pytest.mark.parametrize("damage", MNIST_DAMAGE)
def test_a_bad_mnist_file_gets_one_line_and_leaves_the_cache_as_it_was(cache, tmp_path, monkeypatch, damage):
    folder = write_mnist(tmp_path / "mine", small_mnist(monkeypatch))
    data.import_("mnist", folder)
    before = tree(cache)
    change, expected = MNIST_DAMAGE[damage]
    change(folder)
    message = refused(lambda: data.import_("mnist", folder))
    assert message.startswith("data import mnist: ") and expected in message
    assert tree(cache) == before


def test_a_bad_first_import_leaves_no_data(cache, tmp_path):
    (tmp_path / "x.txt").write_text("no separator here")
    refused(lambda: data.import_("tinystories", tmp_path / "x.txt"))
    assert tree(cache) == {} and not list(cache.glob("*/arrays-*"))


def test_an_interrupted_import_leaves_the_cache_as_it_was(cache, tmp_path):
    (tmp_path / "x.txt").write_bytes(text(0, 100))
    data.import_("tinystories", tmp_path / "x.txt")
    before = tree(cache)

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.import_("tinystories", tmp_path / "x.txt", interrupt)
    assert tree(cache) == before


def test_what_a_killed_import_left_behind_is_swept_away(cache, tmp_path):
    (tmp_path / "x.txt").write_bytes(text(0, 100))
    left = cache / "tinystories" / "arrays-left"
    left.mkdir(parents=True)
    (left / "train.npy").write_bytes(b"half")
    assert data.import_("tinystories", tmp_path / "x.txt").here is not None
    assert not left.exists()


def test_processes_that_import_at_once_do_not_disturb_one_another(cache, tmp_path):
    sources = [tmp_path / f"{i}.txt" for i in range(4)]
    for i, source in enumerate(sources):
        source.write_bytes(text(0, 100 + i))
    threads = [threading.Thread(target=data.import_, args=("tinystories", source)) for source in sources]
    for thread in threads:  # a lock of this kind keeps threads apart as it does processes
        thread.start()
    for thread in threads:
        thread.join()
    arrays, about = data.arrays("tinystories", data.datasets()["tinystories"])
    total = sum(arrays[split].size for split in ("train", "valid", "test"))
    assert total in {len(ascii_only(stories(0, 100 + i))) for i in range(4)}
    assert [path.name for path in (cache / "tinystories").glob("arrays-*")] == [about["folder"]]


def whole(arrays: dict[str, np.ndarray]) -> bytes:
    return b"".join(arrays[split].tobytes() for split in ("train", "valid", "test"))


@pytest.mark.parametrize("packed", [False, True])
def test_tinystories_from_one_file_holds_out_the_last_stories(cache, tmp_path, packed):
    raw = text(0, 200) + b"a story that was cut o"
    source = tmp_path / ("mine.txt.gz" if packed else "mine.txt")
    source.write_bytes(gzip.compress(raw) if packed else raw)
    entry = data.import_("tinystories", source)
    assert {split: count["stories"] for split, count in entry.counts.items()} == {"train": 171, "valid": 9, "test": 20}
    arrays, about = data.arrays("tinystories", data.datasets()["tinystories"])
    assert whole(arrays) == ascii_only(stories(0, 200))
    assert arrays["test"].tobytes() == ascii_only(stories(180, 200))
    ends = np.cumsum([len(ascii_only([story])) for story in stories(0, 171)])
    assert np.array_equal(arrays["train.ends"], ends)
    assert about["settings"]["unfinished_stories_dropped"] == 1


def test_tinystories_from_a_folder_holds_out_the_files_that_say_so(cache, tmp_path):
    for name, raw in {
        "a_greatest.txt": text(0, 50),  # "test" within a word does not count
        "TinyStories-valid.txt": text(50, 60),
        "z.txt.gz": gzip.compress(text(60, 100)),
        "licence.md": b"not a story",
    }.items():
        (tmp_path / name).write_bytes(raw)
    data.import_("tinystories", tmp_path)
    arrays, about = data.arrays("tinystories", data.datasets()["tinystories"])
    assert arrays["test"].tobytes() == ascii_only(stories(50, 60))
    assert whole(arrays) == ascii_only(stories(0, 50) + stories(60, 100) + stories(50, 60))
    assert [source["file"] for source in about["sources"]] == ["TinyStories-valid.txt", "a_greatest.txt", "z.txt.gz"]


@pytest.mark.parametrize(
    "word",
    ["dev", "S-development", "testing", "tests_2", "testset", "held-out", "hold_out", "eval", "val", "unseen"],
)
def test_tinystories_trains_on_no_file_that_says_it_is_held_out(cache, tmp_path, word):
    (tmp_path / "train.txt").write_bytes(text(0, 50))
    (tmp_path / f"{word}.txt").write_bytes(text(50, 60))
    entry = data.import_("tinystories", tmp_path)
    assert {split: count["stories"] for split, count in entry.counts.items()} == {"train": 48, "valid": 2, "test": 10}
    assert (entry.settings["train"], entry.settings["test"]) == ("train.txt", f"{word}.txt")


def test_a_name_that_says_train_and_test_is_refused(cache, tmp_path):
    (tmp_path / "train.txt").write_bytes(text(0, 50))
    (tmp_path / "train-test.txt").write_bytes(text(50, 60))
    assert "train-test.txt" in refused(lambda: data.import_("tinystories", tmp_path))


def test_tinystories_says_which_file_became_which_split(cache, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, raw in {"train": text(0, 60), "more": text(60, 100), "dev": text(90, 95) + text(200, 210)}.items():
        (mine / f"{name}.txt").write_bytes(raw)
    assert cli.main(["data", "import", "tinystories", "--from", str(mine)]) == 0
    said = capsys.readouterr().out
    assert "4 stories (the last 1/20 of the stories that are not test" in said
    assert "91 stories (train.txt; no split in the name: more.txt)" in said
    assert "15 stories (dev.txt)" in said
    assert "5 of the test and 0 of the valid stories stood in the training text too" in said
    assert f"characters outside ASCII dropped: {100 + 15}\n" in said  # one in each story, before copies are dropped


def test_no_story_is_in_two_splits_however_its_lines_are_laid_out(cache, tmp_path):
    def told(numbers: range, gap: str) -> bytes:
        return "".join(f"Tale {i}.{gap}A cat sat.\n{END}\n" for i in numbers).encode()

    (tmp_path / "V2-train.txt").write_bytes(told(range(100), "\n\n") + told(range(95), "\n"))
    (tmp_path / "V1-valid.txt").write_bytes(told(range(3), "\n") + told(range(200, 205), "\n"))
    entry = data.import_("tinystories", tmp_path)
    arrays, _ = data.arrays("tinystories", data.datasets()["tinystories"])
    stories = {
        split: [bytes(part).decode() for part in np.split(arrays[split], arrays[f"{split}.ends"])[:-1]]
        for split in ("train", "valid", "test")
    }
    numbers = {split: [int(story.split(".")[0][5:]) for story in stories[split]] for split in stories}
    assert numbers["test"] == [0, 1, 2, *range(200, 205)], "the test set stays what it is"
    assert numbers["valid"] == list(range(86, 95))  # the last twentieth of 189 stories
    kept = [i for i in range(3, 100) if i not in range(86, 95)]
    assert numbers["train"] == kept + list(range(3, 86))
    assert entry.counts["train"] == {"tokens": sum(map(len, stories["train"])), "stories": len(stories["train"])}
    assert "3 of the test and 9 of the valid" in entry.settings["shared_stories"]
    assert "dropped there: 15" in entry.settings["shared_stories"]  # each of the 3 twice, each of the 9 once


def test_the_last_stories_of_one_file_are_told_from_their_copies_before(cache, tmp_path):
    (tmp_path / "twice.txt").write_bytes(text(0, 60) + text(40, 60))
    entry = data.import_("tinystories", tmp_path / "twice.txt")
    assert {split: count["stories"] for split, count in entry.counts.items()} == {"train": 58, "valid": 3, "test": 8}
    assert "8 of the test and 3 of the valid" in entry.settings["shared_stories"]


def test_a_test_set_that_is_all_there_is_to_train_on_is_refused(cache, tmp_path):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_bytes(text(0, 60))
    assert "copies dropped there: 60" in refused(lambda: data.import_("tinystories", tmp_path))


def test_line_ends_and_spaces_give_the_same_tokens_in_every_encoding(cache, tmp_path, monkeypatch):
    plain = "".join(f"Tale {i}.\nThe cat sat.\n{END}\n" for i in range(60))
    forms = {
        "LF": plain,
        "CRLF": plain.replace("\n", "\r\n"),
        "CR": plain.replace("\n", "\r"),
        "no-break": plain.replace("The cat", "The\u00a0cat"),
        "thin and ideographic": plain.replace("cat sat", "cat\u2009sat").replace("The cat", "The\u3000cat"),
        "marks": plain.replace("The cat", "\u201cThe\u201d \u2014cat\u200b"),
    }
    monkeypatch.setattr(data, "CHUNK", 7)  # pieces end between CR and LF, and within a character
    found = {}
    for form, content in forms.items():
        (tmp_path / "x.txt").write_bytes(content.encode())
        entry = data.import_("tinystories", tmp_path / "x.txt")
        arrays, about = data.arrays("tinystories", data.datasets()["tinystories"])
        found[form] = about["fingerprint"]
        assert entry.settings["characters_outside_ASCII_dropped"] == (240 if form == "marks" else 0)
    assert bytes(arrays["test"][:21]).decode() == "Tale 54.\nThe cat sat."
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("name", ["mnist", "sketchy", "tinystories"])
def test_what_an_operating_system_leaves_in_a_folder_is_passed_over(cache, tmp_path, monkeypatch, name):
    mine, double = tmp_path / "mine", b"\0\5\x16\7\0\2\0\0Mac OS X"  # AppleDouble: how a `._` file begins
    if name == "mnist":
        write_mnist(mine, small_mnist(monkeypatch))
    elif name == "sketchy":
        write_png(mine, *drawings(60))
    else:
        mine.mkdir()
        (mine / "a-train.txt").write_bytes(text(0, 60))
        (mine / "a-valid.txt.gz").write_bytes(gzip.compress(text(60, 70)))
    data.import_(name, mine)
    before = data.arrays(name, data.datasets()[name])[1]
    for path in [path for path in mine.rglob("*") if path.is_file()]:
        for beside in (path.with_name(f"._{path.name}"), mine / "__MACOSX" / path.name):
            beside.parent.mkdir(exist_ok=True)
            beside.write_bytes(double)
        (path.parent / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    data.import_(name, mine)
    after = data.arrays(name, data.datasets()[name])[1]
    assert (after["fingerprint"], after["sources"]) == (before["fingerprint"], before["sources"])


def test_tinystories_does_not_depend_on_where_the_pieces_that_are_read_end(cache, tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_bytes(text(0, 60))
    found = set()
    for chunk in (1, 7, 13, 1 << 20):
        monkeypatch.setattr(data, "CHUNK", chunk)
        data.import_("tinystories", tmp_path / "x.txt")
        found.add(data.arrays("tinystories", data.datasets()["tinystories"])[1]["fingerprint"])
    assert len(found) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"Once upon a time there was no separator. " * 50, "no <|endoftext|> between stories"),
        (b"", "no <|endoftext|> between stories"),
        (text(0, 90).decode().encode("utf-16"), "is not plain text"),
        (gzip.compress(text(0, 9000))[:-3000], "truncated or damaged"),
        (gzip.compress(text(0, 90)) + b"rubbish", "truncated or damaged"),
        (text(0, 5), "too few stories"),
        ((END * 40).encode(), "too few stories"),
    ],
)
def test_a_bad_text_gets_one_line_and_leaves_the_cache_as_it_was(cache, tmp_path, content, expected):
    (tmp_path / "good.txt").write_bytes(text(0, 100))
    data.import_("tinystories", tmp_path / "good.txt")
    before = tree(cache)
    (tmp_path / "bad.txt").write_bytes(content)
    message = refused(lambda: data.import_("tinystories", tmp_path / "bad.txt"))
    assert message.startswith("data import tinystories: ") and expected in message
    assert tree(cache) == before


def test_a_folder_without_text_or_with_held_out_text_only_is_refused(cache, tmp_path):
    assert "no .txt" in refused(lambda: data.import_("tinystories", tmp_path))
    (tmp_path / "valid.txt").write_bytes(text(0, 100))
    assert "none to train on" in refused(lambda: data.import_("tinystories", tmp_path))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sketchy_is_the_same_from_png_and_from_npz(cache, tmp_path, mode):
    names, images = drawings(60, side=128)
    found = set()
    for source in (
        write_npz(tmp_path / "mine.npz", names, images),
        write_png(tmp_path / "png", names, images, mode),
        write_npz(tmp_path / "reversed.npz", names[::-1], images[::-1]),
    ):
        entry = data.import_("sketchy", source)
        found.add(data.arrays("sketchy", data.datasets()["sketchy"])[1]["fingerprint"])
    assert len(found) == 1
    assert sum(count["drawings"] for count in entry.counts.values()) == 120
    assert sum(count["photographs"] for count in entry.counts.values()) == 60


def test_sketchy_splits_by_the_photograph_whatever_folder_a_name_is_in(cache, tmp_path):
    names, images = drawings(60)
    data.import_("sketchy", write_npz(tmp_path / "bare.npz", names, images))
    bare = data.arrays("sketchy", data.datasets()["sketchy"])[1]
    for form in ("tx_{odd}/apple/{name}.png", "C:\\class{odd}\\{name}", "{name}.PNG"):
        given = [form.format(odd=i % 2, name=name) for i, name in enumerate(names)]
        data.import_("sketchy", write_npz(tmp_path / "named.npz", given, images))
        named = data.arrays("sketchy", data.datasets()["sketchy"])[1]
        assert (named["fingerprint"], named["counts"]) == (bare["fingerprint"], bare["counts"]), form


def test_sketchy_takes_an_archive_that_macos_packed_again(cache, tmp_path):
    path = write_npz(tmp_path / "mine.npz", *drawings(60))
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("__MACOSX/._images.npy", ".DS_Store"):
            archive.writestr(name, b"\0\5\x16\7")
    assert data.import_("sketchy", path).counts["train"]["drawings"] > 0


def test_empty_sheets_are_no_twins(cache, tmp_path):
    names, images = drawings(60)
    images[:3] = 255
    entry = data.import_("sketchy", write_npz(tmp_path / "empty.npz", names, images))
    assert sum(count["drawings"] for count in entry.counts.values()) == 120


def png_bytes(colour: int, depth: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file, written after the specification: samples (side, side x channels) of `depth` bits."""
    if depth == 16:
        packed = samples.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(len(samples), -1), axis=-1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)  # filter 0
    head = struct.pack(">IIBBBBB", len(samples), len(samples), depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


PNG_KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
PNG_KINDS += [(4, 8), (4, 16), (6, 8), (6, 16)]  # colour type and bit depth: all there are


@pytest.mark.parametrize(("colour", "depth"), PNG_KINDS)
def test_every_kind_of_png_is_read_as_it_is_or_refused(tmp_path, colour, depth):
    channels, most = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour], 2**depth - 1
    grey = np.random.default_rng(depth).integers(0, most + 1, (64, 64))
    samples = np.repeat(grey, channels, axis=1)
    inverse = bytes(255 - 255 * i // most for i in range(most + 1) for _ in "RGB")
    palette = [(b"PLTE", inverse)] if colour == 3 else []
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(colour, depth, samples, *palette))
    if colour in (4, 6) or (colour, depth) == (0, 16):
        assert ("has transparency" if colour else "mode I;16") in refused(lambda: sketchy._png(path))
        return
    level = grey >> 8 if depth == 16 else grey * 255 // most
    assert np.array_equal(sketchy._png(path), 255 - level if colour == 3 else level)
    key = b"\0" if colour == 3 else struct.pack(f">{channels}H", *[most] * channels)  # the first entry, or white
    path.write_bytes(png_bytes(colour, depth, samples, *palette, (b"tRNS", key)))
    assert "x.png has transparency" in refused(lambda: sketchy._png(path))


def test_sketchy_shrinks_to_the_mean_of_each_block(cache, tmp_path):
    names, images = drawings(60, side=128)
    data.import_("sketchy", write_npz(tmp_path / "big.npz", names, images))
    big = data.arrays("sketchy", data.datasets()["sketchy"])[1]["fingerprint"]
    sums = images.reshape(-1, 64, 2, 64, 2).astype(int).sum((2, 4))
    small = np.array([round(total / 4) for total in sums.flat], np.uint8).reshape(-1, 64, 64)
    data.import_("sketchy", write_npz(tmp_path / "small.npz", names, small))
    assert data.arrays("sketchy", data.datasets()["sketchy"])[1]["fingerprint"] == big


def sketchy_damage(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    names, images = drawings(60)
    good = write_npz(tmp_path / "good.npz", names, images)

    def png(name: str, change: Callable[[Path], object]) -> Path:
        folder = write_png(tmp_path / name, names, images)
        change(folder / "class0" / f"{names[0]}.png")
        return folder

    cut, fake, bare = tmp_path / "cut.npz", tmp_path / "fake.npz", tmp_path / "bare.npz"
    cut.write_bytes(good.read_bytes()[:-5000])
    fake.write_bytes(b"not an archive")
    np.savez(bare, images=images)
    (tmp_path / "empty").mkdir()
    (tmp_path / "copies" / "tx_2").mkdir(parents=True)
    write_png(tmp_path / "copies" / "tx_1", names, images)
    write_png(tmp_path / "copies" / "tx_2", names[:1], images[:1])
    inverted, twins = images.copy(), images.copy()
    inverted[7] = 255 - inverted[7]
    twins[-1] = twins[0]
    folders = [f"tx_{i}/apple/{name}.png" for i in (1, 2) for name in names]
    return {
        "the archive is cut": (cut, "truncated or damaged"),
        "it is no archive": (fake, "is not an .npz archive"),
        "it has no names": (bare, "has no array 'names'"),
        "the numbers disagree": (write_npz(tmp_path / "n.npz", names[:-1], images), "120 images but names"),
        "not bytes": (write_npz(tmp_path / "f.npz", names, images / 255), "should be uint8"),
        "not a multiple of 64": (write_npz(tmp_path / "s.npz", names, images[:, :50, :50]), "a multiple of 64"),
        "white on black": (write_npz(tmp_path / "w.npz", names, 255 - images), "should be black ink on white paper"),
        "one white on black": (
            write_npz(tmp_path / "v.npz", names, inverted),
            f"1 of 120 drawings are mostly dark, '{names[7]}'",
        ),
        "one drawing under two names": (write_npz(tmp_path / "t.npz", names, twins), "are the same drawing"),
        "one name in two folders": (
            write_npz(tmp_path / "d.npz", folders, np.concatenate([images, images])),
            f"'tx_1/apple/{names[0]}.png' and 'tx_2/apple/{names[0]}.png' name one drawing",
        ),
        "names without photographs": (
            write_npz(tmp_path / "p.npz", [f"x{i}" for i in range(120)], images),
            "does not say which photograph",
        ),
        "one photograph": (write_npz(tmp_path / "o.npz", names[:2], images[:2]), "too few photographs"),
        "a folder without images": (tmp_path / "empty", "has no .png file"),
        "the same drawing twice": (
            tmp_path / "copies",
            f"'tx_1/class0/{names[0]}.png' and 'tx_2/class0/{names[0]}.png' name one drawing",
        ),
        "a cut PNG": (png("a", lambda p: p.write_bytes(p.read_bytes()[:-900])), "truncated or damaged"),
        "not a PNG": (png("b", lambda p: p.write_bytes(b"GIF89a")), "is not a PNG image"),
        "a PNG of another size": (
            png("c", lambda p: Image.new("L", (100, 64)).save(p)),
            "has 100x64 pixels; should be square",
        ),
        "a PNG with transparency": (png("d", lambda p: Image.new("RGBA", (64, 64)).save(p)), "has transparency"),
    }


def test_bad_drawings_get_one_line_and_leave_the_cache_as_it_was(cache, tmp_path):
    cases = sketchy_damage(tmp_path)
    data.import_("sketchy", tmp_path / "good.npz")
    before = tree(cache)
    for case, (path, expected) in cases.items():
        message = refused(lambda path=path: data.import_("sketchy", path))
        assert message.startswith("data import sketchy: ") and expected in message, case
        assert tree(cache) == before, case


def test_import_says_what_it_cannot_use(cache, tmp_path):
    assert "did you mean 'mnist'" in refused(lambda: data.import_("mnits", tmp_path))
    assert "nothing to import" in refused(lambda: data.import_("digits", tmp_path))
    assert "no file or folder" in refused(lambda: data.import_("mnist", tmp_path / "nowhere"))


# --- catalogue ------------------------------------------------------------------------------------------------------


def test_the_catalogue_says_what_is_here_and_how_to_bring_the_rest(cache, tmp_path):
    entries = {entry.name: entry for entry in data.catalogue()}
    assert {"digits", "mnist", "sketchy", "tinystories"} <= set(entries)
    assert entries["digits"].here == "bundled" and entries["digits"].counts["train"]["images"] == 1350
    assert entries["mnist"].here is None
    for command in ("`python run_bench.py data fetch mnist`", "`python run_bench.py data import mnist --from PATH`"):
        assert command in entries["mnist"].hint
    assert "fetch" not in entries["sketchy"].hint and "data import sketchy --from PATH" in entries["sketchy"].hint
    assert all(entry.size and entry.licence and entry.source for entry in entries.values())
    (tmp_path / "x.txt").write_bytes(text(0, 100))
    data.import_("tinystories", tmp_path / "x.txt")
    here = next(entry for entry in data.catalogue() if entry.name == "tinystories")
    assert here.here is not None and Path(here.here).is_dir() and here.hint == ""


def test_without_a_home_folder_one_line_says_what_to_set(monkeypatch, tmp_path):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "BENCH_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert "BENCH_DATA" in refused(data.catalogue)
    monkeypatch.setenv("BENCH_DATA", "~/data")
    assert "~/data: there is no such home folder" in refused(data.cache)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    assert "~/x.txt" in refused(lambda: data.import_("tinystories", "~/x.txt"))
    assert not any(tmp_path.iterdir())


def test_damaged_data_are_noticed(cache, tmp_path):
    (tmp_path / "x.txt").write_bytes(text(0, 100))
    entry = data.import_("tinystories", tmp_path / "x.txt")
    known = data.datasets()["tinystories"]
    train = Path(entry.here or "") / "train.npy"
    train.write_bytes(train.read_bytes()[:-10])
    assert "is damaged" in refused(lambda: data.arrays("tinystories", known))
    (cache / "tinystories" / "prepared.json").write_text("{")
    assert "is damaged" in (data.missing("tinystories", known) or "")
    data.import_("tinystories", tmp_path / "x.txt")
    assert data.missing("tinystories", known) is None


def test_importing_the_data_module_loads_no_heavy_library():
    heavy = {"pooch", "requests", "filelock", "sklearn", "PIL"}
    code = f"import sys, bench.registry as r; r.tasks.names(); print({heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- fetch ----------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `files`; may cut a body short, leave out its length, or hold it back half way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}  # send only so many bytes of those announced
        self.hold: set[str] = set()  # send half, then nothing
        self.held = threading.Event()
        self.asked: list[str] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        if name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if name in self.server.hold:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.server.held.set()
            time.sleep(60)  # the client is killed long before
        self.wfile.write(body[: self.server.cut.get(name)])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        running.block_on_close = False


def serve_mnist(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[data.Source, ...]:
    server.files = {f"{stem}.gz": gzip.compress(raw) for stem, raw in small_mnist(monkeypatch).items()}
    return tuple(data.Source(server.url(f), hashlib.sha256(raw).hexdigest()) for f, raw in server.files.items())


def serve_stories(server: Server) -> tuple[data.Source, ...]:
    server.files = {"S-train.txt": text(0, 20000), "S-valid.txt": text(20000, 20100)}
    return tuple(data.Source(server.url(name)) for name in server.files)


def test_fetch_downloads_verifies_and_prepares_once(cache, server, monkeypatch):
    sources = serve_mnist(server, monkeypatch)
    seen = []
    entry = data.fetch("mnist", lambda *step: seen.append(step), sources)
    assert entry.here is not None and entry.counts["test"]["images"] == 5
    assert len(server.asked) == 4
    size = len(server.files[f"{TRAIN}.gz"])
    assert (f"downloading {TRAIN}.gz", size, size) in seen
    _, about = data.arrays("mnist", data.datasets()["mnist"])
    assert about["urls"] == [source.url for source in sources]
    before = tree(cache)
    assert not any("downloads" in name or "recorded" in name for name in before)
    data.fetch("mnist", sources=sources)
    assert len(server.asked) == 4 and tree(cache) == before


def test_a_file_with_another_hash_than_the_published_is_refused(cache, server, monkeypatch):
    sources = serve_mnist(server, monkeypatch)
    good = server.files[f"{TEST}.gz"]
    server.files[f"{TEST}.gz"] = good[:-1] + b"?"
    message = refused(lambda: data.fetch("mnist", sources=sources))
    assert message.startswith("data fetch mnist: ") and "not the expected file" in message and "published" in message
    assert data.missing("mnist", data.datasets()["mnist"]) is not None
    assert f"mnist/downloads/{TEST}.gz" not in tree(cache)
    server.files[f"{TEST}.gz"] = good
    server.asked.clear()
    assert data.fetch("mnist", sources=sources).here is not None
    assert f"{TRAIN}.gz" not in server.asked, "files that were finished are not downloaded again"


def test_a_transfer_that_breaks_off_can_be_repeated(cache, server):
    sources = serve_stories(server)
    server.cut["S-valid.txt"] = 1000
    message = refused(lambda: data.fetch("tinystories", sources=sources))
    assert "run the command again" in message
    assert list(tree(cache)) == ["tinystories/downloads/S-train.txt"]
    server.cut.clear()
    entry = data.fetch("tinystories", sources=sources)
    assert entry.counts["test"]["stories"] == 100 and server.asked == ["S-train.txt", "S-valid.txt", "S-valid.txt"]


def test_a_file_that_is_not_there_and_a_server_that_does_not_answer(cache, server):
    sources = serve_stories(server)
    del server.files["S-valid.txt"]
    assert "404" in refused(lambda: data.fetch("tinystories", sources=sources))
    silent = (data.Source("http://127.0.0.1:9/x-train.txt"),)  # the discard port: nothing listens
    assert "broke off" in refused(lambda: data.fetch("tinystories", sources=silent))
    assert data.missing("tinystories", data.datasets()["tinystories"]) is not None


def test_the_first_fetch_records_hashes_and_later_ones_are_held_to_them(cache, server):
    sources = serve_stories(server)
    home = cache / "tinystories"
    data.fetch("tinystories", sources=sources)
    recorded = json.loads((home / "recorded-hashes.json").read_text())
    for source in sources:
        raw = server.files[source.file]
        expected = {"file": source.file, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        assert recorded[source.url] == expected
    (home / "prepared.json").unlink()
    server.files["S-valid.txt"] += b"one more"
    message = refused(lambda: data.fetch("tinystories", sources=sources))
    assert "not the expected file" in message and "recorded at the first fetch" in message
    server.files["S-valid.txt"] = server.files["S-valid.txt"][: -len(b"one more")]
    assert data.fetch("tinystories", sources=sources).here is not None


def test_an_error_page_is_neither_recorded_nor_kept(cache, server):
    sources = serve_stories(server)
    good = server.files["S-valid.txt"]
    server.files["S-valid.txt"] = b"<html>try later</html>"
    assert "is not TinyStories" in refused(lambda: data.fetch("tinystories", sources=sources))
    assert tree(cache) == {}
    server.files["S-valid.txt"] = good
    assert data.fetch("tinystories", sources=sources).here is not None


def test_a_fetch_that_is_killed_can_be_repeated(cache, server):
    sources = serve_stories(server)
    server.hold.add("S-valid.txt")
    urls = [source.url for source in sources]
    code = f"from bench.tasks import data; data.fetch('tinystories', sources=tuple(map(data.Source, {urls!r})))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=dict(os.environ)) as process:
        assert server.held.wait(60)
        process.kill()
    server.hold.clear()
    assert data.fetch("tinystories", sources=sources).counts["test"]["stories"] == 100
    assert server.asked == ["S-train.txt", "S-valid.txt", "S-valid.txt"]
    assert {name.split("/")[1].split("-")[0] for name in tree(cache)} == {"arrays", "prepared.json", "recorded"}


def test_fetch_says_what_it_cannot_do(cache):
    message = refused(lambda: data.fetch("sketchy"))
    assert "no public file" in message and "data import sketchy --from PATH" in message
    assert "nothing to fetch" in refused(lambda: data.fetch("digits"))
    assert "allowed: " in refused(lambda: data.fetch("imagenet"))


def test_the_public_addresses_and_hashes(monkeypatch):
    known = data.datasets()
    assert [source.file for source in known["mnist"].sources] == [f"{stem}.gz" for stem in mnist.PUBLISHED]
    assert all(source.sha256 and len(source.sha256) == 64 for source in known["mnist"].sources)
    assert [source.file for source in known["tinystories"].sources] == [
        "TinyStories-train.txt",
        "TinyStories-valid.txt",
    ]
    assert all(source.url.startswith("https://") for dataset in known.values() for source in dataset.sources)


# --- the real files -------------------------------------------------------------------------------------------------


@real
def test_the_real_mnist(cache):
    entry = data.import_("mnist", REAL / "mnist")
    assert {split: count["images"] for split, count in entry.counts.items()} == {
        "train": 55_000,
        "valid": 5_000,
        "test": 10_000,
    }
    arrays, about = data.arrays("mnist", data.datasets()["mnist"])
    published = {source.file: source.sha256 for source in data.datasets()["mnist"].sources}
    assert {source["file"]: source["sha256"] for source in about["sources"]} == published
    mean = np.concatenate([arrays["train"], arrays["valid"]]).mean() / 255
    assert mean == pytest.approx(0.13066, abs=5e-6)  # as published, to its last digit


@real
def test_the_real_tinystories(cache):
    entry = data.import_("tinystories", REAL / "tinystories")
    assert sum(count["stories"] for count in entry.counts.values()) == 8_550
    assert "dropped there: 1" in entry.settings["shared_stories"]  # of 8,551, one is in the last tenth and before
    arrays, about = data.arrays("tinystories", data.datasets()["tinystories"])
    assert about["settings"]["unfinished_stories_dropped"] == 1
    assert whole(arrays).isascii()
    assert b"Once upon a time" in arrays["test"].tobytes() and END.encode() not in whole(arrays)


@real
def test_the_real_sketchy(cache):
    found = set()
    for side in (64, 256):
        entry = data.import_("sketchy", REAL / "sketchy" / f"sketchy_3125_gray{side}.npz")
        arrays, about = data.arrays("sketchy", data.datasets()["sketchy"])
        found.add(about["fingerprint"])
    assert len(found) == 1, "the 64x64 images are the block means of the 256x256 ones"
    assert sum(count["drawings"] for count in entry.counts.values()) == 3_125
    assert sum(count["photographs"] for count in entry.counts.values()) == 578
    dark = 255 - np.concatenate([arrays["train"], arrays["valid"], arrays["test"]])
    for threshold, share in {32: 0.077, 64: 0.063, 96: 0.052, 128: 0.037}.items():
        assert (dark >= threshold).mean() == pytest.approx(share, abs=0.0005)  # as published, to its last digit
