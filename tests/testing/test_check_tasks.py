"""Every built-in task keeps the contract; each row fails for a task that is broken in just that way."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import pytest
import torch
from pydantic import field_validator

from bench import registry, streams
from bench.tasks import IGNORED, Batch, Task, TaskConfig
from bench.tasks.digits import Digits
from bench.tasks.modular_arithmetic import ModularArithmetic
from bench.tasks.parity import Parity
from bench.tasks.recency import Recency
from bench.tasks.retrieval import Retrieval
from bench.tasks.stack import Stack
from bench.tasks.string_copy import StringCopy
from bench.testing import check, conformance
from bench.testing.task import suite
from tests.tasks import oracles
from tests.tasks.test_natural import drawings, images, prepared  # noqa: F401 (small data in the true formats)
from tests.tasks.test_synthetic import LENGTHS, NAMES, VARIANTS, all_rules, build, draw

test_retrieval = conformance("task", "retrieval")
test_retrieval_corrupted = conformance("task", "retrieval", ["task.corruption=0.2", "task.needle_to=1.0"])
test_string_copy = conformance("task", "string-copy")
test_string_copy_corrupted = conformance("task", "string-copy", ["task.corruption=0.5", "task.reverse=false"])
test_stack = conformance("task", "stack")
test_keys_values = conformance("task", "keys-values")
test_modular_arithmetic = conformance("task", "modular-arithmetic")
test_modular_arithmetic_of_some_rules = conformance(
    "task", "modular-arithmetic", ["task.modulus=12", "task.w=[2, 9]", "task.b=[3, 7]"]
)
test_parity = conformance("task", "parity")
test_parity_of_few_bits = conformance("task", "parity", ["task.length=5", "task.every_step=false"])
test_recency = conformance("task", "recency")
test_primacy = conformance("task", "recency", ["task.primacy=true", "task.decay=0.5"])
test_anbn = conformance("task", "anbn", ["task.length=40", "task.most=3"])
test_brackets = conformance("task", "brackets", ["task.length=40", "task.word=2", "task.letters=4"])
test_add_lags = conformance("task", "add-lags", ["task.length=40", "task.near=2", "task.far=3"])
test_copy_curriculum = conformance("task", "copy-curriculum")
test_digits = conformance("task", "digits")
test_digits_from_anywhere = conformance("task", "digits", ["task.start=anywhere"])
test_mnist = conformance("task", "mnist")
test_sketchy = conformance("task", "sketchy")
test_tinystories = conformance("task", "tinystories")
test_tinystories_apart = conformance("task", "tinystories", ["task.separator=true"])


# Oracles


@pytest.mark.parametrize(("name", "knobs"), [(name, knobs) for name in NAMES for knobs in VARIANTS[name]])
@pytest.mark.parametrize("length", LENGTHS)
def test_oracles_say_what_plain_python_says(name, knobs, length):
    task = build(name, **knobs)
    x, y, _ = draw(task, 40, length)
    likely = task.oracle(x)
    assert likely.shape == (*x.shape, task.output_size) and likely.dtype == torch.float64
    for row, labels, found in zip(x.tolist(), y.tolist(), likely.tolist(), strict=True):
        if name == "recency":
            assert found[-1] == pytest.approx([p for _, p in sorted(oracles.recency(task.config, row).items())])
            continue
        if name == "modular-arithmetic":
            expected = posteriors(row, **{"modulus": 8, **knobs})
        else:
            labels = oracles.ORACLES[name](task.config, row)
            expected = np.eye(task.output_size)[labels]
        for label, given, wanted in zip(labels, found, expected, strict=True):
            assert label == IGNORED or given == pytest.approx(wanted)


def posteriors(x: list[int], modulus: int, **ranges: list[int]) -> list[list[float]]:
    """For every position, each answer's share of the rules that agree with the examples before it."""
    rules, shares = all_rules(modulus, **ranges), []
    for i, o in zip(x[::2], x[1::2], strict=True):
        answers = [(w * i + b) % modulus for w, b in rules]
        shares += 2 * [[answers.count(label) / len(rules) for label in range(modulus)]]
        rules = [rule for rule, answer in zip(rules, answers, strict=True) if answer == o]
    return shares


@pytest.mark.parametrize("name", ["retrieval", "string-copy"])
def test_oracles_know_of_corruption(name):
    task = build(name, corruption=0.4, symbols=4)
    x, y, _ = draw(task, 4, 16)
    likely = task.oracle(x)[y != IGNORED]
    assert set(likely.round(decimals=12).flatten().tolist()) == {0.0, 0.1, 0.7}  # the id symbol, a wrong one, the right


# Broken tasks


class HalfAsWide(Parity):
    def sample(self, split, batch_size, length, generator):
        x, y, _ = super().sample(split, batch_size, length, generator)
        return Batch(x, y.int())


class ScoresElsewhere(Parity):
    def scored_columns(self, length):
        return range(1, length)


