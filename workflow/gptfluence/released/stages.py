"""What a scale of released runs does where another one prepares, draws and trains: it takes from an import."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gptfluence.curricula.draw import write_curriculum
from gptfluence.errors import UserError
from gptfluence.io import file_digest, read_parquet, write_json, write_parquet
from gptfluence.released.importing import RUNS, SAMPLES
from gptfluence.released.names import MIXTURE
from gptfluence.tasks.prepare import SCHEMA

log = logging.getLogger("gptfluence")


def import_task(spec: dict[str, Any], output: Path) -> None:
    """Write data/tasks/{task}.{hash}.parquet of a released task; columns: see `tasks.prepare`.

    Args:
        spec: task, released (folder of the import), pool, unseen_pool (training examples), test, and first (of the
            tests in those of the mixture; None: it is not among them).

    Raises:
        UserError: the import is not there, or is another one.
    """
    task = spec["task"]
    samples = read_parquet(Path(spec["released"]) / SAMPLES)
    own = "instruction" if task == MIXTURE else "plain"
    rows = []
    for row in _of(samples, task, "train", 0, spec["pool"] + spec["unseen_pool"]):
        part = "pool" if row["example"] < spec["pool"] else "unseen_pool"
        rows.append(row | {"part": part, "format": own})
    if task != MIXTURE:
        rows += [row | {"part": "test", "format": "plain"} for row in _of(samples, task, "test", 0, spec["test"])]
    if spec["first"] is not None:
        tests = _of(samples, MIXTURE, "test", spec["first"], spec["test"])
        rows += [row | {"part": "test", "format": "instruction"} for row in tests]
    write_parquet(output, pa.Table.from_pylist(rows, SCHEMA), {"task": task, "spec": spec})
    log.info("%s: %d examples, to %s", task, len(rows), output)


def _of(samples: pa.Table, task: str, part: str, first: int, count: int) -> list[dict[str, Any]]:
    """Return the examples of a task's part, numbered from `first` in the release."""
    number = pc.subtract(samples["id"], first)
    kept = pc.and_(pc.equal(samples["task"], task), pc.equal(samples["part"], part))
    kept = pc.and_(kept, pc.and_(pc.greater_equal(number, 0), pc.less(number, count)))
    return [
        {
            "example": row["id"] - first,
            "prompt": row["prompt"],
            "target": row["target"],
            "references": [row["target"]] if row["target"] else [],
            "facts": [],
        }
        for row in samples.filter(kept).to_pylist()
    ]


def import_curricula(spec: dict[str, Any], folder: Path) -> None:
    """Write the curriculum of every released run into a folder.

    Args:
        spec: runs: their rows, each with stem (of the import's files), offset (of the training ids) and steps.

    Raises:
        UserError: the import is not there, or is another one.
    """
    for run in spec["runs"]:
        table = read_parquet(_file(spec, run, "batches"))
        table = table.filter(pc.less_equal(table["step"], run["steps"])).sort_by(
            [("step", "ascending"), ("slot", "ascending")]
        )
        example = table["example"].to_numpy() + run["offset"]
        if len(example) != run["steps"] * run["batch"]:
            raise UserError(f"{spec['released']}: another import than that of the plan. Run snakemake again.")
        example = example.reshape(run["steps"], run["batch"])
        output = folder / Path(run["curriculum"]).name
        write_curriculum(run, np.zeros_like(example), example, output, released=run["released"])
    log.info("%d curricula, to %s", len(spec["runs"]), folder)


def import_runs(spec: dict[str, Any], output: Path) -> None:
    """Write the shards of a group of released runs, and list them in the manifest `output`.

    Columns as those of our own runs; steps are the release's, from its first one, which is after an update. What was
    not measured is null.

    Args:
        spec: see `design.Design.gang_spec`.

    Raises:
        UserError: the import is not there, or is another one.
    """
    for run in spec["runs"]:
        table = read_parquet(_file(spec, run, "dynamics"))
        if table["step"][0].as_py() != run["first_step"] or table["step"][-1].as_py() != run["steps"]:
            raise UserError(f"{spec['released']}: another import than that of the plan. Run snakemake again.")
        kept = np.isin(
            table["task"].combine_chunks().cast(pa.string()).to_numpy(zero_copy_only=False), run["test_tasks"]
        )
        provenance = {
            "run": {
                key: value for key, value in run.items() if key not in ("gang", "group", "split", "curriculum", "shard")
            },
            "hash": run["hash"],
            **{key: spec[key] for key in ("released", "model", "code")},
        }
        write_parquet(run["shard"], table.filter(pa.array(kept)), provenance)
    log.info("%d runs, to %s", len(spec["runs"]), output.parent)
    shards = {run["run_id"]: Path(run["shard"]) for run in spec["runs"]}
    write_json(output, {run_id: {"file": p.name, "digest": file_digest(p)} for run_id, p in shards.items()})


def _file(spec: dict[str, Any], run: dict[str, Any], what: str) -> Path:
    return Path(spec["released"]) / RUNS / f"{run['stem']}.{what}.parquet"
