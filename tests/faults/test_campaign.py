"""A small fault campaign; the whole one is a command, see `campaign.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import registry
from tests.faults.campaign import METHODS, Campaign

LEFT_OUT = {"artbp", "kf-rtrl", "nobacktrack", "rtrl", "smt-dense", "smt+dmt+bptt", "uoro"}
"""What online methods carry is kept as that of tbptt is, and a cell of rtrl takes as long as all others together; the
phases of the other two are those of methods that take part.
"""


def test_the_campaign_has_every_method_whose_state_is_its_own() -> None:
    classes = [registry.methods.get(name) for name in registry.methods.names()]
    assert [one.name for one in classes if one.__module__.startswith("bench.") and one.name not in LEFT_OUT] == METHODS


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.slow
def test_a_grid_whose_processes_are_killed_and_frozen_at_random_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, kills=5, seeds=1, steps=50)
    assert campaign.run(), campaign.faults
    counts = campaign.counts
    assert counts["kills"] >= 5 and counts["cells"] >= len(METHODS)
    assert all(counts[f"kills: {who}"] for who in ("worker at a cell", "launcher", "worker"))
    assert counts["frozen with their launcher"] + counts["frozen alone"] >= 1
