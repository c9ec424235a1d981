"""The rows for backbones, each examined at a tiny size, in float64 where numbers are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench import registry, streams
from bench.build import at_precision
from bench.config import ModelConfig
from bench.grid.nested import parse_set
from bench.measure import trace
from bench.measure.inference import state_bytes
from bench.models.backbone import Backbone, State, leaves, map_tree
from bench.models.jacobian import Transition, flat, unflat
from bench.models.rnn import RNN
from bench.models.sizes import SizesOnly, count_parameters
from bench.models.transformer_updater import TransformerUpdater
from bench.testing import local, method
from bench.testing.probes import central_difference, global_state, same_global_state, slope_along, unit_directions
from bench.testing.suite import Broken, NotApplicable, Suite

TINY = {"d": 8, "memory_tokens": 3, "heads": 2, "updater_layers": 2}
SIZES: tuple[dict[str, Any], ...] = (
    {"d": 12, "heads": 3, "memory_tokens": 1, "updater_layers": 1},
    {"d": 16, "heads": 1, "memory_tokens": 5, "updater_layers": 1},
    {"d": 8, "heads": 4, "memory_tokens": 4, "updater_layers": 3},
    {"d": 8, "heads": 2, "head_width": 8, "memory_tokens": 2, "updater_layers": 1},
)
LANES = 3
LARGE = 1e4
STEPS = 200
TIMES = 4.0
"""The largest factor between the parameters of a backbone and those of the transformer updater."""


class Subject:
    """A backbone by its name, at a tiny size but for `model.FIELD=VALUE` overrides."""

    def __init__(self, name: str, sets: Sequence[str]) -> None:
        self.cls: type[Backbone] = registry.backbones.get(name)
        self.name = name
        self.sets = sets
        pairs = [parse_set(text) for text in sets]
        self.fields = {key.removeprefix("model."): value for key, value in pairs if key.startswith("model.")}

    def config(self, **fields: Any) -> ModelConfig:
        """The config of the tiny size, but for the given fields."""
        return ModelConfig.parse({**TINY, **fields, **self.fields, "backbone": self.name}, "model")

    def build(self, dtype: torch.dtype = torch.float64, **fields: Any) -> Backbone:
        """The backbone with fixed weights."""
        with streams.global_stream(0, "check", "init"):
            return at_precision(self.cls(self.config(**fields)), dtype)

    def trainee(self) -> method.Subject:
        """The method bptt with this backbone."""
        return method.Subject("bptt", [*self.sets, f"model.backbone={self.name}"])


suite = Suite("backbone", Subject)


# Shared by the rows.


def _randoms(shape: Sequence[int], *names: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=streams.generator(0, "check", *names), dtype=torch.float64).to(dtype)


def _inputs(backbone: Backbone, length: int, lanes: int = LANES, dtype: torch.dtype = torch.float64) -> Tensor:
    """Embedded inputs (B, T, d), as the RNN gives them."""
    return _randoms((lanes, length, backbone.config.d), "inputs", dtype=dtype)


def _somewhere(backbone: Backbone, lanes: int = LANES, dtype: torch.dtype = torch.float64) -> State:
    """A state that the backbone can reach: that after three inputs."""
    state = backbone.initial(lanes)
    for u in _randoms((lanes, 3, backbone.config.d), "before", dtype=dtype).unbind(1):
        state = backbone.step(state, u)
    return map_tree(torch.Tensor.detach, state)


def _real(tree: State) -> Tensor:
    return flat(tree).double()


def _three_steps(backbone: Backbone) -> tuple[Callable[[], Tensor], dict[str, nn.Parameter]]:
    """A loss on the features of three steps, and all that it should depend on: parameters, state and inputs."""
    state, u = _somewhere(backbone), _inputs(backbone, 3)
    aim = _randoms((LANES, 3, backbone.width), "loss")
    vector = nn.Parameter(flat(state))
    given = {"the state": vector, "the inputs": nn.Parameter(u)}

    def loss() -> Tensor:
        features, _ = backbone.scan(unflat(vector, state), given["the inputs"])
        return (features * aim).sum()

    return loss, {**dict(backbone.named_parameters()), **given}


def _gradients(loss: Tensor, of: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(of.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(of.items(), found, strict=True)
    }


def _furthest(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The largest difference between tensors that should be equal, relative to their largest value above 1."""
    return max((x - y).abs().max().item() / max(1.0, y.abs().max().item()) for x, y in zip(a, b, strict=True))


# The rows.


