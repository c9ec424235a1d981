"""Methods that carry credit forward, against backpropagation through time in float64: exact, or exact on average.

An estimate is a lane: one sequence in all lanes, each with noise of its own, so that thousands of draws are one run.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import registry
from bench.build import build_method, build_task
from bench.config import Run
from bench.engine import Engine, blocks
from bench.feasibility import impossible
from bench.measure.cost import step_costs
from bench.measure.online.estimators import EVERYTHING, lane_by_lane
from bench.methods import online, rank_one
from bench.methods.base import Carry
from bench.tasks.base import IGNORED, Batch
from bench.testing.method import suite
from bench.training import Trainer
from tests.helpers import folder_of, tiny_run

DENSE = {"tanh": {}, "rhn": {}, "lstm": {}, "gru-cell": {}, "gru-cell before": {"reset": "before"}}
"""Cells that give their `Local`."""
OTHERS = {"elstm": {}, "lru": {}, "gru": {}}
NOISY = ("uoro", "nobacktrack", "kf-rtrl")
DRAWS, T, UNITS = 2048, 20, 5


def cell(name: str, method: Any, units: int = UNITS, seed: int = 0, **fields: Any) -> Run:
    """A run of a cell with a linear readout, on sequences of bits."""
    model = {
        **{"backbone": name.partition(" ")[0], "updater_width": units, "d": 4, "heads": 1, "memory_tokens": 1},
        **{"updater_layers": 1, "decoder_layers": 1, "readout": "linear", **{**DENSE, **OTHERS}[name]},
        **fields.pop("model", {}),
    }
    return tiny_run(
        method, {"name": "parity", "length": T}, precision="float64", model=model, **{"seed": seed, **fields}
    )


def built(run: Run) -> Any:
    method = build_method(run, build_task(run))
    method.requires_grad_(True)
    with torch.no_grad():  # biases too
        for one in method.rnn.parameters():
            one.add_(0.3 * torch.randn(one.shape, generator=torch.Generator().manual_seed(1)).to(one.dtype))
    return method


def stream(lanes: int, starts: bool = False, masked: bool = False, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(2, (2, lanes, T), generator=generator)
    start = (torch.arange(T) == 0).repeat(lanes, 1)
    if starts:
        start |= torch.rand(lanes, T, generator=generator) < 0.15
    if masked:
        y[torch.rand(lanes, T, generator=generator) < 0.3] = IGNORED
    return Batch(x, y, start)


def exact(method: Any, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the summed loss by autograd, through all columns."""
    features, _ = method.rnn.scan(method.rnn.initial_state(len(batch.x)), batch.x, batch.start)
    loss, _ = method.objective(method.rnn.read(features), batch.y)
    named = dict(method.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, [*named.values()], materialize_grads=True)))


def summed_credit(method: Any, batch: Batch) -> dict[str, Tensor]:
    """What the engine makes of the stream, times its scored labels."""
    (phase,) = method.phases(cell("tanh", "bptt").training)
    list(Engine(method, phase).stretches(batch))
    labels = (batch.y != IGNORED).sum()
    found = {name: one.grad * labels for name, one in method.named_parameters() if one.grad is not None}
    method.zero_grad()
    return found


