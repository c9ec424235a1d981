"""The natural tasks: the right windows of the right data, at every knob."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import registry, streams
from bench.errors import BadInput
from bench.tasks import data, mnist, sketchy
from bench.tasks.base import Split, Task
from tests.helpers import mnist_files

NAMES = ("tinystories", "mnist", "sketchy", "digits")
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SPLIT_OF = {"train": range(0, 66), "valid": range(66, 72), "test": range(72, 82)}  # small MNIST, images in order
STORIES = [f"Tale {i}. {'A cat sat on a mat. ' * (i % 5)}The \u201cend\u201d." for i in range(120)]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (82, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def drawings() -> tuple[list[str], np.ndarray]:
    names = [f"n{photo:08d}-{i}" for photo in range(80) for i in (1, 2)]
    return names, np.random.default_rng(1).integers(120, 256, (160, 64, 64), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def prepared(tmp_path_factory, images, drawings) -> Iterator[Path]:
    """All data sets, small and in their true formats, imported into a cache of their own."""
    folder = tmp_path_factory.mktemp("natural")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATA", str(folder / "cache"))
        for stem, published in mnist_files(folder, images[:72], images[72:]).items():
            patch.setitem(mnist.PUBLISHED, stem, published)
        data.import_("mnist", folder)
        (folder / "stories.txt").write_text("".join(f"{story}<|endoftext|>\n" for story in STORIES), encoding="utf-8")
        data.import_("tinystories", folder / "stories.txt")
        np.savez(folder / "drawings.npz", names=drawings[0], images=drawings[1])
        data.import_("sketchy", folder / "drawings.npz")
        yield folder


def build(name: str, **knobs: object) -> Task:
    task = registry.tasks.get(name)
    return task(task.Config.parse(knobs, name))  # type: ignore[attr-defined]


def whole(task: Task, split: Split) -> list[int]:
    """All tokens of a split: the one window that holds them all."""
    batch = task.sample(split, 1, task.tokens(split) - 1, streams.generator(0, "x"))  # type: ignore[attr-defined]
    return [*batch.x[0].tolist(), int(batch.y[0, -1])]


VARIANTS: list[tuple[str, dict[str, object]]] = [
    ("tinystories", {}),
    ("tinystories", {"separator": True}),
    ("mnist", {}),
    ("mnist", {"start": "anywhere"}),
    ("sketchy", {}),
    ("sketchy", {"start": "anywhere", "ink_threshold": 100}),
    ("digits", {}),
    ("digits", {"start": "anywhere"}),
]
IMAGE = {"mnist": 784, "sketchy": 1024, "digits": 64}


@pytest.mark.parametrize(("name", "knobs"), VARIANTS)
@pytest.mark.parametrize("split", SPLITS)
def test_samples_are_windows_of_the_data_shifted_by_one(name, knobs, split):
    task = build(name, **knobs)
    tokens = bytes(whole(task, split))
    batch = task.sample(split, 50, 90, streams.generator(3, "data"))
    assert batch.x.shape == batch.y.shape == (50, 90) and batch.x.dtype == batch.y.dtype == torch.int64
    assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])
    assert batch.x.min() >= 0 and batch.y.max() < task.vocab_size
    aligned = knobs.get("start", "image") == "image" and name in IMAGE
    found = set()
    for x, y in zip(batch.x.tolist(), batch.y.tolist(), strict=True):
        window, places = bytes([*x, y[-1]]), []
        while (at := tokens.find(window, places[-1] + 1 if places else 0)) >= 0:
            places.append(at)
        assert places, "this window does not occur"
        assert not aligned or any(place % IMAGE[name] == 0 for place in places)
        found.add(places[0])
    assert len(found) > (1 if aligned else 30)


@pytest.mark.parametrize(("name", "knobs"), VARIANTS)
def test_every_start_is_drawn_and_none_beyond_the_end(name, knobs):
    task = build(name, **knobs)
    stride = task._stride  # type: ignore[attr-defined]
    total = task.tokens("test")  # type: ignore[attr-defined]
    length = total - 1 - 2 * stride  # three starts fit
    batch = task.sample("test", 64, length, streams.generator(0, "data"))
    tokens = torch.tensor(whole(task, "test"))
    expected = {tuple(tokens[stride * k : stride * k + length].tolist()) for k in range(3)}
    assert {tuple(row) for row in batch.x.tolist()} == expected


def test_a_window_longer_than_the_data_is_refused_in_one_line():
    task = build("digits")
    with pytest.raises(
        BadInput, match=r"digits: length 19008 given; the test split has 19008 tokens, so at most 19007"
    ):
        task.sample("test", 1, 19008, streams.generator(0, "x"))


@pytest.mark.parametrize(("name", "length"), [("tinystories", 256), ("mnist", 783), ("sketchy", 1023), ("digits", 64)])
def test_what_the_tasks_state(name, length):
    task = build(name)
    assert task.config.length == length and task.unit == "bits"
    assert task.vocab_size == task.output_size == {"sketchy": 16, "digits": 17}.get(name, 256)
    assert task.loss_floor(length) is None and task.accuracy_ceiling(length) is None
    assert task.missing() is None
    shortcuts = task.shortcuts(100)
    assert "echo the last symbol" in shortcuts and all(0 <= share <= 1 for share in shortcuts.values())
    assert 0 < task.unigram_loss(100) < np.log(task.vocab_size) + 0.1  # 0.1: uniform pixels, counted on a sample


@pytest.mark.parametrize(("name", "knobs"), VARIANTS)
def test_chance_is_a_guess_among_the_labels_that_occur(name, knobs):
    task = build(name, **knobs)
    occur = len({token for split in SPLITS for token in whole(task, split)})
    assert task.chance(90) == pytest.approx(1 / occur)
    assert occur == {"tinystories": 25 + bool(knobs.get("separator")), "sketchy": 16, "digits": 17}.get(name, 256)


def test_chance_is_of_the_columns_that_are_scored():
    task = build("digits")
    images = np.concatenate([whole(task, split) for split in SPLITS]).reshape(-1, 64)
    assert task.chance(64, 55) == 1 / len(np.unique(np.concatenate([images[:, 56:], images[1:, :1]], None)))
    assert task.chance(64, 63) == 1.0  # the first pixel of the next image is always empty


def test_shortcuts_are_of_the_columns_that_are_scored():
    task = build("digits")
    x, y, _ = task.sample("test", 2048, 64, streams.generator(0, "shortcuts", "test"))
    assert task.shortcuts(64, 32)["echo the last symbol"] == pytest.approx((x == y)[:, 32:].double().mean().item())
    assert task.shortcuts(64, 32)["echo the last symbol"] != pytest.approx((x == y).double().mean().item(), abs=0.01)


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "knobs"), VARIANTS)
def test_lanes_read_on_through_all_the_data_and_restart_only_once(name, knobs):
    task = build(name, **knobs)
    tokens = torch.tensor(whole(task, "test"))
    total, generator = len(tokens), streams.generator(1, "lanes")
    length = total // 5
    batch, state = task.stream("test", 3, length, generator)
    pieces, labels = [batch.x], [batch.y]
    assert batch.start is not None and batch.start[:, 0].all() and not batch.start[:, 1:].any()
    for _ in range(6):  # beyond the end: after the last token comes the first
        batch, state = task.stream("test", 3, length, generator, state)
        assert batch.start is not None and not batch.start.any()
        pieces.append(batch.x)
        labels.append(batch.y)
    x, y = torch.cat(pieces, 1), torch.cat(labels, 1)
    assert torch.equal(x[:, 1:], y[:, :-1])
    ring = torch.cat([tokens, tokens, tokens])
    for lane in range(3):
        fits = [s for s in range(total) if torch.equal(ring[s : s + 40], x[lane, :40])]
        assert any(torch.equal(ring[s : s + x.shape[1]], x[lane]) for s in fits)


# --- what the tokens are --------------------------------------------------------------------------------------------


def test_mnist_is_the_images_in_order_and_its_splits_are_apart(images):
    task = build("mnist")
    for split in SPLITS:
        assert whole(task, split) == images[list(SPLIT_OF[split])].reshape(-1).tolist()


@pytest.mark.parametrize("separator", [False, True])
def test_tinystories_is_the_ascii_characters_with_or_without_a_separator(separator):
    task = build("tinystories", separator=separator)
    kept = ["".join(c for c in story if c.isascii()) for story in STORIES]
    end = "\0" if separator else ""
    for split, part in (("train", kept[:103]), ("valid", kept[103:108]), ("test", kept[108:])):
        assert bytes(whole(task, split)).decode() == "".join(story + end for story in part)


def patches_in_plain_python(image: np.ndarray, threshold: int) -> tuple[int, ...]:
    ink = [[255 - int(grey) >= threshold for grey in row] for row in image]
    return tuple(
        8 * ink[r][c] + 4 * ink[r][c + 1] + 2 * ink[r + 1][c] + ink[r + 1][c + 1]
        for r in range(0, 64, 2)
        for c in range(0, 64, 2)
    )


@pytest.mark.parametrize("threshold", [32, 48, 64, 128])
def test_sketchy_is_patches_of_ink_and_a_photograph_is_on_one_side(drawings, threshold):
    names, grey = drawings
    task = build("sketchy", ink_threshold=threshold)
    known = {patches_in_plain_python(image, threshold): name for name, image in zip(names, grey, strict=True)}
    assert len(known) == 160
    photographs, order = {}, []
    for split in SPLITS:
        tokens = whole(task, split)
        found = [known[tuple(tokens[i : i + 1024])] for i in range(0, len(tokens), 1024)]
        photographs[split] = {name.rpartition("-")[0] for name in found}
        order += found
    assert sorted(order) == sorted(names) and order != sorted(order)
    assert not photographs["train"] & photographs["test"]
    assert not photographs["train"] & photographs["valid"]
    assert not photographs["valid"] & photographs["test"]


def test_the_patches_of_the_docstring():
    image = np.full((1, 64, 64), 255, np.uint8)
    image[0, :2, :4] = [[0, 255, 255, 255], [0, 0, 255, 0]]
    grey = torch.from_numpy(sketchy.patches(image))
    found = build("sketchy").look_up((grey,), torch.arange(3)[None])  # type: ignore[attr-defined]
    assert found.tolist() == [[11, 1, 0]] and found.dtype == torch.int64


def test_digits_are_the_bundled_images():
    from sklearn.datasets import load_digits

    bundled = load_digits().images.astype(int).reshape(-1).tolist()
    task = build("digits")
    assert [token for split in SPLITS for token in whole(task, split)] == bundled
    batch = task.sample("train", 20, 64, streams.generator(0, "x"))
    rows = {tuple(bundled[i : i + 64]) for i in range(0, 1350 * 64, 64)}
    assert all(tuple(x) in rows for x in batch.x.tolist())


# --- large data, absent data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tinystories", "mnist", "sketchy"])
def test_data_stay_on_disk_until_they_are_drawn(name):
    arrays, _ = data.arrays(name, data.datasets()[name])
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    assert all(array.dtype == np.uint8 for key, array in arrays.items() if key in SPLITS)


@pytest.mark.parametrize("name", ["tinystories", "mnist", "sketchy"])
def test_without_its_data_a_task_says_which_commands_bring_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    reason = registry.tasks.get(name).missing()  # type: ignore[attr-defined]
    assert reason is not None and "\n" not in reason
    assert f"`python run_bench.py data import {name} --from PATH`" in reason
    assert (f"`python run_bench.py data fetch {name}`" in reason) == (name != "sketchy")
    assert name != "sketchy" or "ask for the drawings at" in reason
    with pytest.raises(BadInput) as caught:
        build(name)
    assert str(caught.value) == reason


def test_a_bad_knob_is_refused():
    with pytest.raises(BadInput, match="start"):
        build("mnist", start="middle")
    with pytest.raises(BadInput, match="ink_threshold"):
        build("sketchy", ink_threshold=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "knobs"), VARIANTS)
@pytest.mark.parametrize("largest", [0, 2**29])
def test_on_a_device_windows_are_drawn_there(name, knobs, largest, monkeypatch):
    monkeypatch.setattr("bench.tasks.windows.LARGEST_ON_DEVICE", largest)
    task = build(name, **knobs)
    tokens = bytes(whole(task, "train"))
    batch = task.sample("train", 8, 60, streams.generator(0, "data", device="cuda"))
    assert batch.x.is_cuda and batch.y.is_cuda
    assert all(bytes([*x, y[-1]]) in tokens for x, y in zip(batch.x.tolist(), batch.y.tolist(), strict=True))
