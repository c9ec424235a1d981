"""The page in a real browser: it fits, asks for nothing, and is used by mouse and by keyboard alike.

Needs the extra `browser` and a Chromium on the path (Debian: apt-get install chromium); skipped where they are missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.report.exhibit import Missing, Section
from tests.report.test_page import PLUGIN, exhibit, fabricate, results

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `browser`)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path (Debian: apt-get install chromium)"),
]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    sections = [
        Section("complexity", "Cost", (exhibit("costs"), Missing("credit-path", "Credit path", "no cost.json"))),
        Section("lengths", "Lengths", (exhibit("lengths", tasks=("retrieval",), methods=("bptt",)),)),
        Section("dynamics", "Dynamics", (exhibit("pictures", table=None, tasks=("stack",), methods=(PLUGIN,)),)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        fabricate(patch, sections)
        report.write(results(root), root / "out")
    return root / "out" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Opened:
    """The page in a fresh window, with all that went wrong and all that was asked for."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        self.context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **settings})
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Opened]:
    opened = Opened(browser, written)
    yield opened
    assert opened.complaints == []
    opened.context.close()


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def shown(page: Any) -> list[str]:
    return page.eval_on_selector_all("main article[data-tasks]", "all => all.filter(a => !a.hidden).map(a => a.id)")


def column(page: Any, article: str, place: int) -> list[str]:
    return page.eval_on_selector_all(
        f"#{article} tbody tr:not([hidden]) td:nth-child({place})", "all => all.map(c => c.textContent)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "size", [WIDE, NARROW, {"width": 1024, "height": 768}, {"width": 2560, "height": 1440}], ids=str
)
def test_it_fits_and_is_quiet(browser: Any, written: Path, scheme: str, size: dict[str, int], tmp_path: Path) -> None:
    opened = Opened(browser, written, viewport=size, color_scheme=scheme)
    assert fits(opened.page)
    opened.page.screenshot(path=tmp_path / "page.png", full_page=True)
    outside = [url for url in opened.requests if not url.startswith("data:")]
    assert outside == [written.as_uri()] and opened.complaints == []
    back = opened.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(back) < 64) == (scheme == "dark")
    cards = opened.page.eval_on_selector_all(".picture", "all => all.map(c => getComputedStyle(c).backgroundColor)")
    assert set(cards) == {"rgb(255, 255, 255)"}, "figures stand on white"
    opened.context.close()


def contrast(page: Any, selector: str) -> float:
    """Of text to what is behind it, by the WCAG formula; the least over all elements."""
    return page.eval_on_selector_all(
        selector,
        """all => {
          const parse = (c) => c.match(/[\\d.]+/g).map(Number);
          const light = (c) => c.slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const behind = (one) => {
            const back = parse(getComputedStyle(one).backgroundColor);
            return back.length === 4 && back[3] === 0 && one.parentElement ? behind(one.parentElement) : back;
          };
          return Math.min(...all.map((one) => {
            const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
          }));
        }""",
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser: Any, written: Path, scheme: str) -> None:
    opened = Opened(browser, written, color_scheme=scheme)
    for selector in (
        ".badge",
        "p",
        "td",
        "th button",
        ".small",
        "nav a",
        "dt",
        "dd",
        ".number",
        "label span",
        "main a",
    ):
        assert contrast(opened.page, selector) >= 4.5, selector
    opened.context.close()


def test_names_run_nothing(opened: Opened) -> None:
    assert opened.page.eval_on_selector_all("script", "all => all.length") == 1
    assert PLUGIN in opened.page.eval_on_selector_all("label span", "all => all.map(l => l.textContent)")
    assert PLUGIN in column(opened.page, "costs", 2)


def test_an_injected_script_would_not_run(opened: Opened) -> None:
    opened.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))")
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)
    opened.complaints.clear()


def test_the_theme_is_the_readers_choice(opened: Opened) -> None:
    button = opened.page.get_by_role("button", name="Theme")
    seen = []
    for _ in range(3):
        button.click()
        seen.append((button.inner_text(), opened.page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert [text for text, _ in seen] == ["Theme: light", "Theme: dark", "Theme: auto"]
    assert seen[0][1] == seen[2][1] != seen[1][1]
    button.click(click_count=2)
    opened.page.reload()
    assert button.inner_text() == "Theme: dark", "remembered"


def test_the_filter_shows_what_concerns_a_task_or_a_method(opened: Opened) -> None:
    page = opened.page
    everything = shown(page)
    status = page.get_by_role("status")
    assert f"all {len(everything)} exhibits" in status.inner_text()
    page.get_by_label("retrieval", exact=True).check()
    assert {"costs", "lengths", "curves-retrieval"} <= set(shown(page))
    assert not {"pictures", "curves-stack"} & set(shown(page))
    assert column(page, "costs", 1) == ["retrieval", "retrieval"]
    assert f"{len(shown(page))} of {len(everything)} exhibits" in status.inner_text()
    assert page.locator("nav a[href='#pictures']").is_hidden() or page.locator("nav a[href='#pictures']").count() == 0
    assert page.locator("#section-dynamics .none").is_visible(), "an empty section says why it is empty"
    page.locator("fieldset", has_text="Methods").get_by_label(PLUGIN, exact=True).check()
    assert "lengths" not in shown(page) and column(page, "costs", 2) == [PLUGIN]
    page.get_by_role("button", name="Show all").click()
    assert shown(page) == everything and len(column(page, "costs", 1)) == 4
    assert page.get_by_role("button", name="Show all").is_disabled()


def test_the_filter_works_by_keyboard(opened: Opened) -> None:
    page = opened.page
    box = page.get_by_label("stack", exact=True)
    for _ in range(20):
        page.keyboard.press("Tab")
        if box.evaluate("box => box === document.activeElement"):
            break
    page.keyboard.press("Space")
    assert box.is_checked() and "lengths" not in shown(page) and "pictures" in shown(page)
    assert page.evaluate("getComputedStyle(document.activeElement.closest('label')).outlineStyle") == "solid"


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_tables_sort_by_value(opened: Opened, how: str) -> None:
    page = opened.page
    head = page.locator("#costs th", has_text="flops")
    button = head.get_by_role("button")

    def press() -> None:
        button.click() if how == "mouse" else button.press("Enter")

    assert head.get_attribute("aria-sort") == "none"
    press()
    assert column(page, "costs", 5) == ["0", "2.500e-7", "10.00", "1.235e9"]
    assert head.get_attribute("aria-sort") == "ascending"
    press()
    assert column(page, "costs", 5) == ["1.235e9", "10.00", "2.500e-7", "0"]
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, "costs", 3) == ["8", "16", "1,024", "1.235e7"], "rows move as wholes"
    page.locator("#costs th", has_text="task").get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, "costs", 1) == ["retrieval", "retrieval", "stack", "stack"]


