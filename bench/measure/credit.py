"""How far credit has to travel: paths through the backward graph from a loss at position j to the embedding of x_i.

    credit_paths(run, "train")  ->  [CreditPath(distance=1, shortest=32, longest=136), ...]

The only thing used of a method is its gradients. One batch is run with all labels but those at j masked, and the
backward graph is walked from where these labels come in: other losses, such as SMT's on its dynamics, are not at j. The
nodes of the graph often treat all positions at once (a stack of all memories, a layer of a Transformer), so that the
bare graph has paths which no gradient takes. Paths are therefore followed element by element: every element of every
value has the number of nodes on the shortest and on the longest path that reach it. A node passes these on through its
own backward function, called with a gradient on only those elements that have the same numbers: the elements that come
out nonzero are reached. The two parts of a complex number are two elements.

The lookup of x_i, where paths end, is found by running the forward pass again with another symbol at i: it is the call
of torch whose result differs although its inputs do not, apart from symbols and what is made of symbols alone. In the
same way the loss at j is the call at which other labels first make a difference. Memory that is carried without
gradients ends a path.

Inside a transform of torch.func, the values are those that it wraps: all lanes of a vmap, the primal and the tangent of
a jvp. So paths go through it, as far as autograd outside sees it; a graph that exists only inside cannot be walked.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from bench import streams
from bench.build import build_method, build_task
from bench.config import Run
from bench.engine import Engine, form_of
from bench.methods.base import Method, Phase
from bench.phases import draw
from bench.tasks.base import IGNORED, Batch, Task

ROWS = 16
"""The number of sequences in the batch, which is the number of positions where a method draws one per sequence."""
DRAWS = 64
"""The largest number of draws of a method's noise: SMT's random positions have a loss at j only now and then."""
UNCHANGED = 5
"""Drawing ends once this many draws with a loss at j in a row have brought no new path."""
NEVER = 2**31
"""The length of the shortest path to an element that none has reached; larger than any path."""

Recorder = TypeVar("Recorder", bound="_Recorder")
Node = Any  # torch.autograd.graph.Node, whose stubs lack half of what it has
GraphValue = tuple[Node, int]
"""A value in the graph: a node, and the number of an output of its forward operation."""
Output = tuple[int, int]
"""The same value by order of computation: the number of a call of torch, and of its output."""
Arrivals = tuple[Tensor, Tensor]
"""For each element of a value, the nodes from the loss to it on the shortest path (or NEVER) and the longest (or 0)."""


class Unfollowed(Exception):
    """The credit paths cannot be followed, for the reason given."""


class CreditPath(NamedTuple):
    """Nodes of the backward graph from the loss at j to the lookup of x_i, both included; None: there is no path."""

    distance: int
    """j - i"""
    shortest: int | None
    longest: int | None


def credit_paths(
    run: Run, phase: str, length: int | None = None, distances: Sequence[int] | None = None
) -> list[CreditPath]:
    """Credit paths of a phase's training step, from the last scored position j, at each distance j - i.

    `length` replaces the task's; `distances` are by default 0 and the powers of two that fit. Where a method draws
    noise, the paths are the extremes over many draws. This runs on the CPU in float64 with initial weights, and leaves
    the global random state alone. Raises `Unfollowed` where no path was found and gradients were taken out of sight.
    """
    run = dataclasses.replace(run, device="cpu", precision="float64")
    task = build_task(run)
    length = length or run.task_config.length
    method = build_method(run, task)
    part = next(part for part in method.phases(run.training) if part.name == phase)
    method.train_only(part)
    batch, last = _batch(run, task, method, dataclasses.replace(part, batch_size=ROWS, length=length))
    asked = [0, *(2**k for k in range(last.bit_length()))] if distances is None else distances
    wanted = sorted({distance for distance in asked if 0 <= distance <= last})
    if form_of(type(method)) == "step":  # its credit is carried forward: autograd sees single columns only
        return [CreditPath(distance, None, None) for distance in wanted]
    relabelled = batch._replace(y=torch.where(batch.y == IGNORED, batch.y, (batch.y + 1) % task.output_size))
    changed = {distance: _with_another_symbol(batch, last - distance, task.vocab_size) for distance in wanted}
    carry = deepcopy(method.carry)

    def record(noise: Tensor, given: Batch, recorder: Recorder) -> Recorder:
        method.noise.set_state(noise)
        method.carry = deepcopy(carry)
        engine = Engine(method, part)
        with recorder:
            for _ in engine.stretches(given):
                method.zero_grad()
        method.zero_grad()
        return recorder

    paths = {distance: CreditPath(distance, None, None) for distance in wanted}
    unchanged = 0
    for noise in _draws(method):
        first = record(noise, batch, _Recorder())
        losses = _beginnings(first, record(noise, relabelled, _Recorder()))
        if not losses:
            continue
        lookups = {
            distance: _beginnings(first, record(noise, other, _Recorder())) for distance, other in changed.items()
        }
        followed = record(noise, batch, _Follower(losses, {output for found in lookups.values() for output in found}))
        before = dict(paths)
        for distance, outputs in lookups.items():
            paths[distance] = _extremes(paths[distance], followed.found, outputs)
        unchanged = unchanged + 1 if paths == before else 0
        if unchanged == UNCHANGED:
            break
    if first.within and not any(path.shortest for path in paths.values()):
        raise Unfollowed(
            "its gradients are taken within torch.func, of values that autograd outside does not see, and a graph that "
            "exists only there cannot be walked"
        )
    return list(paths.values())


def _batch(run: Run, task: Task, method: Method, phase: Phase) -> tuple[Batch, int]:
    """A batch with labels at the last scored column only, and that column."""
    batch, _ = draw(run, task, method, phase, streams.generator(0, "credit"))
    last = int((batch.y != IGNORED).any(0).nonzero().max())
    y = batch.y.clone()
    y[:, :last] = IGNORED
    y[:, last + 1 :] = IGNORED
    return batch._replace(y=y), last


def _with_another_symbol(batch: Batch, position: int, symbols: int) -> Batch:
    x = batch.x.clone()
    x[:, position] = (x[:, position] + 1) % symbols
    return batch._replace(x=x)


def _draws(method: Method) -> Iterator[Tensor]:
    """Successive states of the method's noise generator; a single one where the method draws nothing."""
    for _ in range(DRAWS):
        state = method.noise.get_state()
        yield state
        if torch.equal(method.noise.get_state(), state):
            return


