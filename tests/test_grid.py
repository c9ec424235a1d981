"""Grids: axes, ladders, overrides, `--set`, links between cells; and what is said of bad ones."""

from __future__ import annotations

import re

import pytest
import torch

from bench import registry
from bench.build import build_method, build_task
from bench.errors import BadInput
from bench.grid import grid_names, load_collection, load_grid, make_grid
from bench.grid.conditions import matches
from bench.methods import MethodConfig, impossible, register_method
from bench.methods.bptt import BPTT
from bench.models.sizes import count_parameters
from bench.read_yaml import parse_yaml
from tests.helpers import TINY, tiny_run

BASE = {"task.length": 16, "model": TINY, "training": {"budget": {"steps": 5}}, "device": "cpu"}


def grid(sets=(), **keys):
    return make_grid("g", {"base": {**BASE, **keys.pop("base", {})}, **keys}, sets)


def test_axes_are_multiplied_in_the_files_order():
    runs = grid(axes={"task": ["retrieval", "stack"], "method": ["bptt"], "seed": [0, 1]}).runs
    assert [(run.task, run.seed) for run in runs] == [("retrieval", 0), ("retrieval", 1), ("stack", 0), ("stack", 1)]


def test_ladders_change_one_field_at_a_time():
    base = {"task": "stack", "method": "bptt"}
    runs = grid(base=base, ladders={"model.memory_tokens": [2, 4], "task.depth": [3]}).runs
    assert [(run.model.memory_tokens, run.task_config.depth) for run in runs] == [(2, 8), (4, 8), (2, 3)]


def test_a_method_on_a_ladder_departs_from_the_default_setting():
    made = grid(base={"task": "stack", "method": "bptt"}, ladders={"method": ["transformer"]})
    assert [(run.method, made.places[run.id].off) for run in made.runs] == [("bptt", ()), ("transformer", ("method",))]


def test_cells_that_come_out_equal_are_one():
    runs = grid(axes={"task": ["stack"], "method": ["transformer"], "model.backbone": ["transformer", "mlp"]}).runs
    assert len(runs) == 1


def test_overrides_reach_the_cells_that_match_and_axes_win_over_them():
    overrides = [
        {"where": {"task": "stack"}, "set": {"task.depth": 3, "training.batch_size": 7}},
        {"where": {"method": ["bptt", "smt"], "seed": 1}, "set": {"training.batch_size": 9}},
    ]
    runs = grid(
        axes={"task": ["stack"], "method": ["bptt"], "seed": [0, 1], "task.depth": [5]}, overrides=overrides
    ).runs
    assert [run.task_config.depth for run in runs] == [5, 5]
    assert [run.training.batch_size for run in runs] == [7, 9]


@pytest.mark.parametrize(
    "condition",
    [
        {"model.backbone": "transformer"},
        {"seed": 0},
        {"task.symbols": 4},
        {"task": {"name": "stack", "depth": 8}},
        {"model": {"heads": 2, "feedforward": 4}},
        {"evaluation.lengths": [8, 32]},
        {"evaluation.lengths": [[64], [8, 32]]},
        {"training.optimiser.betas": [0.9, 0.95]},
        {"training.optimiser.lr": [1.0, 3e-4]},
        {"training.batch_size": 128},
        {"model.head_width": None},
        {"device": "cpu", "precision": "float32"},
    ],
    ids=str,
)
def test_a_condition_is_on_what_the_run_will_have_given_or_by_default(condition):
    base = {"task": "stack", "method": "bptt", "evaluation.lengths": [8, 32]}
    for also, expected in (({}, 3), ({"model.d": 16}, 1)):
        override = {"where": {**condition, **also}, "set": {"threads": 3}}
        (run,) = grid(base=base, overrides=[override]).runs
        assert run.threads == expected
        assert matches(run, override["where"], "slurm") == (expected == 3)


def test_a_condition_can_be_on_a_default_where_an_override_gives_what_is_required():
    base = {"model": TINY, "task": "stack", "method": "bptt"}
    (run,) = make_grid(
        "g", {"base": base, "overrides": [{"where": {"training.batch_size": 128}, "set": {"training.budget.steps": 5}}]}
    ).runs
    assert run.training.budget.steps == 5


