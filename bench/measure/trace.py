"""The cost of a training step, traced from its aten operators and their dependencies.

    with Trace() as trace:
        loss = model(x).sum()
        loss.backward()
    trace.cost().whole.sequential_operations

An operator depends on the last writers of what it reads, through views and in-place writes: these are dependencies of
values, not of reused memory. So a full overwrite depends on nothing that was there, and what is made from a shape alone
(`zeros_like`) depends on nothing. Parts of a buffer are told apart exactly for the layouts that slicing makes. If the
last writer is ambiguous (a part that several smaller writes overwrote together; scattered indices; lists of tensors
that one `_foreach_` call changes), a dependency is assumed: chains may come out too long, never too short. What Python
does with a value that it fetched (`.item()`) is not followed.

An operator is backward work when the autograd engine runs it: recomputed segments of checkpoints are backward work, and
the seed of a gradient is not. Views and metadata cost nothing and are not operators, nor are tensors left unfilled
(`empty`). Memory that kernels use inside an operator is not seen.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache, lru_cache
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from bench.measure import flops

_graph_task: Callable[[], int] = torch._C._current_graph_task_id  # -1: not in the engine


@dataclass(frozen=True)
class Chain:
    """The cost of one part of a step: the forward pass, the backward pass, or the whole step."""

    flops: int
    """FLOPs of matrix products, convolutions and Fourier transforms."""
    elementwise: int
    """All other arithmetic, in elements; `bench.measure.flops` says how they are counted."""
    operations: int
    """The number of operators that compute; a fused recurrence counts one for each of its time steps."""
    sequential_operations: int
    """The length of the longest chain of operators in which each depends on the one before."""
    sequential_flops: int
    """The work of the heaviest such chain, FLOPs and elements together."""


@dataclass(frozen=True)
class Cost:
    """The cost of a traced step. A part's chain runs through operators of the other part without counting them."""

    forward: Chain
    backward: Chain
    whole: Chain
    peak_bytes: int
    """The most bytes of tensors made during the trace that were alive at one time; views share their storage."""
    uncounted: dict[str, int]
    """Operators that no rule counts, with the number of their calls: FLOPs and elements lack their work.

    Each still counts as one operation.
    """


# Operators.

UNFILLED = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "lift_fresh"}
QUERIES = {"is_pinned", "is_same_size", "is_contiguous", "_has_compatible_shallow_copy_type", "_has_same_storage_numel"}
OVERWRITES = {"copy", "fill", "zero", "normal", "uniform", "random", "bernoulli", "exponential", "log_normal", "cauchy"}
OVERWRITES |= {"geometric", "copy_to", "_foreach_copy", "_foreach_zero"}
"""Operators that, in place, do not read what they overwrite."""


class Kind(Enum):
    """How a trace treats an operator."""

    NOTHING = auto()
    """Views, metadata, marks of the profiler."""
    MAKES = auto()
    """Allocates memory without computing its contents."""
    COMPUTES = auto()


@dataclass(frozen=True, slots=True)
class _Operator:
    """What is known about an operator before it is called."""

    name: str
    kind: Kind
    work: flops.Rule | None
    composite: bool  # made of other operators, and seen whole only where autograd is off altogether
    shape_only: bool  # reads no values
    written: tuple[int | str, ...]  # the arguments that it writes to, by position or keyword
    overwritten: tuple[int | str, ...]  # those among them that it does not read


@cache
def _operator(func: OpOverload) -> _Operator:
    name, tags = flops.base_name(func), func.tags
    written = {
        argument.name if argument.kwarg_only else index: argument.is_out or (index == 0 and name in OVERWRITES)
        for index, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    }
    kind = Kind.COMPUTES
    if name in UNFILLED:
        kind = Kind.MAKES
    elif func.is_view or torch.Tag.inplace_view in tags or name in QUERIES or func.namespace in ("prim", "profiler"):
        kind = Kind.NOTHING
    return _Operator(
        name=str(func),
        kind=kind,
        work=flops.work(func),
        composite=torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"),
        shape_only=func.namespace in ("aten", "prims") and (name.endswith("_like") or name.startswith("new_")),
        written=tuple(written),
        overwritten=tuple(key for key, blind in written.items() if blind),
    )


# Regions of a storage.

Region = tuple[int, tuple[tuple[int, int], ...]]
"""Offset in bytes, and (size, stride in bytes) of each dimension, largest stride first, merged where dense."""
TRIES = 256
"""The number of steps of telling two regions apart after which they are taken to overlap."""


