"""Table 4: BLEU and ROUGE-L in fine-tuning."""

from __future__ import annotations

from typing import Any

from gptfluence.paper.tables import layout
from gptfluence.paper.tables.frame import Content
from gptfluence.paper.tables.page import Page

CONTENT = Content(
    scenario="fine_tuning",
    metrics=("bleu", "rouge_l"),
    title="Simulation of the test BLEU and ROUGE-L in fine-tuning",
)


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out the table; see `layout.make_page`."""
    return layout.make_page("table_4", CONTENT, spec)
