"""The contract, and what makes this method itself: the reservoir forgets how it began, and only the readout learns."""

import bench_echo_state  # noqa: F401 (registers it)
import torch

from bench.testing import conformance, tiny

test_contract = conformance("method", "echo-state")


def test_the_reservoir_forgets_how_it_began():
    built, _ = tiny("echo-state", ["model.d=64", "method.radius=0.5"])
    x = torch.randint(2, (1, 60), generator=torch.Generator().manual_seed(0))
    first, other = built.initial_state(1), torch.ones_like(built.initial_state(1))
    apart = [(first - other).norm()]
    for x_t in x.split(1, 1):
        first, other = (built.advance(state, x_t)[1] for state in (first, other))
        apart.append((first - other).norm())
    assert apart[-1] < 1e-6 * apart[0]


def test_a_lane_that_restarts_starts_at_zero():
    built, _ = tiny("echo-state")
    x = torch.randint(2, (2, 6), generator=torch.Generator().manual_seed(0))
    start = torch.zeros(2, 6, dtype=torch.bool)
    start[1, 3] = True
    logits, _ = built.advance(built.initial_state(2), x, start=start)
    torch.testing.assert_close(logits[0], built.predict(x)[0])
    torch.testing.assert_close(logits[1, 3:], built.predict(x[:, 3:])[1])


def test_its_spectral_radius_is_near_the_one_asked_for():
    built, _ = tiny("echo-state", ["model.d=256", "method.radius=0.9"])
    assert abs(torch.linalg.eigvals(built.recurrence).abs().max().item() - 0.9) < 0.1


def test_only_the_readout_learns():
    built, _ = tiny("echo-state")
    assert [name for name, _ in built.named_parameters()] == ["linear.weight", "linear.bias"]
