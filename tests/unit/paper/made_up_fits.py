"""Made-up scores of variants of GPTfluence by task, of how fits converge, and of what simulations cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from gptfluence.io import write_parquet
from gptfluence.scores.convergence import SCHEMA as CONVERGENCE
from gptfluence.scores.costs import SCHEMA as COSTS

VARIANTS = {
    "gptfluence": {
        "order_2": {"order": 2},
        "order_5": {"order": 5},
        "every_2_steps": {"interval": 2},
        "every_10_steps": {"interval": 10},
        "every_5_steps_held": {"interval": 5, "between": "hold"},
        "gpt_features": {"features": "gpt"},
        "own": {"features": "own"},
        "order_2_every_2": {"order": 2, "interval": 2},
        "adam": {"adam": {"epochs": 3}},
    },
    "gradient_response": {"no_decay": {"decays": [1.0]}},
}

MEASURES = ("all_steps_mse", "all_steps_mae", "final_step_spearman")
OTHERS = ("mean_curve", "persistence", "simfluence")
GROUPS = (
    ("fine_tuning-small-rte", "fine_tuning", "small", ("rte",), ("loss",)),
    ("fine_tuning-small-webnlg", "fine_tuning", "small", ("webnlg",), ("loss", "bleu")),
    ("instruction_tuning-small-mixture", "instruction_tuning", "small", ("rte", "webnlg"), ("loss", "bleu")),
    ("instruction_tuning-a-large-mixture", "instruction_tuning", "a-large", ("rte", "webnlg"), ("loss",)),
)


def value_of(group: int, task: int, method: str, variant: str, measure: str) -> float:
    """Values that tell all of these apart."""
    place = list(VARIANTS["gptfluence"]).index(variant) + 1 if variant != "whole" else 0
    other = 20 * OTHERS.index(method) + 20 if method in OTHERS else 0
    return 0.001 * (1 + place + other) + 0.1 * group + 0.01 * task + MEASURES.index(measure)


def make_variants() -> list[dict[str, Any]]:
    """Scores on seen data, on unseen data, and elsewhere; intervals from 0.9 to 1.2 times the value."""
    rows = []
    whole = [(method, "whole") for method in ("gptfluence", *OTHERS)]
    variants = [("gptfluence", name) for name in VARIANTS["gptfluence"]]
    for g, (group, scenario, model, tasks, metrics) in enumerate(GROUPS):
        settings = {"seen": [*whole, *variants], "unseen_train": whole, "unseen_test": whole, "unseen_both": whole}
        if group == "instruction_tuning-small-mixture":
            settings |= {f"elsewhere_{name}": [*whole, ("gptfluence", "own")] for name in list(settings)}
        for setting, judged in settings.items():
            for metric in metrics:
                for method, variant in judged:
                    for measure in MEASURES:
                        kept = [(t, task) for t, task in enumerate(tasks) if metric == "loss" or task == "webnlg"]
                        values = {task: value_of(g, t, method, variant, measure) for t, task in kept}
                        values["average"] = sum(values.values()) / len(values)
                        rows += [
                            {"group": group, "scenario": scenario, "model": model, "metric": metric, "task": task,
                             "setting": setting, "method": method, "variant": variant, "varied": "", "number": 0,
                             "measure": measure, "value": value, "low": 0.9 * value, "high": 1.2 * value,
                             "std_over_trajectories": 0.5 * value, "std_over_runs": 0.25 * value, "n": 1, "n_runs": 8}
                            for task, value in values.items()
                        ]  # fmt: skip
    return rows


def make_convergence(epochs: int = 4) -> list[dict[str, Any]]:
    """Both errors fall tenfold an epoch, to those of the exact solution; the first one is not finite."""
    where = {"group": "g", "scenario": "instruction_tuning", "model": "small"}
    rows = []
    for place, method in enumerate(("simfluence", "gptfluence")):
        for epoch in range(epochs + 1):
            error = (1 + place) * 10.0**-epoch
            rows.append(where | {"method": method, "solved": "adam", "epoch": epoch, "update": 50 * epoch,
                                 "training_loss": error, "validation_mse": 7 * error if epoch else None})  # fmt: skip
        rows.append(where | {"method": method, "solved": "exact", "training_loss": error, "validation_mse": 7 * error})
    rows.append(where | {"method": "mean_curve", "solved": "trivial", "validation_mse": 0.5})
    return rows


def write_convergence(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write them as `judge_convergence` does."""
    write_parquet(path, pa.Table.from_pylist(rows, CONVERGENCE), {"group": "g"})
    return str(path)


def make_costs() -> list[dict[str, Any]]:
    """A call takes 1, 2 or 3 ms for one run, twice that for four; attribution a second a test."""
    where = {"group": "g", "scenario": "instruction_tuning", "model": "small", "steps": 15, "tests": 80}
    rows = []
    for place, method in enumerate(("mean_curve", "simfluence", "gptfluence")):
        rows += [
            where | {"method": method, "measure": "one_run", "value": 0.001 * (place + 1), "runs": 1},
            where | {"method": method, "measure": "all_runs", "value": 0.002 * (place + 1), "runs": 4},
        ]
        if place:
            rows.append(where | {"method": method, "measure": "flops", "value": 16.0 * 1000 ** (place - 1), "runs": 1})
    return [*rows, where | {"method": "tracin_cp", "measure": "one_test", "value": 1.0, "runs": 1}]


def write_costs(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write them as `measure_costs` does."""
    write_parquet(path, pa.Table.from_pylist(rows, COSTS), {"costs": {"machine": "a processor, one thread"}})
    return str(path)
