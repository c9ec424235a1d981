"""The rows for backbones. Each is examined at a tiny size, in float64 where numbers are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench import registry, streams
from bench.build import at_precision
from bench.config import ModelConfig
from bench.grid import parse_set
from bench.measure import trace
from bench.models.layers import rms_normalise
from bench.models.updaters import TransformerUpdater, Updater, count_parameters
from bench.testing import method
from bench.testing.probes import central_difference, global_state, same_global_state, slope_along, unit_directions
from bench.testing.suite import Broken, Suite

TINY = {"d": 8, "memory_tokens": 3, "heads": 2, "updater_layers": 2}
SIZES: tuple[dict[str, Any], ...] = (
    {"d": 12, "heads": 3, "memory_tokens": 1, "updater_layers": 1},
    {"d": 16, "heads": 1, "memory_tokens": 5, "updater_layers": 1},
    {"d": 8, "heads": 4, "memory_tokens": 4, "updater_layers": 3},
    {"d": 8, "heads": 2, "head_width": 8, "memory_tokens": 2, "updater_layers": 1},
)
ROWS = 3
LARGE = 1e4
STEPS = 200
TIMES = 4.0
"""As many parameters as the transformer updater has, or as few, may a backbone have."""


class Subject:
    """A backbone by its name, at a tiny size changed by `model.FIELD=VALUE` overrides."""

    def __init__(self, name: str, sets: Sequence[str]) -> None:
        self.cls: type[Updater] = registry.backbones.get(name)
        self.name = name
        self.sets = sets
        pairs = [parse_set(text) for text in sets]
        self.fields = {key.removeprefix("model."): value for key, value in pairs if key.startswith("model.")}

    def config(self, **fields: Any) -> ModelConfig:
        """The tiny size, or another."""
        return ModelConfig.parse({**TINY, **fields, **self.fields, "backbone": self.name}, "model")

    def build(self, dtype: torch.dtype = torch.float64, **fields: Any) -> Updater:
        """The updater with fixed weights."""
        with streams.global_stream(0, "check", "init"):
            return at_precision(self.cls(self.config(**fields)), dtype)

    def trainee(self) -> method.Subject:
        """bptt with this backbone."""
        return method.Subject("bptt", [*self.sets, f"model.backbone={self.name}"])


suite = Suite("backbone", Subject)


# What the rows share.


def _inputs(
    updater: Updater, rows: int = ROWS, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A normalised memory and a token, as the RNN gives them."""
    config, generator = updater.config, streams.generator(seed, "check", "inputs")
    memory = torch.randn(rows, config.memory_tokens, config.d, generator=generator, dtype=torch.float64)
    token = torch.randn(rows, config.d, generator=generator, dtype=torch.float64)
    return rms_normalise(memory).to(dtype), token.to(dtype)


