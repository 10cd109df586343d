"""What the paper reports beside what was measured here: averages over tasks, of the methods of Tables 1-4."""

from __future__ import annotations

import itertools
from statistics import fmean
from typing import Any, NamedTuple

from gptfluence.paper.names import LOWER_IS_BETTER, MEASURES, METHODS, METRICS, PAPER_MODELS, REPLAYED, SCENARIOS
from gptfluence.paper.published import load_published
from gptfluence.paper.tables.frame import PAPER_METHODS
from gptfluence.paper.tables.page import is_best
from gptfluence.report.grid import NONE, Cell, Grid, Row, Section, counted, print_score
from gptfluence.scores.words import CEILING
from gptfluence.words import AVERAGE

Rows = list[dict[str, Any]]

STANDS_FOR = {
    "tracin_cp_10": "tracin_cp",
    "tracin_cp_all": "tracin",
    "grad_dot": "grad_dot",
    "simfluence": "simfluence",
    "gptfluence": "gptfluence",
}
"""Which of our methods is a published one: of several forms the one that the paper describes."""

COMPARED = ("all_steps_mse", "all_steps_mae", "final_step_spearman")
"""The measures that the paper prints."""

_TABLES = ("table_1", "table_2", "table_3", "table_4")


class Compared(NamedTuple):
    """One scenario and metric: the numbers side by side, and sentences on how they agree."""

    title: str
    grid: Grid
    sentences: list[str]


def compare(scores: Rows, models: list[str]) -> list[Compared]:
    """Set the paper's averages over tasks beside ours, for each scenario and metric that was measured here.

    Args:
        scores: the rows of scores.parquet.
        models: their names in the order of their size.
    """
    ours = {
        (row["scenario"], row["metric"], row["method"], row["measure"], row["model"]): row
        for row in scores
        if row["task"] == AVERAGE and row["setting"] == "seen" and row["value"] is not None
    }
    paper = {
        (n.scenario, n.metric, n.method, n.measure, n.model): n.value
        for n in load_published()
        if n.table in _TABLES and n.task == AVERAGE
    }
    pairs = [(s, m) for m in METRICS for s in SCENARIOS if any(key[:2] == (s, m) for key in ours)]
    return [_compare(*pair, {k[2:]: v for k, v in ours.items() if k[:2] == pair},
                     {k[2:]: v for k, v in paper.items() if k[:2] == pair}, models) for pair in pairs]  # fmt: skip


Ours = dict[tuple[str, str, str], dict[str, Any]]
Paper = dict[tuple[str, str, str], str]
"""By method, measure and model."""


def _compare(scenario: str, metric: str, ours: Ours, paper: Paper, models: list[str]) -> Compared:
    title = f"{METRICS[metric][0].upper()}{METRICS[metric][1:]} in {SCENARIOS[scenario]}"
    reported = [model for model in PAPER_MODELS if any(key[2] == model for key in paper)]
    measured = [model for model in models if any(key[2] == model for key in ours)]
    sections = []
    for measure in COMPARED:
        rows = []
        for published, own in _lines(ours, paper):
            numbers = [paper.get((published, measure, model)) for model in reported]
            found = [ours.get((own, measure, model)) for model in measured]
            rivals = [[row for _, name in _lines(ours, paper) if (row := ours.get((name, measure, model)))]
                      for model in measured]  # fmt: skip
            cells = [Cell(number or NONE) for number in numbers]
            cells += [Cell.of(print_score(row, 3), bool(row) and is_best(row, others))
                      for row, others in zip(found, rivals, strict=True)]  # fmt: skip
            rows.append(Row(_name(published, own), tuple(cells)))
        sections.append(Section(MEASURES[measure], tuple(rows)))
    groups = tuple((head, n) for head, n in (("Reported", len(reported)), ("Measured", len(measured))) if n)
    heads = (*(PAPER_MODELS[model] for model in reported), *measured)
    grid = Grid(f"{title}: reported and measured", ("Measure", "Method"), groups, heads, tuple(sections))
    return Compared(title, grid, _agreement(ours, paper, measured))


def _lines(ours: Ours, paper: Paper) -> list[tuple[str, str]]:
    """Return (published method or nothing, our method) of each row: the paper's, the mean curve, our best."""
    lines = [(name, STANDS_FOR[name]) for name in PAPER_METHODS
             if any(name == key[0] for key in paper) or any(STANDS_FOR[name] == key[0] for key in ours)]  # fmt: skip
    taken = {own for _, own in lines} | {"mean_curve", CEILING, *REPLAYED}
    values: dict[str, list[float]] = {}
    for (method, measure, _), row in ours.items():
        if measure == "all_steps_mse" and method not in taken:
            values.setdefault(method, []).append(row["value"])
    best = min(values, key=lambda method: fmean(values[method]), default=None)
    lines += [("", "mean_curve")] if any(key[0] == "mean_curve" for key in ours) else []
    return lines + ([("", best)] if best else [])


def _name(published: str, own: str) -> str:
    ours = METHODS.get(own, own)
    return f"{PAPER_METHODS[published]}, here {ours}" if published else f"{ours}, not reported"


def _agreement(ours: Ours, paper: Paper, models: list[str]) -> list[str]:
    """Say for each measure how many pairs of methods stand in the reported order, and how GPTfluence does."""
    sentences = []
    for measure in COMPARED:
        reported = _means({(m, model): float(v) for (m, name, model), v in paper.items() if name == measure})
        measured = _means({(m, model): row["value"] for (m, name, model), row in ours.items() if name == measure})
        both = [name for name in reported if STANDS_FOR[name] in measured]
        if len(both) < 2:
            continue
        sign = 1 if measure in LOWER_IS_BETTER else -1
        order = [
            (sign * (reported[a] - reported[b]) < 0) == (sign * (measured[STANDS_FOR[a]] - measured[STANDS_FOR[b]]) < 0)
            for a, b in itertools.combinations(both, 2)
        ]
        same = "stands" if sum(order) == 1 else "stand"
        told = (
            f"{MEASURES[measure]}: {sum(order)} of {counted(len(order), 'pair')} of methods {same} in the paper's order"
        )
        if measure in LOWER_IS_BETTER and {"simfluence", "gptfluence"} <= set(both):
            there = reported["gptfluence"] / reported["simfluence"]
            here = measured["gptfluence"] / measured["simfluence"]
            told += f"; GPTfluence has {there:.2f} times Simfluence's error there and {here:.2f} times here"
        sentences.append(f"{told} (means over models).")
    return sentences


def _means(values: dict[tuple[str, str], float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for (method, _), value in values.items():
        found.setdefault(method, []).append(value)
    return {method: fmean(several) for method, several in found.items()}
