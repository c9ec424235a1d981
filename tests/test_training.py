"""The training loop: budgets, phases, schedules, evaluation, early end, and resuming to the same bits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bench import compiling, registry, streams
from bench.build import build_method, build_task
from bench.config import Optimiser, TrainingConfig
from bench.engine import Engine
from bench.errors import BadInput
from bench.methods.base import EVERY, Method, Phase, Predictor, RecurrentMethod, cross_entropy
from bench.methods.bptt import BPTT
from bench.optimiser import rate
from bench.report.data import load
from bench.report.sections.summary import exhibits
from bench.results import Folder, load_tensors, read_json
from bench.tasks.base import IGNORED, Batch
from bench.training import (
    Diverged,
    Options,
    Stopped,
    Trainer,
    evaluation_set,
    score,
)
from tests.helpers import LRU, TINY, few, folder_of, tiny_run

DMT = {"name": "smt+dmt", "dmt": {"share": 0.5, "every": 3, "batch_size": 8}}


def trained(run, root, **options) -> Folder:
    folder = folder_of(run, root)
    Trainer(run, folder, Options(**options)).train()
    return folder


def outcome(folder: Folder) -> tuple:
    """Everything of a cell but its timings."""

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if not key.endswith("_seconds")}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    result = read_json(folder / "result.json")
    files = sorted(file.name for file in folder.path.glob("weights-*.pt"))
    weights = {name: {k: v.numpy().tobytes() for k, v in load_tensors(folder / name).items()} for name in files}
    return timeless(read_json(folder / "curve.json")), timeless(result["scores"]), timeless(result["costs"]), weights


class Interrupt:
    """Asks to stop at the n-th look."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


CELLS = {
    "bptt": {"method": "bptt"},
    "transformer": {"method": "transformer"},
    "smt+dmt": {"method": DMT},
    "gru": {"method": DMT, "model": {"backbone": "gru", "d": 8, "heads": 2, "memory_tokens": 2}},
    "accumulated": {"method": "smt", "training": {"batch_size": 8, "accumulate": 3, "budget": {"tokens": 1400}}},
}


@pytest.mark.parametrize("name", CELLS)
def test_equal_configs_give_equal_bits(tmp_path, name):
    run = tiny_run(**CELLS[name])
    assert outcome(trained(run, tmp_path / "a")) == outcome(trained(run, tmp_path / "b"))
    torch.manual_seed(99)  # the global generator plays no part
    assert outcome(trained(run, tmp_path / "c")) == outcome(Folder(tmp_path / "a" / run.id))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("after", few([7, 1, 4, 6, 11], 2))
def test_a_stopped_and_continued_run_equals_one_that_was_not(tmp_path, name, after):
    run = tiny_run(**CELLS[name])
    whole = trained(run, tmp_path / "whole")
    folder = folder_of(run, tmp_path / "pieces")
    with pytest.raises(Stopped):
        Trainer(run, folder, Options(should_stop=Interrupt(after))).train()
    assert (folder / "checkpoint.pt").is_file() and not (folder / "result.json").exists()
    Trainer(run, folder).train()
    assert outcome(folder) == outcome(whole)
    assert not (folder / "checkpoint.pt").exists()


def test_a_method_that_learns_online_from_a_stream_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """Several steps a batch, a memory carried from one piece of a sequence to the next."""
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))

    @registry.register_method("online")
    class Online(RecurrentMethod):
        data = "streams"

        def gradients(self, batch, phase):
            fresh = self.rnn.initial_state(len(batch.x))
            memory = fresh if self.carry is None else torch.where(batch.start[:, 0, None, None], fresh, self.carry)
            for x_t, y_t in zip(batch.x.unbind(1), batch.y.unbind(1), strict=True):
                memory = self.rnn.update(memory.detach(), x_t)
                loss = cross_entropy(self.rnn.read(memory.flatten(1)), y_t) + 0 * torch.rand((), generator=self.noise)
                loss.backward()
                yield {"loss": loss.detach()}
            self.carry = memory.detach()

    run = tiny_run(
        "online", {"name": "parity", "length": 12}, training={"batch_size": 4, "budget": {"tokens": 4 * 12 * 9}}
    )
    whole = trained(run, tmp_path / "whole")
    assert read_json(whole / "result.json")["costs"]["steps"] == 12 * 9
    folder = folder_of(run, tmp_path / "pieces")
    for after in (2, 3, 1):
        with pytest.raises(Stopped):
            Trainer(run, folder, Options(should_stop=Interrupt(after))).train()
    Trainer(run, folder).train()
    assert outcome(folder) == outcome(whole)


