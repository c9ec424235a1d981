"""Credit paths: exact on hand-made networks, linear for BPTT, flat for SMT and the Transformer, none for DMT."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import registry
from bench.build import build_method, build_task
from bench.measure.credit import credit_paths
from bench.methods.base import Method, RecurrentMethod, cross_entropy
from tests.helpers import tiny_run

DMT = {"name": "smt+dmt", "timesteps": 2, "dmt": {"share": 0.5, "every": 3, "batch_size": 4}}
STACK = {"name": "stack", "length": 12}


@pytest.fixture
def register(monkeypatch):
    """Register a hand-made method for the time of a test."""
    registry.methods.names()  # the built-in ones are loaded first
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))

    def add(cls):
        cls.__abstractmethods__ = frozenset()
        registry.methods.register(f"by-hand-{cls.__name__.lower()}")(cls)
        return f"by-hand-{cls.__name__.lower()}"

    return add


class Linear(Method):
    """h_t = h_{t-1} W + E[x_t], looked up symbol by symbol; logits = h_t."""

    backbones = ()

    def __init__(self, config, task, model, noise):
        super().__init__(config, task, model, noise)
        self.table = nn.Parameter(torch.randn(task.vocab_size, task.output_size))
        self.weight = nn.Parameter(torch.randn(task.output_size, task.output_size))

    def embed(self, x_t):
        return F.embedding(x_t, self.table)

    def gradients(self, batch, phase):
        hidden, logits = self.embed(batch.x[:, 0]), []
        logits.append(hidden)
        for x_t in batch.x[:, 1:].unbind(1):
            hidden = hidden @ self.weight + self.embed(x_t)
            logits.append(hidden)
        loss = cross_entropy(torch.stack(logits, 1), batch.y)
        loss.backward()
        yield {"loss": loss.detach()}


# From the loss to the last hidden state: nll, log-softmax, the flattening of the logits, the stack.
HEAD = 4


def paths(method, phase="train", length=12, task="retrieval", distances=(0, 1, 2, 5, 9), **fields):
    return {one.distance: one[1:] for one in credit_paths(tiny_run(method, task, **fields), phase, length, distances)}


def test_a_linear_recurrence_has_two_nodes_a_step(register):
    found = paths(register(Linear))
    # To x_j itself: the sum, then the lookup. Every step back adds a product and a sum.
    assert found == {k: (HEAD + 2 + 2 * k, HEAD + 2 + 2 * k) for k in (0, 1, 2, 5, 9)}


def test_the_first_input_has_no_sum_of_its_own(register):
    assert paths(register(Linear), distances=(11,)) == {11: (HEAD + 1 + 2 * 11, HEAD + 1 + 2 * 11)}


def test_symbols_may_be_looked_up_by_a_product_with_one_hot_codes(register):
    class OneHot(Linear):
        def embed(self, x_t):
            return F.one_hot(x_t, len(self.table)).to(self.table) @ self.table

    assert paths(register(OneHot)) == paths(register(Linear))


def test_stacking_all_positions_makes_no_shortcut_between_them(register):
    class Unbound(Linear):
        """Looks all symbols up at once and unbinds them: one node through which every position goes."""

        def gradients(self, batch, phase):
            hidden, logits = torch.zeros(len(batch.x), self.task.output_size, dtype=self.weight.dtype), []
            for token in F.embedding(batch.x, self.table).unbind(1):
                hidden = hidden @ self.weight + token
                logits.append(hidden)
            loss = cross_entropy(torch.stack(logits, 1), batch.y)
            loss.backward()
            yield {"loss": loss.detach()}

    assert paths(register(Unbound)) == {k: (HEAD + 3 + 2 * k, HEAD + 3 + 2 * k) for k in (0, 1, 2, 5, 9)}


def test_a_skip_makes_the_shortest_path_shorter_than_the_longest(register):
    class Skip(Linear):
        """h_t = h_{t-1} + tanh(h_{t-1} W) + E[x_t]."""

        def gradients(self, batch, phase):
            hidden = self.embed(batch.x[:, 0])
            for x_t in batch.x[:, 1:].unbind(1):
                hidden = (hidden + torch.tanh(hidden @ self.weight)) + self.embed(x_t)
            loss = F.cross_entropy(hidden, batch.y[:, -1], ignore_index=-1, reduction="sum")
            loss.backward()
            yield {"loss": loss.detach()}

    # nll, log-softmax; per step two sums, or besides these the tanh and the product; then the sum and the lookup.
    assert paths(register(Skip), distances=(0, 1, 4)) == {k: (2 + 2 + 2 * k, 2 + 2 + 4 * k) for k in (0, 1, 4)}


def test_detached_memories_end_the_path(register):
    class Truncated(Linear):
        def gradients(self, batch, phase):
            hidden = self.embed(batch.x[:, 0])
            for t, x_t in enumerate(batch.x[:, 1:].unbind(1), 1):
                hidden = (hidden.detach() if t % 4 == 0 else hidden) @ self.weight + self.embed(x_t)
            loss = F.cross_entropy(hidden, batch.y[:, -1], ignore_index=-1, reduction="sum")
            loss.backward()
            yield {"loss": loss.detach()}

    found = paths(register(Truncated), distances=(0, 3, 4, 9))  # j = 11; detached between 7 and 8
    assert found[0][0] and found[3][0] and found[4] == found[9] == (None, None)


def test_other_losses_than_that_at_j_are_no_path_from_it(register):
    class Auxiliary(Linear):
        """The labels train a bias alone; another loss reaches every input."""

        def __init__(self, *parts):
            super().__init__(*parts)
            self.bias = nn.Parameter(torch.zeros(self.task.output_size))

        def gradients(self, batch, phase):
            logits = self.bias.expand(*batch.x.shape, -1)
            loss = cross_entropy(logits, batch.y) + F.embedding(batch.x, self.table).square().mean()
            loss.backward()
            yield {"loss": loss.detach()}

    assert set(paths(register(Auxiliary)).values()) == {(None, None)}


def test_gradients_asked_for_with_grad_are_followed_too(register):
    class Asked(Linear):
        def gradients(self, batch, phase):
            hidden = self.embed(batch.x[:, 0])
            for x_t in batch.x[:, 1:].unbind(1):
                hidden = hidden @ self.weight + self.embed(x_t)
            loss = F.cross_entropy(hidden, batch.y[:, -1], ignore_index=-1, reduction="sum")
            self.weight.grad, self.table.grad = torch.autograd.grad(loss, [self.weight, self.table])
            yield {"loss": loss.detach()}

    assert paths(register(Asked), distances=(0, 5)) == {k: (2 + 2 + 2 * k,) * 2 for k in (0, 5)}


@pytest.mark.parametrize("backbone", ["transformer", "mlp", "gru"])
def test_bptts_paths_grow_by_the_nodes_of_an_update(backbone):
    run = tiny_run("bptt")
    model = run.model.changes() | {"backbone": backbone}
    found = paths("bptt", length=20, distances=(1, 2, 3, 16), model=model)
    for kind in (0, 1):
        step = found[2][kind] - found[1][kind]
        assert step >= 3 and found[16][kind] - found[1][kind] == 15 * step


def test_the_transformers_and_smts_paths_do_not_grow():
    assert len(set(paths("transformer", length=24, distances=(1, 2, 4, 8, 16)).values())) == 1
    far, near = (paths(DMT, "smt", length, distances=(4, length // 2)) for length in (16, 64))
    assert set(far.values()) == set(near.values()) and all(one[0] for one in far.values())


def test_dmts_credit_is_in_its_labels_and_not_in_the_graph():
    method = build_method(tiny_run(DMT), build_task(tiny_run(DMT)))
    assert set(paths(DMT, "dmt", task=STACK).values()) == {(None, None)}
    assert set(method.outside_autograd) == {"dmt"}
    through = DMT | {"dmt": DMT["dmt"] | {"detach_rollout": False, "detach_readout": False}}
    one, two, five = (paths(through, "dmt", task=STACK)[k][0] for k in (1, 2, 5))
    assert five - one == 4 * (two - one) > 0  # with gradients through the rollout it is BPTT


def test_it_starts_from_the_last_label_and_by_default_at_powers_of_two():
    assert [one.distance for one in credit_paths(tiny_run("transformer"), "train", 20)] == [0, 1, 2, 4, 8, 16]
    assert [one.distance for one in credit_paths(tiny_run("transformer"), "train", 20, [19, 20, 40])] == [19]


def test_nothing_is_left_behind():
    state, backward = torch.random.get_rng_state(), torch.autograd.backward
    first = credit_paths(tiny_run(DMT), "smt", 12)
    assert torch.equal(state, torch.random.get_rng_state()) and torch.autograd.backward is backward
    assert credit_paths(tiny_run(DMT), "smt", 12) == first


def test_it_is_undone_after_an_exception(register):
    class Raises(RecurrentMethod):
        def gradients(self, batch, phase):
            raise RuntimeError("no")
            yield

    backward = torch.autograd.backward
    with pytest.raises(RuntimeError, match="no"):
        credit_paths(tiny_run(register(Raises)), "train")
    assert torch.autograd.backward is backward
