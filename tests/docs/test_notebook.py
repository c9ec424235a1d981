"""The notebook stands in the repository as it was executed; `.ci/run` executes it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.grid import load_collection

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "first-look.ipynb"
LARGEST = 200_000


@pytest.fixture(scope="module")
def code() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_every_cell_was_executed_in_order_and_none_failed(code):
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] and "error" not in {out["output_type"] for out in cell["outputs"]} for cell in code)
    pictures = [out for cell in code for out in cell["outputs"] if "image/png" in out.get("data", {})]
    assert len(pictures) == 2
    assert NOTEBOOK.stat().st_size < LARGEST


def test_its_table_is_that_of_the_reference_results(code):
    frame = pd.read_csv(EXAMPLES / "../results/reference/quick/summary.csv")
    trained = frame[~frame["reference"]]
    (table,) = ("".join(out["data"]["text/plain"]) for out in code[1]["outputs"])
    shown = {float(number) for number in re.findall(r"\d\.\d{3}", table)}
    assert shown == set(trained["accuracy"].round(3)) | set(trained["chance"].round(3))


def test_what_it_trains_is_one_cell_of_a_shipped_grid(code):
    tree = ast.parse("".join(code[3]["source"]))
    (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "bench.run")
    sets = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg == "set"}["set"]
    (grid,) = load_collection(ast.literal_eval(call.args[0]), sets).grids
    assert len(grid.runs) == 1