def test_a_checkpoint_at_every_step_changes_nothing(tmp_path):
    run = tiny_run(DMT)
    often = trained(run, tmp_path / "often", checkpoint_seconds=0.0, report_seconds=0.0)
    assert outcome(often) == outcome(trained(run, tmp_path / "never"))


def test_a_checkpoint_of_other_code_is_not_continued(tmp_path, capsys):
    run = tiny_run()
    folder = folder_of(run, tmp_path)
    with pytest.raises(Stopped):
        Trainer(run, folder, Options(should_stop=Interrupt(3))).train()
    trainer = Trainer(run, folder)
    trainer.digest = "another"
    trainer.train()
    assert "written by other code than this; started again" in capsys.readouterr().out


def test_phases_share_the_budget_and_keep_their_weights(tmp_path):
    run = tiny_run({"name": "smt+dmt", "dmt": {"share": 0.25, "every": 3, "batch_size": 4}})
    folder = trained(run, tmp_path)
    curve = read_json(folder / "curve.json")
    assert [point["steps"] for point in curve if point["phase"] == "smt"][-1] == 9
    assert curve[-1] | {"phase": "dmt", "steps": 12, "tokens": 12 * (9 * 8 + 3 * 4)} == curve[-1]
    smt, dmt = (load_tensors(folder.weights(phase)) for phase in ("smt", "dmt"))
    frozen = [name for name in smt if name.startswith("teacher")]
    assert frozen and all(torch.equal(smt[name], dmt[name]) for name in frozen)
    assert any(not torch.equal(smt[name], dmt[name]) for name in smt if name.startswith("rnn"))


def test_dmt_begins_from_the_averaged_weights_of_smt(tmp_path, monkeypatch):
    found = {}

    def leave(engine):
        found[engine.phase.name] = {
            "last": [parameter.clone() for parameter in engine.parameters],
            "average": engine.average,
        }
        kept(engine)

    kept = Engine.leave
    monkeypatch.setattr(Engine, "leave", leave)
    training = {"batch_size": 8, "budget": {"steps": 12}, "optimiser": {"lr": 0.01, "ema": 0.9}}
    run = tiny_run({"name": "smt+dmt", "dmt": {"share": 0.5, "every": 3, "batch_size": 4}}, training=training)
    folder = trained(run, tmp_path)
    method = build_method(run, build_task(run))
    method.load_state_dict(load_tensors(folder.weights("smt")))
    (smt, _) = method.phases(run.training)
    handed_on = [parameter for group in smt.groups for parameter in group]
    for parameter, average, last in zip(handed_on, found["smt"]["average"].values, found["smt"]["last"], strict=True):
        assert torch.equal(parameter, average) and not torch.equal(parameter, last)
    for mine, decoders in zip(method.rnn.readout.parameters(), method.teacher.decoder.parameters(), strict=True):
        assert torch.equal(mine, decoders)
    assert torch.equal(method.rnn.updater.start, method.teacher.encode(torch.empty(1, 0, dtype=torch.long))[0])
    final = load_tensors(folder.weights("dmt"))
    assert all(
        torch.equal(final[name], weight) for name, weight in method.state_dict().items() if name[:7] == "teacher"
    )


@pytest.mark.parametrize(
    ("budget", "steps"), [({"steps": 7}, 7), ({"tokens": 8 * 12 * 5}, 5), ({"tokens": 8 * 12 * 5 + 1}, 6)]
)
def test_a_budget_ends_the_run_when_it_is_spent(tmp_path, budget, steps):
    folder = trained(tiny_run(training={"batch_size": 8, "budget": budget}), tmp_path)
    assert read_json(folder / "result.json")["costs"]["steps"] == steps


