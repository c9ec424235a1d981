"""One transition of every backbone, and its Jacobian products, against autograd in float64."""

import pytest
import torch

from bench import registry
from bench.config import ModelConfig
from bench.models.jacobian import Transition, flat, unflat
from bench.models.rnn import RNN

B, SYMBOLS = 3, 7


@pytest.fixture(params=registry.backbones.names())
def case(request):
    """A transition, states that it comes to, and inputs."""
    torch.manual_seed(0)
    sizes = {"d": 8, "heads": 2, "memory_tokens": 2, "updater_layers": 1, "decoder_layers": 1}
    rnn = RNN(ModelConfig(backbone=request.param, **sizes), SYMBOLS, 5).double()
    _, state = rnn.scan(rnn.initial_state(B), torch.randint(SYMBOLS, (B, 3)))
    return Transition(rnn), flat(state).detach(), torch.randint(SYMBOLS, (B,))


def test_jacobians_are_autograds_row_by_row(case):
    transition, state, x = case
    after, jacobian, by_parameter = transition.jacobians(state, x)
    torch.testing.assert_close(after, transition.step(state, x))
    for lane in range(B):
        leaf = state[lane : lane + 1].clone().requires_grad_()
        names, parameters = zip(*transition.named_parameters(), strict=True)
        for n, number in enumerate(transition.step(leaf, x[lane : lane + 1])[0]):
            by_state, *rows = torch.autograd.grad(number, [leaf, *parameters], retain_graph=True, allow_unused=True)
            torch.testing.assert_close(jacobian[lane, n], by_state[0], rtol=1e-12, atol=1e-12)
            for name, row in zip(names, rows, strict=True):
                wanted = torch.zeros_like(by_parameter[name][lane, n]) if row is None else row
                torch.testing.assert_close(by_parameter[name][lane, n], wanted, rtol=1e-12, atol=1e-12)


def test_products_are_those_with_the_jacobians(case):
    transition, state, x = case
    _, jacobian, by_parameter = transition.jacobians(state, x)
    vector = torch.randn_like(state)
    after, pushed = transition.push(state, x, vector)
    again, pulled, into = transition.pull(state, x, vector)
    torch.testing.assert_close(after, again, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pushed, torch.einsum("bij,bj->bi", jacobian, vector), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pulled, torch.einsum("bij,bi->bj", jacobian, vector), rtol=1e-12, atol=1e-12)
    for name, influence in by_parameter.items():
        torch.testing.assert_close(
            into[name], torch.einsum("bn,bn...->b...", vector, influence), rtol=1e-12, atol=1e-12
        )


def test_a_tree_becomes_a_vector_and_comes_back(case):
    transition, state, _ = case
    own = transition.updater.initial(1)
    for form in (own, {"first": own, "more": (own, own)}):
        vectors = torch.cat([state] * (1 if form is own else 3), 1)
        tree = unflat(vectors, form)
        assert type(tree) is type(form) and torch.equal(flat(tree), vectors)
