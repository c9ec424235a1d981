"""Names, plugins and their failures."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from bench import registry
from bench.build import build_method, build_task
from bench.errors import BadInput
from bench.registry import Registry, load_plugin
from bench.tasks import Task
from bench.tasks.base import Batch
from tests.helpers import tiny_run


def plugin(folder: Path, text: str) -> Path:
    file = folder / "plugin.py"
    file.write_text(textwrap.dedent(text))
    return file


def test_every_task_and_method_of_the_harness_is_found():
    synthetic = {"retrieval", "string-copy", "stack", "keys-values", "modular-arithmetic", "parity", "recency"}
    synthetic |= {"anbn", "brackets", "add-lags", "copy-curriculum"}
    assert synthetic | {"shakespeare", "ptb", "tinystories", "mnist", "sketchy", "digits"} <= set(
        registry.tasks.names()
    )
    online = {"rtrl", "uoro", "nobacktrack", "kf-rtrl", "artbp"}
    assert online | {"bptt", "tbptt", "smt", "smt+dmt", "transformer"} <= set(registry.methods.names())
    cells = {"tanh", "lstm", "rhn", "gru-cell", "elstm", "lru"}
    assert cells | {"transformer", "mlp", "gru"} <= set(registry.backbones.names())


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match="'retreival' is unknown; allowed: .*did you mean 'retrieval'"):
        registry.tasks.get("retreival")


def test_a_plugin_file_adds_a_method(clean, tmp_path):
    file = plugin(
        tmp_path,
        """
        from bench.methods import register_method
        from bench.methods.bptt import BPTT

        @register_method("mine")
        class Mine(BPTT):
            pass
        """,
    )
    load_plugin(file)
    load_plugin(file)  # a second time does nothing
    assert registry.methods.get("mine").name == "mine"
    assert registry.plugin_files() == [str(file)]
    assert not registry.failures


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit('enough')", "SystemExit: enough"),
    ],
)
def test_a_plugin_that_fails_to_import_is_reported_and_stops_nothing(clean, tmp_path, text, reason):
    file = plugin(tmp_path, text)
    load_plugin(file)
    assert registry.failures[str(file)].startswith(reason)
    assert "bptt" in registry.methods.names()


ODD = {
    "raise BaseException('x')": "BaseException: x",
    "raise GeneratorExit": "GeneratorExit: no message",
    "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E": "E: no message",
    "register_method(5)(BPTT)": "the name of a method: 5 given; it names a folder, and should be a string",
    "register_method(None)(BPTT)": "the name of a method: None given",
    "register_method('../../evil')(BPTT)": "the name of a method: '../../evil' given; it names a folder",
    "register_method('a/b')(BPTT)": "should not contain / ",
    "register_method('a\\nb')(BPTT)": "should not contain control characters",
    "register_method('x' * 65)(BPTT)": "should be at most 64 bytes long",
    "register_method('m')(5)": "method 'm': 5 is registered; should be a class",
    "@register_method('m')\ndef f(): pass": "is registered; should be a class",
    "register_task('t')(type('T', (), {}))": "should derive from bench.tasks.Task",
    "register_method('m')(type('M', (BPTT,), {'Config': 5}))": "its Config is 5; should be a class that derives",
    "register_method('m')(type('M', (BPTT,), {'Config': None}))": "its Config is None",
}


@pytest.mark.parametrize("text", ODD)
def test_what_a_plugin_does_amiss_is_its_failure_and_stops_nothing(clean, tmp_path, text):
    head = "from bench.registry import register_method, register_task\nfrom bench.methods.bptt import BPTT\n"
    file = tmp_path / "odd.py"
    file.write_text(head + text)
    before = registry.methods.names(), registry.tasks.names()
    load_plugin(file)
    assert ODD[text] in registry.failures[str(file)] and "\n" not in registry.failures[str(file)]
    assert (registry.methods.names(), registry.tasks.names()) == before


def test_a_name_registered_twice_names_both_places_and_the_first_stays(clean, tmp_path):
    first = registry.methods.get("bptt")
    file = plugin(
        tmp_path,
        """
        from bench.methods import register_method
        from bench.methods.bptt import BPTT

        @register_method("half-done")
        class Half(BPTT):
            pass

        @register_method("bptt")
        class Other(BPTT):
            pass
        """,
    )
    load_plugin(file)
    reason = registry.failures[str(file)]
    assert "method 'bptt' is registered twice" in reason
    assert "bptt.py:" in reason and f"{file}:" in reason
    assert registry.methods.get("bptt") is first
    assert "half-done" not in registry.methods.names()  # a plugin that failed leaves nothing behind


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("name: str = 'bptt'", "called 'name', which the harness uses"),
        ("changes: int = 3", "called 'changes', which the harness uses"),
        ("parse: int = 3", "called 'parse', which the harness uses"),
        ("drawn: float = Field(default_factory=random.random)", "'drawn' has another default each time"),
        ("gap: float = float('nan')", "'gap' has another default each time"),
    ],
)
@pytest.mark.filterwarnings("ignore:Field name")
def test_a_field_that_identifies_no_run_is_refused_with_its_place(clean, tmp_path, field, reason):
    file = plugin(
        tmp_path,
        f"""
        import random
        from pydantic import Field
        from bench.methods import MethodConfig, register_method
        from bench.methods.bptt import BPTT

        class OwnConfig(MethodConfig):
            {field}

        @register_method("own")
        class Own(BPTT):
            Config = OwnConfig
        """,
    )
    load_plugin(file)
    assert re.fullmatch(rf"method 'own' at {file}:\d+: .*{reason}.*", registry.failures[str(file)])
    assert "own" not in registry.methods.names()


CONTRACT = [
    (
        "method",
        "BPTT",
        "def update(self, state, x_t): ...",
        r"defines update: since 0\.2 .* advance.*docs/add-a-method\.md",
    ),
    (
        "method",
        "BPTT",
        "def readout(self, state): ...",
        r"defines readout: since 0\.2 .* advance.*docs/add-a-method\.md",
    ),
    ("method", "BPTT", 'backbones = ("gru",)', r"defines backbones: since 0\.3 .* recurrences.*docs/add-a-method\.md"),
    ("method", "BPTT", "def predict(self, x): ...", r"predict\(x\): since 0\.2 .* columns.*docs/add-a-method\.md"),
    ("method", "RecurrentMethod", "pass", r"defines none of losses, step, gradients.*docs/add-a-method\.md"),
    ("method", "Module", "pass", r"should derive from bench\.methods\.Method .*docs/add-a-method\.md"),
    ("backbone", "Module", "pass", r"should derive from bench\.models\.Backbone .*docs/add-a-backbone\.md"),
]


@pytest.mark.parametrize(("kind", "base", "body", "reason"), CONTRACT)
def test_a_class_that_does_not_fit_the_contract_is_refused_with_what_changed(clean, tmp_path, kind, base, body, reason):
    load_plugin(file := plugin(tmp_path, derived(kind, base, body)))
    assert re.fullmatch(rf"{kind} 'own' at {file}:\d+: .*{reason}.*", registry.failures[str(file)])


@pytest.mark.parametrize(
    ("kind", "base", "body"),
    [
        ("method", "BPTT", "pass"),
        ("method", "BPTT", "update = None; advance = None"),  # a helper of that name, in a predictor of today's
        ("method", "RecurrentMethod", "def step(self, carry, x_t, y_t, drawn_t): ..."),
        ("backbone", "Updater", "pass"),
    ],
)
def test_a_class_that_fits_it_is_registered(clean, tmp_path, kind, base, body):
    load_plugin(plugin(tmp_path, derived(kind, base, body)))
    assert not registry.failures


def derived(kind: str, base: str, body: str) -> str:
    return f"""
        from torch.nn import Module
        from bench.methods import RecurrentMethod, register_method
        from bench.methods.bptt import BPTT
        from bench.models import Updater, register_backbone

        @register_{kind}("own")
        class Own({base}):
            {body}
        """


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("def predictors(self): return {'rnn': self.predict}", r"predictors\(\) gives a dict: since 0\.2"),
        ("def settle(self, phase): pass", r"settle: since 0\.3 it is sync_predictor"),
        ("def losses(self, batch, *_): self.rnn.unroll(None, batch.x)", r"rnn\.unroll: since 0\.2 it is rnn\.scan"),
        ("def losses(self, batch, *_): self.rnn.read(self.rnn.initial_state(2))", r"rnn\.read: \(2, 2, 8\) .* 0\.2"),
    ],
)
def test_what_an_old_method_asks_for_is_answered_with_what_changed(clean, tmp_path, part, reason):
    load_plugin(plugin(tmp_path, derived("method", "BPTT", part)))
    run = tiny_run("own")
    with pytest.raises(BadInput, match=rf"{reason}.*docs/add-a-method\.md"):
        build_method(run, build_task(run)).losses(Batch(torch.zeros(2, 4, dtype=torch.long), None), (), (), "train")


@pytest.mark.parametrize("given", ["()", "Predictor('teacher', self.predict, True), Predictor('rnn', self.predict)"])
def test_what_is_scored_begins_with_what_was_trained(clean, tmp_path, given):
    part = f"def predictors(self): return {given}"
    load_plugin(plugin(tmp_path, derived("method", "BPTT", part).replace("RecurrentMethod,", "Predictor,")))
    run = tiny_run("own")
    with pytest.raises(BadInput, match="first of predictors.* should be the trained one"):
        build_method(run, build_task(run))


def test_a_missing_plugin_file_is_bad_input(clean, tmp_path):
    with pytest.raises(BadInput, match="--plugin: no file"):
        load_plugin(tmp_path / "absent.py")
    (tmp_path / "itself.py").symlink_to("itself.py")
    with pytest.raises(BadInput, match="--plugin: no file"):
        load_plugin(tmp_path / "itself.py")


def test_installed_plugins_are_found_by_their_entry_points(tmp_path):
    """A package on the path with entry points, one of which cannot be imported: the other works."""
    (tmp_path / "good_plugin.py").write_text(
        "from bench.methods import register_method\nfrom bench.methods.bptt import BPTT\n"
        "@register_method('good')\nclass Good(BPTT):\n    pass\n"
    )
    info = tmp_path / "plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench.methods]\ngood = good_plugin\nbad = absent_plugin\n")
    script = "from bench import registry; print('good' in registry.methods.names(), registry.failures)"
    path = f"{tmp_path}:{Path(__file__).parents[1]}"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True {'bad': \"ModuleNotFoundError: No module named 'absent_plugin'\"}"


def test_registering_a_class_again_from_the_same_place_is_no_clash():
    names = Registry("task", "bench.tasks", "bench.tasks")

    class One(Task):
        pass

    assert names.register("one")(One) is One
    assert names.register("one")(One) is One