@pytest.mark.parametrize("currency", ["seconds", "cpu_seconds"])
def test_a_budget_in_seconds_counts_training_alone(tmp_path, monkeypatch, currency):
    """On a clock by which a step takes a tenth of a second and an evaluation ten seconds."""
    seconds = 0.0
    take, scores = Engine.take, Trainer._scores

    def step(engine: Engine, rate: float) -> bool:
        nonlocal seconds
        seconds += 0.1
        return take(engine, rate)

    def evaluate(trainer: Trainer, split: str, length: int) -> list:
        nonlocal seconds
        seconds += 10
        return scores(trainer, split, length)

    monkeypatch.setattr(compiling, "now", lambda: compiling.Seconds(seconds, seconds))
    monkeypatch.setattr(Engine, "take", step)
    monkeypatch.setattr(Trainer, "_scores", evaluate)
    run = tiny_run(training={"batch_size": 8, "budget": {currency: 0.35}}, evaluation={"sequences": 8, "every": 0.2})
    costs = read_json(trained(run, tmp_path) / "result.json")["costs"]
    assert costs["steps"] == 4 and costs["evaluation_seconds"] > 0
    assert costs["training_seconds"] == pytest.approx(0.4) and costs["cpu_seconds"] == pytest.approx(0.4)


def test_the_curve_has_a_point_at_the_start_at_the_cadence_and_at_the_end(tmp_path):
    run = tiny_run(evaluation={"sequences": 8, "every": 0.25})
    steps = [point["steps"] for point in read_json(trained(run, tmp_path) / "curve.json")]
    assert steps == [0, 3, 6, 9, 12]


def test_a_run_can_start_from_a_finished_phase_of_another(tmp_path):
    smt = tiny_run("smt")
    source = trained(smt, tmp_path)
    run = tiny_run(DMT, init_from={"run": smt.id, "phase": "smt"})
    folder = trained(run, tmp_path)
    assert {point["phase"] for point in read_json(folder / "curve.json")} == {"dmt"}
    result = read_json(folder / "result.json")
    assert result["costs"]["steps"] == 12  # its own budget goes to its own phase
    assert result["inherited"]["steps"] == 12
    first = read_json(folder / "curve.json")[0]["scores"]
    assert first[1] == read_json(source / "curve.json")[-1]["scores"][1]  # the same teacher
    with pytest.raises(BadInput, match="that phase is not finished"):
        other = tiny_run(DMT, init_from={"run": "absent", "phase": "smt"})
        Trainer(other, folder_of(other, tmp_path)).train()
    with pytest.raises(BadInput, match="init_from.phase: 'stm' is unknown; allowed: smt"):
        other = tiny_run(DMT, init_from={"run": smt.id, "phase": "stm"})
        Trainer(other, folder_of(other, tmp_path))


@pytest.mark.parametrize(("source", "phase", "trained_here"), [("smt", "smt", {"dmt", "bptt"}), (DMT, "dmt", {"bptt"})])
def test_bptt_can_go_on_from_a_phase_of_another_method(tmp_path, source, phase, trained_here):
    first = tiny_run(source)
    trained(first, tmp_path)
    three = {"name": "smt+dmt+bptt", "dmt": {"share": 0.3, "every": 3}, "bptt": {"share": 0.3, "batch_size": 8}}
    run = tiny_run(three, init_from={"run": first.id, "phase": phase})
    folder = trained(run, tmp_path)
    assert {point["phase"] for point in read_json(folder / "curve.json")} == trained_here
    before, after = load_tensors(Folder(tmp_path / first.id).weights(phase)), load_tensors(folder.weights("bptt"))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("teacher"))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("rnn.updater"))


def test_what_was_inherited_holds_what_the_source_had_inherited(tmp_path):
    first = tiny_run("smt")
    second = tiny_run(DMT, init_from={"run": first.id, "phase": "smt"})
    three = {"name": "smt+dmt+bptt", "dmt": {"share": 0.3, "every": 3}, "bptt": {"share": 0.3, "batch_size": 8}}
    third = tiny_run(three, init_from={"run": second.id, "phase": "dmt"})
    costs = [read_json(trained(run, tmp_path) / "result.json") for run in (first, second, third)]
    before = [result["costs"] for result in costs[:2]]
    assert all(costs[2]["inherited"][name] == sum(spent[name] for spent in before) for name in ("steps", "tokens"))
    assert costs[2]["inherited"]["training_seconds"] > costs[1]["inherited"]["training_seconds"]
    curves = load([tmp_path]).curves
    ends = curves[curves["id"] == third.id].iloc[-1]
    tokens = sum(result["costs"]["tokens"] for result in costs)
    assert ends["spent.tokens"] == tokens
    data = load([tmp_path])
    (exhibit,) = exhibits(data)
    assert max(line.x[-1] for panel in exhibit.panels for line in panel.lines) == tokens


