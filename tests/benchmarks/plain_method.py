"""SMT+DMT in the plain form of the published steps, as a method of its own: a plugin that grids can time beside ours.

python run_bench.py run results/tuning/seconds.yaml --plugin tests/benchmarks/plain_method.py
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.methods import Carry
from bench.methods.smt_dmt import SMTDMT
from bench.registry import register_method
from bench.tasks.base import Batch
from tests.benchmarks.plain import dmt, smt

STEPS = {"smt": smt, "dmt": dmt}


@register_method("smt+dmt-plain")
class PlainSMTDMT(SMTDMT):
    """Its losses and gradients are those of `smt+dmt` (tests/benchmarks/test_plain.py); only the time differs."""

    def losses(self, batch: Batch, drawn: Any, carry: Carry, phase: str) -> tuple[dict[str, Tensor], Carry]:
        return STEPS[phase](self, batch, drawn), carry
