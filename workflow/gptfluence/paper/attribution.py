"""What results/scores/attribution.parquet and mislabels.parquet say of each method of attribution, as tidy rows."""

from __future__ import annotations

import math
from pathlib import Path

from gptfluence.io import read_parquet
from gptfluence.paper.averages import Rows, average_groups
from gptfluence.words import AVERAGE

AS_IT_IS, SCALED = "as it is", "scaled"
"""Forms of a method as a simulator: its scores in units of the loss, or times a number that was fitted."""

CEILING = "ceiling"
"""Under which name the LDS stands that noise leaves to the best method."""

MISLABELLED = "mislabelled"
"""Name, in the column of groups, of the runs on mislabelled data."""

FOUND_AT = 0.2
"""Of which share of the pool being checked it is told how many wrong labels are found."""

_SAME_METHOD = {"tracin": "tracin_cp"}
"""Self-influences of TracIn are taken at checkpoints."""


def read_judged(path: str | Path) -> Rows:
    """Read the scores of every method on every group: group, method, form, measure, value, low, high, n.

    A method's rows with a fitted scale bear its own name and the form SCALED.

    Raises:
        UserError: the file is missing or damaged.
    """
    rows = []
    for row in read_parquet(path).to_pylist():
        method = row["method"].removesuffix("_scaled")
        form = SCALED if method != row["method"] else AS_IT_IS
        kept = {key: row[key] for key in ("group", "measure", "value", "low", "high", "n")}
        rows.append(kept | {"method": method, "form": form})
    return [row for row in rows if row["value"] is not None]


def average_judged(rows: Rows) -> Rows:
    """Return the unweighted means over groups.

    A measure's mean is over the groups in which any method has it, and none of a method that lacks it in one.
    """
    groups: dict[str, set[str]] = {}
    cells: dict[tuple[str, str, str], Rows] = {}
    for row in rows:
        groups.setdefault(row["measure"], set()).add(row["group"])
        cells.setdefault((row["method"], row["form"], row["measure"]), []).append(row)
    return [
        {"group": AVERAGE, "method": method, "form": form, "measure": measure} | average_groups(parts)
        for (method, form, measure), parts in cells.items()
        if len(parts) == len(groups[measure])
    ]


def read_mislabels(path: str | Path) -> Rows:
    """Read how well each method finds wrong labels, in the form of `read_judged`: measures auc, and found at FOUND_AT.

    Raises:
        UserError: the file is missing or damaged.
    """
    return [
        {"group": MISLABELLED, "method": _SAME_METHOD.get(row["method"], row["method"]), "form": AS_IT_IS}
        | {key: row[key] for key in ("measure", "value", "n")}
        | {"low": None, "high": None}
        for row in read_parquet(path).to_pylist()
        if row["measure"] == "auc" or (row["measure"] == "found" and math.isclose(row["fraction"], FOUND_AT))
    ]
