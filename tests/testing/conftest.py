"""Rows that take long are slow, and those of plugins that share their base with another; `check --all` runs them."""

import pytest

SHARED = ("kf_rtrl", "nobacktrack", "smt_dmt_bptt", "smt_dense", "rhn", "gru_cell")
"""Methods and cells that differ from `uoro`, `smt+dmt`, `smt-dense+dmt` and `tanh` in a few lines."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        row = item.name.replace("-", "_")
        if "learns_an_easy_task" in row or row.split("[")[0].removeprefix("test_") in SHARED:
            item.add_marker(pytest.mark.slow)
