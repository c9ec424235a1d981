"""Credit paths: exact on hand-made networks, linear for BPTT, flat for SMT and the Transformer, none for DMT."""

from __future__ import annotations

import dataclasses
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad_and_value, jvp, vmap
from torch.utils.checkpoint import checkpoint

from bench import registry
from bench.build import build_method, build_task
from bench.measure.cost import table
from bench.measure.credit import Unfollowed, credit_paths
from bench.methods.base import Method, RecurrentMethod, cross_entropy
from bench.methods.rtrl import RTRL
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

    recurrences = ()

    def __init__(self, config, task, model, noise):
        super().__init__(config, task, model, noise)
        self.table = nn.Parameter(torch.randn(task.vocab_size, task.output_size))
        self.weight = nn.Parameter(torch.randn(task.output_size, task.output_size))

    def embed(self, x_t):
        return F.embedding(x_t, self.table)

    def move(self, hidden, token):
        return hidden @ self.weight + token

    def run(self, x):
        """The last hidden state."""
        hidden = self.embed(x[:, 0])
        for x_t in x[:, 1:].unbind(1):
            hidden = self.move(hidden, self.embed(x_t))
        return hidden

    def gradients(self, batch, phase):
        hidden, logits = self.embed(batch.x[:, 0]), []
        logits.append(hidden)
        for x_t in batch.x[:, 1:].unbind(1):
            hidden = self.move(hidden, self.embed(x_t))
            logits.append(hidden)
        loss = cross_entropy(torch.stack(logits, 1), batch.y)
        loss.backward()
        yield {"loss": loss.detach()}


class LastOnly(Linear):
    """The same, with a loss at the last position alone."""

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, ignore_index=-1, reduction="sum")

    def gradients(self, batch, phase):
        loss = self.loss(self.run(batch.x), batch.y[:, -1])
        loss.backward()
        yield {"loss": loss.detach()}


# From the loss to the last hidden state: nll, log-softmax, the flattening of the logits, the stack.
HEAD = 4


def paths(method, phase="train", length=12, task="retrieval", distances=(0, 1, 2, 5, 9), **fields):
    return {
        path.distance: path[1:] for path in credit_paths(tiny_run(method, task, **fields), phase, length, distances)
    }


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


def test_real_numbers_made_of_symbols_are_symbols_too(register):
    class Scaled(Linear):
        def embed(self, x_t):
            return (x_t[:, None].to(self.table) / 10) @ self.table[:1]

    assert paths(register(Scaled)) == paths(register(Linear))


def test_labels_may_be_smoothed_by_hand(register):
    class Smoothed(LastOnly):
        def loss(self, logits, y):
            target = 0.9 * F.one_hot(y.clamp(min=0), logits.shape[-1]).to(logits) + 0.01
            return -((target * logits.log_softmax(-1)).sum(-1) * (y >= 0)).sum()

    # The product with the target, log-softmax; then as ever.
    assert paths(register(Smoothed), distances=(0, 5)) == {k: (2 + 2 + 2 * k,) * 2 for k in (0, 5)}


def test_a_property_of_a_tensor_is_a_call_like_any_other(register):
    class Transposed(Linear):
        def move(self, hidden, token):
            return hidden @ self.weight.T + token

    assert paths(register(Transposed)) == paths(register(Linear))


@pytest.mark.parametrize("precision", [torch.complex128, torch.complex64])
def test_complex_states_carry_credit_like_real_ones(register, precision):
    class Rotated(Linear):
        """z_t = z_{t-1} W + E[x_t] with complex z, W and E, kept as real numbers; logits are the real parts."""

        def __init__(self, *parts):
            super().__init__(*parts)
            size = self.task.output_size
            self.table = nn.Parameter(torch.randn(self.task.vocab_size, 2 * size))
            self.weight = nn.Parameter(torch.randn(size, 2 * size))

        def embed(self, x_t):
            return torch.view_as_complex(F.embedding(x_t, self.table).unflatten(-1, (-1, 2))).to(precision)

        def move(self, hidden, token):
            return hidden @ torch.view_as_complex(self.weight.unflatten(-1, (-1, 2))).to(precision).conj() + token

        def gradients(self, batch, phase):
            loss = F.cross_entropy(self.run(batch.x).real.double(), batch.y[:, -1], ignore_index=-1, reduction="sum")
            loss.backward()
            yield {"loss": loss.detach()}

    cast = precision is torch.complex64
    # nll, log-softmax, (the cast,) the selection of real parts, their view; two a step; the sum, (the cast,) the view
    # as complex, the unflattening, the lookup.
    ends = 4 + cast + 1 + cast + 3
    assert paths(register(Rotated), distances=(0, 1, 5)) == {k: (ends + 2 * k,) * 2 for k in (0, 1, 5)}


