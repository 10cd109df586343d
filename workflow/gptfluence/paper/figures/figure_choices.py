"""Training data that is chosen: how much lower the loss is than after random choices, a panel for each group."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gptfluence.io import read_provenance
from gptfluence.paper.averages import Rows
from gptfluence.paper.choices import Chooser, chooser, list_choosers, read_choices
from gptfluence.paper.figures.parts import add_legend, empty_figure
from gptfluence.paper.names import TASKS, sort_tasks

COLUMNS, ROW_IN = 2, 0.15
"""Panels side by side; inches for a method."""

_MARKS = {"gain": ("o", "black", "on the judging half"), "target_gain": ("o", "white", "on the half chosen for")}
"""Of each measure: marker, its face, label."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw the gains of each method.

    Args:
        spec: choices (path of the scores), width_in (inches), scale.

    Raises:
        UserError: the scores are missing or damaged.
    """
    rows = [row for row in read_choices(spec["choices"]) if row["measure"] in _MARKS]
    if not rows:
        return empty_figure(spec, "no chosen training data")
    tasks = sort_tasks(row["task"] for row in rows)
    groups = sorted({(row["model"], tasks.index(row["task"]), row["group"]) for row in rows})
    choosers = list_choosers(rows)
    columns = min(COLUMNS, len(groups))
    lines = -(-len(groups) // columns)
    size = (spec["width_in"], lines * (0.5 + ROW_IN * len(choosers)) + 0.4)
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (model, task, group) in zip(grid.flat, groups, strict=False):
        _draw_panel(axes, [row for row in rows if row["group"] == group], [who for who, _, _ in choosers])
        axes.set_title(f"{TASKS.get(tasks[task], tasks[task])}, {model}")
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    grid[0, 0].set_yticks(range(len(choosers)), [label for _, _, label in choosers])
    grid[0, 0].set_ylim(len(choosers) - 0.5, -0.5)
    drawn = {label: Line2D([], [], linestyle="", marker=marker, markersize=3.5, color="black", markerfacecolor=face)
             for marker, face, label in _MARKS.values()}  # fmt: skip
    confidence = read_provenance(spec["choices"])["choices"]["confidence"]
    add_legend(figure, drawn, f"whiskers: Student's {confidence:.0%} intervals over halves")
    return figure


def _draw_panel(axes: Axes, rows: Rows, choosers: list[Chooser]) -> None:
    for row in rows:
        marker, face, _ = _MARKS[row["measure"]]
        place = choosers.index(chooser(row))
        if row["measure"] == "gain" and row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color="black", linewidth=0.8)
        axes.plot(row["value"], place, marker, color="black", markersize=3.5, markerfacecolor=face, zorder=3)
    axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("nats per token below random choices")
    axes.tick_params(axis="y", length=0)
