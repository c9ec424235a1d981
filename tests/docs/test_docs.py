"""Every command and grid that the README and the guides show is a real one, and the site builds strictly."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from bench import scaffold
from bench.cli import app
from bench.cli.door import UsageError
from bench.cli.parts import Group
from bench.errors import BadInput
from bench.grid import grid_names, load_collection, make_grid
from bench.grid.nested import parse_set
from bench.read_yaml import parse_yaml
from bench.testing.backbone import suite

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = r"(?:\S*python run_bench\.py|bench)"


def commands(page: Path) -> list[str]:
    """Command lines of this program: in shell blocks, also at the end of a chain, and between backticks."""
    text = page.read_text().replace("\\\n", " ")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    shown = re.findall(rf"(?:^|&& ){PROGRAM} (.+)$", lines, re.MULTILINE)
    return shown + re.findall(rf"`{PROGRAM} ([^`\n]+)`", text)


SHOWN = [
    pytest.param(command, id=f"{page.name}: {command}") for page in PAGES for command in dict.fromkeys(commands(page))
]


def parse(words: list[str]) -> dict:
    """The parameters of the subcommand that these words call. Raises what the command line would complain of."""
    command = typer.main.get_command(app)
    while isinstance(command, Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]!r}; there are {', '.join(command.commands)}"
        command, words = command.commands[words[0]], words[1:]
    try:
        return command.make_context(command.name, list(words)).params
    except typer.Exit:  # --help
        return {}


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_shown_parses_and_names_a_grid_that_there_is(line):
    given = parse(shlex.split(line, comments=True))
    sets = given.get("sets") or []
    keys = [parse_set(text)[0] for text in sets]
    grid = given.get("grid")
    if grid is None or grid.isupper() or grid.endswith((".yaml", ".yml")):
        return
    assert grid in grid_names()
    if not {"task", "method"} & set(keys):  # those may name a plugin that is not installed here
        load_collection(grid, sets)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("runn quick", AssertionError, "no command 'runn'"),
        ("run", UsageError, "Missing parameter: grid"),
        ("run quick --sett seed=1", UsageError, "No such option: --sett"),
        ("status nothing", AssertionError, "'nothing' in"),
        ("run quick --set lr=1", BadInput, "--set lr"),
        ("data fetch", UsageError, "Missing parameter: name"),
    ],
)
def test_a_command_that_is_not_one_would_be_found(line, error, message):
    with pytest.raises(error, match=message):
        test_every_command_shown_parses_and_names_a_grid_that_there_is(line)


def test_the_grid_that_the_guide_explains_has_the_cells_that_it_says():
    text = (ROOT / "docs/grids.md").read_text()
    first, gathers = (parse_yaml(block, "grids.md") for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    assert f"These are {len(make_grid('guide', first).runs)} cells" in text
    assert {*gathers["grids"], *gathers["cost"]} <= set(grid_names())


def test_the_code_on_the_page_on_backbones_is_the_code_that_there_is(tmp_path):
    written, fast, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/add-a-backbone.md").read_text(), re.DOTALL)
    assert written in scaffold.write("backbone", "my-backbone", tmp_path)[0].read_text()
    assert fast in (ROOT / "bench/models/lru.py").read_text()


def test_every_row_for_backbones_is_on_their_page():
    _, table = (ROOT / "docs/add-a-backbone.md").read_text().split("| row | what it proves |\n| --- | --- |\n")
    assert [row.name for row in suite.rows] == re.findall(r"^\| (.+?) \|", table, re.MULTILINE)


def test_the_site_builds_strictly(tmp_path):
    missing = [name for name in ("mkdocs", "material", "mkdocstrings") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "numbers.html"} <= {page.name for page in pages}
    loaded = re.compile(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//')
    assert not [page.name for page in pages if loaded.search(page.read_text())], "pages load something from elsewhere"
