"""Methods of attribution, judged together: a dot for each method and measure."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gptfluence.io import read_provenance
from gptfluence.paper.attribution import (
    AS_IT_IS,
    CEILING,
    Rows,
    average_judged,
    read_judged,
    read_mislabels,
)
from gptfluence.paper.figures.parts import add_legend, empty_figure
from gptfluence.paper.names import ATTRIBUTION, list_attribution

PANELS = {
    "lds": ("LDS", "rank correlation"),
    "tail_patch": ("Tail-patch", "nats per token"),
    "mrr": ("MRR", "reciprocal rank"),
    "skill": ("Skill", "over mean curve"),
    "auc": ("Wrong labels", "AUC"),
    "seconds": ("Cost", "CPU seconds"),
}
"""A measure each: title, unit. A measure that no method has is left out."""

COLOURS = dict(
    zip(
        ATTRIBUTION,
        ("#7F7F7F", "#CC79A7", "#009E73", "#0072B2", "#E69F00", "#D55E00", "#000000"),
        strict=True,
    )
)
"""Of the families of methods (Okabe-Ito, and grey)."""

LABELS_IN, PANEL_IN, ROW_IN = 1.6, 0.75, 0.145
"""Inches: what the methods' names take, the least width of a panel, the height of a method."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw each method's scores, means over the judged groups with bootstrap intervals; single groups as small dots.

    Args:
        spec: attribution, mislabels (paths of their scores), width_in (inches), scale.

    Raises:
        UserError: the scores are missing or damaged.
    """
    judged = read_judged(spec["attribution"])
    if not judged:
        return empty_figure(spec, "no retrainings on random subsets to judge attribution by")
    several = len({row["group"] for row in judged}) > 1
    rows = (average_judged(judged) if several else judged) + read_mislabels(spec["mislabels"])
    measures = [measure for measure in PANELS if any(row["measure"] == measure for row in rows)]
    shown = {row["method"] for row in rows if row["measure"] in measures} - {CEILING}
    methods = list_attribution(shown)

    columns = max(1, min(len(measures), int((spec["width_in"] - LABELS_IN) / PANEL_IN)))
    lines = -(-len(measures) // columns)
    size = (spec["width_in"], lines * (0.6 + ROW_IN * len(methods)) + 0.45)
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, measure in zip(grid.flat, measures, strict=False):
        _draw_panel(axes, measure, methods, rows, judged if several else [])
    for axes in grid.flat[len(measures) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(methods)), [label for _, _, label in methods])
        axes.set_ylim(len(methods) - 0.4, -0.6)
        for tick, (_, family, _) in zip(axes.get_yticklabels(), methods, strict=True):
            tick.set_color(COLOURS.get(family, "black"))
    _explain(figure, spec, judged, methods)
    return figure


def _draw_panel(axes: Axes, measure: str, methods: list[tuple[str, str, str]], rows: Rows, single: Rows) -> None:
    """Draw one measure of all methods; `single`: the rows of single groups."""
    places = {method: place for place, (method, _, _) in enumerate(methods)}
    of = {method: COLOURS.get(family, "black") for method, family, _ in methods}
    chosen = [row for row in rows if row["measure"] == measure and row["method"] in places]
    low, high = _limits(measure, chosen)
    for row in (row for row in single if row["measure"] == measure and row["method"] in places):
        if not _is_hollow(row):
            value = np.clip(row["value"], low, high)
            axes.plot(value, places[row["method"]], ".", color="0.75", markersize=2.5, zorder=1)
    for row in chosen:
        value, place, colour = row["value"], places[row["method"]], of[row["method"]]
        if row["low"] is not None and row["high"] is not None:
            axes.plot(np.clip([row["low"], row["high"]], low, high), [place, place], color=colour, linewidth=0.8)
        outside = "<" if value < low else ">" if value > high else "o"
        axes.plot(
            np.clip(value, low, high), place, outside, color=colour, markersize=3.5, clip_on=False,
            markerfacecolor="white" if _is_hollow(row) else colour, markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
    for row in (row for row in rows if row["method"] == CEILING and row["measure"] == measure):
        axes.axvline(row["value"], color="black", linewidth=0.7, linestyle=(0, (4, 2)))
    zero = {"auc": 0.5}.get(measure, 0.0)
    if measure == "seconds":
        axes.set_xscale("symlog", linthresh=1)
    else:
        axes.axvline(zero, color="0.6", linewidth=0.6, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    families = [family for _, family, _ in methods]
    for place in range(1, len(methods)):
        if families[place] != families[place - 1]:
            axes.axhline(place - 0.5, color="0.88", linewidth=0.5, zorder=0)
    title, unit = PANELS[measure]
    axes.set_title(title)
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)


def _is_hollow(row: dict[str, Any]) -> bool:
    """Whether a dot is of a simulator without a fitted scale."""
    return bool(row["measure"] == "skill" and row["form"] == AS_IT_IS)


def _limits(measure: str, rows: Rows) -> tuple[float, float]:
    """Return from where to where values are drawn: a simulator far worse than the mean curve leaves the panel."""
    return (-1.0, 1.0) if measure == "skill" else (-np.inf, np.inf)


def _explain(figure: Figure, spec: dict[str, Any], judged: Rows, methods: list[tuple[str, str, str]]) -> None:
    """Add the legend: families by colour, and what dots and whiskers are."""
    families = dict.fromkeys(family for _, family, _ in methods)
    drawn: dict[str, Any] = {
        family: Line2D([], [], linestyle="", marker="o", markersize=3.5, color=COLOURS.get(family, "black"))
        for family in families
    }
    if any(_is_hollow(row) for row in judged):
        drawn["skill without a fitted scale"] = Line2D([], [], linestyle="", marker="o", markersize=3.5, color="black",
                                                       markerfacecolor="white", markeredgewidth=0.8)  # fmt: skip
    if any(row["method"] == CEILING for row in judged):
        drawn["ceiling of the LDS"] = Line2D([], [], color="black", linewidth=0.7, linestyle=(0, (4, 2)))
    groups = len({row["group"] for row in judged})
    confidence = read_provenance(spec["attribution"])["attribution"]["confidence"]
    means = f"means over {groups} groups (small dots: single groups);" if groups > 1 else ""
    line = "" if not means else " " if figure.get_figwidth() > 5 else "\n"
    add_legend(figure, drawn, f"{means}{line}whiskers: {confidence:.0%} bootstrap intervals")