def off(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest relative difference of a parameter's gradient."""
    assert a.keys() == b.keys()
    return max(((a[name] - one).norm() / one.norm()).item() for name, one in b.items())


# Exact.


@pytest.mark.parametrize("embedding", ["learned", "fixed"])
@pytest.mark.parametrize("name", [*DENSE, *OTHERS])
def test_rtrl_is_exact_parameter_by_parameter(name, embedding):
    batch = stream(3, starts=True, masked=True)
    for form in ("closed", "generic"):
        method = built(cell(name, {"name": "rtrl", "form": form}, model={"embedding": embedding}))
        assert (method.closed or method.traced) == (form == "closed" and name != "gru")
        assert off(summed_credit(method, batch), exact(method, batch)) < 1e-10


def test_another_objective_is_differentiated_through_a_linear_readout_too(monkeypatch):
    def squared(self, logits, y):
        return (logits.sum(-1) - y).square().sum(), (y != IGNORED).sum()

    kind, batch = registry.methods.get("rtrl"), stream(3)
    plain = built(cell("tanh", "rtrl"))
    assert plain._reads_state_linearly and not built(cell("elstm", "rtrl"))._reads_state_linearly
    monkeypatch.setattr(kind, "objective", squared)
    method = built(cell("tanh", "rtrl"))
    assert off(summed_credit(method, batch), exact(method, batch)) < 1e-10


def test_two_sequences_end_to_end_have_each_ones_gradient_bit_for_bit_if_lanes_restart():
    for name, form in (("tanh", "rtrl"), ("elstm", "rtrl"), ("tanh", "uoro"), ("tanh", "kf-rtrl")):
        method = built(cell(name, form))
        drawn = method.draw((2, T), "train")
        batch, half = stream(2), T // 2

        def credit(columns: slice, start: int | None, method=method, batch=batch, drawn=drawn) -> list[Tensor]:
            """Gradients of the columns' losses, by column."""
            begun = torch.zeros_like(batch.start)
            begun[:, [0] if start is None else [0, start]] = True
            found, carry = [], method.begin(2)
            for t in range(*columns.indices(T)):
                if begun[0, t] and t:
                    carry = method.begin(2)
                one = drawn[t] if isinstance(drawn, Tensor) else ()
                with torch.no_grad():
                    carry, made = method.step(carry, batch.x[:, t], batch.y[:, t], one)
                found += [*made.gradient.values()]
            return found

        whole = credit(slice(T), half)
        apart = credit(slice(half), None) + credit(slice(half, T), None)
        assert all(torch.equal(a, b) for a, b in zip(whole, apart, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(credit(slice(T), None), apart, strict=True))


@pytest.mark.parametrize("name", ["uoro", "nobacktrack", "kf-rtrl", "rtrl"])
def test_other_inputs_in_a_lane_change_no_other_lanes_sensitivities(name):
    method = built(cell("lstm", name))
    batch = stream(3)
    drawn = method.draw((3, T), "train")
    ends = []
    for flipped in (batch.x, torch.cat([1 - batch.x[:1], batch.x[1:]])):
        carry = method.begin(3)
        for t in range(T):
            with torch.no_grad():
                carry, _ = method.step(carry, flipped[:, t], batch.y[:, t], drawn[t] if len(drawn) else ())
        ends.append(online.leaves(carry.lanes))
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one[1:], other[1:]) and not torch.equal(one[0], other[0])


@pytest.mark.parametrize("name", ["uoro", "kf-rtrl"])
def test_windows_of_one_column_agree_with_the_whole_in_the_mean(name):
    whole, single = (built(cell("tanh", {"name": name, "update_every": every})) for every in (None, 1))
    batch = stream(4)
    found = summed_credit(whole, batch)
    (phase,) = single.phases(cell("tanh", "bptt").training)
    sums = {name: torch.zeros_like(one) for name, one in single.named_parameters()}
    for _ in Engine(single, phase).stretches(batch):
        for name, one in single.named_parameters():
            sums[name] += one.grad * 4
        single.zero_grad()
    assert off(found, sums) < 1e-12


@pytest.mark.parametrize("row", ["carries on in a stream", "resumes exactly"])
@pytest.mark.parametrize(
    ("name", "backbone"),
    [("rtrl", "gru"), ("rtrl", "elstm"), ("uoro", "lstm"), ("nobacktrack", "rhn"), ("kf-rtrl", "gru-cell")],
)
def test_updates_at_every_column_are_the_same_wherever_a_stream_is_cut_or_stopped(name, backbone, row):
    (examined,) = (one for one in suite.rows if one.name == row)
    sets = ("method.update_every=1", f"model.backbone={backbone}", "model.readout=linear")
    outcome = suite.outcome(examined, name, sets)
    assert outcome.state == "passed", outcome.detail


# On average.


def each_lanes(method: Any, batch: Batch) -> Tensor:
    """The recurrent parameters' summed gradient as every lane estimates it, (B, P)."""
    method.parts  # noqa: B018 (found before credit has other names)
    lane_by_lane(method)
    found = torch.zeros(len(batch.x), method.size, dtype=torch.float64)
    carry, drawn = method.begin(len(batch.x)), method.draw(tuple(batch.x.shape), "train")
    for t in range(T):
        with torch.no_grad():
            carry, credit = method.step(carry, batch.x[:, t], batch.y[:, t], drawn[t])
        found += credit.gradient[f"rnn.{EVERYTHING}"]
    return found


def as_vector(method: Any, gradient: dict[str, Tensor]) -> Tensor:
    """Gradients by name in the order of the method's parts, (P,)."""
    found = []
    for part in method.parts:
        weight, *bias = (gradient[f"rnn.{name}"] for name in part.names)
        matrix = weight.t() if part.names[0] == online.EMBEDDING else weight
        found.append(torch.cat([matrix, *(one[:, None] for one in bias)], 1).flatten())
    return torch.cat(found)


def estimates(run: Run, lanes: int = DRAWS, change: Any = None) -> tuple[Tensor, Tensor]:
    """Draws of the gradient of one sequence (S, P), and the exact one (P,)."""
    method = built(run)
    if change is not None:
        change(method)
    one = stream(1, seed=run.seed)
    wanted = as_vector(method, exact(method, one))
    return each_lanes(method, Batch(*(part.repeat(lanes, 1) for part in one))), wanted


def variance(draws: Tensor, wanted: Tensor) -> float:
    """E|g - x|^2 / |x|^2."""
    return ((draws - wanted).square().sum(1).mean() / wanted.square().sum()).item()


def deviation(draws: Tensor, wanted: Tensor) -> float:
    """How many standard errors the mean projection on the exact gradient is away from 1."""
    along = draws @ wanted / (wanted @ wanted)
    return ((along.mean() - 1) / (along.std() / len(along) ** 0.5)).abs().item()


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("method", NOISY)
def test_noisy_estimates_are_the_exact_gradient_on_average(method, name):
    draws, wanted = estimates(cell(name, method))
    assert deviation(draws, wanted) < 3
    sizes = [2**k for k in range(8)]
    rms = [(draws.unflatten(0, (-1, k)).mean(1) - wanted).square().sum(1).mean().sqrt().log() for k in sizes]
    slope = torch.linalg.lstsq(
        torch.stack([torch.tensor(sizes).log().double(), torch.ones(8).double()], 1), torch.stack(rms)[:, None]
    ).solution[0, 0]
    assert abs(slope + 0.5) < 0.1


@pytest.mark.parametrize("name", ["gru", "lru"])
def test_uoro_by_torch_func_is_the_exact_gradient_on_average(monkeypatch, name):
    method = built(cell(name, "uoro", units=3, model={"d": 2}))
    one = stream(1)
    wanted = exact(method, one)
    means = [summed_credit(method, Batch(*(part.repeat(64, 1) for part in one))) for _ in range(8)]
    along = torch.stack([sum((found[key] * x).sum() for key, x in wanted.items()) / 64 for found in means]) / sum(
        x.square().sum() for x in wanted.values()
    )
    assert ((along.mean() - 1) / (along.std() / 8**0.5)).abs() < 4 and along.std() > 0


@pytest.mark.parametrize("method", ["uoro", "nobacktrack"])
def test_noise_that_is_uniform_between_the_signs_is_biased(monkeypatch, method):
    """E[nu nu^T] is a third: that much of the influence is left of the past."""

    def uniform(shape, noise, like):
        return torch.rand(shape, generator=noise, dtype=like.dtype) * 2 - 1

    monkeypatch.setattr(rank_one, "signs", uniform)
    draws, wanted = estimates(cell("tanh", method))
    assert deviation(draws, wanted) > 4


def test_balanced_scales_have_less_variance(monkeypatch):
    balanced = variance(*estimates(cell("tanh", "uoro")))
    monkeypatch.setattr(rank_one, "length", lambda one: torch.ones_like(one[..., :1]))
    monkeypatch.setattr(registry.methods.get("uoro"), "balanced", unbalanced)
    assert balanced < variance(*estimates(cell("tanh", "uoro"))) / 1.5


def unbalanced(self, moved, nu):
    return torch.ones_like(nu[..., :1]), moved.pull(nu)


def test_the_gradient_of_what_was_before_the_noise_has_less_variance():
    def both(method):
        """Also notes the gradient of the new s and w, which is counted on top of that of the old ones."""
        take = method.carried

        def carried(moved, held, by_state, drawn_t):
            (s, w), found = take(moved, held, by_state, drawn_t)
            new = (s @ by_state[:, :, None])[:, 0] * w[:, 0]
            return (s, w), {EVERYTHING: found[EVERYTHING] + new}

        method.carried = carried

    run = cell("tanh", "uoro")
    old, wanted = estimates(run)
    new = estimates(run, change=both)[0] - old  # (equal noise)
    assert deviation(new, wanted) < 3
    assert variance(old, wanted) < variance(new, wanted)


def test_kf_rtrl_has_less_variance_than_uoro_by_about_as_much_as_the_state_has_numbers():
    units, ratios = 6, []
    for seed in range(4):
        found = {
            name: variance(*estimates(cell("tanh", name, units, seed, model={"embedding": "fixed"}))) for name in NOISY
        }
        ratios.append(found["uoro"] / found["kf-rtrl"])
        assert found["nobacktrack"] < found["uoro"]
    assert 0.5 * units <= sum(ratios) / 4 <= 2 * units


def test_the_variance_of_copies_is_divided_by_their_number():
    one, four = (variance(*estimates(cell("tanh", {"name": "uoro", "copies": copies}), 4 * DRAWS)) for copies in (1, 4))
    assert 0.85 < one / four / 4 < 1.15


@pytest.mark.parametrize("tail", [None, 4.0])
@pytest.mark.parametrize("name", ["tanh", "lru"])
def test_cuts_that_are_made_up_for_leave_the_gradient_as_it_is_on_average(name, tail):
    method = built(cell(name, {"name": "artbp", "tail": tail}))
    one, lanes = stream(1), 64
    wanted = exact(method, one)
    many = Batch(*(part.repeat(lanes, 1) for part in one))

    def along(reweighted: bool) -> Tensor:
        found = []
        for _ in range(16):
            drawn = method.draw((lanes, T), "train")
            scalars, _ = method.losses(many, drawn if reweighted else (drawn > 0).double(), Carry(), "train")
            each = torch.autograd.grad(scalars["loss"] * T, [*method.parameters()])
            found.append(sum((a.conj() * b).real.sum() for a, b in zip(each, wanted.values(), strict=True)))
        return torch.stack(found) / sum(one.abs().square().sum() for one in wanted.values())

    def deviates(found: Tensor) -> float:
        return ((found.mean() - 1) / (found.std() / 4)).abs().item()

    assert deviates(along(True)) < 3.5 < deviates(along(False))


def test_lengths_between_cuts_have_the_mean_that_is_asked_for():
    for tail in (None, 4.0):
        method = built(cell("tanh", {"name": "artbp", "tail": tail, "mean_length": 8.0}))
        cuts = (method.draw((64, 4096), "train") == 0).double().mean()
        assert cuts.item() == pytest.approx(1 / 8, rel=0.05)


def blocked(block: int, **config: Any) -> Any:
    return built(cell("tanh", {"name": "uoro", "block": block, **config}))


def test_uoro_in_one_block_is_bptt():
    method, batch = blocked(T), stream(3, masked=True)
    assert off(summed_credit(method, batch), exact(method, batch)) < 1e-10
    method, batch = blocked(3, update_every=3 * T), stream(3, starts=True, masked=True)
    batch = batch._replace(start=batch.start | (torch.arange(T) % 2 == 0))  # blocks are cut where lanes restart
    assert off(summed_credit(method, batch), exact(method, batch)) > 1e-3
    everywhere = batch._replace(start=torch.ones_like(batch.start))
    assert off(summed_credit(method, everywhere), exact(method, everywhere)) < 1e-10


def test_blocks_of_uoro_are_unbiased_and_have_the_less_variance_the_longer_they_are():
    one, lanes, variances = stream(1), 128, []
    many = Batch(*(part.repeat(lanes, 1) for part in one))
    for block, copies in ((1, 1), (2, 1), (2, 2), (5, 1)):
        method = blocked(block, copies=copies, update_every=T)
        wanted = exact(method, one)
        scale = sum(x.square().sum() for x in wanted.values())
        found = [summed_credit(method, many) for _ in range(24)]
        along = torch.stack([sum((each[key] * x).sum() for key, x in wanted.items()) / lanes for each in found]) / scale
        assert ((along.mean() - 1) / (along.std() / 24**0.5)).abs() < 3.5
        errors = [sum((each[key] / lanes - x).square().sum() for key, x in wanted.items()) for each in found]
        variances.append(torch.stack(errors).mean() / scale)
    one_column, two, two_copies, five = variances
    assert five < two / 1.5 and two < one_column / 1.5 and two_copies < two / 1.5


@pytest.mark.parametrize(
    ("starts", "size", "expected"),
    [
        ([1, 0, 0, 0, 0], 2, [(0, 2), (2, 4), (4, 5)]),
        ([1, 0, 0, 1, 0, 0, 0], 3, [(0, 3), (3, 6), (6, 7)]),
        ([0, 1, 1, 0, 0], 2, [(0, 1), (1, 2), (2, 4), (4, 5)]),
        ([0, 0], 1, [(0, 1), (1, 2)]),
    ],
)
def test_blocks_are_cut_where_a_lane_restarts(starts, size, expected):
    assert blocks(list(map(bool, starts)), size) == expected


# Cost.


def exponent(sizes: list[int], values: list[float]) -> float:
    """Of a power law, between the first and the last."""
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


@pytest.mark.parametrize("name", ["rtrl", *NOISY, "bptt"])
def test_memory_stands_still_as_sequences_grow_but_for_bptt(name):
    method = name if name == "bptt" else {"name": name, "update_every": 1}
    run = cell("tanh", method, training={"batch_size": 8, "budget": {"steps": 1}})
    lengths = [8, 32]
    steps = [step_costs(run, length)["train"] for length in lengths]
    assert all(step["uncounted"] == {} for step in steps)
    assert 0.95 < exponent(lengths, [step["whole"]["flops"] for step in steps]) < 1.05
    grows = exponent(lengths, [step["peak_bytes"] for step in steps])
    assert grows > 0.9 if name == "bptt" else grows < 0.05


@pytest.mark.parametrize(("name", "power"), [("rtrl", 3), ("uoro", 2), ("kf-rtrl", 2)])
def test_what_is_carried_grows_with_the_state_as_it_should(name, power):
    sizes, every = [], [64, 256]
    for units in every:
        with torch.device("meta"):
            method = build_method(cell("tanh", name, units), build_task(cell("tanh", name)), device="meta")
        sizes.append(sum(one.numel() for one in online.leaves(method.begin(1).lanes)))
    assert exponent(every, sizes) == pytest.approx(power, abs=0.1)


def test_what_would_not_fit_is_refused_with_the_number():
    n, d, symbols = UNITS, 4, 2
    p = n * (n + d + 1) + symbols * d
    sizes = {"rtrl": n * p, "uoro": n + p, "nobacktrack": n + p}
    sizes["kf-rtrl"] = (n + d + 1 + n * n) + (symbols + n * d)
    for name, numbers in sizes.items():
        said = [impossible(cell("tanh", {"name": name, "max_bytes": 8 * 8 * numbers - less})) for less in (0, 1)]
        assert said[0] is None and f"would take {8 * 8 * numbers:,} bytes, above method.max_bytes" in said[1]
    elementwise = cell("elstm", {"name": "rtrl", "max_bytes": 8 * 8 * n * (2 * (d + 1) + 2 + symbols * d)})
    assert impossible(elementwise) is None
    assert "needs a backbone that gives its Local, as tanh does; gru does not" in impossible(cell("gru", "kf-rtrl"))


@pytest.mark.parametrize(("clip", "share"), [(None, None), (1e-6, 1.0), (1e6, 0.0)])
def test_noisy_methods_clip_where_they_say_so_and_tell_how_often(tmp_path, clip, share):
    training = {"batch_size": 4, "budget": {"steps": 8}, "accumulate": 2, "optimiser": {"clip": 1e-3}}
    run = cell("tanh", {"name": "uoro", "clip": clip, "update_every": 4}, training=training)
    (phase,) = built(run).phases(run.training)
    assert phase.optimiser.clip == clip
    trainer = Trainer(run, folder_of(run, tmp_path))
    trainer.train()
    assert trainer.curve[-1].get("train_clipped") == share
    (phase,) = built(cell("tanh", "rtrl")).phases(run.training)
    assert phase.optimiser.clip == 1e-3
