"""Each method's gradient equals an independent float64 computation: one sequence and one position at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bench.build import build_method, build_task
from bench.engine import Engine
from bench.errors import BadInput
from bench.feasibility import impossible
from bench.grid import load_collection
from bench.methods.smt import cut_windows, uniformity_loss
from bench.phases import draw
from bench.tasks.base import IGNORED, Batch
from tests.helpers import tiny_run

T, B, SYMBOLS = 6, 3, 4


def method_of(name: str, **config: Any):
    run = tiny_run(
        {"name": name, **config}, {"name": "retrieval", "length": T, "symbols": SYMBOLS}, precision="float64"
    )
    return build_method(run, build_task(run))


@pytest.fixture
def batch() -> Batch:
    """Random sequences in which the last two columns and a few others are scored (retrieval itself scores one)."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, SYMBOLS + 1, (B, T), generator=generator)
    y = torch.full((B, T), IGNORED)
    y[:, -1] = torch.randint(1, SYMBOLS + 1, (B,), generator=generator)
    return Batch(x, y)


@pytest.fixture
def dense(batch: Batch) -> Batch:
    y = torch.randint(-1, SYMBOLS + 1, (B, T), generator=torch.Generator().manual_seed(4))
    return Batch(batch.x, y)


def trained_gradients(method, batch, phase) -> dict[str, torch.Tensor]:
    """What the trainer would see: gradients of the phase's parameters after one yield."""
    from bench.config import TrainingConfig

    training = TrainingConfig.parse({"budget": {"steps": 1}}, "")
    (part,) = (candidate for candidate in method.phases(training) if candidate.name == phase)
    method.train_only(part)
    (ready,) = Engine(method, part).stretches(batch)
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    return found, ready.scalars


