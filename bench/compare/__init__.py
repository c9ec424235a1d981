"""Guard a grid: find out whether anything is worse than before.

    found = compare(read(Path("results/regression")), read(Path("results/baselines/regression.json")), Tolerances())

`sides` reads and writes the two sides, `judge` matches their cells and judges them, `show` puts the result into words.
"""

from __future__ import annotations

from bench.compare.judge import Comparison, Row, compare
from bench.compare.sides import Cell, Side, read, write
from bench.tolerances import Tolerances

__all__ = ["Cell", "Comparison", "Row", "Side", "Tolerances", "compare", "read", "write"]
