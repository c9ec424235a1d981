"""The plain form of the published steps computes what ours do, so that their times may be compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.build import build_method, build_task
from bench.methods.base import Carry
from tests.benchmarks.plain import made_plain
from tests.helpers import tiny_run

STEPS = [
    ("smt", {"timesteps": 3, "context": 5, "future": 4}, "smt"),
    ("smt+dmt", {"dmt": {"every": 3}}, "dmt"),
    ("smt+dmt", {"dmt": {"every": 4, "detach_readout": False}}, "dmt"),
    ("bptt", {}, "train"),
]


@pytest.mark.parametrize(("name", "own", "phase"), STEPS)
def test_a_plain_step_has_the_loss_and_the_gradients_of_ours(name, own, phase):
    run = tiny_run({"name": name, **own}, {"name": "parity", "every_step": True}, precision="float64")
    task = build_task(run)
    method = build_method(run, task)
    for parameter in method.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.3)
    (part,) = (candidate for candidate in method.phases(run.training) if candidate.name == phase)
    method.train_only(part)
    batch, drawn = task.sample("train", 6, 12, torch.Generator().manual_seed(0)), method.draw((6, 12), phase)
    our_scalars = method.losses(batch, drawn, Carry(), phase)[0]
    plain_scalars = made_plain(method).losses(batch, drawn, Carry(), phase)[0]
    for scalar in ("loss", method.answers.get(phase, "loss")):  # (what the trainer asks for)
        torch.testing.assert_close(plain_scalars[scalar], our_scalars[scalar], rtol=1e-10, atol=1e-12)
    ours, plain = our_scalars["loss"], plain_scalars["loss"]
    wanted = [weight for group in part.groups for weight in group]
    for parameter, other in zip(*(torch.autograd.grad(loss, wanted, allow_unused=True) for loss in (plain, ours))):
        assert (parameter is None) == (other is None)
        if parameter is not None:
            torch.testing.assert_close(parameter, other, rtol=1e-8, atol=1e-12)
