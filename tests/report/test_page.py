"""The whole report: every format of every exhibit, one page that holds it all, and parts that cannot be made."""

from __future__ import annotations

import hashlib
import re
import sys
from base64 import b64decode, b64encode
from collections.abc import Sequence
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageChops

from bench import report
from bench.report import formats
from bench.report.claims import VERDICTS
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.page import ROWS_SHOWN
from tests.helpers import folder_of, tiny_run
from tests.report.fabricated import fake, rename, score, seeds

EVIL = "<script>alert(1)</script>"
PLUGIN = f"{EVIL}$x_1$\"'&"
NUMBERS = pd.DataFrame(
    {
        "task": ["retrieval", "stack", "retrieval", "stack"],
        "method": ["bptt", "bptt", PLUGIN, PLUGIN],
        "length": [8, 16, 1024, 12_345_678],
        "accuracy": [1 / 3, 0.98765, 0.05, None],
        "flops": [1.23456e9, 10.0, 2.5e-7, 0.0],
        "reason": ["50 % | a_b", "{x}^~#&\\", None, EVIL],
    }
)


def drawn(words: str = "length T") -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    panel = figure.subplots()
    panel.plot([1, 2, 4], [0.2, 0.5, 0.9])
    panel.set_xlabel(words)
    return figure


def exhibit(name: str = "costs", **fields: Any) -> Exhibit:
    named = {"name": name, "title": f"Costs of {name}"}
    words = {"caption": "Flat: exponent 0.01.", "run": "complexity, 3 seeds."}
    tables = {"table": NUMBERS, "tasks": ("retrieval", "stack"), "methods": ("bptt", PLUGIN)}
    return Exhibit(**{**named, **words, "figure": drawn(), **tables, **fields})


def claims() -> list[tuple[Any, Any]]:
    """Pairs of the shape that `bench.report.claims.judged` gives, one of each verdict."""
    numbers = pd.DataFrame({"task": ["retrieval"], "difference": [0.125], "low": [0.1], "high": [0.15]})
    pairs = []
    for place, verdict in enumerate(VERDICTS, 1):
        claim = {"key": place, "text": f"SMT->DMT claim {place} {EVIL}", "figure": "costs"}
        why = "The scale is small." if verdict == "contradicted" else None
        found = {"verdict": verdict, "because": f"Because of {EVIL}.", "why": why, "regime": "small runs"}
        told = SimpleNamespace(**found, numbers=numbers[: int(place < 5)])
        pairs.append((SimpleNamespace(**claim, grids=("synthetic-small",)), told))
    return pairs


def fabricate(monkeypatch: pytest.MonkeyPatch, made: Sequence[Section], judged: Any = claims) -> None:
    """Let the report consist of these sections and of claims, beside the learning curves and provenance."""
    for section in (*made, Section("claims", "Claims", ())):
        module = SimpleNamespace(TITLE=section.title, exhibits=lambda data, section=section: section.exhibits)
        monkeypatch.setitem(sys.modules, f"bench.report.sections.{section.name}", module)
    names = [*(section.name for section in made), "claims", "summary", "provenance"]
    monkeypatch.setattr(report.sections, "names", lambda: names)
    monkeypatch.setattr(report.page, "judged", lambda data: judged())


def results(root: Path) -> Path:
    """Finished cells of two tasks, one of a plugin whose names are markup, and one of each other state."""
    for task in ("retrieval", "stack"):
        seeds(root / "g", [0.5, 0.6, 0.75], task=task)
        for seed in range(3):
            smt = tiny_run("smt+dmt", task, seed=seed)
            fake(root / "g", smt, [score(0.7 + seed / 100, 0.9), score(0.8, 0.5, "teacher")])
    (folder,) = seeds(root / "g", [0.4], "smt")
    rename(folder, "stack", PLUGIN)
    reasons = {"failed": f"ValueError: {EVIL}", "skipped": "learns from dense targets only", "oom": "out of memory"}
    for seed, (state, reason) in enumerate(reasons.items()):
        folder_of(tiny_run("transformer", "stack", seed=seed), root / "g").set_status(state, reason=reason)
    return root / "g"


