"""Builds the task and method of a run, with weights and random streams from its seed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench import registry, streams
from bench.config import Run
from bench.errors import BadInput
from bench.methods.base import Method
from bench.models.sizes import SizesOnly
from bench.tasks.base import Task

M = TypeVar("M", bound=nn.Module)


def build_task(run: Run) -> Task:
    """The run's task."""
    return registry.tasks.get(run.task)(run.task_config)


def build_method(run: Run, task: Task, device: torch.device | str | None = None) -> Method:
    """The run's method, with initial weights that depend on the seed and not on the device.

    Raises `BadInput` where the method follows an older contract, or its first predictor is a reference line.
    """
    device = run.device if device is None else device
    sizes = str(device) == "meta"
    noise = streams.generator(run.seed, "method", device="cpu" if sizes else device)
    with streams.global_stream(run.seed, "init"), SizesOnly() if sizes else torch.device("cpu"):
        method: Method = registry.methods.get(run.method)(run.method_config, task, run.model, noise)
    if hasattr(method, "settle"):
        raise BadInput(f"method {run.method}: settle: since 0.3 it is sync_predictor; see docs/add-a-method.md")
    if isinstance(method.predictors(), dict):
        raise BadInput(
            f"method {run.method}: predictors() gives a dict: since 0.2 it gives a tuple of bench.methods.Predictor; "
            "see docs/add-a-method.md"
        )
    if not method.predictors() or method.predictors()[0].reference:
        raise BadInput(f"method {run.method}: the first of predictors() should be the trained one, not a reference")
    return at_precision(method, torch.float64 if run.precision == "float64" else torch.float32, device)


def at_precision(module: M, real: torch.dtype, device: torch.device | str = "cpu") -> M:
    """Move a module to a device and to the dtype `real`, and its complex numbers to the same precision.

    `Module.to(dtype)` would drop the imaginary parts.
    """

    def moved(tensor: Tensor) -> Tensor:
        dtype = real.to_complex() if tensor.is_complex() else real if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device, dtype)

    return module._apply(moved)


def autocast(run: Run) -> AbstractContextManager[Any]:
    """A context with the precision in which the run's method computes."""
    if run.precision != "bfloat16":
        return nullcontext()
    return torch.autocast(run.device, dtype=torch.bfloat16)
