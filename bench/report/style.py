"""One look for all figures: a method has one colour and one marker, in every figure of every report."""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Okabe and Ito's colours, which colour-blind readers can tell apart; their yellow is too pale on white.
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
OLIVE, BROWN, INDIGO = "#7A7A00", "#8C4B2F", "#5B4DB1"
GREY = "#707070"

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titley": 1.0,  # or matplotlib looks for a place at each drawing
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a `$` in a plugin's name is a `$`
    "pdf.fonttype": 42,
}


class Style(NamedTuple):
    """How a method is drawn."""

    color: str
    marker: str


BUILT_IN = {
    "smt+dmt": Style(VERMILION, "o"),
    "smt": Style(ORANGE, "s"),
    "bptt": Style(BLUE, "^"),
    "transformer": Style(GREEN, "D"),
    "rtrl": Style(PURPLE, "*"),
    "smt+dmt+bptt": Style(BROWN, "h"),
    "smt-dense": Style(OLIVE, "X"),
    "smt-dense+dmt": Style(INDIGO, "P"),
    "tbptt": Style(SKY, "v"),
}
"""The methods of this project, those of the paper first, in the order in which tables and legends list them."""
FURTHER = [
    Style(color, marker)
    for marker, colors in (("p", (BLACK, PURPLE, OLIVE, SKY)), ("<", (BROWN, GREEN, INDIGO, BLACK)),
                           (">", (SKY, VERMILION, OLIVE, BLUE)), ("d", (INDIGO, ORANGE, BLACK, PURPLE)))
    for color in colors
]  # fmt: skip
"""For plugins, in the order in which they were registered: grid.json keeps their numbers."""


def order(method: str) -> tuple[int, str]:
    """Sorts methods: the project's as `BUILT_IN` lists them, then the others by name."""
    names = list(BUILT_IN)
    return (names.index(method) if method in names else len(names), method)


def styles(methods: Iterable[str], numbers: Mapping[str, int] | None = None) -> dict[str, Style]:
    """A style for each method, whichever others there are. `numbers` are those that grid.json keeps."""
    return {method: _style(method, (numbers or {}).get(method)) for method in sorted(set(methods), key=order)}


def _style(method: str, number: int | None) -> Style:
    if method in BUILT_IN:
        return BUILT_IN[method]
    if number is not None:
        return FURTHER[(number - len(BUILT_IN)) % len(FURTHER)]
    drawn = hashlib.sha256(method.encode()).digest()  # of a folder without numbers: a hue of its own
    red, green, blue = colorsys.hls_to_rgb(int.from_bytes(drawn[:2], "big") / 2**16, 0.4, 0.6)
    return Style(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}", "p<>d*XPh"[drawn[2] % 8])


def tick_text(value: float, _: int | None = None) -> str:
    """A tick's number: 0.01, 25, 1k, 2M, 10⁻⁵; what a formatter of matplotlib calls."""
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    if 0 < power < 15:
        return f"{value / 1000 ** (power // 3):.4g}{' kMGT'[power // 3]}".replace(" ", "")
    factor = "" if math.isclose(value, 10**power) else f"{value / 10**power:g}·"
    return f"{factor}10{str(power).translate(SUPERSCRIPTS)}"
