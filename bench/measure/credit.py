"""How far credit has to travel: paths through the backward graph from a loss at position j to the embedding of x_i.

    credit_paths(run, "train")  ->  [CreditPath(distance=1, shortest=31, longest=52), ...]

Nothing is known of the method but its `gradients`. One batch is run with all labels but those at j masked, and the
backward graph is walked from where these labels come in: other losses, such as SMT's on its dynamics, are not at j. Its
nodes often treat all positions at once (a stack of all memories, an `unbind` of all embeddings), so that the bare graph
has paths which no gradient takes. An edge therefore counts only where, on some element, both ends meet: the gradient
that flows along it from the loss at j is not zero, and the value there depends on x_i. Gradients are seen by hooks;
dependence, by running the forward pass again with another symbol at i and comparing what every call of torch returned.
Inside a call that is made of several nodes the gradient alone decides.

The lookup of x_i is where dependence begins: a call whose result differs though nothing that went into it does, symbols
and one-hot codes of them apart. In the same way the loss at j is where dependence on its labels begins. Memory that is
carried without gradients ends a path.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench import streams
from bench.build import build_method, build_task
from bench.config import Run
from bench.methods.base import Method
from bench.tasks.base import IGNORED, Batch, Task

ROWS = 8
"""Sequences in the batch. A method that draws positions at random has paths if one of its draws has."""

Node = Any  # torch.autograd.graph.Node, whose stubs lack half of what it has
Place = tuple[Node, int]
"""An output of a node's forward operation: a value in the graph."""


class CreditPath(NamedTuple):
    """Nodes of the backward graph from the loss at j to the lookup of x_i, both counted; None: there is no path."""

    distance: int
    """j - i"""
    shortest: int | None
    longest: int | None


def credit_paths(
    run: Run, phase: str, length: int | None = None, distances: Sequence[int] | None = None
) -> list[CreditPath]:
    """Credit paths of a phase's training step, from the last scored position j, at each distance j - i.

    `length` replaces the task's; `distances` are 0 and the powers of two that fit where not given. Runs on the CPU in
    float64 with initial weights; global random state is left alone.
    """
    run = dataclasses.replace(run, device="cpu", precision="float64")
    task = build_task(run)
    length = length or run.task_config.length  # type: ignore[attr-defined]
    method = build_method(run, task)
    method.train_only(next(one for one in method.phases(run.training) if one.name == phase))
    batch, last = _batch(run, task, method, length)
    wanted = [0, *(2**k for k in range(last.bit_length()))] if distances is None else distances
    noise, carry = method.noise.get_state(), deepcopy(method.carry)

    def record(x: Tensor, y: Tensor, losses: frozenset[tuple[int, int]] = frozenset()) -> _Recorder:
        method.noise.set_state(noise.clone())
        method.carry = deepcopy(carry)
        with _Recorder(losses, tuple(one for one in method.parameters() if one.requires_grad)) as recorder:
            for _ in method.gradients(batch._replace(x=x, y=y), phase):
                method.zero_grad()
        method.zero_grad()
        return recorder

    relabelled = torch.where(batch.y == IGNORED, batch.y, (batch.y + 1) % task.output_size)
    losses = _dependent(record(batch.x, batch.y), record(batch.x, relabelled))[1]
    first = record(batch.x, batch.y, losses)
    roots = {first.calls[call].outputs[number][0][0] for call, number in losses}
    paths = []
    for distance in sorted(set(wanted)):
        if 0 <= distance <= last:
            other = batch.x.clone()
            other[:, last - distance] = (other[:, last - distance] + 1) % task.vocab_size
            differs, begins = _dependent(first, record(other, batch.y))
            lookups = {first.calls[call].outputs[number][0] for call, number in begins}
            paths.append(CreditPath(distance, *_extent(first.flows, roots, differs, lookups)))
    return paths


def _batch(run: Run, task: Task, method: Method, length: int) -> tuple[Batch, int]:
    """A batch with no labels but those at the last scored column, and that column."""
    generator = streams.generator(0, "credit")
    if method.data == "streams":
        batch, _ = task.stream("train", ROWS, length, generator, None)
    else:
        batch = task.sample("train", ROWS, length, generator)
    y = batch.y.clone()
    y[:, : run.evaluation.score_from] = IGNORED
    last = int((y != IGNORED).any(0).nonzero().max())
    y[:, :last] = IGNORED
    y[:, last + 1 :] = IGNORED
    return batch._replace(y=y), last


class Call(NamedTuple):
    """One call of torch: the function, and what of it took part in the graph."""

    function: Any
    inputs: list[Tensor]  # values that went in, but for symbols and codes of them
    outputs: list[tuple[Place, Tensor]]


