"""What results/scores/choices.parquet says of those who choose training data, as tidy rows, and how they are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gptfluence.choices.named import ANY_ORDER, BEST_RANDOM, RANDOM
from gptfluence.io import read_parquet
from gptfluence.paper.averages import Rows, average_groups
from gptfluence.paper.names import METHODS, list_attribution, sort_methods
from gptfluence.words import AVERAGE

_AT_RANDOM = {RANDOM: "Random", BEST_RANDOM: "Best of the random ones"}
_SIMULATORS = "Simulators"


def read_choices(path: str | Path) -> Rows:
    """Read the scores of every method on every group: group, model, task, method, measure, value, low, high, n.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_parquet(path).to_pylist()


def average_choices(rows: Rows) -> Rows:
    """Return the unweighted means over groups; none of what a method has not in all of them."""
    groups = {row["group"] for row in rows}
    cells: dict[tuple[str, str], Rows] = {}
    for row in rows:
        cells.setdefault((row["method"], row["measure"]), []).append(row)
    return [
        {"group": AVERAGE, "model": "", "task": "", "method": method, "measure": measure} | average_groups(parts)
        for (method, measure), parts in cells.items()
        if len(parts) == len(groups)
    ]


def list_choosers(methods: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return (method, family, name in print) in the order of the rows: random, simulators, then methods of attribution.

    A simulator stands before its choice in any order. `methods` that are both a simulator's and of attribution (none of
    the shipped ones are) count as attribution.
    """
    found = set(methods)
    at_random = [(name, "Random", label) for name, label in _AT_RANDOM.items() if name in found]
    loose = {name.removesuffix(ANY_ORDER) for name in found if name.endswith(ANY_ORDER)}
    simulators = [
        (name + ending, _SIMULATORS, METHODS.get(name, name) + suffix)
        for name in sort_methods(loose)
        for ending, suffix in (("", ""), (ANY_ORDER, ", in random order"))
    ]
    rest = found - _AT_RANDOM.keys() - {name for name, _, _ in simulators}
    return at_random + simulators + list_attribution(rest)
