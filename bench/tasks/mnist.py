"""mnist: the raw grey levels of handwritten digits in raster order, each to be predicted from those before it.

28 x 28 pixels of 256 levels make 784 tokens; a window that begins at an image has 784 tokens and 783 predictions:

    x = 0 0 .. 0 84 185 .. -> y = 0 .. 0 84 185 159 ..

The test split is the published test set, the valid split the last 5,000 training images. Source: LeCun, Bottou, Bengio,
Haffner, Proc. IEEE 86(11), 1998; as a sequence task in Kumar & Isola, arXiv 2606.06479, where windows start anywhere.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.config import Positive
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks import data
from bench.tasks.windows import ImageConfig, WindowTask

PIXELS = 28 * 28
MOST_ITEMS = 100_000  # a file that says it has more is not read to its end
VALID_SHARE = 12  # the last twelfth of the training images: 5,000 of 60,000
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"


class Published(NamedTuple):
    """The identity of one of the four files."""

    items: int
    gz_sha256: str  # of the published file
    content_sha256: str  # of its content, also for unpacked and repacked files


PUBLISHED = {
    "train-images-idx3-ubyte": Published(
        60_000,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": Published(
        60_000,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": Published(
        10_000,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": Published(
        10_000,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}


def prepare(source: Path, into: Path, progress: data.Progress) -> dict[str, Any]:
    """Turn a folder with the four files, packed or unpacked, into a row of pixels for each split."""
    if not source.is_dir():
        raise BadInput(f"{source} is a file; should be a folder with {', '.join(f'{stem}.gz' for stem in PUBLISHED)}")
    paths = {stem: _find(source, stem) for stem in PUBLISHED}
    content = {}
    for done, (stem, path) in enumerate(paths.items()):
        progress("checking mnist", done, len(paths))
        content[stem] = _read(path, stem)
    train, test = (content[f"{name}-images-idx3-ubyte"] for name in ("train", "t10k"))
    kept = len(train) - len(train) // VALID_SHARE
    splits = {"train": train[:kept], "valid": train[kept:], "test": test}
    for split, images in splits.items():
        np.save(into / f"{split}.npy", images.reshape(-1))
    return {
        "sources": [data.fingerprint_of_file(path) for path in paths.values()],
        "counts": {split: {"tokens": images.size, "images": len(images)} for split, images in splits.items()},
        "settings": {"valid": f"the last {len(splits['valid'])} training images", "test": "the t10k files"},
    }


def _find(folder: Path, stem: str) -> Path:
    """The file of that name: packed, unpacked, or unpacked by a tool that writes `.idx` for `-idx`."""
    names = (f"{stem}.gz", stem, stem.replace("-idx", ".idx"))
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise BadInput(f"{folder} has no {names[0]} (nor {names[1]})")


def _read(path: Path, stem: str) -> np.ndarray:
    """The checked contents of an IDX file: images (N, 784) or labels (N,)."""
    published, images = PUBLISHED[stem], "images" in stem
    magic, head, kind = (0x803, 16, "images") if images else (0x801, 8, "labels")
    raw = data.unpacked(path, head + MOST_ITEMS * PIXELS)
    if len(raw) < head or struct.unpack(">I", raw[:4])[0] != magic:
        raise BadInput(f"{path.name} is not an IDX file of {kind}: it begins with 0x{raw[:4].hex()}, not 0x{magic:08x}")
    items, *sides = struct.unpack(f">{head // 4 - 1}I", raw[4:head])
    if images and sides != [28, 28]:
        raise BadInput(f"{path.name} has images of {sides[0]}x{sides[1]} pixels; should be 28x28")
    if items != published.items:
        raise BadInput(f"{path.name} says it has {items:,} {kind}; should be {published.items:,}: is it misnamed?")
    size = head + items * (PIXELS if images else 1)
    if len(raw) != size:
        raise BadInput(f"{path.name} has {len(raw):,} bytes; {items:,} {kind} make {size:,}: truncated or damaged")
    digest = hashlib.sha256(raw).hexdigest()
    if digest != published.content_sha256:
        raise BadInput(f"{path.name} has the form of MNIST's but other contents (sha256 {digest}): another data set?")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(items, -1)


class MnistConfig(ImageConfig):
    """Knobs of mnist: an image at a time by default."""

    length: Positive = PIXELS - 1


@register_task("mnist")
class Mnist(WindowTask):
    """Grey levels of 28 x 28 digits."""

    Config = MnistConfig
    vocab_size = 256
    image_tokens = PIXELS
    dataset = data.Dataset(
        origin="MNIST (LeCun, Cortes, Burges)",
        size="11.6 MB to download, 55 MB prepared",
        licence="CC BY-SA 3.0",
        accepts="a folder with the four IDX files, gzipped or not",
        sources=tuple(data.Source(f"{MIRROR}/{stem}.gz", known.gz_sha256) for stem, known in PUBLISHED.items()),
        prepare=prepare,
    )

    def picture(self, x: Tensor) -> Tensor:
        """The pixels, unchanged."""
        return x.view(-1, 28, 28).to(torch.uint8)
