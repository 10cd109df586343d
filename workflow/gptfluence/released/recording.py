"""One released run while its files come in, and as it is kept: its measured values, and what it trained on.

Files come in any order. What is measured twice counts as it was last; a preprocessed file counts more than the raw ones
that it was made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import canonical_json, digest, read_parquet, read_provenance, write_parquet
from gptfluence.params import Metric
from gptfluence.released.lines import Points, Unread, read_batches, read_checkpoint, read_log, read_trajectories
from gptfluence.released.names import MIXTURE, Batches, Checkpoint, Log, RunFile, Trajectories, parse_run_name

MEASURED: tuple[Metric, ...] = ("loss", "bleu", "rouge_l")
RAW, PREPROCESSED = "raw", "preprocessed"
_MAX_CELLS = 20_000_000  # the largest published run has 304 thousand

Key = tuple[str, Metric]
"""Task and metric."""


@dataclass
class Recording:
    """A run that is being read.

    Attributes:
        folder: the run's, in the release.
        test_offsets: first id of each task where the tests of all tasks are numbered through.
        place: of the last file that was read; see `members.Member`.
        values: of each layout, what was measured, by task and metric, in the order in which it came in.
        batches: of each layout, the training ids of each step.
        empty: files without a byte.
        unread: lines that were left out, by file.
    """

    folder: PurePosixPath
    test_offsets: Mapping[str, int]
    place: int = -1
    values: dict[str, dict[Key, list[Points]]] = field(default_factory=lambda: {RAW: {}, PREPROCESSED: {}})
    batches: dict[str, dict[int, list[int]]] = field(default_factory=lambda: {RAW: {}, PREPROCESSED: {}})
    empty: set[str] = field(default_factory=set)
    unread: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, path: PurePosixPath, kind: RunFile, content: bytes, place: int) -> None:
        """Take in one file."""
        self.place = place
        name = "/".join(path.parts[len(self.folder.parts) :])
        self.empty.discard(name)
        self.unread.pop(name, None)
        if not content.strip():
            self.empty.add(name)
            return
        unread = Unread()
        match kind:
            case Trajectories(metric):
                self._add_trajectories(metric, read_trajectories(content, unread))
            case Checkpoint(task, step):
                for metric, points in read_checkpoint(content, step, unread).items():
                    self.values[RAW].setdefault((task, metric), []).append(points)
            case Batches():
                self.batches[PREPROCESSED] |= read_batches(content, unread)
            case Log():
                self.batches[RAW] |= read_log(content, unread)
        if unread.count:
            self.unread[name] = (unread.count, unread.first)

    def _add_trajectories(self, metric: Metric, points: Points) -> None:
        """Take in trajectories; those of the mixture are told apart by where the tests of each task begin."""
        run = parse_run_name(self.folder)
        parts = self.values[PREPROCESSED]
        if run.task != MIXTURE:
            start = self.test_offsets.get(run.task, 0) if run.for_mixture else 0
            if len(points.tests) and points.tests.min() >= start:  # numbered as the mixture's
                points = Points(points.tests - np.int32(start), points.steps, points.values)
            parts.setdefault((run.task, metric), []).append(points)
            return
        starts = sorted(self.test_offsets.items(), key=lambda item: item[1])
        ends = [start for _, start in starts[1:]] + [np.iinfo(np.int32).max]
        for (task, start), end in zip(starts, ends, strict=True):
            own = (points.tests >= start) & (points.tests < end)
            if own.any():
                part = Points(points.tests[own] - np.int32(start), points.steps[own], points.values[own])
                parts.setdefault((task, metric), []).append(part)

    def whole(self) -> tuple[dict[Key, list[Points]], dict[int, list[int]]]:
        """Return the values and batches that count."""
        values = self.values[RAW] | self.values[PREPROCESSED]
        return values, self.batches[PREPROCESSED] or self.batches[RAW]


def write_recording(recording: Recording, stem: Path) -> None:
    """Keep a run: `<stem>.dynamics.parquet` and `<stem>.batches.parquet`.

    dynamics: step, task, example (id of the test), loss, bleu, rouge_l: every step from the first to the last that was
    recorded, and every test that was; null where it was not measured. batches: step, slot, example (the release's id).
    The first is written last: a run without it is not whole.
    """
    values, batches = recording.whole()
    layouts = {key: PREPROCESSED if key in recording.values[PREPROCESSED] else RAW for key in values}
    of_batches = PREPROCESSED if recording.batches[PREPROCESSED] else RAW
    told = {
        "folder": str(recording.folder),
        "place": recording.place,
        "layouts": {f"{task} {metric}": layout for (task, metric), layout in sorted(layouts.items())},
        "empty": sorted(recording.empty),
        "unread": {name: list(found) for name, found in sorted(recording.unread.items())},
    }
    table = pa.table(
        {
            "step": pa.array(np.repeat(*_pairs(batches)), pa.int32()),
            "slot": pa.array([slot for step in sorted(batches) for slot in range(len(batches[step]))], pa.int32()),
            "example": pa.array([example for step in sorted(batches) for example in batches[step]], pa.int32()),
        }
    )
    write_parquet(f"{stem}.batches.parquet", table, {"folder": told["folder"], "layout": of_batches})
    try:
        dynamics = _dynamics(values)
    except UserError as error:
        raise UserError(f"{recording.folder}: {error}. Take its folder out of the release, and import again.") from None
    write_parquet(f"{stem}.dynamics.parquet", dynamics, told | {"description": _describe(told, dynamics, table)})


def _pairs(batches: dict[int, list[int]]) -> tuple[list[int], list[int]]:
    return sorted(batches), [len(batches[step]) for step in sorted(batches)]


def _dynamics(values: dict[Key, list[Points]]) -> pa.Table:
    """Put values on a grid of all steps and tests; of what is there twice the last counts."""
    whole = {key: _joined(points) for key, points in values.items()}
    measured = [points for points in whole.values() if len(points.steps)]
    first = min((int(points.steps.min()) for points in measured), default=0)
    last = max((int(points.steps.max()) for points in measured), default=-1)
    steps = last - first + 1
    tasks = sorted({task for task, _ in whole})
    tests = {task: _tests(points for (name, _), points in whole.items() if name == task) for task in tasks}
    if steps * sum(map(len, tests.values())) > _MAX_CELLS:
        raise UserError(f"steps {first} to {last} of {sum(map(len, tests.values()))} tests: more than any run has")
    columns: dict[str, list[NDArray[np.float32]]] = {metric: [] for metric in MEASURED}
    for task in tasks:
        for metric in MEASURED:
            grid = np.full((steps, len(tests[task])), np.nan, np.float32)
            if (points := whole.get((task, metric))) is not None:
                grid[points.steps - first, np.searchsorted(tests[task], points.tests)] = points.values
            columns[metric].append(grid)
    sizes = [len(tests[task]) for task in tasks]
    code = np.repeat(np.arange(len(tasks), dtype=np.int32), sizes)
    example = np.concatenate([np.zeros(0, np.int32), *tests.values()]).astype(np.int32)
    grids = {
        m: np.concatenate([np.zeros((steps, 0), np.float32), *parts], axis=1).ravel() for m, parts in columns.items()
    }
    return pa.table(
        {
            "step": pa.array(np.repeat(np.arange(first, last + 1, dtype=np.int32), len(example))),
            "task": pa.DictionaryArray.from_arrays(pa.array(np.tile(code, steps)), pa.array(tasks, pa.string())),
            "example": pa.array(np.tile(example, steps)),
            **{metric: pa.array(grid, from_pandas=True) for metric, grid in grids.items()},  # nan: null
        }
    )


def _joined(points: list[Points]) -> Points:
    """Put points one behind the other; what is not finite was not measured."""
    tests, steps, values = (np.concatenate([getattr(p, n) for p in points]) for n in ("tests", "steps", "values"))
    kept = np.isfinite(values)
    return Points(tests[kept], steps[kept], values[kept])


def _tests(points: Iterable[Points]) -> NDArray[np.int32]:
    return np.unique(np.concatenate([part.tests for part in points]))


def read_recording(stem: Path, test_offsets: Mapping[str, int]) -> Recording:
    """Return a kept run, to which further files may be added.

    Raises:
        UserError: a file is missing or damaged.
    """
    told = read_provenance(f"{stem}.dynamics.parquet")
    recording = Recording(PurePosixPath(told["folder"]), test_offsets, told["place"])
    recording.empty = set(told["empty"])
    recording.unread = {name: (found[0], found[1]) for name, found in told["unread"].items()}
    table = read_parquet(f"{stem}.dynamics.parquet")
    task = np.array(table["task"].to_pylist())
    step, example = table["step"].to_numpy(), table["example"].to_numpy()
    for name, layout in told["layouts"].items():
        of_task, metric = name.split(" ")
        values = table[metric].to_numpy()  # null becomes nan
        kept = (task == of_task) & np.isfinite(values)
        recording.values[layout][of_task, metric] = [Points(example[kept], step[kept], values[kept])]  # type: ignore[index]
    batches: dict[int, list[int]] = {}
    of_batches = read_parquet(f"{stem}.batches.parquet")
    for at, trained in zip(of_batches["step"].to_pylist(), of_batches["example"].to_pylist(), strict=True):
        batches.setdefault(at, []).append(trained)
    recording.batches[read_provenance(f"{stem}.batches.parquet")["layout"]] = batches
    return recording


def stem_of(folder: PurePosixPath) -> str:
    """Return what a run's files are called: its name, and a digest of where it stands."""
    return f"{folder.name[:150]}.{digest(str(folder))}"


def describe(stem: Path) -> dict[str, Any]:
    """Return what `write_recording` has noted of a kept run; reads the end of the file alone.

    Raises:
        UserError: the file is missing or damaged.
    """
    return dict(read_provenance(f"{stem}.dynamics.parquet")["description"])


def _describe(told: dict[str, Any], table: pa.Table, batches: pa.Table) -> dict[str, Any]:
    """Say what a run holds, as JSON-able values.

    Returns:
        folder, name (what it tells), layouts, empty and unread files, and: first and last step; unmeasured (steps that
        are recorded of no test); tests {task: {ids: how many, whole: whether they are 0..n-1, gaps {metric: values
        that are not measured}, ends {metric: whether the first and last step are measured throughout}}}; batches
        {first, last, missing: steps, sizes, least and greatest id}; and the digest of both files' contents.
    """
    step = table["step"].to_numpy()
    first, last = (int(step[0]), int(step[-1])) if len(step) else (None, None)
    task = _one_chunk(table["task"])
    code = task.indices.to_numpy()
    example = table["example"].to_numpy()
    length = 0 if first is None or last is None else last - first + 1
    tests: dict[str, Any] = {}
    recorded = np.zeros(length, bool)
    for number, name in enumerate(task.dictionary.to_pylist()):
        own = code == number
        ids = example[own][: int(own.sum()) // max(length, 1)]
        gaps: dict[str, int] = {}
        ends: dict[str, bool] = {}
        for metric in MEASURED:
            grid = np.isfinite(table[metric].to_numpy()[own].reshape(length, -1))
            if grid.any():
                recorded |= grid.any(axis=1)
                gaps[metric] = int((~grid).sum())
                ends[metric] = bool(grid[0].all() and grid[-1].all())
        whole = bool((ids == np.arange(len(ids))).all())
        tests[name] = {"ids": len(ids), "whole": whole, "gaps": gaps, "ends": ends}
    at, sizes = np.unique(batches["step"].to_numpy(), return_counts=True)
    ids = batches["example"].to_numpy()
    missing = sorted(set(range(int(at[0]), int(at[-1]) + 1)) - set(at.tolist())) if len(at) else []
    run = parse_run_name(PurePosixPath(told["folder"]))
    return {
        **{key: told[key] for key in ("folder", "layouts", "empty", "unread")},
        "kind": run.kind, "task": run.task, "model": run.model, "seed": run.seed, "unseen": run.unseen,
        "learning_rate": run.learning_rate, "for_mixture": run.for_mixture,
        "first": first, "last": last,
        "unmeasured": (np.flatnonzero(~recorded) + (first or 0)).tolist(),
        "tests": tests,
        "batches": {
            "first": int(at[0]) if len(at) else None, "last": int(at[-1]) if len(at) else None, "missing": missing,
            "sizes": sorted(set(sizes.tolist())),
            "different": len(np.unique(ids)),
            "least": int(ids.min()) if len(ids) else None, "greatest": int(ids.max()) if len(ids) else None,
        },
        "digest": digest([_content_digest(table), _content_digest(batches)]),
    }  # fmt: skip


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _content_digest(table: pa.Table) -> str:
    """Digest the values of a table, wherever they came from."""
    whole = hashlib.sha256()
    for name, column in ((name, _one_chunk(table[name])) for name in table.column_names):
        if pa.types.is_dictionary(column.type):
            whole.update(canonical_json(column.dictionary.to_pylist()).encode())
            column = column.indices
        whole.update(name.encode() + column.to_numpy(zero_copy_only=False).tobytes())  # null becomes nan
    return whole.hexdigest()[:12]
