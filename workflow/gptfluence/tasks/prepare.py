"""The stage `tasks`: one Parquet file for each task, every example in both formats."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from gptfluence.errors import UserError
from gptfluence.io import write_parquet
from gptfluence.tasks import mislabel, render

SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("example", pa.int32()),
        ("format", pa.string()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("references", pa.list_(pa.string())),
        ("facts", pa.list_(pa.string())),
    ]
)
"""Columns of data/tasks/{task}.{hash}.parquet: one row for each part, example and format."""

log = logging.getLogger(__name__)


def prepare_task(spec: dict[str, Any], output: Path) -> None:
    """Read a task's examples, render them, and write data/tasks/{task}.{hash}.parquet.

    Args:
        spec: the task's entry of the design: task, source, pool, unseen_pool, test (counts), templates,
            template_seed, code; and for a task with wrong labels, mislabelled (of: the task that it is made from,
            flipped: the share that is wrong, seed), whose file holds twice these counts, see `tasks.mislabel`.
        output: the file to write; its metadata hold {task, spec}.

    Raises:
        UserError: the source lacks rows or holds wrong ones, or a template is wrong; nothing is written then.
    """
    task = spec["task"]
    parts = _read(spec)
    table = pa.Table.from_pylist(list(_records(spec, parts)), schema=SCHEMA)
    write_parquet(output, table, {"task": task, "spec": spec})
    counts = ", ".join(f"{len(rows)} {part}" for part, rows in parts.items())
    log.info("%s: %s examples of source %s, each in 2 formats, to %s", task, counts, spec["source"]["kind"], output)


def _read(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the source's rows by part; only the module of this source is imported."""
    source, sizes = spec["source"], {part: spec[part] for part in ("pool", "unseen_pool", "test")}
    module = importlib.import_module(f"gptfluence.tasks.{source['kind']}")
    if source["kind"] == "world":
        parts = module.make_rows(source["seed"], _original_task(spec), **sizes)
    else:
        parts = module.read_rows(source, _original_task(spec), **sizes)
    if wrong := spec.get("mislabelled"):
        return mislabel.mislabel(wrong["of"], parts, wrong["flipped"], wrong["seed"])
    return parts


def _original_task(spec: dict[str, Any]) -> str:
    """Return the task whose rows and templates a task has: itself, unless it is one with wrong labels."""
    return spec["mislabelled"]["of"] if "mislabelled" in spec else spec["task"]


def _records(spec: dict[str, Any], parts: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    formats = _formats(spec)
    for part, rows in parts.items():
        # Training examples are numbered through both pools, test examples anew.
        first = spec["pool"] if part == "unseen_pool" else 0
        for example, row in enumerate(rows, start=first):
            for name, rendered in formats(row, part, example).items():
                for what in ("prompt", "target"):
                    if not getattr(rendered, what):
                        raise UserError(f"task '{spec['task']}', {part} example {example}: its {name} {what} is empty")
                head = {"part": part, "example": example, "format": name}
                yield head | rendered._asdict() | {"facts": list(row.get("facts", ()))}


def _formats(spec: dict[str, Any]) -> Callable[[dict[str, Any], str, int], dict[str, render.Rendered]]:
    """Return the function (row, part, example) -> both formats of a task; its templates are checked first."""
    task, source = _original_task(spec), spec["source"]
    if source["kind"] == "own":
        wording, where = source["instruction"], f"params.yaml: tasks.own.{task}.instruction"
        if not render.used_fields(wording, ["prompt"], where):
            raise UserError(f"{where}: must hold the field {{prompt}}")
        return lambda row, part, example: {
            "plain": render.own(row, None),
            "instruction": render.own(row, wording),
        }
    templates = render.instructions(task, spec["templates"] and spec["templates"]["path"])

    def both(row: dict[str, Any], part: str, example: int) -> dict[str, render.Rendered]:
        try:
            row = render.canonical_row(task, row)
        except render.RowError as error:
            raise UserError(f"task '{spec['task']}', {part} example {example}: {error}") from None
        # With whichever label, an example has the template of the original one.
        number = mislabel.original_example(part, example, spec["pool"]) if "mislabelled" in spec else example
        drawn = render.instruction(task, row, templates, spec["template_seed"], part, number)
        return {"plain": render.plain(task, row), "instruction": drawn}

    return both
