"""Made-up trajectories, and the files of simulations that hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from gptfluence.io import write_parquet
from gptfluence.words import HALF_WIDTHS

RUNS = ["g-03", "g-01", "g-unseen-01", "g-02"]
SETTINGS = {"g-01": "seen", "g-02": "seen", "g-03": "seen", "g-unseen-01": "unseen_train"}
TESTS = [("rte", 0), ("rte", 4), ("rte", 2), ("sst2", 0), ("sst2", 1)]
STEPS = 6

Methods = dict[str, tuple[int, np.ndarray]]
"""A method's first predicted step, and its values [runs, steps + 1, tests] in the order of RUNS and TESTS."""


def make_methods() -> Methods:
    rng = np.random.default_rng(1)
    shape = (len(RUNS), STEPS + 1, len(TESTS))
    measured = rng.normal(3, 1, shape).astype(np.float32)
    curve = np.broadcast_to(rng.normal(3, 1, shape[1:]), shape).astype(np.float32)
    own = (measured + rng.normal(0, 0.3, shape)).astype(np.float32)
    return {"measured": (0, measured), "mean_curve": (1, curve), "simfluence": (1, own), "order_2": (2, own)}


def half_widths_of(method: str) -> list[float] | list[None]:
    """Return what stands in the interval columns of a method's rows: there are intervals around `simfluence`."""
    return [0.2, 0.4, 0.8] if method == "simfluence" else [None] * 3


def write_simulations(
    path: Path,
    methods: Methods,
    drop: Callable[[dict[str, Any]], bool] | None = None,
    tests: list[tuple[str, int]] = TESTS,
) -> None:
    """Write a file of simulations with its rows in a shuffled order, without those that `drop` is true of."""
    rows = [
        {"method": m, "run_id": run, "task": task, "example": example, "metric": "loss", "step": t,
         "value": float(values[r, t, n]), **dict(zip(HALF_WIDTHS, half_widths_of(m), strict=True))}
        for m, (start, values) in methods.items()
        for r, run in enumerate(RUNS)
        for n, (task, example) in enumerate(tests)
        for t in range(start, STEPS + 1)
    ]  # fmt: skip
    rows = [row for row in rows if drop is None or not drop(row)]
    np.random.default_rng(0).shuffle(rows)
    types = {"example": pa.int32(), "step": pa.int32(), **dict.fromkeys(("value", *HALF_WIDTHS), pa.float32())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in rows[0]])
    write_parquet(path, pa.Table.from_pylist(rows, schema), {"group": "g", "metric": "loss"})
