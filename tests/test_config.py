"""A run's identity is made of everything that changes its outcome, and of nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from bench.config import Budget, ModelConfig, Run
from bench.errors import BadInput
from tests.helpers import tiny_run


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
        ({"training": {"budget": {"steps": 5}, "optimiser": {"schedule": "linear"}}}, "'constant' or 'cosine'"),
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
