"""Figure 11: measured and simulated losses in instruction tuning, of the largest model or that of the paper."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from gptfluence.paper.figures.trajectories import draw_losses

MODEL = "pythia-1b"


def draw(spec: dict[str, Any]) -> Figure:
    """Draw three test examples of every task; see `draw_losses`."""
    return draw_losses(spec, choose_model)


def choose_model(models: list[str]) -> str:
    """Choose the paper's model where the plan has it, else the largest of its models (smallest first)."""
    return MODEL if MODEL in models else models[-1]
