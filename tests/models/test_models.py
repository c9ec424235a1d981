"""The networks keep what METHODS of the paper say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import grad

from bench import registry
from bench.config import ModelConfig, Optimiser
from bench.methods import EVERY
from bench.models import RNN, CausalTransformer, Teacher, rms_normalise, windows
from bench.models.backbone import Backbone, leaves
from bench.models.layers import LAST, Block, RMSNorm, _angles, attend, stack
from bench.models.sizes import count_parameters
from bench.models.updater import pairs
from bench.optimiser import build

SIZES = ModelConfig(d=16, memory_tokens=3, heads=2, encoder_layers=2, decoder_layers=2, updater_layers=2)
BACKBONES = ["transformer", "mlp", "gru"]
"""Those whose state is a memory of tokens."""
EVERY_BACKBONE = [*BACKBONES, "tanh", "lstm", "rhn", "gru-cell", "elstm", "lru"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_causal_transformer_predicts_in_parallel_what_it_streams_with_its_cache():
    model = CausalTransformer(SIZES, 7, 5).double()
    x = torch.randint(0, 7, (4, 11))
    past, streamed = model.initial_state(4), []
    for x_t in x.unbind(1):
        hidden, past = model.step(past, x_t)
        streamed.append(model.read(hidden))
    torch.testing.assert_close(torch.stack(streamed, 1), model(x, EVERY), rtol=1e-10, atol=1e-10)
    assert past.caches[0][0].shape == (4, 2, 11, 8)  # the cache holds every position


def test_a_lane_of_the_causal_transformer_that_restarts_sees_nothing_from_before():
    model = CausalTransformer(SIZES, 7, 5).double()
    x, past = torch.randint(0, 7, (2, 9)), model.initial_state(2)
    for t, x_t in enumerate(x.unbind(1)):
        hidden, past = model.step(past, x_t, torch.tensor([t in (0, 5), t == 0]))
    torch.testing.assert_close(model.read(hidden)[:1], model(x[:1, 5:], LAST)[:, 0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.read(hidden)[1:], model(x[1:], LAST)[:, 0], rtol=1e-10, atol=1e-10)


def test_the_causal_transformer_does_not_see_the_future():
    model = CausalTransformer(SIZES, 7, 5).double()
    x = torch.randint(0, 7, (4, 11))
    other = x.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 7
    before, after = model(x, slice(6)), model(other, slice(6))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    assert not torch.allclose(model(x, slice(6, None)), model(other, slice(6, None)))


def test_weight_decay_pulls_the_gain_of_a_norm_to_one():
    norm, x = RMSNorm(4).double(), torch.randn(3, 4).double()
    normalised = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), normalised)
    norm.g.data.fill_(0.5)
    torch.testing.assert_close(norm(x), 1.5 * normalised)
    optimiser = build(Optimiser(lr=0.1, decay=1.0), [list(norm.parameters())])
    for _ in range(100):
        norm.g.grad = torch.zeros_like(norm.g)
        optimiser.step()
    torch.testing.assert_close(norm(x), normalised, rtol=1e-3, atol=0)


def test_a_block_equals_attention_written_out():
    """Pre-norm attention with rotary positions and a feed-forward part, computed element by element."""
    block, x = Block(SIZES, 1).double(), torch.randn(2, 5, 16).double()
    for rms in (block.attention_norm, block.feedforward_norm):
        nn.init.normal_(rms.g)
    out, _ = block(x)

    def norm(v, g):
        return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + g)

    def rotate(v, position):  # v (8,): pairs (i, i + 4) turn by position * 10000^(-2i/8)
        turned = torch.empty_like(v)
        for i in range(4):
            angle = torch.tensor(position * 10_000.0 ** (-2 * i / 8)).double()
            turned[i] = v[i] * angle.cos() - v[i + 4] * angle.sin()
            turned[i + 4] = v[i + 4] * angle.cos() + v[i] * angle.sin()
        return turned

    qkv = norm(x, block.attention_norm.g) @ block.qkv.weight.T
    mixed = torch.zeros(2, 5, 16).double()
    for b in range(2):
        for head in range(2):
            part = slice(head * 8, head * 8 + 8)
            q, k, v = qkv[b, :, :16][:, part], qkv[b, :, 16:32][:, part], qkv[b, :, 32:][:, part]
            q = torch.stack([rotate(q[t], t) for t in range(5)])
            k = torch.stack([rotate(k[t], t) for t in range(5)])
            mixed[b, :, part] = (q @ k.T / 8**0.5).softmax(-1) @ v
    y = x + mixed @ block.merge.weight.T
    hidden = norm(y, block.feedforward_norm.g) @ block.expand.weight.T + block.expand.bias
    y = y + hidden.clamp(min=0).square() @ block.contract.weight.T + block.contract.bias
    torch.testing.assert_close(out, y, rtol=1e-6, atol=1e-6)  # the table of angles is rounded from float64


def test_positions_have_the_same_angles_whatever_the_length_asked_for():
    short, long = (_angles(n, 8, torch.device("cpu"), torch.float32) for n in (4, 40))
    assert all(torch.equal(a, b[:4]) for a, b in zip(short, long, strict=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_updater_keeps_the_memory_shape_and_the_rnn_normalises_its_tokens(backbone):
    rnn = RNN(SIZES.model_copy(update={"backbone": backbone}), 7, 5)
    memory = rnn.update(rnn.initial_state(4), torch.randint(0, 7, (4,)))
    assert memory.shape == (4, 3, 16)
    torch.testing.assert_close(memory.square().mean(-1), torch.ones(4, 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backbone", EVERY_BACKBONE)
@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_a_scan_equals_a_loop_of_steps_with_lanes_that_restart(backbone, length):
    rnn = RNN(SIZES.model_copy(update={"backbone": backbone}), 7, 5).double()
    x, starts = torch.randint(0, 7, (4, length)), torch.rand(4, length) < 0.3
    _, state = rnn.scan(rnn.initial_state(4), torch.randint(0, 7, (4, 3)))
    for start in (None, starts):
        features, last = rnn.scan(state, x, start)
        looped, stepped = Backbone.scan(rnn.updater, state, rnn.embedding(x), start)
        torch.testing.assert_close(features, looped, rtol=1e-10, atol=1e-10)
        for ours, other in zip(leaves(last), leaves(stepped), strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("readout", ["transformer", "linear"])
@pytest.mark.parametrize("backbone", EVERY_BACKBONE)
def test_features_are_read_one_row_at_a_time_or_all_at_once(backbone, readout):
    rnn = RNN(SIZES.model_copy(update={"backbone": backbone, "readout": readout}), 7, 5).double()
    features, _ = rnn.scan(rnn.initial_state(2), torch.randint(0, 7, (2, 3)))
    logits = rnn.read(features)
    assert logits.shape == (2, 3, 5) and rnn.read(features[:, :0]).shape == (2, 0, 5)
    torch.testing.assert_close(rnn.read(features[1:, 2]), logits[1:, 2], rtol=1e-10, atol=1e-10)


def test_a_fixed_embedding_is_no_parameter():
    rnn = RNN(SIZES.model_copy(update={"embedding": "fixed"}), 7, 5)
    assert not any(name.startswith("embedding") for name, _ in rnn.named_parameters())
    assert rnn.state_dict()["embedding.weight"].shape == (7, 16)


def test_an_lstm_backbone_is_the_lstm_recurrence():
    """Against torch's own cell, whose gates stand in the same order and whose two biases add up."""
    backbone = registry.backbones.get("lstm")(SIZES.model_copy(update={"updater_width": 5})).double()
    cell = torch.nn.LSTMCell(16, 5).double()
    with torch.no_grad():
        cell.weight_hh.copy_(backbone.map.weight[:, :5])
        cell.weight_ih.copy_(backbone.map.weight[:, 5:])
        cell.bias_ih.copy_(backbone.map.bias)
        cell.bias_hh.zero_()
    c, h, u = torch.randn(4, 5).double(), torch.randn(4, 5).double(), torch.randn(4, 16).double()
    wanted_h, wanted_c = cell(u, (h, c))
    found_c, found_h = backbone.step((c, h), u)
    torch.testing.assert_close(found_c, wanted_c)
    torch.testing.assert_close(found_h, wanted_h)
    torch.testing.assert_close(backbone.map.bias[5:10], torch.ones(5).double())  # forget nothing at first


