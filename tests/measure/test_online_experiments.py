"""Experiments on methods that learn online: what they should show, and another answer where a method is broken."""

from __future__ import annotations

import math

import pytest
import torch

from bench.measure import online
from bench.measure.online import balance, convergence, costs, quality
from bench.measure.online.quality import drawn, exact, problems
from bench.methods import rank_one
from bench.results import read_json

# Influence balancing.

STEPS, RATE = 2000, 3e-3


@pytest.mark.parametrize("name", ["rtrl", "uoro", "kf-rtrl"])
def test_what_carries_all_credit_finds_the_minimum_of_influence_balancing(name):
    lanes = 1 if name == "rtrl" else 256
    told = balance.descended(balance.forward(name, lanes=lanes), STEPS, RATE)
    assert told["steps"][-1] == STEPS and abs(told["theta"][-1] - balance.BEST) < 0.01


def test_what_is_cut_off_goes_the_wrong_way_unless_it_reaches_far_enough():
    ends = {one["setting"]: one["theta"][-1] for one in balance.measure(STEPS, methods=(), rate=RATE)}
    assert all(abs(ends[name] - balance.BEST) > 1 for name in ("k 1", "k 10"))
    assert abs(ends["k 100"] - balance.BEST) < 0.01


def test_influence_that_is_a_third_of_what_it_should_be_is_not_balanced(monkeypatch):
    """As noise that is uniform between the signs leaves it: what is older than a step has a third of its weight."""

    def uniform(shape, noise, like):
        return torch.rand(shape, generator=noise, dtype=like.dtype) * 2 - 1

    monkeypatch.setattr(rank_one, "signs", uniform)
    told = balance.descended(balance.forward("uoro", lanes=64), STEPS, RATE)
    assert abs(told["theta"][-1] - balance.BEST) > 0.02


# Convergence.


def test_credit_from_far_back_makes_the_loss_smaller_than_the_present_step_alone_can():
    found = convergence.measure([10, 30], ("rtrl", "tbptt"), seeds=4)
    assert [one["steps"] for one in found["methods"]] == [[970, 2910]] * 2
    medians = [torch.tensor(one["loss"][-1]).median() for one in found["methods"]]
    assert medians[0] < 0.7 * medians[1] and medians[1] < found["target"]


def test_a_gradient_by_the_bounded_matrix_is_turned_into_that_by_what_it_is_made_of():
    student = convergence.begun(3)
    v, by_w = student.v.requires_grad_(), torch.randn(3, 2, 2).double()
    student = student._replace(v=v)
    (wanted,) = torch.autograd.grad((student.matrix() * by_w).sum(), v)
    assert torch.allclose(student.by_v(by_w), wanted, atol=1e-14)
    assert (torch.linalg.matrix_norm(student.matrix(), 2) < convergence.CONTRACTION).all()


def test_targets_go_on_where_the_cycle_begins_again():
    x, targets = convergence.data()
    fast = slow = torch.zeros(()).double()
    for t in range(30 * len(x)):
        fast, slow = 0.3 * fast + 0.7 * x[t % 97], 0.8 * slow + 0.2 * x[t % 97]
    assert fast - 2 * slow == pytest.approx(targets[-1].item(), abs=1e-12)


# Quality of gradients.


@pytest.mark.parametrize(("axis", "value"), [("units", 5), ("distance", 12)])
def test_rtrl_is_exact_and_what_is_cut_off_is_so_as_far_as_it_reaches(axis, value):
    for problem in problems(axis, value, networks=2):
        wanted = exact(problem)
        size = wanted.norm()
        windows = {k: drawn(problem, {"name": "tbptt", "k1": k, "k2": k}) for k in (4, 64)}
        for one in (drawn(problem, {"name": "rtrl"}), windows[64]):
            assert len(one) == 1 and (one[0] - wanted).norm() < 1e-10 * size
        assert (windows[4][0] - wanted).norm() > 0.05 * size
        assert axis == "units" or windows[4].abs().max() == 0  # the cue is out of reach


@pytest.mark.parametrize("axis", ["units", "distance"])
def test_the_mean_of_draws_is_the_exact_gradient_for_every_method_with_noise(axis):
    (problem,) = problems(axis, 4, networks=1)
    wanted = exact(problem)
    for method in [one for one in quality.ESTIMATORS if one["name"] not in ("tbptt", "rtrl")]:
        draws = drawn(problem, method, 2048, 64)
        along = draws @ wanted / (wanted @ wanted)
        assert (along.mean() - 1).abs() <= 3.5 * along.std() / len(along) ** 0.5 + 1e-9, method


