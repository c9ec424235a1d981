"""A campaign of hostile contents: texts that are more than text, plugins, data files and records of data sets.

    python tests/faults/hostile.py --seed 0
    python tests/faults/hostile.py --count 60 --tree ../other-checkout

Texts (escape sequences, markup, formulas, HTML) stand in reasons, names and descriptions of results, grids and plugins;
what comes out of `status`, `run`, `report`, `compare`, `list` must not carry them out of their place: no control character
in a terminal, no formula in a CSV file, no tag in HTML or Markdown. Data files that lie about their size or are damaged
end `data import` in one line; a damaged record of what was imported can be imported over. Without `--count` all are
tried; with it so many, chosen by the seed.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import shutil
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parents[2]))

import numpy as np
import yaml

from tests.faults.attack import BASE, Attack, Campaign, Content, Outcome, Target, ended, fifo, folder, link, options

TEXTS = [
    *("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x9b31m", "\r0 failed", "a\bb", "\x07", "\x00", "\u202egnp"),
    *("[red]x[/red]", r"\[/x]", "[/x]", "[", "\\", "[link=file:///x]y[/link]", "[@click=app.bell]x[/]", "\\[bold]", "]" * 40),
    *("=HYPERLINK(0)", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", '=cmd|"/c x"!A1', "'=1", '"', '","', "a\n=1+1"),
    *("<script>pwned()</script>", "<img src=x onerror=pwned()>", "</td></table><script>pwned()</script>", "&lt;b&gt;"),
    *("|a|b|", "](javascript:pwned())", "![x](http://x/pwned)", "[x](http://x/pwned)", "`x`", "<!--", "-->", "\n\n# x\n\n"),
    *("{{ 7*7 }}", "{% raw %}", "${x}", "%s%n", "$(touch pwned)", "`touch pwned`", "; touch pwned", "x" * 20_000, "\ud800", "é" * 300),
]  # fmt: skip

GRID: dict[str, Any] = {"about": "small", "base": BASE, "axes": {"method": ["bptt"], "seed": [0, 1]}}


# Texts in results, grids and plugins.


class Template:
    """The results folder of a small grid, made once by the program that is attacked."""

    def __init__(self, target: Target, root: Path) -> None:
        self.path = root / "results" / "g"
        argv = ["run", "g.yaml", "--launcher", "inline", "--results", str(root / "results")]
        made = target.run(Attack("template", "", argv, {"g.yaml": yaml.safe_dump(GRID)}), seconds=120)
        if made.code != 0:
            raise SystemExit(f"the grid that is to be made hostile did not end well: {made.err}")

    def holding(self, text: str) -> Callable[[Path], None]:
        """A copy with a text wherever results hold any."""

        def make(path: Path) -> None:
            shutil.copytree(self.path, path / "g")
            record = _record(path / "g" / "grid.json")
            (path / "g" / "grid.json").write_text(json.dumps({**record, "about": text, "measures": [text]}))
            cells = sorted(one for one in (path / "g").iterdir() if (one / "run.json").exists())
            done, failed = cells[0], cells[-1]
            (failed / "result.json").unlink()
            for status in failed.rglob("status.json"):
                told = {"state": "failed", "reason": text, "phase": text, "host": text, "progress": 0.5, "updated": 0}
                status.write_text(json.dumps(told))
            result = _record(done / "result.json")
            result["provenance"] = {**result["provenance"], "commit": text, "processor": text, "platform": text}
            (done / "result.json").write_text(json.dumps(result))
            foreign = _record(failed / "run.json")
            foreign |= {"id": text, "group": text}
            for form in ("run", "full"):
                foreign[form] = {**foreign[form], "method": {"name": text, text: text}, "seed": 7}
            name = (
                re.sub(r"[/\0]", "_", text).encode("utf-8", "replace")[:100].decode("utf-8", "ignore").strip(".") or "x"
            )
            shutil.copytree(failed, path / "g" / name)
            (path / "g" / name / "run.json").write_text(json.dumps(foreign))

        return make


def _record(path: Path) -> dict[str, Any]:
    """A file of results, as it was before such files had a checksum and the name of their cell."""
    record = json.loads(path.read_bytes()) if path.exists() else {}
    return {name: value for name, value in record.items() if name not in ("checksum", "cell")}


def in_results(template: Template) -> Iterator[Attack]:
    """Every text in results, for every command that reads them."""
    commands = [
        "status g.yaml",
        "status g.yaml --json",
        "compare results/g results/g --markdown out.md",
        "report results/g --out out",
    ]
    commands += [
        "run g.yaml --launcher inline",
        "compare results/g results/g --json",
        "run g.yaml --dry-run",
        "sample results/g",
    ]
    for text in TEXTS:
        for command in commands:
            files: dict[str, Content] = {"g.yaml": yaml.safe_dump(GRID), "results": template.holding(text)}
            yield Attack("text in results", f"{text!r} in {command}", command.split(), files, bad=False)


def in_grids() -> Iterator[Attack]:
    """Every text as what a grid says of itself, and in names."""
    for text in TEXTS:
        about = yaml.safe_dump({**GRID, "about": text})
        yield Attack("text in a grid", f"about {text!r}", ["run", "g.yaml", "--dry-run"], {"g.yaml": about}, bad=False)
        wrong = yaml.safe_dump({**GRID, "base": {**GRID["base"], "task": {"name": "retrieval", text: text}}})
        yield Attack("text in a grid", f"a knob {text!r}", ["run", "g.yaml", "--dry-run"], {"g.yaml": wrong})
        gathers = {"g.yaml": yaml.safe_dump({"grids": [text]})}
        yield Attack("text in a grid", f"gathers {text!r}", ["run", "g.yaml", "--dry-run"], gathers)
        if "\0" not in text:
            argv = ["run", "g.yaml", "--dry-run", "--set", f"model.backbone={json.dumps(text)}"]
            yield Attack("text in a grid", f"--set {text!r}", argv, {"g.yaml": yaml.safe_dump(GRID)})


def in_plugins() -> Iterator[Attack]:
    """Every text in what a plugin says of itself, and as its name."""
    head = "from bench.registry import register_method\nfrom bench.methods.bptt import BPTT\n"
    for text in TEXTS:
        told = f"{head}@register_method('mine')\nclass M(BPTT):\n    pass\nM.__doc__ = {text!r}\n"
        yield Attack(
            "text in a plugin", f"about {text!r}", ["list", "methods", "--plugin", "p.py"], {"p.py": told}, bad=False
        )
        raises = f"raise RuntimeError({text!r})\n"
        for argv in (["list", "methods"], ["data", "list"]):
            yield Attack(
                "text in a plugin", f"raises {text!r}", [*argv, "--plugin", "p.py"], {"p.py": raises}, bad=False
            )
        named = f"{head}register_method({text!r})(type('M', (BPTT,), {{}}))\n"
        files: dict[str, Content] = {"p.py": named, "g.yaml": yaml.safe_dump(GRID)}
        bad = not (text.isprintable() and "/" not in text and "\\" not in text and len(text) <= 64)
        argv = ["run", "g.yaml", "--dry-run", "--set", f"method={json.dumps(text)}", "--plugin", "p.py"]
        if "\0" not in text:
            yield Attack("text in a plugin", f"named {text!r}", argv, files, bad=bad)


# Data files.


def png(side: int = 64, *chunks: tuple[bytes, bytes], body: bytes | None = None) -> bytes:
    """A grey PNG of white pixels with these chunks before its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"".join(b"\0" + b"\xff" * side for _ in range(side))) if body is None else body
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(chunk(*one) for one in chunks)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def npy(array: Any) -> bytes:
    """An array as a file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(descr: str, shape: str) -> bytes:
    """The beginning of an array file that says this of itself."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def patched(raw: bytes, at: int, value: bytes, entry: bytes = b"PK\x01\x02") -> bytes:
    """A zip archive with bytes of its first central entry, and of the first local one, replaced."""
    central = raw.index(entry)
    raw = raw[: central + at] + value + raw[central + at + len(value) :]
    return raw[: at - 2] + value + raw[at - 2 + len(value) :]


