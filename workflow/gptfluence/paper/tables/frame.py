"""The tidy frame that a table is printed from: our scores, and the numbers that the paper prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gptfluence.paper.names import HIGHER_IS_BETTER
from gptfluence.paper.published import load_published

PAPER_METHODS = {"simfluence": "Simfluence", "gptfluence": "GPTfluence"}
"""Whose published numbers are shown. The gradient rows are not: no such method is among ours."""

COLUMNS = (
    *("source", "scenario", "model", "task", "metric", "method", "measure", "value"),
    *("std_over_trajectories", "std_over_runs", "low", "high", "n_runs", "n_examples", "bold"),
)
"""Columns of the CSV. source: ours or paper; low, high: bootstrap interval over runs; bold: best, or tied with it."""

Frame = list[dict[str, Any]]


@dataclass(frozen=True)
class Content:
    """What a table shows."""

    scenario: str
    metrics: tuple[str, ...]
    title: str


def make_frame(table: str, content: Content, scores: Frame) -> Frame:
    """Return the tidy frame of a table: our scores on held-out runs of seen data, then the paper's numbers.

    Args:
        table: as the published numbers name it, e.g. table_1.
        content: what it shows.
        scores: the rows of scores.parquet.
    """
    ours = [
        {"source": "ours", "bold": False} | {name: row[name] for name in COLUMNS if name in row}
        for row in scores
        if row["scenario"] == content.scenario and row["metric"] in content.metrics and row["setting"] == "seen"
    ]
    for row in ours:
        rivals = [r for r in ours if all(r[k] == row[k] for k in ("model", "task", "metric", "measure"))]
        row["bold"] = _is_best(row, rivals)
    paper: Frame = []
    for number in load_published():
        if number.table == table and number.method in PAPER_METHODS:
            # The paper does not say what its brackets are; they fit the spread over trajectories (over runs for
            # the rank correlation, which a single trajectory does not have).
            std = "std_over_runs" if number.measure == "final_step_spearman" else "std_over_trajectories"
            row = {name: getattr(number, name, None) for name in COLUMNS}
            paper.append(row | {"source": "paper", "bold": False, std: number.std or None})
    return ours + paper


def _is_best(row: dict[str, Any], rivals: Frame) -> bool:
    """Whether a score is the best, or lies in the best one's interval."""
    sign = 1 if row["measure"] in HIGHER_IS_BETTER else -1
    valued = [rival for rival in rivals if rival["value"] is not None]
    if row["value"] is None:
        return False
    best = max(valued, key=lambda rival: sign * rival["value"])
    tied = best["low"] is not None and best["low"] <= row["value"] <= best["high"]
    return tied or row["value"] == best["value"]
