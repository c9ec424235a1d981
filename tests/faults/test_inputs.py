"""The campaigns of bad inputs and hostile contents in small; the whole ones are commands."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.faults import hostile
from tests.faults.attack import Attack, Outcome, Target
from tests.faults.inputs import Generator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="attacks run in forks")


def test_equal_seeds_make_equal_attacks_and_no_two_are_alike() -> None:
    first, second, other = ([one.what for one in Generator(seed).attacks(150)] for seed in (0, 0, 1))
    assert first == second != other
    attacks = list(Generator(0).attacks(150))
    assert len({repr((one.argv, one.files, one.env)) for one in attacks}) == 150
    assert len({one.kind for one in attacks}) >= 15


def outcome(attack: Attack, code: int = 2, out: str = "", err: str = "error: x\n", **facts: object) -> Outcome:
    return Outcome(attack, code, out, err, 0.1, **{"hung": False, "left": (), **facts})  # type: ignore[arg-type]


BAD = Attack("kind", "what", ["run"])


@pytest.mark.parametrize(
    ("made", "faults"),
    [
        (outcome(BAD), []),
        (outcome(BAD, hung=True), ["hang"]),
        (outcome(BAD, code=-11), ["traceback"]),
        (outcome(BAD, code=1, err="Traceback (most recent call last):\n"), ["traceback"]),
        (outcome(BAD, code=0), ["accepted"]),
        (outcome(BAD, code=1), ["exit code 1"]),
        (outcome(BAD, err="error: x\nmore\n"), ["2 lines"]),
        (outcome(BAD, err=f"error: {'x' * 400}\n"), ["long line"]),
        (outcome(BAD, err="error: \x1b[31m\n"), ["control characters"]),
        (outcome(BAD, left=("results/g/run.json",)), ["left files"]),
    ],
)
def test_every_fault_is_seen(made: Outcome, faults: list[str]) -> None:
    assert made.faults() == faults


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.csv", "a,b\n=1+1,2\n", "formula in .csv"),
        ("a.html", "<img src=x onerror=pwned()>", "tag in .html"),
        ("a.html", "<a href='javascript:pwned()'>x</a>", "tag in .html"),
        ("a.md", "| <script>pwned()</script> |", "tag or link in .md"),
        ("a.md", "[x](http://x/pwned)", "tag or link in .md"),
        ("a.tex", "\x1b[31m", "control characters in .tex"),
        ("a.csv", "a,-1.5\n'=1+1,2\n", None),
        ("a.html", "&lt;img onerror=pwned()&gt;", None),
        ("a.md", r"\[x\](http://x/pwned)", None),
    ],
)
def test_every_text_that_is_carried_out_is_seen(name: str, text: str, fault: str | None) -> None:
    harmless = Attack("text in results", "what", ["report"], bad=False)
    made = outcome(harmless, code=0, err="", made={name: text.encode()})
    assert hostile.judge(made) == ([fault] if fault else [])


def test_a_command_that_hangs_is_ended_and_one_that_crashes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import bench.cli

    target = Target()
    monkeypatch.setattr(target, "script", lambda: time.sleep(60))
    assert target.run(BAD, seconds=0.3).faults() == ["hang"]
    monkeypatch.setattr(target, "script", lambda: 1 / 0)
    assert target.run(BAD).faults() == ["traceback"]
    monkeypatch.setattr(target, "script", bench.cli.script)
    assert target.run(BAD).faults() == []


def test_a_few_attacks_of_each_campaign_do_no_harm(tmp_path: Path) -> None:
    target = Target()
    for attack in Generator(5).attacks(25):
        made = target.run(attack)
        assert made.faults() == [], str(made)
    every = [*hostile.in_grids(), *hostile.in_plugins(), *hostile.records()]
    for attack in islice(every, 3, None, len(every) // 20):
        made = target.run(attack)
        assert hostile.judge(made) == [], str(made)


def test_a_text_in_results_is_shown_and_changes_nothing_around_it(tmp_path: Path) -> None:
    target = Target()
    template = hostile.Template(target, tmp_path)
    for text, shown in (
        ("\x1b[31mred\x1b[0m", "\N{REPLACEMENT CHARACTER}[31mred"),
        (r"\[/x]", r"\[/x]"),
        ("[red]x[/red]", "[red]x[/red]"),
    ):
        (status,) = (one for one in hostile.in_results(template) if one.what == f"{text!r} in status g.yaml")
        made = target.run(status)
        assert hostile.judge(made) == [] and made.code == 0
        assert shown in made.out, made.out + made.err
