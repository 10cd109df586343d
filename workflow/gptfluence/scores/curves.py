"""Example trajectories for the figures: curves.parquet and unseen_curves.parquet of results/scores.

One row group holds one run's trajectories of one metric, so that a reader of one model reads nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gptfluence.errors import UserError
from gptfluence.io import METADATA_KEY, atomic_path, canonical_json, read_provenance
from gptfluence.scores.simulations import Simulations, read_simulations
from gptfluence.words import HALF_WIDTHS

_WORD = pa.dictionary(pa.int32(), pa.string())
_FLOATS = ("value", *HALF_WIDTHS)

SCHEMA = pa.schema(
    [(name, _WORD) for name in ("scenario", "model", "group", "metric", "setting", "run_id", "method", "task")]
    + [("example", pa.int32()), ("step", pa.int32())]
    + [(name, pa.float32()) for name in _FLOATS]
)


@dataclass(frozen=True, order=True)
class ExampleRun:
    """Which run a row group shows, its trajectories of which metric, and what was unseen to the fits.

    Attributes:
        setting: seen, unseen_train, unseen_test or unseen_both.
    """

    scenario: str
    model: str
    group: str
    metric: str
    setting: str
    run_id: str


def write_curves(path: str | Path, curves: dict[ExampleRun, Simulations]) -> None:
    """Write the trajectories of single runs (see `Simulations.single`), sorted by SCHEMA's columns up to `step`.

    Raises:
        UserError: the file cannot be written.
    """
    provenance = {"curves": {"runs": sorted({run.run_id for run in curves})}}
    schema = SCHEMA.with_metadata({METADATA_KEY: canonical_json(provenance).encode()})
    # Floats compress better split into their bytes. Checksums as in all our files.
    form = {"use_dictionary": SCHEMA.names[: -len(_FLOATS)],
            "column_encoding": dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT"),
            "compression": "zstd", "write_page_checksum": True}  # fmt: skip
    with atomic_path(path) as part, pq.ParquetWriter(part, schema, **form) as writer:
        for run in sorted(curves):
            table = _table(run, curves[run])
            writer.write_table(table, row_group_size=table.num_rows)


def list_curves(path: str | Path) -> list[ExampleRun]:
    """Return whose trajectories a file of curves holds; reads the footer only.

    Raises:
        UserError: the file is missing or damaged.
    """
    return list(_row_groups(path))


def read_curves(path: str | Path, runs: list[ExampleRun]) -> dict[ExampleRun, Simulations]:
    """Read the trajectories of some of a file's runs, and only those.

    Raises:
        UserError: the file is missing, damaged or incomplete.
    """
    places = _row_groups(path)
    return {run: read_simulations(path, places[run]) for run in runs}


def _row_groups(path: str | Path) -> dict[ExampleRun, list[int]]:
    """Return the places of each run's row groups, found by their statistics: such a column holds one word."""
    read_provenance(path)  # names a missing or foreign file
    with pq.ParquetFile(path) as file:
        metadata, names = file.metadata, file.schema_arrow.names
    if names != SCHEMA.names:
        raise UserError(f"{path}: holds no curves. Delete it and run snakemake again.")
    places = defaultdict(list)
    for number in range(metadata.num_row_groups):
        columns = [metadata.row_group(number).column(place) for place in range(len(fields(ExampleRun)))]
        places[ExampleRun(*(column.statistics.min for column in columns))].append(number)
    return dict(places)


def _table(run: ExampleRun, simulations: Simulations) -> pa.Table:
    """Return the rows of one run; a method has rows from its first predicted step on."""
    methods, runs, length, tests = simulations.values.shape
    if runs != 1:
        raise ValueError(f"{run.group}: trajectories of {runs} runs, not of one")
    kept = np.arange(length) >= np.array(simulations.starts)[:, None, None]
    method, test, step = np.nonzero(np.broadcast_to(kept, (methods, tests, length)))
    tasks, task = np.unique(simulations.tasks, return_inverse=True)
    zeros = np.zeros(len(method), np.int32)
    half_widths = np.full((len(HALF_WIDTHS), *simulations.values.shape), np.nan, np.float32)
    for name, widths in simulations.half_widths.items():
        half_widths[:, simulations.methods.index(name)] = widths
    columns = [
        *(_words(zeros, [word]) for word in astuple(run)),
        _words(method, simulations.methods),
        _words(task[test], tasks.tolist()),
        simulations.examples[test].astype(np.int32),
        step.astype(np.int32),
        simulations.values[method, 0, step, test],
        *(pa.array(widths[method, 0, step, test], from_pandas=True) for widths in half_widths),  # no interval: null
    ]
    return pa.table(columns, schema=SCHEMA)


def _words(codes: np.ndarray, words: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words, pa.string()))
