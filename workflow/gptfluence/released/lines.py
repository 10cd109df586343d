"""What the release's files hold: JSON Lines, and logs whose lines hold Python dictionaries. Nothing of it is executed.

What cannot be read of a file is left out and counted, never guessed.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gptfluence.params import Metric
from gptfluence.released.names import METRICS

_MAX_ID = 1_000_000
_MAX_STEP = 100_000
_MAX_LOG_LINE = 1 << 20


@dataclass
class Unread:
    """Lines, or parts of lines, of a file that were left out: how many, and the first one's number and trouble."""

    count: int = 0
    first: str = ""

    def add(self, line: int, why: str) -> None:
        """Count one."""
        if not self.count:
            self.first = f"line {line}: {why}"
        self.count += 1


@dataclass(frozen=True)
class Points:
    """Measured values of one metric: ids of tests, steps, and values, [points] each; NaN where not measured."""

    tests: NDArray[np.int32]
    steps: NDArray[np.int32]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, tests: Any, steps: Any, values: Any) -> Points:
        """Convert."""
        return cls(np.asarray(tests, np.int32), np.asarray(steps, np.int32), np.asarray(values, np.float32))


def read_objects(content: bytes, unread: Unread) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of JSON Lines; blank lines do not count, others that are no objects are left out."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not line.strip():
                continue
            row = _python_json(line)
        if isinstance(row, dict):
            yield number, row
        else:
            unread.add(number, "not a JSON object")


def _python_json(line: bytes) -> Any:
    """Read what Python's writer writes and JSON has not: NaN and Infinity; None if that is not it, either."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def read_trajectories(content: bytes, unread: Unread) -> Points:
    """Read `all_<metric>_trajectory.out`: {"id", "loss_trajectory": [{"step", "loss"}, ...]} a line."""
    ids: list[int] = []
    steps: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float64]] = []
    for number, row in read_objects(content, unread):
        test, points = row.get("id"), row.get("loss_trajectory")
        if not _is_number(test, _MAX_ID) or not isinstance(points, list):
            unread.add(number, "no id, or no loss_trajectory")
            continue
        try:
            step = np.fromiter([point["step"] for point in points], np.int64, len(points))
            value = np.fromiter([point["loss"] for point in points], np.float64, len(points))
            if len(step) and not (step.min() >= 0 and step.max() <= _MAX_STEP):
                raise ValueError
        except (TypeError, KeyError, ValueError, OverflowError):
            step, value = _some_points(points, number, unread)
        ids.append(test)
        steps.append(step)
        values.append(value)
    tests = np.repeat(np.asarray(ids, np.int32), [len(step) for step in steps])
    return Points.of(tests, np.concatenate([[], *steps]), np.concatenate([[], *values]))


def _some_points(points: list[Any], number: int, unread: Unread) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return those points of a trajectory that are well-formed."""
    kept = []
    for point in points:
        step, value = (point.get("step"), point.get("loss")) if isinstance(point, dict) else (None, None)
        if _is_number(step, _MAX_STEP):
            kept.append((step, _float(value)))
        else:
            unread.add(number, "a point without a step")
    found = np.array(kept, float).reshape(-1, 2)
    return found[:, 0].astype(np.int64), found[:, 1]


def read_checkpoint(content: bytes, step: int, unread: Unread) -> dict[Metric, Points]:
    """Read `<loss|metric>_<task>_checkpoint-<step>.out`: {"id", "loss", perhaps "bleu", "rougeL"} a line."""
    try:
        return _clean_checkpoint(content, step)
    except (ValueError, KeyError, TypeError):  # it is not as it should be: line by line
        pass
    rows = []
    for number, row in read_objects(content, unread):
        if _is_number(row.get("id"), _MAX_ID):
            rows.append(row)
        else:
            unread.add(number, "no id")
    tests = np.array([row["id"] for row in rows], np.int32)
    found: dict[Metric, Points] = {}
    for name, metric in METRICS.items():
        if any(name in row for row in rows):
            found[metric] = Points.of(tests, np.full(len(rows), step), [_float(row.get(name)) for row in rows])
    return found


