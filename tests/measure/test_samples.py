"""What a model writes is what it says: its own symbols, after those it was given, in pictures and text as they are."""

from __future__ import annotations

import json
import math
from typing import Any

import matplotlib
import matplotlib.image
import pytest
import torch
from torch import Tensor

from bench import registry, streams
from bench.build import build_method, build_task
from bench.config import ModelConfig, TaskConfig
from bench.errors import BadInput
from bench.measure.samples import draw, half_blocks, kind, picture_grid, render, save_png, write
from bench.methods.base import EVERY, Method, MethodConfig
from bench.tasks.base import Batch, Task
from tests.helpers import tiny_run

DIGITS = {"name": "digits", "length": 64}


def built(method: Any = "bptt", task: Any = None, **fields: Any) -> tuple[Method, Task]:
    """A method at initialisation, with its predictor up to date, and its task."""
    run = tiny_run(dict(method) if isinstance(method, dict) else method, dict(task or DIGITS), **fields)
    task = build_task(run)
    made = build_method(run, task)
    made.sync_predictor("smt")
    return made, task


class Counting(Method):
    """Certain that each symbol is the last one plus one."""

    name = "counting"

    def gradients(self, batch, phase):
        raise NotImplementedError

    def initial_state(self, lanes: int) -> Tensor:
        return torch.zeros(lanes, dtype=torch.long)

    def advance(self, state, x, columns=EVERY, start=None):
        following = (x[:, columns] + 1) % self.task.output_size
        return 100 * torch.nn.functional.one_hot(following, self.task.output_size).float(), x[:, -1]


def counting(task: Task) -> Counting:
    return Counting(MethodConfig(), task, ModelConfig(), torch.Generator())


class Shapes(Task):
    """Random pictures of 8 x 8 pixels in patches of 2 x 2, or random letters, each label the next symbol."""

    name = "shapes"
    Config = TaskConfig
    vocab_size = 16
    picture_symbols = 16

    def sample(self, split, batch_size, length, generator):
        tokens = torch.randint(16, (batch_size, length + 1), generator=generator)
        return Batch(tokens[:, :-1], tokens[:, 1:])

    def picture(self, x: Tensor) -> Tensor:
        return x.view(-1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2).to(torch.uint8)


class Letters(Shapes):
    name = "letters"
    picture_symbols = None

    def text(self, x: Tensor) -> list[str]:
        return ["".join(chr(ord("a") + symbol) for symbol in row) for row in x.tolist()]


def shapes(cls: type[Task] = Shapes, length: int = 16) -> Task:
    return cls(TaskConfig(length=length))


# Writing.


def test_at_temperature_zero_it_writes_the_likeliest_symbol_each_time():
    method, task = built()
    record = write(method, task, count=1, temperature=0)
    symbols = [task.sample("test", 1, 64, streams.generator(0, "samples", "test")).x[0, 0]]
    with torch.no_grad():
        for _ in range(63):
            symbols.append(method.predict(torch.stack(symbols)[None])[0, -1].argmax())
    assert record["written"] == task.picture(torch.stack(symbols)[None]).tolist()  # type: ignore[union-attr]


def test_each_symbol_that_it_draws_is_its_next_input():
    task = shapes(Letters, 6)
    for text in write(counting(task), task, count=3, temperature=1.0)["written"]:
        first = ord(text[0]) - ord("a")
        assert text == "".join(chr(ord("a") + (first + i) % 16) for i in range(6))


def test_equal_seeds_write_the_same_and_other_seeds_do_not():
    method, task = built()
    assert write(method, task, seed=3) == write(method, task, seed=3)
    assert write(method, task, seed=3)["written"] != write(method, task, seed=4)["written"]


@pytest.mark.parametrize(("temperature", "power"), [(1.0, 1), (0.5, 2), (2.0, 0.5)])
def test_symbols_are_drawn_from_the_softmax_at_that_temperature(temperature, power):
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    n = 40_000
    drawn = draw(p.log().expand(n, -1), temperature, streams.generator(0, "test"))
    expected = p**power / (p**power).sum()
    error = (expected * (1 - expected) / n).sqrt()
    assert ((torch.bincount(drawn, minlength=4) / n - expected).abs() < 4 * error).all()  # one in 4,000 by chance


def test_a_temperature_near_zero_draws_the_likeliest():
    logits = torch.randn(100, 7, generator=streams.generator(0, "logits"))
    assert torch.equal(draw(logits, 1e-300, streams.generator(0, "test")), logits.argmax(-1))


# Pictures.


