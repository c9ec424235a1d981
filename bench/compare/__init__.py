"""Guard a grid: say whether anything is worse than it was.

    found = compare(read(Path("results/regression")), read(Path("results/baselines/regression.json")), Tolerances())

`sides` reads and writes what is compared, `judge` matches cells and judges, `show` says it in words.
"""

from __future__ import annotations

from bench.compare.judge import Comparison, Row, compare
from bench.compare.sides import Cell, Side, read, write
from bench.tolerances import Tolerances

__all__ = ["Cell", "Comparison", "Row", "Side", "Tolerances", "compare", "read", "write"]