@suite.row("shapes and dtypes", "return states of one form, lanes first, and features (B, width) of the input's dtype")
def _shapes(subject: Subject) -> str:
    for dtype in (torch.float32, torch.float64):
        backbone = subject.build(dtype)
        for lanes in (1, LANES):
            _fits(backbone, lanes, dtype)
    return f"state {_form(backbone.initial(1))}, features (B, {backbone.width}), in float32 and float64"


def _form(state: State) -> str:
    return " and ".join(f"(B, {', '.join(map(str, leaf.shape[1:]))})" for leaf in leaves(state))


def _fits(backbone: Backbone, lanes: int, dtype: torch.dtype) -> None:
    """Raise `Broken` unless a step keeps the form of the state, and features have the right shape."""
    before, u = backbone.initial(lanes), _inputs(backbone, 1, lanes, dtype)[:, 0]
    after = backbone.step(before, u)
    forms = [[(leaf.shape, leaf.dtype) for leaf in leaves(state)] for state in (before, after)]
    if forms[0] != forms[1] or any(len(leaf) != lanes for leaf in leaves(before)):
        raise Broken(f"a step maps {_form(before)} to {_form(after)}, {lanes} lanes; should keep form and dtype")
    features = backbone.features(after, u)
    if features.shape != (lanes, backbone.width) or features.dtype != dtype:
        wanted = f"{dtype} {(lanes, backbone.width)}"
        raise Broken(f"`features` gives {features.dtype} {tuple(features.shape)}; should be {wanted}")
    grid = backbone.memory(backbone.config)
    if grid and (isinstance(before, tuple) or before.shape[1:] != grid):
        raise Broken(f"`memory` says {grid}, but the state is {_form(before)}")


