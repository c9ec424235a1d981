"""Chains, parts and memory of traced computations, against graphs made by hand and a longest path by brute force."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.build import build_method, build_task
from bench.errors import BadInput
from bench.measure import trace as tracing
from bench.measure.trace import Chain, Cost, Trace, covers, overlap, region
from bench.methods.base import Method
from tests.helpers import tiny_run


def traced(computation: Callable[[], object]) -> Cost:
    with Trace() as trace:
        computation()
    return trace.cost()


def depth(computation: Callable[[], object]) -> int:
    return traced(computation).whole.sequential_operations


# Graphs made by hand.


def test_a_chain_is_as_long_as_its_operators() -> None:
    def chain() -> None:
        x = torch.ones(3)  # the first
        for _ in range(10):
            x = x + 1

    assert traced(chain).whole == Chain(0, 30, 11, 11, 30)


def test_a_tree_is_as_deep_as_its_levels() -> None:
    leaves = [torch.randn(2) for _ in range(8)]

    def tree() -> None:
        level = leaves
        while len(level) > 1:
            level = [a + b for a, b in zip(level[::2], level[1::2])]

    assert traced(tree).whole == Chain(0, 14, 7, 3, 6)


def test_a_diamond_is_as_long_and_as_heavy_as_its_worse_side() -> None:
    x, weight = torch.randn(2, 4), torch.randn(4, 4)

    def diamond() -> None:
        top = x + 1  # 8 elements
        light = top * 2 * 3 * 4  # 3 operators, 24 elements
        heavy = top @ weight  # 1 operator, 64 FLOPs
        light + heavy  # 8 elements

    assert traced(diamond).whole == Chain(64, 8 + 24 + 8, 6, 5, 8 + 64 + 8)


def test_independent_operators_make_no_chain() -> None:
    x = torch.randn(3)
    assert depth(lambda: [x + 1 for _ in range(10)]) == 1


def test_lists_of_tensors_join_their_chains() -> None:
    x = torch.randn(3)
    assert depth(lambda: torch.stack([x, x + 1 + 1, x + 1])) == 3
    assert depth(lambda: torch.cat([x + 1, x]).unbind()[0] + 1) == 3
    assert depth(lambda: torch._foreach_add(torch._foreach_mul([x, x], 2), 1)) == 2


def test_keyword_and_scalar_arguments_are_followed() -> None:
    x, out = torch.randn(3), torch.empty(3)
    assert depth(lambda: torch.clamp(x, min=(x + 1).min())) == 3
    assert depth(lambda: torch.add(x, 1, out=out) * out) == 2
    assert depth(lambda: x * (x.sum() * 2)) == 3


def test_fetching_a_value_is_an_operator_that_nothing_depends_on() -> None:
    x = torch.ones(1)
    cost = traced(lambda: torch.ones(3) * (x + 1).item())
    assert (cost.whole.operations, cost.whole.sequential_operations) == (4, 2)


# In-place writes and views.


def test_writes_in_place_make_a_chain() -> None:
    x = torch.zeros(3)

    def updates() -> None:
        for _ in range(5):
            x.add_(1)
        x * 2

    assert depth(updates) == 6


def test_a_write_through_a_view_is_seen_by_the_whole_and_by_other_views() -> None:
    x = torch.zeros(4, 4)

    def through_views() -> None:
        x[1:3].add_(1)
        x.t()[:, 2].mul_(2)
        x.view(16)[8:10] + 1

    assert depth(through_views) == 3


def test_a_write_to_one_part_is_not_seen_by_another() -> None:
    indices: tuple[Callable[[int], object], ...] = (
        lambda i: i,
        lambda i: (slice(None), i),
        lambda i: (slice(None), slice(None), i),
        lambda i: (slice(None), slice(i, None, 4)),
    )
    for index in indices:
        x = torch.zeros(4, 4, 4)
        with Trace() as trace:
            for i in range(4):
                x[index(i)].add_(1)  # type: ignore[index]
            assert trace.cost().whole.sequential_operations == 1
            x.sum()
        assert trace.cost().whole.sequential_operations == 2


def test_the_gates_of_a_row_are_apart() -> None:
    """As GRU and LSTM cells do: one product, cut into gates that are changed in place."""
    x = torch.randn(2, 12)

    def gates() -> None:
        r, z, n = (x * 1).chunk(3, 1)
        for _ in range(5):
            r.sigmoid_()
        z.sigmoid_()
        z + n

    assert traced(gates).whole.sequential_operations == 6  # through r
    assert depth(lambda: (x * 1).chunk(3, 1)[1].sigmoid_() + 1) == 3


def test_a_full_overwrite_depends_on_nothing_before() -> None:
    x, y = torch.zeros(3), torch.ones(3)
    overwrites: tuple[Callable[[], Tensor], ...] = (x.zero_, lambda: x.copy_(y), lambda: x.fill_(1.0), x.normal_)
    for overwrite in overwrites:
        with Trace() as trace:
            for _ in range(5):
                x.add_(1)
            overwrite()
            for _ in range(4):
                x.add_(1)
            assert trace.cost().whole.sequential_operations == 5
            x.add_(1)
        assert trace.cost().whole.sequential_operations == 6


def test_a_part_that_is_overwritten_depends_on_nothing_before() -> None:
    x = torch.zeros(4, 3)

    with Trace() as trace:
        for _ in range(5):
            x.add_(1)
        x[2].zero_()
        x[2] + 1
        assert trace.cost().whole.sequential_operations == 5
        x[1] + 1
    assert trace.cost().whole.sequential_operations == 6


def test_several_writes_that_overwrite_a_part_together_are_not_known_to() -> None:
    """The direction in which the tracer errs: too long a chain, never too short a one."""
    x = torch.zeros(4)

    def halves() -> None:
        for _ in range(5):
            x.add_(1)
        x[:2].zero_()
        x[2:].zero_()
        x[1:3] + 1

    assert depth(halves) == 6  # in truth 5


def test_only_the_shape_of_a_like_is_read() -> None:
    x = torch.zeros(3)
    assert depth(lambda: torch.zeros_like(x + 1 + 1) + 1) == 2
    assert depth(lambda: (x + 1 + 1).new_zeros(2) + 1) == 2


def test_memory_that_is_used_again_makes_no_chain() -> None:
    x = torch.randn(1000)

    def freed() -> None:
        for _ in range(200):
            y = x + 1
            del y

    assert traced(freed).whole == Chain(0, 200_000, 200, 1, 1000)


def test_a_chain_goes_through_what_only_the_autograd_graph_still_holds() -> None:
    x = torch.randn(3, requires_grad=True)

    def saved() -> None:
        loss = x.exp().exp().exp().sum()
        gc.collect()
        loss.backward()  # times the third result, the second, the first

    assert depth(saved) == 6


def test_sparse_gradients_are_followed() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    cost = traced(lambda: table(torch.tensor([0, 2])).exp().sum().backward())
    assert cost.uncounted == {}
    assert cost.backward.sequential_operations >= 1


# Regions.


def test_regions_are_told_apart_exactly() -> None:
    """All views of a buffer that random slicing makes, against the sets of their elements."""
    chance = random.Random(0)
    buffer = torch.arange(5 * 6 * 4)

    def view() -> Tensor:
        x = buffer.view(5, 6, 4).permute(chance.sample(range(3), 3))
        for axis in range(3):
            start = chance.randrange(x.shape[axis])
            x = x.narrow(axis, start, chance.randint(1, x.shape[axis] - start))
            x = x[(slice(None),) * axis + (slice(None, None, chance.randint(1, 3)),)]
        return x

    met = 0
    for _ in range(3000):
        a, b = view(), view()
        elements = set(a.flatten().tolist()), set(b.flatten().tolist())
        assert overlap(region(a), region(b)) == bool(elements[0] & elements[1])
        assert not covers(region(a), region(b)) or elements[0] >= elements[1]
        met += bool(elements[0] & elements[1])
    assert met > 100


def test_views_of_the_same_elements_are_the_same_region() -> None:
    x = torch.zeros(3, 4)
    assert region(x) == region(x.view(12)) == region(x.t()) == region(x[None]) == region(x.expand(2, 3, 4))
    assert region(x[:, :2]) == region(x[:, :2].t()) != region(x[:, 2:])


def test_the_same_memory_as_another_dtype_is_followed() -> None:
    x = torch.zeros(4)
    assert depth(lambda: (x[:2].add_(1), x.view(torch.int64)[0] + 1)) == 2
    assert depth(lambda: (x[:2].add_(1), x.view(torch.int64)[1] + 1)) == 1


def test_regions_that_take_too_long_to_tell_apart_are_taken_to_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(4, 5)
    tracing._meet.cache_clear()
    assert not overlap(region(x[:, ::2]), region(x[:, 1::2]))
    tracing._meet.cache_clear()
    monkeypatch.setattr(tracing, "TRIES", 0)
    assert overlap(region(x[:, ::2]), region(x[:, 1::2]))
    tracing._meet.cache_clear()


# Forward and backward.


def test_a_matmul_only_model_costs_exactly_what_is_counted_by_hand() -> None:
    batch, sizes = 5, [3, 7, 6, 2]
    layers = [nn.Linear(i, o) for i, o in pairwise(sizes)]
    x = torch.randn(batch, sizes[0])
    cost = traced(lambda: nn.Sequential(*layers)(x).sum().backward())
    products = [2 * batch * i * o for i, o in pairwise(sizes)]
    assert cost.forward.flops == sum(products)
    assert cost.backward.flops == 2 * sum(products) - products[0]  # the input needs no gradient
    assert cost.whole.flops == 3 * sum(products) - products[0]
    assert cost.uncounted == {}


def test_the_sum_of_a_parameters_gradients_is_a_chain_of_the_backward_pass() -> None:
    weight = torch.randn(3, requires_grad=True)

    def uses(number: int) -> int:
        weight.grad = None
        return traced(lambda: torch.stack([weight * i for i in range(number)]).sum().backward()).backward.operations

    # For each use a product and a sum with the others.
    assert {uses(n + 1) - uses(n) for n in (2, 3, 4)} == {2}


def test_adding_to_a_gradient_that_is_there_counts() -> None:
    weight = torch.randn(3, requires_grad=True)
    first = traced(lambda: (weight * 2).sum().backward())
    second = traced(lambda: (weight * 2).sum().backward())
    assert second.backward.operations == first.backward.operations + 1


def test_each_part_counts_its_own_operators_only() -> None:
    x = torch.randn(4, requires_grad=True)
    cost = traced(lambda: x.exp().exp().sum().backward())
    assert cost.forward.operations == 4  # and the seed, a one
    assert cost.forward.sequential_operations == 3
    assert cost.backward.operations == cost.backward.sequential_operations == 2
    assert cost.whole.operations == 6
    assert cost.whole.sequential_operations == 4  # exp, exp, and back through both: the sum's value is not needed


def test_a_gradient_taken_midway_counts_as_backward_and_is_followed() -> None:
    x = torch.randn(4, requires_grad=True)

    def online() -> None:
        state = x
        for _ in range(3):
            (gradient,) = torch.autograd.grad(state.square().sum(), x)
            state = (x - gradient).detach().requires_grad_(False) + x

    cost = traced(online)
    assert cost.backward.sequential_operations >= 3
    assert cost.whole.sequential_operations > cost.forward.sequential_operations


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell])
def test_a_loop_of_cells_grows_by_the_same_chain_at_every_step(cell: Callable[[int, int], nn.Module]) -> None:
    rnn, x = cell(4, 6), torch.randn(12, 3, 4)

    def chain(steps: int) -> tuple[int, int]:
        def unrolled() -> None:
            state = rnn(x[0])
            for x_t in x[1:steps]:
                state = rnn(x_t, state)
            (state if isinstance(state, Tensor) else state[0]).sum().backward()

        rnn.zero_grad()
        cost = traced(unrolled)
        return cost.forward.sequential_operations, cost.backward.sequential_operations

    lengths = [chain(steps) for steps in range(2, 12)]
    forward = {b[0] - a[0] for a, b in pairwise(lengths)}
    backward = {b[1] - a[1] for a, b in pairwise(lengths)}
    # From state to state. GRU: product, sum, sigmoid, times, sum, tanh, minus, times, plus.
    # LSTM: product, sum, sigmoid, times, plus, tanh, times.
    assert forward == {9 if cell is nn.GRUCell else 7}
    assert len(backward) == 1 and backward.pop() > 5


def test_a_checkpointed_segment_is_computed_again_in_the_backward_pass() -> None:
    segment = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    x = torch.randn(8, 64, requires_grad=True)
    plain = traced(lambda: segment(x).sum().backward())
    again = traced(lambda: checkpoint(segment, x, use_reentrant=False).sum().backward())
    assert again.forward.flops == plain.forward.flops
    # All but its last product, whose result no gradient needs.
    assert again.backward.flops == plain.backward.flops + plain.forward.flops * 3 // 4
    assert again.whole.sequential_operations > plain.whole.sequential_operations


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: its backward pass runs in a thread of its own")
def test_a_backward_pass_on_a_gpu_is_seen() -> None:
    layer, x = nn.Linear(4, 5, bias=False).cuda(), torch.randn(3, 4, device="cuda", requires_grad=True)
    cost = traced(lambda: layer(x).sum().backward())
    assert cost.forward.flops == 2 * 3 * 4 * 5
    assert cost.backward.flops == 2 * cost.forward.flops


# Memory.


def test_the_peak_is_what_was_alive_at_one_time() -> None:
    x = torch.randn(1000)  # made before: not counted

    def sequence() -> None:
        y = x + 1  # 4000 bytes
        view = y.view(10, 100)[3]
        z = y * 2  # 8000
        del y
        w = z + 1  # 12,000: the view keeps y's memory
        del view, z
        w + 1  # 8000

    assert traced(sequence).peak_bytes == 12_000


def test_what_is_left_unfilled_and_what_python_gives_takes_memory() -> None:
    assert traced(lambda: torch.empty(100)).peak_bytes == 400
    assert traced(lambda: torch.tensor([1.0, 2.0])).peak_bytes == 8


def test_changing_in_place_takes_no_memory() -> None:
    x = torch.zeros(100)
    assert traced(lambda: x.add_(1).mul_(2)).peak_bytes == 0


def test_what_the_graph_saves_is_alive_until_the_backward_pass() -> None:
    x = torch.randn(1000, requires_grad=True)

    def steps() -> Tensor:
        y = x
        for _ in range(10):
            y = y.exp()
        return y

    with torch.no_grad():
        assert traced(steps).peak_bytes == 2 * 4000
    assert traced(steps).peak_bytes == 10 * 4000


def test_a_checkpointed_segment_takes_less_memory() -> None:
    segments = [nn.Sequential(*(nn.Tanh() for _ in range(8))) for _ in range(4)]
    x = torch.randn(1000, requires_grad=True)

    def run(through: Callable[[nn.Module, Tensor], Tensor]) -> int:
        def step() -> None:
            y = x
            for segment in segments:
                y = through(segment, y)
            y.sum().backward()

        x.grad = None
        return traced(step).peak_bytes

    plain = run(lambda segment, y: segment(y))
    less = run(lambda segment, y: checkpoint(segment, y, use_reentrant=False))
    assert 32 * 4000 <= plain <= 36 * 4000
    assert less <= 16 * 4000


# Use.


def test_nothing_is_traced_outside_with_and_each_with_starts_afresh() -> None:
    trace, x = Trace(), torch.randn(3)
    with trace:
        y = x + 1
    y + 1
    assert trace.cost().whole.operations == 1
    with trace:
        y + 1
        y + 1
    assert trace.cost().whole.operations == 2
    assert trace.cost().peak_bytes == 12


def test_a_trace_can_be_read_while_it_runs() -> None:
    x = torch.randn(3)
    with Trace() as trace:
        x + 1
        assert trace.cost().whole.operations == 1
        x + 1
    assert trace.cost().whole.operations == 2


def test_traces_can_be_nested() -> None:
    x = torch.randn(3)
    with Trace() as outer:
        y = x + 1
        with Trace() as inner:
            y = y + 1
        y + 1
    assert inner.cost().whole == Chain(0, 3, 1, 1, 3)
    assert outer.cost().whole == Chain(0, 9, 3, 3, 9)


def test_an_exception_leaves_nothing_behind() -> None:
    x = torch.randn(3)
    with Trace() as trace, pytest.raises(RuntimeError):
        (x + 1) @ torch.randn(4)
    before = trace.cost()
    with pytest.raises(BadInput), trace:
        raise BadInput("stop")
    x + 1
    assert before.whole.operations == 2
    assert trace.cost().whole.operations == 0


def test_tracing_changes_no_number() -> None:
    torch.manual_seed(0)
    model, x = nn.GRU(4, 6), torch.randn(5, 3, 4)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(x)[0].sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain = gradients()
    with Trace():
        seen = gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, seen))


# The built-in methods.


def step_of(method: Method, phase: str, length: int) -> Cost:
    batch = method.task.sample("train", 4, length, torch.Generator().manual_seed(0))

    def step() -> None:
        method.zero_grad()
        for _ in method.gradients(batch, phase):
            pass

    step()  # tables that are computed once are none of a step's cost
    return traced(step)


@pytest.mark.parametrize(
    ("name", "phase", "growth"),
    [("smt", "smt", 0), ("transformer", "train", 0), ("bptt", "train", 1), ("smt+dmt", "dmt", 1)],
)
def test_a_steps_sequential_operations_grow_as_its_method_promises(name: str, phase: str, growth: int) -> None:
    chains = []
    for length in (8, 16, 32):
        run = tiny_run(name, {"name": "retrieval", "length": length})
        method = build_method(run, build_task(run))
        for part in method.phases(run.training):
            if part.name == phase:
                method.train_only(part)
        cost = step_of(method, phase, length)
        assert cost.uncounted == {}
        chains.append(cost.whole.sequential_operations)
    if growth:
        # (A gain is multiplied into the weights or the rows, whichever are fewer: an operator more or less.)
        assert chains[2] - chains[1] == pytest.approx(2 * (chains[1] - chains[0]), abs=2) and chains[1] > chains[0]
    else:
        assert chains[0] == chains[1] == chains[2]


# Any graph: the longest path by brute force, over dependencies kept for each element apart.


@dataclass
class Reference:
    """An explicit graph: each operator's parents are the last writers of the elements it reads."""

    parents: list[set[int]] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    writers: list[np.ndarray] = field(
        default_factory=list
    )  # of each buffer: the operator that wrote each element, or -1

    def operator(self, weight: int, reads: list[View]) -> int:
        writers = {int(writer) for view in reads for writer in self.writers[view.buffer][view.elements].flatten()}
        self.parents.append(writers - {-1})
        self.weights.append(weight)
        return len(self.weights) - 1

    def longest(self, weights: list[int]) -> int:
        lengths: list[int] = []
        for weight, parents in zip(weights, self.parents):
            lengths.append(weight + max((lengths[parent] for parent in parents), default=0))
        return max(lengths, default=0)


