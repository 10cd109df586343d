"""Table 3: BLEU and ROUGE-L in instruction tuning."""

from __future__ import annotations

from gptfluence.paper.tables.frame import Content

CONTENT = Content(
    scenario="instruction_tuning",
    metrics=("bleu", "rouge_l"),
    title="Simulation of the test BLEU and ROUGE-L in instruction tuning",
)
