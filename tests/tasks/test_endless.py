"""Tasks whose streams go on without end, against plain Python that looks at every past there can be."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch

from bench import registry, streams
from bench.tasks.endless import chain
from bench.training import Options, Stopped, Trainer
from tests.helpers import folder_of, tiny_run

NEXT = {
    "anbn": [{"most": 1}, {"most": 3}],
    "brackets": [{"word": 1, "between": 1, "letters": 2}, {"word": 2, "between": 1, "letters": 2}],
}
LENGTH = 11


def build(name, **knobs):
    task = registry.tasks.get(name)
    return task(task.Config.parse(knobs, name))


def strings(name, config) -> Iterator[tuple[str, float]]:
    """All strings that a stream is made of, with their probabilities."""
    if name == "anbn":
        for n in range(1, config.most + 1):
            yield "0" * n + "2" + "1" * n + "2", 1 / config.most
        return
    opening, closing, newline = (str(config.letters + i) for i in range(3))
    for word in itertools.product(range(config.letters), repeat=config.word):
        for between in itertools.product(range(config.letters), repeat=config.between):
            first, second = ("".join(map(str, part)) for part in (word, between))
            text = opening + first + closing + second + opening + first + closing + newline
            yield text, config.letters ** -(config.word + config.between)


def texts(name, config, length) -> dict[str, float]:
    """All beginnings of a stream of a length, with their probabilities."""
    found, waiting = defaultdict(float), [("", 1.0)]
    while waiting:
        text, chance = waiting.pop()
        if len(text) >= length:
            found[text[:length]] += chance
        else:
            waiting += [(text + more, chance * other) for more, other in strings(name, config)]
    return found


@pytest.mark.parametrize(("name", "knobs"), [(name, knobs) for name, every in NEXT.items() for knobs in every])
def test_the_next_character_is_as_likely_as_all_texts_together_say(name, knobs):
    task = build(name, **knobs)
    every = texts(name, task.config, LENGTH + 1)
    likely = [defaultdict(lambda: defaultdict(float)) for _ in range(LENGTH)]
    for text, chance in every.items():
        for t in range(LENGTH):
            likely[t][text[: t + 1]][int(text[t + 1])] += chance
    x = torch.tensor([[int(character) for character in text[:LENGTH]] for text in every])
    oracle = task.oracle(x)
    for row, text in enumerate(every):
        for t in range(LENGTH):
            following = likely[t][text[: t + 1]]
            for label in range(task.output_size):
                wanted = following[label] / sum(following.values())
                assert oracle[row, t, label].item() == pytest.approx(wanted, abs=1e-12)
    for first in (0, 4):
        loss = best = 0.0
        for t in range(first, LENGTH):
            for following in likely[t].values():
                total = sum(following.values())
                loss -= sum(p * math.log(p / total) for p in following.values() if p)
                best += max(following.values())
        assert task.loss_floor(LENGTH, first) == pytest.approx(loss / (LENGTH - first), abs=1e-12)
        assert task.accuracy_ceiling(LENGTH, first) == pytest.approx(best / (LENGTH - first), abs=1e-12)
    facts = task.stream_facts()
    assert facts["loss_floor"] == pytest.approx(task.loss_floor(4000, 3000), abs=2e-3)
    assert facts["accuracy_ceiling"] == pytest.approx(task.accuracy_ceiling(4000, 3000), abs=2e-3)


@pytest.mark.parametrize(
    ("name", "knobs"), [("anbn", {"most": 3}), ("brackets", {"word": 2, "between": 1, "letters": 2})]
)
def test_a_stream_is_strings_one_after_another_each_as_likely_as_it_should_be(name, knobs):
    task = build(name, **knobs)
    batch, state = task.stream("train", 50, 5, streams.generator(0, "test"))
    texts, counts, every = [batch.x], defaultdict(int), dict(strings(name, task.config))
    generator = streams.generator(1, "test")
    for length in (1, 7, 400):
        before = batch
        batch, state = task.stream("train", 50, length, generator, state)
        assert torch.equal(before.y[:, -1], batch.x[:, 0]) and not batch.start.any()
        assert torch.equal(batch.y[:, :-1], batch.x[:, 1:])
        texts.append(batch.x)
    for row in torch.cat(texts, 1).tolist():
        text = "".join(map(str, row))
        while fits := [string for string in every if text.startswith(string)]:
            (string,) = fits
            counts[string] += 1
            text = text[len(string) :]
        assert any(string.startswith(text) for string in every)
    total = sum(counts.values())
    for string, chance in every.items():
        # strings that are cut off at the end are the long ones: hardly any of these
        assert abs(counts[string] - total * chance) < 5 * math.sqrt(total * chance) + 0.02 * total * chance


def test_floors_are_the_published_ones():
    assert build("anbn", most=32).stream_facts()["loss_floor"] / math.log(2) == pytest.approx(5 / 35)
    brackets = build("brackets", word=1, between=5, letters=10)
    assert brackets.stream_facts()["loss_floor"] / math.log(2) == pytest.approx(1.661, abs=1e-3)
    lags = build("add-lags", near=2, far=4)
    assert lags.stream_facts()["loss_floor"] == pytest.approx(0.454, abs=5e-4)


def test_labels_of_add_lags_are_the_coins_that_their_past_says():
    task = build("add-lags", near=2, far=3)
    x = torch.tensor(list(itertools.product((0, 1), repeat=7)))
    oracle = task.oracle(x)
    losses, best = torch.zeros(7), torch.zeros(7)
    for row, bits in enumerate(x.tolist()):
        for t in range(7):
            p = 0.5 + 0.5 * (bits[t - 2] if t >= 2 else 0) - 0.25 * (bits[t - 3] if t >= 3 else 0)
            assert oracle[row, t].tolist() == [1 - p, p]
            losses[t] -= sum(q * math.log(q) for q in (p, 1 - p) if q) / len(x)
            best[t] += max(p, 1 - p) / len(x)
    for first in (0, 3):
        assert task.loss_floor(7, first) == pytest.approx(losses[first:].mean().item(), rel=1e-6)
        assert task.accuracy_ceiling(7, first) == pytest.approx(best[first:].mean().item(), rel=1e-6)
    batch, state = task.stream("train", 500, 4, streams.generator(0, "test"))
    more, _ = task.stream("train", 500, 60, streams.generator(1, "test"), state)
    x, y = torch.cat([batch.x, more.x], 1), torch.cat([batch.y, more.y], 1)
    likely = task.oracle(x)[..., 1]
    for p in likely.unique().tolist():
        ones = y[likely == p].double()
        assert abs(ones.mean() - p) <= 5 * math.sqrt(p * (1 - p) / len(ones))


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_a_chain_is_what_a_walk_visits(length):
    steps = torch.randint(1, 6, (20, length), generator=torch.Generator().manual_seed(0))
    for row, found in zip(steps.tolist(), chain(steps).tolist(), strict=True):
        at, visited = 0, set()
        while at < length:
            visited.add(at)
            at += row[at]
        assert found == [t in visited for t in range(length)]


# copy-curriculum


def copied(x):
    """The labels of a string, as a plain list."""
    size = x.index(3) - 1 if 3 in x else len(x)
    assert x[0] == 2 and set(x[1 : size + 1]) <= {0, 1} and set(x[size + 1 :]) <= {3}
    return ([3] * (size + 1) + [2] + x[1 : size + 1])[: len(x)], size


def test_strings_come_again_at_the_level_of_the_stream():
    task = build("copy-curriculum", highest=9)
    pieces, state, generator = [], None, streams.generator(0, "test")
    for length in (3, 50, 1, 200):
        batch, state = task.stream("train", 40, length, generator, state)
        level, *rest = state
        state = (torch.full_like(level, 9), *rest)  # all strings that begin from now on
        pieces.append(batch)
    x, y, start = (torch.cat(part, 1) for part in zip(*pieces, strict=True))
    sizes = []
    for bits, labels, begins in zip(x.tolist(), y.tolist(), start.tolist(), strict=True):
        places = [t for t, here in enumerate(begins) if here]
        assert places[0] == 0 and [t for t, bit in enumerate(bits) if bit == 2] == places
        for first, last in itertools.pairwise([*places, len(bits)]):
            wanted, size = copied(bits[first:last])
            assert labels[first:last] == wanted
            if last < len(bits):
                assert last - first == 2 * size + 2
                sizes.append(size)
    later = [size for size in sizes if size > 1]
    assert set(later) == {5, 6, 7, 8, 9}
    task = build("copy-curriculum", length=14)
    held, _ = task.stream("test", 200, 40, streams.generator(0, "test"))
    assert {copied(row[: row.index(2, 1) if 2 in row[1:] else 40])[1] for row in held.x.tolist()} == {2, 3, 4, 5, 6}


def test_the_level_rises_when_the_mean_loss_is_low_and_a_string_begins():
    task = build("copy-curriculum", pass_below=0.9, then=0.95)
    _, state = task.stream("train", 4, 4, streams.generator(0, "test"))
    mean, columns = 1.0, 4
    for length, loss in ((1, 0.5), (80, 0.1), (1, 0.2)):
        state = task.advance(state, torch.tensor(loss * math.log(2)))
        mean = 0.999**columns * mean + (1 - 0.999**columns) * loss
        assert state[1].item() == pytest.approx(mean, rel=1e-6) and task.standing(state)["level"] == 1
        _, state = task.stream("train", 4, length, streams.generator(1, "test"), state)
        columns = length
        assert state[0] == 1  # the mean was not low enough
    state = task.advance(state, torch.tensor(0.0))
    (place,) = (state[0].new_tensor([2, 0, 1, 2]),)
    level, low, columns, size, _, past = state
    state = (level, torch.full_like(low, 0.89), columns, torch.ones_like(size), place, past)  # strings of four columns
    _, waits = task.stream("train", 4, 1, streams.generator(2, "test"), state)
    assert waits[0] == 1 and waits[1] == 0.89  # no string began
    _, risen = task.stream("train", 4, 2, streams.generator(2, "test"), state)
    assert risen[0] == 2 and risen[1] == 0.95
    _, again = task.stream("train", 4, 200, streams.generator(2, "test"), risen)
    assert again[0] == 2


def test_the_level_is_told_in_the_curve_and_kept_through_a_stop(tmp_path):
    knobs = {"name": "copy-curriculum", "length": 10, "pass_below": 5.0, "then": 6.0}
    run = tiny_run(
        {"name": "tbptt", "k1": 4, "k2": 4}, knobs, training={"batch_size": 3, "columns": 8, "budget": {"steps": 12}}
    )
    whole = Trainer(run, folder_of(run, tmp_path / "whole"))
    whole.train()
    folder = folder_of(run, tmp_path / "pieces")
    for _ in range(5):
        with pytest.raises(Stopped):
            Trainer(run, folder, Options(should_stop=lambda: True)).train()
    pieces = Trainer(run, folder)
    pieces.train()
    levels = [[point.get("train_level") for point in trainer.curve] for trainer in (whole, pieces)]
    assert levels[0] == levels[1] and levels[0][-1] > 1
