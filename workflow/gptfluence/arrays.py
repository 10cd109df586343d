"""Arrays as safetensors files with a header of JSON, written atomically and checked when read; nothing executable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gptfluence.errors import UserError
from gptfluence.io import METADATA_KEY, atomic_path, canonical_json

HEADER_KEY = METADATA_KEY.decode()


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    """Write named arrays and JSON-able values; equal contents are equal bytes."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # views would be written wrongly
    with atomic_path(path) as part:
        # One key: safetensors writes several in any order.
        text = canonical_json(header | {"digest": _digest(header, whole)})
        save_file(whole, part, metadata={HEADER_KEY: text})


def read_arrays(path: str | Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read arrays and header back.

    Args:
        what: the file should hold; for messages.

    Raises:
        UserError: the file is missing or damaged, or was not written by `write_arrays`.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: missing. Run snakemake again to make it.")
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[HEADER_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if header.pop("digest") != _digest(header, arrays):
            raise ValueError("damaged: not the bytes that were written")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(unreadable(path, what, error)) from None
    return arrays, header


def unreadable(path: str | Path, what: str, error: Exception) -> str:
    """Return what to say of a file that cannot be used."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path}: no readable {what} ({reason}). Delete it and run snakemake again."


def _digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Digest all that a file holds: safetensors has no checksums of its own."""
    content = hashlib.sha256(canonical_json(header).encode())
    for name in sorted(arrays):
        array = arrays[name]
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(array.tobytes())
    return content.hexdigest()