def test_what_another_override_sets_is_no_condition_and_an_unused_backbone_is_none():
    base = {"task": "stack", "method": "transformer", "model.backbone": "gru"}
    overrides = [
        {"where": {"model.backbone": "transformer"}, "set": {"training.batch_size": 7}},
        {"where": {"training.batch_size": 7}, "set": {"threads": 2}},
        {"where": {"model.backbone": "gru"}, "set": {"threads": 3}},
    ]
    (run,) = grid(base=base, overrides=overrides).runs
    assert (run.training.batch_size, run.threads) == (7, 1)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"model.d": "8"}, "overrides.where.model.d: '8' given; should be a valid integer"),
        ({"seed": [0, True]}, "overrides.where.seed: True given; should be a valid integer"),
        ({"model": {"dd": 8}}, "'dd' is unknown; .*did you mean 'd'"),
        ({"training.optimiser.rl": 1}, "'rl' is unknown; .*did you mean 'lr'"),
        ({"task.symbosl": 4}, "'symbosl' is unknown; .*did you mean 'symbols'"),
        ({"task": "stack", "task.modulus": 4}, "'modulus' is unknown; allowed: depth, length, symbols"),
        ({"task.symbols": "four"}, "symbols: 'four' given; should be a valid integer"),
        ({"evaluation.lengths": 8}, "evaluation.lengths: 8 given; should be a valid array"),
        ({"device": "auto"}, "device: 'auto' given; should be 'cpu' or 'cuda'"),
        ({"method": None}, "method: 'None' is unknown"),
    ],
    ids=str,
)
def test_a_condition_that_no_run_can_meet_is_refused_in_one_line(condition, message):
    overrides = [{"where": condition, "set": {"threads": 3}}]
    with pytest.raises(BadInput, match=message) as caught:
        grid(base={"task": "stack", "method": "bptt"}, overrides=overrides)
    assert "\n" not in str(caught.value)


def test_the_width_that_a_parameter_count_chooses_cannot_be_a_condition():
    base = {"task": "stack", "method": "bptt", "model.parameters": 20_000}
    overrides = [{"where": {"model.parameters": 20_000}, "set": {"threads": 2}}]
    assert grid(base=base, overrides=overrides).runs[0].threads == 2
    with pytest.raises(BadInput, match="model.d: is chosen by model.parameters"):
        grid(base=base, overrides=[{"where": {"model.d": 8}, "set": {"threads": 2}}])


def test_parts_share_what_stands_above_them():
    parts = [{"axes": {"task": ["stack"], "task.depth": [2, 3]}}, {"axes": {"task": ["parity"]}, "base": {"seed": 5}}]
    runs = grid(base={"method": "bptt"}, parts=parts).runs
    assert [(run.task, run.seed) for run in runs] == [("stack", 0), ("stack", 0), ("parity", 5)]


def test_a_case_sets_several_fields_at_once():
    cases = [{"task.length": 8, "model.d": 8}, {"task.length": 12, "model.d": 16}]
    runs = grid(base={"task": "stack", "method": "bptt"}, axes={"case": cases}).runs
    assert [(run.task_config.length, run.model.d) for run in runs] == [(8, 8), (12, 16)]


def test_set_overrides_a_field_replaces_an_axis_and_wins_over_everything():
    axes = {"task": ["retrieval", "stack"], "method": ["bptt"], "seed": [0, 1]}
    overrides = [{"where": {"task": "stack"}, "set": {"training.batch_size": 9}}]
    assert len(grid(["seed=4"], axes=axes).runs) == 2
    assert len(grid(["seed=[4,5,6]"], axes=axes).runs) == 6
    assert {run.task for run in grid(["task=parity"], axes=axes).runs} == {"parity"}
    assert {
        run.training.batch_size for run in grid(["training.batch_size=3"], axes=axes, overrides=overrides).runs
    } == {3}
    assert {run.training.optimiser.lr for run in grid(["training.optimiser.lr=1e-4"], axes=axes).runs} == {1e-4}
    assert {run.training.budget.tokens for run in grid(["training.budget={tokens: 64}"], axes=axes).runs} == {64}


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("evaluation.lengths=[8,32]", [(8, 32)]),
        ("evaluation.lengths=[]", [()]),
        ("evaluation.lengths=[[8,32],[64]]", [(8, 32), (64,)]),
        ("evaluation={lengths: [8,32]}", [(8, 32)]),
    ],
)
def test_a_list_is_the_value_of_a_field_that_takes_one_and_a_list_of_lists_an_axis_of_it(text, lengths):
    base = {"task": "stack", "method": "bptt"}
    assert [run.evaluation.lengths for run in grid([text], base=base).runs] == lengths
    assert [run.training.optimiser.betas for run in grid(["training.optimiser.betas=[0.8,0.9]"], base=base).runs] == [
        (0.8, 0.9)
    ]