def _unrolled(updater: Updater, memory: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """The memories after each token, normalised as the RNN does: (steps, B, K, d)."""
    memories = []
    for token in tokens:
        memory = rms_normalise(updater(memory, token))
        memories.append(memory)
    return torch.stack(memories)


def _three_steps(updater: Updater) -> tuple[Callable[[], Tensor], dict[str, nn.Parameter]]:
    """A loss on the memories of three steps, and all that it should depend on: parameters, memory and tokens."""
    memory, _ = _inputs(updater)
    tokens = torch.stack([_inputs(updater, seed=seed)[1] for seed in range(3)])
    generator = streams.generator(0, "check", "loss")
    aim = torch.randn((3, *memory.shape), generator=generator, dtype=torch.float64)
    given = {"the memory": nn.Parameter(memory), "the tokens": nn.Parameter(tokens)}

    def loss() -> Tensor:
        return (_unrolled(updater, given["the memory"], given["the tokens"].unbind()) * aim).sum()

    return loss, {**dict(updater.named_parameters()), **given}


def _gradients(loss: Tensor, of: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(of.values()), allow_unused=True)
    return {
        name: torch.zeros_like(one) if gradient is None else gradient
        for (name, one), gradient in zip(of.items(), found, strict=True)
    }


# The rows.


@suite.row("shapes and dtypes", "map a memory (B, K, d) and a token (B, d) to a memory (B, K, d) of the same dtype")
def _shapes(subject: Subject) -> str:
    for dtype in (torch.float32, torch.float64):
        updater = subject.build(dtype)
        for rows in (1, ROWS):
            _fits(updater, rows, dtype)
    size = updater.config
    return f"(B, {size.memory_tokens}, {size.d}), in float32 and float64"


def _fits(updater: Updater, rows: int, dtype: torch.dtype) -> None:
    """Raises `Broken` unless the output has the form of the memory."""
    memory, token = _inputs(updater, rows, dtype)
    out = updater(memory, token)
    if out.shape != memory.shape or out.dtype != dtype:
        wanted = f"{dtype} {tuple(memory.shape)}"
        raise Broken(f"gives {out.dtype} {tuple(out.shape)} for a memory of {wanted}; should be the same")


@suite.row("other sizes", "take d, memory_tokens, heads and updater_layers from the config")
def _sizes(subject: Subject) -> str:
    for size in SIZES:
        try:
            _fits(subject.build(**size), ROWS, torch.float64)
        except Broken as error:
            raise Broken(f"at {size} it {error}") from None
        except Exception as error:
            raise Broken(f"at {size}: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from None
    return f"{len(SIZES)} others, from {SIZES[0]['memory_tokens']} memory token to {SIZES[1]['memory_tokens']}"


@suite.row("finite", "keep numbers finite for large and for zero inputs, by normalising or squashing them")
def _finite(subject: Subject) -> str:
    updater = subject.build(torch.float32)
    largest = 0.0
    for factor in (0.0, 1.0, LARGE):
        memory, token = (one.mul(factor).requires_grad_() for one in _inputs(updater, dtype=torch.float32))
        out = updater(memory, token)
        gradients = _gradients(out.sum(), {**dict(updater.named_parameters()), "memory": memory, "token": token})  # type: ignore[dict-item]
        bad = [name for name, one in {"the output": out, **gradients}.items() if not one.isfinite().all()]
        if bad:
            raise Broken(f"inputs times {factor:g}: {', '.join(bad[:3])} not finite")
        largest = max(largest, out.abs().max().item())
    return f"inputs up to {LARGE:g} times as large give at most {largest:.2g}"


@suite.row("rows are independent", "let no row of the batch depend on another")
def _independent(subject: Subject) -> str:
    updater = subject.build()
    memory, token = _inputs(updater)
    together = updater(memory, token)
    alone = torch.cat([updater(memory[i, None], token[i, None]) for i in range(ROWS)])
    furthest = (together - alone).abs().max().item()
    if not furthest <= 1e-9 * max(1.0, alone.abs().max().item()):
        raise Broken(f"a batch of {ROWS} and {ROWS} batches of one differ by up to {furthest:.2g}")
    return f"largest difference from batches of one {furthest:.1g}"


@suite.row("deterministic", "draw nothing in `forward`, and keep nothing from one call to the next")
def _deterministic(subject: Subject) -> str:
    updater = subject.build()
    memory, token = _inputs(updater)
    before = global_state()
    first = updater(memory, token)
    updater(*_inputs(updater, 7, seed=1))
    again = updater(memory, token)
    if moved := same_global_state(before, global_state()):
        raise Broken(f"`forward` moves {moved} global generator")
    if not torch.equal(first, again):
        raise Broken(f"two calls with the same inputs differ by up to {(first - again).abs().max():.2g}")
    return "equal inputs give equal outputs, and no global generator is moved"


@suite.row("gradients reach everything", "let the output depend on the memory, the token and every parameter")
def _reach(subject: Subject) -> str:
    updater = subject.build()
    loss, of = _three_steps(updater)
    found = _gradients(loss(), of)
    bad = [name for name, one in found.items() if not one.isfinite().all()]
    if bad:
        raise Broken(f"after three steps the gradient of {', '.join(bad[:3])} is not finite")
    still = [name for name, one in found.items() if not one.any()]
    if still:
        raise Broken(f"after three steps no gradient reaches {', '.join(still[:3])} ({len(still)} in all)")
    return f"finite and not zero in {len(found) - 2} parameters, the memory and the tokens"


@suite.row("gradients are exact", "compute with differentiable operators, and detach nothing in `forward`")
def _exact(subject: Subject) -> str:
    updater = subject.build()
    loss, of = _three_steps(updater)
    found, directions = _gradients(loss(), of), unit_directions(of)
    scale, worst = max(one.norm().item() for one in found.values()), 0.0
    for name, parameter in of.items():
        with torch.no_grad():
            slope = central_difference(parameter, directions[name], lambda: loss().item())
        given = slope_along(found[name], directions[name])
        off = abs(given - slope) / max(abs(slope), 1e-3 * scale, 1e-6)
        if not off <= 1e-4:
            raise Broken(f"along a direction of {name} the gradient says {given:.6g}, differences {slope:.6g}")
        worst = max(worst, off)
    return f"within {worst:.1g} of central differences, along a direction of each of {len(of)} tensors"


@suite.row("memory stays bounded", "return a memory of the same size whose scale can be normalised")
def _bounded(subject: Subject) -> str:
    updater = subject.build(torch.float32)
    memory = torch.zeros_like(_inputs(updater)[0], dtype=torch.float32)
    shape, largest = memory.shape, 0.0
    with torch.no_grad():
        for t in range(1, STEPS + 1):
            raw = updater(memory, _inputs(updater, dtype=torch.float32, seed=t)[1])
            memory = rms_normalise(raw)
            if memory.shape != shape:
                raise Broken(f"after {t} steps the memory is {tuple(memory.shape)}; it began as {tuple(shape)}")
            sizes = memory.square().mean(-1).sqrt()
            if not memory.isfinite().all() or sizes.max() > 1.01 or sizes.max() < 0.5:
                found = f"{sizes.max():.3g}, before normalisation {raw.abs().max():.3g}"
                raise Broken(f"after {t} steps the largest root mean square of a memory token is {found}; should be 1")
            largest = max(largest, raw.abs().max().item())
    return f"{memory[0].numel() * 4} bytes over {STEPS} steps; at most {largest:.2g} before normalisation"


@suite.row(
    "as large as the others", "size the updater by bench.models.updaters.matched_width, or by model.updater_width"
)
def _parameters(subject: Subject) -> str:
    told = []
    for name, config in (("tiny", subject.config()), ("the paper's", ModelConfig(backbone=subject.name))):
        with torch.device("meta"):
            count, target = count_parameters(subject.cls(config)), count_parameters(TransformerUpdater(config))
        ratio = count / target
        told.append(f"{name} size: {count:,} parameters, {ratio:.2f} times the transformer updater's")
        if not 1 / TIMES <= ratio <= TIMES:
            raise Broken(f"{told[-1]}; should be within a factor of {TIMES:g}")
    return "; ".join(told)


@suite.row("learns an easy task", "see that the memory can hold what the token says, and that gradients point right")
def _learns(subject: Subject) -> str:
    return method.learns(subject.trainee())


@suite.row("cost can be traced", "compute with torch operators, which can be counted")
def _traced(subject: Subject) -> str:
    updater = subject.build(torch.float32)
    memory, token = _inputs(updater, dtype=torch.float32)
    traced = trace.Trace()
    with traced:
        updater(memory, token)
    cost = traced.cost()
    if cost.whole.flops + cost.whole.elementwise == 0:
        raise Broken("no operator of `forward` was seen: 0 FLOPs, 0 elementwise operations")
    missed = f", not counted: {', '.join(sorted(cost.uncounted))}" if cost.uncounted else ""
    return f"{cost.whole.flops:,} FLOPs a step{missed}; bptt with it: {method.traced(subject.trainee())}"
