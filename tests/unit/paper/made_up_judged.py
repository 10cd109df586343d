"""Made-up scores of methods of attribution and of orders in which labels are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from gptfluence.io import write_parquet
from gptfluence.scores import attribution, mislabels

TABLES = (
    *("random", "length", "loss", "bm25", "encoder_cosine", "grad_dot", "grad_cosine", "tracin_cp", "less", "trak"),
    *("trackstar", "trackstar_no_correction", "trackstar_no_hessian", "trackstar_no_mix", "trackstar_no_norm"),
    *("trackstar_no_projection", "tail_patch"),
)
REPLAYS = ("tracin", "tracin_adamw", "tracin_cp_replayed", "grad_dot_replayed")
GROUPS = ("fine_tuning-small-rte", "fine_tuning-small-webnlg", "instruction_tuning-small-mixture")
SIMULATION = ("all_steps_mse", "all_steps_mae", "final_step_spearman", "skill", "across_run_correlation")


def make_judged(groups: tuple[str, ...] = GROUPS) -> list[dict[str, Any]]:
    """Scores of every method; only the first group has facts to retrieve."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []

    def add(group: str, method: str, measure: str, value: float | None, width: float | None) -> None:
        ends = (None, None) if value is None or width is None else (value - width, value + width)
        words = (group, group.partition("-")[0], "small", method, measure)
        rows.append(dict(zip(attribution.SCHEMA.names, (*words, value, *ends, 20), strict=True)))

    for group in groups:
        for place, method in enumerate((*TABLES, "datamodel")):
            quality = (place + 1) / 20 + rng.normal(0, 0.05)
            add(group, method, "lds", 0.4 * quality, 0.05)
            add(group, method, "tail_patch", 0.008 * quality, 0.001)
            known = group == groups[0]
            add(group, method, "mrr", quality / 2 if known else None, 0.04 if known else None)
            add(group, method, "recall_at_10", quality / 1.5 if known else None, 0.04 if known else None)
            if method in TABLES:
                add(group, method, "seconds", 0.0 if method == "random" else float(np.exp(rng.uniform(0, 4))), None)
                _add_simulation(add, group, f"{method}_scaled", 0.3 * quality)
        for method in ("grad_dot", "tracin_cp"):
            _add_simulation(add, group, method, -40.0)
        for place, method in enumerate(REPLAYS):
            _add_simulation(add, group, method, 0.5 - 0.2 * place)
        _add_simulation(add, group, "mean_curve", 0.0)
        add(group, "ceiling", "lds", 0.62, 0.04)
    return rows


def _add_simulation(add: Any, group: str, method: str, skill: float) -> None:
    values = (0.02 * (1 - skill), 0.1 * (1 - skill) ** 0.5, 0.9 + 0.05 * skill, skill, skill)
    for measure, value in zip(SIMULATION, values, strict=True):
        undefined = (method, measure) == ("mean_curve", "across_run_correlation")  # it is the same in all runs
        add(group, method, measure, None if undefined else value, 0.1)


def make_mislabels() -> list[dict[str, Any]]:
    """Retrainings on corrected labels: TracIn finds most wrong labels, GPTfluence fewer than chance."""
    rows = []
    for method, gain in (("gptfluence", 0.9), ("tracin", 1.8), ("loss", 1.6), ("random", 1.0)):
        number = 10 if method == "random" else 3
        words = {"model": "small", "task": "sst2_mislabelled", "method": method}
        for fraction in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
            found = {"measure": "found", "value": min(gain * fraction, 1.0)}
            accuracy = {"measure": "accuracy", "value": 0.55 + 0.25 * min(gain * fraction, 1.0)}
            spread = 0.03 if method == "random" and fraction else None
            rows.append(words | found | {"fraction": fraction, "std": spread, "n": number if spread else 1})
            rows.append(words | accuracy | {"fraction": fraction, "std": 0.02, "n": number})
        auc = {"measure": "auc", "value": 0.5 + 0.3 * (gain - 1), "std": None, "n": 1}
        rows.append(words | auc | {"fraction": None})
    return rows


def write_judged(path: Path, rows: list[dict[str, Any]]) -> str:
    write_parquet(path, pa.Table.from_pylist(rows, attribution.SCHEMA), {"attribution": {"confidence": 0.9}})
    return str(path)


def write_mislabels(path: Path, rows: list[dict[str, Any]]) -> str:
    write_parquet(path, pa.Table.from_pylist(rows, mislabels.SCHEMA), {})
    return str(path)