def test_whether_a_plugins_field_takes_a_list_is_read_from_the_methods_of_the_grid(clean):
    for name, kind in (("one", int), ("many", tuple[int, ...])):
        config = type(
            "Own", (MethodConfig,), {"__annotations__": {"layers": kind}, "layers": 1, "__module__": __name__}
        )
        register_method(name)(type(name, (BPTT,), {"Config": config, "__module__": __name__}))
    base = {"task": "stack"}
    runs = grid(["method.layers=[1,2]", "method=[many,bptt]"], base=base).runs
    assert [(run.method, run.method_config.changes()) for run in runs] == [("many", {"layers": [1, 2]}), ("bptt", {})]
    runs = grid(["method.layers=[2,3]"], base=base, axes={"method": ["one", "bptt"]}).runs
    assert [(run.method, run.method_config.changes()) for run in runs] == [
        ("one", {"layers": 2}),
        ("one", {"layers": 3}),
        ("bptt", {}),
    ]


def test_a_list_of_set_wins_over_a_case_and_a_ladder():
    base = {"task": "stack", "method": "bptt"}
    axes = {"seed": [0], "case": [{"seed": 5, "task.length": 8}]}
    assert [run.seed for run in grid(["seed=[1,2]"], base=base, axes=axes).runs] == [1, 2]
    runs = grid(["model.d=[8,16]"], base=base, ladders={"model": [{"d": 32}]}).runs
    assert [run.model.d for run in runs] == [8, 16]


def test_an_axis_of_a_field_that_takes_lists_says_how_it_is_written():
    with pytest.raises(BadInput, match="evaluation.lengths: 8 given; should be a list, and an axis of it a list of l"):
        grid(base={"task": "stack", "method": "bptt"}, axes={"evaluation.lengths": [8, 16]})


@pytest.mark.parametrize("number", ["010", "-010", "+07", "00", "0_1", "0100"])
def test_a_number_with_a_leading_zero_is_refused_and_not_read_as_octal(tmp_path, number):
    with pytest.raises(BadInput, match=re.escape(f"{number} given; a number should have no leading zero")) as caught:
        grid([f"seed={number}"], base={"task": "stack", "method": "bptt"})
    assert "\n" not in str(caught.value)
    (tmp_path / "own.yaml").write_text(f"base:\n  seed: {number}\n")
    with pytest.raises(BadInput, match=r"own.yaml, line 2: .*leading zero"):
        load_grid(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b11", 3),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("'010'", "010"),
        ("1:30.5", "1:30.5"),
    ],
)
def test_other_numbers_are_what_they_were(text, value):
    assert parse_yaml(text, "") == value


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("seed=1", "seed=2", "seed"),
        ("method=bptt", "method.name=smt", "method"),
        ("model.d=8", "model={heads: 2, d: 16}", "model.d"),
    ],
)
def test_the_same_set_twice_is_refused(first, second, name):
    with pytest.raises(BadInput, match=f"--set {second}: {name} is given twice"):
        grid([first, "threads=1", second], base={"task": "stack", "method": "bptt"})


def test_set_of_a_tasks_knob_reaches_the_tasks_that_have_it_and_must_reach_one():
    axes = {"task": ["retrieval", "stack"], "method": ["bptt"]}
    by_task = {run.task: run.task_config for run in grid(["task.depth=3"], axes=axes).runs}
    assert by_task["stack"].depth == 3
    with pytest.raises(BadInput, match="--set task.deph: no task of this grid has the field: 'deph' .*'depth'"):
        grid(["task.deph=3"], axes=axes)


def test_a_cell_can_start_from_another_cells_phase():
    init = {"where": {"method": "smt+dmt"}, "set": {"init_from": {"method": "smt", "phase": "smt"}}}
    axes = {"task": ["stack"], "method": ["smt", "smt+dmt"], "seed": [0, 1]}
    runs = grid(axes=axes, overrides=[init]).runs
    sources = {run.seed: run for run in runs if run.method == "smt"}
    for run in runs:
        if run.method == "smt+dmt":
            assert (run.init_from.run, run.init_from.phase) == (sources[run.seed].id, "smt")
    with pytest.raises(BadInput, match="init_from: 0 cells have method smt"):
        grid(["method=smt+dmt"], axes=axes, overrides=[init])


