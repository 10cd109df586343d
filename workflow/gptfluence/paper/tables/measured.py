"""How Tables 10-12 are laid out: a block for each measure, columns for tasks, the paper's rows under ours."""

from __future__ import annotations

from typing import Any

from gptfluence.paper.names import MEASURES, METRICS, TASKS
from gptfluence.paper.published import Published
from gptfluence.paper.tables.page import Block, Frame, Line, is_best, number_form

BLOCKS = ("all_steps_mse", "all_steps_mae", "final_step_spearman")
"""The measures that the paper prints."""

COLUMNS = (
    *("source", "scenario", "model", "group", "task", "metric", "setting", "method", "variant", "measure", "value"),
    *("std_over_trajectories", "std_over_runs", "low", "high", "n_runs"),
)
"""Columns of the CSV. source: ours or paper; low, high: bootstrap interval over runs."""


def paper_row(number: Published) -> dict[str, Any]:
    """Return a printed number as a row of the frame, its spread where ours of that measure stands."""
    std = "std_over_runs" if number.measure == "final_step_spearman" else "std_over_trajectories"
    row: dict[str, Any] = {name: getattr(number, name, None) for name in COLUMNS}
    return row | {"source": "paper", std: number.std or None}


def make_measured_block(
    ours: Frame, paper: Frame, measure: str, columns: list[tuple[str, str]], lines: list[tuple[str, str]]
) -> Block:
    """Lay out one measure.

    Args:
        ours, paper: rows, with `label` and optionally `section`: which line each belongs to.
        measure: which.
        columns: metric and task of each.
        lines: section and label of each line, in their order; of the paper's there are only some.
    """
    cells = {
        (row["source"], row.get("section", ""), row["label"], row["metric"], row["task"]): row
        for row in (*ours, *paper)
        if row["measure"] == measure
    }
    shown: list[Line] = []
    for section, label in lines:
        for source in ("ours", "paper"):
            rows = [cells.get((source, section, label, *column)) for column in columns]
            if not any(rows):
                continue
            rivals = [[row for key, row in cells.items() if (key[0], key[1], *key[3:]) == ("ours", section, *column)]
                      for column in columns]  # fmt: skip
            shown.append(
                Line(
                    section=section if source == "ours" else f"{section}, paper" if section else "paper",
                    method=label,
                    cells=tuple(print_cell(row) for row in rows),
                    bold=tuple(
                        bool(source == "ours" and row and is_best(row, others))
                        for row, others in zip(rows, rivals, strict=True)
                    ),
                    paper=source == "paper",
                    rule_above=bool(shown) and section != shown[-1].section.removesuffix(", paper") and bool(section),
                )
            )
    heads = tuple((METRICS[metric], TASKS.get(task, task)) for metric, task in columns)
    return Block(MEASURES[measure], measure.split("_")[-1], "Setting" if any(s for s, _ in lines) else "Source", heads,
                 tuple(shown))  # fmt: skip


def only(rows: Frame) -> Frame:
    """Return the columns of the CSV alone."""
    return [{name: row.get(name) for name in COLUMNS} for row in rows]


def print_cell(row: dict[str, Any] | None) -> str:
    """Print `value (std)`: over trajectories, for the rank correlation over runs; the paper's digits as they are."""
    if row is None or row["value"] is None:
        return "–"
    std = row["std_over_runs" if row["measure"] == "final_step_spearman" else "std_over_trajectories"]
    if row["source"] == "paper":
        return f"{row['value']} ({std})" if std else str(row["value"])
    value = row["value"]
    form = ".3f"
    if row["measure"] in ("all_steps_mse", "all_steps_mae"):
        form = number_form(value, std, 2 if row["metric"] == "bleu" else 3)  # as many decimals as the paper
    return f"{value:{form}} ({std:{form}})" if std is not None else f"{value:{form}}"
