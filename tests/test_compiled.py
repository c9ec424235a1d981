"""Compiled steps: the numbers of eager ones, their time apart, what is compiled again, and what is refused.

Most tests "compile" with a backend that only pretends to, and one with torch's own but for the C++ compiler.
`BENCH_COMPILED=all` really compiles every method that can be, which takes some minutes.
"""

from __future__ import annotations

import os
import time

import pytest
import torch

from bench import cli, compiling, engine, registry, streams
from bench.build import build_method, build_task
from bench.engine import Engine, compiles, form_of
from bench.errors import BadInput
from bench.launch.plan import LaunchOptions, plan
from bench.phases import draw
from bench.results import load_tensors, read_json
from bench.training import Options, Stopped, Trainer
from tests.helpers import TINY, few, folder_of, tiny_run

ALL = os.environ.get("BENCH_COMPILED") == "all"
needs_compiler = pytest.mark.skipif(compiling.lacks("cpu") is not None, reason="no C++ compiler")
needs_all = pytest.mark.skipif(not ALL, reason="takes minutes; BENCH_COMPILED=all runs it")
SMALL = {**TINY, "backbone": "tanh", "readout": "linear"}
SECONDS = 0.5
"""What the pretended compiler takes for a graph."""
COMPILED = {"batch_size": 8, "budget": {"steps": 12}, "engine": "compiled"}


@pytest.fixture
def pretended(monkeypatch):
    def backend(graph, inputs):
        time.sleep(SECONDS)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    monkeypatch.setattr(compiling, "lacks", lambda device: None)


def small(**training):
    return tiny_run("bptt", {"name": "parity", "length": 6}, model=SMALL, training={**COMPILED, **training})


def gradients(run, index, compiled, steps=3):
    """The losses and gradients of a phase's first steps, and how often one of them compiled something."""
    task = build_task(run)
    method = build_method(run, task)
    phase = method.phases(run.training)[index]
    method.train_only(phase)
    engine, generator, lanes, found = Engine(method, phase, compiled=compiled), streams.generator(0, "data"), None, []
    for _ in range(steps):
        batch, lanes = draw(run, task, method, phase, generator, lanes)
        for ready in engine.stretches(batch):
            if ready.scalars is not None:
                found += [ready.scalars["loss"], *(parameter.grad.clone() for parameter in engine.parameters)]
                engine.take(1e-3)
    return found, engine.compiled.times if engine.compiled else 0


def all_phases():
    for name in registry.methods.names():
        if form_of(registry.methods.get(name)) == "losses":
            run = tiny_run(name, {"name": "parity", "length": 4}, precision="float64")
            for index, phase in enumerate(build_method(run, build_task(run)).phases(run.training)):
                yield pytest.param(run, index, id=f"{name}, {phase.name}")


@needs_compiler
@needs_all
@pytest.mark.parametrize(("run", "index"), list(all_phases()) if ALL else [])
def test_compiled_steps_give_the_numbers_of_eager_ones(run, index):
    same_numbers(run, index)


