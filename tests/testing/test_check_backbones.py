"""Every built-in backbone keeps the contract; each row fails for a backbone that is broken in just that way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench import registry
from bench.models.updaters import GRUUpdater
from bench.testing import check, conformance
from bench.testing.backbone import suite

test_transformer = conformance("backbone", "transformer")
test_mlp = conformance("backbone", "mlp")
test_gru = conformance("backbone", "gru")


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


class LooksAcrossRows(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, token - token.mean(0))


class Drops(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, nn.functional.dropout(token, 0.5))


class ForgetsAParameter(GRUUpdater):
    def __init__(self, config):
        super().__init__(config)
        self.more = nn.Linear(3, 3)


class TwiceAsSteep(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, 2 * token - token.detach())


class Overflows(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, token) * 1e30


class FiveTimesAsLarge(GRUUpdater):
    def __init__(self, config):
        super().__init__(config)
        self.more = nn.ModuleList(GRUUpdater(config) for _ in range(4))


class LooksAway(GRUUpdater):
    def forward(self, memory, token):
        return super().forward(memory, 0 * token)


class ComputesElsewhere(GRUUpdater):
    def forward(self, memory, token):
        return torch.from_numpy(memory.detach().numpy() + token.detach().numpy()[:, None])


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
    "rows are independent": LooksAcrossRows,
    "deterministic": Drops,
    "gradients reach everything": ForgetsAParameter,
    "gradients are exact": TwiceAsSteep,
    "memory stays bounded": Overflows,
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
    assert {one.detail for one in check("backbone", "examined") if one.state == "failed"} == set()
    assert "complex128" in str(suite.build("examined", ()).build().turn.dtype)


def test_a_gradient_that_is_nan_is_not_exact(clean):
    outcome = outcome_of(RotatesUnseen, "gradients are exact")
    assert outcome.state == "failed" and "says nan" in outcome.detail


def test_every_row_has_its_broken_backbone():
    assert [row.name for row in suite.rows] == list(BROKEN)


@pytest.mark.parametrize("row", BROKEN)
def test_a_row_fails_for_the_backbone_that_breaks_it(clean, row):
    outcome = outcome_of(BROKEN[row], row)
    assert outcome.state == "failed", outcome
    assert outcome.detail and "\n" not in outcome.detail and "Error" not in outcome.detail.split()[0]
    assert outcome.mend


class Counts(GRUUpdater):
    def __init__(self, config):
        super().__init__(config)
        self.calls = 0

    def forward(self, memory, token):
        self.calls += 1
        return super().forward(memory, token) + self.calls


class Grows(GRUUpdater):
    def forward(self, memory, token):
        grown = super().forward(memory[:, : self.config.memory_tokens], token)
        return torch.cat([grown, memory[:, :1]], 1)


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
        (Counts, "deterministic", "failed", "two calls with the same inputs differ by up to 2"),
        (Grows, "memory stays bounded", "failed", "after 1 steps the memory is (3, 4, 8)"),
        (Cuts, "gradients reach everything", "failed", "no gradient reaches the memory"),
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
