"""Parts that the figures share."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def add_legend(figure: Figure, drawn: dict[str, Any], title: str) -> None:
    """Put one legend below all panels; `drawn` holds a line, or what else stands for it, by its label."""
    figure.legend(
        drawn.values(), drawn.keys(), title=title, title_fontsize=6.5, loc="outside lower center", frameon=False,
        ncols=max(1, min(len(drawn), int(figure.get_figwidth() / 1.35))), handlelength=2.6, columnspacing=1.2,
    )  # fmt: skip


def empty_figure(spec: dict[str, Any], what: str) -> Figure:
    """Return a figure that says what a scale has not, as in "Scale nano has no simulated runs."."""
    figure = plt.figure(figsize=(spec["width_in"], 1))
    figure.text(0.5, 0.5, f"Scale {spec['scale']} has {what}.", ha="center", va="center")
    return figure
