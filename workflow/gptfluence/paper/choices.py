"""What results/scores/choices.parquet says of those who choose training data, as tidy rows, and how they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptfluence.io import read_parquet
from gptfluence.paper.averages import Rows, average_groups
from gptfluence.paper.names import METHODS, list_attribution, sort_methods
from gptfluence.words import AVERAGE, CHOSEN, RANDOM

Chooser = tuple[str, str]
"""Method that chose the examples, and the order: CHOSEN by it, or RANDOM."""

_AT_RANDOM = {RANDOM: "Random", "best_random": "Best of the random ones"}


def read_choices(path: str | Path) -> Rows:
    """Read the scores of every method on every group: group, model, task, method, order, measure, value, low, high, n.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_parquet(path).to_pylist()


def chooser(row: dict[str, Any]) -> Chooser:
    """Return whose choice a row is of."""
    return row["method"], row["order"]


def average_choices(rows: Rows) -> Rows:
    """Return the unweighted means over groups; none of what a method has not in all of them."""
    groups = {row["group"] for row in rows}
    cells: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        cells.setdefault((*chooser(row), row["measure"]), []).append(row)
    return [
        {"group": AVERAGE, "model": "", "task": "", "method": method, "order": order, "measure": measure}
        | average_groups(parts)
        for (method, order, measure), parts in cells.items()
        if len(parts) == len(groups)
    ]


def list_choosers(rows: Rows) -> list[tuple[Chooser, str, str]]:
    """Return (chooser, family, name in print) in the order of the rows: random, simulators, methods of attribution."""
    found = {chooser(row) for row in rows}
    listed = [((name, RANDOM), "Random", label) for name, label in _AT_RANDOM.items() if (name, RANDOM) in found]
    for name in sort_methods(method for method, order in found if order == CHOSEN):
        label = METHODS.get(name, name)
        listed += [((name, CHOSEN), "Simulators", label), ((name, RANDOM), "Simulators", f"{label}, random order")]
    rest = found - {who for who, _, _ in listed}
    return listed + [((name, RANDOM), family, label) for name, family, label in list_attribution(n for n, _ in rest)]
