"""Texts of any origin stay texts wherever they go."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench import outgoing
from bench.cli import parts
from bench.launch.plan import Board, Cell, Decision
from bench.launch.progress import Bars, Lines
from bench.report import formats
from tests.helpers import folder_of, tiny_run

HOSTILE = "\x1b[31mred\x1b]0;x\x07 \x9b1m \u202e \r\x00"


def test_a_terminal_gets_no_control_character_but_line_breaks() -> None:
    shown = outgoing.terminal(f"{HOSTILE}\nnext")
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert shown.endswith("\nnext") and "[31mred" in shown
    assert outgoing.clean(f"{HOSTILE}\nnext").isprintable()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_a_cell_that_a_spreadsheet_would_compute_is_made_a_text(text: str) -> None:
    assert outgoing.spreadsheet(text) == f"'{outgoing.clean(text)}"
    table = pd.DataFrame({"=name": [text, None], "number": [-1.5, 2], "whole": pd.array([-1, None], dtype="Int64")})
    read = pd.read_csv(io.StringIO(formats.csv(table)), keep_default_na=False, dtype=str)
    assert list(read.columns) == ["'=name", "number", "whole"]
    assert (
        read.iloc[0, 0].startswith("'")
        and list(read["number"]) == ["-1.5", "2.0"]
        and list(read["whole"]) == ["-1", ""]
    )


def test_a_message_is_one_line_that_keeps_its_beginning_and_its_end() -> None:
    long = outgoing.message(f"error: {'x' * 5000}\n; did you mean 'y'?")
    assert len(long) == outgoing.LONGEST and long.startswith("error: xxx") and long.endswith("xx ; did you mean 'y'?")
    assert outgoing.message(" a\n\tb ") == "a b"


def test_all_other_values_are_written_as_they_are() -> None:
    for value in (-1, -0.5, None, True, "a=b", ""):
        assert outgoing.spreadsheet(value) == value
    assert outgoing.spreadsheet("a\r=1") == "a =1"  # a line of its own, it would be a formula again


def test_markdown_has_no_tags_links_or_bars_of_a_text() -> None:
    assert outgoing.markdown("<script>|[x](y)`*_") == r"&lt;script&gt;\|\[x\](y)\`\*\_"


@pytest.mark.parametrize("text", [r"\[/x]", "[/x]", "[red]x[/red]", HOSTILE, "[", "\\"])
def test_a_table_shows_any_text_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts.print_table(text, [text], [[text]])
    out = capsys.readouterr().out
    assert outgoing.terminal(text).split("\n")[0].strip() in out and "\x1b" not in out


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", [r"\[/x]", "[/x]", HOSTILE])
def test_bars_and_spinners_show_any_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stdout := Terminal())
    with parts.bar() as progress:
        progress(text, 1, 2)
    with parts.spinner(text) as tell:
        tell(text)
    assert "\x1b]0;x" not in stdout.getvalue()


@pytest.mark.parametrize("text", [r"\[/x]", "[/x]", HOSTILE])
def test_a_launch_shows_any_phase_and_any_reason(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run()
    board = Board([Cell(run, folder_of(run, tmp_path), Decision("run", "pending"))])
    cell = board.take()
    assert cell is not None
    Lines(board).say(text)
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdout", stdout := Terminal())
    with Bars(board) as bars:
        bars.note = text
        bars.tick({cell.id: {"phase": text, "progress": 0.5}})
        bars.live.refresh()
        bars.say(text)
    assert "\x1b]0;x" not in stdout.getvalue() and "\u202e" not in stdout.getvalue()