def sections() -> list[Section]:
    return [
        Section("complexity", "Cost", (exhibit("costs"), Missing("credit-path", "Credit", "run `cost complexity`"))),
        Section("samples", "Samples", (exhibit("pictures", table=None), exhibit("words", figure=None, tasks=()))),
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two fabricated sections on fabricated cells, to be read only; the cells are beside it."""
    root = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        fabricate(patch, sections())
        report.write(results(root), root / "out")
    return root / "out"


class Reader(HTMLParser):
    """The page's elements: (tag, attributes, the text directly after its beginning)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text.strip()) for name, attributes, text in self.found if name == tag]


def page_of(out: Path) -> Reader:
    return Reader((out / "index.html").read_text())


def rows_on(page: Reader, article: str) -> list[list[str]]:
    """The texts of the cells of an article's table."""
    rows: list[list[str]] = []
    inside = False
    for tag, attributes, text in page.found:
        inside = attributes.get("id") == article if tag == "article" else inside
        if inside and tag == "tr":
            rows.append([])
        if inside and tag == "td":
            rows[-1].append(text.strip())
    return rows[1:]


# Formats.

ROUNDED = [
    ["retrieval", "bptt", "8", "0.333", "1.235e9", "50 % | a_b"],
    ["stack", "bptt", "16", "0.988", "10.00", "{x}^~#&\\"],
    ["retrieval", PLUGIN, "1,024", "0.050", "2.500e-7", "-"],
    ["stack", PLUGIN, "1.235e7", "-", "0", EVIL],
]


def test_the_page_shows_numbers_rounded_and_keeps_their_order(written: Path) -> None:
    page = page_of(written)
    assert rows_on(page, "costs") == ROUNDED
    keys = [attributes.get("data-v") for attributes, text in page.all("td") if text in ("0.333", "1.235e9")]
    assert {float(key) for key in keys if key} == {0.3333333, 1.23456e9}, "sorted by what they are, not as they look"
    said = {text: attributes.get("data-v") for attributes, text in page.all("td") if text in ("16", "10.00")}
    assert said == {"16": None, "10.00": None}, "a number that the text says is not said twice"


def test_csv_keeps_every_digit_also_in_the_page(written: Path) -> None:
    text = (written / "tables" / "costs.csv").read_text()
    assert text.startswith("task,method,length,accuracy,flops,reason\n")
    pd.testing.assert_frame_equal(pd.read_csv(written / "tables" / "costs.csv"), NUMBERS, check_exact=True)
    (link,) = (a["href"] for a, _ in page_of(written).all("a") if a.get("download") == "costs.csv")
    head, _, content = str(link).partition(",")
    assert head == "data:text/csv;charset=utf-8;base64" and b64decode(content).decode() == text


def test_markdown_is_escaped(written: Path) -> None:
    lines = (written / "tables" / "costs.md").read_text().splitlines()
    assert lines[0] == "# Costs of costs" and lines[2] == "Flat: exponent 0.01."
    assert lines[4] == "| task | method | length | accuracy | flops | reason |"
    first = "| retrieval | bptt | 8 | 0.333 | 1.235e9 | 50 % \\| a\\_b |"
    assert lines[5:7] == ["| :-- | :-- | --: | --: | --: | :-- |", first]
    assert lines[9].startswith("| stack | &lt;script&gt;alert(1)&lt;/script&gt;$x\\_1$") and lines[9].count("| ") == 6
    assert lines[-1] == "What was run: complexity, 3 seeds."


def test_latex_is_booktabs_and_escaped(written: Path) -> None:
    text = (written / "tables" / "costs.tex").read_text()
    lines = text.splitlines()
    assert lines[:3] == ["% Costs of costs", "% Flat: exponent 0.01.", "% complexity, 3 seeds."]
    assert "\\begin{tabular}{llrrrl}" in lines
    assert [line for line in lines if "rule" in line] == ["\\toprule", "\\midrule", "\\bottomrule"]
    assert "task & method & length & accuracy & flops & reason \\\\" in lines
    assert "retrieval & bptt & 8 & 0.333 & 1.235e9 & 50 \\% | a\\_b \\\\" in lines
    assert "\\{x\\}\\textasciicircum \\textasciitilde \\#\\&\\textbackslash  \\\\" in text
    assert "\\$x\\_1\\$" in text and "& <script>alert(1)</script> \\\\" in text


def test_a_long_latex_table_may_break_over_pages() -> None:
    text = formats.latex(exhibit(table=pd.DataFrame({"a_b": range(41)})))
    assert "\\begin{longtable}{r}" in text and "longtable" in text.splitlines()[3] and "a b" in text


@pytest.mark.parametrize("table", [pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame({"a": [None, float("nan")]})])
def test_tables_of_nothing_are_written(table: pd.DataFrame) -> None:
    empty = exhibit(table=table)
    assert formats.markdown(empty) and formats.latex(empty) and formats.csv(table)


@pytest.mark.parametrize(
    "numbers",
    [
        {0.98765: "0.988", 0.5: "0.500"},
        {12.3456: "12.35", 3.0: "3.00"},
        {0: "0", 8: "8", 1024: "1,024"},
        {1.23456e12: "1.235e12", 5: "5"},
        {1.5: "1.500", 0.00123: "0.00123"},
        {1.23e-9: "1.230e-9"},
        {-0.5: "-0.500", 0.25: "0.250"},
        {0.9996: "1.000", 0.1: "0.100"},
        {None: "-", float("nan"): "-", float("inf"): "inf"},
    ],
)
def test_rounding(numbers: dict[float | None, str]) -> None:
    assert formats.rounded(list(numbers)) == list(numbers.values())


def test_figures_are_written_for_print_and_screen(written: Path) -> None:
    assert (written / "figures" / "costs.png").read_bytes().startswith(b"\x89PNG")
    assert (written / "figures" / "costs.pdf").read_bytes().startswith(b"%PDF")
    images = {str(attributes["alt"]): attributes for attributes, _ in page_of(written).all("img")}
    image = images["Costs of costs. Flat: exponent 0.01."]
    assert (image["width"], image["height"]) == ("672", "336"), "7 by 3.5 inches of 96 pixels"
    with Image.open(BytesIO(b64decode(str(image["src"]).removeprefix("data:image/webp;base64,")))) as shown:
        with Image.open(written / "figures" / "costs.png") as saved:
            assert shown.size == saved.size
            difference = ImageChops.difference(shown.convert("RGB"), saved.convert("RGB"))
        assert max(high for _, high in difference.getextrema()) < 48, "the palette changes nothing that could be seen"


# The page.


def test_the_page_holds_everything_and_asks_for_nothing(written: Path) -> None:
    page = page_of(written)
    for tag, name in (("img", "src"), ("script", "src"), ("link", "href"), ("a", "href")):
        targets = [str(attributes[name]) for attributes, _ in page.all(tag) if name in attributes]
        assert all(target.startswith(("data:", "#")) for target in targets)
    (policy,) = (str(attributes["content"]) for attributes, _ in page.all("meta") if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.*?)</script>", (written / "index.html").read_text(), re.DOTALL)
    assert b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy, "no other script than the page's own"


def test_every_link_has_its_target_and_no_name_is_used_twice(written: Path) -> None:
    page = page_of(written)
    ids = [attributes["id"] for _, attributes, _ in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = (str(attributes["href"]) for attributes, _ in page.all("a"))
    assert {unquote(link[1:]) for link in links if link.startswith("#")} <= set(ids)


def test_claims_stand_at_the_top_and_in_full_below(written: Path) -> None:
    text = (written / "index.html").read_text()
    page = page_of(written)
    badges = [attributes["data-verdict"] for attributes, _ in page.all("span") if attributes.get("class") == "badge"]
    assert badges == [*VERDICTS] * 2
    words = [text for attributes, text in page.all("span") if attributes.get("aria-hidden")]
    told = ["✓ supported", "✗ contradicted", "± mixed", "? inconclusive", "○ not tested"]
    assert words == told * 2, "told without colour too"
    assert text.count("Why that may be:") == 1 and text.count("Judged of small runs.") == len(VERDICTS)
    assert "<code>python run_bench.py run synthetic-small</code>" in text
    assert "1 contradicted" in text
    assert text.index('id="answer"') < text.index('id="overview"') < text.index('id="section-claims"')
    assert text.index('id="section-claims"') < text.index('id="section-summary"'), "learning curves come last"
    assert rows_on(page, "claim-1") == [["retrieval", "0.125", "0.100", "0.150"]]


def test_markup_in_names_is_text_and_what_is_missing_is_told(written: Path) -> None:
    text = (written / "index.html").read_text()
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text and len(page_of(written).all("script")) == 1
    assert "run <code>cost complexity</code>" in text


def test_equal_results_give_equal_bytes(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate(monkeypatch, sections())
    report.write(written.parent / "g", tmp_path)
    first, second = (
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (written, tmp_path)
    )
    assert len(first) > 10 and second == first


# Parts that cannot be made.


def test_a_section_that_fails_is_told_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("no such <column>\nsecond line")

    made = [Section("complexity", "Cost", ()), Section("samples", "Samples", (exhibit("words"),))]
    fabricate(monkeypatch, made, fail)
    monkeypatch.setattr(sys.modules["bench.report.sections.complexity"], "exhibits", fail)
    report.write(results(tmp_path), tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.count("(KeyError: &#39;no such &lt;column&gt;\\nsecond line&#39;)") == 2
    assert 'id="words"' in text and 'id="cells"' in text


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with a figure that cannot be saved, names that clash or lead out of the folder, and a long table."""
    root, broken = tmp_path_factory.mktemp("odd"), drawn()
    broken.savefig = lambda *_, **__: 1 / 0  # type: ignore[method-assign, assignment]
    named = [exhibit(name) for name in ("costs", "costs", "../out", "main", "Costs")]
    long = exhibit("norms", table=pd.DataFrame({"t": range(20_000), "norm": 1 / 3}))
    with pytest.MonkeyPatch.context() as patch:
        fabricate(patch, [Section("samples", "Samples", (exhibit("words", figure=broken), *named, long))])
        report.write(results(root), root / "out")
    return root / "out"


def test_an_exhibit_that_cannot_be_drawn_is_told_alone(odd: Path) -> None:
    assert not list(odd.rglob("words.*")) and list(odd.rglob("norms.png"))
    assert "ZeroDivisionError: division by zero" in (odd / "index.html").read_text()


def test_names_that_clash_or_leave_the_folder_are_mended(odd: Path) -> None:
    stems = {file.stem for file in (odd / "figures").glob("*.png")}
    assert stems >= {"costs", "costs-2", "out", "main-2", "Costs-3"} and not (odd.parent / "out.png").exists()


def test_a_table_too_long_for_the_page_is_whole_beside_it(odd: Path) -> None:
    assert len(rows_on(page_of(odd), "norms")) == ROWS_SHOWN
    assert f"The first {ROWS_SHOWN} of 20,000 rows" in (odd / "index.html").read_text()
    assert len(pd.read_csv(odd / "tables" / "norms.csv")) == 20_000


# Learning curves.


def test_learning_curves_say_who_is_ahead(written: Path) -> None:
    first = rows_on(page_of(written), "curves-retrieval")[0]
    assert first[:3] == ["smt+dmt", "rnn", "no"] and first[5] == "0.710"
    assert "& 0.617 &" in (written / "summary.tex").read_text()


def test_several_folders_make_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate(monkeypatch, [])
    seeds(tmp_path / "one", [0.5])
    seeds(tmp_path / "two", [0.7])
    report.write([tmp_path / "one", str(tmp_path / "two")], tmp_path / "out")
    frame = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert dict(zip(frame["grid"], frame["accuracy"])) == {"one": 0.5, "two": 0.7}


# Folders that are not whole, with every section that there is.


@pytest.mark.parametrize("state", ["pending", "running", "one seed", "damaged", "all damaged", "skipped"])
def test_a_folder_that_is_not_whole_makes_a_page(tmp_path: Path, state: str) -> None:
    grid = tmp_path / "g"
    if state == "all damaged":
        (seeds(grid, [0.5])[0] / "run.json").write_text("{")
    elif state in ("one seed", "damaged"):
        (folder,) = seeds(grid, [0.5])
        for name in ("curve", "cost", "dynamics", "samples", "diagnosis") if state == "damaged" else ():
            (folder / f"{name}.json").write_text('[{"scores": [{}]}, 4]' if name == "curve" else '{"phases": 3')
    else:
        folder_of(tiny_run(), grid).set_status(state, **({"progress": 0.5} if state == "running" else {"reason": "no"}))
    files = report.write(grid, tmp_path / "out")
    assert files[0].name == "index.html" and all(file.stat().st_size for file in files)
    text = files[0].read_text()
    assert "Cells" in text and "Error:" not in text, "nothing fell over"
    if state == "all damaged":
        told = (tmp_path / "out" / "summary.md").read_text()
        assert "run.json is not JSON" in told and "No figure" in told
