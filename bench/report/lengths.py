"""Length generalisation: accuracy against the length of test sequences, and its mean over lengths never trained on."""

from __future__ import annotations

import pandas as pd
from matplotlib.lines import Line2D

from bench.report import lines, style
from bench.report.claims.cells import CONFIG, scores
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, Section
from bench.report.lines import LINE
from bench.report.provenance import command
from bench.report.statistics import Interval

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
    return Section("lengths", "Length generalisation", (_exhibit(data, rows),))


def tested(data: Data) -> pd.DataFrame:
    """Scores of finished runs that were tested at several lengths, with the columns `PLACE` and `LINE`.

    All are on sequences from the start state, also of what learns from streams: so they compare over lengths.
    """
    rows = scores(data, from_start=True).dropna(subset=["length", "task.length"])
    rows = rows[rows.groupby(["grid", "id"])["length"].transform("nunique") > 1]
    rows = rows.assign(where="", setting="", trained_length=rows["task.length"])
    names = [str(name) for name in rows if str(name).startswith(CONFIG)]
    knobs = [name for name in names if name.startswith("task.")]
    others = [name for name in names if not name.startswith("task.")]
    for _, part in rows.groupby(["grid", "task"], sort=False):
        rows.loc[part.index, "where"] = lines.worded(part, lines.free(part, "trained_length", knobs))
    for _, part in rows.groupby([*PLACE, "method"], sort=False):
        rows.loc[part.index, "setting"] = lines.worded(part, lines.free(part, "length", others))
    return rows


def _exhibit(data: Data, rows: pd.DataFrame) -> Exhibit:
    looks = style.styles(data.methods)
    found = list(rows.groupby(PLACE, sort=True))
    shown = found[: lines.MOST_PANELS]
    figure, panels = lines.grid_of(len(shown), "accuracy on the test set")
    drawn: dict[str, Line2D] = {}
    marks: dict[str, Line2D] = {}
    grids, trained_lengths = rows["grid"].nunique(), rows.groupby("task")["trained_length"].nunique().max()
    for panel, ((grid, task, where, trained), part) in zip(panels, shown):
        marks |= lines.levels(panel, part, "length", ("accuracy_ceiling", "chance"))
        marks["trained length"] = panel.axvline(
            part["trained_length"].iloc[0], color=style.GREY, lw=1.2, ls=(0, (6, 3)), zorder=1
        )
        drawn |= lines.draw_all(panel, part, "length", "accuracy", looks)
        lines.spread(panel.xaxis, part["length"])
        panel.set_ylim(-0.03, 1.04)
        panel.set_xlabel("test length (tokens)")
        words = [str(task), str(where), f"trained at {trained:g}" if trained_lengths > 1 else ""]
        lines.title(panel, (f"{grid}: " if grids > 1 else "") + ", ".join(filter(None, words)))
    lines.legend(figure, drawn | marks)
    cut = f" The figure shows the first {len(shown)} of {len(found)} settings." if len(shown) < len(found) else ""
    table = scores_beyond(rows)
    return Exhibit(
        NAME,
        TITLE,
        f"{_told(table)} {lines.few_seeds(table['seeds'])}{cut}",
        lines.ran(data, zip(rows["grid"], rows["task"])),
        figure,
        table,
        tuple(dict.fromkeys(rows["task"])),
        tuple(sorted(set(rows["method"]), key=style.order)),
    )


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
        own = lines.per_seed(part, by, "accuracy").rename(columns={"accuracy": name})
        seeds = seeds.merge(own, on=[*by, "seed"], how="left")
    seeds["drop"] = 1 - seeds["longer"] / seeds["accuracy"]
    for name in (*parts, "drop"):
        found = lines.aggregate(seeds, by, name)
        names = {"mean": name, "low": f"{name}_low", "high": f"{name}_high", "seeds": f"seeds_{name}"}
        table = table.merge(found.rename(columns=names), on=by, how="left")
    counts = [f"seeds_{name}" for name in (*parts, "drop")]
    table["seeds"] = table[counts].max(axis=1).astype(int)
    for name, part in list(parts.items())[1:]:
        table = table.merge(_lengths(part, by, f"{name}_lengths"), on=by, how="left")
    facts = {"chance": "chance_longer", "accuracy_ceiling": "ceiling_longer"}
    means = parts["longer"].groupby(by, sort=False)[list(facts)].mean().reset_index().rename(columns=facts)
    table = table.drop(columns=counts).merge(means, on=by, how="left")
    table = table.assign(rank=table["method"].map(style.order))
    table = table.sort_values([*PLACE, "rank", "setting", "reference"], kind="stable").drop(columns="rank")
    gone = [name for name in ("where", "setting") if not table[name].astype(bool).any()]
    return table.drop(columns=gone).reset_index(drop=True)


def _lengths(rows: pd.DataFrame, by: list[str], name: str) -> pd.DataFrame:
    """Which lengths each group was tested at: `24, 32, 48`."""
    told = [(*key, ", ".join(f"{one:g}" for one in sorted(set(part)))) for key, part in rows.groupby(by)["length"]]
    return pd.DataFrame(told, columns=[*by, name])


def _told(table: pd.DataFrame) -> str:
    """For each task: scores at longer lengths, best first, with the accuracy at the trained length."""
    told = []
    own = table[table["longer"].notna()]
    places = [name for name in PLACE if name in own]
    several = len(set(table["grid"])) > 1
    for _, part in own.groupby(places, sort=False):
        first = part.iloc[0]
        ranked = part.sort_values("longer", ascending=False, kind="stable").to_dict("records")
        words = "; ".join(
            f"{row['method']}{' ' + str(row['predictor']) if row['reference'] else ''}"
            f"{', ' + row['setting'] if row.get('setting') else ''} "
            f"{'-' if pd.isna(row['accuracy']) else format(row['accuracy'], '.3f')} to "
            f"{lines.shown(Interval(row['longer'], row['longer_low'], row['longer_high'], row['seeds']))}"
            for row in ranked
        )
        place = ", ".join(filter(None, (first["grid"] if several else "", first["task"], first.get("where", ""))))
        ceiling = f", ceiling there {first['ceiling_longer']:.3f}" if first["ceiling_longer"] < 1 else ""
        told.append(
            f"{place} (trained at {first['trained_length']:g}, then {first['longer_lengths']}{ceiling}): {words}."
        )
    if not told:
        return "No cell was tested at longer lengths than it was trained at."
    return f"Accuracy at the trained length, to its mean over longer ones. {' '.join(told)}"
