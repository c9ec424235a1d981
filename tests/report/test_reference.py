"""What `results/reference` keeps: cells that can be read again, made by committed code, and tables of these cells."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.report.data import read_results
from bench.report.summary import summarise

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
PACKS = sorted(REFERENCE.rglob("cells.tar.xz"))
NUMBERS = ["accuracy", "loss", "accuracy_low", "accuracy_high", "training_seconds", "seeds"]


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.parent.relative_to(REFERENCE).as_posix())
def test_a_table_is_of_the_cells_beside_it(pack: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(pack, tmp_path)
    cells = read_results([tmp_path])
    assert cells["provenance.commit"].str.fullmatch(r"[0-9a-f]{40}").all()
    assert cells["provenance.dirty"].eq(False).all()
    shown, kept = (
        table.sort_values(NUMBERS)[NUMBERS].to_numpy(float)
        for table in (summarise(cells), pd.read_csv(pack.with_name("summary.csv")))
    )
    np.testing.assert_allclose(shown, kept, rtol=1e-9)


def test_cells_are_kept() -> None:
    assert PACKS