@pytest.mark.parametrize("method", ["bptt", "smt", "smt+dmt", "transformer"])
def test_every_method_writes_pictures(method):
    made, task = built(method)
    record = write(made, task, count=3)
    assert record["kind"] == "image" and record["predictor"] == made.predictors()[0].name
    assert [len(record[part]) for part in ("written", "completed")] == [3, 3]
    for picture in record["written"]:
        assert len(picture) == 8 and all(len(row) == 8 and 0 <= min(row) <= max(row) <= 255 for row in picture)
    assert json.loads(json.dumps(record)) == record


def test_completions_keep_what_they_were_given_of_true_test_pictures():
    method, task = built()
    test = task.split_arrays(task.load()[0], "test")[0].reshape(-1, 8, 8)  # type: ignore[attr-defined]
    originals = (test.astype(int) * 255 // 16).tolist()
    completed = write(method, task)["completed"]
    for completion in completed:
        assert completion["given"] == 4 and completion["truth"] in originals
        assert completion["written"][:4] == completion["truth"][:4]
    assert any(completion["written"][4:] != completion["truth"][4:] for completion in completed)


def test_pictures_begin_where_they_begin_though_the_windows_start_anywhere():
    method, task = built(task={**DIGITS, "start": "anywhere"})
    _, aligned = built()
    assert write(method, task)["completed"] == write(method, aligned)["completed"]


def test_a_whole_picture_is_written_by_a_model_of_shorter_sequences():
    method, task = built(task={"name": "digits", "length": 12})
    assert {len(picture) for picture in write(method, task)["written"]} == {8}


def test_of_pictures_in_patches_whole_rows_are_given():
    task = shapes()
    for completion in write(counting(task), task)["completed"]:
        assert completion["given"] == 4 and completion["written"][:4] == completion["truth"][:4]
        last = completion["truth"][3][-1]  # counting goes on from the last patch that was given
        assert completion["written"][4][:4] == [(last + 1) % 16] * 2 + [(last + 2) % 16] * 2


def test_smt_that_starts_from_a_context_is_given_that_context():
    smt = {"name": "smt", "start": "context", "context": 40}
    evaluation = {"score_from": 39, "sequences": 32, "reference_sequences": 8}
    method, task = built(smt, evaluation=evaluation)
    record = write(method, task)
    assert record["context"] == 40
    for completion, own in zip(record["completed"], record["written"], strict=True):
        assert completion["given"] == 5 and completion["written"][:5] == own[:5] == completion["truth"][:5]
    assert any(
        completion["truth"][5:] != own[5:]
        for completion, own in zip(record["completed"], record["written"], strict=True)
    )


def test_a_picture_that_is_all_context_is_not_written():
    smt = {"name": "smt", "start": "context", "context": 64}
    evaluation = {"score_from": 63, "sequences": 32, "reference_sequences": 8}
    record = write(*built(smt, {"name": "digits", "length": 80}, evaluation=evaluation))
    assert record["written"] == record["completed"] == []
    with pytest.raises(BadInput, match="has none"):
        picture_grid(record)


# Text and symbols.


def test_a_completed_text_is_a_test_window_cut_in_two():
    task = shapes(Letters)
    windows = task.text(task.sample("test", 5, 10, streams.generator(0, "samples", "test")).x)
    record = write(counting(task), task, count=5, length=10)
    assert record["kind"] == "text"
    assert [completion["given"] + completion["truth"] for completion in record["completed"]] == windows
    for completion, own, window in zip(record["completed"], record["written"], windows or [], strict=True):
        assert len(completion["given"]) == len(completion["written"]) == 5 and len(own) == 10
        assert own[0] == window[0]
        assert ord(completion["written"][0]) - ord("a") == (ord(completion["given"][-1]) - ord("a") + 1) % 16


@pytest.mark.parametrize("method", ["bptt", "transformer"])
def test_answers_are_the_predictors_likeliest_ones_where_the_task_scores(method):
    made, task = built(method, {"name": "stack", "length": 20})
    record = write(made, task, count=6)
    assert record["kind"] == "symbols" and record["written"] == []
    for completion in record["completed"]:
        likeliest = made.predict(torch.tensor([completion["given"]])).argmax(-1)[0].tolist()
        expected = [-1 if truth == -1 else guess for truth, guess in zip(completion["truth"], likeliest, strict=True)]
        assert completion["written"] == expected
        assert -1 in expected and set(expected) != {-1}


def test_no_answer_is_shown_before_there_is_a_memory():
    smt = {"name": "smt", "start": "context", "context": 8}
    evaluation = {"score_from": 7, "sequences": 32, "reference_sequences": 8}
    method, task = built(smt, {"name": "parity", "length": 12}, evaluation=evaluation)
    for completion in write(method, task)["completed"]:
        assert completion["truth"][:7] == completion["written"][:7] == [-1] * 7
        assert -1 not in completion["truth"][7:] + completion["written"][7:]


def test_only_a_task_whose_labels_are_the_next_inputs_is_written_on():
    class Mirrored(Shapes):
        def sample(self, split, batch_size, length, generator):
            x, _, _ = super().sample(split, batch_size, length, generator)
            return Batch(x, x.flip(1))

    assert [kind(shapes(cls)) for cls in (Shapes, Letters, Mirrored)] == ["image", "text", "symbols"]
    assert kind(registry.tasks.get("retrieval")(registry.tasks.get("retrieval").Config())) == "symbols"


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"count": 0}, "count: 0"), ({"temperature": -1.0}, "temperature: -1"), ({"temperature": float("nan")}, "nan")],
)
def test_what_cannot_be_written_is_refused(asked, message):
    with pytest.raises(BadInput, match=message):
        write(*built(), **asked)


