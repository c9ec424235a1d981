"""The one judge of all claims: what each setting says by a part's rule, and what they say together.

found = [Case("retrieval, length 16", paired_difference(smt, bptt)), ...]                    one per setting
decide([Part("SMT->DMT is ahead of BPTT", "accuracy, smt+dmt minus bptt", ahead(MARGIN), found)], "...", runs)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import pandas as pd

from bench.report.claims.base import NUMBERS, Verdict, Word, no_numbers
from bench.report.claims.regime import regime
from bench.report.tables import mean_of
from bench.report.words import interval as shown
from bench.statistics import SEEDS_FOR_AN_INTERVAL, Interval

MARGIN = 0.02
"""A smaller difference in accuracy does not matter in practice; also about the sampling error of 512 answers."""
EQUAL = 0.05
"""Accuracies that differ by less are equal. Wider than `MARGIN`, as a whole interval has to fit in."""
SOLVED = 0.98
"""A share of the ceiling: methods that reach it cannot be told apart."""
BITS = 0.02
"""A smaller difference in loss, in bits per token, does not matter in practice."""
LEARNED = 0.2
"""A skill (0 at chance, 1 at the ceiling) below which a task is not learned, and there is nothing to look at."""

Said = Literal["for", "against", "level", "unclear"]
"""What an interval says; level is within the margin throughout, which counts against claims of a difference."""
Beside = tuple[tuple[str, Interval], ...]
"""Further numbers: what they are, and they."""
Unless = tuple[bool, str]
"""Whether something holds that leaves a case undecided, and what it is."""


class Rule(NamedTuple):
    """When an effect counts for a statement, and when against it."""

    words: str
    says: Callable[[Interval], Said]

    def opposite(self) -> Rule:
        """For what counts against this, and against what counts for it; between them unclear."""
        swapped: dict[str, Said] = {"for": "against", "against": "for"}
        return Rule(f"not {self.words}", lambda effect: swapped.get(self.says(effect), "unclear"))


def ahead(margin: float) -> Rule:
    """For: above zero and by the margin on average; against: below it likewise; level: within the margin throughout."""

    def says(effect: Interval) -> Said:
        if effect.low > 0 and effect.mean >= margin:
            return "for"
        if effect.high < 0 and effect.mean <= -margin:
            return "against"
        return "level" if -margin <= effect.low and effect.high <= margin else "unclear"

    return Rule(f"{margin:g} or more, interval above zero", says)


def within(low: float = -math.inf, high: float = math.inf) -> Rule:
    """For: the whole interval is within the limits; against: it is outside."""
    ends = [f"above {low:.3g}"] * math.isfinite(low) + [f"below {high:.3g}"] * math.isfinite(high)
    return apart(
        f"interval {' and '.join(ends)}",
        lambda effect: low <= effect.low and effect.high <= high,
        lambda effect: effect.high < low or effect.low > high,
    )


def apart(words: str, good: Callable[[Interval], bool], bad: Callable[[Interval], bool]) -> Rule:
    """For where `good` holds, against where `bad` does, and between them unclear."""
    return Rule(words, lambda effect: "for" if good(effect) else "against" if bad(effect) else "unclear")


def stated(words: str) -> Rule:
    """The rule of cases that say themselves what they say (`Case.said`)."""
    return Rule(words, lambda effect: "unclear")


class Case(NamedTuple):
    """One setting: its effect, what is to be known beside it, and what would leave it undecided."""

    where: str
    effect: Interval
    beside: Beside = ()
    unless: Mapping[str, Sequence[Unless]] = {}
    """What the rule says -> reasons not to follow it; under "" those that hold whatever it says."""
    said: Said | None = None  # where it is not the part's rule that says it


Outcome = Literal["for", "against", "unclear"]
OUTCOMES = get_args(Outcome)


class Finding(NamedTuple):
    """What one setting says about one part of a claim."""

    where: str
    outcome: Outcome
    effect: Interval
    note: str = ""  # where it is unclear: why


def judge(rule: Rule, case: Case) -> Finding:
    """The rule, unless something leaves the case undecided: too few seeds, or what the case itself names."""
    said = case.said or rule.says(case.effect)
    for holds, why in (*case.unless.get("", ()), *case.unless.get(said, ())):
        if holds:
            return Finding(case.where, "unclear", case.effect, why)
    if said == "unclear":
        few = case.effect.n < SEEDS_FOR_AN_INTERVAL
        note = f"fewer than {SEEDS_FOR_AN_INTERVAL} seeds" if few else "the interval over seeds is too wide to tell"
        return Finding(case.where, said, case.effect, note)
    return Finding(case.where, "against" if said == "level" else said, case.effect, "level" if said == "level" else "")


@dataclass(frozen=True)
class Part:
    """A statement that a claim makes, and the settings that say something about it."""

    says: str
    effect: str  # what a case's effect is, with its unit
    rule: Rule
    cases: Sequence[Case]
    needs: str = ""  # what runs must have besides being finished
    digits: int = 3

    @cached_property
    def findings(self) -> list[Finding]:
        """Every case, judged."""
        return [judge(self.rule, case) for case in self.cases]

    @cached_property
    def verdict(self) -> Word:
        """Mixed where findings disagree; else what most of them say. A claim about every setting falls with half."""
        count = Counter(finding.outcome for finding in self.findings)
        if not self.findings:
            return "not tested"
        if count["for"] and count["against"]:
            return "mixed"
        if count["against"]:
            return "contradicted" if count["against"] >= count["unclear"] else "inconclusive"
        return "supported" if count["for"] > count["unclear"] else "inconclusive"


HEADS: dict[Word, str] = {
    **{"supported": "Holds", "contradicted": "Fails", "mixed": "Settings disagree", "inconclusive": "Open"},
    "not tested": "No finished runs",
}


def decide(parts: Sequence[Part], why: str, runs: pd.DataFrame | None = None) -> Verdict:
    """The verdict on all parts together, in the regime of these runs.

    Not tested where no part is. Mixed where one is mixed, or where one is supported and another contradicted. Else a
    claim falls with one of its parts, and stands only with all of them; while one is not tested, it is inconclusive.
    """
    found = {part.verdict for part in parts}
    verdict: Word = "inconclusive"
    if len(found) == 1:
        (verdict,) = found
    elif "mixed" in found or {"supported", "contradicted"} <= found:
        verdict = "mixed"
    elif "contradicted" in found:
        verdict = "contradicted"
    by_head = {head: [_phrase(part) for part in parts if part.verdict == word] for word, head in HEADS.items()}
    because = " ".join(f"{head}: {'; '.join(phrases)}." for head, phrases in by_head.items() if phrases)
    where = regime(runs) if runs is not None and verdict != "not tested" else ""
    return Verdict(verdict, because, numbers(parts), why if verdict in ("contradicted", "mixed") else None, where)


def numbers(parts: Iterable[Part]) -> pd.DataFrame:
    """The effects of all cases, each followed by the numbers beside it."""
    rows = [
        (f"{case.where}: {what}", *interval)
        for part in parts
        for case in part.cases
        for what, interval in ((part.effect, case.effect), *case.beside)
    ]
    return pd.DataFrame(rows, columns=list(NUMBERS)).drop_duplicates(ignore_index=True) if rows else no_numbers()


def _phrase(part: Part) -> str:
    """How many settings agree, the span of the effect, what was asked of it, and the worst of those that disagree."""
    if not part.findings:
        return part.says + (f" ({part.needs})" if part.needs else "")
    by_outcome = {word: [case for case in part.findings if case.outcome == word] for word in OUTCOMES}
    held, against, unclear = by_outcome.values()
    effects = sorted((case.effect for case in part.findings), key=lambda effect: (math.isnan(effect.mean), effect.mean))
    several = [Interval(effect.mean, math.nan, math.nan, 0) for effect in (effects[0], effects[-1])]
    ends = effects if len(effects) == 1 else several
    words = [f"{part.effect}: {' to '.join(shown(end, part.digits) for end in ends)}; asked for: {part.rule.words}"]
    if against:
        most = max(against, key=lambda finding: abs(finding.effect.mean))
        words.append(f"not at {most.where} with {shown(most.effect, part.digits)}")
    notes = Counter(finding.note for finding in (*unclear, *against) if finding.note)
    words += [f"undecided at {len(unclear)}"] if unclear else []
    words += [note for note, _ in notes.most_common(2)]
    return f"{part.says} at {len(held)} of {len(part.findings)} settings ({'; '.join(words)})"


def means(runs: Mapping[str, pd.DataFrame], column: str, words: str) -> Beside:
    """The mean of a column over each of these runs, called by `words` with its key in the place of {}."""
    return tuple((words.format(key), mean_of(rows, column)) for key, rows in runs.items())
