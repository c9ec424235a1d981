"""Real-time recurrent learning: the exact gradient at every column, carried forward instead of back.

Source: Williams & Zipser, *A learning algorithm for continually running fully recurrent neural networks*, Neural
Computation 1(2), 1989. With the influence M_t of the parameters theta on the state s_t of N numbers:

    M_t = J_t M_{t-1} + I_t,    J = ds_t / ds_{t-1} (N, N),    I = ds_t / dtheta,    gradient of l_t: (dl_t / ds_t) M_t

Work and memory do not grow with the length of the stream, but with N times the parameters, for each lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench import registry
from bench.config import Positive, Run
from bench.methods.base import Carry, Credit, MethodConfig, RecurrentMethod
from bench.models.jacobian import Transition, flat
from bench.models.rnn import RNN
from bench.models.updater import count_parameters
from bench.registry import register_method


class RTRLConfig(MethodConfig):
    """When to step, and how much memory the influence may take."""

    update_every: Positive | None = Field(None, description="columns between two steps; null: once a batch")
    max_bytes: Positive = Field(2 * 2**30, description="of all lanes' influence; a run that needs more is refused")


@register_method("rtrl")
class RTRL(RecurrentMethod):
    """Exact while the parameters stand still; steps in between leave the influence of the earlier ones as it was."""

    Config = RTRLConfig
    config: RTRLConfig
    data = "streams"
    gradient_is: ClassVar[Mapping[str, Any]] = {"train": "exact"}
    outside_autograd: ClassVar[Mapping[str, str]] = {"train": "exact forward sensitivities"}

    @classmethod
    def refuses(cls, run: Run) -> str | None:
        task = registry.tasks.get(run.task)(run.task_config)
        with torch.device("meta"):
            rnn = RNN(run.model, task.vocab_size, task.output_size)
            numbers = flat(rnn.initial_state(1)).shape[1] * count_parameters(Transition(rnn))
        held = run.training.batch_size * numbers * (8 if run.precision == "float64" else 4)
        config: Any = run.method_config
        if held > config.max_bytes:
            return f"its influence would take {held:,} bytes, above method.max_bytes, {config.max_bytes:,}"
        return None

    @property
    def piece(self) -> int | None:
        return self.config.update_every

    def begin(self, lanes: int) -> Carry:
        state = flat(self.rnn.initial_state(lanes))
        theta = self.transition.theta()
        return Carry((state, {name: one.new_zeros(*state.shape, *one.shape) for name, one in theta.items()}))

    @cached_property
    def transition(self) -> Transition:
        """The recurrent part of the RNN; none of this module's own, which has its parameters already."""
        return Transition(self.rnn)

    def step(self, carry: Carry, x_t: Tensor, y_t: Tensor, drawn_t: Any) -> tuple[Carry, Credit]:
        state, influence = carry.lanes  # (B, N), and (B, N, *shape) of each parameter

        def rows(one: Tensor) -> Tensor:
            return one.reshape(*state.shape, -1)

        state, jacobian, direct = self.transition.jacobians(state, x_t)
        influence = {
            name: torch.baddbmm(rows(direct[name]), jacobian.to(before.dtype), rows(before)).view_as(before)
            for name, before in influence.items()
        }
        credit, by_state = self.immediate(state, x_t, y_t)
        for name, one in influence.items():
            credit.gradient[f"rnn.{name}"] += torch.einsum("bn,bn...->...", by_state.to(one.dtype), one)
        return Carry((state, influence)), credit

    def immediate(self, state: Tensor, x_t: Tensor, y_t: Tensor) -> tuple[Credit, Tensor]:
        """The credit that reaches parameters without passing through the last state, and dl_t / ds_t by lane (B, N)."""
        names, parameters = zip(*self.named_parameters(), strict=True)
        leaf = state.detach().requires_grad_()
        with torch.enable_grad():
            features = self.rnn.updater.features(self.transition.tree(leaf), self.rnn.embedding(x_t))
            loss, weight = self.objective(self.rnn.read(features), y_t)
            by_state, *found = torch.autograd.grad(loss, [leaf, *parameters], materialize_grads=True)
        return Credit(dict(zip(names, found, strict=True)), weight, {"loss": loss.detach()}), by_state
