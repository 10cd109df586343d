"""Table 10: the Markov order of GPTfluence."""

from __future__ import annotations

from typing import Any

from gptfluence.paper.ablations import METHOD, ORDER, scores_of_task, variants_by
from gptfluence.paper.averages import Rows
from gptfluence.paper.names import METHODS, SCENARIOS
from gptfluence.paper.published import load_published
from gptfluence.paper.simulators import read_variants_by_task
from gptfluence.paper.tables.measured import BLOCKS, COLUMNS, make_measured_block, only, paper_row
from gptfluence.paper.tables.page import Frame, Page
from gptfluence.words import WHOLE

TITLE = "The Markov order of GPTfluence"

SCENARIO = "fine_tuning"
"""Whose numbers the paper's are, whatever its caption says: its order 1 equals its Tables 2 and 4."""

REFERENCES = ("persistence", "mean_curve", "simfluence")
"""Methods that stand beside, whatever the order."""


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out the table; `spec` as for `write_table`, with simulators (path of the scores) and variants.

    Raises:
        UserError: the scores are missing or damaged.
    """
    orders = {1: WHOLE} | variants_by(ORDER, spec["variants"].get(METHOD, {}))
    kept = {(METHOD, variant): f"order {order}" for order, variant in orders.items()}
    kept |= {(method, WHOLE): METHODS[method] for method in REFERENCES}
    paper: Frame = [paper_row(number) for number in load_published() if number.table == "table_10"]
    pairs = list(dict.fromkeys((row["metric"], row["task"]) for row in paper))
    rows = [row for row in read_variants_by_task(spec["simulators"])
            if row["scenario"] == SCENARIO and (row["method"], row["variant"]) in kept]  # fmt: skip
    ours: Frame = []
    for (metric, task), measure in ((pair, measure) for pair in pairs for measure in BLOCKS):
        chosen = [row for row in rows if (row["metric"], row["measure"]) == (metric, measure)]
        found = scores_of_task(chosen, task)
        ours += [{"source": "ours", "label": kept[key]} | row for key, row in found.items()]
    for row in paper:
        row["label"] = f"order {row['variant'].removeprefix('order_')}"
    labels = [f"order {order}" for order in orders]
    labels = [*(METHODS[method] for method in REFERENCES), *labels]
    columns = [(metric, task) for metric, task in pairs if not ours or any(
        (row["metric"], row["task"]) == (metric, task) for row in ours)]  # fmt: skip
    sections = [("", label) for label in labels]
    blocks = [make_measured_block(ours, paper, measure, columns, sections) for measure in BLOCKS]
    return Page("table_10", f"Table 10. {TITLE}", TITLE, _notes(spec, ours), blocks, COLUMNS, only(ours + paper))


def _notes(spec: dict[str, Any], ours: Rows) -> list[str]:
    paper = (
        "Rows in italics: the paper's numbers for Pythia-410M, digits as printed. Its caption says instruction tuning, "
        "but its order 1 equals its own numbers of fine-tuning (Tables 2 and 4)."
    )
    if not ours:
        return [f"Scale {spec['scale']} has no variants of GPTfluence by order in fine-tuning.", paper]
    models = ", ".join(dict.fromkeys(row["model"] for row in ours))
    runs = max(row["n_runs"] for row in ours)
    return [
        f"Scale {spec['scale']}: {SCENARIOS[SCENARIO]}, {models}, {runs} held-out runs a task. An order of n is given "
        "the first n measured values, which are not judged, so orders are compared on slightly different steps.",
        "In brackets: population standard deviation over trajectories; for Spearman over runs.",
        "Bold: the best of a column, and those within its bootstrap interval over runs.",
        paper,
    ]
