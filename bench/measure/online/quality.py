"""The quality of the gradients of online methods, compared with the exact ones on the same networks.

A network of tanh units is not trained: it keeps its initial weights (orthogonal recurrent ones, and small ones of the
inputs, so that it remembers) and reads one sequence of three symbols, as unit vectors. With x the exact gradient of
the recurrent weights, and g that of a method for one draw of its noise:

    bias       |E g - x| / |x|         truncated credit; 0 where the mean is exact
    variance   E |g - E g|^2 / |x|^2   noise; the number of draws whose mean has an error as large as x
    cosine     E (g . x) / (|g| |x|)   agreement of single gradients with the exact direction

along two axes: the number of units n, with all of 32 columns scored; and the distance of a dependency, where only the
last column is scored, and only the part of x counts that belongs to a symbol of the first column alone.

The squared bias is estimated as the product of the errors of two halves of the draws, to which noise adds nothing on
average. It may thus be below 0; its root keeps the sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.config import Budget, TrainingConfig
from bench.engine import Engine
from bench.measure.online.estimators import EVERYTHING, lane_by_lane, small
from bench.methods.online import Online
from bench.tasks.base import IGNORED, Batch

UNITS = (4, 8, 16, 32, 64)
DISTANCES = (1, 2, 4, 8, 16, 32, 64)
AT_UNITS, AT_LENGTH = 16, 32
"""The units where the distance varies, and the columns where the units vary."""
NETWORKS, DRAWS, CUTS = 4, 1024, 128
"""The number of networks, each with a sequence; of draws of noise for each; of ARTBP's cuts, which are not lanes."""
SMALL = 0.2
"""The factor on the weights of the inputs."""
ESTIMATORS: tuple[Mapping[str, Any], ...] = (
    *({"name": "tbptt", "k1": k, "k2": k} for k in (1, 8, 32)),
    {"name": "artbp"},
    {"name": "rtrl"},
    {"name": "kf-rtrl"},
    {"name": "nobacktrack"},
    {"name": "uoro"},
    {"name": "uoro", "copies": 16},
    {"name": "uoro", "block": 8, "update_every": 8},
)
WEIGHT, BIAS = "rnn.updater.map.weight", "rnn.updater.map.bias"
TRAINING = TrainingConfig(budget=Budget(steps=1))
FIELDS = {"k2": "k", "copies": "copies", "block": "block"}
"""The fields that distinguish settings of a method, and their names in the report."""
TINY = 1e-300


class Problem(NamedTuple):
    """The description of a network and a sequence."""

    units: int
    batch: Batch
    cue: int | None
    """The symbol whose input weights are compared; None: all recurrent parameters."""
    seed: int


def problems(axis: str, value: int, networks: int = NETWORKS) -> Iterator[Problem]:
    """The problems at a value of an axis."""
    for seed in range(networks):
        noise = torch.Generator().manual_seed(seed)
        if axis == "units":
            x, y = torch.randint(3, (2, 1, AT_LENGTH), generator=noise)
            yield Problem(value, Batch(x, y, _begins(AT_LENGTH)), None, seed)
            continue
        x = torch.randint(2, (1, value + 1), generator=noise)
        y = torch.full_like(x, IGNORED)
        x[:, 0], y[:, -1] = 2, torch.randint(3, (1,), generator=noise)
        yield Problem(AT_UNITS, Batch(x, y, _begins(value + 1)), 2, seed)


def _begins(columns: int) -> Tensor:
    return torch.arange(columns)[None] == 0


def built(problem: Problem, method: Mapping[str, Any]) -> Any:
    """Any method with the problem's network."""
    found = small(method, problem.units, problem.seed)
    found.requires_grad_(True)
    with torch.no_grad():
        found.get_parameter(WEIGHT)[:, problem.units :] *= SMALL
        found.rnn.embedding.weight.copy_(torch.eye(*found.rnn.embedding.weight.shape))
    return found


def exact(problem: Problem) -> Tensor:
    """The gradient of the summed loss, by BPTT through all columns, (P,)."""
    return _backward_draw(problem, built(problem, {"name": "bptt"}))