def data_files() -> Iterator[tuple[str, str, Mapping[str, Content]]]:
    """Data set, what is wrong, and the files below `d` (a single file is `d` itself)."""
    zeros = gzip.compress(bytes(1 << 20))
    bomb = gzip.compress(bytes(400 << 20), 9)
    texts: dict[str, Content] = {
        "empty": b"", "zeros": bytes(1000), "one byte": b"\x1f", "gzip head": b"\x1f\x8b", "half": zeros[: len(zeros) // 2],
        "no end": zeros[:-8], "wrong sum": zeros[:-8] + b"\0" * 8, "wrong method": zeros[:2] + b"\x07" + zeros[3:], "bomb": bomb,
        "noise": bytes(random.Random(0).randbytes(5000)), "utf-16": "text".encode("utf-16"), "flags": zeros[:3] + b"\xff" + zeros[4:],
        "escapes": b"\x1b[31m" * 500, "a fifo": fifo, "a folder": folder, "dangling": link("nowhere"), "a device": link("/dev/zero"),
        "itself": link("d"), "xz": b"\xfd7zXZ\x00" + bytes(50), "zip": zipped({"a.txt": b"x" * 100}), "one line": b"x" * 5_000_000,
    }  # fmt: skip
    idx = b"\0\0\x08\3" + struct.pack(">III", 60_000, 28, 28)
    for what, content in texts.items():
        for name, files in {
            "mnist": ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"],
            "tinystories": ["a.txt.gz"], "shakespeare": ["input.txt"], "ptb": ["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"],
            "sketchy": ["n1_1-1.png"],
        }.items():  # fmt: skip
            if what == "one line" and name in ("ptb", "shakespeare"):
                continue  # a text, if a dull one
            yield name, f"{what} in its place", {f"d/{file}": content for file in files}
            yield name, f"{what} as the source", {"d": content}
    for what, raw in {
        "other sides": b"\0\0\x08\3" + struct.pack(">III", 60_000, 29, 28), "many": b"\0\0\x08\3" + struct.pack(">III", 2**31, 28, 28),
        "cut": idx, "short head": idx[:7], "bomb of images": gzip.compress(idx + bytes(1 << 29), 1),
    }.items():  # fmt: skip
        yield (
            "mnist",
            what,
            {
                f"d/{name}": raw
                for name in (
                    "train-images-idx3-ubyte",
                    "train-labels-idx1-ubyte",
                    "t10k-images-idx3-ubyte",
                    "t10k-labels-idx1-ubyte",
                )
            },
        )
    inflated = zlib.compress(b"x" * (80 << 20))
    pictures = {
        "a zTXt bomb": png(64, (b"zTXt", b"k\0\0" + inflated)), "an iTXt bomb": png(64, (b"iTXt", b"k\0\1\0\0\0" + inflated)),
        "an iCCP bomb": png(64, (b"iCCP", b"k\0\0" + inflated)), "a short pHYs": png(64, (b"pHYs", b"x")), "a short gAMA": png(64, (b"gAMA", b"")),
        "a short cHRM": png(64, (b"cHRM", b"xx")), "a short tIME": png(64, (b"tIME", b"")), "a short zTXt": png(64, (b"zTXt", b"")),
        "an empty tRNS": png(64, (b"tRNS", b"")), "a short iCCP": png(64, (b"iCCP", b"k")), "a second head": png(64, (b"IHDR", b"")),
        "a huge side": png(64).replace(struct.pack(">II", 64, 64), struct.pack(">II", 2**30, 2**30)), "many pixels": png(8192, body=b""),
        "no pixels": png(64, body=b""), "half its pixels": png(64, body=zlib.compress(b"\xff" * 2000)), "cut": png(64)[:60],
        "of other sides": png(65), "of no side": png(64).replace(struct.pack(">II", 64, 64), bytes(8)), "a fcTL": png(64, (b"acTL", b"x"), (b"fcTL", b"x")),
    }  # fmt: skip
    for what, raw in pictures.items():
        yield "sketchy", f"PNG with {what}", {"d/n1_1-1.png": raw}
    for text in ("\x1b[31m", "[red]", "x" * 200, "é", "=1", "-1"):
        yield "sketchy", f"PNG called {text!r}", {f"d/{text}.png": png(64)}
    images, names = npy(np.zeros((3, 64, 64), np.uint8)), npy(np.array(["n1_1-1", "n1_2-1", "n1_3-1"]))
    good = zipped({"images.npy": images, "names.npy": names})
    archives = {
        "cut": good[:200], "encrypted": patched(good, 8, b"\1\0"), "of an odd compression": patched(good, 10, b"\x63\0"),
        "of corrupt lzma": zipped({"images.npy": images, "names.npy": names}, zipfile.ZIP_LZMA).replace(b"\x5d\0\0", b"\xff\xff\xff"),
        "of 10^15 bytes": zipped({"images.npy": header("'|u1'", "(1000000, 32000, 32000)"), "names.npy": names}),
        "of a negative shape": zipped({"images.npy": header("'|u1'", "(-1, 64, 64)"), "names.npy": names}),
        "of objects": zipped({"images.npy": header("'|O'", "(3, 64, 64)") + b"cos\nsystem\n(S'touch pwned'\ntR.", "names.npy": names}),
        "of no token": zipped({"images.npy": header("'|u1'", "((3, 64"), "names.npy": names}),
        "of odd types": zipped({"images.npy": header("'xyz'", "(3, 64, 64)"), "names.npy": names}),
        "of a nested type": zipped({"images.npy": header("[('a', '|u1', (99999, 99999))]", "(9,)"), "names.npy": names}),
        "with no array": zipped({"images.npy": b"text", "names.npy": b"text"}), "with an empty one": zipped({"images.npy": b"", "names.npy": b""}),
        "with other members": zipped({"a.npy": images}), "a bomb": zipped({"images.npy": header("'|u1'", "(99999, 64, 64)") + bytes(400 << 20), "names.npy": names}),
        "with long names": zipped({"images.npy": images, "names.npy": header("'<U999999999'", "(3,)")}),
        "with numbers for names": zipped({"images.npy": images, "names.npy": npy(np.arange(3))}), "with hostile names": zipped({"images.npy": images, "names.npy": npy(np.array(["\x1b[31m-1", "[/x]-1", "=1-1"]))}),
        "of version 9": zipped({"images.npy": images.replace(b"NUMPY\x01", b"NUMPY\x09"), "names.npy": names}), "an array alone": images, "a zip in name": b"PK\x03\x04" + bytes(100),
        "with a wrong sum": good.replace(images[200:240], b"\1" * 40) if images[200:240] in good else good[:-30], "twice": good + good[: len(good) // 2],
    }  # fmt: skip
    for what, raw in archives.items():
        yield "sketchy", f"npz {what}", {"d": raw}


def in_data() -> Iterator[Attack]:
    """Every damaged data file, for its importer."""
    for name, what, files in data_files():
        yield Attack("data file", f"{name}: {what}", ["data", "import", name, "--from", "d"], files)


def records() -> Iterator[Attack]:
    """`prepared.json` and `recorded-hashes.json` that say nothing or something else."""
    good = {
        "version": 2,
        "folder": "arrays-x",
        "arrays": {"train": [5], "valid": [5], "test": [5]},
        "counts": {},
        "settings": {},
        "fingerprint": "x",
    }
    contents: dict[str, Content] = {
        "5": "5", "a text": '"x"', "a list": "[]", "nothing": "", "null": "null", "a brace": "{", "deep": "[" * 100_000, "noise": b"\xff\xfe\x00",
        "a version": '{"version": 2}', "another version": json.dumps({**good, "version": 99}), "a folder above": json.dumps({**good, "folder": "../../.."}),
        "no folder": json.dumps({**good, "folder": 5}), "odd arrays": json.dumps({**good, "arrays": []}), "array above": json.dumps({**good, "arrays": {"../../x": [1]}}),
        "odd counts": json.dumps({**good, "counts": {"train": 5}}), "escapes": json.dumps({**good, "settings": {"\x1b[31m": "\x1b[31m"}}),
        "no arrays there": json.dumps(good), "a fifo": fifo, "a device": link("/dev/zero"), "itself": link("prepared.json"), "NaN": '{"version": NaN}',
    }  # fmt: skip
    stories = "".join(f"Once {i} upon a time.<|endoftext|>" for i in range(40))
    for what, content in contents.items():
        files: dict[str, Content] = {
            "data/tinystories/prepared.json": content,
            "d.txt": stories,
            "g.yaml": yaml.safe_dump(GRID),
        }
        commands = {
            "list": ["data", "list"],
            "run": ["run", "g.yaml", "--dry-run", "--set", "task=tinystories"],
            "import": ["data", "import", "tinystories", "--from", "d.txt"],
        }
        for name, argv in commands.items():
            yield Attack("record", f"prepared.json: {what}, {name}", argv, files, bad=False)
        if what not in ("nothing", "a version", "another version") and not what.startswith(
            ("a folder above", "no folder", "no arrays", "odd", "array", "escapes", "NaN")
        ):
            hashes: dict[str, Content] = {
                "data/shakespeare/recorded-hashes.json": content,
                "data/tinystories/recorded-hashes.json": content,
            }
            yield Attack("record", f"recorded-hashes.json: {what}", ["data", "fetch", "tinystories"], hashes)


# Judging.


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if "pwned" in f"{name}{value}" and (
                name.startswith("on") or (value or "").startswith(("javascript:", "http://x/"))
            ):
                self.found.append(tag)
        self.script = tag == "script"

    def handle_data(self, data: str) -> None:
        if getattr(self, "script", False) and data.startswith("pwned"):
            self.found.append("script")


def judge(outcome: Outcome) -> list[str]:
    """What should not be: of all attacks, and of the files that the harmless ones make."""
    attack, found = outcome.attack, []
    if attack.bad or outcome.hung or outcome.traceback:
        found += outcome.faults()
    elif attack.kind == "record" and "import" in attack.what and outcome.code:
        found.append("cannot be imported over")
    elif outcome.code not in (0, 1, 2):
        found.append(f"exit code {outcome.code}")
    if any(not (one.isprintable() or one == "\n") for one in outcome.out + outcome.err):
        found.append("control characters")
    if any(len(line) > 400 for line in outcome.err.splitlines()):
        found.append("long line")
    if any("pwned" in name for name in outcome.left):
        found.append("executed")
    for name, raw in outcome.made.items():
        found += [f"{fault} in {Path(name).suffix}" for fault in _in_file(name, raw.decode("utf-8", "replace"))]
    return list(dict.fromkeys(found))


def _in_file(name: str, text: str) -> Iterator[str]:
    if name.endswith(".csv"):
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        if any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not _number(cell) for cell in cells):
            yield "formula"
    elif name.endswith(".html"):
        tags = _Tags()
        tags.feed(text)
        if tags.found:
            yield "tag"
    elif name.endswith(".md") and re.search(r"</?(script|img|td)\b|(?<!\\)\]\((javascript:|http://x/)pwned", text):
        yield "tag or link"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b\u202e]", text) and name.endswith((".csv", ".html", ".md", ".tex")):
        yield "control characters"


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def attacks(template: Template) -> Iterator[Attack]:
    """All of them."""
    yield from in_results(template)
    yield from in_grids()
    yield from in_plugins()
    yield from in_data()
    yield from records()


def main() -> int:
    """The command."""
    parser = options("Give the program hostile contents; look at what it does and writes.")
    parser.add_argument("--kind", default="", help="only attacks whose kind has this in it")
    given = parser.parse_args()
    began, target = time.monotonic(), Target(given.tree)
    with tempfile.TemporaryDirectory() as root:
        every = [one for one in attacks(Template(target, Path(root))) if given.kind in one.kind]
        random.Random(given.seed).shuffle(every)
        campaign = Campaign(target).run(every[: given.count], judge)
    print("\n".join(campaign.told(given.show)))
    return ended(not campaign.found, began)


if __name__ == "__main__":
    sys.exit(main())
