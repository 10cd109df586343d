"""How a table is laid out, whatever it is rendered as: one block for each measure, rows of printed numbers, notes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gptfluence.paper.names import (
    MEASURES,
    METHODS,
    METRICS,
    PAPER_MODELS,
    SCENARIOS,
    TASKS,
    sort_methods,
    sort_tasks,
)
from gptfluence.paper.tables.frame import PAPER_METHODS, Frame
from gptfluence.words import AVERAGE

BLOCKS = ("all_steps_mse", "all_steps_mae", "final_step_spearman")
"""The measures that the paper prints; skill and across-run correlation stand beside the first."""

_FAMILIES = {name: name.split("_")[0] for name in METHODS if name.startswith(tuple(PAPER_METHODS))}


@dataclass(frozen=True)
class Line:
    """A row of a printed table: model, method, one text per column; which are bold; whether it is the paper's."""

    model: str
    method: str
    cells: tuple[str, ...]
    bold: tuple[bool, ...]
    paper: bool
    rule_above: bool


@dataclass(frozen=True)
class Block:
    """One printed table: a measure, its columns as (metric, task or measure) and its rows."""

    title: str
    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


def make_block(frame: Frame, measure: str, metrics: tuple[str, ...], models: list[str]) -> Block:
    """Lay out one measure: rows are models x methods, columns the tasks and their average.

    The paper's numbers stand directly below ours of the same model and family of methods, italic; those of models
    that are not among ours below a rule at the end.
    """
    columns = [
        (metric, task, measure)
        for metric in metrics
        for task in [*sort_tasks(r["task"] for r in frame if r["metric"] == metric and r["task"] != AVERAGE), AVERAGE]
    ]
    if measure == BLOCKS[0]:
        columns += [(metric, AVERAGE, extra) for metric in metrics for extra in ("skill", "across_run_correlation")]
    cells = {tuple(r[k] for k in ("source", "model", "method", "metric", "task", "measure")): r for r in frame}

    def line(source: str, model: str, method: str, rule: bool) -> Line:
        rows = [cells.get((source, model, method, *column)) for column in columns]
        paper = source == "paper"
        return Line(
            model=f"paper, {PAPER_MODELS[model]}" if paper else model,
            method=PAPER_METHODS[method] if paper else METHODS.get(method, method),
            cells=tuple(_cell(row) for row in rows),
            bold=tuple(bool(row and row["bold"]) for row in rows),
            paper=paper,
            rule_above=rule,
        )

    lines: list[Line] = []
    for model in models:
        methods = sort_methods(r["method"] for r in frame if r["source"] == "ours" and r["model"] == model)
        rows = [("ours", method) for method in methods]
        for family in PAPER_METHODS if model in PAPER_MODELS and methods else ():
            kin = [i for i, (_, method) in enumerate(rows) if _FAMILIES.get(method) == family]
            rows.insert(kin[-1] + 1 if kin else len(rows), ("paper", family))
        lines += [line(source, model, method, i == 0 and bool(lines)) for i, (source, method) in enumerate(rows)]
    ours = {row["model"] for row in frame if row["source"] == "ours"}
    others = [m for m in PAPER_MODELS if m not in ours and any(r["model"] == m for r in frame)]
    apart = [("paper", model, method) for model in others for method in PAPER_METHODS]
    lines += [line(*row, i == 0 and bool(lines)) for i, row in enumerate(apart)]

    heads = tuple(
        (METRICS[metric], MEASURES[m] if m != measure else "Average" if task == AVERAGE else TASKS.get(task, task))
        for metric, task, m in columns
    )
    return Block(MEASURES[measure], heads, tuple(lines))


def make_notes(frame: Frame, scenario: str, scale: str) -> list[str]:
    """Return what stands above a table: its runs and tests, and what its marks mean."""
    ours = [row for row in frame if row["source"] == "ours" and row["task"] != AVERAGE]
    paper = "Rows in italics are the paper's own numbers, for its models and data; digits as printed."
    if not ours:
        metrics = " or ".join(METRICS[m] for m in dict.fromkeys(row["metric"] for row in frame))
        return [f"Scale {scale} has no {SCENARIOS[scenario]} runs that measure {metrics}.", paper]
    runs = _span(row["n_runs"] for row in ours if row["measure"] == "all_steps_mse")
    examples = _span(row["n_examples"] for row in ours)
    return [
        f"Scale {scale}: {runs} held-out runs for each model and task, {examples} test examples a task.",
        "In brackets: population standard deviation over trajectories; for Spearman over runs.",
        "Bold: the best of a model's methods, and those within its bootstrap interval over runs.",
        "Skill: 1 - MSE / MSE of the mean curve, which ignores the training examples; a simulator whose skill is not "
        "above 0 has not learned influence. Across-run correlation: predicted against measured deviations from the "
        "mean over the held-out runs. Both are averages over tasks.",
        paper,
    ]


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def _cell(row: dict[str, Any] | None) -> str:
    """Print `value (std)`: over trajectories, for the rank correlation over runs; the paper's digits as they are."""
    if row is None or row["value"] is None:
        return "–"
    std = row["std_over_runs" if row["measure"] == "final_step_spearman" else "std_over_trajectories"]
    if row["source"] == "paper":
        return f"{row['value']} ({std})" if std else row["value"]
    value = row["value"]
    if abs(value) >= 1e5 or (std is not None and std >= 1e5):
        form = ".1e"
    elif row["measure"] not in ("all_steps_mse", "all_steps_mae"):
        form = ".3f"
    else:
        # As many decimals as the paper, and at least three digits that count.
        digits = 2 - math.floor(math.log10(abs(value))) if value else 0
        form = f".{min(max(2 if row['metric'] == 'bleu' else 3, digits), 9)}f"
    return f"{value:{form}} ({std:{form}})" if std is not None else f"{value:{form}}"
