"""Made-up curves and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from gptfluence.io import write_parquet
from gptfluence.paper.figures.figure_6 import PANELS
from gptfluence.paper.names import METHODS, SETTINGS
from gptfluence.scores.curves import ExampleRun
from gptfluence.scores.score import SCHEMA
from gptfluence.scores.simulations import Simulations

STEPS, TESTS = 12, 5


def make_simulations(run: str, tasks: list[str], scale: float = 1.0, methods: Sequence[str] = ()) -> Simulations:
    """Measured values fall evenly; test n of a task moves the further, the larger (3 n mod 5) is."""
    rng = np.random.default_rng(0)
    methods = sorted(["gptfluence", "mean_curve", "measured", "own", "persistence", "simfluence", *methods])
    fall = np.tile((0.2 + 3 * np.arange(TESTS)) % 5, len(tasks))
    truth = scale * (3 - fall * np.linspace(0, 1, STEPS + 1)[:, None])
    values = truth + rng.normal(0, 0.1 * scale, (len(methods), 1, *truth.shape))
    values[methods.index("own")] *= 1.0e8  # an explosion must not squash the others
    values[:, :, 0] = np.nan
    values[methods.index("measured"), 0] = truth
    starts = [0 if method == "measured" else 1 for method in methods]
    examples = np.tile(np.arange(TESTS), len(tasks))
    with np.errstate(over="ignore"):
        return Simulations(methods, [run], np.repeat(sorted(tasks), TESTS), examples, values.astype(np.float32), starts)


def make_curves() -> dict[ExampleRun, Simulations]:
    return {
        ExampleRun(scenario, model, f"{scenario}-{model}", metric, setting, f"{scenario}-{model}-09"): make_simulations(
            f"{scenario}-{model}-09", tasks, scale
        )
        for setting in SETTINGS
        for scenario, model in (
            ("fine_tuning", "small"),
            ("instruction_tuning", "small"),
            ("instruction_tuning", "a-large"),
        )
        for metric, tasks, scale in (
            ("loss", ["sst2", "rte", "wmt16_de_en"], 1.0),
            ("bleu", ["webnlg", "wmt16_de_en"], 10.0),
            ("rouge_l", ["webnlg", "wmt16_de_en"], 0.1),
        )
    }


def write_scores(path: Path) -> None:
    """Values grow with the place of method and model, intervals from 0.9 to 1.2 times the value."""
    rows = [
        {"scenario": "instruction_tuning", "model": model, "task": task, "metric": "loss", "method": method,
         "setting": "seen", "measure": measure, "value": value, "low": 0.9 * value, "high": 1.2 * value, "n_runs": 3,
         "n_examples": 20}
        for m, model in enumerate(("small", "a-large"))
        for task in ("rte", "sst2", "average")
        for i, method in enumerate((*METHODS, "own"))
        for measure in PANELS
        for value in [0.02 * (1 + i + m)]
    ]  # fmt: skip
    write_parquet(path, pa.Table.from_pylist(rows, SCHEMA), {"scores": {"confidence": 0.9}})
