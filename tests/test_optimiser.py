"""The optimiser: schedules, decay, SGD and the average of the weights, each against arithmetic by hand."""

import math

import pytest
import torch
from torch import nn

from bench.config import Optimiser
from bench.errors import BadInput
from bench.optimiser import Average, build, clip, rate


@pytest.mark.parametrize(
    ("schedule", "at_half"),
    [
        ("constant", 1.0),
        ("cosine", 0.5 * (1 + math.cos(math.pi * 0.3 / 0.8))),
        ("inverse", 0.4),
        ("inverse_sqrt", 0.4**0.5),
    ],
)
def test_a_rate_rises_over_the_warm_up_and_then_falls_as_its_schedule_says(schedule, at_half):
    settings = Optimiser(lr=2.0, warmup=0.2, schedule=schedule)
    assert rate(settings, 0.1) == pytest.approx(1.0)
    assert rate(settings, 0.2) == pytest.approx(2.0)
    assert rate(settings, 0.5) == pytest.approx(2.0 * at_half)
    floored = Optimiser(lr=2.0, warmup=0.2, schedule=schedule, floor=0.9)
    assert rate(floored, 1.0) == pytest.approx(2.0 if schedule == "constant" else 1.8)
    assert rate(floored, 0.1) == pytest.approx(1.0)  # a floor does not hold in the warm-up


def test_a_schedule_that_falls_from_the_warm_up_needs_one():
    with pytest.raises(BadInput, match="warmup should be above 0"):
        Optimiser.parse({"schedule": "inverse", "warmup": 0}, "optimiser")


def parameters():
    return nn.Parameter(torch.tensor([[1.0, 2.0]])), nn.Parameter(torch.tensor([3.0]))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_only_matrices_decay_where_that_is_asked_for(kind):
    matrix, bias = parameters()
    optimiser = build(Optimiser(kind=kind, lr=0.5, decay=0.1, decay_on="matrices"), [[matrix, bias]])
    for parameter in (matrix, bias):
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(matrix.detach(), torch.tensor([[1.0, 2.0]]) * (1 - 0.5 * 0.1))
    torch.testing.assert_close(bias.detach(), torch.tensor([3.0]))


def test_sgd_goes_down_the_gradient():
    matrix, _ = parameters()
    optimiser = build(Optimiser(kind="sgd", lr=0.5, decay=0.0), [[matrix]])
    matrix.grad = torch.tensor([[1.0, -2.0]])
    optimiser.step()
    torch.testing.assert_close(matrix.detach(), torch.tensor([[0.5, 3.0]]))


def test_the_average_of_the_weights_is_shown_and_taken_away_again():
    matrix, bias = parameters()
    average = Average([matrix, bias], 0.9)
    with torch.no_grad():
        matrix.mul_(2)
    average.update()
    with average.shown():
        torch.testing.assert_close(matrix.detach(), torch.tensor([[1.1, 2.2]]))  # 0.9 of before, 0.1 of twice that
    torch.testing.assert_close(matrix.detach(), torch.tensor([[2.0, 4.0]]))
    average.copy_to_parameters()
    torch.testing.assert_close(matrix.detach(), torch.tensor([[1.1, 2.2]]))


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float32, torch.complex64)])
@pytest.mark.parametrize("most", [0.1, 100.0])
def test_clipping_is_torchs_bit_for_bit(most, dtypes):
    generator, groups = torch.Generator().manual_seed(0), []
    gradients = [torch.randn(5, 3, generator=generator, dtype=dtype) for dtype in dtypes]
    for _ in range(2):
        group = [nn.Parameter(torch.zeros(5, 3, dtype=dtype)) for dtype in (*dtypes, torch.float32)]
        for parameter, gradient in zip(group, gradients, strict=False):  # the last has none
            parameter.grad = gradient.clone()
        groups.append(group)
    assert torch.equal(clip(groups[0], most), torch.nn.utils.clip_grad_norm_(groups[1], most))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(*groups, strict=True) if b.grad is not None)
