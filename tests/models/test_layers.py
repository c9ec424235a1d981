"""Layers against what they abbreviate."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.config import ModelConfig
from bench.models import layers
from bench.models.layers import SquaredReLU, activation, attend, attend_to_symbols, stack


def test_the_squared_relu_has_the_derivatives_of_what_it_is():
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SquaredReLU.apply, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(SquaredReLU.apply, (x,))
    slopes = torch.func.vmap(torch.func.jacfwd(lambda row: SquaredReLU.apply(row).sum()))(x.detach())
    torch.testing.assert_close(slopes, 2 * F.relu(x.detach()))


def test_the_squared_relu_has_the_same_bits_at_any_size():
    x = torch.randn(2**16, requires_grad=True)
    gradient = torch.randn(2**16)
    parts = torch.cat([activation(part) for part in x.split(2**12)])
    whole = activation(x)
    assert torch.equal(whole, parts)
    assert torch.equal(*(torch.autograd.grad(one, x, gradient)[0] for one in (whole, parts)))


def test_vectors_of_a_table_give_what_they_give_one_by_one(monkeypatch):
    blocks = stack(ModelConfig(d=16, heads=2), 2).double()
    for block in blocks:
        torch.nn.init.normal_(block.attention_norm.g, std=0.3)
    table = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 5, (3, 8))
    mask = (torch.rand(3, 1, 1, 8) < 0.7) | (torch.arange(8) > 5)
    wanted = [table, *blocks.parameters()]
    used: list[layers.Symbols] = []
    make = layers.Symbols
    monkeypatch.setattr(layers, "Symbols", lambda *parts: used.append(make(*parts)) or used[-1])
    for settings in ({"mask": mask}, {"causal": True}, {"mask": mask, "rows": slice(-2, None)}):
        few, each = attend_to_symbols(blocks, table, index, **settings), attend(blocks, table[index], **settings)
        torch.testing.assert_close(few, each)
        gradients = (torch.autograd.grad(one.sin().sum(), wanted) for one in (few, each))
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)
    assert len(used) == 3
    single = torch.zeros(1, 3, dtype=torch.long)
    torch.testing.assert_close(attend_to_symbols(blocks, table, single), attend(blocks, table[single]))
    assert len(used) == 3, "a table longer than what is looked up is not projected"
