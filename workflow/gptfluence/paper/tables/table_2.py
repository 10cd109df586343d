"""Table 2: the loss in fine-tuning."""

from __future__ import annotations

from gptfluence.paper.tables.frame import Content

CONTENT = Content(
    scenario="fine_tuning",
    metrics=("loss",),
    title="Simulation of the test loss in fine-tuning",
)
