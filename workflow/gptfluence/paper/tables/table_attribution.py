"""Methods of attribution, judged together: as simulators, by retraining, by single steps and by known facts."""

from __future__ import annotations

from typing import Any

from gptfluence.io import read_provenance
from gptfluence.paper.attribution import (
    AS_IT_IS,
    CEILING,
    FOUND_AT,
    MISLABELLED,
    SCALED,
    Rows,
    average_judged,
    read_judged,
    read_mislabels,
)
from gptfluence.paper.names import MEASURES, list_attribution
from gptfluence.paper.tables.page import Block, Page, is_best, make_lines, number_form
from gptfluence.words import AVERAGE

TITLE = "Methods of training data attribution, judged together"

COLUMNS = ("group", "method", "form", "measure", "value", "low", "high", "n", "bold")
"""Columns of the CSV. group: a group of runs, `average` over them, or `mislabelled`; form: `as it is` or `scaled`; n:
of how many runs, subsets, test examples or (of averages) groups the value is a mean; bold: best, or tied with it."""

_SIMULATION = {
    "all_steps_mse": "MSE",
    "all_steps_mae": "MAE",
    "final_step_spearman": "Spearman",
    "skill": "Skill",
    "across_run_correlation": "Across-run r",
}
_HEADS = (
    *((form, measure, form.capitalize(), head) for form in (AS_IT_IS, SCALED) for measure, head in _SIMULATION.items()),
    *((AS_IT_IS, name, "", MEASURES[name]) for name in ("lds", "tail_patch", "mrr", "recall_at_10", "seconds")),
    (AS_IT_IS, "auc", "Wrong labels", "AUC"),
    (AS_IT_IS, "found", "Wrong labels", f"Found at {FOUND_AT:.0%}"),
)
"""Of each column of the printed tables: form, measure, head that neighbours share, head."""


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out the table; `spec` as for `write_table`, with attribution and mislabels (paths of their scores).

    Raises:
        UserError: the scores are missing or damaged.
    """
    judged = read_judged(spec["attribution"])
    mislabelled = read_mislabels(spec["mislabels"])
    groups = sorted({row["group"] for row in judged})
    averages = average_judged(judged) if len(groups) > 1 else []
    frame = [*averages, *judged, *mislabelled]
    for row in frame:
        row["bold"] = _is_bold(row, frame)
    blocks = []
    if len(groups) > 1:
        blocks.append(_make_block(f"Averages over {len(groups)} groups", AVERAGE, [*averages, *mislabelled]))
    for group in groups:
        rows = [row for row in judged if row["group"] == group]
        # What is said of all groups stands once.
        blocks.append(_make_block(f"Group {group}", group, rows + (mislabelled if len(groups) == 1 else [])))
    if not groups and mislabelled:
        blocks.append(_make_block("Mislabelled data", MISLABELLED, mislabelled))
    notes = _make_notes(spec, judged, mislabelled)
    return Page("table_attribution", TITLE, TITLE, notes, blocks, COLUMNS, frame)


def _is_bold(row: dict[str, Any], frame: Rows) -> bool:
    keys = ("group", "form", "measure")
    rivals = [rival for rival in frame if all(rival[k] == row[k] for k in keys) and not _is_reference(rival)]
    return not _is_reference(row) and is_best(row, rivals)


def _is_reference(row: dict[str, Any]) -> bool:
    """Whether a score is no achievement: the ceiling, steps by which steps are judged, and seconds for nothing."""
    return row["method"] == CEILING or row["measure"] == "seconds" or row["method"] == row["measure"] == "tail_patch"


def _make_block(title: str, key: str, rows: Rows) -> Block:
    """Lay out some rows: a line for each method, a column for each of _HEADS that any of them has."""
    cells = {(row["method"], row["form"], row["measure"]): row for row in rows if row["method"] != CEILING}
    heads = [head for head in _HEADS if any((form, measure) == head[:2] for _, form, measure in cells)]
    lines = make_lines(
        ((family, label, [cells.get((method, form, measure)) for form, measure, _, _ in heads])
         for method, family, label in list_attribution(method for method, _, _ in cells)),
        _cell,
    )  # fmt: skip
    return Block(title, key, "Family", tuple((shared, head) for _, _, shared, head in heads), lines)


def _cell(row: dict[str, Any] | None) -> str:
    """Print `value`, of LDS `value [low, high]`."""
    if row is None:
        return "–"
    value = row["value"]
    if row["measure"] in ("all_steps_mse", "all_steps_mae", "tail_patch"):
        form = number_form(value, None, 3)
    else:
        form = ".1f" if row["measure"] == "seconds" else ".1e" if abs(value) >= 1e5 else ".3f"
    interval = f" [{row['low']:{form}}, {row['high']:{form}}]" if row["measure"] == "lds" and _has_ends(row) else ""
    return f"{value:{form}}{interval}"


def _has_ends(row: dict[str, Any]) -> bool:
    return row["low"] is not None and row["high"] is not None


def _make_notes(spec: dict[str, Any], judged: Rows, mislabelled: Rows) -> list[str]:
    notes = [f"Scale {spec['scale']}."]
    if judged:
        confidence = read_provenance(spec["attribution"])["attribution"]["confidence"]
        notes += [
            "As it is: a method's scores times learning rates are the changes of the loss at each step. Scaled: times "
            "a number, fitted on the fitting runs. Measures are those of Tables 1-4 on held-out runs, averages over "
            "test tasks. Methods of the family Replayed are given what no other is: gradients at the weights of the "
            "run that they predict.",
            "LDS: rank correlation of summed scores with the measured final loss over retrainings on random subsets, "
            f"mean over test examples; in brackets: {confidence:.0%} bootstrap interval. {_describe_ceiling(judged)}",
            "Tail-patch: by how many nats per token one more training step on each of the ten examples with the "
            "highest scores lowers the loss, mean over test examples. The row of this name ranks by the measured steps "
            "themselves: no method can have more.",
            "MRR, Recall@10: how early the training examples stand that state the fact that a test example asks for.",
            "CPU seconds: for all scores of a group; what methods share is counted in each.",
            "Bold: the best of a column, and those within its bootstrap interval.",
        ]
        if len({row["group"] for row in judged}) > 1:
            notes.append("Averages are over the groups in which a measure is defined, taken as independent.")
    else:
        notes = [f"Scale {spec['scale']} has no retrainings on random subsets to judge attribution by."]
    if mislabelled:
        notes.append(
            "Wrong labels: area under the ROC curve of finding them, and their share that is found once "
            f"{FOUND_AT:.0%} of the pool is checked, on mislabelled data of its own; by the loss after training, "
            "TracIn's self-influence at checkpoints, and GPTfluence's factor of an example on itself."
        )
    else:
        notes.append(f"Scale {spec['scale']} has no mislabelled data.")
    return notes


def _describe_ceiling(judged: Rows) -> str:
    """Say what noise leaves to the best method."""
    ceilings = [row for row in judged if row["method"] == CEILING]
    if not ceilings:
        return "How much of it noise leaves to the best method is unknown: each subset was trained on in one order."
    values = ", ".join(f"{row['value']:.3f} ({row['group']})" for row in ceilings)
    return f"Ceiling that noise leaves to the best method, from subsets trained on in several orders: {values}."
