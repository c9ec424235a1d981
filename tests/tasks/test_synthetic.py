"""The synthetic tasks beyond their contract, which `tests/testing` examines: labels, distributions, exact facts.

Everything is seeded. Tolerances on sampled means are 5 standard errors, which a true claim misses once in 1.7 million.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from bench import registry, streams
from bench.errors import BadInput
from bench.tasks import IGNORED, Batch, Split, Task
from bench.tasks.keys_values import distinct
from tests.tasks import oracles

NAMES = [*oracles.ORACLES, "recency"]
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "retrieval": [
        {},
        {"symbols": 2},
        {"needle_to": 1.0},
        {"needle_from": 1.0, "needle_to": 1.0},
        {"needle_from": 0.25, "needle_to": 0.25},
    ],
    "string-copy": [{}, {"reverse": False}, {"symbols": 2}],
    "stack": [{}, {"depth": 1}, {"depth": 2, "symbols": 2}, {"depth": 100}],
    "keys-values": [
        {},
        {"span": 1, "key_symbols": 40, "value_symbols": 3},
        {"span": 3, "key_symbols": 2},
        {"pairs": 1, "span": 1, "key_symbols": 1},
        {"pairs": 2, "span": 2, "key_symbols": 2},
        {"span": 3, "key_symbols": 16},  # too many keys for a random number each
    ],
    "modular-arithmetic": [{}, {"modulus": 2}, {"modulus": 7, "w": [1, 3]}, {"modulus": 12, "w": [2, 2], "b": [0, 5]}],
    "parity": [{}, {"every_step": False}],
    "recency": [{}, {"primacy": True}, {"decay": 0.0}, {"decay": 1.0, "symbols": 3}],
}
LENGTHS = (13, 16, 33, 50)
SHORTEST = {"retrieval": 3, "string-copy": 2, "stack": 2, "keys-values": 7, "modular-arithmetic": 2}

each_variant = pytest.mark.parametrize(
    ("name", "knobs"), [pytest.param(name, knobs, id=f"{name}-{knobs}") for name in NAMES for knobs in VARIANTS[name]]
)
each_task = pytest.mark.parametrize("name", NAMES)


def build(name: str, **knobs: Any) -> Task:
    task = registry.tasks.get(name)
    return task(task.Config.parse(knobs, f"task({name})"))


def draw(task: Task, rows: int, length: int, split: Split = "test", seed: int = 0) -> Batch:
    return task.sample(split, rows, length, streams.generator(seed, "test"))


def near(sample: np.ndarray, expected: float) -> bool:
    """Whether the mean is within 5 standard errors of what is expected."""
    return abs(sample.mean() - expected) <= 5 * sample.std(ddof=1) / math.sqrt(len(sample)) + 1e-12


# Sequences and labels


@each_variant
@pytest.mark.parametrize("length", LENGTHS)
def test_labels_are_what_the_inputs_imply(name, knobs, length):
    task = build(name, **knobs)
    x, y, _ = draw(task, 200, length)
    for inputs, labels in zip(x.tolist(), y.tolist(), strict=True):
        if name == "recency":
            assert oracles.recency(task.config, inputs)[labels[-1]] > 0
            assert set(labels[:-1]) == {IGNORED}
        else:
            assert labels == oracles.ORACLES[name](task.config, inputs)


@each_variant
@pytest.mark.parametrize("length", LENGTHS)
def test_scored_columns_are_those_that_some_row_scores(name, knobs, length):
    task = build(name, **knobs)
    y = draw(task, 2000, length).y
    columns = (y != IGNORED).any(0).nonzero().flatten().tolist()
    assert list(task.scored_columns(length)) == columns
    assert task.scored_columns(y.shape[1]) == task.scored_columns(length)  # models see the width only


@pytest.mark.parametrize(
    ("name", "knobs", "length", "width"),
    [
        ("retrieval", {}, 33, 33),
        ("string-copy", {}, 33, 32),
        ("stack", {}, 33, 33),
        ("keys-values", {}, 34, 31),
        ("keys-values", {}, 35, 35),
        ("keys-values", {"span": 1, "key_symbols": 17}, 36, 35),
        ("keys-values", {"pairs": 2}, 64, 11),
        ("modular-arithmetic", {}, 33, 32),
        ("parity", {}, 33, 33),
        ("recency", {}, 33, 33),
    ],
)
def test_a_batch_is_the_largest_instance_that_fits(name, knobs, length, width):
    assert draw(build(name, **knobs), 2, length).x.shape == (2, width)


@pytest.mark.parametrize(("name", "shortest"), SHORTEST.items())
def test_a_length_that_fits_nothing_is_refused_in_one_line(name, shortest):
    task = build(name)
    assert draw(task, 2, shortest).x.shape == (2, shortest)
    with pytest.raises(BadInput, match=f"{name}: length {shortest - 1} given; .*at least {shortest}") as error:
        draw(task, 2, shortest - 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("retrieval", {"length": 2}, "length: 2 given; should be greater than or equal to 3"),
        ("retrieval", {"symbols": 1}, "symbols: 1 given; should be greater than or equal to 2"),
        ("retrieval", {"needle_from": 0.7}, r"needle_from \(0.7\) should not be above needle_to \(0.5\)"),
        ("string-copy", {"symbols": 0}, "symbols: 0 given"),
        ("string-copy", {"corruption": 1.5}, "corruption: 1.5 given"),
        ("stack", {"depth": 0}, "depth: 0 given"),
        ("keys-values", {"pairs": 8}, "length 32 given; 8 pairs of span 2 need at least 35"),
        ("keys-values", {"span": 1, "key_symbols": 8}, "length 32 has 15 pairs, but there are only 8 different keys"),
        ("keys-values", {"span": 20, "length": 100}, r"should be below 2 \*\* 62"),
        ("modular-arithmetic", {"w": [1, 8]}, r"w: \[1, 8\] given; should be \[first, last\] within 0..7"),
        ("modular-arithmetic", {"b": [3, 2]}, r"b: \[3, 2\] given"),
        ("parity", {"length": 0}, "length: 0 given"),
        ("recency", {"decay": 1.1}, "decay: 1.1 given"),
    ],
)
def test_an_impossible_knob_is_refused_in_one_line(name, knobs, message):
    with pytest.raises(BadInput, match=message) as error:
        build(name, **knobs)
    assert "\n" not in str(error.value)


def test_more_pairs_than_keys_are_refused_at_test_lengths_too():
    task = build("keys-values", span=1)
    assert draw(task, 2, 33).x.shape == (2, 33)
    assert draw(task, 2, 34).x.shape == (2, 33)
    with pytest.raises(BadInput, match="only 16 different keys; .* a length of at most 34"):
        draw(task, 2, 35)


# Randomness


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_task
def test_a_batch_is_drawn_where_its_generator_is_without_waiting_for_the_device(name):
    task, generator = build(name), streams.generator(0, "test", device="cuda")
    task.sample("train", 16, 32, generator)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = task.sample("train", 16, 32, generator)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert batch.x.is_cuda and batch.y.is_cuda
    for x, y in zip(batch.x.tolist(), batch.y.tolist(), strict=True):
        if name in oracles.ORACLES:
            assert y == oracles.ORACLES[name](task.config, x)


# Distributions


@pytest.mark.parametrize(
    ("knobs", "places"),
    [
        ({}, range(0, 10)),
        ({"needle_from": 0.25, "needle_to": 0.75}, range(5, 15)),
        ({"needle_to": 1.0}, range(0, 18)),  # the needle is at most next to last
        ({"needle_from": 0.3, "needle_to": 0.3}, range(6, 7)),
    ],
)
def test_the_needle_is_equally_likely_at_every_place_of_its_range(knobs, places):
    rows = 20_000
    x = draw(build("retrieval", **knobs), rows, 20).x
    counts = Counter((x == 0).int().argmax(1).tolist())
    assert set(counts) == set(places)
    share = 1 / len(places)
    assert all(abs(n / rows - share) <= 5 * math.sqrt(share * (1 - share) / rows) for n in counts.values())


def test_a_share_of_the_length_is_not_lost_to_rounding():
    assert build("retrieval", needle_from=0.29, needle_to=0.29).positions(100) == range(29, 30)


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_the_stack_grows_and_shrinks_like_a_walk_that_is_turned_back_at_its_ends(depth):
    rows, length, rng = 5000, 24, random.Random(0)
    x = draw(build("stack", depth=depth), rows, length).x.numpy()
    heights = np.where(x > 0, 1, -1).cumsum(1)
    walks = np.empty_like(heights)
    for row in range(rows):
        height = 0
        for t in range(length):
            up = height == 0 or (height < depth and rng.random() < 0.5)
            height += 1 if up else -1
            walks[row, t] = height
    for level in range(depth + 1):
        ours, theirs = (heights == level).mean(0), (walks == level).mean(0)  # (T,)
        variance = (ours * (1 - ours) + theirs * (1 - theirs)) / rows
        assert (abs(ours - theirs) <= 5 * np.sqrt(variance)).all()


@pytest.mark.parametrize(("options", "n"), [(4, 3), (5, 5), (2000, 2), (2**61, 3)])
def test_keys_are_different_and_every_order_is_equally_likely(options, n):
    rows = 24_000
    drawn = distinct(options, (rows, n), streams.generator(0, "test"))
    assert drawn.min() >= 0 and drawn.max() < options
    assert all(len(set(row)) == n for row in drawn[:2000].tolist())
    orders = Counter(map(tuple, drawn.argsort(1).tolist()))
    share = 1 / math.factorial(n)
    assert all(abs(m / rows - share) <= 5 * math.sqrt(share / rows) for m in orders.values())
    assert len(orders) == math.factorial(n)
    middle = (drawn.double().mean() / ((options - 1) / 2)).item()
    assert abs(middle - 1) <= 5 / math.sqrt(3 * rows)  # the row means vary less than one uniform number


def test_keys_are_different_where_repeats_are_common():
    drawn = distinct(1200, (200, 590), streams.generator(0, "test"))  # beyond SMALL_KEY_SPACE: drawn, then repaired
    assert all(len(set(row)) == 590 for row in drawn.tolist())
    assert near(drawn.double().mean(1).numpy(), 1199 / 2)


def test_every_pair_is_asked_for_equally_often():
    task = build("keys-values", span=1)
    x = draw(task, 14_000, 15).x  # 7 pairs, then the query
    asked = (x[:, :14:2] == x[:, 14:]).int().argmax(1).bincount(minlength=7) / len(x)
    assert (abs(asked - 1 / 7) <= 5 * math.sqrt(6 / 49 / len(x))).all()


@pytest.mark.parametrize("primacy", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_recency_asks_for_past_symbols_as_often_as_their_weights_say(primacy, decay):
    task = build("recency", primacy=primacy, decay=decay, symbols=4)
    x, y, _ = draw(task, 20_000, 12)
    expected = np.array([[p for _, p in sorted(oracles.recency(task.config, row).items())] for row in x.tolist()])
    came = np.eye(4)[y[:, -1].numpy()]
    for symbol in range(4):
        assert near(came[:, symbol] - expected[:, symbol], 0)
        likely = expected[:, symbol] > 0.5  # right given x, and not only on average
        assert near(came[likely, symbol] - expected[likely, symbol], 0)


@pytest.mark.parametrize("name", ["retrieval", "string-copy"])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_labels_are_corrupted_at_the_stated_rate_in_every_split(name, split):
    task = build(name, corruption=0.3, symbols=5)
    x, y, _ = draw(task, 4000, 20, split)
    truth = np.array([oracles.ORACLES[name](task.config, row) for row in x.tolist()])
    scored = truth != IGNORED
    assert ((y.numpy() != IGNORED) == scored).all()
    given, right = y.numpy()[scored], truth[scored]
    assert given.min() == 1 and given.max() == 5
    assert near((given == right).astype(float), 0.7 + 0.3 / 5)
    assert near(((given - right) % 5 == 1).astype(float), 0.3 / 5)  # and the wrong ones are equally likely


# What can be reached


@pytest.mark.parametrize("name", ["retrieval", "string-copy"])
@pytest.mark.parametrize("corruption", [0.0, 0.2, 1.0])
def test_floor_and_ceiling_under_corruption_are_those_of_the_best_predictor(name, corruption):
    symbols = 4
    task = build(name, corruption=corruption, symbols=symbols)
    x, y, _ = draw(task, 5000, 16)
    truth = np.array([oracles.ORACLES[name](task.config, row) for row in x.tolist()])
    scored = truth != IGNORED
    right = (y.numpy() == truth)[scored]
    p = np.where(right, 1 - corruption + corruption / symbols, corruption / symbols)
    assert near(right.astype(float), task.accuracy_ceiling(16))
    assert near(-np.log(p), task.loss_floor(16))


RULES = [
    {"modulus": 2},
    {"modulus": 5},
    {"modulus": 8},
    {"modulus": 12},
    {"modulus": 9, "w": [1, 2]},
    {"modulus": 6, "b": [0, 0]},
    {"modulus": 12, "w": [2, 9], "b": [3, 7]},
    {"modulus": 8, "w": [4, 4]},
]


def all_rules(modulus: int, w: list[int] | None = None, b: list[int] | None = None) -> list[tuple[int, int]]:
    ws, bs = (range(r[0], r[1] + 1) if r else range(modulus) for r in (w, b))
    return list(itertools.product(ws, bs))


@pytest.mark.parametrize("knobs", RULES, ids=str)
def test_modular_arithmetic_floor_and_ceiling_are_exact(knobs):
    """Against all sequences of inputs and all rules: rules that agree so far are equally likely."""
    task, modulus, rules = build("modular-arithmetic", **knobs), knobs["modulus"], all_rules(**knobs)
    losses, hits = [], []  # of each example
    for n in [n for n in range(1, 7) if modulus**n <= 6000]:
        loss = right = 0.0
        for x in itertools.product(range(modulus), repeat=n):
            answers = Counter(tuple((w * i + b) % modulus for i in x) for w, b in rules)
            history: Counter[tuple[int, ...]] = Counter()
            best: Counter[tuple[int, ...]] = Counter()
            for answer, count in answers.items():
                history[answer[:-1]] += count
                best[answer[:-1]] = max(best[answer[:-1]], count)
            loss -= sum(count * math.log(count / history[answer[:-1]]) for answer, count in answers.items())
            right += best.total()
        losses.append(loss / modulus**n / len(rules))
        hits.append(right / modulus**n / len(rules))
        for score_from in range(2 * n - 1):
            scored = slice((score_from + 1) // 2, n)
            assert task.loss_floor(2 * n, score_from) == pytest.approx(np.mean(losses[scored]), abs=1e-12)
            assert task.accuracy_ceiling(2 * n + 1, score_from) == pytest.approx(np.mean(hits[scored]), abs=1e-12)


def test_modular_arithmetic_in_closed_form():
    """A prime modulus, three examples: nothing known; then only at the same x; then all, once two x differ."""
    V = 5
    task = build("modular-arithmetic", modulus=V)
    second = 1 / V + (1 - 1 / V) / V
    third = (1 - 1 / V) + (1 / V) * second
    assert task.accuracy_ceiling(6) == pytest.approx((1 / V + second + third) / 3)
    unknown = (1 - 1 / V) * math.log(V)
    assert task.loss_floor(6) == pytest.approx((math.log(V) + unknown + unknown / V) / 3)


def test_what_is_known_when_scoring_begins_late_is_counted_as_known():
    """A prime modulus: after `seen` examples the rule is known, unless all of their x are one and the next is not."""
    V, unknown = 3, np.array([3.0 ** -(seen - 1) * (1 - 1 / 3) for seen in range(8, 16)])
    task = build("modular-arithmetic", modulus=V)
    assert task.accuracy_ceiling(32, 16) == pytest.approx((1 - unknown * (1 - 1 / V)).mean())
    assert task.loss_floor(32, 16) == pytest.approx((unknown * math.log(V)).mean())
    assert round(task.accuracy_ceiling(32), 4) == 0.9167 and round(task.loss_floor(32), 3) == 0.137


def test_shortcuts_and_label_frequencies_are_of_the_columns_that_are_scored():
    task = build("stack")
    fitted, held = (
        [
            [(symbol, label) for symbol, label in zip(row, labels, strict=True)][16:]
            for row, labels in zip(
                task.rules()["the symbol pushed last"](batch.x).tolist(), batch.y.tolist(), strict=True
            )
        ]
        for batch in (task._drawn("train", 24), task._drawn("test", 24))
    )
    asked = [(symbol, label) for row in held for symbol, label in row if label != IGNORED]
    shortcuts = task.shortcuts(24, 16)
    assert shortcuts["the symbol pushed last"] == pytest.approx(np.mean([symbol == label for symbol, label in asked]))
    assert round(shortcuts["the symbol pushed last"], 3) == 0.699
    counts = Counter(label for row in fitted for _, label in row if label != IGNORED)
    total = counts.total() + task.output_size
    expected = np.mean([-math.log((counts[label] + 1) / total) for _, label in asked])
    assert task.unigram_loss(24, 16) == pytest.approx(expected)


@pytest.mark.parametrize(("symbols", "decay", "length"), [(2, 0.5, 5), (4, 0.9, 12), (8, 1.0, 20), (3, 0.8, 40)])
def test_recency_floor_and_ceiling_are_those_of_the_weighted_symbols(symbols, decay, length):
    task = build("recency", symbols=symbols, decay=decay)
    rng = random.Random(0)
    losses, best = [], []
    for _ in range(20_000):
        chances = oracles.recency(task.config, [rng.randrange(symbols) for _ in range(length)]).values()
        losses.append(-sum(p * math.log(p) for p in chances if p))
        best.append(max(chances))
    for sample, stated in ((losses, task.loss_floor(length)), (best, task.accuracy_ceiling(length))):
        error = math.hypot(np.std(sample) / math.sqrt(len(sample)), 5e-4)  # theirs and ours
        assert abs(np.mean(sample) - stated) <= 5 * error


def test_recency_and_primacy_are_equally_hard():
    late, early = build("recency"), build("recency", primacy=True)
    assert late.loss_floor(20) == early.loss_floor(20) and late.accuracy_ceiling(20) == early.accuracy_ceiling(20)


@pytest.mark.parametrize(
    ("name", "knobs", "rule", "expected"),
    [
        ("stack", {"depth": 1}, "the symbol pushed last", 1.0),
        ("keys-values", {"pairs": 1, "span": 1}, "the value stored last", 1.0),
        ("keys-values", {"pairs": 4, "span": 1, "value_symbols": 8}, "the value stored last", 1 / 4 + 3 / 4 / 8),
        ("keys-values", {"pairs": 4, "span": 2, "value_symbols": 8}, "the value stored last", 1 / 4 + 3 / 4 / 8),
        ("modular-arithmetic", {"w": [0, 0], "length": 2}, "the last answer again", 1.0),
        ("recency", {"decay": 0.0}, "echo the last symbol", 1.0),
        ("recency", {"decay": 0.0, "primacy": True}, "the first symbol", 1.0),
    ],
)
def test_a_trivial_rule_reaches_what_it_must(name, knobs, rule, expected):
    task = build(name, **knobs)
    reached = task.shortcuts(task.config.length)[rule]
    assert abs(reached - expected) <= 5 * math.sqrt(expected * (1 - expected) / 2048)


def test_the_stack_rule_is_the_last_symbol_that_went_on():
    x = torch.tensor([[3, 1, 0, 2, 0, 0]])
    assert build("stack").rules()["the symbol pushed last"](x).tolist() == [[3, 1, 1, 2, 2, 2]]


@pytest.mark.parametrize(
    ("name", "knobs", "chance"),
    [
        ("retrieval", {"symbols": 5}, 1 / 5),
        ("string-copy", {"symbols": 5}, 1 / 5),
        ("stack", {"symbols": 5}, 1 / 5),
        ("keys-values", {"value_symbols": 5}, 1 / 5),
        ("modular-arithmetic", {"modulus": 5}, 1 / 5),
        ("modular-arithmetic", {"modulus": 8, "w": [0, 0], "b": [2, 4]}, 1 / 3),
        ("parity", {}, 1 / 2),
        ("recency", {"symbols": 5}, 1 / 5),
    ],
)
def test_chance_is_a_guess_among_the_labels_that_occur(name, knobs, chance):
    task = build(name, **knobs)
    assert task.chance(32) == pytest.approx(chance)
    y = draw(task, 2000, 32).y
    assert len(y[y != IGNORED].unique()) == round(1 / chance)