def drawn(problem: Problem, method: Mapping[str, Any], draws: int = DRAWS, cuts: int = CUTS) -> Tensor:
    """The gradients of a method for that many draws of its noise, (S, P); a single one where it has none."""
    found = built(problem, method)
    noisy = "train" in found.gradient_is and found.gradient_is["train"] == "unbiased"
    if isinstance(found, Online):
        return _forward_draws(problem, found, draws if noisy else 1)
    return torch.stack([_backward_draw(problem, found) for _ in range(cuts if noisy else 1)])


@torch.no_grad()
def _forward_draws(problem: Problem, method: Any, lanes: int) -> Tensor:
    """The gradients of a method that carries credit forward, where a draw is a lane."""
    (part,) = method.parts
    lane_by_lane(method)
    x, y = (tokens.repeat(lanes, 1) for tokens in problem.batch[:2])
    columns, block = x.shape[1], method.block
    noise, carry, total = method.draw((lanes, columns), "train"), method.begin(lanes), torch.zeros(())
    for t in range(0, columns, block):
        x_t, y_t = ((whole[:, t] if block == 1 else whole[:, t : t + block]) for whole in (x, y))
        carry, credit = method.step(carry, x_t, y_t, noise[t] if isinstance(noise, Tensor) else ())
        total = total + credit.gradient[f"rnn.{EVERYTHING}"]
    return _compared_part(problem, total.unflatten(1, (part.q, part.m)))


def _backward_draw(problem: Problem, method: Any) -> Tensor:
    """The gradient of a method that backpropagates, from the engine, summed over stretches and labels."""
    (phase,) = method.phases(TRAINING)
    total = torch.zeros(problem.units, problem.units + 5, dtype=torch.float64)
    for ready in Engine(method, phase).stretches(problem.batch):
        weight, bias = (method.get_parameter(name).grad for name in (WEIGHT, BIAS))
        if ready.scalars is not None and weight is not None:
            labels = (problem.batch.y != IGNORED).sum() if ready.labels is None else ready.labels
            total += torch.cat([weight, bias[:, None]], 1) * labels
        method.zero_grad()
    return _compared_part(problem, total[None])[0]


def _compared_part(problem: Problem, matrices: Tensor) -> Tensor:
    """The part of gradients (S, n, m) that is compared, as vectors."""
    if problem.cue is not None:
        matrices = matrices[:, :, problem.units + problem.cue]
    return matrices.flatten(1)


class Quality(NamedTuple):
    """The quality of draws on a network, relative to its exact gradient."""

    squared_bias: float
    """Estimated from two halves of the draws."""
    variance: float
    cosine: float


def quality(draws: Tensor, wanted: Tensor) -> Quality:
    """Compare draws (S, P) with the exact gradient (P,); a single draw has no noise."""
    size = wanted.square().sum()
    halves = [half.mean(0) - wanted for half in ((draws, draws) if len(draws) == 1 else draws.chunk(2))]
    spread = torch.zeros(()) if len(draws) == 1 else draws.var(0).sum()
    lengths = torch.linalg.vector_norm(draws, dim=1) * size.sqrt()
    cosine = ((draws @ wanted) / lengths.clamp(min=TINY)).mean()
    return Quality((halves[0] @ halves[1] / size).item(), (spread / size).item(), cosine.item())


def measure(
    units: Sequence[int] = UNITS,
    distances: Sequence[int] = DISTANCES,
    estimators: Sequence[Mapping[str, Any]] = ESTIMATORS,
    networks: int = NETWORKS,
    draws: int = DRAWS,
    cuts: int = CUTS,
) -> list[dict[str, Any]]:
    """A row for each method, point and network.

    {method, setting, axis, value, seed, draws, squared_bias, variance, cosine}
    """
    found = []
    for axis, values in (("units", units), ("distance", distances)):
        for value in values:
            for problem in problems(axis, value, networks):
                wanted = exact(problem)
                for method in estimators:
                    made = drawn(problem, method, draws, cuts)
                    at = {"axis": axis, "value": value, "seed": problem.seed, "draws": len(made)}
                    found.append({**_named(method), **at, **quality(made, wanted)._asdict()})
    return found


def _named(method: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in method.items() if name in FIELDS}
    return {"method": method["name"], "setting": ", ".join(f"{FIELDS[name]} {value}" for name, value in fields.items())}
