"""Means of scores over groups of runs."""

from __future__ import annotations

import math
from typing import Any

Rows = list[dict[str, Any]]


def average_groups(parts: Rows) -> dict[str, Any]:
    """Return the unweighted mean of scores (columns: value, low, high) of different groups: value, low, high, n.

    Its interval is as wide as that of the mean of independent groups: they share no run.
    """
    value = sum(part["value"] for part in parts) / len(parts)
    ends = {end: _end(parts, value, end) for end in ("low", "high")}
    return {"value": value, **ends, "n": len(parts)}


def _end(parts: Rows, value: float, end: str) -> float | None:
    """Return one end of the interval of a mean; None where a part has none."""
    if any(part[end] is None for part in parts):
        return None
    width = math.hypot(*(part[end] - part["value"] for part in parts)) / len(parts)
    return value - width if end == "low" else value + width
