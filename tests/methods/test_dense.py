"""Dense SMT against loops over prefixes, columns and steps, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from bench.build import build_method, build_task
from bench.config import ModelConfig
from bench.methods.on_policy import cyclic, rolled_out, swept
from bench.methods.smt import uniformity_loss
from bench.methods.smt_dense import _variance
from bench.models.dense_teacher import DenseTeacher
from bench.models.layers import rms_normalise
from bench.results import read_json
from bench.tasks.base import IGNORED, Batch
from bench.training import Trainer
from tests.helpers import folder_of, tiny_run

B, T = 3, 11
SIZES = ModelConfig(d=8, memory_tokens=3, heads=2, encoder_layers=2, decoder_layers=1, updater_layers=1)


def teacher(context=256, shift=True, layers=2):
    torch.manual_seed(0)
    sizes = SIZES.model_copy(update={"encoder_layers": layers})
    return DenseTeacher(sizes, 5, 5, context, shift).double()


def symbols(lanes=B):
    return torch.randint(5, (lanes, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("context", [256, 6, 1])
@pytest.mark.parametrize("shift", [True, False])
def test_the_memories_of_all_prefixes_are_those_of_each_prefix_alone_and_of_the_stream(context, shift):
    built, x = teacher(context, shift), symbols()
    every = built.encode(x)
    assert every.shape == (B, T + 1, 3, 8)
    memory, read = built.start(B)
    for t in range(T + 1):
        torch.testing.assert_close(built.encode_last(x[:, :t]), every[:, t], rtol=0, atol=1e-12)
        torch.testing.assert_close(memory, every[:, t], rtol=0, atol=1e-12)
        if t < T:
            memory, read = built.step(read, x[:, t])


@pytest.mark.parametrize(("context", "shift", "layers"), [(256, True, 2), (7, True, 2), (6, False, 3), (5, False, 1)])
def test_a_memory_depends_on_no_later_input_and_on_none_before_its_context(context, shift, layers):
    built, x = teacher(context, shift, layers), symbols()
    before = built.encode(x)
    reached = set()
    for column in range(T):
        other = x.clone()
        other[:, column] = (other[:, column] + 1) % 5
        moved = (built.encode(other) - before).abs().amax((0, 2, 3)) > 1e-12
        ages = moved.nonzero().flatten() - column  # 1: the memory after this very column
        assert moved.any() and ages.min() == 1
        reached.add(int(ages.max()))
    assert max(reached) <= context
    assert max(reached) > min(context, T) - layers  # and no less than what the layers divide among themselves


def test_the_decoder_sees_what_came_before_an_input_where_tokens_are_shifted():
    built, memory = teacher(), teacher().encode(symbols())[:, 4]
    future = symbols()[:, :3]
    logits = built.decode(memory, future)
    own, before = built.future_embedding.own, built.future_embedding.before
    tokens = [memory, own(future[:, :1]), own(future[:, 1:2]) + before(future[:, :1])]
    tokens.append(own(future[:, 2:]) + before(future[:, 1:2]))
    torch.testing.assert_close(logits, built.decoder(torch.cat(tokens, 1), slice(2, None)))


def built(method, **fields):
    run = tiny_run(method, {"name": "parity", "length": T}, precision="float64", **fields)
    method = build_method(run, build_task(run))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(2, (2, B, T), generator=generator)
    return method, Batch(x, torch.where(torch.arange(T) % 3 == 1, IGNORED, y))


@pytest.mark.parametrize("k", [1, 2, 4, T, T + 5])
def test_k_sweeps_from_the_teachers_memories_are_k_steps_of_the_rollout_from_each(k):
    """The theorem: before column t stands f^k from m_{t-k}, or the rollout from the beginning where t < k."""
    method, (x, _, _) = built("smt-dense+dmt")
    with torch.no_grad():
        method.sync_predictor("smt")
        memories = method.teacher.encode(x)
        found = swept(method.rnn, memories, x, k)
        for t in range(T):
            begin = max(0, t - k)
            memory = memories[:, begin]
            for column in range(begin, t):
                memory = method.rnn.update(memory, x[:, column])
            torch.testing.assert_close(found[:, t], memory, rtol=0, atol=1e-12)
        if k >= T:
            torch.testing.assert_close(found[:, 1:], method.rollout(x)[:, :-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("steps", "offset"), [(1, 0), (3, 0), (3, 2), (4, 1), (T, 0)])
def test_pieces_begin_at_the_teachers_memories_and_go_on_by_themselves(steps, offset):
    method, (x, _, _) = built("smt-dense+dmt")
    with torch.no_grad():
        method.sync_predictor("smt")
        memories, columns = method.teacher.encode(x), cyclic(T, torch.tensor([offset]))
        assert sorted(columns.tolist()) == list(range(T))
        found = rolled_out(method.rnn, memories[:, columns[::steps]], x, columns, steps)
        for i, column in enumerate(columns.tolist()):
            if i % steps == 0 or column == 0:
                memory = memories[:, column]
            torch.testing.assert_close(found[:, i], memory, rtol=0, atol=1e-12)
            memory = method.rnn.update(memory, x[:, column])
        if steps == T:
            torch.testing.assert_close(found[:, 1:], method.rollout(x)[:, :-1], rtol=0, atol=1e-12)


def by_hand(method, batch, drawn):
    """The loss of phase smt, column by column and memory by memory."""
    config, (x, y, _) = method.config, batch
    memories = [method.teacher.encode_last(x[:, :t]) for t in range(T + 1)]
    guesses = [
        method.rnn.update(rms_normalise(memories[t] + drawn.before[:, t]), x[:, t]) for t in range(T)
    ]  # each (B, K, d)
    errors = torch.stack([F.mse_loss(guesses[t], memories[t + 1], reduction="none").mean((1, 2)) for t in range(T)], 1)
    weights = errors.detach() ** config.focal
    dyn = (errors * weights).sum() / weights.sum()
    if config.relative:
        dyn = dyn / torch.stack(memories[1:], 1).var(0).mean()
    own = round(config.predicted * config.decoded)
    total, scored = 0.0, 0
    for row in range(B):
        even = drawn.even[row].argsort(descending=True)[: config.decoded - own].tolist()
        hard = (errors[row].detach().log() + drawn.by_error[row]).argsort(descending=True)[:own].tolist()
        for n, t in enumerate([*even, *hard]):
            memory = memories[t + 1][row] if n < len(even) else guesses[t][row]
            memory = rms_normalise(memory + drawn.read[row, n])
            width = min(config.future or T, T - t)
            logits = method.teacher.decode(memory[None], x[row : row + 1, t + 1 : t + width])[0]
            targets = y[row, t : t + width]
            total = total + F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
            scored += int((targets != IGNORED).sum())
    unif = uniformity_loss(torch.stack(memories[1:], 1).flatten(0, 1))
    return config.lambda_dec * total / scored + config.lambda_dyn * dyn + config.lambda_unif * unif


@pytest.mark.parametrize(
    "fields",
    [
        {"lambda_dyn": 1.0, "lambda_unif": 0.1},
        {"relative": False, "focal": 0.0, "noise": 0.0, "token_shift": False},
        {"future": 4, "predicted": 0.0, "context": 5},
        {"predicted": 1.0, "decoded": 3},
    ],
)
def test_the_loss_and_its_gradient_are_those_of_a_loop_over_memories(fields):
    method, batch = built({"name": "smt-dense", **fields})
    drawn = method.draw((B, T), "smt")
    near(method, method.smt_losses(batch, drawn)["loss"], by_hand(method, batch, drawn))


def near(method, loss, expected):
    """Equal, and so are their gradients."""
    torch.testing.assert_close(loss, expected)
    gradients = []
    for value in (loss, expected):
        value.backward()
        gradients.append(
            {
                name: parameter.grad.clone()
                for name, parameter in method.named_parameters()
                if parameter.grad is not None
            }
        )
        method.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("dmt", [{"pieces": [4]}, {"pieces": [32]}, {"sweeps": 2}, {"detach_readout": True}])
def test_the_loss_of_dmt_is_that_of_a_loop_over_columns(dmt):
    """From the teacher's memory at every k-th column on; the last update of each alone has a gradient."""
    method, batch = built({"name": "smt-dense+dmt", "dmt": dmt})
    method.sync_predictor("smt")
    method.train_only(method.phases(tiny_run().training)[-1])
    offset, (x, y, _) = method.draw((B, T), "dmt"), batch
    config, steps = method.config.dmt, min(method.config.dmt.pieces[0], T)
    errors, answers = [], []
    with torch.no_grad():
        memories = [method.teacher.encode_last(x[:, :t]) for t in range(T + 1)]
    for t in range(T):
        first = max(0, t - config.sweeps) if config.sweeps else max(0, t - (t - int(offset)) % T % steps)
        memory = memories[first]
        with torch.no_grad():
            for column in range(first, t):
                memory = method.rnn.update(memory, x[:, column])
        memory = method.rnn.update(memory, x[:, t])
        errors.append((memory - memories[t + 1]).square().mean())
        answers.append(method.rnn.read((memory.detach() if config.detach_readout else memory).flatten(1)))
    logits = torch.stack(answers, 1).flatten(0, 1)
    readout = F.cross_entropy(logits, y.flatten(), ignore_index=IGNORED)
    expected = config.lambda_dyn * torch.stack(errors).mean() + config.lambda_readout * readout
    near(method, method.dmt_losses(batch, offset)["loss"], expected)


