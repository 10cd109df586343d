"""Made-up scores, and the tables that are written from them."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
from gptfluence.io import write_parquet
from gptfluence.paper.tables import write_table
from gptfluence.paper.tables.frame import Content
from gptfluence.paper.tables.layout import BLOCKS
from gptfluence.paper.tables.page import Frame
from gptfluence.scores.score import SCHEMA

TASKS = ("rte", "my_task", "webnlg")
METHODS = ("gptfluence", "mean_curve", "my_method", "simfluence", "simfluence_additive")
MEASURES = (*BLOCKS, "skill", "across_run_correlation")


def content_of(table: str) -> Content:
    return import_module(f"gptfluence.paper.tables.{table}").CONTENT


def make_scores(
    models=("nano-0.2m",), scenarios=("instruction_tuning",), metrics=("loss", "bleu", "rouge_l"), methods=METHODS
) -> Frame:
    """Values grow with the place of task, method and measure; intervals are +- 0.15, neighbours 0.1 apart."""
    rows = []
    for scenario in scenarios:
        for model in models:
            for metric in metrics:
                for measure in MEASURES:
                    for m, method in enumerate(methods):
                        values = [0.1 * m + 0.01 * t + 0.3 for t in range(len(TASKS))]
                        for task, value in [*zip(TASKS, values, strict=True), ("average", sum(values) / len(values))]:
                            error = measure in BLOCKS[:2]
                            rows.append(
                                {"scenario": scenario, "model": model, "task": task, "metric": metric, "method": method,
                                 "setting": "seen", "measure": measure, "value": value, "low": value - 0.15,
                                 "high": value + 0.15, "n_runs": 3, "n_examples": 20, "std_over_runs": 0.5,
                                 "std_over_trajectories": 0.25 if error and task != "average" else None}
                            )  # fmt: skip
    return rows


def make_noise(model: str = "nano-0.2m", repeats: int = 2) -> Frame:
    """What repeated runs add to the scores of BLEU in instruction tuning: a ceiling, and shares of it."""
    common = {"scenario": "instruction_tuning", "model": model, "metric": "bleu", "setting": "seen", "n_examples": 20}
    values = {("ceiling", "all_steps_mse"): 0.01, ("ceiling", "skill"): 0.25, ("gptfluence", "explained_share"): 0.125}
    return [
        common | {"task": task, "method": method, "measure": measure, "value": value, "n_runs": repeats,
                  "low": value - 0.01, "high": value + 0.01, "std_over_trajectories": None, "std_over_runs": None}
        for (method, measure), value in values.items()
        for task in (*TASKS, "average")
    ]  # fmt: skip


def write(folder: Path, table: str, rows: Frame, **changes: Any) -> dict[str, str]:
    """Write a table from the rows of scores; return its text by form."""
    write_parquet(folder / "scores.parquet", pa.Table.from_pylist(rows, SCHEMA), {})
    outputs = {form: folder / f"{table}.{form}" for form in ("csv", "md", "html", "tex")}
    write_table({"module": table, "scores": str(folder / "scores.parquet"), "scale": "nano"} | changes, outputs)
    return {form: path.read_text() for form, path in outputs.items()}


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Return each Markdown table as its rows of cells."""
    tables = []
    for part in text.strip().split("\n\n"):
        if part.startswith("| "):
            tables.append([[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in part.split("\n")])
    return tables
