"""What gradients say of each step of replayed runs, in one Parquet file. Torch is not imported here: readers need none.

Columns: method, run_id, step (from 1 on) and effects: by how much the step changes the loss of each test example, in
nats per token; test examples stand task by task, in the order of their numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet

Effects = dict[tuple[str, str], NDArray[np.float32]]
"""By method and run: [steps, test examples]."""

_COLUMNS = ("method", "run_id", "step", "effects")


def write_effects(path: str | Path, effects: Effects, provenance: dict[str, Any]) -> None:
    """Write effects in the order that they have.

    Args:
        effects: at least one; all of the same test examples.
        provenance: JSON-able; see `io.write_parquet`.

    Raises:
        UserError: the file cannot be written.
    """
    lengths = [len(values) for values in effects.values()]
    methods, runs = zip(*effects, strict=True)
    table = pa.table(
        {
            "method": _named(methods, lengths),
            "run_id": _named(runs, lengths),
            "step": pa.array(np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in lengths])),
            "effects": _listed(np.concatenate(list(effects.values()))),
        }
    )
    write_parquet(path, table, provenance)


def _named(names: tuple[str, ...], lengths: list[int]) -> pa.DictionaryArray:
    distinct = list(dict.fromkeys(names))
    return pa.DictionaryArray.from_arrays(np.repeat([distinct.index(n) for n in names], lengths).astype("i4"), distinct)


def _listed(values: NDArray[np.float32]) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def read_effects(path: str | Path) -> Effects:
    """Read the effects of every method and run of a file.

    Raises:
        UserError: the file is missing or damaged, has other columns, or lacks a step.
    """
    table = read_parquet(path)
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}. Delete it and run snakemake again.")
    method, run = (table[name].combine_chunks().dictionary_encode() for name in ("method", "run_id"))
    steps = table["step"].to_numpy()
    lists = table["effects"].combine_chunks()
    values = lists.flatten().to_numpy().reshape(len(lists), -1)
    keys = np.stack([method.indices.to_numpy(), run.indices.to_numpy()], axis=1)
    found: Effects = {}
    for of_method, of_run in dict.fromkeys(map(tuple, keys.tolist())):
        rows = (keys == (of_method, of_run)).all(axis=1)
        name = method.dictionary[of_method].as_py(), run.dictionary[of_run].as_py()
        if not np.array_equal(steps[rows], np.arange(1, rows.sum() + 1)):
            raise UserError(
                f"{path}: {name[0]} of run {name[1]} has not each step once, in order. "
                "Delete it and run snakemake again."
            )
        found[name] = values[rows]
    return found
