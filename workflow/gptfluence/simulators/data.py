"""Reads a group's recorded runs into arrays, and refuses what does not fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gptfluence.attribution.kernel_file import read_kernel_file
from gptfluence.attribution.table_file import read_table_file
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance
from gptfluence.rates import rates_of
from gptfluence.simulators.base import Array, Attribution, Curricula, Dynamics, Features, Kernels


@dataclass(frozen=True)
class GroupData:
    """One metric of some runs of a group.

    Attributes:
        runs: ids, in the order of the arrays' first axis.
        dynamics: the metric; test examples are those of `tasks`, one task after the other, in the order of
        their ids. Steps count from the first that is recorded: before the first update in our own runs, behind it in
        released ones.
        curricula: rows count through the training tasks, each with its pool and then its unseen pool.
        features: of width 0 if the method needs none; with attribution scores and gradient kernels if the
        specification names their files.
        tasks: the test tasks.
        sizes: how many test examples each has.
        measured: [runs, steps + 1, tests] of bool: where `dynamics` was measured and not filled in; None: everywhere.
    """

    runs: tuple[str, ...]
    dynamics: Dynamics
    curricula: Curricula
    features: Features
    tasks: tuple[str, ...]
    sizes: tuple[int, ...]
    measured: NDArray[np.bool_] | None = None

    @property
    def truth(self) -> Array:
        """What was measured, [runs, steps + 1, tests]; nan elsewhere."""
        values = self.dynamics.values
        return values if self.measured is None else np.where(self.measured, values, np.nan)


def load_group(spec: dict[str, Any]) -> GroupData:
    """Read the runs of a specification (see `fit_simulator`).

    Raises:
        UserError: a file is missing, damaged, incomplete or of another plan, or the runs do not fit together.
    """
    tasks = tuple(spec["test_tasks"])
    sizes = tuple(spec["test_sizes"][task] for task in tasks)
    records = [_read_record(run, spec["metric"], tasks, sizes) for run in spec["runs"]]
    batches = [_read_curriculum(run, spec["train_tasks"], spec["train_size"]) for run in spec["runs"]]
    first = spec["runs"][0]["run_id"]
    for run, record, batch in zip(spec["runs"], records, batches, strict=True):
        if (record.first, record.last) != (records[0].first, records[0].last):
            raise UserError(
                f"{run['shard']}: steps {record.first} to {record.last}, but {first} has {records[0].first} to "
                f"{records[0].last}; the runs of a group need the same"
            )
        if len(batch) != record.last:
            raise UserError(
                f"{run['curriculum']}: this curriculum has {len(batch)} steps, but {run['shard']} has {record.last}"
            )
        if batch.shape != batches[0].shape:
            raise UserError(
                f"{run['curriculum']}: {batch.shape[1]} examples a step, but {first} has "
                f"{batches[0].shape[1]}; the runs of a group need the same batch"
            )
    validate = np.array([run["split"] == "validate" for run in spec["runs"]])
    values = np.stack([record.values for record in records])
    rates = np.array([rates_of(run, len(batches[0])) for run in spec["runs"]])
    start = records[0].first
    whole = np.isfinite(values)
    return GroupData(
        runs=tuple(run["run_id"] for run in spec["runs"]),
        dynamics=Dynamics(values if whole.all() else _filled(values), validate),
        curricula=Curricula(np.stack(batches)[:, start:], rates[:, start:]),
        features=read_features(spec),
        tasks=tasks,
        sizes=sizes,
        measured=None if whole.all() else whole,
    )


def _filled(values: Array) -> Array:
    """Put straight lines, [runs, steps + 1, tests], between what was measured before and after a gap."""
    filled = values.copy()
    steps = np.arange(values.shape[1])
    for run, test in np.argwhere(~np.isfinite(values).all(axis=1)):
        known = np.isfinite(values[run, :, test])
        filled[run, :, test] = np.interp(steps, steps[known], values[run, known, test])
    return filled


def read_shard(run: dict[str, Any], metric: str, tasks: tuple[str, ...], sizes: tuple[int, ...]) -> Array:
    """Return one metric of a run: [steps + 1, tests].

    Raises:
        UserError: its shard is missing, damaged, incomplete or of another plan, or a value is not finite.
    """
    return _read_record(run, metric, tasks, sizes).values


def read_end(run: dict[str, Any], metric: str, tasks: tuple[str, ...], sizes: tuple[int, ...]) -> Array:
    """Return one metric at the end of a run, [tests]; no other step need be measured. Errors: see `read_shard`."""
    return _read_record(run, metric, tasks, sizes, end=True).values[0]


class _Record(NamedTuple):
    """One metric of a run, from its first recorded step to its last, both with it."""

    values: Array
    first: int
    last: int


def _read_record(
    run: dict[str, Any], metric: str, tasks: tuple[str, ...], sizes: tuple[int, ...], end: bool = False
) -> _Record:
    """Return one metric of a run, [steps + 1, tests], or of its last step alone; nan in gaps of released runs."""
    path = run["shard"]
    table = read_columns(path, ["step", "task", "example", metric])
    provenance = read_provenance(path)
    found = provenance.get("hash")
    if found != run["hash"]:
        raise UserError(
            f"{path}: records hash {found}, but the plan's run {run['run_id']} has {run['hash']}: "
            "it was made with other settings. Delete it and run snakemake again."
        )
    if end:
        table = table.filter(pc.equal(table["step"], pc.max(table["step"])))
    test = _position(table, tasks, sizes)
    step = _integers(table, "step")
    kept = test >= 0
    released = "released" in provenance
    # Released runs begin behind an update.
    first = int(step.min(initial=int(step.max(initial=0)))) if released or end else 0
    length = int(step.max(initial=0)) + 1 - first
    cell = (step[kept] - first) * sum(sizes) + test[kept]
    _check_cells(path, cell, (length, sum(sizes)), ("step", "test example"))
    column = table[metric].combine_chunks().cast(pa.float64())
    values = column.to_numpy(zero_copy_only=False)[kept]  # null becomes nan
    good = np.isfinite(values)
    if released:  # with gaps, but not at the ends
        good |= np.isnan(values) & (step[kept] > first) & (step[kept] < first + length - 1)
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        raise UserError(
            f"{path}: {metric} is {values[bad]} at step {step[kept][bad]}: not measured, or the model diverged. "
            "Lower the learning rate of the scenario, or leave the metric out of the task."
        )
    ordered = np.empty(length * sum(sizes))
    ordered[cell] = values
    return _Record(ordered.reshape(length, -1), first, first + length - 1)


def _read_curriculum(run: dict[str, Any], tasks: list[str], train_size: int) -> NDArray[np.int64]:
    """Return the training rows of a run's batches: [steps, batch]."""
    path = run["curriculum"]
    table = read_columns(path, ["step", "slot", "task", "example"])
    row = _position(table, tuple(tasks), (train_size,) * len(tasks))
    if (row < 0).any():
        raise UserError(
            f"{path}: has examples outside of tasks {', '.join(tasks)} with {train_size} training examples each; "
            "it belongs to another plan. Delete it and run snakemake again."
        )
    step, slot = _integers(table, "step"), _integers(table, "slot")
    steps, batch = int(step.max(initial=0)), int(slot.max(initial=-1)) + 1
    cell = (step - 1) * batch + slot
    _check_cells(path, cell, (steps, batch), ("step (from 0)", "slot"))
    ordered = np.empty(steps * batch, np.int64)
    ordered[cell] = row
    return ordered.reshape(steps, batch)


