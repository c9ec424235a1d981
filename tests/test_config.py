"""A run's identity is made of everything that changes its outcome, and of nothing else."""

from __future__ import annotations

import dataclasses
import enum
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from bench.config import Budget, ModelConfig, Run
from bench.errors import BadInput
from bench.methods import MethodConfig, register_method
from bench.methods.bptt import BPTT
from tests.helpers import tiny_run


class Mood(enum.Enum):
    CALM = "calm"
    WILD = "wild"


class OddConfig(MethodConfig):
    """Fields of the types that a plugin may have."""

    tags: frozenset[str] = frozenset({"x"})
    groups: tuple[set[int], ...] = ()
    table: dict[str, set[str]] = {}
    mood: Mood = Mood.CALM
    path: Path | None = None
    share: float = 1
    anything: Any = None
    secret: SecretStr | None = None


class AliasConfig(OddConfig):
    renamed: int = Field(0, alias="other_name")


class BytesConfig(OddConfig):
    raw: bytes = b"\xff"


@pytest.fixture
def odd(clean):
    """Runs of methods with fields of all sorts."""
    for name, config in (("odd", OddConfig), ("alias", AliasConfig), ("bytes", BytesConfig)):
        register_method(name)(type(name, (BPTT,), {"Config": config, "__module__": __name__}))
    return lambda name="odd", **fields: tiny_run({"name": name, **fields})


def test_identity_does_not_depend_on_the_order_of_keys_or_on_spelling_out_defaults():
    data = tiny_run().describe()
    turned = {key: data[key] for key in reversed(data)}
    assert Run.parse(turned).identity == tiny_run().identity
    assert Run.parse(tiny_run().full()).identity == tiny_run().identity
    assert Run.parse(tiny_run().describe()) == tiny_run()
    assert hash(Run.parse(turned)) == hash(tiny_run())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"device": "cuda"},
        {"precision": "float64"},
        {"threads": 2},
        {"task": {"name": "retrieval", "symbols": 9}},
        {"method": "smt"},
        {"model": {"d": 16}},
        {"training": {"batch_size": 8, "budget": {"tokens": 12}}},
        {"evaluation": {"sequences": 64}},
        {"init_from": {"run": "other", "phase": "smt"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_identity_changes_with_everything_that_changes_the_outcome(change):
    fields = {**tiny_run().full(), **change}
    fields = {k: ({"name": v} if k in ("task", "method") and isinstance(v, str) else v) for k, v in fields.items()}
    assert Run.parse(fields).identity != tiny_run().identity


def test_a_field_at_its_default_is_not_part_of_the_identity():
    assert "updater_layers" not in Run.parse({**tiny_run().describe(), "model": {}}).describe()["model"]
    assert tiny_run().init_from is None and not tiny_run().describe().get("init_from")


def test_the_backbone_is_no_part_of_a_method_that_uses_none():
    runs = [tiny_run("transformer", model={"backbone": name}) for name in ("transformer", "mlp", "gru")]
    assert len({run.identity for run in runs}) == 1
    runs = [tiny_run("bptt", model={"backbone": name}) for name in ("transformer", "mlp", "gru")]
    assert len({run.identity for run in runs}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"memory_token": 4}}, "model.memory_token: unknown key; allowed: .*; did you mean 'memory_tokens'?"),
        ({"model": {"d": "wide"}}, "model.d: 'wide' given; should be a valid integer"),
        ({"model": {"d": True}}, "model.d: True given; should be a valid integer"),
        ({"model": {"d": -4}}, "model.d: -4 given; should be greater than 0"),
        ({"model": {"d": 10, "heads": 4}}, r"d \(10\) is not a multiple of heads \(4\)"),
        ({"model": {"backbone": "grru"}}, "'grru' is unknown; .* did you mean 'gru'"),
        ({"task": {"name": "retrieval", "symbosl": 4}}, r"task\(retrieval\).symbosl: unknown key; .*'symbols'"),
        ({"task": {"name": "retrievl"}}, "task: 'retrievl' is unknown; allowed: .*did you mean 'retrieval'"),
        ({"method": {"name": "smt+dmt", "dmt": {"evry": 4}}}, r"method\(smt\+dmt\).dmt.evry: unknown key; .*'every'"),
        ({"task": {}}, "task.name: None given; should be a task's name"),
        ({"training": {"budget": {"steps": -5}}}, "training.budget.steps: -5 given; should be greater than 0"),
        ({"training": {"budget": {"steps": 5, "tokens": 5}}}, "give exactly one of steps, tokens, seconds"),
        ({"training": {"budget": {}}}, "given: none"),
        ({"training": {}}, "training.budget: is required"),
        (
            {"training": {"budget": {"steps": 5}, "optimiser": {"schedule": "linear"}}},
            "'constant', 'cosine', 'inverse' or 'inverse_sqrt'",
        ),
        ({"precision": "fp8"}, "precision: 'fp8' given; should be 'float32', 'bfloat16' or 'float64'"),
        ({"evaluation": {"score_from": 12}}, "evaluation.score_from: 12 given; should be below the task's length, 12"),
        (
            {"evaluation": {"lengths": [3], "score_from": 4}},
            "evaluation.lengths: 3 given; should be above score_from, 4",
        ),
        ({"method": {"name": "smt+dmt", "dmt": {"share": 1.0}}}, "dmt.share: 1.0 given; should be less than 1"),
        ({"sede": 1}, "sede: unknown key; .*did you mean 'seed'"),
    ],
)
def test_bad_fields_get_one_line_with_what_was_given_and_what_is_allowed(change, message):
    with pytest.raises(BadInput, match=message) as caught:
        Run.parse({**tiny_run().describe(), **change})
    assert "\n" not in str(caught.value)


