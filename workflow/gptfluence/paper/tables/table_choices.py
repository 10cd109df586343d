"""Training data that is chosen for some tests, judged by others after training on it."""

from __future__ import annotations

from typing import Any

from gptfluence.io import read_provenance
from gptfluence.paper.averages import Rows
from gptfluence.paper.choices import average_choices, chooser, list_choosers, read_choices
from gptfluence.paper.names import TASKS, sort_tasks
from gptfluence.paper.tables.page import Block, Page, is_best, make_lines
from gptfluence.words import AVERAGE

TITLE = "Choosing training data"

COLUMNS = ("group", "model", "task", "method", "order", "measure", "value", "low", "high", "n", "bold")
"""Columns of the CSV. group: a group of runs, or `average` over them; order: `chosen` by the
method, or `random`; n: of how many halves of tests (of random: random
choices, of averages: groups) the value is a mean; bold: best of a column, or tied with it."""

_HEADS = (
    ("Judging half", "judged", "Loss"),
    ("Judging half", "gain", "Gain over random"),
    ("Judging half", "beats", "Random ones beaten"),
    ("Target half", "target", "Loss"),
    ("Target half", "target_gain", "Gain over random"),
    ("Target half", "predicted", "Predicted loss"),
    ("Target half", "predicted_gain", "Predicted gain"),
)
"""Of each column of the printed tables: head that neighbours share, measure, head."""

_RIVALS = ("gain", "beats", "target_gain")
"""Measures by which methods compete."""


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out the table; `spec` as for `write_table`, with choices (path of the scores).

    Raises:
        UserError: the scores are missing or damaged.
    """
    judged = read_choices(spec["choices"])
    groups = {row["group"]: row for row in judged}
    averages = average_choices(judged) if len(groups) > 1 else []
    frame = [*averages, *judged]
    for row in frame:
        rivals = [other for other in frame if (other["group"], other["measure"]) == (row["group"], row["measure"])]
        row["bold"] = row["measure"] in _RIVALS and is_best(row, rivals)
    blocks = [_make_block(f"Averages over {len(groups)} groups", AVERAGE, averages)] if averages else []
    tasks = sort_tasks(row["task"] for row in groups.values())
    for group, first in sorted(groups.items(), key=lambda item: (item[1]["model"], tasks.index(item[1]["task"]))):
        title = f"{TASKS.get(first['task'], first['task'])}, {first['model']}"
        blocks.append(_make_block(title, group, [row for row in judged if row["group"] == group]))
    return Page("table_choices", TITLE, TITLE, _make_notes(spec, judged), blocks, COLUMNS, frame)


def _make_block(title: str, key: str, rows: Rows) -> Block:
    cells = {(chooser(row), row["measure"]): row for row in rows}
    heads = [head for head in _HEADS if any(measure == head[1] for _, measure in cells)]
    lines = make_lines(
        ((family, label, [cells.get((who, measure)) for _, measure, _ in heads])
         for who, family, label in list_choosers(rows)),
        _cell,
    )  # fmt: skip
    return Block(title, key, "Family", tuple((shared, head) for shared, _, head in heads), lines)


def _cell(row: dict[str, Any] | None) -> str:
    """Print `value`, of gains `value [low, high]`."""
    if row is None:
        return "–"
    if row["measure"] == "beats":
        return f"{row['value']:.0%}"
    if row["measure"] in ("gain", "target_gain") and row["low"] is not None and row["high"] is not None:
        return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}"


def _make_notes(spec: dict[str, Any], judged: Rows) -> list[str]:
    if not judged:
        return [f"Scale {spec['scale']} chooses no training data."]
    confidence = read_provenance(spec["choices"])["choices"]["confidence"]
    halves = max(row["n"] for row in judged if row["measure"] == "gain")
    random = max(row["n"] for row in judged if row["method"] == "random")
    return [
        f"Scale {spec['scale']}. For one half of a task's tests each method chooses training examples of the pool, and "
        f"GPTs are trained on them; the other half judges. Means over {halves} halves; losses are final ones, in nats "
        "per token.",
        "Simulators are fitted on the target half alone and choose examples and order at once; in random order: the "
        "same examples. Methods of attribution choose the examples with the highest mean scores for the target half, "
        "in random order.",
        f"Gain: how much lower the loss is than after {random} random choices, mean; in brackets: Student's "
        f"{confidence:.0%} interval over halves, as if they were independent. Random ones beaten: the share of them "
        "that leave a higher loss. Best of the random ones: that with the lowest measured loss of the target half.",
        "Target half: simulators know how its losses went in the fitting runs, none of these runs. Where every test "
        "asks for something else, what helps one half is taken from the other.",
        "Predicted: by the simulator that chose, of the target half.",
        "Bold: the highest of a column, and those within its interval.",
    ]