def test_steps_through_the_compiler_without_its_last_part_give_the_same_numbers(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    same_numbers(tiny_run("bptt", {"name": "parity", "length": 3}, model=SMALL, precision="float64"), 0)


def online(method, update_every, columns=6):
    """Lanes restart at every sixth column."""
    task, training = {"name": "parity", "length": 6}, {**COMPILED, "columns": columns}
    named = {"name": method, "update_every": update_every}
    return tiny_run(named, task, model=SMALL, training=training, precision="float64")


@pytest.mark.parametrize(("method", "every"), few([("uoro", 1), ("rtrl", 3), ("kf-rtrl", 3), ("nobacktrack", 1)], 1))
def test_online_steps_through_the_compiler_in_blocks_give_the_same_numbers(monkeypatch, method, every):
    """In blocks of two columns, and of the one that is left over."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    monkeypatch.setattr(engine, "BLOCK", 2)
    same_numbers(online(method, every, 9), 0)


@needs_compiler
@needs_all
@pytest.mark.parametrize("method", ["rtrl", "uoro", "nobacktrack", "kf-rtrl"])
def test_compiled_online_steps_give_the_numbers_of_eager_ones(method):
    same_numbers(online(method, 11, 22), 0)


def same_numbers(run, index):
    """In float64, to ten digits, gradients to eight."""
    eager, _ = gradients(run, index, False)
    compiled, times = gradients(run, index, True)
    assert times and len(eager) == len(compiled)
    for expected, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(other, expected, rtol=1e-8 if expected.ndim else 1e-10, atol=1e-10)


@needs_compiler
@needs_all
@pytest.mark.parametrize("method", ["smt+dmt", "smt-dense+dmt", "tbptt", "transformer"])
def test_a_compiled_run_that_was_stopped_ends_as_one_that_was_not(method, tmp_path):
    """Bit for bit; with nothing that is compiled left over in the process that goes on."""
    stopped_and_not(tiny_run(method, {"name": "parity", "length": 4}, training=COMPILED), tmp_path)


def test_what_is_carried_over_a_stop_is_the_same_when_steps_are_compiled(pretended, tmp_path):
    stopped_and_not(small(), tmp_path)


def stopped_and_not(run, tmp_path):
    whole, parts = (folder_of(run, tmp_path / name) for name in ("whole", "parts"))
    Trainer(run, whole).train()
    asked = iter([False] * 4 + [True])
    with pytest.raises(Stopped):
        Trainer(run, parts, Options(should_stop=lambda: next(asked))).train()
    assert (parts.files / "checkpoint.pt").exists() and parts.result is None
    torch._dynamo.reset_code_caches()
    Trainer(run, parts).train()
    result, other = (read_json(folder / "result.json") for folder in (whole, parts))
    assert result["scores"] == other["scores"]
    for file in whole.path.glob("weights-*.pt"):
        ours, theirs = load_tensors(file), load_tensors(parts / file.name)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_compiling_is_charged_to_no_budget_and_told(pretended, tmp_path, capsys):
    """The budget in seconds is shorter than what compiling alone takes."""
    run = small(budget={"seconds": 0.8 * SECONDS})
    began = time.perf_counter()
    Trainer(run, folder_of(run, tmp_path)).train()
    took = time.perf_counter() - began
    costs = read_json(folder_of(run, tmp_path) / "result.json")["costs"]
    assert costs["steps"] > 1
    assert SECONDS <= costs["compile_seconds"] < took
    assert 0.8 * SECONDS <= costs["training_seconds"] < took - costs["compile_seconds"]
    assert costs["cpu_seconds"] < took - costs["compile_seconds"]
    said = capsys.readouterr().out
    assert said.count("compiled: phase train, (8, 6), ") == 1 and "again" not in said


def test_another_shape_is_compiled_again_and_reported_and_one_that_is_known_is_not(pretended, capsys):
    run = small()
    task = build_task(run)
    method = build_method(run, task)
    (phase,) = method.phases(run.training)
    engine, generator = Engine(method, phase, compiled=True), streams.generator(0, "data")
    for length in (6, 6, 4, 6, 4):
        batch, _ = draw(run, task, method, phase, generator, None, length)
        list(engine.stretches(batch))
    assert engine.compiled.times == 2
    assert [line.rpartition(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "compiled: phase train, (8, 6)",
        "compiled again: phase train, (8, 4)",
    ]


def test_a_run_is_compiled_however_many_others_its_process_has_compiled(monkeypatch):
    import torch._dynamo.config

    monkeypatch.setattr(compiling, "BACKEND", "eager")
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    for length in (1, 2, 3):
        run = tiny_run("bptt", {"name": "parity", "length": length}, model=SMALL, training=COMPILED)
        assert gradients(run, 0, True, steps=2)[1] == 1, length


def test_what_is_scored_and_what_is_not_learned_from_is_not_compiled(pretended):
    run = small()
    method = build_method(run, build_task(run))
    (phase,) = method.phases(run.training)
    engine = Engine(method, phase, compiled=True)
    batch, _ = draw(run, build_task(run), method, phase, streams.generator(0, "data"))
    before = compiling.taken()
    method.predict(batch.x)
    engine.carry = method.begin(len(batch.x))
    engine._differentiate(batch, (), False)
    assert compiling.taken() == before


def test_eager_is_the_default_and_no_part_of_what_identifies_a_run():
    plain, said = tiny_run(), small(engine="eager")
    assert plain.training.engine == "eager" and "engine" not in plain.describe()["training"]
    assert said.identity == tiny_run("bptt", {"name": "parity", "length": 6}, model=SMALL).identity
    assert small().identity != said.identity and not compiles(said)


@pytest.mark.parametrize(
    ("method", "model", "reason"),
    [
        ("rtrl", TINY, "rtrl on transformer needs autograd in each step; tanh with a linear readout does not"),
        ({"name": "rtrl", "form": "generic"}, SMALL, "rtrl on tanh needs autograd in each step"),
        ("uoro", {**SMALL, "backbone": "elstm"}, "uoro on elstm needs autograd in each step"),
        ({"name": "uoro", "block": 4}, SMALL, "uoro in blocks of 4 columns is not compiled"),
    ],
)
def test_an_online_step_that_cannot_be_compiled_is_refused_in_a_line(pretended, tmp_path, method, model, reason):
    run = tiny_run(method, {"name": "parity", "length": 6}, model=model, training=COMPILED)
    (cell,) = plan([run], tmp_path, LaunchOptions())
    assert cell.decision.action == "skip"
    assert cell.decision.reason.startswith(f"training.engine: compiled given; {reason}")
    with pytest.raises(BadInput, match=reason):
        Trainer(run, folder_of(run, tmp_path))


def test_auto_compiles_losses_and_no_online_steps(pretended):
    assert not compiles(tiny_run("rtrl", training={**COMPILED, "engine": "auto"}))
    assert compiles(small(engine="auto")) and compiles(online("rtrl", 1))


def test_where_there_is_no_compiler_nothing_starts_and_auto_is_eager(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    command = ["run", "ci", "--dry-run", "--set", "device=cpu", "--results", str(tmp_path), "--set"]
    assert cli.main([*command, "training.engine=compiled"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out
    assert "needs a C++ compiler, and there is no no-such-compiler on PATH; should be eager or auto" in said.err
    assert cli.main([*command, "training.engine=auto"]) == 0
    assert not compiles(small(engine="auto"))
    with pytest.raises(BadInput, match=r"training\.engine: compiled given; it needs a C\+\+ compiler"):
        compiles(small())


def test_a_gpu_needs_a_c_compiler_and_pythons_headers_beside_triton(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert compiling.lacks("cuda") == "needs a C compiler, and there is no gcc or clang on PATH"
    (tmp_path / "clang").touch(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert compiling.lacks("cuda") == f"needs Python's headers, and there is no {tmp_path / 'Python.h'}"
    (tmp_path / "Python.h").touch()
    assert compiling.lacks("cuda") is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compiling.lacks("cuda") == "needs a C compiler, and there is no no-such-compiler on PATH"