def test_a_gru_cell_with_its_reset_gate_after_the_product_is_torchs():
    backbone = registry.backbones.get("gru-cell")(SIZES.model_copy(update={"updater_width": 5})).double()
    cell, maps = torch.nn.GRUCell(16, 5).double(), backbone.maps
    keep, reset = maps["gates"].weight.chunk(2)
    nn.init.normal_(maps["gates"].bias)
    nn.init.normal_(maps["back"].bias)
    with torch.no_grad():
        cell.weight_hh.copy_(torch.cat([reset[:, :5], keep[:, :5], maps["back"].weight]))
        cell.weight_ih.copy_(torch.cat([reset[:, 5:], keep[:, 5:], maps["into"].weight]))
        cell.bias_ih.copy_(torch.cat([*maps["gates"].bias.chunk(2)[::-1], maps["into"].bias]))
        cell.bias_hh.zero_()[10:].copy_(maps["back"].bias)
    h, u = torch.randn(4, 5).double(), torch.randn(4, 16).double()
    torch.testing.assert_close(backbone.step(h, u), cell(u, h))


def test_a_gru_cell_with_its_reset_gate_before_the_product_is_the_published_one():
    config = SIZES.model_copy(update={"updater_width": 5, "reset": "before"})
    backbone = registry.backbones.get("gru-cell")(config).double()
    gates, new = backbone.maps["gates"], backbone.maps["new"]
    h, u = torch.randn(4, 5).double(), torch.randn(4, 16).double()
    v, r = (torch.cat([h, u], 1) @ gates.weight.T + gates.bias).sigmoid().chunk(2, 1)
    candidate = (torch.cat([r * h, u], 1) @ new.weight.T + new.bias).tanh()
    torch.testing.assert_close(backbone.step(h, u), v * h + (1 - v) * candidate)


