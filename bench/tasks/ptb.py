"""ptb: the characters of the Penn Treebank as Mikolov prepared it, each to be predicted from those before it.

    x = " aer banknote" -> y = "aer banknote "

The text belongs to the Linguistic Data Consortium and may not be passed on: bring your own copy of the three files.
Sentences are lines, which begin and end without a space; the symbols are the characters of the training text, about 50.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks import data
from bench.tasks.base import SPLITS
from bench.tasks.characters import CharacterTask, read, save

SPACE = "_"
"""The symbol of a space in files of characters, which separate all characters by spaces."""


def prepare(source: Path, into: Path, progress: data.Progress) -> dict[str, Any]:
    """Turn a folder with a file of words or characters for each split into the symbols of each split."""
    if source.is_file():
        raise BadInput(f"{source} is a file; should be a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt")
    found, parts = [], {}
    for split in SPLITS:
        names = [f"ptb.char.{split}.txt", f"ptb.{split}.txt"]
        paths = [source / name for name in names if (source / name).is_file()]
        if not paths:
            raise BadInput(f"{source} has neither {' nor '.join(names)}")
        progress(f"preparing {paths[0].name}", 0, 0)
        parts[split] = sentences(read(paths[0]), apart=paths[0].name.startswith("ptb.char."))
        found.append(data.fingerprint_of_file(paths[0]))
    alphabet = "".join(sorted(set(parts["train"])))
    counts = save(into, parts, alphabet)
    return {"sources": found, "counts": counts, "settings": {"alphabet": alphabet, "sentences": "one a line"}}


def sentences(text: str, apart: bool) -> str:
    """The sentences as lines; `apart`: the characters of the text are separated by spaces."""
    lines = [line.split() for line in text.splitlines()]
    if apart:
        return "\n".join("".join(line).replace(SPACE, " ").strip() for line in lines)
    return "\n".join(" ".join(line) for line in lines)


@register_task("ptb")
class PTB(CharacterTask):
    """Characters of newspaper sentences."""

    dataset = data.Dataset(
        origin="Penn Treebank (Linguistic Data Consortium), as prepared by Mikolov",
        size="5.9 MB",
        licence="of the Linguistic Data Consortium; not to be handed on",
        accepts="a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt, or the same as ptb.char.*.txt",
        prepare=prepare,
        ask="get it under a licence of the Linguistic Data Consortium",
    )