def test_gaps_sort_last_either_way(opened: Opened) -> None:
    button = opened.page.locator("#costs th", has_text="accuracy").get_by_role("button")
    button.click()
    assert column(opened.page, "costs", 4) == ["0.050", "0.333", "0.988", "-"]
    button.click()
    assert column(opened.page, "costs", 4) == ["0.988", "0.333", "0.050", "-"]


def test_contents_and_claims_lead_to_their_places(opened: Opened) -> None:
    page = opened.page
    for link in page.locator("nav a, .glance a").all():
        target = link.get_attribute("href")
        link.click()
        top = page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", target[1:])
        end = page.evaluate("scrollY + innerHeight >= document.documentElement.scrollHeight - 2")
        assert -2 <= top <= 40 or (end and top < WIDE["height"]), target


def test_the_first_screen_holds_the_main_table(browser: Any, written: Path) -> None:
    opened = Opened(browser, written, viewport={"width": 1300, "height": 900})
    box = opened.page.locator("#answer table").bounding_box()
    assert box["y"] + box["height"] <= 900
    first, second = opened.page.locator("#answer tbody th").all_inner_texts()
    assert first == "retrieval, length 12" and second.startswith("stack, length 12")
    assert opened.page.locator("#answer strong").all_inner_texts() == ["0.710", "0.710"]
    opened.context.close()


def test_a_wide_table_scrolls_beside_its_first_column(browser: Any, written: Path) -> None:
    opened = Opened(browser, written, viewport={"width": 400, "height": 700})
    table = opened.page.locator("#answer .scroll")
    assert table.evaluate("t => t.scrollWidth > t.clientWidth") and fits(opened.page)
    first = opened.page.locator("#answer tbody th").first
    before = first.bounding_box()["x"]
    table.evaluate("t => { t.scrollLeft = t.scrollWidth; }")
    assert first.bounding_box()["x"] == before
    opened.context.close()


@pytest.mark.parametrize("how", ["click", "Enter"])
def test_a_figure_opens_large(opened: Opened, how: str) -> None:
    picture = opened.page.locator("#costs .picture")
    small = picture.locator("img").bounding_box()["width"]
    picture.click() if how == "click" else picture.press("Enter")
    assert opened.page.locator("#large img").bounding_box()["width"] > 1.3 * small
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("#large").is_hidden()


def test_a_link_opens_the_fold_that_its_target_is_in(opened: Opened) -> None:
    curve = opened.page.locator("#curves-retrieval")
    assert curve.is_hidden()
    opened.page.evaluate("location.hash = 'curves-retrieval'")
    curve.wait_for(state="visible")


def test_the_first_tab_leads_past_the_head(opened: Opened) -> None:
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "main"


def test_contents_and_filter_fold_on_a_phone(browser: Any, written: Path) -> None:
    opened = Opened(browser, written, viewport=NARROW)
    link = opened.page.locator("nav a[href='#section-lengths']")
    assert link.is_hidden()
    opened.page.locator("nav summary").press("Enter")
    assert link.is_visible() and fits(opened.page)
    opened.context.close()


def test_a_table_can_be_taken_away(opened: Opened, written: Path, tmp_path: Path) -> None:
    with opened.page.expect_download() as waited:
        opened.page.locator("#costs a[download]").click()
    assert waited.value.suggested_filename == "costs.csv"
    waited.value.save_as(tmp_path / "costs.csv")
    assert (tmp_path / "costs.csv").read_bytes() == (written.parent / "tables" / "costs.csv").read_bytes()


def test_it_reads_without_scripts(browser: Any, written: Path) -> None:
    opened = Opened(browser, written, java_script_enabled=False)
    assert opened.page.locator("#costs td").first.is_visible() and opened.page.locator("#filter").is_hidden()
    opened.context.close()


def test_print_opens_tables_and_leaves_controls_out(opened: Opened) -> None:
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.page.emulate_media(media="print")
    assert opened.page.locator("aside").is_hidden()
    assert all(opened.page.eval_on_selector_all("main details", "all => all.map(d => d.open)"))