def expect(method, found, loss):
    """The independent loss, differentiated, gives the gradients found, of the same parameters and no others."""
    loss.backward()
    expected = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    nonzero = {name for name, gradient in expected.items() if gradient.abs().max() > 0}
    assert nonzero <= set(found)
    for name, gradient in found.items():
        wanted = expected.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def mean_nll(terms: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """Cross-entropy written out: terms are (logits (O,), label); -1 is not scored."""
    scored = [torch.logsumexp(logits, 0) - logits[label] for logits, label in terms if label != IGNORED]
    return torch.stack(scored).sum() / max(1, len(scored)) if scored else torch.zeros(()).double()


def test_bptt_is_the_gradient_through_every_step_of_every_sequence(batch):
    method = method_of("bptt")
    found, scalars = trained_gradients(method, batch, "train")
    terms = []
    for row in range(B):
        memory = torch.zeros(1, 2, 8).double()
        for t in range(T):
            memory = method.rnn.updater(memory, method.rnn.embedding.weight[batch.x[row, t]][None])
            memory = memory / (memory.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            terms.append((method.rnn.readout(memory)[0, -1], int(batch.y[row, t])))
    loss = mean_nll(terms)
    torch.testing.assert_close(scalars["loss"], loss.detach())
    expect(method, found, loss)


def test_bptts_loss_falls_along_its_gradient_as_finite_differences_say(batch):
    method = method_of("bptt")
    found, _ = trained_gradients(method, batch, "train")
    direction = {
        name: torch.randn(g.shape, generator=torch.Generator().manual_seed(5)).double() for name, g in found.items()
    }
    parameters, step = dict(method.named_parameters()), 1e-6

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            for name, d in direction.items():
                parameters[name] += distance * d
        value = trained_gradients(method, batch, "train")[1]["loss"].item()
        with torch.no_grad():
            for name, d in direction.items():
                parameters[name] -= distance * d
        return value

    slope = (loss_at(step) - loss_at(-step)) / (2 * step)
    assert slope == pytest.approx(sum((found[name] * d).sum().item() for name, d in direction.items()), rel=1e-6)


def test_the_transformers_gradient_is_that_of_its_streamed_predictions(batch):
    method = method_of("transformer")
    found, scalars = trained_gradients(method, batch, "train")
    terms = []
    for row in range(B):
        state = method.initial_state(1)
        for t in range(T):
            logits, state = method.advance(state, batch.x[row : row + 1, t, None])
            terms.append((logits[0, 0], int(batch.y[row, t])))
    loss = mean_nll(terms)
    torch.testing.assert_close(scalars["loss"], loss.detach())
    expect(method, found, loss)


def smt_by_hand(method, batch, context, future, detach=False):
    """L_smt at every t of every row, each context encoded alone and without padding."""
    teacher, rnn, config = method.teacher, method.rnn, method.config

    def encode(row, end):  # the context of the `end` first inputs
        return teacher.encode(batch.x[row : row + 1, max(0, end - context) : end])

    terms, squares, tokens = [], [], []
    for row in range(B):
        for t in range(T):
            before, memory = encode(row, t), encode(row, t + 1)
            ahead = min(future, T - t)
            logits = teacher.decode(memory, batch.x[row : row + 1, t + 1 : t + ahead])[0]
            terms += [(logits[j], int(batch.y[row, t + j])) for j in range(ahead)]
            source, target = (before.detach(), memory.detach()) if detach else (before, memory)
            squares.append((rnn.update(source, batch.x[row : row + 1, t]) - target).square().mean())
            tokens += list(memory[0])
    pairs = []
    for i, a in enumerate(tokens):
        for j, b in enumerate(tokens):
            if i != j:
                pairs.append(torch.exp(-2 * (a / a.norm() - b / b.norm()).square().sum()))
    dec, dyn, unif = mean_nll(terms), torch.stack(squares).mean(), torch.stack(pairs).mean().log()
    return dec, dyn, unif, config.lambda_dec * dec + config.lambda_dyn * dyn + config.lambda_unif * unif


@pytest.mark.parametrize("scored", ["all", "last"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(("context", "future"), [(256, 64), (3, 2), (1, 1)])
def test_smts_losses_and_gradient_equal_those_of_single_contexts(
    dense, batch, context, future, detach, scored, monkeypatch
):
    method = method_of(
        "smt", context=context, future=future, timesteps=None, detach=detach, lambda_dyn=0.7, lambda_unif=0.3
    )
    if scored == "all":
        batch = dense
        monkeypatch.setattr(method.task, "scored_columns", range)
    found, scalars = trained_gradients(method, batch, "smt")
    dec, dyn, unif, loss = smt_by_hand(method, batch, context, future, detach)
    for name, value in (("L_dec", dec), ("L_dyn", dyn), ("L_unif", unif), ("loss", loss)):
        torch.testing.assert_close(scalars[name], value.detach(), rtol=1e-9, atol=1e-12)
    expect(method, found, loss)


@pytest.mark.parametrize("start", ["empty", "context"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("timesteps", [1, 3, None])
def test_consecutive_positions_share_encodings_and_give_the_losses_and_gradients_of_separate_ones(
    dense, start, detach, timesteps, monkeypatch
):
    """n + 1 contexts of a sequence are encoded in place of 2 n."""
    found, encoded = [], []
    for consecutive in (True, False):
        run = tiny_run(
            {
                "name": "smt",
                "consecutive": consecutive,
                "timesteps": timesteps,
                "start": start,
                "context": 3,
                "future": 2,
                "lambda_unif": 0.3,
                "uniformity_sample": 5,
                "detach": detach,
            },
            {"name": "retrieval", "length": T, "symbols": SYMBOLS},
            precision="float64",
            evaluation={"score_from": 2},
        )
        method = build_method(run, build_task(run))
        if consecutive:
            drawn = method.draw((B, T), "smt")
            assert (drawn.t.diff(dim=1) == 1).all()
        monkeypatch.setattr(method, "draw", lambda shape, phase, drawn=drawn: drawn)
        kept = method.teacher.encode
        monkeypatch.setattr(
            method.teacher, "encode", lambda contexts, kept=kept: encoded.append(len(contexts)) or kept(contexts)
        )
        found.append(trained_gradients(method, dense, "smt"))
    (shared, scalars), (separate, wanted) = found
    n = drawn.t.shape[1]
    assert encoded == [B * (n + 1), B * 2 * n]
    for name in wanted:
        torch.testing.assert_close(scalars[name], wanted[name], rtol=1e-12, atol=1e-14)
    assert shared.keys() == separate.keys()
    for name, gradient in separate.items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("whole", [False, True])
def test_no_position_is_in_a_run_less_often_than_those_in_the_middle(whole):
    method = method_of("smt", consecutive=True, timesteps=3, future=2, whole_futures=whole)
    drawn = method.draw((12_000, 10), "smt").t
    positions = 9 if whole else 10
    counts = torch.bincount(drawn.flatten(), minlength=positions) / len(drawn)
    assert len(counts) == positions
    middle = 3 / (positions + 2)  # of the places at which a run may begin
    assert counts[[0, 3, 5, -1]].tolist() == pytest.approx([middle] * 4, abs=0.025)  # 5 standard errors
    assert (counts > middle - 0.025).all()


def test_an_empty_share_is_not_for_consecutive_positions():
    with pytest.raises(BadInput, match="empty_share is for positions that are drawn apart"):
        method_of("smt", consecutive=True, empty_share=0.5)


def test_detached_smt_moves_the_encoder_by_the_decoder_alone(dense):
    """With lambda_dec = lambda_unif = 0 the teacher stands still when detached, and does not otherwise."""
    for detach in (True, False):
        method = method_of("smt", timesteps=None, detach=detach, lambda_dec=0.0, lambda_unif=0.0)
        found, _ = trained_gradients(method, dense, "smt")
        moved = any(found[name].abs().max() > 0 for name in found if name.startswith("teacher.encoder"))
        assert moved is not detach


@pytest.mark.parametrize("detach_readout", [True, False])
@pytest.mark.parametrize("detach_rollout", [True, False])
def test_dmts_losses_and_gradient_equal_those_of_single_rollouts(batch, detach_rollout, detach_readout):
    config = {"every": 1, "detach_rollout": detach_rollout, "detach_readout": detach_readout}
    method = method_of("smt+dmt", context=4, dmt=config)
    method.sync_predictor("smt")
    found, scalars = trained_gradients(method, batch, "dmt")
    squares, terms = [], []
    for row in range(B):
        memory = method.teacher.encode(batch.x[:1, :0]).detach()
        for t in range(T):
            x_t = batch.x[row : row + 1, t]
            following = method.rnn.update(memory.detach() if detach_rollout else memory, x_t)
            label = method.teacher.encode(batch.x[row : row + 1, max(0, t - 3) : t + 1]).detach()
            squares.append((following - label).square().mean())
            answered = following.detach() if detach_readout else following
            terms.append((method.rnn.read(answered.flatten(1))[0], int(batch.y[row, t])))
            memory = following
    dyn, readout = torch.stack(squares).mean(), mean_nll(terms)
    torch.testing.assert_close(scalars["L_dyn"], dyn.detach())
    torch.testing.assert_close(scalars["L_readout"], readout.detach())
    assert not any(name.startswith("teacher") for name in found)
    expect(method, found, 10 * dyn + readout)


@pytest.mark.parametrize("start", ["empty", "context"])
def test_the_last_phase_of_smt_dmt_bptt_is_bptt_from_the_first_memory(batch, start):
    run = tiny_run(
        {"name": "smt+dmt+bptt", "start": start, "context": 3},
        {"name": "retrieval", "length": T, "symbols": SYMBOLS},
        precision="float64",
        evaluation={"score_from": 2},
    )
    method = build_method(run, build_task(run))
    method.sync_predictor("smt")
    found, scalars = trained_gradients(method, batch, "bptt")
    terms, first = [], 3 if start == "context" else 0
    for row in range(B):
        memory = method.teacher.encode(batch.x[row : row + 1, :first]).detach()
        for t in range(first, T):
            memory = method.rnn.updater(memory, method.rnn.embedding.weight[batch.x[row, t]][None])
            memory = memory / (memory.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            terms.append((method.rnn.readout(memory)[0, -1], int(batch.y[row, t])))
    loss = mean_nll(terms)
    torch.testing.assert_close(scalars["loss"], loss.detach())
    assert not any(name.startswith("teacher") for name in found)
    expect(method, found, loss)


def test_the_last_phase_of_smt_dmt_bptt_has_bptts_gradient(batch):
    """With the weights of a BPTT run, and its first memory of zeros."""
    plain, method = method_of("bptt"), method_of("smt+dmt+bptt")
    method.rnn.load_state_dict(plain.rnn.state_dict())
    (wanted, _), (found, _) = trained_gradients(plain, batch, "train"), trained_gradients(method, batch, "bptt")
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("length", "every"), [(10, 4), (5, 4), (9, 4), (17, 4), (12, 3), (3, 4), (6, 1)])
def test_dmt_labels_every_position_of_the_rollout_equally_often(length, every):
    """At 5, 9 and 17, keys-values scores the last column alone."""
    method = method_of("smt+dmt", dmt={"every": every})
    drawn = torch.stack([method.draw((B, length), "dmt").t for _ in range(4000)])
    assert drawn.shape[1] == max(1, length // every)
    assert (drawn.diff(dim=1) >= min(every, length)).all()
    share = torch.bincount(drawn.flatten(), minlength=length) / drawn.numel()
    torch.testing.assert_close(share, torch.full((length,), 1 / length), rtol=0, atol=0.04)  # 5 standard errors


def test_dmt_labels_no_position_before_the_first_memory_or_after_the_rollout():
    run = tiny_run(
        {"name": "smt+dmt", "start": "context", "context": 3, "dmt": {"every": 2, "rollout": 5}},
        {"name": "retrieval", "length": 12},
        evaluation={"score_from": 2},
    )
    method = build_method(run, build_task(run))
    assert {t for _ in range(300) for t in method.draw((B, 12), "dmt").t.tolist()} == {3, 4, 5, 6, 7}


def test_the_papers_windows_hold_one_position_with_a_whole_context_and_a_whole_future():
    """320 tokens for each position, where windows of 512 left 63 of 257 with less than 64 outputs."""
    paper = next(run for run in load_collection("paper").grids[0].runs if run.method == "smt+dmt")
    run = tiny_run(
        {"name": "smt+dmt", **paper.method_config.changes()},
        {"name": "recency", "length": paper.task_config.length},
        evaluation={"score_from": paper.evaluation.score_from},
    )
    task = build_task(run)
    method = build_method(run, task)
    (phase, _) = method.phases(run.training)
    batch, _ = draw(run, task, method, phase, torch.Generator())
    assert batch.x.shape == (8, 320)
    t, y = method.draw(tuple(batch.x.shape), "smt").t, torch.zeros_like(batch.x)
    assert t.tolist() == [[256]] * 8
    seen = cut_windows(batch.x, y, t, 256, 64, method.first)
    assert (seen.before >= 0).all() and (seen.targets >= 0).all() and seen.has_before.all()


@pytest.mark.parametrize("start", ["empty", "context"])
def test_positions_with_a_whole_future_are_all_drawn_and_no_others(start):
    run = tiny_run(
        {"name": "smt", "start": start, "context": 3, "future": 4, "whole_futures": True, "timesteps": 2},
        evaluation={"score_from": 2},
    )
    method = build_method(run, build_task(run))
    first = 3 if start == "context" else 0
    assert set(method.draw((400, 12), "smt").t.flatten().tolist()) == set(range(first, 9))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"whole_futures": True, "future": 13}, "whole_futures needs batches of at least 13 columns, not 12"),
        ({"whole_futures": True, "future": 6, "length": 5}, "whole_futures needs batches of at least 6 columns, not 5"),
        ({"length": 2}, "length: retrieval: length 2 given; should be at least 3"),
        ({"length": 6, "future": 6, "whole_futures": True}, None),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(fields, reason):
    assert impossible(tiny_run({"name": "smt", **fields})) == reason


def test_contexts_futures_and_targets_are_aligned_as_in_the_worked_example():
    """T = 4, context 2, future 2: at t = 2 the encoder sees x1 x2 and x0 x1, the decoder x3, for y2 y3."""
    x, y = torch.tensor([[10, 11, 12, 13]]), torch.tensor([[0, 1, 2, 3]])
    seen = cut_windows(x, y, torch.tensor([[2, 0, 3]]), context=2, future=2)
    assert seen.context.tolist() == [[11, 12], [-1, 10], [12, 13]]
    assert seen.before.tolist() == [[10, 11], [-1, -1], [11, 12]]
    assert seen.x_t.tolist() == [12, 10, 13]
    assert seen.future.tolist() == [[13], [11], [0]]
    assert seen.targets.tolist() == [[2, 3], [0, 1], [3, IGNORED]]


def test_uniformity_is_smallest_for_tokens_that_stand_apart():
    together = torch.ones(4, 2, 8)
    apart = torch.eye(8).view(4, 2, 8)
    assert uniformity_loss(together).item() == pytest.approx(0.0, abs=1e-5)
    assert uniformity_loss(apart).item() == pytest.approx(-4.0, abs=1e-5)  # |a - b|^2 = 2
    one_pair = torch.tensor([[[1.0, 0.0], [math.cos(1), math.sin(1)]]])
    assert uniformity_loss(one_pair).item() == pytest.approx(-2 * (2 - 2 * math.cos(1)), abs=1e-5)


def test_a_memory_from_a_context_start_is_scored_only_where_it_is_defined(dense):
    """start: context. The rollout begins at E(x0 x1 x2); streaming and `predict` agree from position 2 on."""
    run = tiny_run(
        {"name": "smt+dmt", "start": "context", "context": 3, "timesteps": None},
        {"name": "retrieval", "length": T, "symbols": SYMBOLS},
        precision="float64",
        evaluation={"score_from": 2},
    )
    method = build_method(run, build_task(run))
    state, streamed = method.initial_state(B), []
    for piece in dense.x.split([1, 1, 2, 2], 1):
        logits, state = method.advance(state, piece)
        streamed.append(logits)
    torch.testing.assert_close(method.predict(dense.x), torch.cat(streamed, 1))
    first = method.teacher.encode(dense.x[:, :3])
    torch.testing.assert_close(method.rollout(dense.x)[:, 2], first)
    torch.testing.assert_close(method.rollout(dense.x)[:, 3], method.rnn.update(first, dense.x[:, 3]))
    assert set(method.draw((64, T), "smt").t.flatten().tolist()) == {2, 3, 4, 5}
    dyn = method.smt_losses(dense, method.draw((B, T), "smt"))["L_dyn"]
    by_hand = [
        (
            method.rnn.update(method.teacher.encode(dense.x[:, t - 3 : t]), dense.x[:, t])
            - method.teacher.encode(dense.x[:, t - 2 : t + 1])
        )
        for t in (3, 4, 5)
    ]
    torch.testing.assert_close(dyn, torch.stack(by_hand).square().mean())
    labelled = method.draw((B, T), "dmt")
    assert method.dmt_losses(Batch(dense.x, dense.y), labelled)["L_dyn"].isfinite()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_empty_context_has_the_share_it_was_given(share):
    method = method_of("smt", empty_share=share)
    t = method.draw((4000, T), "smt").t
    assert (t == 0).double().mean().item() == pytest.approx(share, abs=0.04)


def test_positions_of_a_row_are_distinct_and_uniform():
    method = method_of("smt", timesteps=3)
    t = method.draw((6000, T), "smt").t
    assert all(len(set(row)) == 3 for row in t[:200].tolist())
    counts = torch.bincount(t.flatten(), minlength=T) / t.numel()
    torch.testing.assert_close(counts, torch.full((T,), 1 / T), rtol=0, atol=0.015)  # 5 standard errors


def test_cross_entropy_of_nothing_scored_is_zero_not_nan():
    from bench.methods import cross_entropy

    assert cross_entropy(torch.randn(2, 3, 4), torch.full((2, 3), IGNORED)).item() == 0
    logits, y = torch.randn(2, 3, 4), torch.tensor([[0, -1, 2], [-1, -1, 3]])
    wanted = F.cross_entropy(logits[y >= 0], y[y >= 0])
    torch.testing.assert_close(cross_entropy(logits, y), wanted)