def test_the_parts_of_a_complex_number_are_told_apart(register):
    class Apart(LastOnly):
        """The last symbol in the real part, which the loss reads; the one before in the imaginary part, unread."""

        def run(self, x):
            token = F.embedding(x, self.table)
            return torch.complex(token[:, -1], token[:, -2]).real

    found = paths(register(Apart), distances=(0, 1))
    assert found[0][0] and found[1] == (None, None)


def test_a_fourier_transform_mixes_all_positions(register):
    class Fourier(Linear):
        def gradients(self, batch, phase):
            spectrum = torch.fft.rfft(F.embedding(batch.x, self.table), dim=1)
            logits = torch.fft.irfft(spectrum * spectrum, n=batch.x.shape[1], dim=1)
            loss = cross_entropy(logits, batch.y)
            loss.backward()
            yield {"loss": loss.detach()}

    # nll, log-softmax, flattening (a copy and a view); inverse transform, product, transform, lookup: at any distance.
    assert paths(register(Fourier)) == dict.fromkeys((0, 1, 2, 5, 9), (4 + 4, 4 + 4))


class Mixed(Method):
    """Layers over all positions at once: h <- h + mask * h[:, sources]; whether credit passes, elements decide."""

    recurrences = ()
    seed = 0

    def __init__(self, config, task, model, noise):
        super().__init__(config, task, model, noise)
        self.table = nn.Parameter(torch.randn(task.vocab_size, task.output_size))

    @classmethod
    def mixing(cls, length):
        random = torch.Generator().manual_seed(cls.seed)
        for _ in range(4):
            sources = torch.randint(length, (length,), generator=random)
            yield sources, torch.rand(length, generator=random) < 0.6

    def gradients(self, batch, phase):
        hidden = F.embedding(batch.x, self.table)
        for sources, mask in self.mixing(batch.x.shape[1]):
            hidden = hidden + mask[:, None] * hidden[:, sources]
        loss = cross_entropy(hidden, batch.y)
        loss.backward()
        yield {"loss": loss.detach()}


@pytest.mark.parametrize("seed", range(4))
def test_paths_through_batched_layers_are_those_of_the_elements(register, seed):
    """Against all paths, position by position: a step straight down is one node, one sideways three."""
    cls = type(f"Mixed{seed}", (Mixed,), {"seed": seed})
    length = 12
    arrived = {length - 1: {4}}  # nll, log-softmax, flattening, the uppermost sum
    layers = list(cls.mixing(length))
    for sources, mask in reversed(layers):
        below = {}
        for position, lengths in arrived.items():
            below.setdefault(position, set()).update(nodes + 1 for nodes in lengths)
            if mask[position]:
                below.setdefault(int(sources[position]), set()).update(nodes + 3 for nodes in lengths)
        arrived = below
    expected = {k: arrived.get(length - 1 - k) for k in range(length)}
    expected = {k: (min(some), max(some)) if some else (None, None) for k, some in expected.items()}
    assert paths(register(cls), distances=range(length)) == expected
    assert 1 < sum(path[0] is not None for path in expected.values()) < length


def test_a_fused_recurrence_grows_like_one_that_is_written_out(register):
    class Fused(Method):
        recurrences = ()

        def __init__(self, config, task, model, noise):
            super().__init__(config, task, model, noise)
            self.table = nn.Parameter(torch.randn(task.vocab_size, task.output_size))
            self.gru = nn.GRU(task.output_size, task.output_size, batch_first=True)

        def gradients(self, batch, phase):
            loss = cross_entropy(self.gru(F.embedding(batch.x, self.table))[0], batch.y)
            loss.backward()
            yield {"loss": loss.detach()}

    found = paths(register(Fused))
    for kind in (0, 1):
        step = found[2][kind] - found[1][kind]
        assert step >= 3 and found[9][kind] - found[1][kind] == 8 * step


def test_recomputed_segments_have_the_paths_of_kept_ones(register):
    class Recomputed(Linear):
        def move(self, hidden, token):
            return checkpoint(super().move, hidden, token, use_reentrant=False)

    assert paths(register(Recomputed)) == paths(register(Linear))


def test_an_operation_with_its_own_backward_is_one_node(register):
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, factor, hidden, weight):
            ctx.factor = factor
            ctx.save_for_backward(hidden, weight)
            return factor * (hidden @ weight)

        @staticmethod
        def backward(ctx, gradient):
            hidden, weight = ctx.saved_tensors
            return None, ctx.factor * gradient @ weight.T, ctx.factor * hidden.T @ gradient

    class Own(Linear):
        def move(self, hidden, token):
            return Scale.apply(0.5, hidden, self.weight) + token

    assert paths(register(Own)) == paths(register(Linear))


