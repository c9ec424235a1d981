"""Samples of a trained model: pictures and text of its own, completions, and answers.

    given the upper half of a test picture  ->  the model's lower half, beside the true one

Every method writes through the streaming contract, `advance`, where each symbol that it draws is its next
input. The first inputs, which nothing predicts, come from test sequences.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench import streams
from bench.errors import BadInput
from bench.methods.base import Method, scored_slice
from bench.models.layers import LAST
from bench.outgoing import terminal
from bench.results import write_atomically
from bench.tasks.base import IGNORED, Split, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
TEST: Split = "test"
COLUMNS = 32
"""The largest width of a picture on a terminal, in characters."""
LINE = 100
"""The largest width of a row of pictures on a terminal, in characters."""
ACROSS = 8
"""The number of pictures in a row of a figure."""
BLOCKS = " ▀▄█"  # ink in neither pixel, the upper, the lower, both
INK = 128
"""The grey level from which a pixel has ink on a terminal."""
NOT_GIVEN = 160  # the grey of what a completion was not given


@torch.no_grad()
def write(
    method: Method,
    task: Task,
    *,
    count: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    length: int | None = None,
) -> dict[str, Any]:
    """What a method's predictor writes, as plain data: `count` sequences of its own and `count` completions.

    Symbols are drawn from softmax(logits / temperature), the likeliest at temperature 0. The record has `schema`,
    `predictor`, `kind`, `temperature`, `context` (the number of given symbols at the start of each of `written`: T_c
    under SMT with `start: context`, else 1), `written`, and `completed`, a list of {given, truth, written}. By `kind`:

    - image: pictures are lists of rows of grey levels 0 .. 255. `given` is the number of given rows, at least half of
      them; `truth` is the test picture, `written` the completion with the given rows. A picture with nothing left to
      write is left out.
    - text: strings. `given` is the first half of a test window or more, `truth` and `written` are its continuations.
    - symbols, for all other tasks: nothing is written freely. `given` is a test sequence, `truth` its labels, `written`
      the likeliest answers; -1 where nothing is scored.

    `length` is that of a whole text or sequence, by default the task's (of a text at least twice the context); a
    picture has its own. Raises `BadInput` when `count`, `temperature` or `length` cannot be used, or logits are NaN.
    """
    if count < 1:
        raise BadInput(f"count: {count} given; should be at least 1")
    if not 0 <= temperature < math.inf:
        raise BadInput(f"temperature: {temperature} given; should be 0 (always the likeliest symbol) or more")
    method.eval()
    context = max(method.first, 1)
    found = kind(task)
    predictor = method.predictors()[0].name
    record = {
        "schema": SCHEMA,
        "predictor": predictor,
        "kind": found,
        "temperature": temperature,
        "context": context,
    }
    drawing = streams.generator(seed, "samples", "test")
    if found == "symbols":
        x, y, _ = task.sample(TEST, count, task.config.length if length is None else length, drawing)
        return record | {"written": [], "completed": _answers(method, x, y, context)}

    pen = Pen(method, temperature, streams.generator(seed, "samples", "draws", device=method.noise.device))
    if found == "image":
        task = _at_pictures(task)
        x = task.sample(TEST, count, task.picture_symbols or task.config.length, drawing).x
        return record | _pictures(pen, task, x, context)
    total = max(task.config.length, 2 * context) if length is None else length
    if total <= context:
        raise BadInput(f"length: {total} given; should be more than {context}, the symbols that a text begins with")
    return record | _texts(pen, task, task.sample(TEST, count, total, drawing).x, context)


def kind(task: Task) -> Literal["image", "text", "symbols"]:
    """What can be written for a task: a model can continue by itself only where the labels are the next inputs."""
    x, y, _ = task.sample(TEST, 1, task.config.length, streams.generator(0, "samples", "kind"))
    if task.output_size != task.vocab_size or not torch.equal(x[:, 1:], y[:, :-1]):
        return "symbols"
    if task.picture_symbols is not None:
        return "image"
    return "symbols" if task.text(x) is None else "text"


def _at_pictures(task: Task) -> Task:
    """The task with sequences that begin where pictures do, whatever its knob `start` says."""
    if getattr(task.config, "start", None) != "anywhere":
        return task
    return type(task)(task.config.model_copy(update={"start": "image"}))


def _pictures(pen: Pen, task: Task, x: Tensor, context: int) -> dict[str, Any]:
    """Pictures written after the first symbols of test pictures x (N, T), and after half of each or more."""
    total = x.shape[1]
    truths = _shown(task.picture(x))
    height, width = len(truths[0]), len(truths[0][0])
    # A multiple of the width is whole rows of pixels, whether a symbol stands for a pixel or for a square of them.
    half = -(-max(total // 2, context) // width) * width
    free, completed = pen.write(x, (context, half))
    after = zip(truths, _shown(task.picture(completed)))
    rows = height * half // total
    return {
        "written": _shown(task.picture(free)) if context < total else [],
        "completed": [{"given": rows, "truth": truth, "written": written} for truth, written in after if rows < height],
    }


def _texts(pen: Pen, task: Task, x: Tensor, context: int) -> dict[str, Any]:
    """Texts written after the first symbols of test windows x (N, T), and after half of each or more."""
    half = max(x.shape[1] // 2, context)
    free, completed = pen.write(x, (context, half))
    parts = (task.text(part) or [] for part in (x[:, :half], x[:, half:], completed[:, half:]))
    return {
        "written": task.text(free),
        "completed": [{"given": given, "truth": truth, "written": written} for given, truth, written in zip(*parts)],
    }


def _shown(pictures: Tensor | None) -> list[list[list[int]]]:
    assert pictures is not None  # a task that has `picture_symbols` has pictures
    return pictures.tolist()


class Pen(NamedTuple):
    """Continues sequences by drawing symbols from a method's predictor."""

    method: Method
    temperature: float
    generator: torch.Generator

    def write(self, x: Tensor, given: tuple[int, ...]) -> tuple[Tensor, ...]:
        """For each n >= 1 of `given`: x (N, T) with everything after the first n symbols written by the method, (N, T).

        All are written in one pass, because each symbol has to wait for the one before.
        """
        device = self.generator.device
        kept = torch.tensor(given, device=device).repeat_interleave(len(x))  # (N len(given),)
        x = x.to(device).repeat(len(given), 1)
        first = min(given)
        state, symbols = self.method.initial_state(len(x)), [x[:, :first]]
        for t in range(first, x.shape[1]):
            logits, state = self.method.advance(state, symbols[-1], LAST)
            drawn = draw(_checked(logits[:, -1]), self.temperature, self.generator)
            symbols.append(torch.where(t < kept, x[:, t], drawn)[:, None])
        return torch.cat(symbols, 1).cpu().chunk(len(given))


def draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw symbols (N,) from softmax(logits / temperature), logits (N, V); at temperature 0 the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    below = logits.double() - logits.amax(-1, keepdim=True).double()  # so that no temperature overflows
    return torch.multinomial((below / temperature).softmax(-1), 1, generator=generator)[:, 0]


def _checked(logits: Tensor) -> Tensor:
    """The logits (..., V). Raises `BadInput` where their softmax is no distribution."""
    if not logits.logsumexp(-1).isfinite().all():
        raise BadInput("the predictor's logits are not finite")
    return logits


def _answers(method: Method, x: Tensor, y: Tensor, context: int) -> list[dict[str, Any]]:
    """Test sequences with the true and the likeliest answers; nothing is scored before the context has been seen."""
    x, y = x.to(method.noise.device), y.to(method.noise.device, copy=True)
    y[:, : context - 1] = IGNORED
    scored = y != IGNORED
    columns = scored_slice(method.task, x.shape[1], context - 1)
    answers = torch.full_like(y, IGNORED)
    answers[:, columns] = _checked(method.predict(x, columns)).argmax(-1)
    answers = answers.masked_fill(~scored, IGNORED)
    rows = zip(x.tolist(), y.tolist(), answers.tolist())
    return [{"given": given, "truth": truth, "written": written} for given, truth, written in rows]


# Display.


def render(record: dict[str, Any]) -> str:
    """The record for a terminal: pictures as half blocks, completions side by side, text as it is."""
    title = f"{record['predictor']}, temperature {record['temperature']:g}"
    show = {"image": _render_pictures, "text": _render_text, "symbols": _render_symbols}[record["kind"]]
    return "\n".join([title, *show(record)])