@dataclass
class View:
    """A tensor, and which elements of which buffer it shows."""

    tensor: Tensor
    buffer: int
    elements: np.ndarray


class RandomGraph:
    """Operators drawn at random, run on tensors and noted in the reference at once."""

    def __init__(self, seed: int, partial_overwrites: bool) -> None:
        self.chance = random.Random(seed)
        self.partial_overwrites = partial_overwrites
        self.reference = Reference()
        self.bases = [self.buffer(torch.rand(4, 4), -1) for _ in range(3)]
        self.pool = list(self.bases)

    def buffer(self, tensor: Tensor, writer: int) -> View:
        self.reference.writers.append(np.full(tensor.shape, writer).flatten())
        elements = np.arange(tensor.numel()).reshape(tensor.shape)
        return View(tensor, len(self.reference.writers) - 1, elements)

    def result(self, tensor: Tensor, weight: int, reads: list[View]) -> None:
        view = self.buffer(tensor, self.reference.operator(weight, reads))
        if view.tensor.dim() == 2:
            self.bases.append(view)
            self.pool.append(view)

    def write(self, view: View, weight: int, reads: list[View]) -> None:
        self.reference.writers[view.buffer][view.elements.flatten()] = self.reference.operator(weight, reads)

    def step(self) -> None:
        moves = [self.unary, self.reduced, self.product, self.joined, self.sliced, self.transposed, self.updated]
        self.chance.choice([*moves, self.updated, self.added, self.overwritten])()

    def unary(self) -> None:
        x = self.chance.choice(self.pool)
        self.result(x.tensor + 1, x.tensor.numel(), [x])

    def reduced(self) -> None:
        x = self.chance.choice(self.pool)
        self.result(x.tensor.sum(1, keepdim=True), x.tensor.numel(), [x])

    def product(self) -> None:
        x = self.chance.choice(self.pool)
        rows, columns = x.tensor.shape
        self.result(x.tensor @ x.tensor.t(), 2 * rows * rows * columns, [x])

    def joined(self) -> None:
        x = self.chance.choice(self.pool)
        y = self.chance.choice([value for value in self.pool if value.tensor.shape[1] == x.tensor.shape[1]])
        self.result(torch.cat([x.tensor, y.tensor])[:8].clone(), 0, [x, y])
        # Two operators: cat, then clone of its first rows (slicing costs nothing).
        self.reference.parents[-1:] = [self.reference.parents[-1], {len(self.reference.weights) - 1}]
        self.reference.weights.append(0)
        self.reference.writers[-1][:] = len(self.reference.weights) - 1

    def sliced(self) -> None:
        x = self.chance.choice(self.pool)
        axis = self.chance.randrange(2)
        size = x.tensor.shape[axis]
        start = self.chance.randrange(size)
        cut = slice(start, self.chance.randint(start + 1, size), self.chance.randint(1, 2))
        index = (cut, slice(None)) if axis == 0 else (slice(None), cut)
        self.pool.append(View(x.tensor[index], x.buffer, x.elements[index]))

    def transposed(self) -> None:
        x = self.chance.choice(self.pool)
        self.pool.append(View(x.tensor.t(), x.buffer, x.elements.T))

    def updated(self) -> None:
        x = self.chance.choice(self.pool)
        x.tensor.mul_(0.5)
        self.write(x, x.tensor.numel(), [x])

    def added(self) -> None:
        x = self.chance.choice(self.pool)
        others = [y for y in self.pool if y.tensor.shape == x.tensor.shape and y.buffer != x.buffer]
        if others:
            y = self.chance.choice(others)
            x.tensor.add_(y.tensor)
            self.write(x, x.tensor.numel(), [x, y])

    def overwritten(self) -> None:
        x = self.chance.choice(self.pool if self.partial_overwrites else self.bases)
        others = [y for y in self.pool if y.tensor.shape == x.tensor.shape and y.buffer != x.buffer]
        if others:
            y = self.chance.choice(others)
            x.tensor.copy_(y.tensor)
            self.write(x, 0, [y])
        else:
            x.tensor.zero_()
            self.write(x, 0, [])


def against_brute_force(seed: int, partial_overwrites: bool) -> tuple[Chain, Reference]:
    graph = RandomGraph(seed, partial_overwrites)
    with Trace() as trace:
        for _ in range(80):
            graph.step()
    chain = trace.cost().whole
    assert chain.operations == len(graph.reference.weights)
    assert chain.flops + chain.elementwise == sum(graph.reference.weights)
    return chain, graph.reference


@pytest.mark.parametrize("seed", range(60))
def test_chains_equal_the_longest_paths_of_a_random_graph(seed: int) -> None:
    chain, reference = against_brute_force(seed, partial_overwrites=False)
    assert chain.sequential_operations == reference.longest([1] * len(reference.weights))
    assert chain.sequential_flops == reference.longest(reference.weights)


@pytest.mark.parametrize("seed", range(60))
def test_chains_are_never_too_short_where_parts_are_overwritten(seed: int) -> None:
    chain, reference = against_brute_force(seed, partial_overwrites=True)
    assert chain.sequential_operations >= reference.longest([1] * len(reference.weights))
    assert chain.sequential_flops >= reference.longest(reference.weights)
