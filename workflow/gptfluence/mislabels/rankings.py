"""The orders in which labels are checked, in one Parquet file. Torch is not imported here: readers need none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet

RANDOM = "random"
"""Beginning of the names of random orders: random_0, random_1, ..."""

SCHEMA = pa.schema(
    [
        ("method", pa.dictionary(pa.int32(), pa.string())),
        ("place", pa.int32()),
        ("example", pa.int32()),
        ("score", pa.float64()),
        ("flipped", pa.bool_()),
    ]
)
"""Columns: method, place (0: checked first), example, score (the method's own; null for random orders) and flipped:
whether the example's label really is wrong. Rows stand by method, then by place."""


@dataclass(frozen=True)
class Ranking:
    """One order in which the labels of a pool are checked.

    Attributes:
        order: [pool]; the examples' numbers, the one that is checked first first.
        scores: [pool], in this order; None for a random order.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None


def write_rankings(
    path: str | Path, rankings: Mapping[str, Ranking], flipped: NDArray[np.bool_], provenance: dict[str, Any]
) -> None:
    """Write orders; `flipped`: [pool], by the examples' numbers."""
    size = len(flipped)
    method = np.repeat(np.arange(len(rankings), dtype=np.int32), size)
    scores = [np.full(size, np.nan) if r.scores is None else r.scores for r in rankings.values()]
    order = np.concatenate([r.order for r in rankings.values()])
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(method), pa.array(list(rankings), pa.string())),
        pa.array(np.tile(np.arange(size, dtype=np.int32), len(rankings))),
        pa.array(order.astype(np.int32)),
        pa.array(np.concatenate(scores), from_pandas=True),
        pa.array(flipped[order]),
    ]
    write_parquet(path, pa.Table.from_arrays(columns, schema=SCHEMA), provenance)


def read_rankings(path: str | Path, pool: int) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.bool_]]:
    """Read orders back.

    Args:
        pool: how many examples each order must hold.

    Returns:
        The order of each method, as in `Ranking`, and which examples are flipped: [pool], by their numbers.

    Raises:
        UserError: the file is missing or damaged, or an order does not hold each example of the pool once.
    """
    table = read_parquet(path, ["method", "place", "example", "flipped"])
    methods = np.array(table["method"].to_pylist(), dtype=object)
    place, example, wrong = (table[name].to_numpy() for name in ("place", "example", "flipped"))
    orders = {}
    flipped = np.zeros(pool, bool)
    for method in dict.fromkeys(methods):
        rows = np.flatnonzero(methods == method)
        rows = rows[np.argsort(place[rows])]
        for what, values in (("place", place[rows]), ("example", np.sort(example[rows]))):
            if not np.array_equal(values, np.arange(pool)):
                raise UserError(
                    f"{path}: the order of {method} does not hold each {what} from 0 to {pool - 1} once. "
                    "Delete it and run snakemake again."
                )
        orders[method] = example[rows].astype(np.int64)
        flipped[example[rows]] = wrong[rows]
    return orders, flipped


def checked_count(fraction: float, pool: int) -> int:
    """Return how many labels of a pool are checked."""
    return round(fraction * pool)
