"""Files: written whole or not at all, each with its provenance inside, read with errors that name the file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from gptfluence.errors import UserError

METADATA_KEY = b"gptfluence"
"""Key of the Parquet schema metadata under which every artefact holds its provenance as JSON."""


DIGESTS_NAME = "digests.json"
"""File in a folder of ours that holds the digests of the others."""


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return 12 hexadecimal digits (48 bits of SHA-256) that stand for a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    """Return 12 hexadecimal digits (48 bits of SHA-256) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name only if the block ends well.

    A killed process leaves at most a hidden ``.part`` file, never half an artefact.

    Raises:
        UserError: the file cannot be written (no space, no permission); nothing is left behind.
    """
    path = Path(path)
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        yield part
        # mkstemp makes private files; artefacts are as readable as any file the user makes.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be written: {reason}. Nothing was left half-written.") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place only if the block ends well.

    Raises:
        UserError: the folder cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be written: {reason}. Nothing was left half-written.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_digests(folder: Path) -> None:
    """Note in a folder the digest of each of its files, so that a damaged one is known."""
    write_json(folder / DIGESTS_NAME, {path.name: file_digest(path) for path in folder.iterdir() if path.is_file()})


def check_digests(folder: Path) -> None:
    """Check a folder's files against their noted digests.

    Raises:
        UserError: names a file that is missing or damaged.
    """
    try:
        noted = dict(json.loads((folder / DIGESTS_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / DIGESTS_NAME}: not readable ({error}). Delete {folder} and rerun.") from None
    for name, value in noted.items():
        if not (folder / name).is_file() or file_digest(folder / name) != value:
            raise UserError(f"{folder / name}: missing or damaged. Delete {folder} and run snakemake again.")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically, indented and with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_parquet(path: str | Path, table: pa.Table, provenance: dict[str, Any]) -> None:
    """Write a Parquet file atomically, with `provenance` as JSON in its metadata.

    Equal tables and provenance give equal bytes: neither times nor host names are recorded.
    """
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: canonical_json(provenance).encode()}
    metadata.pop(b"pandas", None)
    with atomic_path(path) as part:
        # Checksums, so that a flipped bit is an error where it is read, not a number in a table.
        pq.write_table(table.replace_schema_metadata(metadata), part, compression="zstd", write_page_checksum=True)


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Return the provenance in a Parquet file's metadata (reads the footer only).

    Raises:
        UserError: the file is missing, cut short, or not an artefact of this pipeline.
    """
    with _parquet_errors(path):
        metadata = pq.read_schema(path).metadata or {}
    if METADATA_KEY not in metadata:
        raise UserError(f"{path}: holds no provenance, so this pipeline did not write it. Delete it and rerun.")
    return json.loads(metadata[METADATA_KEY])


def read_parquet(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet artefact.

    Raises:
        UserError: the file is missing or damaged; the message names it and says how to rebuild it.
    """
    with _parquet_errors(path):
        # Not the dataset reader: a path such as results/method=x/... must never add columns.
        return pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns)


@contextlib.contextmanager
def _parquet_errors(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: missing. Run snakemake again to make it.") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged ({reason}). Delete it and run snakemake again.") from None