class Remembers(Parity):
    calls = count()

    def sample(self, split, batch_size, length, generator):
        x, _, _ = super().sample(split, batch_size, length, generator)
        x[:, 0] = next(Remembers.calls) % 2
        return Batch(x, x.cumsum(1) % 2)


class DrawsGlobally(Parity):
    def sample(self, split, batch_size, length, generator):
        np.random.rand()  # noqa: NPY002
        return super().sample(split, batch_size, length, generator)


class OnePool(Parity):
    def sample(self, split, batch_size, length, generator):
        pool = super().sample(split, 4000, length, streams.generator(0, "pool"))
        chosen = torch.randint(4000, (batch_size,), generator=generator)
        return Batch(pool.x[chosen], pool.y[chosen])


class NeverBegins(Parity):
    def stream(self, *arguments):
        batch, state = super().stream(*arguments)
        return batch._replace(start=torch.zeros_like(batch.start)), state


class KnowsOfAllColumnsOnly(Parity):
    def chance(self, length):
        return 1 / 2


class GuessesTheIdSymbolToo(Retrieval):
    def chance(self, length, score_from=0):
        return 1 / self.vocab_size


class BelowItsRules(Recency):
    def accuracy_ceiling(self, length, score_from=0):
        return 0.18


class TooProud(ModularArithmetic):
    def accuracy_ceiling(self, length, score_from=0):
        return super().accuracy_ceiling(length, score_from) + 0.01


class AsksForTheFuture(Parity):
    def sample(self, split, batch_size, length, generator):
        x, _, _ = super().sample(split, batch_size, length, generator)
        return Batch(x, x.roll(-1, 1))

    def oracle(self, x):
        return torch.nn.functional.one_hot(x.roll(-1, 1), 2).double()


class RowByRow(Stack):
    def sample(self, split, batch_size, length, generator):
        rows = [super(RowByRow, self).sample(split, 1, length, generator) for _ in range(batch_size)]
        return Batch(torch.cat([row.x for row in rows]), torch.cat([row.y for row in rows]))


class Trips(TaskConfig):
    depth: int = 3

    @field_validator("depth", mode="before")
    @classmethod
    def _look_up(cls, value):
        return {3: 3}[value if isinstance(value, int) else "none"]


class TripsOverConfig(Parity):
    Config = Trips

    def scored_columns(self, length):
        return range(length)


BROKEN = {
    "shapes, dtypes and ranges": HalfAsWide,
    "scored columns": ScoresElsewhere,
    "deterministic": Remembers,
    "no global random state": DrawsGlobally,
    "splits are disjoint": OnePool,
    "streams continue": NeverBegins,
    "facts are numbers": KnowsOfAllColumnsOnly,
    "chance is blind guessing": GuessesTheIdSymbolToo,
    "nothing trivial is too good": BelowItsRules,
    "floor and ceiling are the oracle's": TooProud,
    "labels follow from the past": AsksForTheFuture,
    "sampling is vectorised": RowByRow,
    "polite on bad config": TripsOverConfig,
}


def outcome_of(cls: type[Task], row_name: str, *sets: str):
    registry.register_task("examined")(cls)
    (row,) = (row for row in suite.rows if row.name == row_name)
    return suite.outcome(row, "examined", sets)


def test_every_row_has_its_broken_task():
    assert [row.name for row in suite.rows] == list(BROKEN)


@pytest.mark.parametrize("row", BROKEN)
def test_a_row_fails_for_the_task_that_breaks_it(clean, row):
    outcome = outcome_of(BROKEN[row], row)
    assert outcome.state == "failed", outcome
    assert outcome.detail and "\n" not in outcome.detail and "Error" not in outcome.detail.split()[0]
    assert outcome.fix


class OutOfRange(Parity):
    vocab_size = 1


class ScoresNothing(Parity):
    def sample(self, split, batch_size, length, generator):
        x, y, _ = super().sample(split, batch_size, length, generator)
        return Batch(x, torch.full_like(y, IGNORED))


class AlwaysTheSame(Parity):
    def sample(self, split, batch_size, length, generator):
        return super().sample(split, batch_size, length, streams.generator(0, "mine"))


class TrainsOnTest(Digits):
    def split_arrays(self, arrays, split):
        return super().split_arrays(arrays, "train" if split == "test" else split)


class DrawsEveryPiece(Parity):
    def stream(self, split, lanes, length, generator, state=None):
        batch = self.sample(split, lanes, length, generator)
        first = ((torch.arange(batch.x.shape[1]) == 0) & (state is None)).expand(lanes, -1)
        return batch._replace(start=first), (torch.zeros(lanes),)


class SaysThatItContinues(Parity):
    continues = True


class StateInAList(Parity):
    def stream(self, *arguments):
        batch, state = super().stream(*arguments)
        return batch, list(state)


class FloorTooHigh(Parity):
    def loss_floor(self, length, score_from=0):
        return 0.72


