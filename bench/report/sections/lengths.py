"""Length generalisation: accuracy against the length of test sequences, and its mean over lengths never trained on."""

from __future__ import annotations

import pandas as pd

from bench.report import plot, style
from bench.report.data import Data
from bench.report.exhibit import Missing, Section, command, exhibit
from bench.report.query import CONFIG, LINE, aggregate, free, names_of, per_seed, scores, titled, without_idle, worded
from bench.report.words import few_seeds, sentences

NAME, TITLE = "length-generalisation", "Accuracy against test length"
PLACE = ["grid", "task", "where", "trained_length"]
"""A setting of a task: `where` are the knobs that vary besides the trained length, in words."""


def section(data: Data) -> Section:
    """Accuracy at every test length, a panel per task, and what is left of it at lengths never trained on."""
    rows = tested(data)
    if rows.empty:
        reason = (
            "no finished cells with scores at several test lengths (evaluation.lengths); "
            f"`{command('length-small')}` brings them"
        )
        return Section("lengths", "Length generalisation", (Missing(NAME, TITLE, reason),))
    table = scores_beyond(rows)
    caption = "Accuracy on test sequences of each length; vertical lines are the trained lengths."
    made = exhibit(
        data, NAME, TITLE, sentences(caption, few_seeds(table["seeds"])), rows, panels=panels(rows), table=table
    )
    return Section("lengths", "Length generalisation", (made,))


def tested(data: Data) -> pd.DataFrame:
    """Scores of finished runs that were tested at several lengths, with the columns `PLACE` and `LINE`.

    All are on sequences from the start state, also of what learns from streams: so they compare over lengths.
    """
    rows = scores(data, from_start=True).dropna(subset=["length", "task.length"])
    rows = rows[rows.groupby(["grid", "id"])["length"].transform("nunique") > 1]
    rows = rows.assign(where="", setting="", trained_length=rows["task.length"])
    knobs = names_of(rows, "task.")
    others = [name for name in names_of(rows, CONFIG) if name not in knobs]
    for _, part in rows.groupby(["grid", "task"], sort=False):
        rows.loc[part.index, "where"] = worded(part, free(part, "trained_length", knobs))
    for _, part in rows.groupby([*PLACE, "method"], sort=False):
        rows.loc[part.index, "setting"] = worded(part, free(part, "length", others))
    return rows


def panels(rows: pd.DataFrame) -> list[plot.Panel]:
    """One for each setting of a task that was trained at one length."""
    lengths = rows.groupby("task")["trained_length"].nunique().max()
    found = []
    for (grid, task, where, trained), part in rows.groupby(PLACE, sort=True):
        at = f"trained at {trained:g}" if lengths > 1 else ""
        found.append(
            plot.Panel(
                titled(rows, grid, task, where, at),
                "test length (tokens)",
                "accuracy on the test set",
                plot.sweep_lines(part, "length", "accuracy"),
                plot.levels(part, "length"),
                [plot.Mark("trained length", float(part["trained_length"].iloc[0]))],
                ylim=(-0.03, 1.04),
            )
        )
    return found


def scores_beyond(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per setting and line. Its score is the mean accuracy over all longer lengths than the trained one.

    Columns: accuracy (at the trained length), longer (the score), shorter (the mean over shorter lengths) and drop
    (the part of the accuracy that is lost at longer lengths, 1 - longer / accuracy), each with `_low` and `_high`, and
    seeds. Means are over lengths first, of each seed, then over seeds. chance_longer and ceiling_longer are what to
    judge the score by; longer_lengths and shorter_lengths tell which these were.
    """
    by = [*PLACE, *LINE]
    at = rows["length"] - rows["trained_length"]
    parts = {"accuracy": rows[at == 0], "longer": rows[at > 0], "shorter": rows[at < 0]}
    table = rows[by].drop_duplicates().reset_index(drop=True)
    seeds = rows[[*by, "seed"]].drop_duplicates()
    for name, part in parts.items():
        own = per_seed(part, by, "accuracy").rename(columns={"accuracy": name})
        seeds = seeds.merge(own, on=[*by, "seed"], how="left")
    seeds["drop"] = 1 - seeds["longer"] / seeds["accuracy"]
    counts = []
    for name in (*parts, "drop"):
        own = aggregate(seeds, by, name, name).rename(columns={"seeds": f"seeds_{name}"})
        table = table.merge(own, on=by, how="left")
        counts.append(f"seeds_{name}")
    table["seeds"] = table[counts].max(axis=1).astype(int)
    for name in ("longer", "shorter"):
        lengths = parts[name].groupby(by)["length"].agg(lambda part: ", ".join(f"{one:g}" for one in sorted(set(part))))
        table = table.merge(lengths.rename(f"{name}_lengths").reset_index(), on=by, how="left")
    facts = {"chance": "chance_longer", "accuracy_ceiling": "ceiling_longer"}
    means = parts["longer"].groupby(by, sort=False)[list(facts)].mean().reset_index().rename(columns=facts)
    table = table.drop(columns=counts).merge(means, on=by, how="left")
    table = table.assign(rank=table["method"].map(style.order))
    table = table.sort_values([*PLACE, "rank", "setting", "reference"], kind="stable")
    return without_idle(table, "rank", keep_grid=True)
