"""Compiled steps: what `torch.compile` needs on a machine, and its time, which is kept apart from training.

A graph is compiled for the shapes of its first call, and another for other shapes; no shape is symbolic, so that equal
calls give equal bits whatever came before. Only training is compiled; evaluation runs eagerly.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

BACKEND = "inductor"


class Seconds(NamedTuple):
    """Wall-clock time and processor time; the latter excludes the C++ compiler, which is another process."""

    wall: float = 0.0
    processor: float = 0.0


_taken = Seconds()
_began: list[Seconds] = []


def taken() -> Seconds:
    """The time this process has spent on compiling so far."""
    return _taken


def now() -> Seconds:
    """The time on a clock that stops during compilation."""
    return Seconds(time.perf_counter() - _taken.wall, time.process_time() - _taken.processor)


def lacks(device: str) -> str | None:
    """What this machine lacks to compile for a device, in one line, or None."""
    on_gpu = device == "cuda"  # there Triton builds the launchers of its kernels in C
    usual = ["gcc", "clang"] if on_gpu else ["clang++" if sys.platform == "darwin" else "g++"]
    given = os.environ.get("CC" if on_gpu else "CXX")
    compilers = usual if given is None else [given]
    if not any(map(shutil.which, compilers)):
        return f"needs a {'C' if on_gpu else 'C++'} compiler, and there is no {' or '.join(compilers)} on PATH"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        return f"needs Python's headers, and there is no {header}"
    if on_gpu:
        from torch.utils._triton import has_triton

        return None if has_triton() else "needs Triton and a GPU that it knows, and this machine has none"
    return None


def cannot_compile(lacking: str) -> str:
    """The message that a run cannot be compiled."""
    return f"training.engine: compiled given; it {lacking}; should be eager or auto"


class Compiled:
    """A function that is compiled at its first call, and again at each call with other shapes.

    Each starts afresh, as PyTorch gives up on a function after some number of graphs, over all runs.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        _prepare()
        torch._dynamo.reset_code_caches()
        self.function = torch.compile(function, backend=BACKEND, dynamic=False)
        self.before = taken().wall
        self.times = 0
        """The number of calls that have compiled something."""

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def tell(self, what: str) -> None:
        """Print a line if a call or its backward pass has compiled something since the last time."""
        if (now := taken().wall) == self.before:
            return
        again = " again" if self.times else ""
        print(f"compiled{again}: {what}, {now - self.before:.1f} s", flush=True)
        self.before, self.times = now, self.times + 1


@cache
def _prepare() -> None:
    """Set up timing, once per process, and prevent helper processes that could outlive a killed worker."""
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1
    torch._dynamo.callback.on_compile_start(lambda *_: _began.append(now()))
    torch._dynamo.callback.on_compile_end(lambda *_: _add(_began.pop()))
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")  # (tables that never change)


def _add(began: Seconds) -> None:
    global _taken
    _taken = Seconds(*(sum_ + end - begin for sum_, end, begin in zip(_taken, now(), began, strict=True)))
