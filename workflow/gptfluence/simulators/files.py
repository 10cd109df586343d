"""Fitted simulators as safetensors files that stand alone: arrays, settings and provenance, and nothing executable."""

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
from gptfluence.simulators.base import Simulator
from gptfluence.simulators.registry import find_method

HEADER_KEY = METADATA_KEY.decode()


def save_simulator(simulator: Simulator, path: str | Path, provenance: dict[str, Any]) -> None:
    """Write a fitted simulator atomically: its arrays, and as JSON in the header its kind, values and provenance."""
    arrays, values = simulator.state()
    header = {"kind": simulator.kind, "values": values, "provenance": provenance}
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # views would be written wrongly
    with atomic_path(path) as part:
        # One key: safetensors writes several in any order, and equal simulators are to have equal bytes.
        text = canonical_json(header | {"digest": _digest(header, whole)})
        save_file(whole, part, metadata={HEADER_KEY: text})


def _digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Digest all that a file holds: safetensors has no checksums of its own."""
    content = hashlib.sha256(canonical_json(header).encode())
    for name in sorted(arrays):
        array = arrays[name]
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(array.tobytes())
    return content.hexdigest()


def load_simulator(path: str | Path) -> tuple[Simulator, dict[str, Any]]:
    """Read a fitted simulator.

    Returns:
        The simulator, ready to simulate, and its provenance.

    Raises:
        UserError: the file is missing, damaged, or not a simulator of this pipeline.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: missing. Run snakemake again to make it.")
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[HEADER_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if header.pop("digest") != _digest(header, arrays):
            raise ValueError("damaged: not the bytes that were written")
        return find_method(header["kind"]).from_state(arrays, header["values"]), header["provenance"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, UserError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: no readable simulator ({reason}). Delete it and run snakemake again.") from None
