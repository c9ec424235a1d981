"""What every synthetic task's labels must be, worked out from the inputs alone, in plain Python lists.

Each oracle takes a task's config (without corruption) and one sequence x, asserts that x is well formed, and returns y.
They share no code with the tasks, and prefer the obvious to the fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.tasks.keys_values import KeysValuesConfig
from bench.tasks.modular_arithmetic import ModularArithmeticConfig
from bench.tasks.parity import ParityConfig
from bench.tasks.recency import RecencyConfig
from bench.tasks.retrieval import RetrievalConfig
from bench.tasks.stack import StackConfig
from bench.tasks.string_copy import StringCopyConfig

NOT_SCORED = -1


def retrieval(config: RetrievalConfig, x: list[int]) -> list[int]:
    assert x.count(0) == 2 and x[-1] == 0, "the id symbol stands twice, once at the end"
    assert max(x) <= config.symbols
    needle = x[x.index(0) + 1]
    assert needle != 0
    return [NOT_SCORED] * (len(x) - 1) + [needle]


def string_copy(config: StringCopyConfig, x: list[int]) -> list[int]:
    assert x.count(0) == 1
    string, forced = x[: x.index(0)], x[x.index(0) + 1 :]
    assert len(x) == 2 * len(string) and max(string) <= config.symbols
    answer = list(reversed(string)) if config.reverse else string
    assert forced == answer[:-1], "the answer is teacher-forced"
    return [NOT_SCORED] * len(string) + answer


def stack(config: StackConfig, x: list[int]) -> list[int]:
    held: list[int] = []
    y = []
    for symbol in x:
        assert 0 <= symbol <= config.symbols
        if symbol:
            held.append(symbol)
            assert len(held) <= config.depth, "never past the depth"
            y.append(NOT_SCORED)
        else:
            assert held, "never from an empty stack"
            y.append(held.pop())
    return y


def keys_values(config: KeysValuesConfig, x: list[int]) -> list[int]:
    span = config.span
    pairs, rest = divmod(len(x) + 1 - 2 * span, 2 * span)
    assert rest == 0 and pairs >= 1
    assert config.pairs in (None, pairs)
    values: dict[tuple[int, ...], list[int]] = {}
    for i in range(0, 2 * span * pairs, 2 * span):
        key, value = tuple(x[i : i + span]), x[i + span : i + 2 * span]
        assert all(0 <= symbol < config.key_symbols for symbol in key)
        assert all(0 <= symbol - config.key_symbols < config.value_symbols for symbol in value)
        assert key not in values, "keys are distinct"
        values[key] = value
    query = 2 * span * pairs
    value = values[tuple(x[query : query + span])]
    assert x[query + span :] == value[:-1], "the value is teacher-forced"
    return [NOT_SCORED] * (len(x) - span) + value


def modular_arithmetic(config: ModularArithmeticConfig, x: list[int]) -> list[int]:
    modulus = config.modulus
    ws, bs = (range(r[0], r[1] + 1) if r else range(modulus) for r in (config.w, config.b))
    assert len(x) % 2 == 0 and all(0 <= symbol < modulus for symbol in x)
    examples = list(zip(x[::2], x[1::2], strict=True))
    assert any(all((w * i + b) % modulus == o for i, o in examples) for w in ws for b in bs), (
        "one rule holds throughout"
    )
    return [label for _, output in examples for label in (output, NOT_SCORED)]


def parity(config: ParityConfig, x: list[int]) -> list[int]:
    assert set(x) <= {0, 1}
    y = [sum(x[: t + 1]) % 2 for t in range(len(x))]
    return y if config.every_step else [NOT_SCORED] * (len(x) - 1) + y[-1:]


def recency(config: RecencyConfig, x: list[int]) -> dict[int, float]:
    """Here the label is random: the distribution of the last one, given x."""
    assert all(0 <= symbol < config.symbols for symbol in x)
    ordered = x if config.primacy else x[::-1]
    weights = [config.decay**k for k in range(len(x))]
    chances = dict.fromkeys(range(config.symbols), 0.0)
    for symbol, weight in zip(ordered, weights, strict=True):
        chances[symbol] += weight / sum(weights)
    return chances


ORACLES: dict[str, Callable[[Any, list[int]], list[int]]] = {
    "retrieval": retrieval,
    "string-copy": string_copy,
    "stack": stack,
    "keys-values": keys_values,
    "modular-arithmetic": modular_arithmetic,
    "parity": parity,
}
