"""A digest is of what was imported, when it was imported, with the files beside a plugin that it is made of."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from bench import registry, sources
from bench.provenance import run_digest
from bench.registry import load_plugin
from bench.training import Trainer
from tests.helpers import tiny_run

PLUGIN = """
from bench.methods import register_method
from bench.methods.bptt import BPTT
from my_losses import WEIGHT

@register_method("mine")
class Mine(BPTT):
    def gradients(self, batch, phase):
        import my_late
        yield from super().gradients(batch, phase)
"""
NEIGHBOURS = {
    "my_losses.py": "from my_parts.scales import SCALE\nWEIGHT = 2 * SCALE\n",
    "my_parts/__init__.py": "",
    "my_parts/scales.py": "from . import units\nimport json\nSCALE = 0.5\n",
    "my_parts/units.py": "NATS = 1\n",
    "my_late.py": "",
}


@pytest.fixture
def folder(clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin beside the files that it imports, and others; loaded."""
    (tmp_path / "my_parts").mkdir()
    for name, text in {"plugin.py": PLUGIN, **NEIGHBOURS, "other.py": "", "json.py": ""}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_losses", "my_parts", "my_parts.scales", "my_parts.units"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    load_plugin(tmp_path / "plugin.py")
    assert not registry.failures
    return tmp_path


def own(folder: Path) -> dict[str, bytes]:
    """File -> source, of those of a plugin's digest that are not of the harness."""
    found = sources.of(registry.methods.get("mine"), Trainer)
    plugin = registry.methods.get("mine").__module__
    mine = {name: source for name, source in found.items() if name == plugin or name.startswith("my_")}
    assert all(name in mine or name.startswith("bench") for name in found), "nothing of Python's, of torch, of others"
    return {name.removesuffix(plugin.removeprefix("bench_plugin_plugin")): source for name, source in mine.items()}


def test_the_files_beside_a_plugin_that_it_imports_are_part_of_it(folder: Path) -> None:
    assert own(folder) == {
        "bench_plugin_plugin": PLUGIN.encode(),
        "my_losses": NEIGHBOURS["my_losses.py"].encode(),
        "my_parts": b"",
        "my_parts.scales": NEIGHBOURS["my_parts/scales.py"].encode(),
        "my_parts.units": b"NATS = 1\n",
        "my_late": b"",
    }


@pytest.mark.parametrize("name", ["plugin.py", "my_losses.py", "my_parts/units.py"])
def test_an_edit_after_the_import_changes_no_digest(folder: Path, name: str) -> None:
    before = own(folder)
    (folder / name).write_text("raise SystemExit\n")
    assert own(folder) == before
    (folder / name).unlink()
    assert own(folder) == before
    whole = sources.of(*(getattr(registry, kind).get(part) for kind, part in PARTS), Trainer).values()
    hashes = sorted(hashlib.sha256(sources.computing(source)).digest() for source in whole)
    assert run_digest(tiny_run("mine")) == hashlib.sha256(b"".join(hashes)).hexdigest()[:16]


def test_what_else_a_process_has_imported_is_no_part_of_a_plugin(folder: Path) -> None:
    (folder / "wide.py").write_text("import bench, bench.tasks.parity\nfrom bench import methods, streams\n")
    load_plugin(folder / "wide.py")
    assert not registry.failures
    (wide,) = (module for name, module in sys.modules.items() if name.startswith("bench_plugin_wide"))
    found = sources.of(wide)
    importlib.import_module("bench.cli.report")  # as `run` and `report` have it, and a worker has not
    assert sources.of(wide) == found
    assert {"bench.streams", "bench.tasks.parity", "bench.methods.base"} <= found.keys()
    assert not {"bench.report", "bench.tasks.stack", "bench.methods.smt"} & found.keys()


PARTS = (("tasks", "retrieval"), ("methods", "mine"), ("backbones", "transformer"))


def test_a_class_that_is_registered_again_is_of_the_source_as_it_is_then(folder: Path, monkeypatch) -> None:
    (folder / "plugin.py").write_text(f"{PLUGIN}# edited\n")
    monkeypatch.setattr(registry, "_plugin_files", [])
    load_plugin(folder / "plugin.py")
    assert own(folder)["bench_plugin_plugin"] == f"{PLUGIN}# edited\n".encode()


def test_words_are_no_part_of_what_computes():
    source = b'''"""A module."""
import math  # for pi

RATE = "# no comment"
"""What it is."""


def area(r):
    """The area.

    In squares.
    """
    # twice
    return math.pi * r**2
'''
    assert (
        sources.computing(source)
        == b"""import math
RATE = "# no comment"
def area(r):
    return math.pi * r**2"""
    )
    assert sources.computing(b"def broken(:  # x") == b"def broken(:  # x"
    for code in (b'def f(): "words"', b'"words"; rate = 2', b'x = [\n    "a"\n]', b'x = (\n    "a"\n    "b")'):
        assert sources.computing(code) == code
    assert sources.computing(b'x = [\n    "a"  # first\n]') == b'x = [\n    "a"\n]'
