"""Why a network fails that learns from a teacher's memories: what they hold, what one step loses, what many steps lose.

With m_t the teacher's memories, D its decoder, f the updater, g the readout:

    teacher      accuracy of D(m_t) at y_t: what a memory holds when it is asked for
    lost         probability of the right labels from t on under D(m_t), less that under D(f(m_{t-1}, x_t)): what one
                 step loses although it begins at the teacher's own memory
    after_steps  accuracy of g after k steps of f from m_{t-k}: what accumulated errors lose; k = T is the rollout

An updater that does not store a symbol loses it in one step; a memory that fades loses nothing in any single step, and
everything in sixty. An error of a memory need not matter, so the one-step error means little except beside the variance
of memories between classes, which says how large an error has to be to confuse them. The measure is this project's, for
the method of Kumar & Isola, arXiv 2606.06479.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.config import Run
from bench.measure.dynamics import sequences
from bench.methods.base import Method, Teaching
from bench.models.rnn import RNN
from bench.tasks.base import IGNORED, Task

SCHEMA = 1
SEQUENCES = 128
MOST_TIMES = 64
"""The largest number of memories of a sequence that are decoded ahead; in longer sequences, evenly spaced ones."""
MOST_SCORED = 16
"""The largest number of scored columns at which accuracy after k steps is measured; of more, evenly spaced ones."""
MOST_DECODED = 2**14
"""The number of outputs that are decoded at a time."""
WORST = 0.05
"""The share of transitions, those with the largest errors, that are searched for what they have in common."""

STANDS_OUT = 0.2
"""The verdict names a symbol whose share of these transitions exceeds its share of all by this much."""

SOLVED = 0.98
"""A rollout that has come this share of the way from chance to the ceiling has solved the task."""
KNOWS = 0.05
"""Where no ceiling is known, a teacher below this share of the way from chance to 1 knows nothing."""
FOLLOWS = 0.95
"""Where no ceiling is known, a rollout that has come this share of the way from chance to its teacher follows it."""
SINGLE = 0.5
"""Single steps are the limit where they lose at least this share of what the rollout lacks of its teacher."""


class Walk(NamedTuple):
    """The memories of sequences after each of n columns, from the first one that has a memory."""

    x: Tensor  # (B, n)
    y: Tensor  # (B, n)
    teacher: Tensor  # (B, n, K, d) the teacher's
    rollout: Tensor  # (B, n, K, d) the network's own
    stepped: Tensor  # (B, n, K, d) one step from the teacher's; the teacher's own where there is no transition
    before: Tensor  # (B, n - given, K, d) the teacher's memory before each transition
    given: int
    """1 where the first memory is the teacher's and no transition leads to it (SMT's `start: context`), else 0."""
    rnn: RNN
    teaching: Teaching


@torch.no_grad()
def diagnose(method: Method, task: Task, x: Tensor, y: Tensor, score_from: int = 0) -> dict[str, Any] | None:
    """What a method's memories hold and lose on sequences x, y (B, T), as plain data; None without a teacher.

    By column `t`, from the first memory on, with None where there is no value:

    - `teacher`, `one_step`, `rollout`: accuracy of the teacher, of the readout one step from the teacher's memory, and
      of the readout at the rollout's memory;
    - `error`: MSE of f(m_{t-1}, x_t) and m_t; `drift`: MSE of the rollout's memory and m_t;
    - `spread`: variance of m_t over sequences, averaged over its entries; `between`: the part of it between classes,
      which are sequences with the same next label, less the part that chance explains;
    - `lost`: probability of the right label that the transition loses, per label of the whole sequence.

    `single`, the sum of `lost` over all transitions, is what a rollout would lack if it were never further than one
    step from the teacher. `ahead` {j, accuracy}: the decoder's accuracy at y_{t+j} from m_t, over all t. `after_steps`
    {k, accuracy}: see above. `rare`: the `share` of all one-step errors that the worst 5 % of transitions have, and the
    `symbol`, the symbol `before` it and the `column` that stand out among them, each as {value, share, usual}, its
    shares of them and of all. `scores`: accuracy over all scored columns, and the task's chance and ceiling. `limit`
    and `verdict`: see `judge`.
    """
    rnn, teaching = method.recurrent_network(), method.teaching()
    if rnn is None or teaching is None:
        return None
    method.eval()
    device, length, first = method.noise.device, x.shape[1], max(method.first - 1, 0)
    walk = _walked(method, rnn, teaching, x.to(device), y.to(device))
    scored = walk.y != IGNORED
    right = {
        "teacher": _right(walk.y, lambda t: teaching.decode(walk.teacher[:, t], walk.x[:, :0])[:, 0]),
        "one_step": _right(walk.y, lambda t: rnn.read(walk.stepped[:, t].flatten(1))),
        "rollout": _right(walk.y, lambda t: rnn.read(walk.rollout[:, t].flatten(1))),
    }
    error = _squared(walk.stepped, walk.teacher)
    error[:, : walk.given] = math.nan
    spread, between = _variances(walk)
    lost, single, ahead = _decoded_ahead(walk)
    record = {
        "t": list(range(first, length)),
        **{name: _plain(hits.sum(0) / scored.sum(0)) for name, hits in right.items()},
        "error": _plain(error.mean(0)),
        "drift": _plain(_squared(walk.rollout, walk.teacher).mean(0)),
        "spread": _plain(spread),
        "between": _plain(between),
        "lost": _plain(lost),
        "single": single,
        "ahead": ahead,
        "after_steps": _after_steps(walk),
        "rare": _rare(walk, error[:, walk.given :], first),
        "scores": {
            **{name: (hits.sum() / scored.sum()).item() for name, hits in right.items()},
            "ceiling": task.accuracy_ceiling(length, score_from),
            "chance": task.chance(length, score_from),
        },
    }
    limit, verdict = judge(record)
    return {**record, "limit": limit, "verdict": verdict}


def measure(run: Run, task: Task, method: Method, count: int = SEQUENCES) -> dict[str, Any]:
    """The record of a run's diagnosis.json: its `diagnosis` on `count` test sequences, None without a teacher."""
    length = run.task_config.length
    x, y, _ = sequences(run, task, length, count)
    found = diagnose(method, task, x, y, run.evaluation.score_from)
    return {"schema": SCHEMA, "sequences": count, "diagnosis": found}


