"""shakespeare and ptb: the right symbols of the right text, in every form that it comes in."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
import torch

from bench import registry, streams
from bench.errors import BadInput
from bench.tasks import data
from bench.tasks.shakespeare import ALPHABET, PUBLISHED
from bench.testing import conformance

REAL = Path(__file__).parents[3] / "shared/data/shakespeare/input.txt.gz"
PLAY = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n" * 40
WORDS = [" aer banknote berlitz \n", " pierre <unk> N years old \n", " mr. vinken \n"]
ONE_LINE = "".join(f" {'aer banknote <unk> N'} \n" for _ in range(20))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))


def build(name):
    task = registry.tasks.get(name)
    return task(task.Config.parse({}, name))


def whole(task, split):
    batch = task.sample(split, 1, task.tokens(split) - 1, streams.generator(0, "x"))
    return task.text(torch.cat([batch.x, batch.y[:, -1:]], 1))[0]


@pytest.mark.parametrize("packed", [False, True])
def test_shakespeare_is_the_text_in_order(tmp_path, packed):
    source = tmp_path / ("input.txt.gz" if packed else "input.txt")
    source.write_bytes(gzip.compress(PLAY.encode()) if packed else PLAY.encode())
    entry = data.import_("shakespeare", source if packed else tmp_path)
    task = build("shakespeare")
    assert task.vocab_size == task.output_size == 65 == len(set(ALPHABET))
    parts = [whole(task, split) for split in ("train", "valid", "test")]
    assert "".join(parts) == PLAY
    assert [len(part) for part in parts[1:]] == [len(PLAY) // 20] * 2
    assert entry.counts["train"]["tokens"] == len(parts[0])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"caf\xc3\xa9 " * 50, "is not plain ASCII text"),
        (b"a*b" * 50, "has '*', which is not among the 65 symbols"),
        (b"a", "should have two or more"),
        (gzip.compress(PLAY.encode())[:-20], "truncated or damaged"),
    ],
    ids=["letters", "symbols", "short", "truncated"],
)
def test_what_is_no_such_text_is_refused_in_one_line(tmp_path, content, expected):
    (tmp_path / "input.txt").write_bytes(content)
    with pytest.raises(BadInput, match="data import shakespeare: ") as caught:
        data.import_("shakespeare", tmp_path / "input.txt")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["words", "characters"])
def test_ptb_is_the_same_from_words_and_from_characters(tmp_path, form):
    for split, line in zip(("train", "valid", "test"), WORDS, strict=True):
        lines = [*WORDS, line] * 10 if split == "train" else [line] * 5
        if form == "characters":
            lines = [" ".join(text.strip().replace(" ", "_")) + "\n" for text in lines]
        name = f"ptb.{split}.txt" if form == "words" else f"ptb.char.{split}.txt"
        (tmp_path / name).write_text("".join(lines))
    data.import_("ptb", tmp_path)
    task = build("ptb")
    assert whole(task, "test") == "\n".join(["mr. vinken"] * 5)
    assert task.vocab_size == len(set(whole(task, "train"))) and "<" in task.alphabet and "_" not in task.alphabet


def test_ptb_is_brought_by_hand_and_needs_all_three_files(tmp_path):
    reason = registry.tasks.get("ptb").missing()
    assert "data import ptb --from PATH" in reason and "data fetch ptb" not in reason
    (tmp_path / "ptb.train.txt").write_text("".join(WORDS))
    with pytest.raises(BadInput, match="has neither ptb.char.valid.txt nor ptb.valid.txt"):
        data.import_("ptb", tmp_path)
    with pytest.raises(BadInput, match="is a file; should be a folder"):
        data.import_("ptb", tmp_path / "ptb.train.txt")
    for split in ("valid", "test"):
        (tmp_path / f"ptb.{split}.txt").write_text("other # symbols\n")
    with pytest.raises(BadInput, match="has '#', which is not among"):
        data.import_("ptb", tmp_path)


@pytest.fixture
def plays(tmp_path):
    symbols = torch.randint(65, (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    (tmp_path / "input.txt").write_text("".join(ALPHABET[symbol] for symbol in symbols))
    data.import_("shakespeare", tmp_path / "input.txt")


contract = conformance("task", "shakespeare", ["task.length=40"])
test_shakespeare_keeps_the_contract = pytest.mark.usefixtures("plays")(contract)


@pytest.mark.skipif(not REAL.is_file(), reason="the real text is not here")
def test_the_real_text():
    entry = data.import_("shakespeare", REAL)
    assert sum(count["tokens"] for count in entry.counts.values()) == 1_115_394
    assert hashlib.sha256(gzip.decompress(REAL.read_bytes())).hexdigest() == PUBLISHED
    assert whole(build("shakespeare"), "train").startswith("First Citizen:\nBefore we proceed")
