"""Table 13: what a simulated trajectory costs."""

from __future__ import annotations

from typing import Any

from gptfluence.io import read_parquet, read_provenance
from gptfluence.paper.names import METHODS, SCENARIOS, sort_methods
from gptfluence.paper.published import load_published
from gptfluence.paper.tables.page import Block, Frame, Line, Page

TITLE = "Latency and operations of simulation"

COLUMNS = ("source", "group", "scenario", "model", "method", "measure", "value", "runs", "steps", "tests")
"""Columns of the CSV. source: ours or paper."""

PAPER_METHODS = {"tracin_cp": "TracIn-CP", "simfluence": "Simfluence", "gptfluence": "GPTfluence"}


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out the table; `spec` as for `write_table`, with costs (path of what was measured).

    Raises:
        UserError: the file is missing or damaged.
    """
    ours: Frame = [row | {"source": "ours"} for row in read_parquet(spec["costs"]).to_pylist()]
    paper: Frame = [
        {name: getattr(number, name, None) for name in COLUMNS} | {"source": "paper"}
        for number in load_published()
        if number.table == "table_13"
    ]
    cells = {(row["method"], row["measure"]): row for row in ours}
    printed = {(row["method"], row["measure"]): row["value"] for row in paper}
    lines = []
    for method in sort_methods(row["method"] for row in (*ours, *paper)):
        one_run, all_runs = cells.get((method, "one_run")), cells.get((method, "all_runs"))
        flops, one_test = cells.get((method, "flops")), cells.get((method, "one_test"))
        own = (
            _seconds(next((row["value"] for row in (one_run, one_test) if row), None)),
            _seconds(all_runs["value"] if all_runs else None),
            _seconds(all_runs["value"] / (all_runs["runs"] * all_runs["tests"]) if all_runs else None),
            f"{flops['value']:.1e}" if flops else "–",
        )
        if any(cell != "–" for cell in own):
            lines.append((METHODS.get(method, method), False, own))
        if method in PAPER_METHODS:
            lines.append(
                (PAPER_METHODS[method], True, (printed[method, "seconds"], "–", "–", printed[method, "flops"]))
            )
    runs = max((row["runs"] for row in ours), default=0)
    heads = (
        ("Latency, seconds", "one sample"),
        ("Latency, seconds", f"all {runs} held-out runs"),
        ("Latency, seconds", "of it, a trajectory"),
        ("", "Operations a step"),
    )
    block = Block("Costs", "costs", "Source", heads, tuple(
        Line("paper" if is_paper else "ours", name, shown, (False,) * len(heads), is_paper, False)
        for name, is_paper, shown in lines
    ))  # fmt: skip
    return Page("table_13", f"Table 13. {TITLE}", TITLE, _notes(spec, ours), [block], COLUMNS, ours + paper)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _notes(spec: dict[str, Any], ours: Frame) -> list[str]:
    first, machine = ours[0], read_provenance(spec["costs"])["costs"]["machine"]
    notes = [
        f"Scale {spec['scale']}: {SCENARIOS[first['scenario']]}, {first['model']}, loss, {first['steps']} steps, "
        f"{first['tests']} tests. Measured on {machine}, beside whatever else ran there: the median of seven calls.",
        "One sample: the paper simulates one trajectory a call; ours is a call for one run, which simulates all of "
        "its tests at once and so bounds one trajectory from above. All held-out runs: one call for all of them.",
        "Operations: products in one step of one trajectory, as the paper counts, with nothing computed ahead for all "
        "steps, though our roll-outs do just that.",
        "Rows in italics: the paper's numbers, on hardware that it does not name; digits as printed.",
    ]
    if any(row["measure"] == "one_test" for row in ours):
        notes.append(
            "TracIn-CP and Grad-Dot: CPU seconds for the gradients of all training examples and tests, by the number "
            "of tests: the same gradients serve all steps and runs. The training run that they need is not counted."
        )
    return notes