def test_a_budget_knows_its_currency():
    assert (Budget(tokens=7).currency, Budget(tokens=7).amount) == ("tokens", 7)
    assert Budget(seconds=1.5).amount == 1.5


def test_model_defaults_are_the_papers_sizes():
    sizes = ModelConfig.parse({"head_width": 64}, "")
    assert (sizes.d, sizes.memory_tokens, sizes.encoder_layers, sizes.decoder_layers) == (256, 16, 8, 4)
    assert (sizes.updater_layers, sizes.heads, sizes.attention_width) == (8, 8, 512)


def test_a_run_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_run().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tags": ["a", "b", "c"]}, {"tags": ["c", "a", "b", "a"]}),
        ({"groups": [[1, 2], [3]]}, {"groups": [[2, 1], [3]]}),
        ({"table": {"a": ["p", "q"], "b": []}}, {"table": {"b": [], "a": ["q", "p"]}}),
        ({"share": 2}, {"share": 2.0}),
        ({"share": 0}, {"share": -0.0}),
        ({"anything": {"a": [1, -0.0]}}, {"anything": {"a": [1, 0.0]}}),
        ({"mood": "calm", "path": None, "share": 1.0}, {}),
    ],
    ids=str,
)
def test_equal_fields_of_any_type_have_one_identity(odd, one, other):
    assert odd(**one) == odd(**other) and hash(odd(**one)) == hash(odd(**other))
    assert odd(**one).identity == odd(**other).identity
    for run in (odd(**one), odd(**other)):
        assert Run.parse(run.describe()).describe() == Run.parse(run.full()).describe() == run.describe()


def spelled_out() -> str:
    config = OddConfig.parse({"tags": list("abcdefgh"), "table": {"t": list("stuvwxyz")}}, "")
    return f"{config.changes()} {config._spelled_out()}"


def test_an_identity_does_not_depend_on_the_hash_seed():
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another than here
    done = subprocess.run(
        [sys.executable, "-c", "from tests.test_config import spelled_out; print(spelled_out())"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == spelled_out() + "\n"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"secret": "key"}, r"method\(odd\).secret: .* once written as JSON and read back"),
        ({"anything": float("nan")}, r"method\(odd\).anything: nan is None once written as JSON and read back"),
        ({"name": "alias", "other_name": 3}, r"method\(alias\): cannot be .* read back: .*renamed: unknown key"),
        ({"name": "bytes"}, r"method\(bytes\): cannot be written as JSON and read back: .*utf-8"),
    ],
    ids=str,
)
def test_a_field_that_a_run_cannot_keep_is_refused_in_one_line(odd, fields, message):
    with pytest.raises(BadInput, match=message) as caught:
        odd(**fields)
    assert "\n" not in str(caught.value)
