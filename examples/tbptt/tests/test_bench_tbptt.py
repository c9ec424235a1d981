"""The contract, and what makes this method itself: where its gradients stop, and that its memory does not."""

import bench_tbptt  # noqa: F401 (registers it)
import torch

from bench.methods import cross_entropy
from bench.tasks import Batch
from bench.testing import conformance, tiny

test_contract = conformance("method", "tbptt")
test_contract_with_windows_that_do_not_divide_the_length = conformance("method", "tbptt", ["method.window=4"])


def method(window: int):
    built, _ = tiny("tbptt", [f"method.window={window}", "task.length=7"])
    return built


def batch(start: bool) -> Batch:
    x = torch.randint(2, (3, 7), generator=torch.Generator().manual_seed(0))
    return Batch(x, x.cumsum(1) % 2, torch.full((3,), start))


def gradients(built, piece: Batch) -> list[dict[str, torch.Tensor]]:
    found = []
    for _ in built.gradients(piece, "train"):
        found.append({name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None})
        built.zero_grad()
    return found


def test_each_windows_gradient_is_that_of_its_own_steps_alone():
    built, piece = method(3), batch(start=True)
    found = gradients(built, piece)
    assert len(found) == 3  # 3, 3 and 1 steps
    memory = built.rnn.initial_state(3)
    for gradient, columns in zip(found, ([0, 1, 2], [3, 4, 5], [6])):
        logits, memory = [], memory.detach()
        for t in columns:
            memory = built.rnn.update(memory, piece.x[:, t])
            logits.append(built.rnn.read(memory))
        cross_entropy(torch.stack(logits, 1), piece.y[:, columns]).backward()
        for name, expected in gradient.items():
            torch.testing.assert_close(expected, dict(built.named_parameters())[name].grad, rtol=1e-10, atol=1e-12)
        built.zero_grad()


def test_the_memory_goes_on_to_the_next_piece_unless_a_lane_begins_anew():
    built = method(7)
    fresh = gradients(built, batch(start=True))
    again, onwards = gradients(built, batch(start=True)), gradients(built, batch(start=False))
    name = "rnn.embedding.weight"
    assert torch.equal(fresh[0][name], again[0][name])
    assert not torch.equal(fresh[0][name], onwards[0][name])
