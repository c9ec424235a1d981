"""Guard: no step, prediction, trace or draw has become slower, in units of what the machine is able to.

    python -m pytest tests/benchmarks/bench_ratios.py        # 20 seconds on a free core

docs/benchmarks.md tells what to do when it fails.
"""

from __future__ import annotations

import pytest

from bench.methods.bptt import BPTT
from tests.benchmarks import ratios, workloads


def test_nothing_is_slower_than_the_committed_ratios(tmp_path):
    now, before = ratios.measure(workloads.everything(tmp_path)), ratios.committed()
    for name, rise in sorted(ratios.rises(now, before).items(), key=lambda item: -item[1]):
        print(f"{rise:5.2f}  {name}")
    assert now.keys() == before.keys(), "other workloads than in the committed ratios; write those again"
    found = ratios.slower(now, before)
    assert not found, "\n".join([*found, "see docs/benchmarks.md"])


@pytest.mark.parametrize("times", [2, 3])
def test_a_step_that_does_its_work_several_times_is_reported(tmp_path, monkeypatch, times):
    """Against ratios of the same rounds: those that are committed may be another processor's, and be lower here."""
    every = workloads.steps(tmp_path)
    bptt, once = every["step: bptt, train"], BPTT.gradients

    def again_and_again(self, batch, phase):
        for _ in range(times - 1):
            for _ in once(self, batch, phase):
                self.zero_grad()
        yield from once(self, batch, phase)

    def slow():
        with monkeypatch.context() as patched:
            patched.setattr(BPTT, "gradients", again_and_again)
            bptt()

    other = {"step: transformer, train": every["step: transformer, train"]}
    found = ratios.measure({**other, "step: bptt, train": bptt, "slow": slow})
    before = {name: found[name] for name in (*other, "step: bptt, train")}
    reported = ratios.slower({**before, "step: bptt, train": found["slow"]}, before)
    assert len(reported) == 1 and reported[0].startswith("step: bptt, train: ")
