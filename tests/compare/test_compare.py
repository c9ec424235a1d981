"""What `compare` promises: it matches what is alike, judges by interval and tolerance, and says what else differs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.cli.report import _tolerances
from bench.compare import Cell, Comparison, Side, Tolerances, compare, read, show, sides, write
from bench.compare.judge import judge
from bench.errors import BadInput
from bench.grid import load_grid
from bench.launch.cell import run_cell
from bench.results import read_json, write_json
from tests.compare.simulate import rates
from tests.helpers import folder_of, tiny_run

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "results" / "baselines" / "regression.json"
MACHINE = {"torch": "2.13.0", "processor": "one", "cores": 2, "device": "cpu"}
SCORES = {"accuracy": 0.9, "loss": 0.2}


def side(
    numbers: Mapping[str, float] = SCORES,
    seeds: range = range(5),
    machine: Mapping[str, Any] = MACHINE,
    spread: float = 0.002,
    **config: Any,
) -> Side:
    """One configuration; its seeds lie `spread` apart."""
    named = {"task": "stack", "method": "bptt", "threads": 1, **config}
    cells = [
        Cell(named, seed, "done", None, {name: value * (1 + spread * i) for name, value in numbers.items()}, machine)
        for i, seed in enumerate(seeds)
    ]
    return Side("side", cells, frozenset({"task", "method", "threads", "seed", "model.d", "model.backbone"}))


def only(found: Comparison, metric: str) -> Any:
    (row,) = (row for row in found.rows if row.metric == metric)
    return row


def against(new: Side, old: Side, ignore: tuple[str, ...] = (), **tolerances: float) -> Comparison:
    return compare(new, old, Tolerances(**tolerances), ignore)


# Verdicts.


@pytest.mark.parametrize(
    ("metric", "old", "new", "expected"),
    [
        ("accuracy", 0.9, 0.8, "regression"),
        ("accuracy", 0.8, 0.9, "improvement"),
        ("accuracy", 0.9, 0.88, "same"),  # within 0.03, however sure
        ("loss", 0.2, 0.3, "regression"),
        ("loss", 0.3, 0.2, "improvement"),
        ("flops", 1e6, 1.02e6, "regression"),
        ("flops", 1e6, 1.005e6, "same"),
        ("sequential operations", 200, 100, "improvement"),
    ],
)
def test_a_number_is_worse_in_its_own_direction_and_beyond_its_tolerance(
    metric: str, old: float, new: float, expected: str
) -> None:
    assert only(against(side({metric: new}), side({metric: old})), metric).verdict == expected


def test_an_effect_that_seeds_do_not_agree_on_is_none() -> None:
    old = dict.fromkeys(range(5), 0.9)
    one_bad = {**old, 4: 0.6}  # 0.06 worse on average, by one seed alone
    assert judge("cell", "accuracy", one_bad, old, 0.03).verdict == "same"
    assert judge("cell", "accuracy", dict.fromkeys(range(5), 0.84), old, 0.03).verdict == "regression"


def test_seeds_go_in_pairs_so_that_a_spread_they_share_hides_nothing() -> None:
    old = {seed: 0.5 + 0.1 * seed for seed in range(5)}
    new = {seed: value - 0.05 for seed, value in old.items()}
    assert judge("cell", "accuracy", new, old, 0.03).verdict == "regression"
    elsewhere = {seed + 10: value for seed, value in new.items()}
    row = judge("cell", "accuracy", elsewhere, old, 0.03)
    assert not row.paired and row.verdict == "same"


def test_other_seeds_are_compared_unpaired_and_it_is_said() -> None:
    found = against(side({"accuracy": 0.7}, seeds=range(10, 15)), side({"accuracy": 0.9}))
    assert found.regressed and not only(found, "accuracy").paired
    assert any("unpaired" in note for note in found.notes)


def test_too_few_seeds_are_no_verdict() -> None:
    found = against(side({"accuracy": 0.5}, seeds=range(2)), side({"accuracy": 0.9}, seeds=range(2)))
    assert only(found, "accuracy").verdict == "unsure" and not found.regressed
    assert "2 seeds are too few" in show.markdown(found)


def test_a_cell_that_had_a_result_and_has_none_is_a_regression() -> None:
    old = side()
    gone = dataclasses.replace(old.cells[2], state="diverged", reason="loss is not finite", numbers={}, machine={})
    found = against(dataclasses.replace(old, cells=[*old.cells[:2], gone, *old.cells[3:]]), old)
    assert found.regressed and "seed 2 is diverged: loss is not finite" in found.lost[0]


def test_a_result_that_is_not_finite_any_more_is_a_regression() -> None:
    old = side()
    hollow = dataclasses.replace(old.cells[0], numbers={"accuracy": 0.9})  # as a null in result.json is read
    found = against(dataclasses.replace(old, cells=[hollow, *old.cells[1:]]), old)
    assert found.regressed and "seed 0 has no finite loss" in found.lost[0]


def test_a_cost_that_is_not_traced_any_more_is_told() -> None:
    found = against(side(), side({**SCORES, "flops": 1e6}))
    assert not found.regressed and found.failed and "flops" in found.missing[0] and "not traced" in found.missing[0]


# What is missing.


def without(whole: Side, *seeds: int, state: str | None = None) -> Side:
    """The side less some seeds, or with these in another state."""
    kept = [cell for cell in whole.cells if cell.seed not in seeds]
    gone = [Cell(cell.config, cell.seed, state) for cell in whole.cells if cell.seed in seeds and state]
    return dataclasses.replace(whole, cells=[*kept, *gone])


def test_what_the_baseline_has_and_the_results_lack_is_a_failure_unless_they_are_meant_to() -> None:
    old = dataclasses.replace(side(), cells=[*side().cells, *side(method="smt").cells])
    for new, reason in (
        (side(), "stack smt: in side, not in side"),
        (without(old, 1, 2, 3, 4), "stack bptt: 4 of 5 seeds: seed 1 is not there"),
        (without(old, 3, state="stopped"), "stack bptt: 1 of 5 seeds: seed 3 is stopped"),
        (without(old, 0, state="pending"), "seed 0 is pending"),
    ):
        found = against(new, old)
        assert found.failed and not found.regressed and reason in found.missing[0], found.missing
        assert show.markdown(found).startswith("### Incomplete") and "missing" in show.verdict(found)
        assert not compare(new, old, Tolerances(), partial=True).failed
        assert not against(old, new).failed, "more than the baseline has is no fault"


def test_other_seeds_do_where_they_are_as_many() -> None:
    assert not against(side(seeds=range(3, 8)), side()).missing
    assert "2 of 5 seeds" in against(side(seeds=range(4, 7)), side()).missing[0]


def test_where_no_cell_is_done_nothing_is_compared() -> None:
    for partial in (False, True):
        with pytest.raises(BadInput, match=r"no number to compare: .*none is done \(5 stopped\)"):
            compare(without(side(), *range(5), state="stopped"), side(), Tolerances(), partial=partial)
    lost = against(without(side(), *range(5), state="diverged"), side())
    assert lost.regressed and len(lost.lost) == 5, "with a reason for each, that is a finding"


# Code.


def by_codes(*digests: str | None) -> Side:
    old = side(seeds=range(len(digests)))
    cells = [dataclasses.replace(cell, digest=digest) for cell, digest in zip(old.cells, digests)]
    return dataclasses.replace(old, cells=cells)


def test_seeds_of_two_codes_are_told_and_make_no_baseline(tmp_path: Path) -> None:
    mixed, old = by_codes("a" * 16, "a" * 16, "b" * 16), side(seeds=range(3))
    (note,) = against(mixed, old).notes
    assert note.startswith("stack bptt in side: seeds were computed by different code: 0, 1 by aaaaaaaa; 2 by bbbb")
    with pytest.raises(BadInput, match="cannot become a baseline: stack bptt: .*different code.*--stale"):
        write(tmp_path / "base.json", mixed, Tolerances())
    assert not (tmp_path / "base.json").exists()
    (note,) = against(by_codes(*(f"{'a' * 16}-{data * 8}" for data in "121")), old).notes
    assert "different data: 0, 2 by 11111111; 1 by 22222222" in note
    for alike in (by_codes("a" * 16, "a" * 16, "a" * 16), by_codes("a" * 16, None, None)):
        assert not against(alike, old).notes
        write(tmp_path / "base.json", alike, Tolerances())


# Time.


@pytest.mark.parametrize(("factor", "expected"), [(2.0, "regression"), (1.3, "same"), (0.5, "improvement")])
def test_time_is_told_in_calibrations(factor: float, expected: str) -> None:
    old = side({"seconds": 1e-4, "calibration": 1e-3})
    slow_machine = {"seconds": 3e-4 * factor, "calibration": 3e-3}  # everything there takes three times as long
    found = against(side(slow_machine, machine={**MACHINE, "processor": "another"}), old)
    assert only(found, "time").verdict == expected


def test_raw_seconds_are_compared_on_equal_hardware_only() -> None:
    old, new = side({"seconds": 1e-4, "loss": 0.2}), side({"seconds": 3e-4, "loss": 0.2})
    assert only(against(new, old), "time").verdict == "regression"
    found = against(side({"seconds": 3e-4, "loss": 0.2}, machine={**MACHINE, "processor": "another"}), old)
    assert [row.metric for row in found.rows] == ["loss"] and any("time: not compared" in note for note in found.notes)


# Matching.


def test_declared_differences_match_and_are_named() -> None:
    old, new = side(threads=1), side(threads=2)
    with pytest.raises(BadInput, match="threads 2 against 1.*--ignore"):
        against(new, old)
    found = against(new, old, ("threads",))
    assert found.matched == 1 and any("threads 2 against 1" in note for note in found.notes)


def test_a_section_is_ignored_with_all_that_is_in_it() -> None:
    found = against(side(**{"model.d": 8, "model.backbone": "gru"}), side(**{"model.d": 16}), ("model",))
    assert found.matched == 1 and any("model.backbone gru against at its default" in note for note in found.notes)


def test_a_field_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="--ignore: 'model.backbon' is unknown.*did you mean 'model.backbone'"):
        against(side(), side(), ("model.backbon",))


def test_cells_that_ignoring_makes_alike_are_refused() -> None:
    both = dataclasses.replace(side(), cells=[*side(threads=1).cells, *side(threads=2).cells])
    with pytest.raises(BadInput, match="cannot be told apart.*threads"):
        against(both, both, ("threads",))


def test_what_is_on_one_side_only_is_listed_with_how_its_nearest_differs() -> None:
    common, extra, other = side(), side(**{"model.d": 8}), side(**{"model.d": 16})
    new = Side("new", [*common.cells, *extra.cells])
    old = Side("old", [*common.cells, *other.cells])
    found = compare(new, old, Tolerances())
    assert "in old, not in new, whose nearest differs in model.d 16 against 8" in found.missing[0]
    assert "in new, not in old, whose nearest differs in model.d 8 against 16" in found.extra[0]
    assert len(found.missing) == len(found.extra) == 1 and not found.regressed


def test_versions_that_differ_are_named() -> None:
    found = against(side(machine={**MACHINE, "torch": "2.8.0"}), side())
    assert "torch: 2.8.0 against 2.13.0" in found.notes


# What is shown.


def test_markdown_says_the_verdict_first_and_holds_every_number() -> None:
    text = show.markdown(against(side({"accuracy": 0.7, "loss": 0.2}), side()))
    assert text.startswith("### Regression") and "| stack bptt | accuracy |" in text and "<details>" in text
    assert show.markdown(against(side(), side())).startswith("### No regression")


# Statistics of the whole: seeds drawn around the means that the real grid had, with its spread.


def test_other_seeds_regress_in_at_most_5_of_100_pairs_and_twice_the_tolerance_is_found_in_95() -> None:
    baseline = read(BASELINE)
    assert baseline.tolerances is not None
    quiet, found = rates(baseline, baseline.tolerances)
    assert quiet >= 95 and found >= 95, (quiet, found)


# Folders and files.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a tiny cell, with cost and calibration."""
    root = tmp_path_factory.mktemp("results") / "tiny"
    for seed in range(3):
        end = run_cell(folder_of(tiny_run(seed=seed), root), measures=("cost", "calibration"))
        assert end.state == "done", end
    return root


