"""shakespeare: a million characters of Shakespeare's plays, each to be predicted from those before it.

    x = "First Citize" -> y = "irst Citizen"

There are 65 symbols. The halves of the last tenth of the text are valid and test. Given zero, one or two characters
before it, the next character costs 4.78, 3.54 or 2.75 bits. Source: karpathy/char-rnn,
data/tinyshakespeare/input.txt; the plays are in the public domain.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks import data
from bench.tasks.characters import CharacterTask, read, save

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
PUBLISHED = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
ALPHABET = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
HELD_OUT = 20
"""The valid and the test split each have one in this many characters."""


def prepare(source: Path, into: Path, progress: data.Progress) -> dict[str, Any]:
    """Turn the text file, gzipped or not, or a folder that holds it, into the symbols of each split."""
    paths = [source] if source.is_file() else data.files_in(source, "*", ".txt", ".txt.gz")
    if len(paths) != 1:
        raise BadInput(f"{source} has {len(paths)} .txt or .txt.gz files; should have one")
    progress(f"preparing {paths[0].name}", 0, 0)
    text = read(paths[0])
    held = len(text) // HELD_OUT
    ends = len(text) - 2 * held, len(text) - held
    parts = {"train": text[: ends[0]], "valid": text[ends[0] : ends[1]], "test": text[ends[1] :]}
    counts = save(into, parts, ALPHABET)
    settings = {"alphabet": ALPHABET, "split": f"in order; valid and test are 1/{HELD_OUT} of the characters each"}
    return {"sources": [data.fingerprint_of_file(paths[0])], "counts": counts, "settings": settings}


@register_task("shakespeare")
class Shakespeare(CharacterTask):
    """Characters of plays."""

    dataset = data.Dataset(
        origin="karpathy/char-rnn (tinyshakespeare)",
        size="1.1 MB to download, 1.1 MB prepared",
        licence="public domain",
        accepts="its input.txt, gzipped or not, or a folder with it",
        sources=(data.Source(URL, PUBLISHED),),
        prepare=prepare,
    )
