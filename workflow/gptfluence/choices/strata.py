"""Examples whose targets are the same, such as a label: what is chosen keeps their shares.

Effects of single examples do not add up where they all say the same: of a task of two labels the examples with the
highest scores are all of one, and a GPT that is trained on them never says the other. No method is meant to find that
out, so each chooses among the examples of a label, as many of each as the pool's shares make.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import read_parquet


def read_targets(path: str | Path, form: str, part: str, count: int) -> list[str]:
    """Return the targets of a task's pool or tests, in the order of their numbers.

    Args:
        path: the prepared task.
        form: plain or instruction.
        part: pool or test.
        count: how many there are.

    Raises:
        UserError: the file is missing or damaged, or holds another number of them.
    """
    rows = read_parquet(path, ["part", "example", "format", "target"]).to_pylist()
    targets = {row["example"]: row["target"] for row in rows if (row["part"], row["format"]) == (part, form)}
    if sorted(targets) != list(range(count)):
        raise UserError(f"{path}: does not hold {count} examples of part {part}. Delete it and run snakemake again.")
    return [targets[i] for i in range(count)]


def stratify(targets: Sequence[str], most: int) -> NDArray[np.int64]:
    """Return the number of each example's stratum, its target's; 0 of all if there are more targets than `most`."""
    names, strata = np.unique(np.array(targets, dtype=object), return_inverse=True)
    return strata.astype(np.int64) if len(names) <= most else np.zeros(len(targets), np.int64)


def share_out(strata: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Return how many examples of each stratum are chosen: as its share is, rounded so that they are `budget`.

    The largest remainders are rounded up, among equal ones the first.
    """
    exact = np.bincount(strata) * budget / len(strata)
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: budget - quotas.sum()]] += 1
    return quotas