def read_features(spec: dict[str, Any]) -> Features:
    """Return the features of all training and test examples in the format that the group's prompts have.

    Raises:
        UserError: the features are missing, damaged or incomplete.
    """
    tasks = tuple(spec["test_tasks"])
    sizes = tuple(spec["test_sizes"][task] for task in tasks)
    train_tasks = tuple(spec["train_tasks"])
    train_sizes = (spec["train_size"],) * len(train_tasks)
    path = spec.get("features")
    pairs = {
        "attribution": _read_attribution(spec, tasks, sizes),
        "kernels": _read_kernels(spec, tasks, sizes),
        "test_task": np.repeat(np.arange(len(tasks)), sizes),
    }
    if path is None:
        return Features(np.zeros((sum(train_sizes), 0)), np.zeros((sum(sizes), 0)), **pairs)
    table = read_columns(path, ["task", "part", "example", "format", "vector"])
    table = table.filter(_equal(table, "format", spec["format"]))
    test = _equal(table, "part", "test").to_numpy(zero_copy_only=False)
    vectors = table["vector"].combine_chunks()
    rows = vectors.flatten().to_numpy().reshape(-1, vectors.type.list_size).astype(float)
    if not np.isfinite(rows).all():
        raise UserError(f"{path}: vectors are not finite. Delete it and run snakemake again.")

    def ordered(part: NDArray[np.bool_], names: tuple[str, ...], counts: tuple[int, ...]) -> Array:
        position = _position(table, names, counts)
        kept = part & (position >= 0)
        _check_cells(path, position[kept], (1, sum(counts)), ("table", f"{spec['format']} example"))
        result = np.empty((sum(counts), rows.shape[1]))
        result[position[kept]] = rows[kept]
        return result

    return Features(ordered(~test, train_tasks, train_sizes), ordered(test, tasks, sizes), **pairs)