@pytest.mark.parametrize("task", [DIGITS, {"name": "parity"}])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_write_nothing(task, temperature, monkeypatch):
    method, task = built(task=task)
    advance = method.advance
    monkeypatch.setattr(method, "advance", lambda *given: (math.nan * (result := advance(*given))[0], result[1]))
    with pytest.raises(BadInput, match="logits are not finite"):
        write(method, task, temperature=temperature)


def test_a_text_no_longer_than_its_beginning_is_refused():
    task = shapes(Letters)
    with pytest.raises(BadInput, match="length: 1 given"):
        write(counting(task), task, length=1)


# To be looked at.


def image_record(**parts: Any) -> dict[str, Any]:
    return {"predictor": "rnn", "kind": "image", "temperature": 1.0, "written": [], "completed": [], **parts}


def test_two_pixels_are_one_character():
    assert half_blocks([[255, 0], [255, 255]]) == ["█▄"]
    assert half_blocks([[255, 127, 128], [0, 0, 0], [0, 255, 0]]) == ["▀ ▀", " ▀ "]


def test_large_pictures_are_shrunk_and_keep_thin_lines():
    line = torch.zeros(64, 64, dtype=torch.long)
    line[:, 10] = 255
    assert half_blocks(line.tolist()) == [" " * 5 + "█" + " " * 26] * 16


def test_completions_stand_beside_what_was_given_and_what_is_true():
    completion = {"given": 2, "truth": [[255, 0], [255, 0]] * 2, "written": [[255, 0], [255, 0], [0, 255], [0, 255]]}
    lines = render(image_record(completed=[completion])).splitlines()
    assert lines == [
        "rnn, temperature 1",
        "",
        "given    truth    written",
        "█        █        █",
        "         █         █",
    ]


def test_text_cannot_command_the_terminal():
    completion = {"given": "a\nb", "truth": "c", "written": "\x1b[2Jd\u202e"}
    shown = render({**image_record(written=["e\r"], completed=[completion]), "kind": "text"})
    assert "a\nb" in shown and "\N{REPLACEMENT CHARACTER}[2Jd" in shown
    assert not set("\x1b\r\u202e") & set(shown)


def test_symbols_stand_in_columns_and_a_dot_is_not_scored():
    completion = {"given": [3, 10, 0], "truth": [-1, -1, 10], "written": [-1, -1, 7]}
    lines = render({**image_record(completed=[completion]), "kind": "symbols"}).splitlines()
    assert lines[2:] == ["given     3 10  0", "truth     .  . 10", "written   .  .  7"]


def test_the_png_shows_the_pictures_below_one_another(tmp_path):
    white, black = [[255] * 4] * 4, [[0] * 4] * 4
    record = image_record(written=[black], completed=[{"given": 2, "truth": black, "written": white}])
    sheet = picture_grid(record).axes[0].images[0].get_array()
    assert sheet is not None and sheet.shape == (4 * 4 + 3, 4)
    assert sheet[[0, 5, 8, 10, 15], 0].tolist() == [0, 0, 160, 0, 255]  # written, given, not given, truth, completed
    with matplotlib.rc_context({"text.usetex": True}):  # the user's settings are not asked
        save_png(record, tmp_path / "grid.png")
    assert matplotlib.image.imread(tmp_path / "grid.png").ndim == 3
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]


def test_only_pictures_make_a_png(tmp_path):
    with pytest.raises(BadInput, match="symbols"):
        save_png({**image_record(), "kind": "symbols"}, tmp_path / "grid.png")
