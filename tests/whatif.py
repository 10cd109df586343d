"""A made-up what-if page, and what Python simulates where the page shows a prediction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from gptfluence.io import write_parquet
from gptfluence.scores.score import SCHEMA
from gptfluence.simulators.base import Array, Curricula
from gptfluence.simulators.data import GroupData
from gptfluence.simulators.fit import fit_simulator
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.tasks.prepare import SCHEMA as TASK_SCHEMA
from synthetic import METHOD_SETTINGS, chosen_runs, write_group

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>",
    "مرحبا بالعالم \u202eabc\u202c שלום",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u0000\u0007 {{app}} \\u003c &lt;b&gt; ${x} `",
    "x" * 10_000,
)
"""Texts that a page may break at."""


def write_made_up(folder: Path) -> dict[str, Any]:
    """Write a group of two tasks, with two metrics, whose texts are hostile; return the spec of its page."""
    metrics = []
    for metric in ("loss", "bleu"):
        home = folder / metric
        home.mkdir(parents=True)
        spec = write_group(home, metric, splits=("fit", "fit", "fit", "fit", "validate", "held_out", "unseen"))
        settings = METHOD_SETTINGS["gradient_response"]
        fit = chosen_runs(spec, "fit", "validate") | {"method": "gradient_response", "settings": settings}
        fit_simulator(fit, home / "simulator.safetensors")
        metrics.append({"metric": metric, "simulator": str(home / "simulator.safetensors"), "runs": spec["runs"]}
                       | {"test_tasks": spec["test_tasks"]})  # fmt: skip
    files = {task: str(_write_task(folder / f"{task}.parquet", size)) for task, size in spec["test_sizes"].items()}
    measures = {"skill": 0.5, "across_run_correlation": 0.25, "coverage_80": 0.75}
    common = {"scenario": "fine_tuning", "model": "m", "method": "gradient_response", "setting": "seen"}
    rows = [common | {"task": task, "metric": "loss", "measure": measure, "value": value, "low": 0.125, "high": 0.875}
            for task in files for measure, value in measures.items()]  # fmt: skip
    write_parquet(folder / "scores.parquet", pa.Table.from_pylist(rows, SCHEMA), {})
    keys = ("group", "scenario", "model", "format", "train_tasks", "train_size", "test_sizes")
    group = {key: spec[key] for key in keys} | {"method": "gradient_response", "pool": 4, "task_files": files}
    return {"groups": [group | {"metrics": metrics}], "scores": str(folder / "scores.parquet"), "scale": "made-up"}


def _write_task(path: Path, tests: int) -> Path:
    parts = [("pool", e) for e in range(4)] + [("unseen_pool", e) for e in (4, 5)] + [("test", e) for e in range(tests)]
    rows = [
        {"part": part, "example": example, "format": form, "facts": [], "references": []}
        | {"prompt": HOSTILE[example % 4] if form == "plain" else "wrong format", "target": HOSTILE[(example + 1) % 4]}
        for part, example in parts
        for form in ("plain", "instruction")
    ]
    write_parquet(path, pa.Table.from_pylist(rows, TASK_SCHEMA), {})
    return path


def simulate(
    simulator: GradientResponse, data: GroupData, run: int, edits: dict[int, int | None]
) -> tuple[Array, Array | None, Array | None]:
    """Return what Python makes of a run whose slots (by update x batch + slot) hold other examples, or none.

    A batch that lacks examples has the shares of one in which the others stand several times.

    Returns:
        Values, [steps + 1, tests], half the widths of the intervals, [levels, steps + 1, tests], and the distance, [1].
    """
    examples = data.curricula.examples[run]
    steps, batch = examples.shape
    slots: list[int | None] = examples.ravel().tolist()
    for place, example in edits.items():
        slots[place] = example
    whole = math.lcm(*range(1, batch + 1))
    rows = []
    for t in range(steps):
        there = [i for i in slots[t * batch : (t + 1) * batch] if i is not None]
        rows.append(np.repeat(there, whole // len(there)))
    curricula = Curricula(np.array(rows)[None], data.curricula.rates[[run]])
    values = simulator.simulate(curricula, data.dynamics.values[[run], :1])[0]
    widths = simulator.half_widths(curricula)
    return values, None if widths is None else widths[:, 0], simulator.distances(curricula)
