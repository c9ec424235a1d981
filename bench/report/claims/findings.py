"""From comparisons to verdicts: what an interval says, what each setting says, and what they say together.

found = [finding("retrieval, length 16", effect, beyond(effect, MARGIN)), ...]      one per setting
decide([Part("SMT->DMT is ahead of BPTT", ..., found), ...], why="...")                      the verdict
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bench.report.claims.base import NUMBERS, Verdict, Word, no_numbers
from bench.report.words import interval as shown_interval
from bench.statistics import SEEDS_FOR_AN_INTERVAL, Interval

MARGIN = 0.02
"""Of accuracy: a smaller difference does not matter in practice; also about the sampling error of 512 answers."""
EQUAL = 0.05
"""Of accuracy: two that differ by less are equal. Wider than `MARGIN`, as a whole interval has to fit in."""
SOLVED = 0.98
"""Of the ceiling: who reaches it cannot be told from others who do."""
BITS = 0.02
"""A smaller difference in loss, in bits per token, does not matter in practice."""
LEARNED = 0.2
"""Of skill (0 at chance, 1 at the ceiling): below it a task is not learned, and there is nothing to look at."""
FEW_SEEDS = f"fewer than {SEEDS_FOR_AN_INTERVAL} seeds"
STRADDLES = "the interval over seeds is too wide to tell"

Outcome = Literal["for", "against", "unclear"]
Said = Outcome | Literal["level"]
"""What an interval says; level is within the margin throughout, which counts against claims of a difference."""
Beside = tuple[tuple[str, Interval], ...]
"""Further numbers: what they are, and they."""


@dataclass(frozen=True)
class Finding:
    """What one setting says about one part of a claim."""

    where: str
    outcome: Outcome
    effect: Interval
    beside: Beside = ()
    note: str = ""
    """Where it is unclear: why."""


def finding(where: str, effect: Interval, said: Said, beside: Beside = (), *unless: tuple[bool, str]) -> Finding:
    """The rule of all claims: what the interval says, but nothing where one of `unless` (whether, why) holds."""
    for holds, why in unless:
        if holds:
            return Finding(where, "unclear", effect, beside, why)
    if said == "level":
        return Finding(where, "against", effect, beside, "level")
    doubt = FEW_SEEDS if effect.n < SEEDS_FOR_AN_INTERVAL else STRADDLES
    return Finding(where, said, effect, beside, doubt if said == "unclear" else "")


@dataclass(frozen=True)
class Part:
    """A statement that a claim makes, and what each setting says about it."""

    says: str
    effect: str
    """What a finding's effect is, with its unit."""
    rule: str
    """When a finding counts."""
    findings: Sequence[Finding]
    missing: str
    """What would have to be run, for when there is no finding."""
    digits: int = 3

    @property
    def verdict(self) -> Word:
        """Mixed where findings disagree; else what most of them say. A claim about every setting falls with half."""
        count = Counter(one.outcome for one in self.findings)
        if not self.findings:
            return "not tested"
        if count["for"] and count["against"]:
            return "mixed"
        if count["against"]:
            return "contradicted" if count["against"] >= count["unclear"] else "inconclusive"
        return "supported" if count["for"] > count["unclear"] else "inconclusive"


def untested(what: str) -> Part:
    """A part of a claim that the data does not reach, and what it lacks."""
    return Part("", "", "", (), what)


def decide(parts: Sequence[Part], why: str, also: str = "") -> Verdict:
    """The verdict on all parts together; those without findings are named, and `also` is told last.

    Not tested where no part is. Mixed where one is mixed, or where one is supported and another contradicted. Else a
    claim falls with one of its parts, and stands only with all of them; while one is not tested, it is inconclusive.
    """
    tested = [part for part in parts if part.findings]
    gaps = list(dict.fromkeys(part.missing for part in parts if not part.findings))
    if not tested:
        return Verdict("not tested", " ".join(f"{text[:1].upper()}{text[1:]}" for text in gaps))
    found = {part.verdict for part in parts}
    verdict: Word = "supported"
    if "mixed" in found or {"supported", "contradicted"} <= found:
        verdict = "mixed"
    elif "contradicted" in found:
        verdict = "contradicted"
    elif found != {"supported"}:
        verdict = "inconclusive"
    gap = f"Not tested: {' '.join(gaps)}" if gaps else ""
    because = " ".join(text for text in (*_sentences(tested), gap, also) if text)
    return Verdict(verdict, because, numbers(tested), why if verdict in ("contradicted", "mixed") else None)


