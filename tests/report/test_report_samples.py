"""Samples: pictures, texts and answers as written, the numbers beside them, and records that are not whole."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes

from bench.report import formats
from bench.report.exhibit import Exhibit, Missing
from bench.report.sections import samples
from bench.report.style import PURPLE, RC
from tests.report import fabricated
from tests.report.fabricated import expect, measured, only


def picture(level: int, height: int = 4) -> list[list[int]]:
    return [[level] * 4 for _ in range(height)]


def images(written: int = 20, done: int = 60, truth: int = 100, given: int = 2, count: int = 8) -> dict[str, Any]:
    """Completions keep the given rows."""
    completed = [*picture(truth, given), *picture(done, 4 - given)]
    completion = {"given": given, "truth": picture(truth), "written": completed}
    return {"kind": "image", "written": [picture(written)] * count, "completed": [completion] * count}


def symbols(*rows: tuple[list[int], list[int], list[int]]) -> dict[str, Any]:
    completed = [dict(zip(("given", "truth", "written"), row)) for row in rows]
    return {"kind": "symbols", "written": [], "completed": completed}


ASKED = ([3, 0, 7, 0], [-1, -1, -1, 7], [-1, -1, -1, 7])
WRONG = ([3, 0, 5, 0], [-1, -1, -1, 5], [-1, -1, -1, 6])


def texts(continuation: str) -> dict[str, Any]:
    completion = {"given": "the cat sat", "truth": " on a mat.", "written": continuation}
    return {"kind": "text", "written": ["A <b>tale</b>\nof $x_1$."] * 4, "completed": [completion] * 4}


def cell(root: Path, record: Any, *how: Any, **fields: Any) -> None:
    measured(root, "samples.json", record, *how, **fields)


def made(root: Path) -> tuple[Exhibit, pd.DataFrame]:
    found = fabricated.made(root, "samples")
    return found, found.table


def sheet(root: Path) -> Axes:
    figure = made(root)[0].figure
    assert figure is not None
    with rc_context(RC):
        figure.canvas.draw()
    (axes,) = figure.axes
    return axes


def strips(root: Path) -> list[tuple[str, list[float]]]:
    """Every row's words, and how bright its pictures are from left to right."""
    axes, found = sheet(root), defaultdict(dict)
    for image in axes.images:
        left, _, _, top = image.get_extent()
        found[top][left] = np.mean(image.get_array())
    words = [tick.get_text() for tick in axes.get_yticklabels()]
    return [(word, [found[top][left] for left in sorted(found[top])]) for word, top in zip(words, sorted(found))]


# Pictures.


def test_a_row_shows_six_pictures_and_four_completions_below_the_true_ones(tmp_path: Path) -> None:
    cell(tmp_path, images(written=20), "smt+dmt")
    cell(tmp_path, images(written=30), "transformer")
    shown = ("smt+dmt", [20] * 6 + [80] * 4), ("transformer", [30] * 6 + [80] * 4)
    assert strips(tmp_path) == [("test pictures", [100] * 4), *shown]


def test_ink_is_black_and_a_line_stands_below_the_rows_that_were_given(tmp_path: Path) -> None:
    cell(tmp_path, images(given=3))
    axes = sheet(tmp_path)
    assert axes.images[0].to_rgba(np.array([[255.0, 0.0]])).tolist() == [[[0, 0, 0, 1], [1, 1, 1, 1]]]
    marked = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines if line.get_color() == PURPLE]
    tops = sorted({image.get_extent()[3] for image in axes.images})
    assert len(marked) == 8
    for top in tops:
        assert sum(np.allclose(y, top + 3 / 4) for y in marked) == 4


def test_other_test_pictures_come_again(tmp_path: Path) -> None:
    cell(tmp_path, images(truth=100), "bptt")
    cell(tmp_path, images(truth=40), "transformer")
    assert [word for word, _ in strips(tmp_path)] == ["test pictures", "bptt", "test pictures", "transformer"]


def test_the_error_of_completions_counts_what_was_not_given(tmp_path: Path) -> None:
    for seed, done in enumerate([60, 70, 110]):
        cell(tmp_path, images(20 + seed, done), "bptt", seed)
    cell(tmp_path, images(done=95), "transformer")
    _, table = made(tmp_path)
    shown = {"blank_error": 100, "ink_written": 21, "ink_test": 100, "seeds": 3}
    expect(only(table, method="bptt"), completion_error=(80 / 3, 10, 40), **shown)
    expect(only(table, method="transformer"), completion_error=(5, math.nan, math.nan))


def test_of_every_method_the_first_seed_is_shown(tmp_path: Path) -> None:
    for seed, written in ((2, 50), (1, 40)):
        cell(tmp_path, images(written), seed=seed)
    assert dict(strips(tmp_path))["bptt"][0] == 40


