"""The contract, and what makes this method itself: noise on the state where it learns, and none where it is scored."""

import bench_state_noise  # noqa: F401 (registers it)
import pytest
import torch

from bench.methods import cross_entropy
from bench.models import map_tree
from bench.tasks import Batch
from bench.testing import conformance, tiny

test_contract = conformance("method", "state-noise")
BACKBONES = ["transformer", "tanh", "lstm", "lru"]  # states of all kinds: tokens, a vector, a pair, complex numbers


def method(sigma: float, backbone: str):
    return tiny("state-noise", [f"method.sigma={sigma}", f"model.backbone={backbone}"])[0]


def batch() -> Batch:
    x = torch.randint(2, (3, 7), generator=torch.Generator().manual_seed(0))
    return Batch(x, x.cumsum(1) % 2)


def loss(built, piece: Batch, drawn) -> torch.Tensor:
    return built.losses(piece, drawn, built.begin(len(piece.x)), "train")[0]["loss"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_noise_it_is_bptt(backbone):
    built, piece = method(0.0, backbone), batch()
    expected = cross_entropy(built.predict(piece.x), piece.y)
    torch.testing.assert_close(loss(built, piece, built.draw((3, 7), "train")), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_noise_reaches_every_column_of_every_part_of_the_state(backbone):
    built, piece = method(0.1, backbone), batch()
    drawn = built.draw((3, 7), "train")
    leaves: list[torch.Tensor] = []
    map_tree(lambda part: leaves.append(part.requires_grad_()) or part, drawn)
    for slope in torch.autograd.grad(loss(built, piece, drawn), leaves):
        assert (slope[1:].flatten(2) != 0).any(2).all()  # (at column 0 the empty memory may have no slope)


def test_it_is_scored_without_noise():
    built, x = method(1.0, "transformer"), batch().x
    assert torch.equal(built.predict(x), built.predict(x))
    assert torch.equal(built.predict(x), method(0.0, "transformer").predict(x))
