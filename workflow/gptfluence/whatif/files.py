"""Curricula and answers as files: JSON Lines, CSV or Parquet by their suffix; ``-`` is JSON Lines of the terminal.

A curriculum is one row for each example of each batch, as in data/curricula: step (from 1), and task and example, or id
(``rte:17``); if the file holds several, also run_id; and learning_rate, if the schedule is its own. In JSON Lines a row
may also be a whole run: ``{"run_id": "a", "batches": [["rte:1", "rte:2"], ["rte:3", "rte:1"]], "rates": [0.1, 0.05]}``.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gptfluence.errors import UserError
from gptfluence.io import atomic_path, write_parquet
from gptfluence.whatif.curriculum import Curriculum

SUFFIXES = (".jsonl", ".csv", ".parquet")
ROWS = 20_000
"""Rows that are turned into text at once."""


def check_output(path: str) -> str:
    """Return a path that a table can be written to.

    Raises:
        UserError: its suffix says no format.
    """
    if path != "-" and Path(path).suffix not in SUFFIXES:
        raise UserError(f"{path}: the suffix says the format, and must be one of {', '.join(SUFFIXES)}")
    return path


def write_table(path: str, table: pa.Table) -> None:
    """Write an answer's rows.

    Raises:
        UserError: the suffix is unknown, or the file cannot be written; nothing is left half-written.
    """
    check_output(path)
    if path == "-":
        for line in _json_lines(table):
            sys.stdout.write(line)
    elif path.endswith(".parquet"):
        write_parquet(path, table, {"answer": table.column_names})
    else:
        with atomic_path(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
            if path.endswith(".csv"):
                file.writelines(_csv_lines(table))
            else:
                file.writelines(_json_lines(table))


def _json_lines(table: pa.Table) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=ROWS):
        yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())


def _csv_lines(table: pa.Table) -> Iterator[str]:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    for batch in table.to_batches(max_chunksize=ROWS):
        writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def write_curricula(path: str, curricula: Sequence[Curriculum]) -> None:
    """Write curricula, one row for each example of each batch; see the module."""
    columns: dict[str, list[Any]] = {name: [] for name in ("run_id", "step", "slot", "task", "example")}
    own = any(curriculum.rates is not None for curriculum in curricula)
    if own:
        columns["learning_rate"] = []
    for curriculum in curricula:
        for step, batch in enumerate(curriculum.batches, start=1):
            for slot, name in enumerate(batch):
                task, _, example = name.rpartition(":")
                for key, value in zip(columns, (curriculum.name, step, slot, task, int(example)), strict=False):
                    columns[key].append(value)
                if own:
                    columns["learning_rate"].append(curriculum.rates and curriculum.rates[step - 1])
    write_table(path, pa.table(columns))


def read_curricula(path: str | Path) -> list[Curriculum]:
    """Read all curricula of a file, or of the terminal (``-``).

    Raises:
        UserError: it cannot be read, or is no curriculum; file and line or row are named.
    """
    runs: dict[str, dict[int, list[str]]] = {}
    rates: dict[str, dict[int, float]] = {}
    whole: list[Curriculum] = []
    name = "stdin" if str(path) == "-" else Path(path).name.split(".")[0]
    for where, row in _rows(str(path)):
        if "batches" in row:
            whole.append(_whole(where, row, name))
            continue
        run = str(row.get("run_id") or name)
        step = _integer(where, row, "step")
        if step < 1:
            raise UserError(f"{where}: step is {step}; steps count from 1")
        runs.setdefault(run, {}).setdefault(step, []).append(_name(where, row))
        rate = row.get("learning_rate")
        if rate not in (None, ""):
            try:
                rates.setdefault(run, {})[step] = float(rate)
            except (TypeError, ValueError):
                raise UserError(f"{where}: learning_rate is {rate!r}, no number") from None
    for run, steps in runs.items():
        last, own = max(steps), rates.get(run)
        if own is not None and len(own) < len(steps):
            step = next(step for step in steps if step not in own)
            raise UserError(f"{path}: {run}: step {step} has no learning_rate, others have one")
        batches = [steps.get(step, []) for step in range(1, last + 1)]
        schedule = None if own is None else [own.get(step, 0.0) for step in range(1, last + 1)]
        whole.append(Curriculum.of(batches, schedule, run))
    if not whole:
        raise UserError(f"{path}: is empty; it must hold a curriculum")
    return whole


def _whole(where: str, row: dict[str, Any], name: str) -> Curriculum:
    batches, rates = row["batches"], row.get("rates")
    fine = isinstance(batches, list) and all(
        isinstance(batch, list) and all(isinstance(known, str) for known in batch) for batch in batches
    )
    if not fine:
        raise UserError(f'{where}: batches must be lists of names, such as [["rte:1", "rte:2"], ["rte:3"]]')
    if rates is not None and not (isinstance(rates, list) and all(isinstance(r, int | float) for r in rates)):
        raise UserError(f"{where}: rates must be a list of numbers, one for each step")
    try:
        return Curriculum.of(batches, rates, str(row.get("run_id") or name))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _name(where: str, row: dict[str, Any]) -> str:
    if row.get("id") not in (None, ""):
        return str(row["id"])
    if row.get("task") in (None, "") or row.get("example") in (None, ""):
        raise UserError(f"{where}: needs task and example, or id (such as rte:17)")
    return f"{row['task']}:{_integer(where, row, 'example')}"


def _integer(where: str, row: dict[str, Any], key: str) -> int:
    try:
        return int(row[key])
    except KeyError:
        raise UserError(f"{where}: has no {key}; a row needs step, and task and example or id") from None
    except (TypeError, ValueError):
        raise UserError(f"{where}: {key} is {row[key]!r}, no whole number") from None


def _rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row and where it stands."""
    if path == "-":
        yield from _lines("standard input", sys.stdin.read())
        return
    suffix = Path(path).suffix
    if suffix == ".parquet":
        from gptfluence.io import read_parquet

        if not Path(path).is_file():
            raise UserError(f"{path}: no such file")
        for number, row in enumerate(read_parquet(path).to_pylist(), start=1):
            yield f"{path}: row {number}", row
        return
    check_output(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save the file as UTF-8") from None
    if suffix == ".csv":
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
            yield f"{path}:{number}", {key: value for key, value in row.items() if key is not None}
    else:
        yield from _lines(path, text)


def _lines(path: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON: {error.msg} (column {error.colno})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: not a JSON object")
        yield f"{path}:{number}", row
