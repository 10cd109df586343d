"""Table 1: the loss in instruction tuning."""

from __future__ import annotations

from gptfluence.paper.tables.frame import Content

CONTENT = Content(
    scenario="instruction_tuning",
    metrics=("loss",),
    title="Simulation of the test loss in instruction tuning",
)
