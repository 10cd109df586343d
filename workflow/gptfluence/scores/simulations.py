"""Measured and simulated trajectories as dense arrays, read from the tidy files that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import read_provenance
from gptfluence.words import HALF_WIDTHS, MEASURED


@dataclass(frozen=True)
class Simulations:
    """Trajectories of one metric on the same tests, measured and simulated by several methods.

    Attributes:
        methods, runs: names, sorted; the truth is the method `measured`.
        tasks, examples: [tests], each test's task and example id; sorted by both.
        values: [methods, runs, steps + 1, tests] of float32; what a method was given is NaN.
        starts: the first predicted step of each method (0 for `measured`).
        half_widths: of methods with intervals, half of each one's width, [levels, runs, steps + 1, tests].
    """

    methods: list[str]
    runs: list[str]
    tasks: NDArray[np.str_]
    examples: NDArray[np.int64]
    values: NDArray[np.float32]
    starts: list[int]
    half_widths: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def of(self, method: str) -> NDArray[np.float32]:
        """Return a method's values, [runs, steps + 1, tests]."""
        return self.values[self.methods.index(method)]

    def single(self, run: str) -> Simulations:
        """Return one run's trajectories, as a copy that does not keep the others' in memory."""
        place = self.runs.index(run)
        half_widths = {method: widths[:, [place]] for method, widths in self.half_widths.items()}
        return replace(self, runs=[run], values=self.values[:, [place]], half_widths=half_widths)


def read_simulations(path: str | Path, row_groups: list[int] | None = None) -> Simulations:
    """Read a file of simulations (columns: see `simulate_runs`), or some of its row groups.

    Raises:
        UserError: the file is missing or damaged, has no measured runs, or lacks or repeats a step.
    """
    read_provenance(path)  # names a missing or foreign file
    names = ["method", "run_id", "task"]
    columns = [*names, "example", "step", "value", *HALF_WIDTHS]
    try:
        # As dictionaries: at the paper's scale a file has 12 million rows, and these few words in each.
        with pq.ParquetFile(path, read_dictionary=names, page_checksum_verification=True) as file:
            table = file.read(columns) if row_groups is None else file.read_row_groups(row_groups, columns)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged ({reason}). Delete it and run snakemake again.") from None
    if not table.num_rows:
        raise UserError(f"{path}: holds no simulations. Delete it and run snakemake again.")

    methods, method = _codes(table["method"])
    runs, run = _codes(table["run_id"])
    tasks, task = _codes(table["task"])
    example, step, value = (table[name].to_numpy() for name in ("example", "step", "value"))
    intervals = _Intervals.of(table)
    del table  # arrays of all rows are what memory goes to

    # Number the tests by (task, example) without sorting the rows.
    width = int(example.max()) + 1
    pair = task.astype(np.int64) * width + example
    known = np.zeros(len(tasks) * width, bool)
    known[pair] = True
    test = (np.cumsum(known, dtype=np.int32) - 1)[pair]
    pairs = np.flatnonzero(known)

    shape = (len(methods), len(runs), int(step.max()) + 1, len(pairs))
    cell = pair  # each row's place in the arrays below
    cell[:] = method
    for size, place in zip(shape[1:], (run, step, test), strict=True):
        cell *= size
        cell += place
    values = np.full(shape, np.nan, np.float32)
    values.reshape(-1)[cell] = value
    filled = np.zeros(shape, bool)
    filled.reshape(-1)[cell] = True
    if filled.sum() != len(value):
        raise UserError(f"{path}: holds some steps twice. Delete it and run snakemake again.")
    if MEASURED not in methods:
        raise UserError(f"{path}: holds no measured runs to compare with. Delete it and run snakemake again.")

    starts = []
    for name, mask in zip(methods, filled, strict=True):
        start = 0 if name == MEASURED else int(np.argmax(mask.any(axis=(0, 2))))
        if not mask[:, start:].all():
            r, t = np.argwhere(~mask[:, start:].all(axis=1))[0]
            where = f"run {runs[r]}, {tasks[pairs[t] // width]} example {pairs[t] % width}"
            raise UserError(f"{path}: {name} lacks steps of {where}. Delete the file and run snakemake again.")
        starts.append(start)
    half_widths = intervals.by_method(methods, method, cell, shape) if intervals else {}
    return Simulations(methods, runs, np.array(tasks)[pairs // width], pairs % width, values, starts, half_widths)


class _Intervals(NamedTuple):
    """Rows that have intervals: few, as few methods have any.

    Attributes:
        rows: [rows with intervals], where they stand in the file.
        half_widths: [levels, rows with intervals].
    """

    rows: NDArray[np.int64]
    half_widths: NDArray[np.float32]

    @classmethod
    def of(cls, table: pa.Table) -> _Intervals | None:
        valid = pc.is_valid(table[HALF_WIDTHS[0]])
        if not pc.any(valid).as_py():
            return None
        some = table.select(HALF_WIDTHS).filter(valid)
        return cls(np.flatnonzero(valid.to_numpy()), np.stack([some[name].to_numpy() for name in HALF_WIDTHS]))

    def by_method(
        self, methods: list[str], method: NDArray[np.int32], cell: NDArray[np.int64], shape: tuple[int, ...]
    ) -> dict[str, NDArray[np.float32]]:
        """Return dense arrays; what a method was given is NaN.

        Args:
            method: [rows], number of each row's.
            cell: [rows], each row's place in an array of `shape`, [methods, runs, steps + 1, tests].
        """
        each = int(np.prod(shape[1:]))
        found = {}
        for number in np.unique(method[self.rows]).tolist():
            mine = method[self.rows] == number
            dense = np.full((len(HALF_WIDTHS), each), np.nan, np.float32)
            dense[:, cell[self.rows[mine]] - number * each] = self.half_widths[:, mine]
            found[methods[number]] = dense.reshape(len(HALF_WIDTHS), *shape[1:])
        return found


def _codes(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """Return the sorted distinct words of a dictionary column, and each row's number among them."""
    array = column.unify_dictionaries().combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    used = sorted(pc.unique(array).to_pylist())
    position = {word: number for number, word in enumerate(used)}
    lookup = np.array([position.get(word, -1) for word in array.dictionary.to_pylist()], np.int32)
    return used, lookup[array.indices.to_numpy()]