def test_the_teacher_ends_early_once_it_is_good_enough_and_leaves_its_share_to_what_follows(tmp_path):
    method = {
        "name": "smt-dense+dmt",
        "teacher": {"share": 0.4, "until": 100.0},
        "dmt": {"share": 0.3, "pieces": [2, 4]},
    }
    run = tiny_run(method, training={"budget": {"steps": 100}, "batch_size": 4})
    trainer = Trainer(run, folder_of(run, tmp_path))
    trainer.train()
    ends = {point["phase"]: point["steps"] for point in read_json(trainer.folder.files / "curve.json")}
    assert ends == {"teacher": 10, "smt": 70, "dmt": 100}


def test_a_teacher_that_is_good_enough_at_once_takes_its_steps_whole_where_gradients_are_averaged(tmp_path):
    method = {"name": "smt-dense", "teacher": {"share": 0.5, "until": 100.0, "batch_size": 4}}
    run = tiny_run(method, training={"budget": {"tokens": 8 * 12 * 60}, "batch_size": 8, "accumulate": 3})
    trainer = Trainer(run, folder_of(run, tmp_path))
    trainer.train()
    points = read_json(trainer.folder.files / "curve.json")
    (steps, tokens), *_ = [
        (point["steps"], point["tokens"]) for point in reversed(points) if point["phase"] == "teacher"
    ]
    assert (steps, tokens) == (10, 10 * 3 * 4 * 12)


