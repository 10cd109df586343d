"""Figure 9: how simulators converge that Adam trains, beside what the exact solutions reach."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gptfluence.io import read_parquet
from gptfluence.paper.averages import Rows
from gptfluence.paper.figures.parts import add_legend, empty_figure
from gptfluence.paper.figures.style import method_style
from gptfluence.paper.names import SCENARIOS, sort_methods

PANELS = {
    "training_loss": ("update", "Training loss: single steps", "optimiser updates"),
    "validation_mse": ("epoch", "Validation: all-steps MSE", "epoch"),
}
"""The paper's panels: what is measured, against what; title and axis."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw training loss against updates, and validation MSE against epochs.

    Args:
        spec: convergence (path of convergence.parquet), width_in (inches), scale.

    Raises:
        UserError: the file is missing or damaged.
    """
    rows = read_parquet(spec["convergence"]).to_pylist()
    if not any(row["solved"] == "adam" for row in rows):
        return empty_figure(spec, "no methods that Adam trains")
    shape = (1, 2) if spec["width_in"] > 5 else (2, 1)
    figure, grid = plt.subplots(*shape, figsize=(spec["width_in"], 0.9 + 2.0 * shape[0]), layout="constrained")
    drawn: dict[str, Any] = {}
    for axes, (measure, (x, title, label)) in zip(grid, PANELS.items(), strict=True):
        _draw_panel(axes, [row for row in rows if row[measure] is not None], measure, x, drawn)
        axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylabel("(nats per token)²")
    first = rows[0]
    add_legend(figure, drawn, f"{first['model']}, {SCENARIOS[first['scenario']]}, loss; one fit a method")
    return figure


def _draw_panel(axes: Axes, rows: Rows, measure: str, x: str, drawn: dict[str, Any]) -> None:
    """Draw one measure; `drawn` gets a line for each label."""
    for method in sort_methods({row["method"] for row in rows}):
        style = method_style(method, [])
        own = [row for row in rows if row["method"] == method]
        trained = sorted((row for row in own if row["solved"] == "adam"), key=lambda row: row["epoch"])
        if trained:
            (drawn[f"{style.label}, Adam"],) = axes.plot(
                [row[x] for row in trained], [row[measure] for row in trained], color=style.colour,
                marker=style.marker, markersize=3, markevery=max(1, len(trained) // 8),
            )  # fmt: skip
        for row in own:
            if row["solved"] != "adam":
                label = f"{style.label}, exact" if row["solved"] == "exact" else style.label
                dash = (0, (5, 2)) if row["solved"] == "exact" else style.dash
                drawn[label] = axes.axhline(row[measure], color=style.colour, linestyle=dash, linewidth=0.9)