@pytest.mark.parametrize(
    ("gone", "rows", "error"),
    [("completed", [("bptt", 6)], math.nan), ("written", [("test pictures", 4), ("bptt", 4)], 40)],
)
def test_free_pictures_or_completions_stand_alone(tmp_path: Path, gone: str, rows: Any, error: float) -> None:
    cell(tmp_path, {**images(), gone: []})
    assert [(word, len(row)) for word, row in strips(tmp_path)] == rows
    expect(only(made(tmp_path)[1]), completion_error=error)


def test_rows_of_pictures_are_few(tmp_path: Path) -> None:
    for length in range(6, 26, 2):
        cell(tmp_path, images(), task={"name": "retrieval", "length": length})
    exhibit, table = made(tmp_path)
    assert len(strips(tmp_path)) == 1 + samples.MOST_ROWS and len(table) == 10
    assert "8 of 10" in exhibit.caption
    assert table["where"].iloc[0] == "retrieval, length 6"


# Texts.


def test_texts_stand_in_a_table_as_they_were_written(tmp_path: Path) -> None:
    cell(tmp_path, texts(" on the mat"), "smt+dmt")
    cell(tmp_path, texts(" xq zz"), "transformer")
    exhibit, table = made(tmp_path)
    assert list(table) == ["method", "kind", "text"] and exhibit.figure is None
    own = table[table["method"] == "smt+dmt"]
    assert own["kind"].tolist() == ["written"] * 2 + ["given", "continuation", "truth"] * 2
    assert own["text"].tolist()[:5] == [*["A <b>tale</b>\nof $x_1$."] * 2, "the cat sat", " on the mat", " on a mat."]
    assert "&lt;b&gt;" in formats.markdown(exhibit)


# Symbols.


def test_answers_stand_below_their_questions(tmp_path: Path) -> None:
    cell(tmp_path, symbols(ASKED, WRONG, WRONG, ASKED))
    _, table = made(tmp_path)
    assert list(table) == ["method", "seed", "given", "truth", "written", "right", "scored"]
    right, wrong = (["bptt", 0, "3 0 7 0", *[". . . 7"] * 2, 1, 1], ["bptt", 0, "3 0 5 0", ". . . 5", ". . . 6", 0, 1])
    assert table.to_numpy().tolist() == [right, wrong, wrong]


def test_answers_are_those_of_the_first_seed(tmp_path: Path) -> None:
    cell(tmp_path, symbols(ASKED, ASKED), seed=0)
    cell(tmp_path, symbols(ASKED, WRONG), seed=1)
    cell(tmp_path, symbols(WRONG), "smt+dmt")
    assert made(tmp_path)[1]["seed"].tolist() == [0, 0, 0]


def test_ablations_are_not_shown(tmp_path: Path) -> None:
    for seed in range(2):
        cell(tmp_path, symbols(ASKED), "smt+dmt", seed)
    cell(tmp_path, symbols(WRONG), {"name": "smt+dmt", "lambda_dyn": 7.0})
    assert made(tmp_path)[1]["right"].tolist() == [1]


# The section.


def test_every_task_has_an_exhibit_and_pictures_come_first(tmp_path: Path) -> None:
    cell(tmp_path, symbols(ASKED), task="retrieval")
    cell(tmp_path, images(), task="stack")
    cell(tmp_path, texts("on"), task="string-copy")
    found = fabricated.exhibits(tmp_path, "samples")
    assert list(found) == ["samples", "samples-string-copy", "samples-retrieval"]
    assert [found[name].tasks for name in found] == [("stack",), ("string-copy",), ("retrieval",)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "bad",
    [
        {**images(), "kind": "smell"},
        {**images(), "kind": ["image"]},
        {**images(), "written": None},
        {**images(), "written": [[[1, "x"]]]},
        {**images(), "written": [[]]},
        {**images(), "completed": [{"given": 9, "truth": picture(1), "written": picture(1)}]},
        {**images(), "completed": [{"given": 1, "truth": picture(1), "written": [[1]]}]},
        {**images(), "written": [], "completed": []},
        {**texts("on"), "written": [7]},
        {**texts("on"), "completed": [{"given": "a"}]},
        symbols(),
        symbols(([1, 2], [1], [1])),
        {**symbols(ASKED), "completed": 3},
    ],
)
def test_a_damaged_record_is_left_out_and_counted(tmp_path: Path, bad: dict[str, Any]) -> None:
    cell(tmp_path, bad)
    (missing,) = fabricated.exhibits(tmp_path, "samples").values()
    assert isinstance(missing, Missing) and "1 samples.json" in missing.reason
    cell(tmp_path, symbols(ASKED), seed=1)
    exhibit, table = made(tmp_path)
    assert "1 samples.json" in exhibit.caption and table["seed"].tolist() == [1]
