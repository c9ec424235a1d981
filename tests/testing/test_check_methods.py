"""Every built-in method keeps the contract; each row fails for a method that is broken in just that way."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import ClassVar

import pytest
import torch
from pydantic import field_validator

from bench import registry
from bench.cli import main
from bench.engine import Engine
from bench.methods import EVERY, Carry, MethodConfig, cross_entropy
from bench.methods.bptt import BPTT
from bench.methods.rtrl import RTRL
from bench.methods.tbptt import TBPTT
from bench.models.backbone import map_tree
from bench.testing import check, conformance
from bench.testing.method import Broken, Subject, suite
from tests.helpers import LRU

FAST = dict.fromkeys(("uoro", "nobacktrack", "kf-rtrl", "artbp"), ("model.backbone=tanh", "model.readout=linear"))
"""Other settings than those of `check`, for methods of which many draws are looked at."""
for name in registry.methods.names():
    globals()[f"test_{name.replace('+', '_')}"] = conformance("method", name, FAST.get(name, ()))


class GivesANumber(BPTT):
    def gradients(self, batch, phase):
        for scalars in super().gradients(batch, phase):
            yield {"loss": scalars["loss"].item()}


class TrainsOnHidden(BPTT):
    def gradients(self, batch, phase):
        yield from super().gradients(batch._replace(y=batch.y.clamp(min=0)), phase)


class Remembers(BPTT):
    calls: ClassVar[int] = 0

    def gradients(self, batch, phase):
        Remembers.calls += 1
        for scalars in super().gradients(batch, phase):
            self.rnn.embedding.weight.grad.mul_(1 + Remembers.calls % 7)
            yield scalars


class DrawsGlobally(BPTT):
    def gradients(self, batch, phase):
        torch.rand(1)
        yield from super().gradients(batch, phase)


class LooksAcrossRows(BPTT):
    def predict(self, x, columns=EVERY):
        logits = super().predict(x, columns)
        return logits - logits.mean(0)


class SeesTheFuture(BPTT):
    def predict(self, x, columns=EVERY):
        return super().predict(x, columns) + x.flip(1).cumsum(1).flip(1)[:, columns, None]


class KeepsEverything(BPTT):
    def initial_state(self, lanes):
        return super().initial_state(lanes), ()

    def advance(self, state, x, columns=EVERY, start=None):
        logits, now = super().advance(state[0], x, columns, start)
        return logits, (now, (*state[1], x))


class ForgetsAParameter(BPTT):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.more = torch.nn.Linear(3, 3)


class HalfAsSteep(BPTT):
    def gradients(self, batch, phase):
        for scalars in super().gradients(batch, phase):
            self.rnn.embedding.weight.grad.div_(2)
            yield scalars


class NeverBeginsAnew(TBPTT):
    def losses(self, batch, drawn, carry, phase):
        return super().losses(batch._replace(start=torch.zeros_like(batch.start)), drawn, carry, phase)


class DropsTheStateAtEdges(TBPTT):
    def losses(self, batch, drawn, carry, phase):
        return super().losses(batch, drawn, self.begin(len(batch.x)), phase)


class KeepsItsStateToItself(TBPTT):
    """Beside the carry."""

    own = None

    def losses(self, batch, drawn, carry, phase):
        found, self.own = super().losses(batch, drawn, self.own or carry, phase)
        self.own = Carry(*(map_tree(torch.Tensor.detach, part) for part in self.own))
        return found, carry


class DropsEstimatesAtEdges(RTRL):
    """Its influence lasts no longer than a piece."""

    at_edge = False

    def direction(self, gradient, shared):
        self.at_edge = True
        return gradient

    def step(self, carry, x_t, y_t, drawn_t):
        if self.at_edge:
            carry = Carry((carry.lanes[0], self.begin(len(x_t)).lanes[1]))
        self.at_edge = False
        return super().step(carry, x_t, y_t, drawn_t)


class CountsBesideTheCheckpoint(BPTT):
    def gradients(self, batch, phase):
        self.calls = getattr(self, "calls", 0) + 1
        for scalars in super().gradients(batch, phase):
            self.rnn.embedding.weight.grad.mul_(1 + self.calls % 3)
            yield scalars


class Climbs(BPTT):
    gradient_is: ClassVar = {}

    def gradients(self, batch, phase):
        loss = -cross_entropy(self.predict(batch.x), batch.y)
        loss.backward()
        yield {"loss": -loss.detach()}


class ComputesElsewhere(BPTT):
    gradient_is: ClassVar = {}

    def gradients(self, batch, phase):
        for parameter in self.parameters():
            parameter.grad = parameter.detach()
        yield {"loss": torch.tensor(0.0)}


class Trips(MethodConfig):
    width: int = 3

    @field_validator("width", mode="before")
    @classmethod
    def _look_up(cls, value):
        return {3: 3}[value if isinstance(value, int) else "none"]


class TripsOverConfig(BPTT):
    Config = Trips


BROKEN = {
    "phases and shapes": GivesANumber,
    "labels of -1 are not scored": TrainsOnHidden,
    "deterministic": Remembers,
    "no global random state": DrawsGlobally,
    "any cut gives the same": LooksAcrossRows,
    "no leak from the future": SeesTheFuture,
    "state of constant size": KeepsEverything,
    "gradients reach what trains": ForgetsAParameter,
    "gradients are what is promised": HalfAsSteep,
    "carries on in a stream": NeverBeginsAnew,
    "resumes exactly": CountsBesideTheCheckpoint,
    "learns an easy task": Climbs,
    "cost can be traced": ComputesElsewhere,
    "polite on bad config": TripsOverConfig,
}


def outcome_of(cls, row_name):
    registry.register_method("examined")(cls)
    (row,) = (row for row in suite.rows if row.name == row_name)
    return suite.outcome(row, "examined")


def test_every_row_has_its_broken_method():
    assert [row.name for row in suite.rows] == list(BROKEN)


@pytest.mark.parametrize("row", BROKEN)
def test_a_row_fails_for_the_method_that_breaks_it(clean, row):
    outcome = outcome_of(BROKEN[row], row)
    assert outcome.state == "failed", outcome
    assert outcome.detail and "\n" not in outcome.detail
    assert outcome.fix


class Streams(BPTT):
    """Yields at every step; each yield's gradient is that of the step's mean, through all steps before it."""

    def gradients(self, batch, phase):
        logits = self.predict(batch.x)
        for t in range(batch.x.shape[1]):
            loss = cross_entropy(logits[:, t], batch.y[:, t])
            loss.backward(retain_graph=True)
            yield {"loss": loss.detach()}


class Noisy(BPTT):
    """Unbiased: the gradient times noise of mean one, drawn for every parameter."""

    mean = 1.0
    gradient_is: ClassVar = {"train": "unbiased"}

    def gradients(self, batch, phase):
        for scalars in super().gradients(batch, phase):
            for parameter in self.parameters():
                sign = torch.randint(2, (1,), generator=self.noise).item() * 2 - 1
                parameter.grad.mul_(self.mean + 0.5 * sign)
            yield scalars


class Biased(Noisy):
    mean = 4 / 3


@pytest.mark.parametrize(("cls", "state"), [(Streams, "passed"), (Noisy, "passed"), (Biased, "failed")])
def test_promises_of_estimates_and_of_online_gradients_are_examined(clean, cls, state):
    outcome = outcome_of(cls, "gradients are what is promised")
    assert outcome.state == state, outcome.detail
    assert cls is not Biased or "standard error" in outcome.detail


@pytest.mark.parametrize(
    ("cls", "row"),
    [
        (DropsTheStateAtEdges, "carries on in a stream"),
        (KeepsItsStateToItself, "resumes exactly"),
        (DropsEstimatesAtEdges, "carries on in a stream"),
    ],
)
def test_a_stream_that_is_not_carried_on_is_found(clean, cls, row):
    assert outcome_of(cls, row).state == "failed"


class DrawsAtEveryColumn(RTRL):
    """Noise of its own for each lane and column."""

    def draw(self, shape, phase):
        return torch.randn(shape[::-1], generator=self.noise, device=self.noise.device)

    def step(self, carry, x_t, y_t, drawn_t):
        carry, credit = super().step(carry, x_t, y_t, drawn_t)
        noisy = {name: gradient * drawn_t.mean() for name, gradient in credit.gradient.items()}
        return carry, credit._replace(gradient=noisy)


class DrawsAndDropsEstimates(DropsEstimatesAtEdges, DrawsAtEveryColumn):
    pass


@pytest.mark.parametrize(("cls", "state"), [(DrawsAtEveryColumn, "passed"), (DrawsAndDropsEstimates, "failed")])
def test_noise_of_an_online_method_is_no_matter_of_where_its_batches_are_cut(clean, cls, state):
    assert outcome_of(cls, "carries on in a stream").state == state


@pytest.mark.parametrize("name", ["tbptt", "rtrl"])
def test_a_carry_that_is_dropped_when_a_run_goes_on_is_found(monkeypatch, name):
    load = Engine.load_state_dict
    monkeypatch.setattr(Engine, "load_state_dict", lambda engine, state: load(engine, {**state, "carry": None}))
    (row,) = (row for row in suite.rows if row.name == "resumes exactly")
    assert suite.outcome(row, name).state == "failed"


class LosesTheImaginaryPart(LRU):
    def gradients(self, batch, phase):
        for scalars in super().gradients(batch, phase):
            self.decay.grad = self.decay.grad.real.to(self.decay.dtype)
            yield scalars


def test_complex_parameters_keep_every_promise(clean):
    registry.register_method("examined")(LRU)
    assert {outcome.detail for outcome in check("method", "examined") if outcome.state == "failed"} == set()


def test_a_gradient_without_its_imaginary_part_is_not_exact(clean):
    outcome = outcome_of(LosesTheImaginaryPart, "gradients are what is promised")
    assert outcome.state == "failed" and "a direction of decay" in outcome.detail


def test_a_promise_of_another_gradient_is_broken(clean):
    class Unclear(BPTT):
        gradient_is: ClassVar = {"train": "nearly"}

    assert "should be exact, unbiased or own" in outcome_of(Unclear, "gradients are what is promised").detail


@pytest.mark.parametrize(
    ("kinds", "backbone"), [(("linear",), "lru"), (("elementwise", "linear"), "elstm"), (("linear", "dense"), "lru")]
)
def test_a_method_is_examined_with_a_backbone_of_a_kind_that_it_trains(clean, monkeypatch, kinds, backbone):
    monkeypatch.setattr(registry.methods.get("bptt"), "recurrences", kinds)
    assert Subject("bptt", ()).run().model.backbone == backbone


def test_a_method_of_which_no_backbone_is_here_is_told_so(clean, monkeypatch):
    monkeypatch.setattr(registry.methods.get("bptt"), "recurrences", ("elementwise",))
    del registry.backbones._classes["elstm"]
    with pytest.raises(Broken, match="bptt trains elementwise recurrences only; that of transformer is dense"):
        Subject("bptt", ()).run()


def test_overrides_reach_the_runs(clean):
    outcome = next(check("method", "bptt", ["method.nothing=3"]))
    assert outcome.state == "failed" and "nothing" in outcome.detail


PLUGIN = """
from bench.methods import register_method
from bench.methods.bptt import BPTT

