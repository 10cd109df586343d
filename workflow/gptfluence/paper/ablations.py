"""Which variants of a method differ from it in one setting alone: order, checkpoint interval, or encoder."""

from __future__ import annotations

from typing import Any

from gptfluence.paper.averages import Rows, average_groups
from gptfluence.words import AVERAGE, WHOLE

ORDER, INTERVAL, ENCODER = "order", "interval", "features"
"""Settings of which the paper shows ablations, as params.yaml calls them."""

METHOD = "gptfluence"
"""The method that the paper takes apart."""

ENCODERS = {
    WHOLE: "MiniLM",
    "minilm_cls": "MiniLM, CLS",
    "gpt": "the GPT itself",
    "bert": "BERT",
    "pythia_160m": "Pythia-160M",
    "pythia_410m": "Pythia-410M",
    "pythia_1b": "Pythia-1B",
}
"""Encoders of the default params.yaml in print, in the order in which they are shown."""


def variants_by(setting: str, variants: dict[str, dict[str, Any]], **others: Any) -> dict[Any, str]:
    """Return the variants that differ in a setting, by its value, lowest first.

    Args:
        setting: which.
        variants: what is changed in each variant.
        others: what else is changed.
    """
    found = {changed[setting]: name for name, changed in variants.items()
             if setting in changed and {k: v for k, v in changed.items() if k != setting} == others}  # fmt: skip
    return dict(sorted(found.items()))


def scores_of_task(rows: Rows, task: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return, by method and variant, a measure's scores on a task; on `words.AVERAGE` means over the groups.

    In fine-tuning a group's average is that of its one task.

    Args:
        rows: of one scenario, model, metric and measure.
        task: which, or `words.AVERAGE`.
    """
    chosen: dict[tuple[str, str], Rows] = {}
    for row in rows:
        if row["task"] == task:
            chosen.setdefault((row["method"], row["variant"]), []).append(row)
    groups = max(map(len, chosen.values()), default=0)
    return {
        key: found[0] if groups == 1 else average_groups(found)
        for key, found in chosen.items()
        if len(found) == groups or task != AVERAGE
    }