class FloorWithoutCeiling(Recency):
    def loss_floor(self, length, score_from=0):
        return 0.5


class CeilingOfAllColumns(ModularArithmetic):
    def accuracy_ceiling(self, length, score_from=0):
        return super().accuracy_ceiling(length)


class FloorIsNaN(Parity):
    def loss_floor(self, length, score_from=0):
        return torch.tensor(float("nan"))


class CountsOnBytes(Digits):
    output_size = 256

    def chance(self, length, score_from=0):
        return 1 / 256


class HoldsForImpossible(Parity):
    def oracle(self, x):
        return super().oracle(x).flip(-1)


class KnowsNothing(Parity):
    def oracle(self, x):
        return super().oracle(x) * math.nan


class IntoLists(StringCopy):
    """No operator of torch for each row, but a Python loop all the same."""

    def sample(self, split, batch_size, length, generator):
        x, y, _ = super().sample(split, batch_size, length, generator)
        rows = []
        for row in x.tolist():
            rows.append(row)
        return Batch(torch.tensor(rows), y)


class BreaksAtLengthOne(StringCopy):
    def sample(self, split, batch_size, length, generator):
        if length < 2:
            raise RuntimeError("no room")
        return super().sample(split, batch_size, length, generator)


class HasNothingToAsk(Parity):
    def sample(self, split, batch_size, length, generator):
        x, y, _ = super().sample(split, batch_size, length, generator)
        y[:, :4] = IGNORED
        return Batch(x, y)


@pytest.mark.parametrize(
    ("cls", "row", "message"),
    [
        (OutOfRange, "shapes, dtypes and ranges", "x is in 0..1; should be below 1"),
        (ScoresNothing, "scored columns", "no label of 512 sequences is scored"),
        (AlwaysTheSame, "deterministic", "are the same whatever the generator's seed"),
        (TrainsOnTest, "splits are disjoint", "windows of the test split are in the training data"),
        (DrawsEveryPiece, "streams continue", "differs between pieces"),
        (StateInAList, "streams continue", "the state is list"),
        (SaysThatItContinues, "streams continue", "lanes go on without end, but one restarts"),
        (FloorTooHigh, "nothing trivial is too good", "the loss floor is 0.7200 nats; should be from 0 to log 2"),
        (FloorWithoutCeiling, "nothing trivial is too good", "a loss floor of 0.5000 nats needs a ceiling of 0.6065"),
        (FloorIsNaN, "facts are numbers", "loss_floor is tensor(nan); should be a number from 0 on"),
        (CountsOnBytes, "chance is blind guessing", "chance 0.003906; 17 of 256 labels occur"),
        (CeilingOfAllColumns, "floor and ceiling are the oracle's", "scored from 16: the oracle's accuracy is"),
        (HoldsForImpossible, "floor and ceiling are the oracle's", "100.00% of the labels"),
        (KnowsNothing, "floor and ceiling are the oracle's", "sum to 1 only within nan"),
        (IntoLists, "sampling is vectorised", "for 512"),
        (BreaksAtLengthOne, "polite on bad config", "drawing length 1 ends in RuntimeError"),
        (HasNothingToAsk, "polite on bad config", "length 1 is drawn, but no label is scored"),
    ],
)
def test_other_ways_to_break_a_row(clean, cls, row, message):
    outcome = outcome_of(cls, row)
    assert outcome.state == "failed" and message in outcome.detail, outcome


def test_few_instances_are_told_from_a_pool(clean):
    few = outcome_of(type("Few", (Parity,), {}), "splits are disjoint", "task.length=4")
    assert (
        few.state == "passed"
        and "1024 held-out sequences of length 4 are also in another split, as there are few of them" in few.detail
    )
    fixed = ["task.pairs=1", "task.span=1", "task.key_symbols=1"]
    outcome = next(outcome for outcome in check("task", "keys-values", fixed) if outcome.row == "splits are disjoint")
    assert outcome.state == "skipped" and "a few instances, or one pool for all splits" in outcome.detail


def test_a_task_without_its_data_is_examined_as_far_as_it_goes(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    outcomes = {outcome.row: outcome for outcome in check("task", "mnist")}
    assert outcomes.pop("polite on bad config").state == "passed"
    assert {outcome.state for outcome in outcomes.values()} == {"skipped"}
    assert all("mnist: its data is not here; bring it with" in outcome.detail for outcome in outcomes.values())


def test_a_task_without_an_oracle_is_not_judged_by_one(clean):
    without = type("Without", (Parity,), {"oracle": Task.oracle})
    for row in ("floor and ceiling are the oracle's", "labels follow from the past"):
        assert outcome_of(without, row).state == "skipped"


def test_an_unknown_knob_is_answered_in_one_line():
    outcome = next(check("task", "parity", ["task.lenght=3", "training.batch_size=2"]))
    assert outcome.state == "failed" and "did you mean 'length'" in outcome.detail
