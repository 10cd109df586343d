"""Made-up scores of simulators that are taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from gptfluence.io import write_parquet
from gptfluence.scores.simulators import SCHEMA

GROUPS = (
    ("fine_tuning-small-rte", "fine_tuning", "small"),
    ("fine_tuning-small-sst2", "fine_tuning", "small"),
    ("instruction_tuning-a-large-mixture", "instruction_tuning", "a-large"),
)
VARIANTS = {"mean_curve": ("whole",), "gradient_response": ("no_decay", "whole")}


def make_apart(groups: tuple[tuple[str, str, str], ...] = GROUPS) -> list[dict[str, Any]]:
    """Skill grows by 0.1 a group and falls by 0.05 a variant; intervals are 0.04 to both sides; r is half of skill.

    On unseen data the predicted curve has skill 0, and ours 0.2, 0.3 and 0.4: training examples, tests, both.
    Learning curves end at 0.9 - 1 / runs, chosen runs are 0.05 better; more than 3 runs are in the first group alone.
    """
    rows = []
    for g, (group, scenario, model) in enumerate(groups):
        where = {
            "setting": "seen",
            "group": group,
            "scenario": scenario,
            "model": model,
            "metric": "loss",
            "task": "average",
        }
        skills = {(method, variant, "", 0): 0.1 * g - 0.05 * v + 0.3 * (method == "gradient_response")
                  for method, variants in VARIANTS.items() for v, variant in enumerate(variants[::-1])}  # fmt: skip
        for method in VARIANTS:
            skills |= {(method, "whole", "runs", runs): 0.9 - 1 / runs for runs in (2, 3, *((8,) if g == 0 else ()))}
        if g == 0:
            skills["gradient_response", "whole", "chosen_runs", 8] = 0.95 - 1 / 8
        found = [(where, key, skill) for key, skill in skills.items()]
        for s, setting in enumerate(("unseen_train", "unseen_test", "unseen_both")):
            reference = "mean_curve" if setting == "unseen_train" else "predicted_curve"
            found += [(where | {"setting": setting}, (method, "whole", "", 0), skill)
                      for method, skill in ((reference, 0.0), ("gradient_response", 0.2 + 0.1 * s))]  # fmt: skip
        found += [(where | {"setting": "unseen_train"}, ("gradient_response", "no_decay", "", 0), 0.1)]
        found += [(where | {"setting": setting}, ("gradient_response", "whole", "tests", 4), 0.35)
                  for setting in ("unseen_test", "unseen_both")]  # fmt: skip
        found += [(where, ("gradient_response", "whole", "interval", k), 0.4 - k / 100) for k in (2, 5)]
        for place, (method, variant, varied, number), skill in found:
            key = place | {"method": method, "variant": variant, "varied": varied, "number": number}
            for measure, value in (("skill", skill), ("across_run_correlation", skill / 2), ("all_steps_mse", 1.0)):
                ends = {"low": value - 0.04, "high": value + 0.04}
                rows.append(key | {"measure": measure, "value": value, "n": 5 if varied == "runs" else 1} | ends)
    return rows


def write_apart(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write them as `judge_simulators` does."""
    settings = {"draws": 5, "seed": 0, "folds": 4, "bootstrap_samples": 100, "bootstrap_seed": 1, "confidence": 0.9}
    write_parquet(path, pa.Table.from_pylist(rows, SCHEMA), {"simulators": settings})
    return str(path)
