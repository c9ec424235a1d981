"""What a token costs when streaming: flat for an RNN, growing with the past for a Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from bench.build import build_method, build_task
from bench.errors import BadInput
from bench.measure.inference import state_bytes, stream_costs
from tests.helpers import TINY, tiny_run

POSITIONS = (0, 3, 7, 15)


@dataclass
class Cell:
    hidden: Any
    memory: Any


def streamed(method, positions=POSITIONS, **fields):
    run = tiny_run(method, **fields)
    task = build_task(run)
    built = build_method(run, task)
    x = torch.randint(task.vocab_size, (1, max(positions) + 1), generator=torch.Generator().manual_seed(0))
    return stream_costs(built, x, positions), built, task


def test_an_rnn_carries_the_same_bytes_and_does_the_same_work_at_every_token():
    for method in ("bptt", "smt"):
        tokens, _, _ = streamed(method)
        assert [token.position for token in tokens] == list(POSITIONS)
        assert {token.state_bytes for token in tokens} == {TINY["memory_tokens"] * TINY["d"] * 4}
        assert len({(token.flops, token.elementwise) for token in tokens}) == 1
        assert all(token.seconds > 0 for token in tokens)


def test_a_transformers_cache_and_work_grow_with_the_past():
    tokens, built, _ = streamed("transformer")
    layers = len(built.network.body.blocks)
    for token in tokens:
        keys_and_values = 2 * layers * TINY["d"] * (token.position + 1) * 4
        assert token.state_bytes == keys_and_values
    first = tokens[0]
    for token in tokens:  # two products with each key and value of the past, in every layer
        assert token.flops - first.flops == 2 * 2 * layers * TINY["d"] * token.position


def test_flops_of_a_token_are_those_of_its_matrix_products_counted_by_hand():
    (token,), built, task = streamed("transformer", (0,))
    d, feedforward = TINY["d"], 4
    block = 2 * d * (3 * d + d + 2 * feedforward * d)
    attention = 2 * 2 * d
    layers = len(built.network.body.blocks)
    assert token.flops == layers * (block + attention) + 2 * d * task.output_size


def test_a_state_that_is_a_tree_is_weighed_whole():
    state = {"a": torch.zeros(3, 2), "b": (torch.zeros(5, dtype=torch.int64), [None, torch.zeros(())])}
    assert state_bytes(state) == 6 * 4 + 5 * 8 + 4
    assert state_bytes(Cell(torch.zeros(3), [torch.zeros(2)])) == 5 * 4
    assert state_bytes(torch.zeros(2, 1).expand(2, 10)) == 80


def test_a_window_of_inputs_is_part_of_the_state():
    fields = {"evaluation": {"sequences": 8, "reference_sequences": 8, "score_from": 3}}
    task = {"name": "digits", "length": 12}
    tokens, _, _ = streamed({"name": "smt", "start": "context", "context": 4}, (0, 1, 5), task=task, **fields)
    memory = TINY["memory_tokens"] * TINY["d"] * 4
    assert [token.state_bytes for token in tokens] == [memory + 8, memory + 16, memory]


def test_streaming_leaves_the_method_as_it_was():
    run = tiny_run("bptt")
    method = build_method(run, build_task(run)).train()
    stream_costs(method, torch.zeros(1, 4, dtype=torch.long), [3])
    assert method.training and all(parameter.grad is None for parameter in method.parameters())


def test_a_position_beyond_the_sequence_is_refused():
    with pytest.raises(BadInput, match="should be from 0 to 3"):
        run = tiny_run("bptt")
        stream_costs(build_method(run, build_task(run)), torch.zeros(1, 4, dtype=torch.long), [4])
