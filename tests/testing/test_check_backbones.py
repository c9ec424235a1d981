"""Every built-in backbone keeps the contract; each row fails for a backbone that is broken in just that way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench import registry
from bench.models.gru import GRUUpdater
from bench.models.lru import LRU
from bench.models.lstm import LSTM
from bench.models.tanh import Tanh
from bench.testing import check, conformance
from bench.testing.backbone import suite

for name in registry.backbones.names():
    globals()[f"test_{name}"] = conformance("backbone", name)


class AlwaysFloat32(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, token).float()


class OfOneSize(GRUUpdater):
    def __init__(self, config):
        super().__init__(config)
        self.offset = nn.Parameter(torch.zeros(3, 8))

    def forward(self, memory, token):
        return super().forward(memory, token) + self.offset


class Explodes(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, token.exp())


class LooksAcrossLanes(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, token - token.mean(0))


class Drops(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, nn.functional.dropout(token, 0.5))


class NeverBeginsAnew(LRU):
    def scan(self, state, u, start=None):
        return super().scan(state, u)


class ForgetsAParameter(GRUUpdater):
    def __init__(self, config):
        super().__init__(config)
        self.more = nn.Linear(3, 3)


class TwiceAsSteep(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, 2 * token - token.detach())


class BranchesOnData(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, token if token.sum() > 0 else 2 * token)


class SaysAnotherStep(Tanh):
    def local(self, state, u):
        found = super().local(state, u)
        return found._replace(push=lambda x: 1.01 * found.push(x))


class CallsItselfElementwise(LSTM):
    recurrence = "elementwise"


class Normalises(LRU):
    """Memory tokens that nobody keeps at the length that they should have."""

    @classmethod
    def memory(cls, config):
        return 2, config.d

    def __init__(self, config):
        super().__init__(config)
        self.width = 2 * config.d

    def initial(self, lanes):
        return self.numbers["D"].new_zeros(lanes, 2, self.config.d)

    def step(self, state, u):
        return 0.5 * state + 0.001 * u[:, None]


class FiveTimesAsLarge(GRUUpdater):
    def __init__(self, config):
        super().__init__(config)
        self.more = nn.ModuleList(GRUUpdater(config) for _ in range(4))


class LooksAway(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, 0 * token)


class ComputesElsewhere(GRUUpdater):
    def step(self, state, u):
        return torch.from_numpy(state.detach().numpy() + u.detach().numpy()[:, None])


class Rotates(GRUUpdater):
    """Turns each pair of the memory's numbers, as one complex number, by an angle that is learned."""

    def __init__(self, config):
        super().__init__(config)
        self.turn = nn.Parameter(torch.polar(torch.ones(config.d // 2), torch.rand(config.d // 2)))

    def turned(self, memory):
        return torch.view_as_real(torch.view_as_complex(memory.unflatten(-1, (-1, 2))) * self.turn).flatten(-2)

    def forward(self, memory, token):
        return super().forward(self.turned(memory), token)


class RotatesUnseen(Rotates):
    def turned(self, memory):
        turned = super().turned(memory)
        if turned.requires_grad:
            turned.register_hook(lambda gradient: gradient * math.nan)
        return turned


BROKEN = {
    "shapes and dtypes": AlwaysFloat32,
    "other sizes": OfOneSize,
    "finite": Explodes,
    "lanes are independent": LooksAcrossLanes,
    "deterministic": Drops,
    "a scan is the loop of steps": NeverBeginsAnew,
    "gradients reach everything": ForgetsAParameter,
    "gradients are exact": TwiceAsSteep,
    "Jacobian products": BranchesOnData,
    "says its own step": SaysAnotherStep,
    "recurrence as declared": CallsItselfElementwise,
    "state stays bounded": Normalises,
    "as large as the others": FiveTimesAsLarge,
    "learns an easy task": LooksAway,
    "cost can be traced": ComputesElsewhere,
}


def outcome_of(cls, row_name, *sets):
    registry.register_backbone("examined")(cls)
    (row,) = (row for row in suite.rows if row.name == row_name)
    return suite.outcome(row, "examined", sets)


def test_complex_parameters_keep_every_promise(clean):
    registry.register_backbone("examined")(Rotates)
    assert {outcome.detail for outcome in check("backbone", "examined") if outcome.state == "failed"} == set()
    assert "complex128" in str(suite.build("examined", ()).build().turn.dtype)


def test_a_gradient_that_is_nan_is_not_exact(clean):
    outcome = outcome_of(RotatesUnseen, "gradients are exact")
    assert outcome.state == "failed" and "gives nan" in outcome.detail


def test_every_row_has_its_broken_backbone():
    assert [row.name for row in suite.rows] == list(BROKEN)


@pytest.mark.parametrize("row", BROKEN)
def test_a_row_fails_for_the_backbone_that_breaks_it(clean, row):
    outcome = outcome_of(BROKEN[row], row)
    assert outcome.state == "failed", outcome
    assert outcome.detail and "\n" not in outcome.detail and "Error" not in outcome.detail.split()[0]
    assert outcome.fix


class Counts(GRUUpdater):
    def __init__(self, config):
        super().__init__(config)
        self.calls = 0

    def forward(self, memory, token):
        self.calls += 1
        return super().forward(memory, token) + self.calls


class Grows(LSTM):
    def step(self, state, u):
        c, h = super().step(state, u)
        return torch.cat([c, c[:, :1]], 1), h


class Saturates(LRU):
    def step(self, state, u):
        return super().step(torch.view_as_complex(torch.view_as_real(state).tanh()), u)


class Cuts(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory.detach(), token)


class Inverts(GRUUpdater):
    """Calls an operator that no rule counts."""

    def forward(self, memory, token):
        square = torch.eye(self.config.d, dtype=memory.dtype, device=memory.device).expand(len(memory), -1, -1)
        return super().forward(memory, (torch.linalg.inv(square) @ token[..., None])[..., 0])


@pytest.mark.parametrize(
    ("cls", "row", "state", "message"),
    [
        (Counts, "deterministic", "failed", "two calls with the same inputs differ by up to"),
        (Grows, "shapes and dtypes", "failed", "a step maps (B, 16) and (B, 16) to (B, 17) and (B, 16)"),
        (Saturates, "recurrence as declared", "failed", "linear means a Jacobian independent of the state"),
        (Cuts, "gradients reach everything", "failed", "no gradient reaches the state"),
        (Inverts, "cost can be traced", "passed", "not counted: "),
    ],
)
def test_other_ways_to_break_a_row(clean, cls, row, state, message):
    outcome = outcome_of(cls, row)
    assert outcome.state == state and message in outcome.detail, outcome


def test_overrides_reach_the_backbone(clean):
    outcome = next(check("backbone", "gru", ["model.memory_tokens=5", "method.nothing=1"]))
    assert outcome.state == "passed" and "(B, 5, 8)" in outcome.detail
    outcome = next(check("backbone", "gru", ["model.memory_token=5"]))
    assert outcome.state == "failed" and "did you mean 'memory_tokens'" in outcome.detail