@suite.row("other sizes", "take d and the other sizes from the config")
def _sizes(subject: Subject) -> str:
    for size in SIZES:
        try:
            _fits(subject.build(**size), LANES, torch.float64)
        except Broken as error:
            raise Broken(f"at {size} it {error}") from None
        except Exception as error:
            raise Broken(f"at {size}: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from None
    return f"{len(SIZES)} others, d from {min(size['d'] for size in SIZES)} to {max(size['d'] for size in SIZES)}"


@suite.row("finite", "keep numbers finite for large and for zero inputs, by normalising or squashing them")
def _finite(subject: Subject) -> str:
    backbone = subject.build(torch.float32)
    largest = 0.0
    for factor in (0.0, 1.0, LARGE):
        u = _inputs(backbone, 3, dtype=torch.float32).mul(factor).requires_grad_()
        features, _ = backbone.scan(backbone.initial(LANES), u)
        gradients = _gradients(features.sum(), {**dict(backbone.named_parameters()), "the inputs": u})  # type: ignore[dict-item]
        bad = [name for name, value in {"the features": features, **gradients}.items() if not value.isfinite().all()]
        if bad:
            raise Broken(f"inputs times {factor:g}: {', '.join(bad[:3])} not finite")
        largest = max(largest, features.abs().max().item())
    return f"inputs up to {LARGE:g} times as large give at most {largest:.2g}"


@suite.row("lanes are independent", "let no lane of the batch depend on another")
def _independent(subject: Subject) -> str:
    backbone = subject.build()
    state, u = _somewhere(backbone), _inputs(backbone, 3)
    together, _ = backbone.scan(state, u)
    alone = [backbone.scan(map_tree(lambda leaf, i=i: leaf[i, None], state), u[i, None])[0] for i in range(LANES)]
    furthest = _furthest([together], [torch.cat(alone)])
    if not furthest <= 1e-9:
        raise Broken(f"a batch of {LANES} and {LANES} batches of one differ by up to {furthest:.2g}")
    return f"largest difference from batches of one {furthest:.1g}"


@suite.row("deterministic", "draw nothing in a step, and keep nothing from one call to the next")
def _deterministic(subject: Subject) -> str:
    backbone = subject.build()
    state, u = _somewhere(backbone), _inputs(backbone, 1)[:, 0]
    before = global_state()
    first = backbone.step(state, u)
    backbone.step(backbone.initial(7), _inputs(backbone, 1, 7)[:, 0])
    again = backbone.step(state, u)
    if moved := same_global_state(before, global_state()):
        raise Broken(f"`step` moves {moved} global generator")
    if not torch.equal(_real(first), _real(again)):
        raise Broken(f"two calls with the same inputs differ by up to {(_real(first) - _real(again)).abs().max():.2g}")
    return "equal inputs give equal outputs, and no global generator is moved"


@suite.row("a scan is the loop of steps", "make `scan` equal to the loop, for lanes that restart and any cut")
def _scan(subject: Subject) -> str:
    backbone = subject.build()
    state, u = _somewhere(backbone), _inputs(backbone, 11)
    starts = torch.rand(LANES, 11, generator=streams.generator(0, "check", "starts")) < 0.3
    worst = 0.0
    for start in (None, starts):
        features, last = Backbone.scan(backbone, state, u, start)
        found, end = backbone.scan(state, u, start)
        pieces, now = [], state
        for columns in (slice(0, 4), slice(4, 5), slice(5, 11)):
            piece, now = backbone.scan(now, u[:, columns], None if start is None else start[:, columns])
            pieces.append(piece)
        off = max(
            _furthest([found, *leaves(end)], [features, *leaves(last)]),
            _furthest([torch.cat(pieces, 1), *leaves(now)], [features, *leaves(last)]),
        )
        if not off <= 1e-9:
            restarts = ", with lanes that restart" if start is not None else ""
            raise Broken(f"`scan`, whole or in pieces{restarts}, differs from the loop of steps by up to {off:.2g}")
        worst = max(worst, off)
    return f"whole and in pieces, largest difference {worst:.1g}"


@suite.row("gradients reach everything", "let the features depend on the state, the inputs and every parameter")
def _reach(subject: Subject) -> str:
    backbone = subject.build()
    loss, of = _three_steps(backbone)
    found = _gradients(loss(), of)
    bad = [name for name, gradient in found.items() if not gradient.isfinite().all()]
    if bad:
        raise Broken(f"after three steps the gradient of {', '.join(bad[:3])} is not finite")
    still = [name for name, gradient in found.items() if not gradient.any()]
    if still:
        raise Broken(f"after three steps no gradient reaches {', '.join(still[:3])} ({len(still)} in all)")
    return f"finite and not zero in {len(found) - 2} parameters, the state and the inputs"


@suite.row("gradients are exact", "compute with differentiable operators, and detach nothing")
def _exact(subject: Subject) -> str:
    backbone = subject.build()
    loss, of = _three_steps(backbone)
    found, directions = _gradients(loss(), of), unit_directions(of)
    scale, worst = max(gradient.norm().item() for gradient in found.values()), 0.0
    for name, parameter in of.items():
        with torch.no_grad():
            slope = central_difference(parameter, directions[name], lambda: loss().item())
        given = slope_along(found[name], directions[name])
        off = abs(given - slope) / max(abs(slope), 1e-3 * scale, 1e-6)
        if not off <= 1e-4:
            raise Broken(f"along a direction of {name} the gradient gives {given:.6g}, central differences {slope:.6g}")
        worst = max(worst, off)
    return f"within {worst:.1g} of central differences, along a direction of each of {len(of)} tensors"


@suite.row("Jacobian products", "use operators that torch.func can differentiate both ways, and no branch on data")
def _products(subject: Subject) -> str:
    with streams.global_stream(0, "check", "init"):
        rnn = at_precision(RNN(subject.config(), 5, 5), torch.float64)
    transition = Transition(rnn)
    x = torch.arange(LANES) % 5
    vectors = flat(_somewhere(rnn.updater))
    try:
        _, jacobian, by_parameter = transition.jacobians(vectors, x)
        tangent = _randoms(vectors.shape, "tangent")
        _, pushed = transition.push(vectors, x, tangent)
        _, pulled, into = transition.pull(vectors, x, tangent)
    except Exception as error:
        raise Broken(f"torch.func cannot differentiate a step: {str(error).partition(chr(10))[0]}") from None
    leaf = vectors.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((transition.step(leaf, x) * tangent).sum(), leaf)
    exact = [torch.einsum("bij,bj->bi", jacobian, tangent), wanted]
    exact += [torch.einsum("bn,bn...->b...", tangent.to(rows.dtype), rows) for rows in by_parameter.values()]
    furthest = _furthest([pushed, pulled, *into.values()], exact)
    if not furthest <= 1e-9:
        raise Broken(f"forward mode, reverse mode by lane and autograd differ by up to {furthest:.2g}")
    return f"N = {vectors.shape[1]}: forward mode, reverse mode by lane and autograd within {furthest:.1g}"


@suite.row("says its own step", "let `local` or `trace` agree with autograd through `step`, or define neither")
def _says(subject: Subject) -> str:
    spoken = [what for what in ("local", "trace") if subject.cls.says(what)]
    if not spoken:
        raise NotApplicable("neither `local` nor `trace` describes its step")
    backbone, worst = subject.build(), 0.0
    state = _somewhere(backbone)
    into, along = (_randoms(flat(state).shape, name) for name in ("cotangent", "tangent"))
    for what in spoken:
        if what == "local":
            compared = local.of_local(backbone, state, _inputs(backbone, 1)[:, 0], into, along)
        else:
            compared = local.of_traces(backbone, _inputs(backbone, 5), into)
        for part, said, found in compared:
            off = _furthest([said], [found])
            if not off <= 1e-9:
                raise Broken(f"`{what}`: {part} differs from autograd's by up to {off:.2g}")
            worst = max(worst, off)
    return f"{' and '.join(spoken)}, largest difference from autograd {worst:.1g}"


@suite.row("recurrence as declared", "set `recurrence` to what the step does: dense, elementwise or linear")
def _recurrence(subject: Subject) -> str:
    kind = subject.cls.recurrence
    if kind == "dense":
        raise NotApplicable("dense makes no promise")
    backbone = subject.build()
    u = _inputs(backbone, 1)[:, 0]

    def jacobian(state: State) -> Tensor:
        def step(vector: Tensor) -> Tensor:
            return flat(backbone.step(unflat(vector[None], state), u[:1]))[0]

        return torch.autograd.functional.jacobian(step, flat(map_tree(lambda leaf: leaf[:1], state))[0])

    state = _somewhere(backbone)
    first = jacobian(state)
    units = torch.arange(len(first)) // (2 if leaves(state)[0].is_complex() else 1)  # a complex unit is a pair
    across = first[units[:, None] != units].abs().max().item()
    if isinstance(state, tuple) or across > 1e-12:
        raise Broken(f"{kind} means that a unit depends on itself alone, but another one moves it by {across:.2g}")
    moved = (jacobian(map_tree(lambda leaf: 2 * leaf, state)) - first).abs().max().item()
    if kind == "linear" and moved > 1e-12:
        raise Broken(f"linear means a Jacobian independent of the state, but twice the state changes it by {moved:.2g}")
    return kind


@suite.row("state stays bounded", "carry a state of the same form, finite, whose memory tokens are normalised")
def _bounded(subject: Subject) -> str:
    backbone = subject.build(torch.float32)
    state = first = backbone.initial(LANES)
    with torch.no_grad():
        for t, u in enumerate(_inputs(backbone, STEPS, dtype=torch.float32).unbind(1), 1):
            state = backbone.step(state, u)
            if _form(state) != _form(first):
                raise Broken(f"after {t} steps the state is {_form(state)}; it began as {_form(first)}")
            if not all(leaf.isfinite().all() for leaf in leaves(state)):
                raise Broken(f"after {t} steps the state is not finite")
            if backbone.memory(backbone.config):
                sizes = state.square().mean(-1).sqrt()
                if sizes.max() > 1.01 or sizes.max() < 0.5:
                    found = f"{sizes.max():.3g}"
                    raise Broken(
                        f"after {t} steps the largest root mean square of a memory token is {found}; should be 1"
                    )
    most = max(leaf.abs().max().item() for leaf in leaves(state))
    return f"{state_bytes(state) // LANES} bytes over {STEPS} steps; at most {most:.2g} at the end"


@suite.row(
    "as large as the others",
    "choose its size by bench.models.matched_width, or by a field of its own with `matched = False`",
)
def _parameters(subject: Subject) -> str:
    if not subject.cls.matched:
        raise NotApplicable("its size is not matched, as it declares")
    sizes = []
    for name, config in (("tiny", subject.config()), ("the paper's", ModelConfig(backbone=subject.name))):
        with SizesOnly():
            count, target = count_parameters(subject.cls(config)), count_parameters(TransformerUpdater(config))
        ratio = count / target
        sizes.append(f"{name} size: {count:,} parameters, {ratio:.2f} times the transformer updater's")
        if not 1 / TIMES <= ratio <= TIMES:
            raise Broken(f"{sizes[-1]}; should be within a factor of {TIMES:g}")
    return "; ".join(sizes)


@suite.row(
    "learns an easy task", "check that the memory can hold what the token says, and that gradients point the right way"
)
def _learns(subject: Subject) -> str:
    return method.learns(subject.trainee())


@suite.row("cost can be traced", "compute with torch operators, which can be counted")
def _traced(subject: Subject) -> str:
    backbone = subject.build(torch.float32)
    state, u = backbone.initial(LANES), _inputs(backbone, 1, dtype=torch.float32)[:, 0]
    traced = trace.Trace()
    with traced:
        backbone.step(state, u)
    cost = traced.cost()
    if cost.whole.flops + cost.whole.elementwise == 0:
        raise Broken("no operator of `step` was seen: 0 FLOPs, 0 elementwise operations")
    missed = f", not counted: {', '.join(sorted(cost.uncounted))}" if cost.uncounted else ""
    return f"{cost.whole.flops:,} FLOPs a step{missed}; bptt with it: {method.traced(subject.trainee())}"