def region(tensor: Tensor) -> Region:
    """The bytes of a tensor in its storage: the same for all views of the same elements in the same order."""
    width = tensor.element_size()
    dims = [(size, step * width) for size, step in zip(tensor.shape, tensor.stride()) if size != 1 and step]
    merged: list[tuple[int, int]] = []
    for size, step in [*sorted(dims, key=lambda dim: -dim[1]), (width, 1)]:
        if merged and merged[-1][1] == size * step:
            merged[-1] = (merged[-1][0] * size, step)
        else:
            merged.append((size, step))
    return int(tensor.storage_offset()) * width, tuple(merged)


def overlap(a: Region, b: Region) -> bool:
    """Whether two regions of a storage share a byte; True where that would take too long to find out."""
    return _meet(b[0] - a[0], a[1], b[1])


def covers(a: Region, b: Region) -> bool:
    """Whether `a` certainly covers all of `b`: they are equal, or `a` is dense and spans it."""
    if a == b:
        return True
    dense = len(a[1]) == 1
    return dense and a[0] <= b[0] and b[0] + _span(b[1]) <= a[0] + a[1][0][0]


def _span(dims: tuple[tuple[int, int], ...]) -> int:
    return sum((size - 1) * step for size, step in dims) + 1


@lru_cache(100_000)
def _meet(distance: int, a: tuple[tuple[int, int], ...], b: tuple[tuple[int, int], ...]) -> bool:
    """Whether distance = (sum of index * step over a's dimensions) - (the same over b's) for some valid indices."""
    ranges: dict[int, tuple[int, int]] = {}  # step -> the least and the greatest multiple of it
    for sign, dims in ((1, a), (-1, b)):
        for size, step in dims:
            low, high = ranges.get(step, (0, 0))
            ranges[step] = (low, high + size - 1) if sign > 0 else (low - size + 1, high)
    steps = sorted(ranges.items(), reverse=True)
    below = [(0, 0)]  # what all smaller steps together can reach, from the smallest on
    for step, (low, high) in reversed(steps):
        below.append((below[-1][0] + low * step, below[-1][1] + high * step))
    below.reverse()
    tries = TRIES
    todo = [(0, distance)]
    while todo:
        index, rest = todo.pop()
        if index == len(steps):
            return True  # the smallest step is one byte, so nothing is left
        step, (low, high) = steps[index]
        least, most = below[index + 1]
        for times in range(max(low, -((most - rest) // step)), min(high, (rest - least) // step) + 1):
            tries -= 1
            if tries < 0:
                return True
            todo.append((index + 1, rest - times * step))
    return False


# Chains.

Value = tuple[int, int, int, int, int, int]
"""The longest chains that end in an operator: operations and work of forward part, backward part and whole step."""
START: Value = (0, 0, 0, 0, 0, 0)


class _Storage:
    """The last writers of a storage: a value for each region, the latest one last; the key None means all of it."""

    __slots__ = ("bytes", "made", "reference", "writes")

    def __init__(self, made: bool, reference: weakref.ref[Any]) -> None:
        self.made = made  # during the trace
        self.reference = reference
        self.bytes = 0
        self.writes: dict[Region | None, Value] = {}

    def write(self, where: Region | None, value: Value) -> None:
        if where is None:
            self.writes = {None: value}
            return
        if len(self.writes) > 1 or None not in self.writes:
            for old in [old for old in self.writes if old is not None and covers(where, old)]:
                del self.writes[old]
        self.writes[where] = value

    def read(self, tensor: Tensor) -> Iterator[Value]:
        """The values of the operators that wrote what this tensor shows."""
        if len(self.writes) == 1 and None in self.writes:
            yield self.writes[None]
        elif self.writes and tensor.numel():
            wanted = region(tensor)
            for where, value in reversed(self.writes.items()):
                if where is None or overlap(where, wanted):
                    yield value
                    if where is None or covers(where, wanted):
                        return


class Trace(TorchDispatchMode):
    """Measures what runs inside `with`, on any device and in any thread of the autograd engine.

    Each `with` starts afresh. A traced operator takes some tens of microseconds longer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()  # a GPU's backward thread runs beside the one that entered
        self._entered = 0
        self._clear()

    def _clear(self) -> None:
        self._storages: dict[int, _Storage] = {}
        self._parts = ([0, 0, 0], [0, 0, 0])  # forward, backward: FLOPs, elements, operations
        self._longest = START
        self._alive = self._peak = 0
        self._uncounted: Counter[str] = Counter()

    def cost(self) -> Cost:
        """The cost of what has run so far."""
        forward, backward = self._parts
        return Cost(
            forward=_chain(forward, self._longest[:2]),
            backward=_chain(backward, self._longest[2:4]),
            whole=_chain([a + b for a, b in zip(forward, backward)], self._longest[4:]),
            peak_bytes=self._peak,
            uncounted=dict(self._uncounted),
        )

    def __enter__(self) -> Self:
        if not self._entered:
            self._clear()
        self._entered += 1  # more than once where a composite operator is taken apart
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._entered -= 1
        if not self._entered:
            self._storages = {}  # so that no callback runs when a tensor dies

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = _operator(func)
        if operator.composite:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if operator.kind is not Kind.NOTHING:
            with self._lock:
                self._record(operator, args, kwargs, out)
        return out

    def _record(self, operator: _Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        outputs = flops.tensors((out,))
        if operator.kind is Kind.MAKES:
            for tensor in outputs:
                self._storage(tensor, made=True)
            return
        inputs = flops.tensors(args)
        if kwargs:
            inputs += flops.tensors(kwargs.values())
        known = {_key(tensor) for tensor in inputs}
        made = [tensor for tensor in outputs if _key(tensor) not in known]
        if outputs and not made and not operator.written:
            return  # a view that its schema does not call one, as `_unsafe_view`
        value = self._count(operator, self._read(operator, args, kwargs, inputs), args, kwargs, out)
        for tensor in made:
            self._storage(tensor, made=True).writes = {None: value}
        for key in operator.written:
            for tensor in flops.tensors((_argument(key, args, kwargs),)):
                storage = self._storage(tensor)
                whole = tensor.numel() * tensor.element_size() == storage.bytes
                storage.write(None if whole else region(tensor), value)

    def _read(
        self, operator: _Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: list[Tensor]
    ) -> Value:
        """The longest chains that end in a value the operator reads."""
        if operator.shape_only:
            return START
        if operator.overwritten:
            inputs = flops.tensors([arg for index, arg in enumerate(args) if index not in operator.overwritten])
            inputs += flops.tensors([arg for name, arg in kwargs.items() if name not in operator.overwritten])
        before: Value | None = None
        for tensor in inputs:
            storage = self._storages.get(_key(tensor))
            if storage is not None:
                for value in storage.read(tensor):
                    before = value if before is None or before is value else _longer(before, value)
        return before or START

    def _count(
        self, operator: _Operator, before: Value, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> Value:
        """Add the operator to its part, and return the longest chains that end in it."""
        try:
            matmul, elements, steps = operator.work(args, kwargs, out)  # type: ignore[misc]
        except Exception:  # there is no rule, or not for such arguments
            self._uncounted[operator.name] += 1
            matmul, elements, steps = 0, 0, 1
        weight = matmul + elements
        backward = _graph_task() != -1
        part = self._parts[backward]
        part[0] += matmul
        part[1] += elements
        part[2] += steps
        f, f_work, b, b_work, all, all_work = before
        if backward:
            value = (f, f_work, b + steps, b_work + weight, all + steps, all_work + weight)
        else:
            value = (f + steps, f_work + weight, b, b_work, all + steps, all_work + weight)
        self._longest = _longer(self._longest, value)
        return value

    def _storage(self, tensor: Tensor, made: bool = False) -> _Storage:
        """The record of a tensor's storage; memory from before the trace counts no bytes."""
        memory = tensor.untyped_storage()
        key, size = memory._cdata, memory.nbytes()
        storage = self._storages.get(key)
        if storage is None:
            # The callback runs when the memory is freed, before another storage can have the same key.
            storage = _Storage(made, weakref.ref(memory, lambda _: self._died(key)))
            self._storages[key] = storage
        if storage.bytes != size:
            self._alive += storage.made * (size - storage.bytes)
            self._peak = max(self._peak, self._alive)
            storage.bytes = size
        return storage

    def _died(self, key: int) -> None:
        with self._lock:
            storage = self._storages.pop(key, None)
            if storage is not None:
                self._alive -= storage.made * storage.bytes


def _chain(sums: list[int], longest: tuple[int, int]) -> Chain:
    flops, elementwise, operations = sums
    return Chain(flops, elementwise, operations, *longest)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _argument(key: int | str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if isinstance(key, str):
        return kwargs.get(key)
    return args[key] if key < len(args) else None


def _longer(a: Value, b: Value) -> Value:
    return tuple(map(max, a, b))  # type: ignore[return-value]
