"""What results/scores/simulators.parquet says of variants of simulators and of fewer and more fitting runs."""

from __future__ import annotations

from pathlib import Path

from gptfluence.io import read_parquet
from gptfluence.paper.averages import Rows


def read_variants(path: str | Path) -> Rows:
    """Read the scores of methods and their variants on all fitting runs, where they have a value.

    Raises:
        UserError: the file is missing or damaged.
    """
    return [row for row in read_parquet(path).to_pylist() if not row["choice"] and row["value"] is not None]


def read_learning(path: str | Path) -> Rows:
    """Read the scores of methods on random or chosen fitting runs, where they have a value.

    Raises:
        UserError: the file is missing or damaged.
    """
    return [row for row in read_parquet(path).to_pylist() if row["choice"] and row["value"] is not None]
