"""tinystories: the ASCII characters of short stories, each to be predicted from those before it.

    x = "Once upon a tim" -> y = "nce upon a time"

The stories stand one after another without anything between them, as in the reference, or with a separator (the knob
`separator`, symbol 0). Lines end in a line feed, white space of any alphabet is a space, other characters outside ASCII
are dropped, and white space around a story too. A story is in one split only: copies of test and valid stories are left
out of the training text, so that a test set stays what it is elsewhere. Source: Eldan and Li, arXiv:2305.07759; as a
sequence task in Kumar & Isola, arXiv 2606.06479.

Prepared form: the text without separators, and the index just after each story. The reference's form is read as it is
stored; separators are added to windows as they are drawn.
"""

from __future__ import annotations

import array
import gzip
import re
import string
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.config import Positive, TaskConfig
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks import data
from bench.tasks.base import Split
from bench.tasks.windows import WindowTask

END = b"<|endoftext|>"
SEPARATOR = 0
WHITE = string.whitespace.encode()
SPACES = {code: " " for code in range(128, 0x3001) if chr(code).isspace()}  # the last is the ideographic space
LONGEST_STORY = 2**24  # bytes; the longest real ones have a few thousand
MOST = 1 << 32  # characters; the published files have half of it
TRAINING = re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.IGNORECASE)
HELD_OUT = re.compile(
    r"(?<![a-z])(val|valid|validation|dev|devel|development|tests?|testing|eval|evaluation|(held|hold)[-_. ]?out|"
    r"unseen)(set|data|split)?(?![a-z])",
    re.IGNORECASE,
)
TEST_SHARE = 10  # without held-out files, the last tenth of the stories
VALID_SHARE, MOST_VALID = 20, 20_000  # of the training stories; the cap is about what the published validation file has
HUB = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main"


def prepare(source: Path, into: Path, progress: data.Progress) -> dict[str, Any]:
    """Turn text files, gzipped or not, into the characters of each split, piece by piece.

    Files of a folder that are held out by their names (`valid`, `dev`, `test` and the like) are the test split, else
    the last tenth of the stories. The valid split is the end of the stories that are left for training.
    """
    paths = [source] if source.is_file() else data.files_in(source, "*", ".txt", ".txt.gz")
    if not paths:
        raise BadInput(f"{source} has no .txt or .txt.gz file")
    held_out = [path for path in paths if source.is_dir() and HELD_OUT.search(path.name)]
    kept = [path for path in paths if path not in held_out]
    if not kept:
        raise BadInput(f"{source} has only held-out files ({_names(paths)}), none to train on")
    if both := [path for path in held_out if TRAINING.search(path.name)]:
        raise BadInput(f"{both[0].name}: is it to train on or held out? its name says both; rename it")
    training = _Text(into / "training", kept, progress)
    testing = _Text(into / "testing", held_out, progress) if held_out else None
    parts, shared = _divide(training, testing)
    counts = {}
    for split, (text, chosen) in parts.items():
        if not len(chosen):
            given = f"{len(training.ends):,} that are not held out; {shared}"
            raise BadInput(f"too few stories for a {split} split, 10 suffice ({given})")
        counts[split] = {"tokens": text.save(into, split, chosen), "stories": len(chosen)}
    texts = [training, testing] if testing else [training]
    for text in texts:
        text.path.unlink()
    return {
        "sources": [data.fingerprint_of_file(path) for path in paths],
        "counts": counts,
        "settings": {
            "train": _trained_on(kept) if held_out else f"the other stories of {_names(kept)}",
            "valid": f"the last 1/{VALID_SHARE} of the stories that are not test, at most {MOST_VALID:,}",
            "test": _names(held_out) if held_out else f"the last 1/{TEST_SHARE} of the stories",
            "shared_stories": shared,
            "characters": "ASCII; other white space is a space; white space around a story is dropped",
            "characters_outside_ASCII_dropped": sum(text.dropped for text in texts),
            "unfinished_stories_dropped": sum(text.unfinished for text in texts),
        },
    }


