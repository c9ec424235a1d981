"""The sizes of networks: parameter counts, and the width at which a backbone matches that of the paper's updater.

This project chose the sizes of all backbones but the transformer updater, which is the paper's:
`model.updater_width: null` gives each about as many parameters as the transformer updater has at the same config.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench import registry
from bench.config import ModelConfig


class SizesOnly(TorchFunctionMode):
    """Within this context tensors are on the device "meta", with sizes and no values, and initialisers do nothing.

    Drawing random numbers on that device would import torch's compiler, which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DRAWN or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        with torch.device("meta"):
            return func(*args, **(kwargs or {}))


DRAWN = {Tensor.normal_, Tensor.uniform_}


def count_parameters(module: nn.Module) -> int:
    """The number of trainable real numbers in a module; a complex number counts as two."""
    return sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in module.parameters())


def nearest_size(count: Callable[[int], int], target: int) -> int:
    """The n >= 1 at which `count(n)`, which grows with n, is nearest to the target; of two such n, the smaller."""
    above = 1
    while count(above) < target:
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if count(middle) < target else (below, middle)
    return min((n for n in (below, above) if n), key=lambda n: abs(count(n) - target))


def matched_width(config: ModelConfig, build: Callable[[int], nn.Module]) -> int:
    """`model.updater_width`, or else the width at which `build(width)` has as many parameters as the transformer."""
    if config.updater_width is not None:
        return config.updater_width
    with SizesOnly():
        target = count_parameters(registry.backbones.get("transformer")(config))
        return nearest_size(lambda width: count_parameters(build(width)), target)