def numbers(parts: Iterable[Part]) -> pd.DataFrame:
    """The effects of all findings, each followed by the numbers beside it."""
    rows = []
    for part in parts:
        for one in part.findings:
            rows.append((f"{one.where}: {part.effect}", *one.effect))
            rows += [(f"{one.where}: {what}", *interval) for what, interval in one.beside]
    return pd.DataFrame(rows, columns=list(NUMBERS)).drop_duplicates(ignore_index=True) if rows else no_numbers()


TOLD: dict[Word, str] = {
    "supported": "Holds",
    "contradicted": "Fails",
    "mixed": "Settings disagree",
    "inconclusive": "Open",
}


def _sentences(parts: Sequence[Part]) -> list[str]:
    """A sentence for each word: which parts hold, fail, are open."""
    told = {head: [_phrase(part) for part in parts if part.verdict == word] for word, head in TOLD.items()}
    return [f"{head}: {'; '.join(phrases)}." for head, phrases in told.items() if phrases]


def _phrase(part: Part) -> str:
    """The effect, or its span over settings, beside what was asked, and where it is otherwise."""
    found = part.findings
    if len(found) == 1:
        (one,) = found
        note = f", {one.note}" if one.note else ""
        effect = shown_interval(one.effect, part.digits)
        return f"{part.says} ({part.effect}: {effect}; asked for: {part.rule}; {one.where}{note})"
    held, against, unclear = ([one for one in found if one.outcome == word] for word in ("for", "against", "unclear"))
    means = [one.effect.mean for one in found if math.isfinite(one.effect.mean)]
    ends = (min(means), max(means)) if means else (math.nan,)
    span = " to ".join(shown_interval((end, math.nan, math.nan), part.digits) for end in ends)
    words = [f"{part.effect}: {span}; asked for: {part.rule}"]
    if against:
        most = max(against, key=lambda one: abs(one.effect.mean))
        words.append(f"not at {len(against)}, as {most.where} with {shown_interval(most.effect, part.digits)}")
    if unclear:
        notes = Counter(one.note for one in unclear if one.note)
        words.append(f"undecided at {len(unclear)}: {', '.join(note for note, _ in notes.most_common(2))}")
    return f"{part.says} at {len(held)} of {len(found)} settings ({'; '.join(words)})"


# What an interval says.


def beyond(effect: Interval, margin: float) -> Said:
    """For: above zero and by the margin on average; against: below it likewise; level: within the margin throughout."""
    if effect.low > 0 and effect.mean >= margin:
        return "for"
    if effect.high < 0 and effect.mean <= -margin:
        return "against"
    return "level" if -margin <= effect.low and effect.high <= margin else "unclear"


def inside(effect: Interval, low: float, high: float) -> Outcome:
    """For: the whole interval is within the limits; against: it is outside; else unclear."""
    if low <= effect.low and effect.high <= high:
        return "for"
    return "against" if effect.high < low or effect.low > high else "unclear"


def minus(effect: Interval) -> Interval:
    """The same effect, counted the other way."""
    return Interval(-effect.mean, -effect.high, -effect.low, effect.n)


def exponential(logs: Interval) -> Interval:
    """From natural logarithms to what they are of: a geometric mean."""
    mean, low, high = (float(np.exp(value)) for value in logs[:3])
    return Interval(mean, low, high, logs.n)


def opposite(outcome: Outcome) -> Outcome:
    """For becomes against, and the other way round."""
    swapped: dict[Outcome, Outcome] = {"for": "against", "against": "for", "unclear": "unclear"}
    return swapped[outcome]
