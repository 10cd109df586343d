"""A table of gradients on disk, written from its first row to its last: a killed job goes on where it stood.

A folder holds what the rows are of (``header.json``), the rows themselves as raw little-endian float32 (``rows.f32``),
and how many of them count (``written.json``). Rows reach the disk before they count, so that whatever stops a job, the
rows that count are whole, and those behind them are written over. Reading maps the file: memory holds what is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import atomic_path, canonical_json

_NUMBER = np.dtype("<f4")
_SHOWN = 60  # characters of a value in a message


class GradientStore:
    """Rows of numbers in a folder, one an example; made by `open_or_resume`.

    Attributes:
        folder: where it stands.
        rows, width: of the whole table.
    """

    def __init__(self, folder: Path, rows: int, width: int, written: int) -> None:
        self.folder, self.rows, self.width, self._written = folder, rows, width, written

    @classmethod
    def open_or_resume(cls, folder: Path, header: Mapping[str, Any], rows: int, width: int) -> GradientStore:
        """Open the store in a folder, or make it there.

        Args:
            header: what determines the rows (digests of model and corpus, settings), as JSON.
            rows: of the whole table, [rows, width].

        Raises:
            UserError: the folder holds rows of another header or size (names what differs), is damaged, is no store,
                or cannot be written.
        """
        wanted = json.loads(canonical_json({**header, "rows": rows, "width": width}))
        path = folder / "header.json"
        if path.exists():
            _check_same(folder, _read(path), wanted)
        elif folder.exists() and any(not file.name.startswith(".") for file in folder.iterdir()):
            raise UserError(f"{folder}: holds files, but no gradients of ours. Choose another name, or delete it.")
        else:
            _write(path, wanted)
        written = _read(folder / "written.json")["rows"] if (folder / "written.json").exists() else 0
        store = cls(folder, rows, width, written)
        there = store._path.stat().st_size if store._path.exists() else 0
        if there < store._bytes(written):
            raise UserError(f"{store._path}: damaged: {written} rows were written, not all are there. Delete {folder}.")
        return store

    def todo(self) -> int:
        """Return the first row that is not yet written; `rows` when all are."""
        return self._written

    def append(self, rows: NDArray[np.floating]) -> None:
        """Write the next rows, [n, width]. They are on disk when this returns.

        Raises:
            UserError: they cannot be written; those before them still count.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width or self._written + len(rows) > self.rows:
            raise ValueError(f"rows {rows.shape} behind {self._written} of {(self.rows, self.width)}")
        with _write_errors(self._path), open(self._path, "r+b" if self._path.exists() else "w+b") as file:
            # Not at the file's end: rows that were written but do not count stand there.
            file.seek(self._bytes(self._written))
            file.write(np.ascontiguousarray(rows, _NUMBER))
            file.flush()
            os.fsync(file.fileno())
        _write(self.folder / "written.json", {"rows": self._written + len(rows)})
        self._written += len(rows)

    @property
    def array(self) -> NDArray[np.float32]:
        """The rows that are written, [todo(), width] of float32, mapped and not to be changed."""
        if not self._written:
            return np.empty((0, self.width), _NUMBER)
        return np.memmap(self._path, _NUMBER, "r", shape=(self._written, self.width))

    @property
    def _path(self) -> Path:
        return self.folder / "rows.f32"

    def _bytes(self, rows: int) -> int:
        return rows * self.width * _NUMBER.itemsize


def _check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare headers.

    Raises:
        UserError: they differ; says in what.
    """
    keys = [key for key in {**wanted, **found} if key not in found or key not in wanted or found[key] != wanted[key]]
    if keys:
        differences = "; ".join(f"{key}: {_shown(found, key)} there, {_shown(wanted, key)} here" for key in keys)
        raise UserError(f"{folder}: was made from something else ({differences}). Delete it, or choose another name.")


def _shown(header: Mapping[str, Any], key: str) -> str:
    if key not in header:
        return "nothing"
    text = canonical_json(header[key])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not readable ({error}). Delete {path.parent} and run the same again.") from None


def _write(path: Path, value: dict[str, Any]) -> None:
    """Write JSON atomically, on disk before it has its name."""
    with atomic_path(path) as part, open(part, "w", encoding="utf-8") as file:
        json.dump(value, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}. What was written before still counts.") from None