def test_what_is_told_of_draws_is_their_bias_variance_and_cosine():
    noise = torch.Generator().manual_seed(0)
    wanted = torch.tensor([3.0, 4.0, 0.0]).double()
    off, spread = torch.tensor([0.0, 0.0, 2.5]).double(), 0.7
    draws = wanted + off + spread * torch.randn(200_000, 3, generator=noise).double()
    found = quality.quality(draws, wanted)
    assert found.squared_bias == pytest.approx(0.25, rel=0.01)
    assert found.variance == pytest.approx(3 * spread**2 / 25, rel=0.01)
    assert quality.quality(draws - off, wanted).squared_bias == pytest.approx(0, abs=1e-4)
    few = [quality.quality(part, wanted).squared_bias for part in (draws - off)[:160_000].split(8)]
    assert sum(few) / len(few) == pytest.approx(0, abs=2e-4)  # the mean's own noise, 0.007, is not taken for bias
    alone = quality.quality((2 * wanted)[None], wanted)
    assert alone == (pytest.approx(1), 0, pytest.approx(1))
    assert quality.quality(torch.zeros(1, 3).double(), wanted) == (1, 0, 0)


def test_rows_say_who_where_and_how_much_and_noise_of_another_kind_shows_as_bias(monkeypatch, tmp_path):
    sizes = {"units": (3,), "distances": (2,), "networks": 2, "draws": 4096, "cuts": 4}
    record = online.measure(
        "gradient-quality", estimators=[{"name": "uoro"}, {"name": "tbptt", "k1": 1, "k2": 1}], **sizes
    )
    kept = read_json(online.keep(record, tmp_path))
    assert kept["found"] == record["found"] and list(kept["methods"]).index("uoro") == kept["methods"]["uoro"]
    assert [(one["method"], one["setting"], one["axis"], one["value"], one["seed"]) for one in record["found"]][:4] == [
        ("uoro", "", "units", 3, 0),
        ("tbptt", "k 1", "units", 3, 0),
        ("uoro", "", "units", 3, 1),
        ("tbptt", "k 1", "units", 3, 1),
    ]
    monkeypatch.setattr(rank_one, "signs", lambda shape, noise, like: 0.5 * torch.ones(shape, dtype=like.dtype))
    broken = online.measure("gradient-quality", estimators=[{"name": "uoro"}], **sizes)
    for one, other in zip(record["found"][::2], broken["found"]):
        noise = (one["variance"] / one["draws"]) ** 0.5
        assert one["squared_bias"] < 4 * noise**2 and other["squared_bias"] > max(0.01, 4 * noise**2)


def test_kf_rtrl_has_less_noise_than_uoro_and_copies_divide_it():
    methods = [{"name": "kf-rtrl"}, {"name": "uoro"}, {"name": "uoro", "copies": 4}]
    rows = quality.measure((8,), (), methods, networks=4, draws=512)
    kf, uoro, copies = (
        sum(one["variance"] for one in rows if (one["method"], one["setting"]) == who)
        for who in (("kf-rtrl", ""), ("uoro", ""), ("uoro", "copies 4"))
    )
    assert uoro > 3 * kf and 3 < uoro / copies < 5.5


# Costs.


def test_costs_grow_with_n_and_t_as_each_method_says():
    rows = costs.measure((32, 64), (16, 32))
    assert not [one for one in rows if one["method"] == "kf-rtrl" and one["setting"] == "elstm"]  # it is refused there

    def power(name: str, axis: str, setting: str = "", what: str = "bytes") -> float:
        who = (name, setting, axis)
        low, high = (one[what] for one in rows if (one["method"], one["setting"], one["axis"]) == who)
        return math.log2(high / low)

    assert power("rtrl", "units") > 2.7 and power("rtrl", "units", what="flops") > 3.7
    assert power("rtrl", "units", "elstm") < 2 and power("uoro", "units") < 2
    assert 2.6 < power("kf-rtrl", "units", what="flops") < 3 and power("bptt", "columns") > 0.9
    for name in ("rtrl", "kf-rtrl", "uoro", "nobacktrack"):
        assert power(name, "columns") == 0 and abs(power(name, "columns", what="flops")) < 0.05
