"""Figure 6: how well the loss is simulated, against the size of the model."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from gptfluence.io import read_parquet, read_provenance
from gptfluence.paper.figures.parts import add_legend, empty_figure, order_models
from gptfluence.paper.figures.style import IN_TABLES_ONLY, method_style
from gptfluence.paper.names import MEASURES, sort_methods
from gptfluence.words import AVERAGE

PANELS = {
    "all_steps_mse": "(nats per token)²",
    "all_steps_mae": "nats per token",
    "final_step_spearman": "rank correlation",
}
"""The paper's panels, a measure each, and their units."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw the scores of instruction tuning: averages over tasks, with bootstrap intervals over the held-out runs.

    Args:
        spec: scores (path of scores.parquet), width_in (inches), scale, and optionally models, their names in the
            order of their size (default: by name).

    Raises:
        UserError: the scores are missing or damaged.
    """
    known = [
        row
        for row in read_parquet(spec["scores"]).to_pylist()
        if (row["scenario"], row["metric"], row["setting"]) == ("instruction_tuning", "loss", "seen")
        and row["measure"] in PANELS
        and row["method"] not in IN_TABLES_ONLY
    ]
    scores = [row for row in known if row["task"] == AVERAGE]
    if not scores:
        return empty_figure(spec, "no instruction tuning runs")
    models = order_models({row["model"] for row in scores}, spec.get("models", []))
    methods = sort_methods(row["method"] for row in scores)
    cells = {(row["model"], row["method"], row["measure"]): row for row in scores}

    height = 0.55 + len(models) * (0.11 * len(methods) + 0.14)
    shape = (1, 3) if spec["width_in"] > 5 else (3, 1)
    size = (spec["width_in"], 0.5 + shape[0] * height)
    figure, grid = plt.subplots(*shape, figsize=size, sharey=True, layout="constrained")
    drawn: dict[str, Any] = {}
    step = 0.8 / max(len(methods), 2)
    for axes, measure in zip(grid, PANELS, strict=True):
        for i, method in enumerate(methods):
            rows = [(place, cells.get((model, method, measure))) for place, model in enumerate(models)]
            dots = [(place, row) for place, row in rows if row and row["value"] is not None]
            if not dots:
                continue
            style = method_style(method, methods)
            values = np.array([row["value"] for _, row in dots])
            ends = np.array([[row[end] if row[end] is not None else row["value"] for _, row in dots]
                             for end in ("low", "high")])  # fmt: skip
            y = np.array([place for place, _ in dots]) + (i - (len(methods) - 1) / 2) * step
            drawn[style.label] = axes.errorbar(
                values, y, xerr=np.clip(np.abs(ends - values), 0, None), fmt=style.marker, color=style.colour,
                markersize=4, markeredgewidth=0.9, elinewidth=0.8, capsize=1.2,
            )  # fmt: skip
        for place in range(1, len(models)):
            axes.axhline(place - 0.5, color="0.85", linewidth=0.5, zorder=0)
        shown = [row["value"] for (_, _, m), row in cells.items() if m == measure and row["value"] is not None]
        better = "higher is better" if measure == "final_step_spearman" else "lower is better"
        axes.set_title(f"{MEASURES[measure]} of the loss")
        axes.set_xlabel(f"{PANELS[measure]}, {better}")
        if measure != "final_step_spearman" and shown and min(shown) > 0 and max(shown) > 8 * min(shown):
            axes.set_xscale("log")
            near = max(shown) < 100 * min(shown)  # so that a decade has more than one label
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
    grid[0].set_yticks(range(len(models)), models)
    grid[0].set_ylim(len(models) - 0.5, -0.5)
    confidence = read_provenance(spec["scores"])["scores"]["confidence"]
    title = (
        f"averages over {len({row['task'] for row in known} - {AVERAGE})} tasks;{' ' if shape[0] == 1 else chr(10)}"
        f"whiskers: {confidence:.0%} bootstrap interval over {max(row['n_runs'] for row in scores)} held-out runs"
    )
    add_legend(figure, drawn, title)
    return figure