def test_shares_that_leave_nothing_for_smt_are_refused():
    with pytest.raises(BadInput, match="leave nothing for SMT"):
        tiny_run({"name": "smt+dmt+bptt", "dmt": {"share": 0.5}, "bptt": {"share": 0.5}})


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    run = tiny_run(
        training={"batch_size": 8, "budget": {"steps": 200}, "optimiser": {"lr": 1e30, "clip": None, "warmup": 0.0}}
    )
    with pytest.raises(Diverged, match="loss is not finite"):
        trained(run, tmp_path)


def test_an_early_end_is_decided_on_the_valid_split(tmp_path, monkeypatch):
    run = tiny_run(training={"batch_size": 8, "budget": {"steps": 12}, "stop_at": 0.0})
    asked = []
    original = Trainer._set
    monkeypatch.setattr(
        Trainer, "_set", lambda self, split, length: asked.append(split) or original(self, split, length)
    )
    folder = trained(run, tmp_path)
    assert read_json(folder / "result.json")["costs"]["steps"] == 6  # at the first evaluation after the start
    assert "valid" in asked
    assert folder.weights("train").is_file()


def test_scores_are_accuracy_and_nats_over_scored_positions_only():
    x = torch.zeros(2, 3, dtype=torch.long)
    y = torch.tensor([[0, IGNORED, 1], [IGNORED, 2, 2]])
    p = torch.tensor([0.5, 0.2, 0.3]).double()
    found = score(lambda x, columns: p.log().expand(*x[:, columns].shape, 3), Batch(x, y))
    assert found["accuracy"] == 0.25
    assert found["loss"] == pytest.approx(-(math.log(0.5) + math.log(0.2) + 2 * math.log(0.3)) / 4)


def test_score_from_hides_earlier_positions_from_training_and_scoring(tmp_path):
    run = tiny_run(task={"name": "parity", "length": 12}, evaluation={"score_from": 5, "sequences": 16})
    held = evaluation_set(run, build_task(run), "test", 12)
    assert (held.y[:, :5] == IGNORED).all() and (held.y[:, 5:] != IGNORED).all()
    drawn = Trainer(run, folder_of(run, tmp_path))._draw(Phase("train", 1.0, Optimiser(), (), 8))
    assert (drawn.y[:, :5] == IGNORED).all() and (drawn.y[:, 5:] != IGNORED).all()


LATE = {"task": {"name": "modular-arithmetic", "modulus": 3, "length": 32}, "evaluation": {"score_from": 16}}


def test_scores_are_judged_by_the_columns_that_are_scored(tmp_path):
    for scored in read_json(trained(tiny_run(**LATE), tmp_path) / "result.json")["scores"]:
        assert scored["accuracy_ceiling"] == pytest.approx(1.0, abs=5e-5)  # .9167 of all columns
        assert scored["loss_floor"] == pytest.approx(1e-4, abs=5e-5)  # .137


