"""The geometry of memories: principal components of m_t, a label to colour them by, and where the updater moves them.

    retrieval: one memory for each sequence, at its end, coloured by the needle  ->  one cluster for each needle

After the figures of Kumar & Isola, arXiv 2606.06479.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench import streams
from bench.errors import BadInput
from bench.methods.base import NONE, Method
from bench.models.layers import rms_normalise
from bench.models.rnn import RNN
from bench.tasks.base import IGNORED, Task

POINTS = 256
"""The largest number of memories in the record; the components are computed from all memories."""
COMPONENTS = 10
FEWEST = 3
"""The smallest number of sequences: any two points lie on a line, whatever the memory."""
GRID = 15
"""The vector field starts from GRID x GRID memories."""
MARGIN = 0.1
"""How far the grid reaches beyond the points on each side, as a share of their range."""
ROUNDINGS = 10
"""A spread of at most this many rounding errors counts as none: all memories are then the same."""


class Shown(NamedTuple):
    """The memory of each sequence that is shown, and its label."""

    column: Tensor  # (N,) the memory after x[column]
    label: Tensor  # (N,)
    colour_by: str
    prefix: Tensor | None = None  # (N, n) the strings of string-copy


class Plane(NamedTuple):
    """Principal components of memories; M = K d numbers each."""

    mean: np.ndarray  # (M,)
    axes: np.ndarray  # (2, M), orthonormal
    explained: np.ndarray  # (components,), shares of the variance, the largest first; 0 where there is none
    effective_rank: float

    def project(self, memories: Tensor) -> np.ndarray:
        """Memories (N, K, d) -> their coordinates in the plane (N, 2)."""
        return (_flat(memories) - self.mean) @ self.axes.T

    def lift(self, coordinates: np.ndarray, like: Tensor) -> Tensor:
        """Coordinates (N, 2) -> memories (N, K, d) in the plane, with their tokens normalised as in all memories."""
        flat = torch.from_numpy(self.mean + coordinates @ self.axes)
        return rms_normalise(flat.to(like).view(-1, *like.shape[1:]))


@torch.no_grad()
def geometry(method: Method, task: Task, *, sequences: int = POINTS, seed: int = 0) -> dict[str, Any] | None:
    """The geometry of a method's memories on test sequences; None for a method without a memory of tokens.

    Each sequence has one memory: for retrieval the last; for string-copy the one after the delimiter; for other tasks
    the one at the last scored position (at the end, with the label -1, where nothing is scored). The record is plain
    data of 5 significant digits:

    - `points`: the first two principal components of at most 256 memories; `label`: a label for each, described by
      `colour_by`; for string-copy `prefix`, the strings;
    - `explained`: shares of the variance of the leading 10 components; `effective_rank`: see `principal_plane`;
    - `origin` and `field`: the coordinates of memories on a grid in the plane, and how far one update moves each of
      them: the mean over input symbols, weighted by their frequency, as `field_by` says.

    Raises `BadInput` for fewer than 3 sequences.
    """
    rnn = method.recurrent_network()
    if rnn is None or rnn.updater.memory(method.model) is None:
        return None
    if sequences < FEWEST:
        raise BadInput(f"sequences: {sequences} given; should be at least {FEWEST}")
    method.eval()
    x, y, _ = task.sample("test", sequences, task.config.length, streams.generator(seed, "geometry"))
    shown = choose(task, x, y, max(method.first - 1, 0))
    x = x.to(method.noise.device)
    memories = memories_at(method, x, shown.column.to(x.device))  # (N, K, d)
    plane = principal_plane(memories)
    points = plane.project(memories)
    record = {
        "colour_by": shown.colour_by,
        "points": _rounded(points[:POINTS]),
        "label": shown.label[:POINTS].tolist(),
        "explained": _rounded(plane.explained[:COMPONENTS]),
        "effective_rank": _rounded(np.array(plane.effective_rank)),
    }
    if shown.prefix is not None:
        record["prefix"] = shown.prefix[:POINTS].tolist()
    origin, field = vector_field(rnn, plane, grid(points), memories, x)
    return record | {
        "origin": _rounded(origin),
        "field": _rounded(field),
        "field_by": "mean over input symbols, weighted by how often they come",
    }


def choose(task: Task, x: Tensor, y: Tensor, first: int = 0) -> Shown:
    """The memories of sequences x, y (N, T) to show, none of them before column `first`.

    Labels come from the inputs where these determine them, so that label corruption does not colour a point wrongly.
    """
    rows = torch.arange(len(x))
    if task.name == "retrieval":
        needle = x[rows, (x == 0).int().argmax(1) + 1]  # after the first id symbol
        return Shown(torch.full_like(rows, x.shape[1] - 1), needle, "needle")
    if task.name == "string-copy":
        delimiter = task.scored_columns(x.shape[1]).start
        column = torch.full_like(rows, max(delimiter, first))
        return Shown(column, x[:, 0], "first symbol of the string", x[:, :delimiter])
    scored = y != IGNORED
    scored[:, :first] = False
    column = x.shape[1] - 1 - scored.flip(1).int().argmax(1)  # the last scored column of each row
    return Shown(column, y[rows, column], "next label")


def memories_at(method: Method, x: Tensor, column: Tensor) -> Tensor:
    """The predictor's memory after x[n, column[n]], for sequences x (N, T): (N, K, d).

    The sequences are streamed, because all memories of long ones at the paper's sizes are gigabytes.
    """
    state, kept = method.initial_state(len(x)), None
    for t, x_t in enumerate(x[:, : int(column.max()) + 1].unbind(1)):
        _, state = method.advance(state, x_t[:, None], NONE)
        memory = state if isinstance(state, Tensor) else state[0]  # some methods carry more beside the memory
        kept = memory if kept is None else torch.where((column == t)[:, None, None], memory, kept)
    assert kept is not None
    return kept


def principal_plane(memories: Tensor) -> Plane:
    """Principal components of memories (N, K, d), N >= 2, by a full SVD: equal memories give equal bits and signs.

    `effective_rank` is that of their covariance, exp(-sum p ln p) with p its singular values over their sum, which are
    the shares of the variance (Roy & Vetterli, *The effective rank*, EUSIPCO 2007); 0 where all memories are equal.
    """
    from sklearn.decomposition import PCA  # here, because it takes a second

    flat = _flat(memories)
    with np.errstate(invalid="ignore", divide="ignore"):  # equal memories have no variance, and no shares of it
        fitted = PCA(svd_solver="full").fit(flat)
    spread = fitted.singular_values_
    if np.linalg.norm(spread) <= ROUNDINGS * torch.finfo(memories.dtype).eps * np.linalg.norm(flat):
        return Plane(fitted.mean_, fitted.components_[:2], np.zeros_like(spread), 0.0)
    shares = spread**2 / (spread**2).sum()
    present = shares[shares > 0]
    rank = np.exp(-(present * np.log(present)).sum())
    return Plane(fitted.mean_, fitted.components_[:2], shares, float(rank))


def grid(points: np.ndarray) -> np.ndarray:
    """GRID x GRID coordinates, evenly over the range of the points (N, 2) and a little beyond: (GRID^2, 2)."""
    low, high = points.min(0), points.max(0)
    margin = MARGIN * (high - low)
    sides = np.linspace(low - margin, high + margin, GRID)  # (GRID, 2)
    return np.stack(np.meshgrid(sides[:, 0], sides[:, 1]), -1).reshape(-1, 2)


def vector_field(
    rnn: RNN, plane: Plane, coordinates: np.ndarray, memories: Tensor, x: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The memories lifted from `coordinates` (G, 2), and how far one update moves them: two (G, 2) in the plane.

    The update is the mean over the symbols of x, weighted by their frequency. Normalising a lifted memory moves it a
    little away from its coordinates; arrows start where it is then, so that they show the updater alone.
    """
    lifted = plane.lift(coordinates, memories)
    origin, moved = plane.project(lifted), np.zeros_like(coordinates)
    symbols, counts = x.unique(return_counts=True)
    for symbol, count in zip(symbols, counts.tolist()):
        moved += plane.project(rnn.update(lifted, symbol.expand(len(lifted)))) * (count / x.numel())
    return origin, moved - origin


def _flat(memories: Tensor) -> np.ndarray:
    return memories.double().flatten(1).cpu().numpy()


def _rounded(values: np.ndarray) -> Any:
    """The values as (nested lists of) floats of 5 significant digits."""
    return np.vectorize(lambda value: float(f"{value:.5g}"), otypes=[float])(values).tolist()
