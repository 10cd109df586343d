"""Made-up scores of choices of training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from gptfluence.io import write_parquet
from gptfluence.scores.choices import SCHEMA

GROUPS = (("fine_tuning-small-webnlg", "webnlg"), ("fine_tuning-small-rte", "rte"))
CHOOSERS = {
    ("random", "random"): 0.0,
    ("best_random", "random"): 0.05,
    ("less", "random"): 0.1,
    ("gradient_response", "chosen"): 0.3,
    ("gradient_response", "random"): 0.2,
    ("bm25", "random"): -0.1,
}
"""Gain of each in the first group; in the second it is half of that."""


def make_choices(groups: tuple[tuple[str, str], ...] = GROUPS) -> list[dict[str, Any]]:
    """Losses are 1 less the gain, and 0.1 lower on the target half; intervals are 0.04 to both sides."""
    rows = []
    for g, (group, task) in enumerate(groups):
        for (method, order), gain in CHOOSERS.items():
            gain = gain / (g + 1)
            values = {"judged": 1 - gain, "target": 0.9 - gain}
            if method != "random":
                values |= {"gain": gain, "target_gain": gain + 0.1, "beats": 0.5 + gain}
            if method == "gradient_response":
                values |= {"predicted": 0.4, "predicted_gain": 0.5}
            key = {"group": group, "model": "small", "task": task, "method": method, "order": order}
            rows += [key | {"measure": name, "value": value, "low": value - 0.04, "high": value + 0.04,
                            "n": 10 if method == "random" else 6} for name, value in values.items()]  # fmt: skip
    return rows


def write_choices(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write them as `judge_choices` does."""
    write_parquet(path, pa.Table.from_pylist(rows, SCHEMA), {"choices": {"confidence": 0.9}})
    return str(path)
