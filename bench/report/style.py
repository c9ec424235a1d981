"""One look for all figures: the same method has the same colour and marker everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

# Okabe and Ito's colours, which colour-blind readers can tell apart; their yellow is too pale on white.
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY = "#707070"

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