@register_method("plugged")
class Plugged(BPTT):
    gradient_is = {"trains": "exact"}
"""


@pytest.mark.slow
def test_the_command_tells_what_to_mend_in_a_table_in_json_and_in_junit(clean, tmp_path, capsys):
    file, junit = tmp_path / "plugged.py", tmp_path / "out" / "junit.xml"
    file.write_text(PLUGIN)
    assert main(["check", "--plugin", str(file), "--junit", str(junit)]) == 1
    shown = capsys.readouterr().out
    assert "gradient_is names trains, which is not a phase" in shown
    assert "to fix 'gradients are what is promised': correct the gradient" in shown
    assert "12 passed, 1 failed, 1 not applicable" in shown
    (found,) = ET.parse(junit).getroot().findall("testsuite")
    assert (found.get("tests"), found.get("failures")) == ("14", "1")
    assert "not a phase" in found.find("testcase/failure").get("message")
    assert main(["check", "plugged", "--plugin", str(file), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in rows if row["state"] == "failed"] == ["gradients are what is promised"]


def test_a_plugin_with_nothing_to_check_fails(clean, tmp_path, capsys):
    file = tmp_path / "empty.py"
    file.write_text("")
    assert main(["check", "--plugin", str(file)]) == 1
    assert "nothing could be checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to check; give NAME, --plugin FILE, or --all"),
        (["bpt"], "did you mean 'bptt'"),
        (["transformer", "--kind", "methods"], "did you mean 'method'"),
        (["gru", "--kind", "method"], "'gru' is unknown"),
    ],
)
def test_a_wrong_name_is_answered_in_one_line(capsys, arguments, message):
    assert main(["check", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
