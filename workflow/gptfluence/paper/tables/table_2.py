"""Table 2: the loss in fine-tuning."""

from __future__ import annotations

from typing import Any

from gptfluence.paper.tables import layout
from gptfluence.paper.tables.frame import Content
from gptfluence.paper.tables.page import Page

CONTENT = Content(
    scenario="fine_tuning",
    metrics=("loss",),
    title="Simulation of the test loss in fine-tuning",
)


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out the table; see `layout.make_page`."""
    return layout.make_page("table_2", CONTENT, spec)