def _divide(training: _Text, testing: _Text | None) -> tuple[dict[Split, tuple[_Text, np.ndarray]], str]:
    """The stories of each split, with their text, and a note on those that would have been in two splits.

    Held-out stories stay: their copies are dropped from the training text.
    """
    total = len(training.ends)
    first_test = total if testing else total - total // TEST_SHARE
    held_out = testing or training
    rest, test = np.arange(first_test), np.arange(0 if testing else first_test, len(held_out.ends))
    unseen = rest[~np.isin(training.digests[rest], held_out.digests[test])]
    first_valid = len(unseen) - min(max(len(unseen) // VALID_SHARE, 1), MOST_VALID)
    before, valid = unseen[:first_valid], unseen[first_valid:]
    train = before[~np.isin(training.digests[before], training.digests[valid])]
    in_test = np.isin(held_out.digests[test], training.digests[rest]).sum()
    in_valid = np.isin(training.digests[valid], training.digests[before]).sum()
    copies = total - len(train) - len(valid) - (0 if testing else len(test))
    shared = (
        f"{in_test:,} of the test and {in_valid:,} of the valid stories stood in the training text too; copies dropped "
        f"there: {copies:,}"
    )
    return {"train": (training, train), "valid": (training, valid), "test": (held_out, test)}, shared


def _names(paths: list[Path]) -> str:
    """The names of a few files, the first and the last of many."""
    if len(paths) > 5:
        return f"{len(paths)} files, {paths[0].name} to {paths[-1].name}"
    return ", ".join(path.name for path in paths)


def _trained_on(paths: list[Path]) -> str:
    """The files that are trained on; those whose names do not say so are listed apart."""
    named = [path for path in paths if TRAINING.search(path.name)]
    unnamed = [path for path in paths if path not in named]
    parts = [_names(named)] if named else []
    return "; ".join([*parts, f"no split in the name: {_names(unnamed)}"] if unnamed else parts)


def _ascii(story: bytes) -> tuple[bytes, int]:
    """The characters of a story that are kept, and the number of others."""
    dropped = 0
    if not story.isascii():
        text = story.decode(errors="replace").translate(SPACES)
        story = text.encode("ascii", "ignore")
        dropped = len(text) - len(story)
    return story.replace(b"\r\n", b"\n").replace(b"\r", b"\n").strip(), dropped


class _Text:
    """The stories of some files, one after another in one file of raw characters."""

    def __init__(self, path: Path, sources: Iterable[Path], progress: data.Progress) -> None:
        self.path = path
        self.unfinished = self.dropped = 0
        ends, digests = array.array("q"), bytearray()  # 16 bytes for each of two million stories
        written = 0
        with path.open("wb") as out:
            for source in sources:
                for stories in self._stories(source, progress):
                    for story in stories:
                        kept, dropped = _ascii(story)
                        self.dropped += dropped
                        if kept:
                            written += out.write(kept)
                            if written > MOST:
                                raise BadInput(f"{source.name} has more than {MOST:,} characters when unpacked")
                            ends.append(written)
                            digests += blake2b(kept.translate(None, WHITE), digest_size=8).digest()
        self.ends = np.frombuffer(ends, np.int64) if ends else np.zeros(0, np.int64)
        self.digests = np.frombuffer(digests, np.uint64)  # without white space: editions differ in their empty lines

    def _stories(self, source: Path, progress: data.Progress) -> Iterator[list[bytes]]:
        """The finished stories of a file, some at a time. Text after the last separator is incomplete, and dropped."""
        size, rest, found = source.stat().st_size, b"", False
        with source.open("rb") as packed:
            gzipped = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            stream = gzip.GzipFile(fileobj=packed) if gzipped else packed
            while chunk := _chunk(stream, source):
                progress(f"preparing {source.name}", packed.tell(), size)
                if b"\0" in chunk:
                    raise BadInput(f"{source.name} is not plain text (it has NUL bytes)")
                *stories, rest = (rest + chunk).split(END)
                found = found or bool(stories)
                if len(rest) > LONGEST_STORY:
                    break
                yield stories
        if not found or len(rest) > LONGEST_STORY:
            raise BadInput(f"{source.name} is not TinyStories: no {END.decode()} between stories")
        self.unfinished += bool(rest.strip())

    def save(self, into: Path, split: Split, chosen: np.ndarray) -> int:
        """Write the chosen stories, by sorted indices, as the arrays of a split; return the number of characters."""
        text = np.memmap(self.path, np.uint8, "r").data
        begins, ends = np.concatenate([[0], self.ends[:-1]])[chosen], self.ends[chosen]
        written = np.cumsum(ends - begins)
        gaps = np.flatnonzero(np.diff(chosen) > 1) + 1  # the stories between two gaps are adjacent
        with (into / f"{split}.npy").open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": (int(written[-1]),)}
            np.lib.format.write_array_header_1_0(out, header)
            for first, last in pairwise([0, *gaps, len(chosen)]):
                out.write(text[begins[first] : ends[last - 1]])
        np.save(into / f"{split}.ends.npy", written)
        return int(written[-1])


def _chunk(stream: Any, source: Path) -> bytes:
    with data.decoding(source.name):
        return stream.read(data.CHUNK)


class TinyStoriesConfig(TaskConfig):
    """Knobs of tinystories."""

    length: Positive = 256
    separator: bool = False
    """Symbol 0 after every story. The reference has none."""


@register_task("tinystories")
class TinyStories(WindowTask):
    """Characters of short stories."""

    Config = TinyStoriesConfig
    config: TinyStoriesConfig
    vocab_size = 256
    dataset = data.Dataset(
        origin="TinyStories (Eldan and Li)",
        size="1.9 GB to download, 1.9 GB prepared (4 GB free while it is prepared)",
        licence="CDLA-Sharing-1.0",
        accepts=f"a text file, gzipped or not, with {END.decode()} after each story, or a folder of such .txt(.gz)",
        sources=(data.Source(f"{HUB}/TinyStories-train.txt"), data.Source(f"{HUB}/TinyStories-valid.txt")),
        prepare=prepare,
        version=2,
    )

    def split_arrays(self, arrays: dict[str, np.ndarray], split: Split) -> tuple[np.ndarray, ...]:
        """The text and, where separators are asked for, their positions."""
        if not self.config.separator:
            return (arrays[split],)
        ends = arrays[f"{split}.ends"]
        return arrays[split], ends + np.arange(len(ends))  # the positions of separators once all are inserted

    def tokens(self, split: Split) -> int:
        """The number of characters and separators in the split."""
        return sum(column.shape[0] for column in self._columns[split])

    def look_up(self, columns: tuple[Tensor, ...], index: Tensor) -> Tensor:
        """The characters at `index` (B, W), where separators count as characters."""
        if not self.config.separator:
            return super().look_up(columns, index)
        text, separators = columns
        before = torch.searchsorted(separators, index)  # the number before each token, (B, W)
        token = text[(index - before).clamp(max=len(text) - 1)].long()
        return token.masked_fill(separators[before.clamp(max=len(separators) - 1)] == index, SEPARATOR)

    def text(self, x: Tensor) -> list[str]:
        """The characters, with a line feed for a separator, and the replacement character for what is not ASCII."""
        shown = x.masked_fill(x == SEPARATOR, ord("\n")).cpu().to(torch.uint8).numpy()
        return [row.tobytes().decode("ascii", errors="replace") for row in shown]
