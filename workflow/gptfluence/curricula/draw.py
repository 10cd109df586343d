"""Curricula: which examples a run trains on, in which order (paper, section 3.1 and appendix A)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.io import read_parquet, write_parquet
from gptfluence.randomness import named_generator


def draw_curriculum(run: dict[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw a run's curriculum: a pure function of the run's row.

    `draw` examples of each task's part are drawn without replacement, then all of them are put into a fresh order
    in each epoch. The draw of a task depends on its name and the draw seed alone, not on the mixture around it.

    Returns:
        Two arrays [steps, batch]: the index of the task in `run["train_tasks"]`, and the example id.
    """
    tasks, examples = [], []
    for i, task in enumerate(run["train_tasks"]):
        generator = named_generator("draw", run["draw_seed"], task, run["pool"])
        chosen = generator.choice(run["pool_size"], size=run["draw"], replace=False)
        examples.append(np.sort(chosen) + run["first_example"])
        tasks.append(np.full(run["draw"], i))
    task, example = np.concatenate(tasks), np.concatenate(examples)
    orders = [
        named_generator("order", run["order_seed"], epoch).permutation(len(example)) for epoch in range(run["epochs"])
    ]
    order = np.concatenate(orders)
    shape = (run["steps"], run["batch"])
    return task[order].reshape(shape), example[order].reshape(shape)


def write_curriculum(
    run: dict[str, Any], task: NDArray[np.int64], example: NDArray[np.int64], path: str | Path, **settings: Any
) -> None:
    """Write a run's curriculum: columns run_id, step (1..T), slot, task, example.

    Args:
        task, example: [steps, batch], as `draw_curriculum` returns them.
        settings: what it was made by, beside the run's row.
    """
    steps, batch = example.shape
    names = pa.array(list(run["train_tasks"]))
    table = pa.table(
        {
            "run_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(steps * batch, np.int32)), [run["run_id"]]),
            "step": pa.array(np.repeat(np.arange(1, steps + 1, dtype=np.int32), batch)),
            "slot": pa.array(np.tile(np.arange(batch, dtype=np.int32), steps)),
            "task": pa.DictionaryArray.from_arrays(pa.array(task.ravel().astype(np.int32)), names),
            "example": pa.array(example.ravel().astype(np.int32)),
        }
    )
    keys = ("train_tasks", "pool", "draw_seed", "order_seed", "draw", "batch", "epochs")
    made_by = {key: run[key] for key in keys} | settings
    write_parquet(path, table, {"run_id": run["run_id"], "settings": made_by})


def read_curriculum(run: dict[str, Any], path: str | Path) -> list[list[tuple[str, int]]]:
    """Read a curriculum back as one list of (task, example) per step."""
    table = read_parquet(path, columns=["step", "task", "example"])
    steps: list[list[tuple[str, int]]] = [[] for _ in range(run["steps"])]
    columns = (table[name].to_pylist() for name in ("step", "task", "example"))
    for step, task, example in zip(*columns, strict=True):
        steps[step - 1].append((task, example))
    return steps


def draw_curricula(spec: dict[str, Any], folder: Path) -> None:
    """Write the curriculum of every run into a folder; `spec`: see `design.Design.curricula_spec`."""
    for run in spec["runs"]:
        write_curriculum(run, *draw_curriculum(run), folder / Path(run["curriculum"]).name)
