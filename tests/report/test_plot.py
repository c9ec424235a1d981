"""Panels and what is drawn of them: lines from frames by hand, titles that never overlap, legends that fit."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report.plot import MOST_PANELS, Level, Line, Mark, Panel, draw, over_curves, over_time, sweep_lines
from bench.report.style import BUILT_IN, RC, styles

SETTING = "backbone transformer, lambda_dyn 1, lambda_unif 0.001, future 64, detach False, readout transformer"
ROWS = pd.DataFrame(
    {"x": [1, 1, 1, 2, 2], "seed": [0, 1, 2, 0, 1], "y": [0.1, 0.2, 0.6, 0.4, 0.8], "method": "bptt", "setting": ""}
).assign(predictor="rnn", reference=False)


def line(method: str = "bptt", word: str | None = None) -> Line:
    x = np.array([1.0, 2.0, 4.0])
    return Line(word or method, x, x / 10, x / 20, x / 5, method=method)


def drawn(panels: list[Panel], methods: tuple[str, ...] = ("bptt",), across: int = 3) -> Figure:
    with rc_context(RC):
        figure = draw(panels, styles(methods), across)
        FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_titles_never_overlap_and_stay_inside(count: int) -> None:
    figure = drawn([Panel(f"{place} {SETTING}", "x", "accuracy on the test set", [line()]) for place in range(count)])
    titles = [axes._left_title.get_window_extent() for axes in figure.axes]  # type: ignore[attr-defined]
    width, height = figure.canvas.get_width_height()
    assert all(box.width and box.x0 >= 0 and box.x1 <= width and box.y1 <= height for box in titles)
    for a, b in itertools.combinations([*titles, *(axes.get_window_extent() for axes in figure.axes)], 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0, "two titles or panels overlap"


def test_a_title_is_as_wide_as_the_untitled_panels_beside_it() -> None:
    figure = drawn([Panel(SETTING, "x", "y", [line()]), *(Panel("", "x", "y", [line()]) for _ in range(3))], across=4)
    assert figure.axes[0].get_title(loc="left") == SETTING


def test_the_legend_of_many_methods_is_whole_and_below_the_panels() -> None:
    names = (*BUILT_IN, "a plugin's method, with a long setting", "another plugin", "one more")
    figure = drawn([Panel("retrieval", "length", "accuracy", [line(name) for name in names])], names)
    (legend,) = figure.legends
    assert [text.get_text().strip() for text in legend.get_texts()] == list(names)
    box = legend.get_window_extent()
    width, _ = figure.canvas.get_width_height()
    assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0
    below = figure.axes[0].xaxis.label.get_window_extent()
    assert box.y1 <= below.y0 + 1


def test_the_legend_has_methods_first_whichever_panel_they_are_in() -> None:
    teacher = Line("smt+dmt teacher (reference)", np.ones(1), np.ones(1), method="smt+dmt", reference=True)
    first = Panel("one", "x", "y", [line("smt+dmt"), line("transformer"), teacher], [Level("chance", np.ones(1))])
    second = Panel("two", "x", "y", [line("bptt"), line("transformer")])
    (legend,) = drawn([first, second], ("smt+dmt", "bptt", "transformer")).legends
    names = [text.get_text().strip() for text in legend.get_texts()]
    assert names == ["smt+dmt", "bptt", "transformer", "smt+dmt teacher (reference)", "chance"]


@pytest.mark.parametrize("longest", [10, 26, 60, 150])
def test_a_legend_has_as_many_columns_as_fit(longest: int) -> None:
    long = " ".join(["setting"] * 30)[:longest]
    names = [f"bptt, {number} {long}" for number in range(6)]
    figure = drawn([Panel("", "x", "y", [line(word=name) for name in names])])
    (legend,) = figure.legends
    box, lefts = legend.get_window_extent(), {text.get_window_extent().x0 for text in legend.get_texts()}
    assert box.x0 >= 0 and box.x1 <= figure.canvas.get_width_height()[0] and box.y0 >= 0
    assert box.y1 <= figure.axes[0].xaxis.label.get_window_extent().y0 + 1
    assert len({round(left) for left in lefts}) == {10: 3, 26: 2, 60: 1, 150: 1}[longest]


def test_a_mean_has_an_interval_from_three_seeds_on_and_else_its_seeds() -> None:
    (found,) = sweep_lines(ROWS, "x", "y")
    assert found.word == "bptt" and found.x.tolist() == [1, 2]
    assert found.mean.tolist() == pytest.approx([0.3, 0.6])
    assert (found.low[0], found.high[0]) == pytest.approx((0.1, 0.6)) and np.isnan(found.low[1])
    assert [(x.tolist(), y.tolist()) for x, y in found.seeds] == [([2], [0.4]), ([2], [0.8])]


def test_a_mean_of_logarithms_is_geometric() -> None:
    rows = pd.DataFrame({"t": [0, 1] * 3, "seed": [0, 0, 1, 1, 2, 2], "norm": [1, 10, 2, 20, 4, 40]})
    found = over_time(rows, "t", "norm", "bptt", "bptt", logs=True)
    assert found.mean.tolist() == pytest.approx([2, 20]) and found.low.tolist() == pytest.approx([1, 10])
    few = over_time(rows[rows["seed"] < 2], "t", "norm", "bptt", "bptt", logs=True)
    assert np.isnan(few.low).all() and [y.tolist() for _, y in few.seeds] == [[1, 10], [2, 20]]


def test_a_mean_curve_goes_as_far_as_all_seeds_reach() -> None:
    rows = pd.DataFrame({"id": [*"aabbb"], "x": [0, 4, 0, 2, 8], "y": [0.0, 1.0, 0.0, 1.0, 1.0]})
    found = over_curves(rows, "x", "y", "bptt", "bptt")
    assert (found.x.tolist(), found.mean.tolist()) == ([0, 2, 4], pytest.approx([0, 0.75, 1.0]))
    assert [x.tolist() for x, _ in found.seeds] == [[0, 4], [0, 2, 8]]
    held = over_curves(rows, "x", "y", "bptt", "bptt", hold=True)
    assert (held.x.tolist(), held.mean.tolist()) == ([0, 2, 4, 8], pytest.approx([0, 0.75, 1.0, 1.0]))
    assert [x.tolist() for x, _ in held.seeds] == [[0, 4], [0, 2, 8]], "single seeds end where they ended"


def test_values_that_span_much_stand_on_a_logarithmic_axis_at_their_own_places() -> None:
    figure = drawn([Panel("", "x", "y", [line()]), Panel("", "x", "y", [line()], ticks="linear")])
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "linear"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "2", "4"]


def test_the_points_of_a_fit_are_no_ticks() -> None:
    fit = Line("", np.linspace(1, 4, 50), np.linspace(0.1, 0.4, 50), method="bptt", kind="fit")
    (axes,) = drawn([Panel("", "x", "y", [line(), fit])]).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]


@pytest.mark.parametrize("ylog", [False, True])
def test_words_at_the_ends_of_lines_never_overlap(ylog: bool) -> None:
    x = np.array([1.0, 10.0])
    ends = [32.0, 32.0, 32.0, 33.0, 64.0, 2.0]
    lines = [Line("", x, np.array([1.0, end]), method="bptt", kind="steps", tip=f"{end} bits") for end in ends]
    (axes,) = drawn([Panel("", "x", "y", lines, ticks="log", ylog=ylog)]).axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(ends)
    for a, b in itertools.combinations(boxes, 2):
        assert a.y1 <= b.y0 or b.y1 <= a.y0


def test_panels_without_lines_say_why_and_further_ones_are_left_out() -> None:
    empty = Panel("", "x", "y", [], note="not traced")
    assert [text.get_text() for text in drawn([empty]).axes[0].texts] == ["not traced"]
    assert len(drawn([Panel("", "x", "y", [line()])] * (MOST_PANELS + 3)).axes) == MOST_PANELS


def test_levels_and_marks_are_in_the_legend() -> None:
    panel = Panel("", "x", "y", [line()], [Level("chance", np.array([0.1]))], [Mark("trained length", 2.0, 4.0)])
    (legend,) = drawn([panel]).legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["bptt", "chance", "trained length"]
