"""Attribution scores of a group, in one Parquet file. Torch is not imported here: readers need none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet

COLUMNS = ("method", "task", "example", "tokens", "scores")
"""method; task and example: the training example; tokens: its target's; scores: one for each test. Rows stand by
method, then as the training examples of a group do: by task, the pool before the unseen pool."""


@dataclass(frozen=True)
class ScoreTables:
    """What methods say of each pair of a training and a test example: above zero, training on the one helps the other.

    Attributes:
        tokens: [train], target tokens of each training example.
        scores: by method, [train, tests].
    """

    tokens: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]]


def write_table_file(
    path: str | Path,
    train: Sequence[tuple[str, int]],
    tables: ScoreTables,
    provenance: dict[str, Any],
) -> None:
    """Write scores; `train`: task and number of each training example."""
    count = len(train)
    methods = len(tables.scores)
    names = list(dict.fromkeys(task for task, _ in train))
    task = np.array([names.index(name) for name, _ in train], np.int32)
    values = np.concatenate([np.ascontiguousarray(s, np.float32) for s in tables.scores.values()])
    columns = [
        _words(np.repeat(np.arange(methods), count), list(tables.scores)),
        _words(np.tile(task, methods), names),
        pa.array(np.tile(np.array([number for _, number in train], np.int32), methods)),
        pa.array(np.tile(tables.tokens.astype(np.int32), methods)),
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
    ]
    write_parquet(path, pa.table(dict(zip(COLUMNS, columns, strict=True))), provenance)


def read_table_file(path: str | Path) -> ScoreTables:
    """Read scores back.

    Raises:
        UserError: the file is missing or damaged, or a method does not have every training example.
    """
    table = read_parquet(path)
    if tuple(table.column_names) != COLUMNS:
        raise UserError(f"{path}: holds no attribution scores. Delete it and run snakemake again.")
    methods = list(dict.fromkeys(table["method"].to_pylist()))
    count, rest = divmod(len(table), max(len(methods), 1))
    if rest or table["method"].to_pylist() != [method for method in methods for _ in range(count)]:
        raise UserError(f"{path}: the methods' scores are not whole. Delete it and run snakemake again.")
    vectors = table["scores"].combine_chunks()
    values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(methods), count, vectors.type.list_size)
    tokens = table["tokens"].to_numpy()[:count].astype(np.int64)
    return ScoreTables(tokens, dict(zip(methods, values, strict=True)))


def _words(codes: NDArray[np.integer], words: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words, pa.string()))
