"""Tables 11 and 12: simulators on unseen training examples, unseen tests, or both."""

from __future__ import annotations

from typing import Any

from gptfluence.io import read_parquet, read_provenance
from gptfluence.paper.names import METHODS, SCENARIOS, SETTINGS, sort_methods
from gptfluence.paper.published import load_published
from gptfluence.paper.simulators import read_by_task
from gptfluence.paper.tables.measured import BLOCKS, COLUMNS, make_measured_block, only, paper_row
from gptfluence.paper.tables.page import Frame, Page
from gptfluence.scores.words import CEILING, ELSEWHERE
from gptfluence.words import AVERAGE, PREDICTED_CURVE, WHOLE

TITLES = {
    "table_11": "Unseen data in fine-tuning",
    "table_12": "Unseen data in instruction tuning",
}

SCENARIO = {"table_11": "fine_tuning", "table_12": "instruction_tuning"}

_UNSEEN = ("unseen_train", "unseen_test", "unseen_both")
_SETTINGS = (*_UNSEEN, *(f"{ELSEWHERE}{setting}" for setting in ("seen", *_UNSEEN)))
"""In the order of the lines. On unseen training examples alone `scores` has more methods than `simulators`."""

MODEL = "pythia-410m"
"""The paper's."""


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out Table 11 or 12; `spec` as for `write_table`, with scores and simulators (paths).

    Raises:
        UserError: the scores are missing or damaged.
    """
    table = spec["table"]
    ours = [_labelled(row) for row in _read(spec, SCENARIO[table])]
    models = [model for model in spec["models"] if any(row["model"] == model for row in ours)]
    elsewhere = {row["model"] for row in ours if row["setting"].startswith(ELSEWHERE)}
    # The paper's numbers are of one model; where simulators of a mixture are judged on runs of single tasks, that one.
    model = next((m for m in (MODEL, *models) if m in models and (not elsewhere or m in elsewhere)), "")
    ours = [row for row in ours if row["model"] == model]
    paper = [paper_row(number) for number in load_published() if number.table == table]
    paper = [_labelled(row) for row in paper]
    pairs = list(dict.fromkeys((row["metric"], row["task"]) for row in paper))
    pairs = [pair for pair in pairs if not ours or any((r["metric"], r["task"]) == pair for r in ours)] or pairs
    ours = [row for row in ours if (row["metric"], row["task"]) in pairs]
    lines = [
        (section, label)
        for section in map(_section, _SETTINGS)
        for label in dict.fromkeys(
            _label(method, variant)
            for method in sort_methods(row["method"] for row in ours + paper)
            for variant in sorted({row["variant"] for row in ours if row["method"] == method} | {WHOLE},
                                  key=lambda name: (name != WHOLE, name))
        )
    ]  # fmt: skip
    blocks = [make_measured_block(ours, paper, measure, pairs, lines) for measure in BLOCKS]
    title = TITLES[table]
    notes = _notes(spec, table, ours, model)
    return Page(
        table, f"Table {table.removeprefix('table_')}. {title}", title, notes, blocks, COLUMNS, only(ours + paper)
    )


def _read(spec: dict[str, Any], scenario: str) -> Frame:
    """Read the scores on unseen training examples of all simulated methods, and on unseen tests and elsewhere."""
    simulated = [
        row | {"source": "ours", "variant": WHOLE, "group": None}
        for row in read_parquet(spec["scores"]).to_pylist()
        if row["setting"] == "unseen_train" and row["method"] != CEILING and row["value"] is not None
    ]
    judged = [row | {"source": "ours"} for row in read_by_task(spec["simulators"], _SETTINGS[1:])]
    return [row for row in (*simulated, *judged)
            if row["scenario"] == scenario and row["task"] != AVERAGE and row["measure"] in BLOCKS]  # fmt: skip


def _labelled(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"section": _section(row["setting"]), "label": _label(row["method"], row["variant"])}


def _section(setting: str) -> str:
    if not setting.startswith(ELSEWHERE):
        return SETTINGS[setting]
    return f"single-task runs, {SETTINGS[setting.removeprefix(ELSEWHERE)]}"


def _label(method: str, variant: str) -> str:
    name = METHODS.get(method, method)
    return name if variant == WHOLE else f"{name}, {variant.replace('_', ' ')}"


def _notes(spec: dict[str, Any], table: str, ours: Frame, model: str) -> list[str]:
    paper = "Rows in italics: the paper's numbers, for Pythia-410M and its data; digits as printed."
    if not ours:
        return [f"Scale {spec['scale']} has no unseen data in {SCENARIOS[SCENARIO[table]]}.", paper]
    folds = read_provenance(spec["simulators"])["simulators"]["folds"]
    predicted = any(row["method"] == PREDICTED_CURVE for row in ours)
    counts = {_section(setting): max(row["n_runs"] for row in ours if row["setting"] == setting)
              for setting in _SETTINGS if any(row["setting"] == setting for row in ours)}  # fmt: skip
    notes = [
        f"Scale {spec['scale']}: {SCENARIOS[SCENARIO[table]]}, {model}. Runs: "
        + "; ".join(f"{section}, {n}" for section, n in counts.items()) + ".",
        f"Unseen tests: of each task's tests one of {folds} parts at a time is kept from the fit. Their mean curve is "
        "not known" + ("; the predicted one is made of their gradients alone." if predicted else "."),
        "In brackets: population standard deviation over trajectories; for Spearman over runs.",
        "Bold: the best of a setting, and those within its bootstrap interval over runs.",
        paper,
    ]  # fmt: skip
    if any(row["setting"].startswith(ELSEWHERE) for row in ours):
        notes.append(
            "The paper fits on mixtures and judges on runs of single tasks, whose batches are half as large, with "
            "other learning rates and prompts: that is what its numbers stand beside, below. Where factors are summed "
            "over the batch (batch sum: the paper's form), half a batch halves them. The mean curve is there that of "
            "the runs of the single task. Above: runs of the same mixture, where data alone is unseen."
        )
    return notes
