"""Learning curves of simulators: skill of loss against the number of fitting runs, a panel for each group."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from gptfluence.paper.figures.parts import add_legend, empty_figure
from gptfluence.paper.figures.style import method_style
from gptfluence.paper.names import TASKS, sort_methods
from gptfluence.paper.simulators import Rows, read_learning
from gptfluence.words import CHOSEN_RUNS, RUNS

COLUMNS = 4
LOWEST = -0.5
"""Skill below which nothing is drawn: the mean curve of two runs may be far below."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw skill with its bootstrap interval over held-out runs.

    Args:
        spec: simulators (path of the scores), models (by size), width_in (inches), scale.

    Raises:
        UserError: the scores are missing or damaged.
    """
    rows = [row for row in read_learning(spec["simulators"]) if row["varied"] in (RUNS, CHOSEN_RUNS)]
    rows = [row for row in rows if (row["metric"], row["measure"]) == ("loss", "skill")]
    if not rows:
        return empty_figure(spec, "no learning curves of simulators")
    models, methods = spec["models"], sort_methods(row["method"] for row in rows)
    groups = sorted(
        {(row["scenario"], row["model"], row["group"]) for row in rows},
        key=lambda key: (key[0], models.index(key[1]) if key[1] in models else len(models), key[2]),
    )
    columns = min(COLUMNS, len(groups))
    lines = -(-len(groups) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(spec["width_in"], 1.5 * lines + 0.5), sharex=True, sharey=True,
                                squeeze=False, layout="constrained")  # fmt: skip
    drawn: dict[str, Any] = {}
    for axes, (_, model, group) in zip(grid.flat, groups, strict=False):
        _draw_panel(axes, [row for row in rows if row["group"] == group], methods, drawn)
        task = next((name for name in TASKS if group.endswith(f"-{name}")), "")
        axes.set_title(f"{TASKS[task]}, {model}" if task else f"{group.rsplit('-', 1)[-1].capitalize()}, {model}")
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("skill")
    for axes in grid.flat[: len(groups)][-columns:]:  # the lowest of each column
        axes.set_xlabel("fitting runs")
        axes.tick_params(labelbottom=True)
    grid[0, 0].set_ylim(max(min(row["value"] for row in rows) - 0.05, LOWEST), 1)
    add_legend(figure, drawn, "")
    return figure


def _draw_panel(axes: Axes, rows: Rows, methods: list[str], drawn: dict[str, Any]) -> None:
    """Draw one group; `drawn` gets a line for each label."""
    for method in methods:
        style = method_style(method, methods)
        for varied, face in ((RUNS, style.colour), (CHOSEN_RUNS, "white")):
            found = sorted((row for row in rows if (row["method"], row["varied"]) == (method, varied)),
                           key=lambda row: row["number"])  # fmt: skip
            if not found:
                continue
            runs, values = [row["number"] for row in found], [row["value"] for row in found]
            dash = style.dash if varied == RUNS else ":"
            (line,) = axes.plot(runs, values, color=style.colour, linestyle=dash, marker=style.marker, markersize=3,
                                markerfacecolor=face, linewidth=1)  # fmt: skip
            drawn[f"{style.label}{', runs that it chose' * (varied == CHOSEN_RUNS)}"] = line
            if varied == RUNS and all(row["low"] is not None for row in found):
                low, high = ([row[end] for row in found] for end in ("low", "high"))
                axes.fill_between(runs, low, high, color=style.colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([2, 5, 10, 20, 50]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(4))