def half_blocks(picture: list[list[int]]) -> list[str]:
    """A picture (H, W) as lines of characters, each of two pixels, one above the other; at most `COLUMNS` wide.

    In a larger picture each square of pixels becomes its brightest, so that thin lines stay.
    """
    pixels = np.asarray(picture)
    cell = -(-pixels.shape[1] // COLUMNS)
    pixels = np.pad(pixels, [(0, -pixels.shape[0] % (2 * cell)), (0, -pixels.shape[1] % cell)])
    squares = pixels.reshape(-1, 2, cell, pixels.shape[1] // cell, cell)
    ink = squares.max((2, 4)) >= INK  # (lines, 2, columns)
    return ["".join(BLOCKS[upper + 2 * lower] for upper, lower in zip(*line)) for line in ink.astype(int)]


def _beside(blocks: list[list[str]], width: int) -> list[str]:
    return ["  ".join(line.ljust(width) for line in lines).rstrip() for lines in zip(*blocks)]


def _render_pictures(record: dict[str, Any]) -> list[str]:
    lines, written = [], [half_blocks(picture) for picture in record["written"]]
    if written:
        width = len(written[0][0])
        across = max(1, (LINE + 2) // (width + 2))
        lines += ["", "written"]
        for first in range(0, len(written), across):
            lines += ["", *_beside(written[first : first + across], width)]
    for completion in record["completed"]:
        blank = np.array(completion["truth"])
        blank[completion["given"] :] = 0
        blocks = [half_blocks(picture) for picture in (blank.tolist(), completion["truth"], completion["written"])]
        width = max(len(blocks[0][0]), len("written"))
        lines += ["", *_beside([["given"], ["truth"], ["written"]], width), *_beside(blocks, width)]
    return lines


def _render_text(record: dict[str, Any]) -> list[str]:
    lines = []
    for text in record["written"]:
        lines += ["", "written", terminal(text)]
    for completion in record["completed"]:
        for part in ("given", "truth", "written"):
            lines += ["", part, terminal(completion[part])]
    return lines


def _render_symbols(record: dict[str, Any]) -> list[str]:
    lines = []
    for completion in record["completed"]:
        width = max(len(str(symbol)) for part in completion.values() for symbol in part)
        lines.append("")
        for part in ("given", "truth", "written"):
            symbols = ["." if symbol == IGNORED else str(symbol) for symbol in completion[part]]
            lines.append(f"{part:<8} {' '.join(symbol.rjust(width) for symbol in symbols)}")
    return lines


def picture_grid(record: dict[str, Any]) -> Figure:
    """The pictures of an image record: those written freely, then completions below what was given and the truth.

    Raises `BadInput` for a record without pictures.
    """
    from matplotlib.figure import Figure  # here, because writing samples does not need it

    strips = _strips(record)
    if not strips:
        raise BadInput(f"a picture needs a record of pictures; this one is of {record['kind']} and has none")
    height, width = strips[0][1][0].shape
    gap, across = max(1, width // 16), max(len(pictures) for _, pictures in strips)
    sheet = np.full((len(strips) * (height + gap) - gap, across * (width + gap) - gap), 255)
    for row, (_, pictures) in enumerate(strips):
        for column, picture in enumerate(pictures):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = picture
    shape = (0.8 * across + 1, 0.8 * len(strips) * (height + gap) / (width + gap) + 0.2)  # inches
    figure = Figure(figsize=shape, dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    middles = [row * (height + gap) + (height - 1) / 2 for row in range(len(strips))]
    axes.set_yticks(middles, [name for name, _ in strips])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _strips(record: dict[str, Any]) -> list[tuple[str, list[np.ndarray]]]:
    """Rows of at most `ACROSS` pictures, each row with its name."""
    if record["kind"] != "image":
        return []
    strips, written, completed = [], record["written"], record["completed"]
    for first in range(0, len(written), ACROSS):
        strips.append(("written", [np.array(picture) for picture in written[first : first + ACROSS]]))
    for first in range(0, len(completed), ACROSS):
        row = completed[first : first + ACROSS]
        truths = [np.array(completion["truth"]) for completion in row]
        given = [truth.copy() for truth in truths]
        for picture, completion in zip(given, row):
            picture[completion["given"] :] = NOT_GIVEN
        written_rows = [np.array(completion["written"]) for completion in row]
        strips += [("given", given), ("truth", truths), ("completed", written_rows)]
    return strips


def save_png(record: dict[str, Any], path: Path | str) -> None:
    """`picture_grid` as a PNG file, written whole or not at all. Raises `BadInput` for a record without pictures."""
    from bench.drawing import drawing

    with drawing():
        figure = picture_grid(record)
        write_atomically(Path(path), lambda file: figure.savefig(file, format="png"))
