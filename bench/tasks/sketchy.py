"""sketchy: drawings as 32 x 32 patches of 2 x 2 black or white pixels, each patch to be predicted from those before it.

A patch is a symbol of 16: its pixels, top left, top right, bottom left, bottom right, are the bits 8, 4, 2 and 1, set
where there is ink. Patches come in raster order, 1,024 to a drawing:

    # .      . .
    # #  11  . #  1   -> tokens 11 1 ..; x = 11 1 .. -> y = 1 ..

A pixel of the 64 x 64 drawing is ink from a darkness (255 - grey level) of `ink_threshold`. Lines are about two pixels
wide at 256 x 256: thresholds of 32 to 64 keep them (7.7 % to 6.3 % ink), 128 breaks them. Splits are by photograph, so
that all drawings of one photograph are on one side, and no drawing may be there twice. Source: Sangkloy, Burnell, Ham,
Hays, ACM Trans. Graph. 35(4), 2016; as a sequence task in Kumar & Isola, arXiv 2606.06479.

Prepared form: the four grey levels of each patch, so that the threshold stays a knob; windows are binarised as they are
drawn.
"""

from __future__ import annotations

import hashlib
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bench.config import Positive
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks import data
from bench.tasks.base import SPLITS, Split
from bench.tasks.windows import ImageConfig, WindowTask