def _walked(method: Method, rnn: RNN, teaching: Teaching, x: Tensor, y: Tensor) -> Walk:
    first, given = max(method.first - 1, 0), int(method.first > 0)
    teacher = teaching.memories(x, range(first, x.shape[1]))
    rollout = teaching.rollout(x)[:, first:]
    x, y = x[:, first:], y[:, first:]
    beginning: Any = rnn.initial_state(len(x))
    before = teacher[:, :-1] if given else torch.cat([beginning[:, None], teacher[:, :-1]], 1)
    after: Any = [rnn.update(memory, x_t) for memory, x_t in zip(before.unbind(1), x[:, given:].unbind(1))]
    stepped = torch.stack([*teacher[:, :given].unbind(1), *after], 1)
    return Walk(x, y, teacher, rollout, stepped, before, given, rnn, teaching)


def _right(y: Tensor, logits: Callable[[int], Tensor]) -> Tensor:
    """Whether the largest of the logits (B, O) at a column is that of its label: (B, n); false where none is scored."""
    right = torch.zeros_like(y, dtype=torch.bool)
    for t in (y != IGNORED).any(0).nonzero().flatten().tolist():
        right[:, t] = logits(t).argmax(-1) == y[:, t]
    return right


def _squared(memories: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference of memories (B, n, K, d): (B, n)."""
    return (memories.double() - others.double()).square().mean((2, 3))


def _variances(walk: Walk) -> tuple[Tensor, Tensor]:
    """`spread` and `between`, (n,) each; NaN where a class has fewer than two sequences, or there is one class only.

    If labels were random, the variance of the means of C classes would be (C - 1) / N of the variance within them.
    """
    n = walk.y.shape[1]
    columns = torch.arange(n, device=walk.y.device)
    following = torch.where(walk.y == IGNORED, n, columns).flip(1).cummin(1).values.flip(1)  # the next scored column
    labels = walk.y.gather(1, following.clamp(max=n - 1))
    spread, between = [], []
    for memory, label in zip(walk.teacher.unbind(1), labels.unbind(1)):
        flat, known = memory.double().flatten(1), label != IGNORED
        spread.append(flat.var(0, correction=0).mean().item())
        between.append(_between(flat[known], label[known]))
    return torch.tensor(spread, dtype=torch.float64), torch.tensor(between, dtype=torch.float64)


def _between(memories: Tensor, labels: Tensor) -> float:
    """The variance of memories (N, M) between classes, averaged over entries."""
    _, group, counts = labels.unique(return_inverse=True, return_counts=True)
    rows, classes = len(labels), len(counts)
    if classes < 2 or rows < 2 * classes:
        return math.nan
    means = memories.new_zeros(classes, memories.shape[1]).index_add_(0, group, memories) / counts[:, None]
    within = (memories - means[group]).square().sum(0).mean() / (rows - classes)
    between = (means - memories.mean(0)).square().mean(1) @ counts.double() / rows
    return max(0.0, (between - (classes - 1) / rows * within).item())


def _decoded_ahead(walk: Walk) -> tuple[Tensor, float, dict[str, list[Any]]]:
    """`lost` (n,), its sum over all transitions, and `ahead`."""
    n = walk.y.shape[1]
    times, labels = _evenly(torch.arange(walk.given, n), MOST_TIMES), (walk.y != IGNORED).sum().item()
    lost = torch.full((n,), math.nan, dtype=torch.float64)
    hits, asked = torch.zeros(2, n, dtype=torch.float64)
    for t in times.tolist():
        end = min(n, t + walk.teaching.future)
        future, y = walk.x[:, t + 1 : end], walk.y[:, t:end]
        scored = (y != IGNORED).sum(0).cpu()
        if not scored.any():
            continue
        before, right = _decode(walk.teaching, walk.teacher[:, t], future, y)
        after, _ = _decode(walk.teaching, walk.stepped[:, t], future, y)
        lost[t] = (before - after).item() / labels
        hits[: end - t] += right.cpu()
        asked[: end - t] += scored
    single = lost.nansum().item() * (n - walk.given) / len(times)
    j = asked.nonzero().flatten()
    return lost, single, {"j": j.tolist(), "accuracy": (hits[j] / asked[j]).tolist()}


def _decode(teaching: Teaching, memory: Tensor, future: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's summed probability of labels y (B, F), and the number of its correct answers by column (F,)."""
    rows = max(1, MOST_DECODED // y.shape[1])
    summed, right = [], []
    for part, inputs, labels in zip(memory.split(rows), future.split(rows), y.split(rows)):
        logits = teaching.decode(part, inputs).double()
        probability = logits.softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        summed.append(probability[labels != IGNORED].sum())
        right.append((logits.argmax(-1) == labels).sum(0))
    return torch.stack(summed).sum(), torch.stack(right).sum(0)


def _after_steps(walk: Walk) -> dict[str, list[Any]]:
    """The accuracy of the readout after 1, 2, 4 .. steps from the teacher's memory, and that of the rollout last."""
    at = _evenly((walk.y != IGNORED).any(0).nonzero().flatten(), MOST_SCORED)
    y, most = walk.y[:, at], walk.before.shape[1]
    steps = [2**power for power in range(most.bit_length()) if 2**power < most]
    memories = [*(reached(walk, at, count) for count in steps), walk.rollout[:, at]]
    right = [walk.rnn.read(memory.flatten(2)).argmax(-1) == y for memory in memories]
    return {"k": [*steps, most], "accuracy": [(hits.sum() / (y != IGNORED).sum()).item() for hits in right]}


def reached(walk: Walk, at: Tensor, steps: int) -> Tensor:
    """Memories after the columns `at` (S,), `steps` steps from the teacher's, or from the first one: (B, S, K, d).

    `bench.methods.on_policy.swept` gives the same for all columns; for a few, this takes less work.
    """
    begin = at - walk.given + 1 - steps  # the index of the first transition
    memory = walk.before[:, begin.clamp(min=0)]
    for number in (begin + i for i in range(steps)):
        x = walk.x[:, walk.given + number.clamp(min=0)]
        after: Any = walk.rnn.update(memory.flatten(0, 1), x.flatten())
        memory = torch.where((number >= 0)[:, None, None], after.unflatten(0, x.shape), memory)
    return memory


def _rare(walk: Walk, error: Tensor, first: int) -> dict[str, Any] | None:
    """What the transitions with the largest errors (B, m) have in common; None where there are no errors."""
    flat, n = error.flatten(), walk.x.shape[1]
    worst = flat.topk(math.ceil(WORST * len(flat))).indices
    worst = worst[flat[worst] > 0]
    if not len(worst):
        return None
    before = torch.cat([torch.full_like(walk.x[:, :1], -1), walk.x[:, :-1]], 1)
    column = torch.arange(first, first + n, device=walk.x.device).expand_as(walk.x)
    named = {"symbol": walk.x, "before": before, "column": column}
    common = {name: _outstanding(values[:, walk.given :].flatten(), worst) for name, values in named.items()}
    return {"share": (flat[worst].sum() / flat.sum()).item(), **common}


def _outstanding(values: Tensor, chosen: Tensor) -> dict[str, Any] | None:
    """The integer of values (N,) whose share of the chosen ones most exceeds its share of all; -1 is not a value."""
    some, size = values[chosen], int(values.max()) + 1
    shares = [torch.bincount(part[part >= 0], minlength=size).double() / len(part) for part in (some, values)]
    value = int((shares[0] - shares[1]).argmax()) if size else 0
    return {"value": value, "share": shares[0][value].item(), "usual": shares[1][value].item()} if size else None


def _evenly(values: Tensor, most: int) -> Tensor:
    """At most `most` of the values (N,), evenly spaced."""
    return values[torch.linspace(0, len(values) - 1, min(most, len(values))).round().long()]


def _plain(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


# What limits it.


def judge(record: dict[str, Any]) -> tuple[str, str]:
    """What limits the rollout of a record, in one word and in one line.

    Between the ceiling and the rollout, accuracy is lost in three ways: the teacher does not know (ceiling - teacher),
    single steps lose what it knows (`single`), and errors accumulate (the rest of teacher - rollout). The verdict names
    the largest loss, where an improvement should begin:

    - "solved": the rollout is within 2 % of the ceiling, on the scale from chance to the ceiling;
    - "teacher": the teacher lacks at least as much of the ceiling as the rollout lacks of the teacher: a perfect
      updater would gain less than a better teacher; or no ceiling is known and the teacher hardly beats chance;
    - "follows": no ceiling is known, and the rollout keeps what the teacher knows: only the teacher can improve;
    - "transition": single steps lose at least half of what the rollout lacks of its teacher. Training on rollouts would
      not help, because even a step from the right memory fails;
    - "drift": single steps lose less than that, so that the loss takes several steps.
    """
    scores = record["scores"]
    teacher, rollout, chance, ceiling = (scores[name] for name in ("teacher", "rollout", "chance", "ceiling"))
    of = "the ceiling is not known" if ceiling is None else f"ceiling {ceiling:.3f}"
    around = f"({of}, chance {chance:.3f})"
    behind = teacher - rollout
    if ceiling is not None and rollout - chance >= SOLVED * (ceiling - chance):
        return "solved", f"solved: accuracy {rollout:.3f} {around}"
    ignorant = teacher - chance < KNOWS * (1 - chance) if ceiling is None else ceiling - teacher >= behind
    if ignorant:
        return "teacher", f"the teacher is the limit: it answers {teacher:.3f}, the rollout {rollout:.3f} {around}"
    if ceiling is None and rollout - chance >= FOLLOWS * (teacher - chance):
        return "follows", f"the rollout follows its teacher: accuracy {rollout:.3f} of {teacher:.3f} {around}"
    if record["single"] >= SINGLE * behind:
        return "transition", _transition(record)
    steps = list(zip(record["after_steps"]["k"], record["after_steps"]["accuracy"]))
    fall = max(range(1, len(steps)), key=lambda i: steps[i - 1][1] - steps[i][1], default=0)
    first, *rest = dict.fromkeys((steps[0], steps[fall - 1], steps[fall], steps[-1]))
    accuracies = [f"{first[1]:.3f} after 1 step", *(f"{accuracy:.3f} after {count}" for count, accuracy in rest)]
    return "drift", f"the rollout drifts: accuracy {', '.join(accuracies)} (teacher {teacher:.3f}, chance {chance:.3f})"


def _transition(record: dict[str, Any]) -> str:
    """One line about the transition that loses most."""
    worst = max((i for i, loss in enumerate(record["lost"]) if loss is not None), key=lambda i: record["lost"][i])
    lost, error, between = (record[name][worst] for name in ("lost", "error", "between"))
    variance = "" if between is None else f", variance between classes {between:.2g}"
    text = (
        f"the transition at t = {record['t'][worst]} is not learned: of the teacher's accuracy, "
        f"{record['scores']['teacher']:.3f}, it loses {lost:.3f}, all single steps {record['single']:.3f} "
        f"(one-step error {error:.2g}{variance})"
    )
    for name, word in (("symbol", "at"), ("before", "after")):
        found = (record["rare"] or {}).get(name)
        if found and found["share"] - found["usual"] >= STANDS_OUT:
            share, usual = f"{found['share']:.0%} of the worst", f"{found['usual']:.0%} of all"
            text += f"; {share} are {word} symbol {found['value']}, {usual}"
    return text