def _extremes(path: CreditPath, found: Mapping[Output, Arrivals], ends: Mapping[Output, Tensor]) -> CreditPath:
    """The path, extended by shorter and longer ones that arrive at these elements of these outputs."""
    shortest = [path.shortest] if path.shortest else []
    longest = [path.longest] if path.longest else []
    for output, elements in ends.items():
        if output in found:
            earliest, latest = found[output]
            reached = elements & (latest > 0)
            if reached.any():
                shortest.append(int(earliest[reached].min()))
                longest.append(int(latest[reached].max()))
    return CreditPath(path.distance, min(shortest, default=None), max(longest, default=None))


# Where symbols come in.


class Call(NamedTuple):
    """One call of torch: the function, and those of its inputs and outputs that are in the graph."""

    function: Any
    inputs: list[int]  # hashes of the input values that are not made of symbols alone
    outputs: list[Tensor]


_BACKWARD = (torch.autograd.backward, torch.autograd.grad)
_CASTS = (Tensor.to, Tensor.type_as)
"""Functions whose other arguments give a type, and do not enter the result."""


class _Recorder(TorchFunctionMode):
    """Records every call of torch whose result is in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.within = False  # whether gradients were taken that autograd outside of torch.func does not see
        self.symbolic = WeakTensorKeyDictionary()  # real numbers that are made of symbols alone

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(_plain(args[:1] if func in _CASTS else (args, kwargs)))
        with temporarily_clear_interpreter_stack():
            values = [_hash(value) for value in given if not (value in self.symbolic or _encodes(value))]
        result = func(*args, **kwargs)
        results = list(_plain(result))
        made = [value for value in results if value.grad_fn is not None]
        if made:
            with temporarily_clear_interpreter_stack():
                self.calls.append(Call(func, values, [_parts(value.detach()).clone() for value in made]))
            self.record(made)
        elif func in _BACKWARD and functorch.maybe_current_level() is not None:
            self.within = True
        elif given and not values:
            self.symbolic.update((value, True) for value in results)
        return result

    def record(self, made: list[Tensor]) -> None:
        """Called with the outputs of each call that is recorded."""


def _plain(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree; in place of those of torch.func, what they wrap, with the tangents of dual ones."""
    for tensor in tensors(tree):
        if not functorch.is_functorch_wrapped_tensor(tensor):
            yield tensor
            continue
        dual = functorch.is_gradtrackingtensor(tensor) and forward_ad._current_level >= 0
        tangent = forward_ad.unpack_dual(tensor).tangent if dual else None
        yield from _plain([functorch.get_unwrapped(tensor), *([] if tangent is None else [tangent])])