def _clean_checkpoint(content: bytes, step: int) -> dict[Metric, Points]:
    """Read a file all of whose lines hold the same numbers; four times as fast.

    Raises:
        ValueError, KeyError, TypeError: they do not.
    """
    rows = orjson.loads(b"[" + content.strip().replace(b"\n", b",") + b"]")
    first = rows[0]
    names = [name for name in METRICS if name in first]
    if not names or sum(map(len, rows)) != len(rows) * len(first):
        raise ValueError
    numbers = np.array(list(map(itemgetter("id", *names), rows)), float)
    ids, values = numbers[:, 0], numbers[:, 1:].astype(np.float32)
    if ids.min() < 0 or ids.max() > _MAX_ID or (ids % 1).any():
        raise ValueError
    tests, steps = ids.astype(np.int32), np.full(len(ids), step, np.int32)
    return {METRICS[name]: Points(tests, steps, values[:, i]) for i, name in enumerate(names)}


def read_batches(content: bytes, unread: Unread) -> dict[int, list[int]]:
    """Read `train_samples_id.json`: {"step", "samples_id"} a line; of a step that is there twice the last counts."""
    found: dict[int, list[int]] = {}
    for number, row in read_objects(content, unread):
        _add_batch(found, row, number, unread)
    return found


_WORDS = ("samples_id", "loss", "step")
_NUMBERS = re.compile(r"(?<![\w'\"])(nan|-?inf)(?![\w'\"])")


def read_log(content: bytes, unread: Unread) -> dict[int, list[int]]:
    """Read the batches in a log: lines with a Python dictionary of samples_id, loss and step, perhaps behind a bar.

    Of a step that is there twice the last counts.
    """
    found: dict[int, list[int]] = {}
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if b"samples_id" not in raw:
            continue
        # A bar may be rewritten within a line.
        line = raw.decode("utf-8", "replace").rsplit("\r", 1)[-1] if raw.strip().endswith(b"}") else ""
        line = line or raw.decode("utf-8", "replace")
        if not all(f"'{word}'" in line or f'"{word}"' in line for word in _WORDS):
            continue
        cut = line.rfind("]{")
        text = line[cut + 1 :] if cut >= 0 else line[line.find("{") :]
        text = text[: text.rfind("}") + 1]
        row = _literal(text)
        if isinstance(row, dict):
            _add_batch(found, row, number, unread)
        else:
            unread.add(number, "no dictionary")
    return found


def _literal(text: str) -> Any:
    """Return the Python dictionary that a text writes out; None if it writes none. Names and calls are refused."""
    if len(text) > _MAX_LOG_LINE:
        return None
    try:
        return ast.literal_eval(_NUMBERS.sub("None", text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _python_json(text.encode())


def _add_batch(found: dict[int, list[int]], row: dict[str, Any], number: int, unread: Unread) -> None:
    step, batch = row.get("step"), row.get("samples_id")
    if _is_number(step, _MAX_STEP) and isinstance(batch, list) and batch and all(_is_number(i, _MAX_ID) for i in batch):
        found[int(step)] = [int(example) for example in batch]
    else:
        unread.add(number, "no step, or no samples_id")


def read_samples(content: bytes, unread: Unread) -> list[tuple[int, str, str]]:
    """Read a file of examples: (id, prompt, target) of each; without a `context` all of the text is prompt."""
    found = []
    for number, row in read_objects(content, unread):
        example, text, context = row.get("id"), row.get("input"), row.get("context")
        if not _is_number(example, _MAX_ID) or not isinstance(text, str) or not text.strip():
            unread.add(number, "no id, or no input")
        elif isinstance(context, str) and context.strip() and text.startswith(context):
            found.append((int(example), context.rstrip(), text[len(context) :].strip()))
        else:
            found.append((int(example), text.strip(), ""))
    return found


def _is_number(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