def test_states_written_into_a_buffer_are_told_apart(register):
    class Buffered(Linear):
        def gradients(self, batch, phase):
            states = torch.zeros(*batch.x.shape, self.task.output_size, dtype=self.table.dtype)
            hidden = torch.zeros(len(batch.x), self.task.output_size, dtype=self.table.dtype)
            for t, x_t in enumerate(batch.x.unbind(1)):
                hidden = self.move(hidden, self.embed(x_t))
                states[:, t] = hidden
            loss = cross_entropy(states, batch.y)
            loss.backward()
            yield {"loss": loss.detach()}

    found = paths(register(Buffered))
    assert {k: lengths[0] - found[0][0] for k, lengths in found.items()} == {k: 2 * k for k in found}
    assert all(shortest == longest for shortest, longest in found.values())


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


class LaneByLane(LastOnly):
    """Each lane on its own under vmap, with gradients cut where `cut` says."""

    def cut(self, hidden, t):
        return hidden

    def losses(self, batch, drawn, carry, phase):
        def lane(x, y):
            hidden = F.embedding(x[0], self.table)
            for t, x_t in enumerate(x[1:], 1):
                hidden = torch.tanh(self.weight @ self.cut(hidden, t)) + F.embedding(x_t, self.table)
            return F.cross_entropy(hidden, y, ignore_index=-1, reduction="sum")

        return {"loss": vmap(lane)(batch.x, batch.y[:, -1]).sum()}, carry

    gradients = Method.gradients


def test_paths_go_through_a_vmap_over_lanes(register):
    found = paths(register(LaneByLane))
    for kind in (0, 1):
        step = found[2][kind] - found[1][kind]
        assert step >= 3 and found[9][kind] - found[1][kind] == 8 * step

    class Cut(LaneByLane):
        def cut(self, hidden, t):
            return hidden.detach() if t == 8 else hidden  # of 0 .. 11

    cut = paths(register(Cut), distances=(0, 3, 4, 9))
    assert cut[0] == found[0] and cut[3][0] and cut[4] == cut[9] == (None, None)


def test_symbols_under_a_vmap_may_be_coded_by_hand(register):
    class OneHot(LaneByLane):
        def losses(self, batch, drawn, carry, phase):
            codes = F.one_hot(batch.x, len(self.table)).to(self.table)

            def lane(code, y):
                hidden = code[0] @ self.table
                for symbol in code[1:]:
                    hidden = self.weight @ hidden + symbol @ self.table
                return F.cross_entropy(hidden, y, ignore_index=-1, reduction="sum")

            return {"loss": vmap(lane)(codes, batch.y[:, -1]).sum()}, carry

    found = paths(register(OneHot), distances=(1, 2, 9))
    assert found[2][0] - found[1][0] > 0 and found[9][0] - found[1][0] == 8 * (found[2][0] - found[1][0])


def test_paths_go_through_the_primal_and_the_tangent_of_a_jvp(register):
    class Primal(LastOnly):
        tangent = False

        def losses(self, batch, drawn, carry, phase):
            def run(weight):
                hidden = self.embed(batch.x[:, 0])
                for x_t in batch.x[:, 1:].unbind(1):
                    hidden = hidden @ weight + self.embed(x_t)
                return hidden

            hidden, moved = jvp(run, (self.weight,), (torch.ones_like(self.weight),))
            return {"loss": self.loss(moved if self.tangent else hidden, batch.y[:, -1])}, carry

        gradients = Method.gradients

    class Tangent(Primal):
        tangent = True

    plain = paths(register(LastOnly))
    assert paths(register(Primal)) == {
        k: (shortest + 1, other + 1) for k, (shortest, other) in plain.items()
    }  # the unpacking
    found = paths(register(Tangent))
    assert found[0] == (None, None)  # how h_j moves with the weights does not depend on what came in at j
    for kind in (0, 1):
        step = found[2][kind] - found[1][kind]
        assert step >= 2 and found[9][kind] - found[1][kind] == 8 * step


def test_gradients_that_torch_func_takes_are_followed_as_far_as_they_can_be_seen(register):
    class Functional(LastOnly):
        detach = False

        def gradients(self, batch, phase):
            def loss(weights):
                return self.loss(functional_call(self, weights, (batch.x,)), batch.y[:, -1])

            weights = {
                name: parameter.detach() if self.detach else parameter for name, parameter in self.named_parameters()
            }
            found, value = grad_and_value(loss)(weights)
            for name, parameter in self.named_parameters():
                parameter.grad = found[name].detach()
            yield {"loss": value.detach()}

        forward = LastOnly.run

    class Detached(Functional):
        detach = True

    assert paths(register(Functional)) == paths(register(LastOnly))
    name = register(Detached)
    with pytest.raises(Unfollowed, match="torch.func"):
        paths(name)
    _, rows = next(islice(table([tiny_run(name)], (8,)), 1, None))
    (row,) = rows["skipped"]
    assert row["method"] == name and "credit paths of phase train" in row["reason"] and rows["credit"] == []


