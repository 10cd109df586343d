"""Tables 5-9: hyper-parameters of the paper's GPTs and simulators beside those of the plan."""

from __future__ import annotations

from typing import Any

from gptfluence.paper.names import TASKS
from gptfluence.paper.published import load_published
from gptfluence.paper.tables.page import Block, Frame, Line, Page

TITLES = {
    "table_5": "Hyper-parameters of GPTs in instruction tuning",
    "table_6": "Hyper-parameters of GPTfluence in instruction tuning",
    "table_7": "Hyper-parameters of GPTs in fine-tuning",
    "table_8": "Hyper-parameters of GPTfluence in fine-tuning",
    "table_9": "Hyper-parameters of Simfluence in fine-tuning",
}

COLUMNS = ("source", "column", "hyperparameter", "value")
"""Columns of the CSV. source: ours or paper; column: a model, a task, or a method and its variant."""


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out one of Tables 5-9; `spec` as for `write_table`, with hyperparameters (ours by column and name)."""
    table = spec["table"]
    paper: Frame = [
        {"source": "paper", "column": _column(number.model, number.task), "hyperparameter": number.measure,
         "value": number.value}
        for number in load_published() if number.table == table
    ]  # fmt: skip
    ours: Frame = [
        {"source": "ours", "column": column, "hyperparameter": name, "value": value}
        for column, values in spec["hyperparameters"].items()
        for name, value in values.items()
    ]
    notes = [
        f"Left: those of the plan of scale {spec['scale']} (params.yaml). Right: the paper's, as printed; – where it "
        "says nothing, or where a method has none.",
    ]
    if table in ("table_6", "table_8", "table_9"):
        notes.append(
            "Simulators are fitted exactly but where Adam is named; one set of settings serves all models, tasks and "
            "metrics."
        )
    if not ours:
        notes = [f"Scale {spec['scale']} has none of these.", *notes]
    return Page(
        name=table,
        heading=f"Table {table.removeprefix('table_')}. {TITLES[table]}",
        title=TITLES[table],
        notes=notes,
        blocks=[_make_block(ours, paper, spec["scale"])],
        columns=COLUMNS,
        frame=ours + paper,
    )


def _make_block(ours: Frame, paper: Frame, scale: str) -> Block:
    heads = {"ours": f"Scale {scale}", "paper": "Paper"}
    columns = list(dict.fromkeys((row["source"], row["column"]) for row in (*ours, *paper)))
    cells = {(row["source"], row["column"], row["hyperparameter"]): row["value"] for row in (*ours, *paper)}
    names = list(dict.fromkeys(row["hyperparameter"] for row in (*paper, *ours)))
    printed = {row["hyperparameter"] for row in paper}
    lines = tuple(
        Line(
            section="paper" if name in printed else "ours alone",
            method=name,
            cells=tuple(cells.get((*column, name), "–") for column in columns),
            bold=(False,) * len(columns),
            paper=False,
            rule_above=False,
        )
        for name in names
    )
    named = tuple((heads[source], TASKS.get(column, column)) for source, column in columns)
    return Block("Settings", "settings", "Listed by", named, lines, rows="Hyper-parameter")


def _column(model: str, task: str) -> str:
    """Return what tells the paper's column apart: a task in fine-tuning, else a model."""
    return task or model.replace("pythia", "Pythia").replace("m", "M").replace("b", "B")
