"""One look for all figures: the same method has the same colour and marker everywhere."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colours, which colour-blind readers can tell apart; their yellow is too pale on white.
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY = "#707070"

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LEAST_DECADES = 0.8
"""Of a logarithmic axis: so many hold at least two ticks of 1, 2, 5, 10 .."""

RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
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


HOUSE = {
    "smt+dmt": Style(VERMILION, "o"),
    "smt": Style(ORANGE, "s"),
    "bptt": Style(BLUE, "^"),
    "transformer": Style(GREEN, "D"),
}
"""The methods of the paper, in the order in which tables and legends list them."""

FREE = [Style(color, marker) for marker in "vPX*<>p" for color in (PURPLE, SKY, BLACK)]
"""For all other methods; no colour of the house's, so that colour alone tells these apart from those."""


def order(method: str) -> tuple[int, str]:
    """Sorts methods: the house's as `HOUSE` lists them, then the others by name."""
    names = list(HOUSE)
    return (names.index(method) if method in names else len(names), method)


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """A style for each method. Others than the house's get theirs by a hash of their name; two alike move apart."""
    chosen: dict[str, Style] = {}
    for method in sorted(set(methods), key=order):
        if method in HOUSE:
            chosen[method] = HOUSE[method]
            continue
        slot = int(hashlib.sha256(method.encode()).hexdigest(), 16) % len(FREE)
        turned = FREE[slot:] + FREE[:slot]
        chosen[method] = next((style for style in turned if style not in chosen.values()), turned[0])
    return chosen


def plain(value: float, _: int | None = None) -> str:
    """A tick's number: 0.01, 25, 1k, 2M, 10⁻⁵; what a formatter of matplotlib calls."""
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    if 0 < power < 15:
        return f"{value / 1000 ** (power // 3):g}{' kMGT'[power // 3]}"
    factor = "" if math.isclose(value, 10**power) else f"{value / 10**power:g}·"
    return f"{factor}10{str(power).translate(SUPERSCRIPTS)}"


def logarithmic(axis: Axis, most: int = 5) -> None:
    """Make an axis that holds its data logarithmic, with at most `most` plain ticks.

    At least `LEAST_DECADES` are shown, so that what is flat looks flat.
    """
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    low, high = (math.log10(end) for end in sorted(axis.get_view_interval()))
    more = max(0.0, LEAST_DECADES - (high - low)) / 2
    low, high = low - more, high + more
    axis.axes.set(**{f"{axis.axis_name}lim": (10**low, 10**high)})  # type: ignore[attr-defined]
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors, step in (((1, 2, 5), 1), ((1, 3), 1), *(((1,), step) for step in range(1, len(powers) + 1))):
        ticks = [factor * 10.0**power for power in powers if power % step == 0 for factor in factors]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) <= most:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(plain))