def test_an_rhn_backbone_is_a_highway_of_depth_one():
    backbone = registry.backbones.get("rhn")(SIZES.model_copy(update={"updater_width": 5})).double()
    h, u = torch.randn(4, 5).double(), torch.randn(4, 16).double()
    new, keep = (torch.cat([h, u], 1) @ backbone.map.weight.T + backbone.map.bias).chunk(2, 1)
    wanted = keep.sigmoid() * h + (1 - keep.sigmoid()) * (new / 2).tanh()
    torch.testing.assert_close(backbone.step(h, u), wanted)
    torch.testing.assert_close(backbone.map.bias[5:], torch.ones(5).double())


def test_an_elstm_backbone_has_gates_that_see_one_unit_each():
    backbone = registry.backbones.get("elstm")(SIZES.model_copy(update={"updater_width": 5})).double()
    c, u = torch.randn(4, 5).double(), torch.randn(4, 16).double()
    into, forget = (u @ backbone.map.weight.T + backbone.map.bias).chunk(2, 1)
    z, f = (into + backbone.own[0] * c).tanh(), (forget + backbone.own[1] * c).sigmoid()
    after = f * c + (1 - f) * z
    torch.testing.assert_close(backbone.step(c, u), after)
    gate = (torch.cat([u, after], 1) @ backbone.out.weight.T + backbone.out.bias).sigmoid()
    torch.testing.assert_close(backbone.features(after, u), gate * after)


