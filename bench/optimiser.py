"""The optimiser of all methods: learning rate, weight decay, clipping, and an average of the weights.

Schedules at the share p of a phase, after a linear warm-up over its share w, as multiples of `lr`:

    constant 1    cosine (1 + cos(pi (p - w) / (1 - w))) / 2    inverse w / p    inverse_sqrt sqrt(w / p)

None falls below `floor`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import Optimiser

Groups = Sequence[Sequence[nn.Parameter]]


def rate(settings: Optimiser, progress: float) -> float:
    """The learning rate at the share `progress` (0 to 1) of the phase."""
    warmup = settings.warmup
    if progress < warmup:
        return settings.lr * progress / warmup
    fall = 1.0
    if settings.schedule == "cosine":
        done = (progress - warmup) / max(1e-9, 1 - warmup)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    elif settings.schedule == "inverse":
        fall = warmup / progress
    elif settings.schedule == "inverse_sqrt":
        fall = math.sqrt(warmup / progress)
    return settings.lr * max(settings.floor, fall)


def build(settings: Optimiser, groups: Groups, rates: Sequence[float] = ()) -> torch.optim.Optimizer:
    """AdamW or SGD over the parameters of the groups, in separate parts with and without weight decay.

    `rates` are the learning rates of the groups as multiples of `lr`, kept as `multiple` in each part; (): 1.
    """
    parts: list[dict[str, Any]] = []
    for group, multiple in zip(groups, rates or [1.0] * len(groups), strict=True):
        decayed = [parameter for parameter in group if settings.decay_on == "all" or parameter.ndim >= 2]
        others = [parameter for parameter in group if settings.decay_on == "matrices" and parameter.ndim < 2]
        parts += [
            {"params": part, "weight_decay": decay, "multiple": multiple}
            for part, decay in ((decayed, settings.decay), (others, 0.0))
            if part
        ]
    parts = parts or [{"params": [], "multiple": 1.0}]  # (a phase may have no parameters)
    for part in parts:  # (complex numbers have no fused step)
        part["fused"] = None if any(map(torch.is_complex, part["params"])) else True
    if settings.kind == "sgd":
        return _SGD(parts, lr=settings.lr)
    return _AdamW(parts, lr=settings.lr, betas=settings.betas)


def _uncompiled(kind: type[torch.optim.Optimizer]) -> Any:
    """An optimiser without its guards against torch.compile, which take seconds to import torch._dynamo."""
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(inspect.unwrap(kind.step))})


_SGD, _AdamW = _uncompiled(torch.optim.SGD), _uncompiled(torch.optim.AdamW)


def clip(group: Sequence[nn.Parameter], most: float) -> Tensor:
    """Scale the gradients of a group so that their norm is at most `most`, and return the norm before that.

    This is `torch.nn.utils.clip_grad_norm_` without its checks, which take half of its time for small tensors.
    """
    gradients = [parameter.grad for parameter in group if parameter.grad is not None]
    if len({(gradient.device, gradient.dtype) for gradient in gradients}) != 1:
        return torch.nn.utils.clip_grad_norm_(group, most)
    with torch.no_grad():
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1))
    return norm


class Average:
    """An exponential moving average of parameters: after each step, average = decay average + (1 - decay) parameter."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.decay = decay
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the parameters after a step."""
        torch._foreach_lerp_(self.values, self.parameters, 1 - self.decay)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Set the parameters to their average."""
        torch._foreach_copy_(self.parameters, self.values)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within this context the parameters are set to their average."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self.copy_to_parameters()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)
