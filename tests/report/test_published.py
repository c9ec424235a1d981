"""The column of published figures: which rows have one, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.read_yaml import parse_yaml
from bench.report import published, summary
from bench.report.summary import table_of
from tests.helpers import tiny_run
from tests.report.fabricated import fake, score

ENTRIES = parse_yaml((Path(published.__file__).with_name("published.yaml")).read_text(), "published.yaml")


def anbn(method: dict, root: Path, lengths: tuple[int, ...] = (12,), **knobs: int) -> None:
    run = tiny_run(method, {"name": "anbn", "length": 12, **knobs})
    scores = [score(0.5, 1.0, "teacher"), *(score(0.5, 1.0, length=length) for length in lengths)]
    fake(root, run, scores)


def test_a_row_has_the_figure_of_its_task_knobs_and_method_only(tmp_path):
    anbn({"name": "uoro"}, tmp_path, (12, 24), most=32)
    anbn({"name": "uoro"}, tmp_path, most=8)
    anbn({"name": "rtrl"}, tmp_path, most=32)
    anbn({"name": "tbptt", "k1": 2, "k2": 2}, tmp_path, most=32)
    frame = summary(tmp_path)
    shown = frame.dropna(subset="published")
    rows = dict(zip(shown["method"], shown["published"]))
    assert {name: text.split(" (")[0] for name, text in rows.items()} == {"uoro": "0.147 bits", "tbptt": "0.149 bits"}
    assert "arXiv 1702.05043" in rows["uoro"] and published.NOT_READ in rows["uoro"]
    assert len(shown) == 2 and (shown["length"] == 12).all() and not shown["reference"].any()
    assert "published" in table_of(frame)


def test_results_without_a_published_figure_show_no_such_column(tmp_path):
    fake(tmp_path, tiny_run("bptt"), [score(0.5, 1.0)])
    frame = summary(tmp_path)
    assert frame["published"].isna().all() and "published" not in table_of(frame)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry['where']['task']}-{entry['where']['method']}")
def test_every_entry_names_a_row_that_can_be_run_and_its_source(entry, tmp_path):
    assert entry.keys() <= {"where", "figure", "source", "read"} and "arXiv" in entry["source"]
    where = dict(entry["where"])
    tasks = where.pop("task")
    for task in tasks if isinstance(tasks, list) else [tasks]:
        fields = {"task": {}, "method": {}, "model": {}, "training": {}}
        for name, value in where.items():
            section, _, key = name.partition(".")
            if key:
                fields[section][key] = value
        run = tiny_run({"name": where["method"], **fields["method"]}, {"name": task, **fields["task"]})
        full = run.full()
        assert all(name in full["task"] for name in fields["task"])
        assert all(name in full["method"] for name in fields["method"])