@pytest.mark.parametrize("method", ["bptt", "transformer"])
def test_methods_can_be_matched_by_the_parameters_of_their_predictor(method):
    (run,) = grid(base={"task": "stack", "method": method, "model.parameters": 20_000}).runs
    predictor = build_method(run, build_task(run), "meta").predictor_modules()
    count = sum(map(count_parameters, predictor))
    assert abs(count / 20_000 - 1) < 0.25 and run.model.d % (2 * run.model.heads) == 0
    assert run.model.parameters is None  # the run says what came out


def test_device_and_precision_are_chosen_for_the_machine():
    (run,) = make_grid("g", {"base": {**BASE, "task": "stack", "method": "bptt", "device": "auto"}}).runs
    assert run.device == ("cuda" if torch.cuda.is_available() else "cpu")
    if run.device == "cpu":
        assert run.precision == "float32"
        with pytest.raises(BadInput, match="device: cuda given; this machine has no GPU"):
            grid(["device=cuda"], base={"task": "stack", "method": "bptt"})


def test_a_recipe_lies_below_what_includes_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "base: {training.batch_size: 4, task.depth: 3}\n"
        "overrides: [{where: {method: bptt}, set: {training.optimiser.lr: 1e-2, training.optimiser.schedule: cosine}}]"
    )
    (tmp_path / "g.yaml").write_text(
        "include: mine.yaml\n"
        "base: {task: stack, task.length: 16, training: {batch_size: 6, budget.steps: 5}}\n"
        "axes: {method: [bptt, transformer]}\n"
        "overrides: [{where: {method: bptt}, set: {training.optimiser.lr: 2e-2}}]"
    )
    made = load_grid(str(tmp_path / "g.yaml"))
    found = [(run.task_config.depth, run.training.batch_size, run.training.optimiser.lr) for run in made.runs]
    assert found == [(3, 6, 2e-2), (3, 6, 3e-4)]
    assert [run.training.optimiser.schedule for run in made.runs] == ["cosine", "constant"]
    assert make_grid("g", made.launch["grid"]).runs == made.runs  # the record holds the recipe, not its name


def test_a_shipped_recipe_is_included_by_its_name():
    (run,) = make_grid("g", {"include": "tuned", "base": {**BASE, "task": "stack", "method": "bptt"}}).runs
    assert (run.training.batch_size, run.training.optimiser.lr) == (8, 1e-3)
    with pytest.raises(BadInput, match=r"grid g: include .*: 'tunde' is unknown; .*did you mean 'tuned'"):
        make_grid("g", {"include": "tunde"})
    with pytest.raises(BadInput, match=r"grid g: include: 3 given; should be a shipped recipe, tuned, or a YAML file"):
        make_grid("g", {"include": 3})
    with pytest.raises(BadInput, match=r"grid g: include: 'none.yaml': No such file"):
        make_grid("g", {"include": "none.yaml"})
    with pytest.raises(BadInput, match=r"include.axes: unknown key; allowed: about, base, overrides"):
        make_grid("g", {"include": {"axes": {}}})


def test_the_ci_grid_trains_every_built_in_method_and_backbone():
    runs = load_grid("ci").runs
    for kind, found in (
        (registry.methods, {run.method for run in runs if not impossible(run)}),
        (registry.backbones, {run.model.backbone for run in runs if not impossible(run)}),
    ):
        assert found == {name for name in kind.names() if kind.get(name).__module__.startswith("bench.")}


@pytest.mark.parametrize("name", sorted(grid_names()))
def test_every_shipped_grid_expands(name):
    collection = load_collection(name)
    assert grid_names()[name] and collection.grids
    for grid in (*collection.grids, *collection.cost):
        assert grid.about and grid.runs
        assert len({run.identity for run in grid.runs}) == len(grid.runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axis: {task: [stack]}", "grid bad.axis: unknown key; allowed: .*did you mean 'axes'"),
        ("axes: {task: stack}", "grid bad.axes.task: 'stack' given; should be a valid"),
        ("base: {tsk: stack}", "field: 'tsk' is unknown; .*did you mean 'task'"),
        ("overrides: [{where: {model.dd: 3}, set: {seed: 1}}]\naxes: {seed: [1]}", "'dd' is unknown; .*mean 'd'"),
        ("base:\n\ttask: stack", "bad.yaml, line 2: a tab cannot indent YAML; use spaces"),
        ("base: {task: stack, task: parity}", "line 1: key 'task' is given twice"),
        ("base: [", "bad.yaml, line 1: "),
        ("- 1", "should hold keys such as base and axes, not list"),
        ("base: {task: stack}", "method is required"),
        (
            "base: {task: stack, method: bptt, training.budget.steps: -1}",
            "budget.steps: -1 given; should be greater than 0",
        ),
        ("base: {task: stack, method: bptt}\naxes: {seed: []}", "has no cells"),
        ("base: {task: stack}\noverrides: [{where: {task: stak}, set: {seed: 1}}]", "'stak' is unknown; .*'stack'"),
        ("base: {task: stack}\noverrides: [{where: {metod: bptt}, set: {seed: 1}}]", "'metod' is unknown; .*'method'"),
        ("base: &a {task: *a}", r"line 1: \*a is within what it stands for"),
        ("base: {task: stack, method: bptt}\naxes: {case: [3]}", "axis case: 3 given; should be a mapping"),
    ],
)
def test_a_bad_grid_gets_one_helpful_line(tmp_path, text, message):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        load_grid(str(file))
    assert "\n" not in str(caught.value)