def _encodes(value: Tensor) -> bool:
    """Whether a value holds symbols: integers, or rows of zeros with a single one."""
    if value.is_complex():
        return False
    if not value.is_floating_point():
        return True
    plain = value.detach()
    return plain.dim() > 1 and bool(((plain == 0) | (plain == 1)).all() and (plain.sum(-1) == 1).all())


def _hash(value: Tensor) -> int:
    """A hash of the bytes: inputs need only be told apart, and copies of all of them would fill the memory."""
    return hash(_parts(value.detach()).contiguous().numpy().tobytes())


def _parts(value: Tensor) -> Tensor:
    """Complex numbers (..) as real ones (.., 2); real numbers are returned unchanged."""
    value = value.resolve_conj().resolve_neg()
    return torch.view_as_real(value) if value.is_complex() else value


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree of lists, tuples and mappings; anything else in it is left out."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from tensors(part)
    elif isinstance(tree, Mapping):
        yield from tensors(list(tree.values()))


def _beginnings(first: _Recorder, other: _Recorder) -> dict[Output, Tensor]:
    """The outputs at which two runs begin to differ, and the elements that differ."""
    begins: dict[Output, Tensor] = {}
    for index, (call, twin) in enumerate(zip(first.calls, other.calls, strict=False)):
        if call.function != twin.function or len(call.outputs) != len(twin.outputs):  # (== of properties: see `.T`)
            break  # from here on the two did different things
        if call.inputs == twin.inputs:
            for number, (a, b) in enumerate(zip(call.outputs, twin.outputs, strict=True)):
                if _different(a, b).any():
                    begins[index, number] = _different(a, b)
    return begins


def _different(a: Tensor, b: Tensor) -> Tensor:
    return a != b if a.shape == b.shape else torch.ones_like(a, dtype=torch.bool)


# Paths.


class _Follower(_Recorder):
    """Follows the paths from `losses` (elements of outputs) to `lookups` before each backward pass of a method."""

    def __init__(self, losses: Mapping[Output, Tensor], lookups: Iterable[Output]) -> None:
        super().__init__()
        self.losses = losses
        self.lookups = frozenset(lookups)
        self.due: list[tuple[GraphValue, Tensor]] = []
        self.ends: dict[GraphValue, Output] = {}
        self.found: dict[Output, Arrivals] = {}

    def __enter__(self) -> _Follower:
        self._patched = _intercepted(self._before_backward)
        self._patched.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patched.__exit__(*error)

    def record(self, made: list[Tensor]) -> None:
        for number, tensor in enumerate(made):
            output = len(self.calls) - 1, number
            value = tensor.grad_fn, tensor.output_nr
            if output in self.losses:
                self.due.append((value, self.losses[output]))
            if output in self.lookups:
                self.ends[value] = output

    def _before_backward(self) -> None:
        """Follow the paths from the losses recorded since the last time."""
        due, self.due = self.due, []
        with torch._C.DisableTorchFunction(), torch.no_grad(), temporarily_clear_interpreter_stack():
            for value, arrivals in _follow(due, self.ends).items():
                _merge(self.found, self.ends[value], *arrivals)