def test_a_teacher_that_never_is_has_its_share(tmp_path):
    method = {"name": "smt-dense", "teacher": {"share": 0.4, "until": 0.0}}
    run = tiny_run(method, training={"budget": {"steps": 50}, "batch_size": 4})
    trainer = Trainer(run, folder_of(run, tmp_path))
    trainer.train()
    ends = {point["phase"]: point["steps"] for point in read_json(trainer.folder.files / "curve.json")}
    assert ends == {"teacher": 20, "smt": 50}


@pytest.mark.parametrize("dmt", [{"pieces": [4]}, {"pieces": [64]}, {"sweeps": 3}, {"pieces": [3], "rollout": 7}])
def test_the_published_form_labels_the_same_positions_of_pieces_and_sweeps(dmt):
    method, batch = built({"name": "smt+dmt", "context": 5, "dmt": {"every": 2, **dmt}})
    method.sync_predictor("smt")
    method.train_only(method.phases(tiny_run().training)[-1])
    drawn, config, reach = method.draw((B, T), "dmt"), method.config.dmt, min(T, method.config.dmt.rollout)
    steps = min(config.pieces[0], reach) if config.pieces else 0
    errors, answers = [], []
    for t in range(reach):
        first = max(0, t - config.sweeps) if config.sweeps else max(0, t - (t - int(drawn.offset)) % reach % steps)
        with torch.no_grad():
            memory = method.teacher.encode(batch.x[:, max(0, first - 5) : first])
            for column in range(first, t):
                memory = method.rnn.update(memory, batch.x[:, column])
            label = method.teacher.encode(batch.x[:, max(0, t - 4) : t + 1])
        memory = method.rnn.update(memory, batch.x[:, t])
        if t in drawn.t.tolist():
            errors.append((memory - label).square().mean())
        answers.append(method.rnn.read(memory.detach().flatten(1)))
    logits, y = torch.stack(answers, 1).flatten(0, 1), batch.y[:, :reach]
    readout = F.cross_entropy(logits, y.flatten(), ignore_index=IGNORED)
    expected = config.lambda_dyn * torch.stack(errors).mean() + config.lambda_readout * readout
    near(method, method.dmt_losses(batch, drawn)["loss"], expected)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_variance_of_memories_is_torchs(rows):
    memories = torch.randn(rows, 4, 3, 2).double().requires_grad_()
    found, wanted = _variance(memories), memories.var(0, correction=min(1, rows - 1)).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for ours, other in zip(torch.autograd.grad(found, memories), torch.autograd.grad(wanted, memories), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)


def test_the_uniformity_loss_is_the_log_of_a_mean_over_pairs():
    memory = torch.randn(3, 4, 5).double().requires_grad_()
    tokens = memory.flatten(0, 1)
    tokens = tokens / tokens.norm(dim=1, keepdim=True)
    pairs = [-2 * (a - b).square().sum() for i, a in enumerate(tokens) for j, b in enumerate(tokens) if i != j]
    wanted, found = torch.stack(pairs).logsumexp(0) - math.log(len(pairs)), uniformity_loss(memory)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    (ours,), (other,) = torch.autograd.grad(found, memory), torch.autograd.grad(wanted, memory)
    torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)
