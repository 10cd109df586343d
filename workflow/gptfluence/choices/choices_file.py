"""Chosen curricula of a group, in one Parquet file. Torch is not imported here: readers need none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.choices.named import Choice
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet

SCHEMA = pa.schema(
    [
        ("choice", pa.string()),
        ("method", pa.string()),
        ("order", pa.string()),
        ("split", pa.int32()),
        ("half", pa.int32()),
        ("target", pa.list_(pa.int32())),
        ("batches", pa.list_(pa.list_(pa.int32()))),
        ("predicted", pa.float64()),
        ("predicted_random", pa.float64()),
    ]
)
"""Columns, a row for each choice; see `Chosen`. batches: the examples of each step's batch."""


@dataclass(frozen=True)
class Chosen:
    """One chosen curriculum.

    Attributes:
        choice: its name, and who chose.
        target: [targets], numbers of the tests that it was chosen for; none of a random one.
        examples: [steps, batch].
        predicted: the targets' mean loss after it, as the simulator that chose the examples predicts it; None of
            others.
        predicted_random: what that simulator predicts after random choices, their mean.
    """

    choice: Choice
    target: NDArray[np.int64]
    examples: NDArray[np.int64]
    predicted: float | None = None
    predicted_random: float | None = None


def write_choices(path: str | Path, chosen: Sequence[Chosen], provenance: dict[str, Any]) -> None:
    """Write choices."""
    rows = [
        {
            "choice": one.choice.name,
            "method": one.choice.method,
            "order": one.choice.order,
            "split": one.choice.split,
            "half": one.choice.half,
            "target": one.target.tolist(),
            "batches": one.examples.tolist(),
            "predicted": one.predicted,
            "predicted_random": one.predicted_random,
        }
        for one in chosen
    ]
    write_parquet(path, pa.Table.from_pylist(rows, SCHEMA), provenance)


def read_choices(path: str | Path) -> dict[str, Chosen]:
    """Read choices back, by name.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    table = read_parquet(path)
    if table.schema.names != SCHEMA.names:
        raise UserError(f"{path}: holds no choices. Delete it and run snakemake again.")
    return {
        row["choice"]: Chosen(
            Choice(row["choice"], row["method"], row["order"], row["split"], row["half"]),
            np.array(row["target"], np.int64),
            np.array(row["batches"], np.int64),
            row["predicted"],
            row["predicted_random"],
        )
        for row in table.to_pylist()
    }