def test_an_early_end_needs_the_ceiling_of_the_columns_that_are_scored(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.training.score", lambda *given: {"accuracy": 0.95, "loss": 0.2})
    run = tiny_run(**LATE, training={"batch_size": 8, "budget": {"steps": 12}, "stop_at": 1.0})
    assert read_json(trained(run, tmp_path) / "result.json")["costs"]["steps"] == 12


def test_labels_that_are_hidden_are_a_copy(tmp_path, clean):
    class Views(registry.tasks.get("digits")):
        def _windows(self, split, first, length):
            whole = torch.cat([(both := super()._windows(split, first, length)).x, both.y[:, -1:]], 1)
            return Batch(whole[:, :-1], whole[:, 1:])

    registry.register_task("views")(Views)
    run = tiny_run(task="views", evaluation={"score_from": 6, "sequences": 8})
    drawn = Trainer(run, folder_of(run, tmp_path))._draw(Phase("train", 1.0, Optimiser(), (), 8))
    assert drawn.x.min() >= 0 and (drawn.y[:, :6] == IGNORED).all()


def stating(**facts):
    """The name of a task like parity but for these facts, which take a length."""
    members = {name: lambda self, length, *, value=value: value for name, value in facts.items()}
    registry.register_task("stating")(type("Stating", (registry.tasks.get("parity"),), members))
    return {"name": "stating", "length": 12}


def test_facts_may_be_numbers_of_any_kind(tmp_path, clean):
    given = {"chance": torch.tensor(0.5), "loss_floor": np.float32(0.25), "accuracy_ceiling": np.array(1)}
    given |= {"shortcuts": {"guess": np.float64(0.5)}, "unigram_loss": torch.tensor([0.75])}
    for scored in read_json(trained(tiny_run(task=stating(**given)), tmp_path) / "result.json")["scores"]:
        names = ("chance", "loss_floor", "accuracy_ceiling", "shortcut", "unigram_loss")
        assert [scored[name] for name in names] == [0.5, 0.25, 1.0, 0.5, 0.75]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy_ceiling", 1.2),
        ("accuracy_ceiling", torch.tensor([0.5, 0.5])),
        ("loss_floor", float("nan")),
        ("loss_floor", -0.1),
        ("chance", None),
        ("chance", "0.5"),
        ("shortcuts", {"guess": np.float32("inf")}),
        ("unigram_loss", np.array([])),
    ],
)
def test_a_fact_that_is_none_is_refused_before_the_first_step(tmp_path, clean, name, value):
    run = tiny_run(task=stating(**{name: value}))
    fact = "shortcut 'guess'" if name == "shortcuts" else name
    with pytest.raises(BadInput, match=f"stating: {fact} is .*; should be a number from 0") as error:
        trained(run, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("curve.json"))


def test_a_task_without_a_trivial_rule_is_refused_before_the_first_step(tmp_path, clean):
    with pytest.raises(BadInput, match="stating: shortcuts is empty"):
        trained(tiny_run(task=stating(shortcuts={})), tmp_path)


def test_a_fact_of_all_columns_is_refused_where_not_all_are_scored(tmp_path, clean):
    task = stating(accuracy_ceiling=1.0)
    trained(tiny_run(task=task), tmp_path)
    with pytest.raises(
        BadInput, match=r"stating: accuracy_ceiling\(length\) .* accuracy_ceiling\(length, score_from=0\)"
    ) as error:
        trained(tiny_run(task=task, evaluation={"score_from": 6}), tmp_path)
    assert "\n" not in str(error.value)


def test_sequences_without_a_label_to_score_are_refused_before_the_first_step(tmp_path):
    run = tiny_run(task={"name": "stack", "length": 12}, evaluation={"sequences": 1, "score_from": 11}, seed=1)
    with pytest.raises(BadInput, match="stack: none of 1 .* sequences of length 12 has a label from column 11 on"):
        trained(run, tmp_path)
    assert not list(tmp_path.rglob("curve.json"))


def test_evaluation_sets_are_fixed_and_differ_between_splits_and_seeds():
    def drawn(split, **fields):
        run = tiny_run(**fields)
        return evaluation_set(run, build_task(run), split, 12).x

    assert torch.equal(drawn("test"), drawn("test"))
    assert not torch.equal(drawn("test"), drawn("valid"))
    assert not torch.equal(drawn("test"), drawn("test", seed=1))
    assert torch.equal(
        drawn("test"), drawn("test", method="transformer")
    )  # all methods are scored on the same sequences


def test_streams_of_a_seed_are_unrelated():
    drawn = [torch.rand(64, generator=streams.generator(0, *names)) for names in (("data",), ("init",), ("data", 1))]
    for i, a in enumerate(drawn):
        assert torch.equal(a, torch.rand(64, generator=streams.generator(0, *(("data",), ("init",), ("data", 1))[i])))
        for b in drawn[:i]:
            assert not torch.equal(a, b)


def test_warm_up_rises_and_cosine_falls():
    phase = Phase("p", 1.0, Optimiser(lr=2.0, warmup=0.1, schedule="cosine"), (), 1)
    assert rate(phase.optimiser, 0.05) == pytest.approx(1.0)
    assert rate(phase.optimiser, 0.1) == pytest.approx(2.0)
    assert rate(phase.optimiser, 0.55) == pytest.approx(1.0)
    assert rate(phase.optimiser, 1.0) == pytest.approx(0.0)
    constant = Phase("p", 1.0, Optimiser(lr=2.0, warmup=0.0), (), 1)
    assert rate(constant.optimiser, 0.0) == rate(constant.optimiser, 1.0) == 2.0


