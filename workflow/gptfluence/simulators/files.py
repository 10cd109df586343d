"""Fitted simulators as safetensors files that stand alone: arrays, settings and provenance, and nothing executable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptfluence.arrays import read_arrays, unreadable, write_arrays
from gptfluence.errors import UserError
from gptfluence.simulators.base import Simulator
from gptfluence.simulators.registry import find_method


def save_simulator(simulator: Simulator, path: str | Path, provenance: dict[str, Any]) -> None:
    """Write a fitted simulator atomically: its arrays, and as JSON in the header its kind, values and provenance."""
    arrays, values = simulator.state()
    write_arrays(path, arrays, {"kind": simulator.kind, "values": values, "provenance": provenance})


def load_simulator(path: str | Path) -> tuple[Simulator, dict[str, Any]]:
    """Read a fitted simulator.

    Returns:
        The simulator, ready to simulate, and its provenance.

    Raises:
        UserError: the file is missing, damaged, or not a simulator of this pipeline.
    """
    arrays, header = read_arrays(path, "simulator")
    try:
        return find_method(header["kind"]).from_state(arrays, header["values"]), header["provenance"]
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(unreadable(path, "simulator", error)) from None
