"""Parts that the figures share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def add_legend(figure: Figure, drawn: dict[str, Any], title: str) -> None:
    """Put one legend below all panels; `drawn` holds a line, or what else stands for it, by its label."""
    figure.legend(
        drawn.values(), drawn.keys(), title=title, title_fontsize=6.5, loc="outside lower center", frameon=False,
        ncols=_fitting_columns(list(drawn), figure.get_figwidth() - 0.2), handlelength=2.6, columnspacing=1.2,
    )  # fmt: skip


def _fitting_columns(labels: list[str], width: float) -> int:
    """Return how many columns of a legend fit a width (inches), by the mean width of a letter."""
    for rows in range(1, len(labels)):
        columns = -(-len(labels) // rows)
        # As matplotlib fills them: the first columns are the longer ones.
        longest = [max(map(len, column)) for column in np.array_split(labels, columns)]
        if sum(0.45 + 0.05 * letters for letters in longest) <= width:
            return columns
    return 1


def empty_figure(spec: dict[str, Any], what: str) -> Figure:
    """Return a figure that says what a scale has not, as in "Scale nano has no simulated runs."."""
    figure = plt.figure(figsize=(spec["width_in"], 1))
    figure.text(0.5, 0.5, f"Scale {spec['scale']} has {what}.", ha="center", va="center")
    return figure


def order_models(found: Collection[str], models: list[str]) -> list[str]:
    """Return the models of a figure in the order of their size as `models` gives it; by name if that knows none."""
    return [model for model in models if model in found] or sorted(found)


def choose_model(models: list[str], wanted: str, otherwise: str) -> str:
    """Choose the paper's model where it is among some (smallest first), else the middle or the largest of them."""
    return wanted if wanted in models else models[-1 if otherwise == "largest" else (len(models) - 1) // 2]
