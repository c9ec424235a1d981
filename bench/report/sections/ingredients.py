"""Ingredients: what becomes of a default setting when one thing about it is changed, for every such cell of a grid."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from bench.report import plot
from bench.report.data import Data
from bench.report.exhibit import Exhibit, Missing, exhibit
from bench.report.query import ABLATED, by_setting, known_words, label, scores, titled, varying
from bench.report.tables import in_order, tabulate, without_idle
from bench.report.words import whole_as_int

TITLE = "Ingredients"
FEWEST = 3
"""Fewer things that are changed are an ablation of their own."""
PLACE = ["grid", "task", "where"]


def exhibits(data: Data) -> Iterator[Exhibit | Missing]:
    """Accuracy with one thing changed at a time, beside the setting that is changed; nothing where no grid does so."""
    rows = changed(data)
    caption = "Accuracy with one thing changed at a time, the worst first; the line is the default setting's."
    if len(rows):
        yield exhibit(
            data, "ingredients", "One thing changed at a time", caption, rows, panels=panels, across=2, table=table
        )


def changed(data: Data) -> pd.DataFrame:
    """Trained predictors of the only default setting of a task's knobs, and those that depart from it in one field.

    `change` is the field with its value, in words, empty for the default; `where` the knobs.
    """
    rows = scores(data)
    rows = rows[rows["trained"] & ~rows["reference"]]
    found = [rows[:0].assign(where="", change="", difference=0.0)]
    for _, part in rows.groupby(["grid", "task"], sort=True):
        for setting, alike in by_setting(part, varying(part, ("task.",))):
            default, single = (alike[alike["off"].map(len) == count] for count in (0, 1))
            fields = single["off"].map(lambda names: next(iter(names), "")) if len(single) else single["id"]
            one = len(set(default["method"])) == 1 and not varying(default, ABLATED)
            if one and len(set(fields)) >= FEWEST:
                words = [_words(field, row) for field, row in zip(fields, single.to_dict("records"))]
                both = pd.concat([default.assign(change=""), single.assign(change=words)])
                usual = default.drop_duplicates("seed").set_index("seed")["accuracy"]
                difference = both["accuracy"] - both["seed"].map(usual)
                method = default["method"].iloc[0]
                found.append(both.assign(where=known_words(setting), difference=difference, method=method))
    return pd.concat(found, ignore_index=True)


def _words(field: str, row: Mapping[Hashable, Any]) -> str:
    """What is changed: `noise 0`; the method's name; `no curriculum` where a whole section is left out."""
    if field == "method":
        return str(row["method"])
    name = field.partition(".")[2]
    return label([(field, whole_as_int(row[field]))], {field: name}) if row.get(field) is not None else f"no {name}"


def panels(rows: pd.DataFrame) -> list[plot.Panel]:
    """One for each setting of a task."""
    found = []
    for (grid, task, where), part in rows.groupby(PLACE, sort=False):
        means = part.groupby("change")["accuracy"].mean().sort_values(kind="stable")
        names, method = list(means.index), str(part["method"].iloc[0])
        line = plot.over_seeds(part.assign(x=part["change"].map(names.index)), "x", "accuracy", method, kind="points")
        usual = plot.Mark("the default setting", float(names.index("")), method=method)
        levels = plot.levels(part.assign(x=0.0), "x")
        how: dict[str, Any] = {"ylim": (-0.03, 1.05), "names": [name or "default" for name in names]}
        title = titled(rows, grid, task, where)
        found.append(plot.Panel(title, "", "accuracy on the test set", [line], levels, [usual], **how))
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per change: accuracy, and its difference to the default setting, paired by seed, with intervals."""
    found = tabulate(rows, [*PLACE, "method", "change"], accuracy="interval", chance="mean", difference="interval")
    found = found.assign(change=found["change"].replace("", "default"))
    found = found.rename(columns={name: str(name).replace("difference", "minus_default") for name in found})
    return without_idle(in_order(found, *PLACE, "accuracy"))