SIDE = 64
PATCHES = (SIDE // 2) ** 2
NAME = re.compile(r"(?:.*[/\\])?(?P<stem>[^/\\]+-\d+)(?:\.png)?", re.IGNORECASE)
"""airplane/n02691156_10151-1.png is the first drawing of the photograph n02691156_10151, in any folder."""
SITE = "http://sketchy.eye.gatech.edu/"
MOST = 6 << 30  # bytes of an array: all drawings at 256 x 256 have 5 GB
MOST_SIDE = 4096  # pixels
AT_ONCE = 256  # images read before they are written


def prepare(source: Path, into: Path, progress: data.Progress) -> dict[str, Any]:
    """Turn a folder of PNG files or an .npz into the grey levels of each split's patches, (drawings x 1024, 4)."""
    names, read, files = _folder(source) if source.is_dir() else _npz(source)
    stems = _stems(names)
    members = _split(stems)
    counts, done = {}, 0
    dark: list[str] = []
    seen: dict[bytes, str] = {}
    for split, drawings in members.items():
        out = np.lib.format.open_memmap(into / f"{split}.npy", "w+", np.uint8, (len(drawings) * PATCHES, 4))
        for first in range(0, len(drawings), AT_ONCE):
            progress("preparing sketchy", done, len(names))
            grey = np.stack([read(i) for i in drawings[first : first + AT_ONCE]])  # (n, 64, 64)
            out[first * PATCHES : (first + len(grey)) * PATCHES] = patches(grey)
            done += len(grey)
            light = (grey >= 128).mean((1, 2))  # (n,)
            dark += [names[i] for i, share in zip(drawings[first:], light) if share < 0.5]
            for i, image in zip(drawings[first:], grey):
                twin = seen.setdefault(hashlib.sha256(image).digest(), names[i])
                if twin != names[i] and image.min() < image.max():  # empty sheets are all alike
                    raise BadInput(f"{twin!r} and {names[i]!r} are the same drawing, pixel for pixel; keep one")
        out.flush()
        photographs = len({_photograph(stems[i]) for i in drawings})
        counts[split] = {"tokens": len(out), "drawings": len(drawings), "photographs": photographs}
    if dark:
        raise BadInput(
            f"{len(dark):,} of {len(names):,} drawings are mostly dark, {min(dark)!r} for one; should be black ink on "
            "white paper"
        )
    return {
        "sources": files(),
        "counts": counts,
        "settings": {"side": SIDE, "splits": "by a hash of the photograph's name: 10 % test, 5 % valid"},
    }


def patches(grey: np.ndarray) -> np.ndarray:
    """The grey levels of each 2 x 2 patch in raster order: (n, 64, 64) -> (n * 1024, 4)."""
    half = SIDE // 2
    return grey.reshape(-1, half, 2, half, 2).swapaxes(2, 3).reshape(-1, 4)


def shrink(image: np.ndarray) -> np.ndarray:
    """The mean of each block, rounded: (s, s) -> (64, 64)."""
    block = image.shape[0] // SIDE
    return np.rint(image.reshape(SIDE, block, SIDE, block).mean((1, 3))).astype(np.uint8)


def _fits(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1] and shape[0] > 0 and shape[0] % SIDE == 0


def _stems(names: list[str]) -> list[str]:
    """The drawings' names without folder and `.png`. Raises `BadInput` for another form of name, or one given twice."""
    seen: dict[str, str] = {}
    for name in names:
        found = NAME.fullmatch(name)
        if found is None:
            raise BadInput(f"{name!r} does not say which photograph was drawn; should be like n02691156_10151-1")
        stem = found["stem"]
        if stem in seen:
            raise BadInput(
                f"{seen[stem]!r} and {name!r} name one drawing; give one version of each, such as one tx_... folder"
            )
        seen[stem] = name
    return list(seen)


def _photograph(stem: str) -> str:
    return stem.rpartition("-")[0]


def _split(stems: list[str]) -> dict[Split, list[int]]:
    """The drawings of each split. It depends on stems alone, so that a drawing is in the same split in every subset."""
    members: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for i, stem in enumerate(stems):
        draw = _hash(f"photograph {_photograph(stem)}") / 2**64
        members["test" if draw < 0.10 else "valid" if draw < 0.15 else "train"].append(i)
    for split, drawings in members.items():
        if not drawings:
            raise BadInput(
                f"{len(stems)} drawings are of too few photographs for a {split} split; some hundreds suffice"
            )
        drawings.sort(key=lambda i: (_hash(f"drawing {stems[i]}"), stems[i]))  # not by class: windows cross drawings
    return members


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


Read = Callable[[int], np.ndarray]
"""The i-th drawing, 64 x 64 grey levels."""
Files = Callable[[], list[dict[str, Any]]]
"""The files that were read, for `prepared.json`."""


def _npz(path: Path) -> tuple[list[str], Read, Files]:
    """Drawings from an archive with `images` (n, s, s) uint8 and `names` (n,)."""
    with data.decoding(path.name, "an .npz archive"), zipfile.ZipFile(path) as archive:
        members = {Path(name).stem for name in archive.namelist() if name.endswith(".npy")}
        if lacking := {"images", "names"} - members:
            raise BadInput(f"{path.name} has no array {' and no array '.join(sorted(lacking))!r}")
        for name in ("images", "names"):
            _require_known_size(archive, f"{name}.npy", path.name)
        with np.load(path, allow_pickle=False) as arrays:
            images, names = arrays["images"], arrays["names"]
    if images.dtype != np.uint8 or images.ndim != 3 or not _fits(images.shape[1:]):
        given = f"{images.dtype} {images.shape}"
        raise BadInput(f"{path.name}: images are {given}; should be uint8 (drawings, s, s), s a multiple of {SIDE}")
    if names.shape != images.shape[:1]:
        raise BadInput(f"{path.name}: {images.shape[0]} images but names of shape {names.shape}")
    return [str(name) for name in names], lambda i: shrink(images[i]), lambda: [data.fingerprint_of_file(path)]


def _require_known_size(archive: zipfile.ZipFile, member: str, name: str) -> None:
    """Raise `BadInput` for an array that is larger than drawings can be, or not as large as it states."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
        size = file.tell() + math.prod(shape) * kind.itemsize
    stated = archive.getinfo(member).file_size
    if size > MOST or stated != size:
        raise BadInput(f"{name}: {member} says it has {size:,} bytes, its archive {stated:,}; should be up to {MOST:,}")


def _folder(folder: Path) -> tuple[list[str], Read, Files]:
    """Drawings from PNG files at any depth."""
    paths = data.files_in(folder, "**/*", ".png")
    if not paths:
        raise BadInput(f"{folder} has no .png file at any depth")
    digests: dict[str, str] = {}

    def read(i: int) -> np.ndarray:
        raw = paths[i].read_bytes()
        digests[paths[i].stem] = hashlib.sha256(raw).hexdigest()
        return shrink(_png(paths[i]))

    def files() -> list[dict[str, Any]]:
        listing = "".join(f"{digests[stem]}  {stem}\n" for stem in sorted(digests))
        total = sum(path.stat().st_size for path in paths)
        whole = hashlib.sha256(listing.encode()).hexdigest()  # of a list with a line for each drawing
        return [{"file": f"{len(paths)} PNG files", "bytes": total, "sha256": whole}]

    return [str(path.relative_to(folder)) for path in paths], read, files


def _png(path: Path) -> np.ndarray:
    """The grey levels of an image file, (s, s)."""
    from PIL import Image

    with data.decoding(path.name, "a PNG image"), Image.open(path, formats=("PNG",)) as image:
        if max(image.size) > MOST_SIDE:
            raise BadInput(f"{path.name} has {image.size[0]}x{image.size[1]} pixels; should have up to {MOST_SIDE}")
        if image.mode not in ("1", "L", "P", "RGB") or image.has_transparency_data:
            kind = "has transparency" if image.has_transparency_data else f"is of mode {image.mode}"
            raise BadInput(f"{path.name} {kind}; should be grey or RGB, 8 bits or fewer, without transparency")
        grey = np.asarray(image.convert("L"))
    if not _fits(grey.shape):
        raise BadInput(
            f"{path.name} has {grey.shape[1]}x{grey.shape[0]} pixels; should be square, a multiple of {SIDE}"
        )
    return grey


class SketchyConfig(ImageConfig):
    """Knobs of sketchy: a drawing at a time by default."""

    length: Positive = PATCHES - 1
    ink_threshold: Annotated[int, Field(gt=0, le=255)] = 48
    """A pixel is ink from this darkness on. 32 to 64 keep the lines whole; 48 is the middle."""


@register_task("sketchy")
class Sketchy(WindowTask):
    """Patches of binarised drawings."""

    Config = SketchyConfig
    config: SketchyConfig
    vocab_size = 16
    image_tokens = PATCHES
    dataset = data.Dataset(
        origin="Sketchy database (Sangkloy, Burnell, Ham, Hays)",
        size="75,471 drawings, 309 MB prepared",
        licence="no licence statement found: for research, to be cited",
        accepts="a folder of PNG drawings, or an .npz with arrays images and names",
        prepare=prepare,
        version=2,
        ask=f"ask for the drawings at {SITE}",
    )

    def look_up(self, columns: tuple[Tensor, ...], index: Tensor) -> Tensor:
        """The patches at `index` (B, W) as symbols, binarised now."""
        ink = columns[0][index] <= 255 - self.config.ink_threshold  # (B, W, 4)
        bits = torch.tensor([8, 4, 2, 1], dtype=torch.uint8, device=ink.device)
        return (ink * bits).sum(-1)

    def picture(self, x: Tensor) -> Tensor:
        """Patches as 2 x 2 pixels, ink 255."""
        side = SIDE // 2
        bits = torch.tensor([8, 4, 2, 1], device=x.device)
        ink = (x.view(-1, side, side, 1) & bits != 0).unflatten(-1, (2, 2))  # (N, row, column, 2, 2)
        return ink.transpose(2, 3).reshape(-1, SIDE, SIDE).to(torch.uint8) * 255