def test_an_lru_backbone_is_a_sum_of_decaying_inputs():
    """h_t = sum over s <= t of lambda^(t - s) exp(gamma) B u_s, in complex arithmetic of numpy."""
    backbone = registry.backbones.get("lru")(SIZES.model_copy(update={"updater_width": 6})).double()
    u = torch.randn(2, 5, 16).double()
    features, _ = backbone.scan(backbone.initial(2), u)
    p = {name: parameter.detach().numpy() for name, parameter in backbone.numbers.items()}
    factor = np.exp(-np.exp(p["nu"]) + 1j * np.exp(p["theta"]))
    driven = np.exp(p["gamma"]) * (u.numpy() @ (p["B"][0] + 1j * p["B"][1]).T)
    assert (np.abs(factor) < 1).all()
    for t in range(5):
        h = sum(factor ** (t - s) * driven[:, s] for s in range(t + 1))
        wanted = (h @ (p["C"][0] + 1j * p["C"][1]).T).real + p["D"] * u[:, t].numpy()
        np.testing.assert_allclose(features[:, t].detach().numpy(), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backbone", ["gru", "lstm", "rhn", "gru-cell", "elstm"])
def test_chrono_biases_keep_a_state_for_up_to_as_many_steps(backbone):
    built = registry.backbones.get(backbone)(SIZES.model_copy(update={"chrono": 101}))
    width = built.width
    biases = {"gru": lambda: pairs(built.maps)[0][1].bias[:width], "gru-cell": lambda: built.maps["gates"].bias[:width]}
    bias = biases.get(backbone, lambda: built.map.bias[width : 2 * width])()
    steps = bias.exp()  # U(1, 100)
    assert steps.min() >= 1 and steps.max() <= 100 and 30 < steps.mean() < 70
    if backbone == "lstm":
        torch.testing.assert_close(built.map.bias[:width], -bias)


def test_a_gru_updater_is_the_gru_recurrence():
    config = SIZES.model_copy(update={"backbone": "gru", "updater_width": 5})
    updater = registry.backbones.get("gru")(config).double()
    memory, token = torch.randn(2, 3, 16).double(), torch.randn(2, 16).double()
    (down, up), (down_c, up_c) = updater.maps
    m = memory.flatten(1)
    gates = ((torch.cat([m, token], 1) @ down.weight.T) @ up.weight.T + up.bias).sigmoid()
    z, r = gates[:, :48], gates[:, 48:]
    candidate = ((torch.cat([r * m, token], 1) @ down_c.weight.T) @ up_c.weight.T + up_c.bias).tanh()
    torch.testing.assert_close(updater(memory, token), (z * m + (1 - z) * candidate).view(2, 3, 16))


@pytest.mark.parametrize("sizes", [SIZES, ModelConfig()], ids=["tiny", "paper"])
@pytest.mark.parametrize("backbone", [name for name in EVERY_BACKBONE if name != "transformer"])
def test_the_other_updaters_match_the_transformers_parameter_count(backbone, sizes):
    with torch.device("meta"):
        target = count_parameters(registry.backbones.get("transformer")(sizes))
        count = count_parameters(registry.backbones.get(backbone)(sizes))
    assert abs(count / target - 1) < 0.05


def test_a_complex_parameter_counts_as_two_numbers():
    module = torch.nn.Module()
    module.real, module.complex = (torch.nn.Parameter(torch.zeros(3, 5, dtype=dtype)) for dtype in (None, torch.cfloat))
    assert count_parameters(module) == 15 + 2 * 15


def test_paper_sizes_make_the_transformer_baseline_as_large_as_the_rnn():
    with torch.device("meta"):
        rnn, transformer = RNN(ModelConfig(), 256, 256), CausalTransformer(ModelConfig(), 256, 256)
    assert count_parameters(rnn) == count_parameters(transformer)


def test_a_context_is_the_same_whatever_padding_stands_before_it():
    teacher = Teacher(SIZES, 7, 5).double()
    context = torch.randint(0, 7, (3, 4))
    padded = torch.cat([torch.full((3, 6), Teacher.PAD), context], 1)
    torch.testing.assert_close(teacher.encode(padded), teacher.encode(context), rtol=1e-10, atol=1e-10)
    empty, only_padding = torch.empty(1, 0, dtype=torch.long), torch.full((1, 6), Teacher.PAD)
    torch.testing.assert_close(teacher.encode(only_padding), teacher.encode(empty), rtol=1e-10, atol=1e-10)


def test_contexts_encoded_in_chunks_come_back_in_their_order(monkeypatch):
    teacher = Teacher(SIZES, 7, 5).double()
    contexts = torch.randint(0, 7, (50, 9))
    lengths = torch.randint(0, 10, (50, 1))
    contexts = contexts.where(torch.arange(9) >= 9 - lengths, Teacher.PAD)
    whole = teacher._encode(contexts)
    monkeypatch.setattr("bench.models.teacher.CHUNK", 8)
    torch.testing.assert_close(teacher.encode(contexts), whole, rtol=1e-10, atol=1e-10)


def test_the_encoder_normalises_each_memory_token():
    memory = Teacher(SIZES, 7, 5).encode(torch.randint(0, 7, (3, 4)))
    torch.testing.assert_close(memory.square().mean(-1), torch.ones(3, 3), rtol=1e-3, atol=1e-3)


def test_with_the_decoders_weights_the_readout_gives_the_decoders_first_logits():
    teacher, rnn = Teacher(SIZES, 7, 5).double(), RNN(SIZES, 7, 5).double()
    rnn.readout.load_state_dict(teacher.decoder.state_dict())
    memory, future = rms_normalise(torch.randn(4, 3, 16).double()), torch.randint(0, 7, (4, 6))
    torch.testing.assert_close(
        rnn.read(memory.flatten(1)), teacher.decode(memory, future)[:, 0], rtol=1e-10, atol=1e-10
    )


def test_the_decoder_is_causal_in_its_future():
    teacher = Teacher(SIZES, 7, 5).double()
    memory, future = torch.randn(4, 3, 16).double(), torch.randint(0, 7, (4, 6))
    other = future.clone()
    other[:, 3:] = (other[:, 3:] + 1) % 7  # x_{t+4} and later: y_t .. y_{t+3} must not notice
    logits, changed = teacher.decode(memory, future), teacher.decode(memory, other)
    torch.testing.assert_close(logits[:, :4], changed[:, :4], rtol=0, atol=1e-12)
    assert not torch.allclose(logits[:, 4:], changed[:, 4:])


def test_windows_cut_what_a_loop_cuts():
    sequence = torch.arange(20).view(2, 10)
    first = torch.tensor([[-3, 0, 8], [9, 4, -1]])
    expected = [
        [[int(sequence[b, f + j]) if 0 <= f + j < 10 else -7 for j in range(4)] for f in row]
        for b, row in enumerate(first.tolist())
    ]
    assert windows(sequence, first, 4, -7).tolist() == expected


OWN = torch.tensor([[0, 3], [6, 2], [5, 5]])
ROWS = [EVERY, LAST, slice(-2, None), slice(-1), slice(3, None), slice(4, 6), slice(1, None, 2), slice(0), OWN]


@pytest.mark.parametrize("kind", ["plain", "masked", "causal"])
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_the_rows_that_are_read_and_their_gradients_are_those_of_the_whole_stack(rows, kind):
    blocks, x = stack(SIZES, 2).double(), torch.randn(3, 7, 16).double().requires_grad_()
    mask = torch.arange(7) >= torch.tensor([0, 2, 3])[:, None, None, None] if kind == "masked" else None
    lanes = torch.arange(3)[:, None] if isinstance(rows, torch.Tensor) else EVERY
    into = torch.randn(3, 7, 16).double()[lanes, rows]
    read = attend(blocks, x, mask, kind == "causal", rows)
    whole = x
    for block in blocks:
        whole, _ = block(whole, mask, kind == "causal")
    torch.testing.assert_close(read, whole[lanes, rows], rtol=1e-12, atol=1e-12)
    inputs = [x, *blocks.parameters()]
    for ours, other in zip(grad(read, inputs, into), grad(whole[lanes, rows], inputs, into), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_prepared_rollout_has_the_states_and_gradients_of_single_steps(backbone):
    rnn = RNN(SIZES.model_copy(update={"backbone": backbone}), 7, 5).double()
    for name, ours in rnn.named_parameters():
        if name.endswith(".g"):
            nn.init.normal_(ours)
    u, state = torch.randn(4, 5, 16).double().requires_grad_(), torch.randn(4, 3, 16).double().requires_grad_()
    step, inputs = rnn.updater.prepare(u)
    prepared = stepped = state
    for u_t, input_t in zip(u.unbind(1), inputs.unbind(1), strict=True):
        prepared, stepped = step(prepared, input_t), rnn.step(stepped, u_t)
    torch.testing.assert_close(prepared, stepped, rtol=1e-12, atol=1e-12)
    wanted, into = [u, state, *rnn.updater.parameters()], torch.randn(4, 3, 16).double()
    for ours, other in zip(grad(prepared, wanted, into), grad(stepped, wanted, into), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["step", "forward"])
def test_a_rollout_takes_the_step_of_a_subclass_that_changes_it(method):
    base = registry.backbones.get("gru")
    own = type("Own", (base,), {method: lambda self, memory, token: memory + 1})
    updater = own(SIZES)
    features, _ = updater.scan(updater.initial(2), torch.randn(2, 4, 16))
    wanted = torch.arange(1.0, 5).expand(48, -1).T if method == "step" else torch.ones(4, 48)
    torch.testing.assert_close(features[0], wanted)
