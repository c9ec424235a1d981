"""The length curriculum: which lengths there are, when they open, what is drawn of them, and what is refused."""

from __future__ import annotations

import pytest
import torch

from bench.build import build_task
from bench.curriculum import Curriculum, lengths
from bench.errors import BadInput
from bench.feasibility import impossible
from bench.training import Options, Stopped, Trainer
from tests.helpers import folder_of, tiny_run

RETRIEVAL = {"name": "retrieval", "length": 32, "symbols": 2}


def run_of(method="bptt", task=RETRIEVAL, budget=None, training=None, **curriculum):
    training = {"batch_size": 8, "budget": budget or {"tokens": 8 * 400}, **(training or {})}
    return tiny_run(method, dict(task), training={**training, "curriculum": curriculum})


class Watched(Trainer):
    """The trainer, with the phase and the length of every batch kept."""

    def _draw(self, phase):
        batch = super()._draw(phase)
        self.drawn = [*getattr(self, "drawn", []), (phase.name, batch.x.shape[1])]
        return batch


def timeless(point):
    return {name: value for name, value in point.items() if "seconds" not in name}


def curriculum_of(**fields) -> Curriculum:
    run = run_of(**fields)
    return Curriculum(run, build_task(run))


@pytest.mark.parametrize(
    ("task", "given", "wanted"),
    [
        (RETRIEVAL, None, (8, 16, 32)),
        ({**RETRIEVAL, "length": 40}, None, (8, 16, 32, 40)),
        (RETRIEVAL, [4, 6, 32, 64], (4, 6, 32)),  # one list for tasks of several lengths
        ({"name": "keys-values", "length": 35, "span": 4}, None, (16, 32, 35)),  # 8 columns hold no pair and question
    ],
)
def test_lengths_rise_to_the_tasks_own(task, given, wanted):
    run = run_of(task=task, below=0.1, lengths=given)
    assert lengths(run, build_task(run)) == wanted
    assert impossible(run) is None


def test_the_next_length_opens_once_the_mean_loss_of_the_longest_is_near_the_floor():
    corrupted = {**RETRIEVAL, "corruption": 0.5}
    curriculum = curriculum_of(task=corrupted, below=0.1, batches=2)
    floor = curriculum.floors[0]
    assert floor > 0.4  # nats, of labels of which half are drawn again
    for loss, longest in ((floor, 8), (floor + 0.3, 8), (floor + 0.3, 8), (floor, 8), (floor, 8), (floor + 0.1, 16)):
        assert curriculum.draw(0.0) == 8
        curriculum.learn(torch.tensor(loss))
        assert curriculum.longest == longest  # looked at after the second, the fourth and the sixth batch
    for _ in range(20):
        short = curriculum.draw(0.0) == 8
        curriculum.learn(torch.tensor(10.0 if short else floor))  # what is shorter is not asked any more
    assert curriculum.longest == 32


def test_lengths_may_open_evenly_with_the_budget():
    curriculum = curriculum_of(within=0.6, mixed=False)
    shares = (0.0, 0.19, 0.21, 0.39, 0.41, 0.6, 1.0)
    assert [curriculum.draw(share) for share in shares] == [8, 8, 16, 16, 32, 32, 32]


def test_mixed_batches_have_each_open_length_equally_often():
    curriculum = curriculum_of(within=0.1)
    drawn = [curriculum.draw(1.0) for _ in range(3000)]
    assert all(drawn.count(length) == pytest.approx(1000, abs=130) for length in (8, 16, 32))  # 5 standard errors
    again = curriculum_of(within=0.1)
    assert drawn == [again.draw(1.0) for _ in range(3000)]


def test_the_rate_is_multiplied_from_the_second_length_on(tmp_path):
    run = run_of(within=0.5, rate=0.1, training={"optimiser": {"lr": 1.0, "warmup": 0.0}})
    trainer, rates = Trainer(run, folder_of(run, tmp_path)), []
    trainer.options.should_stop = lambda: rates.append(
        (trainer.curriculum.longest, trainer.engine.optimiser.param_groups[0]["lr"])
    )
    trainer.train()
    assert set(rates) == {(8, 1.0), (16, 0.1), (32, 0.1)}


SMTDMT = {"name": "smt+dmt", "dmt": {"share": 0.5, "every": 3, "batch_size": 8}}


@pytest.mark.parametrize("method", ["bptt", "transformer", SMTDMT], ids=str)
@pytest.mark.parametrize("opens", [{"below": 3.0, "batches": 2}, {"within": 0.4}], ids=str)
def test_tokens_are_counted_and_a_stopped_run_goes_on_to_the_same_bits(tmp_path, method, opens):
    run = run_of(method, **opens)
    whole = Watched(run, folder_of(run, tmp_path / "whole"))
    result = whole.train()
    assert result["costs"]["tokens"] == sum(8 * length for _, length in whole.drawn)
    assert {length for _, length in whole.drawn} == {8, 16, 32}
    assert whole.curve[-1]["train_length"] == 32
    pieces = folder_of(run, tmp_path / "pieces")
    for after in (2, 1, 9):
        with pytest.raises(Stopped):
            Trainer(run, pieces, Options(should_stop=iter([False] * after + [True]).__next__)).train()
    trainer = Trainer(run, pieces)
    assert trainer.train()["scores"] == result["scores"]
    assert [timeless(point) for point in trainer.curve] == [timeless(point) for point in whole.curve]


TBPTT = {"name": "tbptt", "k1": 4, "k2": 4}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"method": TBPTT, "task": {"name": "parity", "length": 32}}, "tbptt learns from a stream, whose columns"),
        ({"task": {**RETRIEVAL, "length": 8}}, "retrieval of length 8 has no shorter length to begin with"),
        ({"lengths": [2, 8]}, "retrieval: length 2 given; should be at least 3"),
        ({"budget": {"flops": 1e9}}, "a budget in flops prices a token at one length"),
        ({"task": {"name": "digits", "length": 32}}, "the least loss of digits is not known; give `within` instead"),
        ({"method": {"name": "smt", "whole_futures": True, "future": 4}}, "whole_futures needs batches of one length"),
    ],
)
def test_a_curriculum_that_makes_no_sense_is_refused_in_one_line(fields, reason):
    assert reason in impossible(run_of(below=0.1, **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give exactly one of below and within"),
        ({"below": 0.1, "within": 0.5}, "give exactly one of below and within"),
        ({"below": 0.1, "lengths": [16, 8]}, "should rise"),
    ],
)
def test_a_curriculum_says_when_lengths_open(fields, message):
    with pytest.raises(BadInput, match=message):
        run_of(**fields)


def test_a_phase_with_a_length_of_its_own_keeps_it(tmp_path):
    run = run_of({**SMTDMT, "length": 12}, within=0.5)
    trainer = Watched(run, folder_of(run, tmp_path))
    trainer.train()
    assert set(trainer.drawn) == {("smt", 12), ("dmt", 8), ("dmt", 16), ("dmt", 32)}