@pytest.mark.parametrize(("words", "told"), [({}, ""), ({"train": "by a guess"}, ": by a guess")])
def test_of_an_online_method_it_is_told_that_credit_is_carried_forward(register, words, told):
    name = register(type("Online", (RTRL,), {"outside_autograd": words}))
    _, rows = next(islice(table([tiny_run(name)], (8,)), 1, None))
    assert {row["outside"] for row in rows["credit"]} == {f"carried forward, column by column{told}"}
    assert {(row["shortest"], row["longest"]) for row in rows["credit"]} == {(None, None)}


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
    class Asked(LastOnly):
        """Once for the last three inputs, once for all."""

        def gradients(self, batch, phase):
            for start in (9, 0):
                loss = self.loss(self.run(batch.x[:, start:]), batch.y[:, -1])
                self.weight.grad, self.table.grad = torch.autograd.grad(loss, [self.weight, self.table])
                yield {"loss": loss.detach()}

    found = paths(register(Asked), distances=(0, 2, 5))
    assert found == {0: (4, 4), 2: (7, 8), 5: (14, 14)}  # at 2 the short run begins: there is no sum


@pytest.mark.parametrize("backbone", ["transformer", "mlp", "gru"])
def test_bptts_paths_grow_by_the_nodes_of_an_update(backbone):
    run = tiny_run("bptt")
    model = run.model.changes() | {"backbone": backbone}
    found = paths("bptt", length=20, distances=(1, 2, 3, 16), model=model)
    for kind in (0, 1):
        step = found[2][kind] - found[1][kind]
        assert step >= 3 and found[16][kind] - found[1][kind] == 15 * step


def test_the_transformers_and_smts_paths_do_not_grow():
    found = paths("transformer", length=24, distances=(0, 1, 2, 4, 8, 16))
    itself = found.pop(0)
    assert len(set(found.values())) == 1 and itself[0] < found[1][0]  # what is earlier comes in by attention alone
    far, near = (paths(DMT, "smt", length, distances=(4, length // 2)) for length in (16, 64))
    assert set(far.values()) == set(near.values()) and all(lengths[0] for lengths in far.values())


def test_which_positions_smt_draws_does_not_matter():
    run = tiny_run({"name": "smt", "future": 1}, {"name": "retrieval", "length": 16})  # a loss at j in one draw of 16
    found = [credit_paths(dataclasses.replace(run, seed=seed), "smt", distances=(1, 4)) for seed in range(3)]
    assert found[0] == found[1] == found[2] and all(path.shortest for path in found[0])


def test_dmts_credit_is_in_its_labels_and_not_in_the_graph():
    method = build_method(tiny_run(DMT), build_task(tiny_run(DMT)))
    assert set(paths(DMT, "dmt", task=STACK).values()) == {(None, None)}
    assert set(method.outside_autograd) == {"dmt"}
    through = DMT | {"dmt": DMT["dmt"] | {"detach_rollout": False, "detach_readout": False}}
    found = paths(through, "dmt", task=STACK, distances=(1, 2, 5))
    assert (
        found[5][0] - found[1][0] == 4 * (found[2][0] - found[1][0]) > 0
    )  # with gradients through the rollout it is BPTT


def test_it_starts_from_the_last_label_and_by_default_at_powers_of_two():
    assert [path.distance for path in credit_paths(tiny_run("transformer"), "train", 20)] == [0, 1, 2, 4, 8, 16]
    assert [path.distance for path in credit_paths(tiny_run("transformer"), "train", 20, [19, 20, 40])] == [19]


def test_nothing_is_left_behind():
    state, backward = torch.random.get_rng_state(), torch.autograd.backward
    first = credit_paths(tiny_run("bptt"), "train", 12)
    assert torch.equal(state, torch.random.get_rng_state()) and torch.autograd.backward is backward
    assert credit_paths(tiny_run("bptt"), "train", 12) == first


def test_it_is_undone_after_an_exception(register):
    class Raises(RecurrentMethod):
        def gradients(self, batch, phase):
            raise RuntimeError("no")
            yield

    backward = torch.autograd.backward
    with pytest.raises(RuntimeError, match="no"):
        credit_paths(tiny_run(register(Raises)), "train")
    assert torch.autograd.backward is backward