@contextmanager
def _intercepted(before: Callable[[], None]) -> Iterator[None]:
    """Within this context, call `before` ahead of every backward pass."""
    kept = torch.autograd.backward, torch.autograd.grad

    def preceded(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            before()
            return function(*args, **kwargs)

        return call

    torch.autograd.backward, torch.autograd.grad = map(preceded, kept)
    try:
        yield
    finally:
        torch.autograd.backward, torch.autograd.grad = kept


def _follow(starts: Iterable[tuple[GraphValue, Tensor]], ends: Iterable[GraphValue]) -> dict[GraphValue, Arrivals]:
    """The lengths of paths from elements of `starts` to those values of `ends` that any path reaches."""
    starts, ends = list(starts), frozenset(ends)
    noise = torch.Generator().manual_seed(0)
    waiting: dict[Node, dict[int, Arrivals]] = defaultdict(dict)
    found: dict[GraphValue, Arrivals] = {}
    for (node, number), elements in starts:
        _merge(waiting[node], number, torch.where(elements, 1, NEVER), elements.long())
    for node in _from_the_losses((value[0] for value, _ in starts), {node for node, _ in ends}):
        arrived = waiting.pop(node, {})
        found.update({(node, number): arrivals for number, arrivals in arrived.items() if (node, number) in ends})
        for number, earliest, latest, elements in _alike(arrived):
            gradient = torch.rand(elements.shape, generator=noise, dtype=torch.float64) + 1  # random: nothing cancels
            for (child, into), passed in _passed_on(node, number, gradient * elements):
                reached = passed != 0
                _merge(waiting[child], into, torch.where(reached, earliest + 1, NEVER), reached * (latest + 1))
    return found


def _merge(known: dict[Any, Arrivals], key: Any, earliest: Tensor, latest: Tensor) -> None:
    if key in known:
        earliest, latest = earliest.minimum(known[key][0]), latest.maximum(known[key][1])
    known[key] = earliest, latest


def _alike(arrived: Mapping[int, Arrivals]) -> Iterator[tuple[int, int, int, Tensor]]:
    """Groups of elements of a node's outputs with the same path lengths: (output, shortest, longest, elements)."""
    for number, (earliest, latest) in arrived.items():
        both = earliest * NEVER + latest
        for value in both[latest > 0].unique().tolist():
            yield number, value // NEVER, value % NEVER, both == value


def _passed_on(node: Node, number: int, gradient: Tensor) -> Iterator[tuple[GraphValue, Tensor]]:
    """The gradients that a node's backward function makes of one at an output, by value, with complex ones in parts."""
    outputs = node._input_metadata
    if outputs[number].dtype.is_complex:
        gradient = torch.view_as_complex(gradient)
    gradient = gradient.to(outputs[number].dtype)
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # written in Python
        gradients = [torch.zeros(output.shape, dtype=output.dtype) for output in outputs]
        gradients[number] = gradient
        made = node.apply(*gradients)
        made = made if isinstance(made, tuple) else (made,)
        made = [value for value, needed in zip(made, node.needs_input_grad, strict=False) if needed]
        edges = [edge for edge in node.next_functions if edge[0] is not None]
    else:
        made = node(*(gradient if k == number else None for k in range(len(outputs))))
        made = made if isinstance(made, tuple) else (made,)
        edges = node.next_functions
    for (child, into), value in zip(edges, made, strict=False):
        if child is not None and value is not None:
            wanted = child._input_metadata[into]
            if value.is_complex() and not wanted.dtype.is_complex:
                value = value.real  # as autograd does
            yield (child, into), _parts(value.to(wanted.dtype).sum_to_size(wanted.shape))  # what was broadcast


def _from_the_losses(starts: Iterable[Node], ends: set[Node]) -> list[Node]:
    """The nodes on paths from `starts` to `ends`, each before the nodes to which it passes gradients."""
    finished: list[Node] = []
    leading: set[Node] = set()
    entered: set[Node] = set()
    waiting = [(start, False) for start in starts]
    while waiting:
        node, done = waiting.pop()
        if done:
            if node in ends or any(child in leading for child, _ in node.next_functions):
                leading.add(node)
                finished.append(node)
        elif node not in entered:
            entered.add(node)
            waiting.append((node, True))
            waiting += [(child, False) for child, _ in node.next_functions if child is not None]
    return finished[::-1]