def test_a_folder_equals_the_baseline_made_of_it(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    write(file, read(trained), Tolerances(accuracy=0.2))
    kept = read(file)
    assert kept.tolerances == Tolerances(accuracy=0.2)
    found = compare(read(trained), kept, Tolerances())
    assert [row.metric for row in found.rows] == ["accuracy", "loss", "flops", "sequential operations", "time"]
    assert all(row.verdict == "same" and row.interval.mean == 0 for row in found.rows)
    assert not (found.missing or found.extra or found.notes or found.lost) and file.stat().st_size < 5000


def test_a_cell_that_is_copied_is_one_and_with_other_scores_none(trained: Path, tmp_path: Path) -> None:
    grid = tmp_path / "results" / "tiny"
    shutil.copytree(trained, grid)
    first = min(grid.glob("retrieval-*"))
    copy = shutil.copytree(first, grid / "copy")
    assert len(read(grid).cells) == 3 and {cell.digest for cell in read(grid).cells} != {None}
    result = read_json(copy / "result.json")
    result["scores"][0]["accuracy"] /= 2
    write_json(copy / "result.json", result)
    with pytest.raises(BadInput) as error:
        read(grid)
    assert str(first) in str(error.value) and str(copy) in str(error.value)


def test_a_baseline_is_not_made_of_cells_that_are_not_done(trained: Path, tmp_path: Path) -> None:
    folder_of(tiny_run(seed=9), tmp_path / "grid")
    with pytest.raises(BadInput, match="1 pending"):
        write(tmp_path / "base.json", read(tmp_path / "grid"), Tolerances())
    assert not (tmp_path / "base.json").exists()


def test_the_command_writes_a_baseline_and_tells_a_regression_by_its_exit_code(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "base.json", tmp_path / "page.md"
    assert cli.main(["compare", str(trained), str(file), "--update", "--tolerance", "loss=0.5"]) == 0
    assert read(file).tolerances == Tolerances(loss=0.5)
    assert cli.main(["compare", str(trained), str(file), "--markdown", str(page)]) == 0
    assert "no regression" in capsys.readouterr().out and page.read_text().startswith("### No regression")
    assert cli.main(["compare", str(trained), str(trained)]) == 0
    record = read_json(file)
    for numbers in record["cells"][0]["seeds"].values():
        numbers["flops"] *= 0.5
    write_json(file, record)
    capsys.readouterr()
    assert cli.main(["compare", str(trained), str(file), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["regressed"] and [row["metric"] for row in report["rows"] if row["verdict"] == "regression"] == [
        "flops"
    ]
    assert cli.main(["compare", str(trained), str(file), "--tolerance", "cost=2"]) == 0
    record["cells"][0]["seeds"]["7"] = record["cells"][0]["seeds"]["0"]
    write_json(file, record)
    assert cli.main(["compare", str(trained), str(file), "--tolerance", "cost=2"]) == 1
    assert cli.main(["compare", str(trained), str(file), "--tolerance", "cost=2", "--partial"]) == 0


def test_what_cannot_be_compared_ends_in_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, empty = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "empty"
    write(good, read(trained), Tolerances())
    empty.mkdir()
    newer = {**read_json(good), "schema": sides.SCHEMA + 1}
    other = {**read_json(good)}
    other["cells"] = [{**other["cells"][0], "config": {"task": "stack", "method": "bptt"}}]
    cut = {name: value for name, value in read_json(good).items() if name != "machines"}
    cases: list[tuple[Any, list[str], str]] = [
        (None, [str(empty), str(good)], "holds no cells"),
        (None, [str(trained), str(tmp_path / "nowhere.json")], "no such baseline"),
        (None, [str(tmp_path / "nowhere"), str(good)], "no such"),
        ("{", [str(trained), str(bad)], "is not a baseline, or is damaged"),
        (cut, [str(trained), str(bad)], "is damaged"),
        (newer, [str(trained), str(bad)], "reads up to 1"),
        (other, [str(trained), str(bad)], "no cell of"),
        (None, [str(trained), str(good), "--ignore", "thread"], "did you mean 'threads'?"),
        (None, [str(trained), str(good), "--tolerance", "los=1"], "did you mean 'loss'?"),
        (None, [str(trained), str(good), "--tolerance", "loss=-1"], "should be greater than or equal to 0"),
        (None, [str(trained), str(trained), "--update"], "is a folder"),
    ]
    for content, arguments, expected in cases:
        if content is not None:
            bad.write_text(content if isinstance(content, str) else json.dumps(content))
        assert cli.main(["compare", *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert not out and len(err.splitlines()) == 1 and expected in err, (arguments, err)


def test_a_grid_states_its_tolerances() -> None:
    grid = load_grid("regression")
    assert grid.measures == ("cost", "calibration") and len({run.seed for run in grid.runs}) >= 5
    assert read(BASELINE).tolerances == grid.compare


def test_the_committed_baseline_is_of_the_grid_as_it_is() -> None:
    kept = {(json.dumps(dict(cell.config), sort_keys=True), cell.seed) for cell in read(BASELINE).cells}
    configs = []
    for run in load_grid("regression", ["device=cpu", "precision=float32"]).runs:
        config = sides.dotted(json.loads(json.dumps(run.describe())))
        configs.append((json.dumps({k: v for k, v in config.items() if k != "seed"}, sort_keys=True), run.seed))
    assert kept == set(configs)


def test_tolerances_are_those_of_the_baseline_or_else_of_the_folders_own_grid(tmp_path: Path) -> None:
    write_json(tmp_path / "grid.json", {"cells": {}, "compare": {"accuracy": 0.2}})
    assert _tolerances(str(tmp_path), None, None, ["loss=0.5"]) == Tolerances(accuracy=0.2, loss=0.5)
    assert _tolerances(str(tmp_path), None, Tolerances(accuracy=0.1), None) == Tolerances(accuracy=0.1)
    assert _tolerances(str(tmp_path), "ci", None, None) == load_grid("ci").compare
