"""How Tables 1-4 are laid out: one block for each measure, rows of printed numbers, notes.

Skill, its share of what is explainable, where that is known, and across-run correlation stand beside the first measure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gptfluence.io import read_parquet
from gptfluence.paper.names import (
    MEASURES,
    METHODS,
    METRICS,
    PAPER_MODELS,
    REPLAYED,
    SCENARIOS,
    TASKS,
    sort_methods,
    sort_tasks,
)
from gptfluence.paper.tables.frame import COLUMNS, PAPER_METHODS, Content, make_frame
from gptfluence.paper.tables.measured import BLOCKS, print_cell
from gptfluence.paper.tables.page import Block, Frame, Line, Page
from gptfluence.scores.words import CEILING
from gptfluence.words import AVERAGE

_KIN = {
    "tracin_cp_10": ("tracin_cp",),
    "tracin_cp_all": ("tracin", "tracin_adamw"),
    "grad_dot": ("grad_dot",),
    "simfluence": ("simfluence", "simfluence_additive", "simfluence_multiplicative"),
    "gptfluence": ("gptfluence", "gptfluence_gradients", "gptfluence_mlp"),
}
"""Below which of our methods a published one stands."""


def make_page(table: str, content: Content, spec: dict[str, Any]) -> Page:
    """Lay out one of Tables 1-4; `spec` as for `write_table`, with scores (path of scores.parquet)."""
    frame = make_frame(table, content, read_parquet(spec["scores"]).to_pylist())
    models = list(spec.get("models", []))
    models += sorted({row["model"] for row in frame if row["source"] == "ours"} - set(models))
    return Page(
        name=table,
        heading=f"Table {table.removeprefix('table_')}. {content.title}",
        title=content.title,
        notes=make_notes(frame, content.scenario, spec["scale"]),
        blocks=[make_block(frame, measure, content.metrics, models) for measure in BLOCKS],
        columns=COLUMNS,
        frame=frame,
    )


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
        share = ["explained_share"] * any(row["measure"] == "explained_share" for row in frame)
        extras = ["skill", *share, "across_run_correlation"]
        columns += [(metric, AVERAGE, extra) for metric in metrics for extra in extras]
    names = METHODS | {CEILING: "Noise ceiling"}
    cells = {tuple(r[k] for k in ("source", "model", "method", "metric", "task", "measure")): r for r in frame}

    def line(source: str, model: str, method: str, rule: bool) -> Line:
        rows = [cells.get((source, model, method, *column)) for column in columns]
        paper = source == "paper"
        return Line(
            section=f"paper, {PAPER_MODELS[model]}" if paper else model,
            method=PAPER_METHODS[method] if paper else names.get(method, method),
            cells=tuple(print_cell(row) for row in rows),
            bold=tuple(bool(row and row["bold"]) for row in rows),
            paper=paper,
            rule_above=rule,
        )

    lines: list[Line] = []
    for model in models:
        found = {r["method"] for r in frame if r["source"] == "ours" and r["model"] == model}
        methods = sort_methods(found - {CEILING})
        rows = [("ours", method) for method in methods]
        for published in _published_methods(frame, model) if methods else ():
            kin = [i for i, (source, method) in enumerate(rows) if source == "ours" and method in _KIN[published]]
            rows.insert(kin[-1] + 1 if kin else len(rows), ("paper", published))
        rows += [("ours", CEILING)] if CEILING in found else []
        lines += [line(source, model, method, i == 0 and bool(lines)) for i, (source, method) in enumerate(rows)]
    ours = {row["model"] for row in frame if row["source"] == "ours"}
    others = [model for model in PAPER_MODELS if model not in ours]
    apart = [("paper", model, method) for model in others for method in _published_methods(frame, model)]
    lines += [line(*row, i == 0 and bool(lines)) for i, row in enumerate(apart)]

    heads = tuple(
        (METRICS[metric], MEASURES[m] if m != measure else "Average" if task == AVERAGE else TASKS.get(task, task))
        for metric, task, m in columns
    )
    return Block(MEASURES[measure], measure.split("_")[-1], "Model", heads, tuple(lines))


def _published_methods(frame: Frame, model: str) -> list[str]:
    found = {row["method"] for row in frame if row["source"] == "paper" and row["model"] == model}
    return [method for method in PAPER_METHODS if method in found]


def make_notes(frame: Frame, scenario: str, scale: str) -> list[str]:
    """Return what stands above a table: its runs and tests, and what its marks mean."""
    ours = [row for row in frame if row["source"] == "ours" and row["task"] != AVERAGE]
    paper = ["Rows in italics are the paper's own numbers, for its models and data; digits as printed."]
    if any(row["method"] == "grad_dot" for row in frame if row["source"] == "paper"):
        paper.append(
            "Those of TracIn-CP and Grad-Dot are most likely artefacts of the published code, which adds a test "
            "example's changes to the prediction of the example before it, and fits their scale to the true losses of "
            "the run that is judged."
        )
    if not ours:
        metrics = " or ".join(METRICS[m] for m in dict.fromkeys(row["metric"] for row in frame))
        return [f"Scale {scale} has no {SCENARIOS[scenario]} runs that measure {metrics}.", *paper]
    replayed = []
    if any(row["method"] in REPLAYED for row in ours):
        replayed.append(
            "TracIn and Grad-Dot are given what no simulator is: gradients at the weights of the run that they predict."
        )
    noise = [row for row in ours if row["method"] == CEILING]
    ceiling = []
    if noise:
        repeats = _span(row["n_runs"] for row in noise)
        ceiling.append(
            f"Noise ceiling: {repeats} of these runs were trained twice, with equal weights and other texts sampled. "
            "The variance that this makes is the least MSE of any simulator; what is left of the mean curve's MSE is "
            "explainable: the highest skill. Share of explainable: skill / that of the ceiling, where the ceiling's "
            "interval lies above 0."
        )
        ours = [row for row in ours if row["method"] != CEILING]
    runs = _span(row["n_runs"] for row in ours if row["measure"] == "all_steps_mse")
    examples = _span(row["n_examples"] for row in ours)
    return [
        f"Scale {scale}: {runs} held-out runs for each model and task, {examples} test examples a task.",
        "In brackets: population standard deviation over trajectories; for Spearman over runs.",
        "Bold: the best of a model's methods, and those within its bootstrap interval over runs.",
        "Skill: 1 - MSE / MSE of the mean curve, which ignores the training examples; a simulator whose skill is not "
        "above 0 has not learned influence. Across-run correlation: predicted against measured deviations from the "
        "mean over the held-out runs. Both are averages over tasks.",
        *ceiling,
        *replayed,
        *paper,
    ]


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"
