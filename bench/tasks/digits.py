"""digits: the 8 x 8 digits bundled with scikit-learn, 17 grey levels in raster order; needs no download.

    x = 0 0 5 13 9 1 0 0 0 0 13 .. -> y = 0 5 13 9 1 0 0 0 0 13 15 ..

1,797 images of 64 tokens, in the order in which they are bundled (which follows the writers): the first 1,350 to train,
150 to validate, the last 297 to test. A window of the default length 64 begins at an image; its last label is the first
pixel of the next one. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.config import Positive
from bench.registry import register_task
from bench.tasks import data
from bench.tasks.windows import ImageConfig, WindowTask

PIXELS = 8 * 8
FIRST_VALID, FIRST_TEST = 1350, 1500


class DigitsConfig(ImageConfig):
    """Knobs of digits: an image at a time by default."""

    length: Positive = PIXELS


@register_task("digits")
class Digits(WindowTask):
    """The next grey level of 8 x 8 digits."""

    Config = DigitsConfig
    vocab_size = 17
    image_tokens = PIXELS
    dataset = data.Dataset(
        origin="scikit-learn (Alpaydin and Kaynak, UCI)",
        size="bundled",
        licence="CC BY 4.0",
        accepts="",
        counts={
            split: {"tokens": images * PIXELS, "images": images}
            for split, images in (
                ("train", FIRST_VALID),
                ("valid", FIRST_TEST - FIRST_VALID),
                ("test", 1797 - FIRST_TEST),
            )
        },
    )

    def picture(self, x: Tensor) -> Tensor:
        """Grey levels 0 to 16 as 0 to 255."""
        return (x.view(-1, 8, 8) * 255 // 16).to(torch.uint8)

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The bundled images, split in order."""
        train, valid, test = np.split(_pixels(), (FIRST_VALID * PIXELS, FIRST_TEST * PIXELS))
        return {"train": train, "valid": valid, "test": test}, {"fingerprint": "bundled"}


@lru_cache
def _pixels() -> np.ndarray:
    """All images in one row, (1797 * 64,)."""
    from sklearn.datasets import load_digits  # here, because it takes a second

    return load_digits().data.astype(np.uint8).reshape(-1)
