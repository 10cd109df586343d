"""The tidy frame that a table is printed from: our scores, and the numbers that the paper prints."""

from __future__ import annotations

from dataclasses import dataclass

from gptfluence.paper.published import load_published
from gptfluence.paper.tables.page import Frame, is_best
from gptfluence.scores.words import CEILING

PAPER_METHODS = {
    "tracin_cp_10": "TracIn-CP (10-steps)",
    "tracin_cp_all": "TracIn-CP (all-steps)",
    "grad_dot": "Grad-Dot",
    "simfluence": "Simfluence",
    "gptfluence": "GPTfluence",
}
"""The published methods as the paper calls them, in its order."""

COLUMNS = (
    *("source", "scenario", "model", "task", "metric", "method", "measure", "value"),
    *("std_over_trajectories", "std_over_runs", "low", "high", "n_runs", "n_examples", "bold"),
)
"""Columns of the CSV. source: ours or paper; low, high: bootstrap interval over runs; bold: best, or tied with it."""


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
        rivals = [r for r in rivals if r["method"] != CEILING]
        row["bold"] = row in rivals and is_best(row, rivals)
    paper: Frame = []
    for number in load_published():
        if number.table == table:
            # The paper does not say what its brackets are; they fit the spread over trajectories (over runs for
            # the rank correlation, which a single trajectory does not have).
            std = "std_over_runs" if number.measure == "final_step_spearman" else "std_over_trajectories"
            row = {name: getattr(number, name, None) for name in COLUMNS}
            paper.append(row | {"source": "paper", "bold": False, std: number.std or None})
    return ours + paper