def test_a_grid_that_is_not_there_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(BadInput, match="'quik' is unknown; .*did you mean 'quick'"):
        load_grid("quik")
    with pytest.raises(BadInput, match="No such file"):
        load_grid(str(tmp_path / "absent.yaml"))


def test_a_set_that_leaves_no_cells_says_so():
    with pytest.raises(BadInput, match="has no cells"):
        grid(["seed=[]"], base={"task": "stack", "method": "bptt"})


@pytest.mark.parametrize("text", ["seed", "sed=1", "=1", "seed=[1"])
def test_a_bad_set_gets_one_line(text):
    with pytest.raises(BadInput, match="--set"):
        grid([text], base={"task": "stack", "method": "bptt"})


# Measures, and grids that gather others.


def test_a_grid_says_what_to_measure():
    axes = {"task": ["stack"], "method": ["bptt"]}
    assert grid(axes=axes).measures == ()
    assert grid(axes=axes, measure=["cost", "samples"]).measures == ("cost", "samples")
    with pytest.raises(BadInput, match="measure: 'dynamic' is unknown.*did you mean 'dynamics'"):
        grid(axes=axes, measure=["dynamic"])


def test_a_collection_runs_its_grids_in_folders_below_its_own(tmp_path):
    (tmp_path / "both.yaml").write_text("about: two\ngrids: [ci, quick]\ncost: [complexity]\n")
    both = load_collection(str(tmp_path / "both.yaml"), ["seed=4"])
    assert [one.name for one in both.grids] == ["ci", "quick"] and [one.name for one in both.cost] == ["complexity"]
    assert {run.seed for one in both.grids for run in one.runs} == {4}
    assert both.folder(tmp_path, both.grids[0]) == tmp_path / "both" / "ci"
    alone = load_collection("ci")
    assert alone.single and alone.folder(tmp_path, alone.grids[0]) == tmp_path / "ci"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grids: [quik]", "did you mean 'quick'"),
        ("grids: [ci]\naxes: {seed: [1]}", "axes: cannot stand beside grids"),
        ("grids: []", "names none"),
    ],
)
def test_a_bad_collection_is_told_in_one_line(tmp_path, text, expected):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(BadInput, match=expected):
        load_collection(str(tmp_path / "c.yaml"))


def test_a_collection_is_not_a_grid():
    with pytest.raises(BadInput, match="gathers other grids: synthetic-small"):
        load_grid("all-small")


@pytest.mark.parametrize("name", ["synthetic", "length", "scaling", "ablation", "dynamics"])
def test_every_grid_of_the_report_has_a_small_form_with_three_seeds(name):
    large, small = load_grid(name), load_grid(f"{name}-small")
    assert len({run.seed for run in small.runs}) == 3
    assert "cost" in small.measures and set(small.measures) <= set(large.measures)
    assert {run.method for run in small.runs} <= {run.method for run in large.runs}
    assert max(run.model.d for run in large.runs) >= 256 > max(run.model.d for run in small.runs)


def test_a_method_is_refused_a_recurrence_that_it_does_not_train(monkeypatch):
    monkeypatch.setattr(registry.methods.get("bptt"), "recurrences", ("elementwise", "linear"))
    assert impossible(tiny_run("bptt", model={"backbone": "lru"})) is None
    told = "bptt trains elementwise and linear recurrences only; that of gru is dense"
    assert impossible(tiny_run("bptt", model={"backbone": "gru"})) == told
