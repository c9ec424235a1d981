"""Probes that the rows of several suites share."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import streams
from bench.config import Config
from bench.errors import BadInput
from bench.testing.suite import Broken

STEP = 1e-5
"""The step of central differences in float64: their error is about STEP squared, their rounding 1e-16 / STEP."""


def unit_directions(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A random direction of unit length for each parameter."""
    generator = streams.generator(0, "check", "directions")
    drawn = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in parameters.items()}
    return {name: direction / direction.norm() for name, direction in drawn.items()}


def slope_along(gradient: Tensor, direction: Tensor) -> float:
    """The slope along a direction by a gradient; a complex gradient is by the real and the imaginary part."""
    return (gradient.conj() * direction).sum().real.item()


def central_difference(parameter: Tensor, direction: Tensor, value: Callable[[], float]) -> float:
    """The central difference of `value()` along a direction of one parameter."""
    original = parameter.detach().clone()
    parameter.data = original + STEP * direction
    above = value()
    parameter.data = original - STEP * direction
    below = value()
    parameter.data = original
    return (above - below) / (2 * STEP)


def global_state() -> tuple[Any, ...]:
    """The states of the global random generators."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 (only read)


def same_global_state(a: tuple[Any, ...], b: tuple[Any, ...]) -> str | None:
    """Which global random generator has moved, or None."""
    if not torch.equal(a[0], b[0]):
        return "torch's"
    if a[1] != b[1]:
        return "Python's"
    return None if all(np.array_equal(x, y) for x, y in zip(a[2], b[2], strict=True)) else "numpy's"


def examine_config(config: type[Config]) -> None:
    """Raise `Broken` unless unknown keys and values of a wrong type give `BadInput` in one line."""
    wrong: list[dict[str, Any]] = [{"no_such_field": 1}, *({name: {"no": ["such"]}} for name in config.model_fields)]
    for fields in wrong:
        try:
            config.parse(fields, "check")
        except BadInput as error:
            if "\n" in str(error):
                raise Broken(f"{fields} is answered in several lines") from None
        except Exception as error:
            raise Broken(f"{fields} ends in {type(error).__name__}, not in BadInput") from None
        else:
            raise Broken(f"{fields} is accepted")