def _read_attribution(spec: dict[str, Any], tasks: tuple[str, ...], sizes: tuple[int, ...]) -> Attribution | None:
    """Return the attribution scores of all pairs of training and test examples; None if no table is named."""
    path = spec.get("table")
    if path is None:
        return None
    table = read_table_file(path)
    tests = _columns_of(path, read_provenance(path)["test_tasks"], table.scores, spec, tasks, sizes)
    scores = {method: values[:, tests] for method, values in table.scores.items()}
    for method, values in scores.items():
        if not np.isfinite(values).all():
            row, test = np.argwhere(~np.isfinite(values))[0]
            raise UserError(
                f"{path}: {method} of training example {row} and test example {test} is {values[row, test]}: "
                "the method failed. Take it out of attribution.methods in params.yaml."
            )
    return Attribution(scores, table.tokens)


def _read_kernels(spec: dict[str, Any], tasks: tuple[str, ...], sizes: tuple[int, ...]) -> Kernels | None:
    """Return the gradient kernels of all pairs of training and test examples; None if no file is named."""
    path = spec.get("kernels")
    if path is None:
        return None
    content, provenance = read_kernel_file(path)
    tests = _columns_of(path, provenance["test_tasks"], content.kernels, spec, tasks, sizes)
    values = {name: kernel[..., tests] for name, kernel in content.kernels.items()}
    for name, kernel in values.items():
        if not np.isfinite(kernel).all():
            raise UserError(f"{path}: kernel {name} is not finite. Lower the learning rate of the scenario.")
    return Kernels(content.steps, content.tokens, values)


def _columns_of(
    path: str,
    columns: list[str],
    tables: Mapping[str, NDArray[np.float32]],
    spec: dict[str, Any],
    tasks: tuple[str, ...],
    sizes: tuple[int, ...],
) -> NDArray[np.int64]:
    """Return which columns of a group's tables are of some tasks' tests: a metric may be measured on some alone.

    Args:
        columns: tasks of the columns, in their order.
        tables: [..., train, tests] each.

    Raises:
        UserError: the tables are of other examples.
    """
    counts = [spec["test_sizes"][task] for task in columns]
    shape = (spec["train_size"] * len(spec["train_tasks"]), sum(counts))
    if any(values.shape[-2:] != shape for values in tables.values()):
        raise UserError(
            f"{path}: does not hold values of the {shape[0]} training and {shape[1]} test examples of "
            f"{spec['group']}; it belongs to another plan. Delete it and run snakemake again."
        )
    starts = dict(zip(columns, np.cumsum([0, *counts[:-1]]), strict=True))
    return np.concatenate([starts[task] + np.arange(size) for task, size in zip(tasks, sizes, strict=True)])


def read_columns(path: str, columns: list[str]) -> pa.Table:
    """Read some columns of a Parquet artefact.

    Raises:
        UserError: the file is missing or damaged, or lacks a column.
    """
    table = read_parquet(path, columns)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}. Delete it and run snakemake again.")
    return table


def _position(table: pa.Table, tasks: tuple[str, ...], sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """Count the examples through the tasks: [rows], -1 for other tasks and for ids outside of a task's size."""
    column = table["task"].combine_chunks()
    codes = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    names = codes.dictionary.to_pylist()
    offset = dict(zip(tasks, np.cumsum((0, *sizes[:-1])), strict=True))
    offsets = np.array([offset.get(name, 0) for name in names] or [0])
    limits = np.array([dict(zip(tasks, sizes, strict=True)).get(name, 0) for name in names] or [0])
    code = codes.indices.to_numpy()
    example = _integers(table, "example")
    return np.where((example >= 0) & (example < limits[code]), offsets[code] + example, -1)


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return table[name].to_numpy().astype(np.int64)


def _equal(table: pa.Table, column: str, value: str) -> pa.BooleanArray:
    return pc.equal(table[column].combine_chunks().cast(pa.string()), value)


def _check_cells(path: str, cells: NDArray[np.int64], shape: tuple[int, int], names: tuple[str, str]) -> None:
    """Check that every cell of a table of the given shape is there exactly once."""
    size = shape[0] * shape[1]
    if size and len(cells) and cells.min() >= 0:
        wrong = np.flatnonzero(np.bincount(cells, minlength=size) != 1)
        if not len(wrong):
            return
        row, column = divmod(int(wrong[0]), shape[1])
        where = f"{names[0]} {row}, {names[1]} {column} is missing or there twice"
    else:
        where = f"{names[0]} below its first" if len(cells) else "it is empty"
    raise UserError(f"{path}: incomplete: {where}. Delete it and run snakemake again.")
