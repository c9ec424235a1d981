"""BPTT that takes as long as the environment says, and computes the same: something to interrupt, at any speed."""

import os
import time
from collections.abc import Iterator

from torch import Tensor

from bench.methods import register_method
from bench.methods.bptt import BPTT
from bench.tasks.base import Batch


@register_method("slow-bptt")
class SlowBPTT(BPTT):
    def gradients(self, batch: Batch, phase: str) -> Iterator[dict[str, Tensor]]:
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        yield from super().gradients(batch, phase)