def test_accumulated_gradients_are_the_mean_over_their_batches(tmp_path):
    run = tiny_run(training={"batch_size": 8, "accumulate": 2, "budget": {"steps": 1}, "optimiser": {"clip": None}})
    trainer = Trainer(run, folder_of(run, tmp_path))
    trainer._begin()
    phase, seen = trainer.phases[0], []
    data = streams.generator(run.seed, "data")
    for _ in range(2):
        trainer.method.zero_grad()
        list(trainer.method.gradients(trainer.task.sample("train", 8, 12, data), "train"))
        seen.append([p.grad.clone() for group in phase.groups for p in group if p.grad is not None])
    trainer.method.zero_grad()
    stepped = []
    trainer.engine.optimiser.step = lambda: stepped.append(
        [p.grad.clone() for g in phase.groups for p in g if p.grad is not None]
    )
    for _ in range(2):
        list(trainer._steps())
    for mean, first, two in zip(stepped[0], *seen, strict=True):
        torch.testing.assert_close(mean, (first + two) / 2)


def test_clipping_is_per_group(tmp_path):
    run = tiny_run("smt", training={"batch_size": 8, "budget": {"steps": 1}, "optimiser": {"clip": 1e-3}})
    trainer = Trainer(run, folder_of(run, tmp_path))
    trainer._begin()
    norms = []
    groups = trainer.phases[0].groups

    def norm(group):
        return torch.stack([p.grad.norm() for p in group if p.grad is not None]).norm().item()

    trainer.engine.optimiser.step = lambda: norms.extend(map(norm, groups))
    list(trainer._steps())
    assert norms == [pytest.approx(1e-3, rel=1e-3)] * 2


def test_initial_weights_depend_on_the_seed_alone():
    def weights(**fields):
        run = tiny_run("smt+dmt", **fields)
        return next(build_method(run, build_task(run)).rnn.parameters())

    assert torch.equal(weights(), weights(evaluation={"sequences": 8}))
    assert not torch.equal(weights(), weights(seed=1))


@pytest.mark.parametrize("backbone", ["transformer", "mlp", "gru"])
@pytest.mark.parametrize("method", ["bptt", "transformer", DMT])
def test_every_method_and_backbone_trains_under_bfloat16_autocast(tmp_path, method, backbone):
    run = tiny_run(method, precision="bfloat16", model={**TINY, "backbone": backbone})
    result = read_json(trained(run, tmp_path) / "result.json")
    assert all(math.isfinite(scored["loss"]) for scored in result["scores"])


def test_gradients_accumulated_in_one_phase_do_not_reach_the_next(tmp_path):
    run = tiny_run(DMT, training={"batch_size": 8, "accumulate": 4, "budget": {"tokens": 8 * 12 * 12}})
    trainer = Trainer(run, folder_of(run, tmp_path))
    trainer._begin()
    while trainer.counters.phase == 0:
        list(trainer._steps())
    assert trainer.engine.pending == 0
    assert all(parameter.grad is None for parameter in trainer.method.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: run on one as they are, they then take part")
@pytest.mark.parametrize("method", ["bptt", "transformer", DMT])
def test_a_gpu_trains_in_bfloat16_with_tasks_sampled_there(tmp_path, method):
    run = tiny_run(method, device="cuda", precision="bfloat16")
    result = read_json(trained(run, tmp_path) / "result.json")
    assert all(math.isfinite(scored["loss"]) for scored in result["scores"])


def test_training_settings_default_to_the_papers():
    training = TrainingConfig.parse({"budget": {"steps": 1}}, "")
    assert (training.batch_size, training.optimiser.lr, training.optimiser.betas) == (128, 3e-4, (0.9, 0.95))
    assert (training.optimiser.decay, training.optimiser.warmup, training.optimiser.clip) == (0.01, 0.01, 1.0)


def rates(run, root) -> list[float]:
    """The learning rate of every optimiser step."""
    found: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimiser, *_: found.append(optimiser.param_groups[0]["lr"]))
    try:
        trained(run, root)
    finally:
        hook.remove()
    return found


def falling(budget, **training):
    optimiser = {"lr": 1.0, "schedule": "cosine", "warmup": 0.0}
    return tiny_run(training={"batch_size": 8, "budget": budget, "optimiser": optimiser, **training})


def cosine(*shares: float) -> list[float]:
    return [pytest.approx((1 + math.cos(math.pi * share)) / 2) for share in shares]


