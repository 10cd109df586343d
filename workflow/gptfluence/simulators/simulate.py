"""Simulates a group's held-out and unseen runs with all its fitted methods, beside what was measured."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.attribution.effects_file import Effects, read_effects
from gptfluence.errors import UserError
from gptfluence.io import write_parquet
from gptfluence.simulators.base import Array
from gptfluence.simulators.data import GroupData, load_group
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.rollout import warn_of_confined
from gptfluence.words import HALF_WIDTHS, MEASURED

log = logging.getLogger("gptfluence")

FAR = 2.0
"""Distance, see `Simulator.distances`, above which a curriculum is worth a warning."""


def simulate_runs(spec: dict[str, Any], output: Path) -> None:
    """Simulate runs that no fit has seen and write them beside the measured ones.

    Columns: method, run_id, task, example, metric, step, value, and `words.HALF_WIDTHS`. Rows are ordered by method
    (measured first, then as in `spec`), run, test example, and step, which counts from the first that is recorded. What
    was not measured is nan.

    Args:
        spec: as for `fit_simulator`, without method and settings, with simulators ({method: path}) and replays
            (paths of what gradients said of the runs' steps); its runs are the held-out and unseen ones.
        output: the Parquet file to write.

    Raises:
        UserError: runs or simulators cannot be read, or a simulator was fitted on runs to be simulated.
    """
    data = load_group(spec | {"features": None})  # simulators hold their own features
    measured = data.dynamics.values
    tables = [_table(MEASURED, data.truth, 0, spec["metric"], data, None)]
    for method, path in spec["simulators"].items():
        simulator, provenance = load_simulator(path)
        leaked = {run["hash"] for run in provenance["runs"].values()} & {run["hash"] for run in spec["runs"]}
        if leaked:
            raise UserError(f"{path}: was fitted on runs that are to be simulated ({', '.join(sorted(leaked))})")
        simulated = simulator.simulate(data.curricula, measured[:, : simulator.start])
        warn_of_confined(simulator, simulated, f"{spec['group']} {spec['metric']} {method}")
        _warn_of_far(simulator.distances(data.curricula), data.runs, method)
        widths = simulator.half_widths(data.curricula)
        tables.append(_table(method, simulated, simulator.start, spec["metric"], data, widths))
    for method, simulated in roll_out_replays(spec["replays"], data).items():
        tables.append(_table(method, simulated, 1, spec["metric"], data, None))
    provenance = {
        "group": spec["group"],
        "metric": spec["metric"],
        "methods": list(spec["simulators"]),
        "replays": [Path(path).name for path in spec["replays"]],
        "runs": {run["run_id"]: {"split": run["split"], "hash": run["hash"]} for run in spec["runs"]},
    }
    write_parquet(output, pa.concat_tables(tables).unify_dictionaries().combine_chunks(), provenance)


def _warn_of_far(distances: Array | None, runs: tuple[str, ...], method: str) -> None:
    """Say which runs a method was not fitted for; `distances`: [runs]."""
    for run, distance in zip(runs, distances if distances is not None else (), strict=False):
        if distance > FAR:
            log.warning("%s %s: its curriculum is %.1f times as far from the fitted ones as any of them was from the "
                        "others; what is simulated may be far off", run, method, distance)  # fmt: skip


def roll_out_replays(paths: list[str], data: GroupData) -> dict[str, Array]:
    """Add up what replays of the runs say of each step, from the first measured value on.

    Returns:
        For each method of the replays [runs, steps + 1, tests].

    Raises:
        UserError: a file is missing or damaged, or a run is in none of them.
    """
    first = data.dynamics.values[:, :1]
    return {
        method: np.concatenate([first, first + np.cumsum(changes, axis=1, dtype=float)], axis=1)
        for method, changes in read_replays(paths, data.runs).items()
    }


def read_replays(
    paths: Sequence[str], runs: Sequence[str], methods: Iterable[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Read what replays say of each step of some runs.

    Args:
        methods: which; None: all that the files have.

    Returns:
        By method [runs, steps, tests].

    Raises:
        UserError: a file is missing or damaged, or a run is in none of them.
    """
    effects: Effects = {}
    for path in paths:
        effects |= read_effects(path)
    found = {}
    for method in dict.fromkeys(method for method, _ in effects) if methods is None else methods:
        missing = [run for run in runs if (method, run) not in effects]
        if missing:
            raise UserError(
                f"{', '.join(paths)}: no {method} of run {missing[0]}. Delete them and run snakemake again."
            )
        found[method] = np.stack([effects[method, run] for run in runs])
    return found


def _table(method: str, values: Array, start: int, metric: str, data: GroupData, widths: Array | None) -> pa.Table:
    """Return the rows of one method from step `start` on.

    Args:
        values: [runs, steps + 1, tests].
        widths: half of each interval's, [levels, runs, steps + 1, tests], if there are intervals.
    """
    runs, length, tests = values.shape
    run, test, step = (axis.ravel() for axis in np.indices((runs, tests, length - start), dtype=np.int32))
    task = np.repeat(np.arange(len(data.tasks), dtype=np.int32), data.sizes)[test]
    example = np.concatenate([np.arange(size, dtype=np.int32) for size in data.sizes])[test]
    value = _by_test(values, start)
    zeros = np.zeros(len(value), dtype=np.int32)
    nothing = pa.nulls(len(value), pa.float32())
    intervals = {name: nothing if widths is None else pa.array(_by_test(widths[i], start))
                 for i, name in enumerate(HALF_WIDTHS)}  # fmt: skip
    return pa.table(
        {
            "method": _names(zeros, (method,)),
            "run_id": _names(run, data.runs),
            "task": _names(task, data.tasks),
            "example": example,
            "metric": _names(zeros, (metric,)),
            "step": step + np.int32(start),
            "value": value,
            **intervals,
        }
    )


def _by_test(values: Array, start: int) -> NDArray[np.float32]:
    """Put the steps from `start` on of each run's tests one behind the other; `values`: [runs, steps + 1, tests]."""
    with np.errstate(over="ignore"):
        return values[:, start:].swapaxes(1, 2).astype(np.float32).ravel()


def _names(codes: np.ndarray, names: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names, pa.string()))