class _Recorder(TorchFunctionMode):
    """Notes every call of torch in a forward pass, and the gradients that flow from `losses` along every edge.

    `losses` are outputs of calls: (call, output). Their gradients towards `parameters` are taken when the method itself
    goes backward, whose own gradients are not looked at.
    """

    def __init__(self, losses: frozenset[tuple[int, int]], parameters: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.losses = losses
        self.parameters = parameters
        self.due: list[Tensor] = []
        self.listening = False
        self.calls: list[Call] = []
        self.flows: dict[Node, list[tuple[Place, Tensor]]] = defaultdict(list)

    def __enter__(self) -> _Recorder:
        self._patched = _intercepted(self._before_backward)
        self._patched.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patched.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [one.detach().clone() for one in _tensors((args, list(kwargs.values()))) if not _encodes(one)]
        result = func(*args, **kwargs)
        made = [one for one in _tensors(result) if one.grad_fn is not None]
        if made:
            self.due += [one for number, one in enumerate(made) if (len(self.calls), number) in self.losses]
            outputs = [((one.grad_fn, one.output_nr), one.detach().clone()) for one in made]
            self.calls.append(Call(func, inputs, outputs))
        return result

    def _before_backward(self) -> None:
        """Follow the gradients of the losses met since the last time."""
        waiting: list[Node] = [loss.grad_fn for loss in self.due]
        while waiting:
            node = waiting.pop()
            if node not in self.flows:
                self.flows[node] = []
                node.register_hook(self._flow_of(node))
                waiting += [child for child, _ in node.next_functions if child is not None and child.next_functions]
        if self.due:
            total = torch.stack([loss.sum() for loss in self.due]).sum()
            self.listening = True
            _GRAD(total, self.parameters, retain_graph=True, allow_unused=True)
            self.listening = False
            self.due = []

    def _flow_of(self, node: Node) -> Callable[..., None]:
        def note(inputs: tuple[Tensor | None, ...], outputs: Any) -> None:
            for place, gradient in zip(node.next_functions, inputs) if self.listening else ():
                if place[0] is not None and gradient is not None:
                    self.flows[node].append((place, gradient.detach() != 0))

        return note


def _encodes(value: Tensor) -> bool:
    """Whether these are symbols: whole numbers, or rows of zeros with a single one."""
    if not value.is_floating_point():
        return True
    plain = value.detach()
    return plain.dim() > 1 and bool(((plain == 0) | (plain == 1)).all() and (plain.sum(-1) == 1).all())


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for one in tree:
            yield from _tensors(one)


_GRAD = torch.autograd.grad


@contextmanager
def _intercepted(before: Callable[[], None]) -> Iterator[None]:
    """Call `before` whenever a backward pass is about to begin here."""
    kept = torch.autograd.backward, torch.autograd.grad

    def heard(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            before()
            return function(*args, **kwargs)

        return call

    torch.autograd.backward, torch.autograd.grad = map(heard, kept)
    try:
        yield
    finally:
        torch.autograd.backward, torch.autograd.grad = kept


def _dependent(first: _Recorder, other: _Recorder) -> tuple[dict[Place, Tensor], frozenset[tuple[int, int]]]:
    """Where each value differs between two runs, and the outputs (call, output) at which the difference begins.

    A call that the other run did not make, or with another shape, counts as different everywhere.
    """
    differs: dict[Place, Tensor] = {}
    begins: set[tuple[int, int]] = set()
    for index, call in enumerate(first.calls):
        twin = other.calls[index] if index < len(other.calls) else None
        same_call = twin is not None and twin.function is call.function and len(twin.outputs) == len(call.outputs)
        fresh = same_call and not any(_different(a, b).any() for a, b in zip(call.inputs, twin.inputs))  # type: ignore[union-attr]
        for number, (place, value) in enumerate(call.outputs):
            found = _different(value, twin.outputs[number][1]) if same_call else torch.ones_like(value) != 0  # type: ignore[union-attr]
            differs[place] = found
            if fresh and found.any():
                begins.add((index, number))
    return differs, frozenset(begins)


def _different(a: Tensor, b: Tensor) -> Tensor:
    return a != b if a.shape == b.shape else torch.ones_like(a, dtype=torch.bool)


def _extent(
    flows: dict[Node, list[tuple[Place, Tensor]]],
    roots: set[Node],
    differs: dict[Place, Tensor],
    lookups: set[Place],
) -> tuple[int, int] | tuple[None, None]:
    """The nodes on the shortest and on the longest path along which credit for x_i really flows."""
    children: dict[Node, list[Node]] = defaultdict(list)
    ends: set[Node] = set()
    for node, edges in flows.items():
        for place, flow in edges:
            where = differs.get(place)
            if (flow if where is None else flow & where).any():
                children[node].append(place[0])
                if place in lookups:
                    ends.add(place[0])
    nearest: dict[Node, int] = {}
    farthest: dict[Node, int] = {}
    for node in _from_the_ends(roots, children):
        below = [child for child in children[node] if child in nearest]
        if node in ends:
            nearest[node] = farthest[node] = 1
        elif below:
            nearest[node] = 1 + min(nearest[child] for child in below)
            farthest[node] = 1 + max(farthest[child] for child in below)
    found = roots & nearest.keys()
    if not found:
        return None, None
    return min(nearest[root] for root in found), max(farthest[root] for root in found)


def _from_the_ends(roots: Iterable[Node], children: dict[Node, list[Node]]) -> list[Node]:
    """Every node that can be reached from the roots, after all of its children."""
    ordered: list[Node] = []
    entered: set[Node] = set()
    waiting = [(root, False) for root in roots]
    while waiting:
        node, finished = waiting.pop()
        if finished:
            ordered.append(node)
        elif node not in entered:
            entered.add(node)
            waiting.append((node, True))
            waiting += [(child, False) for child in children[node]]
    return ordered