@pytest.mark.parametrize("budget", [{"steps": 4}, {"tokens": 4 * 8 * 12}])
def test_the_last_step_of_a_cosine_is_taken_at_the_middle_of_what_is_left(tmp_path, budget):
    assert rates(falling(budget), tmp_path) == cosine(0.25, 0.5, 0.75, 0.875)


@pytest.mark.parametrize(
    ("budget", "training", "count"),
    [
        ({"steps": 1}, {}, 1),
        ({"tokens": 8 * 12 * 3 + 1}, {}, 4),
        ({"tokens": 8 * 12 * 7}, {"accumulate": 3}, 2),
        ({"seconds": 1e-6}, {}, 1),
    ],
)
def test_every_step_has_a_positive_rate(tmp_path, budget, training, count):
    found = rates(falling(budget, **training), tmp_path)
    assert len(found) == count and min(found) > 0


def test_a_batch_of_many_steps_has_positive_rates_only(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))

    @registry.register_method("stepping")
    class Stepping(BPTT):
        def gradients(self, batch, phase):
            for _ in range(3):
                yield from super().gradients(batch, phase)

    for budget in ({"steps": 4}, {"tokens": 2 * 8 * 12}):
        run = dataclasses.replace(falling(budget), method="stepping")
        found = rates(run, tmp_path)
        assert len(found) == 6 and found == sorted(found, reverse=True) and found[-1] > 0


@pytest.mark.parametrize("share", [0.01, 1 / 12])  # of 12 steps: none of its own, and one
def test_a_phase_of_one_step_learns(tmp_path, share):
    run = tiny_run({"name": "smt+dmt", "dmt": {"share": share, "every": 3, "batch_size": 8}})
    folder = trained(run, tmp_path)
    smt, dmt = (load_tensors(folder.weights(phase)) for phase in ("smt", "dmt"))
    assert any(not torch.equal(smt[name], dmt[name]) for name in smt)
    assert [point["phase"] for point in read_json(folder / "curve.json")][-2:] == ["smt", "dmt"]


class Stepped(BPTT):
    """Sound until its first step, which is its last, so that no loss follows."""

    stepped = False

    def gradients(self, batch, phase):
        self.stepped = True
        yield from super().gradients(batch, phase)


class NaNGradient(Stepped):
    def gradients(self, batch, phase):
        for scalars in super().gradients(batch, phase):
            self.rnn.embedding.weight.grad[0, 0] = math.nan
            yield scalars


class NaNLogits(Stepped):
    def predict(self, x, columns=EVERY):
        return super().predict(x, columns) * (math.nan if self.stepped else 1)


class SureOfTheWrong(Stepped):
    """Minus infinity for most of what is true: a loss without bound."""

    def predict(self, x, columns=EVERY):
        logits = super().predict(x, columns)
        if self.stepped:
            logits[..., 1:] = -math.inf
        return logits


class NaNReference(Stepped):
    def predictors(self):
        def teacher(x, columns):
            return self.predict(x, columns) * (math.nan if self.stepped else 1)

        return Predictor("rnn", self.predict), Predictor("teacher", teacher, reference=True)


class NaNUnread(Stepped):
    """A weight that no score reads."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.unread = torch.nn.Parameter(torch.zeros(3))

    def sync_predictor(self, phase):
        self.unread.data[1] = math.nan if self.stepped else 0


class NaNAverage(Stepped):
    """An average of the weights, kept in a buffer."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("average", torch.zeros(()))

    def sync_predictor(self, phase):
        self.average.fill_(math.nan if self.stepped else 0)


BROKEN = (NaNGradient, NaNLogits, SureOfTheWrong, NaNReference, NaNUnread, NaNAverage)


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("cls", BROKEN)
def test_whatever_is_not_finite_at_the_last_step_leaves_no_score(tmp_path, monkeypatch, cls, clip):
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))
    registry.register_method("broken")(cls)
    run = tiny_run("broken", training={"batch_size": 8, "budget": {"steps": 1}, "optimiser": {"clip": clip}})
    folder = folder_of(run, tmp_path)
    with pytest.raises(Diverged, match=r"not finite|nan|inf"):
        Trainer(run, folder).train()
    assert folder.result is None and not folder.weights("train").exists()
    assert [point["steps"] for point in read_json(folder / "curve.json")] == [0]  # when all was finite


