"""tinystories: the ASCII characters of short stories, each to be predicted from those before it.

    x = "Once upon a tim" -> y = "nce upon a time"

The stories stand one after another without anything between them, as in the reference, or with a separator (the knob
`separator`, symbol 0). Characters outside ASCII are dropped, white space around a story too. Source: Eldan and Li,
arXiv:2305.07759; as a sequence task in Kumar & Isola, arXiv 2606.06479.

Prepared form: the text without separators, and the index just after each story. Nothing is stored twice, the
reference's form is read as it lies, and the other one is computed for the windows that are drawn.
"""

from __future__ import annotations

import array
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.config import Positive
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks import data
from bench.tasks.base import Split, TaskConfig
from bench.tasks.windows import WindowTask

END = b"<|endoftext|>"
SEPARATOR = 0
DROPPED = bytes([SEPARATOR, *range(128, 256)])  # every byte of a character outside ASCII is 128 or more
LONGEST_STORY = 2**24  # bytes; the longest real ones have some thousand
HELD_OUT = re.compile(r"(?<![a-z])(validation|valid|val|test)(?![a-z])", re.IGNORECASE)
TEST_SHARE = 10  # without held-out files, the last tenth of the stories
VALID_SHARE, MOST_VALID = 20, 20_000  # of the training stories; the cap is about what the published validation file has
HUB = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main"


def prepare(source: Path, into: Path, progress: data.Progress) -> dict[str, Any]:
    """From text files, gzipped or not, to the characters of each split. Reads and writes piece by piece.

    In a folder, files whose names say `valid`, `val` or `test` are the test split. Otherwise the last tenth of the
    stories is. The valid split is the end of what is left to train on.
    """
    paths = (
        [source] if source.is_file() else sorted(p for p in source.iterdir() if p.name.endswith((".txt", ".txt.gz")))
    )
    if not paths:
        raise BadInput(f"{source} has no .txt or .txt.gz file")
    held_out = [path for path in paths if source.is_dir() and HELD_OUT.search(path.name)]
    if len(held_out) == len(paths):
        raise BadInput(f"{source} has only held-out files ({', '.join(path.name for path in paths)}), none to train on")
    training = _Text(into / "training", [path for path in paths if path not in held_out], progress)
    testing = _Text(into / "testing", held_out, progress) if held_out else training
    stories = len(training.ends)
    first_test = stories if held_out else stories - stories // TEST_SHARE
    first_valid = first_test - min(max(first_test // VALID_SHARE, 1), MOST_VALID)
    parts: dict[Split, tuple[_Text, int, int]] = {
        "train": (training, 0, first_valid),
        "valid": (training, first_valid, first_test),
        "test": (testing, 0 if held_out else first_test, len(testing.ends)),
    }
    counts = {}
    for split, (text, first, last) in parts.items():
        if first >= last:
            raise BadInput(f"too few stories ({stories} that are not held out) for a {split} split; 10 suffice")
        counts[split] = {"tokens": text.save(into, split, first, last), "stories": last - first}
    for text in {training, testing}:
        text.path.unlink()
    return {
        "sources": [data.fingerprint_of_file(path) for path in paths],
        "counts": counts,
        "settings": {
            "characters": "ASCII without NUL; white space around a story is dropped",
            "test": [path.name for path in held_out] or f"the last 1/{TEST_SHARE} of the stories",
            "valid": f"the last 1/{VALID_SHARE} of the other stories, at most {MOST_VALID}",
            "unfinished_stories_dropped": training.unfinished + (testing.unfinished if held_out else 0),
        },
    }


class _Text:
    """The stories of some files, one after another in one file of raw characters."""

    def __init__(self, path: Path, sources: Iterable[Path], progress: data.Progress) -> None:
        self.path = path
        self.unfinished = 0
        ends = array.array("q")  # 8 bytes a story: there are two million
        written = 0
        with path.open("wb") as out:
            for source in sources:
                for stories in self._stories(source, progress):
                    for story in stories:
                        if kept := story.translate(None, DROPPED).strip():
                            written += out.write(kept)
                            ends.append(written)
        self.ends = np.frombuffer(ends, np.int64) if ends else np.zeros(0, np.int64)

    def _stories(self, source: Path, progress: data.Progress) -> Iterator[list[bytes]]:
        """The finished stories of a file, some at a time. What follows the last separator was cut off: dropped."""
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

    def save(self, into: Path, split: Split, first: int, last: int) -> int:
        """Write the stories from `first` up to `last` as the arrays of a split; returns their characters."""
        begin = int(self.ends[first - 1]) if first else 0
        ends = self.ends[first:last] - begin
        np.save(into / f"{split}.npy", np.memmap(self.path, np.uint8, "r", begin, (int(ends[-1]),)))
        np.save(into / f"{split}.ends.npy", ends)
        return int(ends[-1])


def _chunk(stream: Any, source: Path) -> bytes:
    try:
        return stream.read(data.CHUNK)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{source.name} is truncated or damaged: {error}") from None


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
    )

    def split_arrays(self, arrays: dict[str, np.ndarray], split: Split) -> tuple[np.ndarray, ...]:
        """The text and, if there are to be any, the places of the separators."""
        if not self.config.separator:
            return (arrays[split],)
        ends = arrays[f"{split}.ends"]
        return arrays[split], ends + np.arange(len(ends))  # where the separators stand once all are put in

    def tokens(self, split: Split) -> int:
        """How many characters and separators the split has."""
        return sum(column.shape[0] for column in self._columns[split])

    def look_up(self, columns: tuple[Tensor, ...], index: Tensor) -> Tensor:
        """The characters at `index` (B, W), where separators count as characters."""
        if not self.config.separator:
            return super().look_up(columns, index)
        text, separators = columns
        before = torch.searchsorted(separators, index)  # how many stand before each token, (B, W)
        token = text[(index - before).clamp(max=len(text) - 1)].long()
        return token.masked_fill(separators[before.clamp(max=len(separators) - 1)] == index, SEPARATOR)

    def text(self, x: Tensor) -> list[str]:
        """The characters; a separator as a new line, and what is not ASCII as the replacement character."""
        shown = x.masked_fill(x == SEPARATOR, ord("\n")).cpu().to(torch.uint8).numpy()
        return [row.tobytes().decode("ascii", errors="replace") for row in shown]