def test_weights_that_one_step_breaks_have_no_accuracy(tmp_path):
    optimiser = {"lr": 1e30, "warmup": 0.0}
    run = tiny_run(task="parity", training={"batch_size": 8, "budget": {"steps": 1}, "optimiser": optimiser})
    with pytest.raises(Diverged):
        trained(run, tmp_path)


class Guess(Method):
    """All labels alike: nothing to learn."""

    def phases(self, training):
        return [Phase("train", 1.0, training.optimiser, ((),), training.batch_size)]

    def gradients(self, batch, phase):
        yield {"loss": torch.tensor(0.0)}

    def initial_state(self, lanes):
        return torch.zeros(lanes)

    def advance(self, state, x, columns=EVERY, start=None):
        return torch.zeros(*x[:, columns].shape, self.task.output_size), state


def test_a_method_without_weights_is_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))
    registry.register_method("guess")(Guess)
    (scores,) = trained(tiny_run("guess", "parity"), tmp_path).result["scores"]
    assert scores["loss"] == pytest.approx(math.log(2))


@pytest.mark.parametrize("currency", ["flops", "sequential_flops"])
def test_a_budget_of_work_that_no_step_does_is_refused(tmp_path, monkeypatch, currency):
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))
    registry.register_method("guess")(Guess)
    run = tiny_run("guess", "parity", training={"batch_size": 8, "accumulate": 2, "budget": {currency: 1e6}})
    with pytest.raises(BadInput, match=f"budget.{currency}: given, but no rule counts any in a step of phase train"):
        Trainer(run, folder_of(run, tmp_path))


def test_labels_that_a_predictor_rules_out_may_have_no_logit():
    x = y = torch.tensor([[0, 1]])
    logits = torch.tensor([[[0.0, -math.inf, 0.0], [-math.inf, 0.0, 0.0]]])
    assert score(lambda x, columns: logits, Batch(x, y))["loss"] == pytest.approx(math.log(2))
    with pytest.raises(Diverged, match="a loss of inf"):
        score(lambda x, columns: logits, Batch(x, 1 - y))


def test_a_diverged_run_is_no_source(tmp_path):
    smt = tiny_run("smt")
    source = trained(smt, tmp_path)
    (source / "result.json").unlink()  # as if it had diverged on a longer test set
    source.set_status("diverged")
    run = tiny_run(DMT, init_from={"run": smt.id, "phase": "smt"})
    with pytest.raises(BadInput, match="is diverged"):
        trained(run, tmp_path)


@pytest.mark.parametrize(
    ("precision", "real", "complex_"),
    [
        ("float32", torch.float32, torch.complex64),
        ("bfloat16", torch.float32, torch.complex64),
        ("float64", torch.float64, torch.complex128),
    ],
)
def test_precision_leaves_complex_numbers_complex(monkeypatch, precision, real, complex_):
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))
    registry.register_method("lru")(LRU)
    lru = built(tiny_run("lru", precision=precision))
    assert {weight.dtype for weight in lru.state_dict().values()} == {complex_}
    assert lru.turn == 1j and lru.decay.imag.any()
    assert {weight.dtype for weight in built(tiny_run("bptt", precision=precision)).parameters()} == {real}


@pytest.mark.parametrize("clip", [1.0, None])
def test_complex_parameters_train_and_resume_to_the_same_bits(tmp_path, monkeypatch, clip):
    monkeypatch.setattr(registry.methods, "_classes", dict(registry.methods._classes))
    registry.register_method("lru")(LRU)
    training = {"batch_size": 8, "accumulate": 2, "budget": {"steps": 12}, "optimiser": {"lr": 0.03, "clip": clip}}
    run = tiny_run("lru", {"name": "parity", "length": 6}, training=training)
    whole = trained(run, tmp_path / "whole")
    costs = read_json(whole / "result.json")["costs"]
    assert costs["parameters"] == 2 * (8 + 2 * 8 + 8 * 2)
    before, after = built(run).state_dict(), load_tensors(whole.weights("train"))
    assert all((before[name].imag != after[name].imag).any() for name in ("decay", "inputs", "outputs"))
    folder = folder_of(run, tmp_path / "pieces")
    with pytest.raises(Stopped):
        Trainer(run, folder, Options(should_stop=Interrupt(7))).train()
    Trainer(run, folder).train()
    assert outcome(folder) == outcome(whole)


def built(run):
    return build_method(run, build_task(run))
