"""Figures 3 and 4: how well the loss is simulated against the checkpoint interval, and against the Markov order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from gptfluence.io import read_provenance
from gptfluence.paper.ablations import INTERVAL, METHOD, ORDER, scores_of_task, variants_by
from gptfluence.paper.figures.parts import add_legend, choose_model, empty_figure, order_models
from gptfluence.paper.figures.style import Style, method_style
from gptfluence.paper.names import MEASURES, SCENARIOS, TASKS
from gptfluence.paper.simulators import read_variants_by_task
from gptfluence.words import AVERAGE, WHOLE

PANELS = ("all_steps_mse", "all_steps_mae", "final_step_spearman")
"""The paper's measures."""

REFERENCES = ("mean_curve", "simfluence")
"""Methods that are drawn as they are, whatever is varied; the paper has the second."""

MODEL = "pythia-410m"
"""The paper's."""


@dataclass(frozen=True)
class _Ablation:
    """What a figure shows.

    Attributes:
        setting: what is varied.
        lines: kinds of variants, by their label, and what else they change.
        scenario: whose loss it is.
        tasks: of each row of panels; average: over all.
        axis: name of the axis.
    """

    setting: str
    lines: dict[str, dict[str, Any]]
    scenario: str
    tasks: tuple[str, ...]
    axis: str


_FIGURES = {
    "figure_3": _Ablation(
        INTERVAL, {"known values stand (paper)": {"between": "hold"}, "whole intervals at a step (ours)": {}},
        "instruction_tuning", (AVERAGE,), "steps from one checkpoint to the next",
    ),
    "figure_4": _Ablation(ORDER, {"": {}}, "fine_tuning", ("rte", "webnlg"), "Markov order"),
}  # fmt: skip


def draw(spec: dict[str, Any]) -> Figure:
    """Draw each measure against what is varied, with bootstrap intervals over the held-out runs.

    Args:
        spec: figure (figure_3 or figure_4), simulators (path of the scores), variants (what is changed in each of a
            method's), models (by size), width_in (inches), scale.

    Raises:
        UserError: the scores are missing or damaged.
    """
    content = _FIGURES[spec["figure"]]
    rows = [row for row in read_variants_by_task(spec["simulators"]) if row["metric"] == "loss"]
    scenarios = [content.scenario, *SCENARIOS]
    scenario = next((s for s in scenarios if any(row["scenario"] == s for row in rows)), "")
    rows = [row for row in rows if row["scenario"] == scenario]
    numbers = {label: {1: WHOLE} | variants_by(content.setting, spec["variants"].get(METHOD, {}), **others)
               for label, others in content.lines.items()}  # fmt: skip
    found = {row["variant"] for row in rows if row["method"] == METHOD}
    if WHOLE not in found or not any(name in found - {WHOLE} for line in numbers.values() for name in line.values()):
        return empty_figure(spec, f"no variants of {METHOD} by {content.axis}")
    model = choose_model(order_models({row["model"] for row in rows}, spec["models"]), MODEL, "middle")
    rows = [row for row in rows if row["model"] == model]
    present = {row["task"] for row in rows} - {AVERAGE}
    tasks = [task for task in content.tasks if task in (AVERAGE, *present)] or [AVERAGE]

    shape = (len(tasks), len(PANELS))
    size = (spec["width_in"], 1.55 * len(tasks) + 0.75)
    figure, grid = plt.subplots(*shape, figsize=size, squeeze=False, sharex=True, layout="constrained")
    drawn: dict[str, Any] = {}
    for task, line in zip(tasks, grid, strict=True):
        for axes, measure in zip(line, PANELS, strict=True):
            scores = scores_of_task([row for row in rows if row["measure"] == measure], task)
            _draw_panel(axes, scores, numbers, drawn)
            where = f"{len(present)} tasks" if task == AVERAGE else TASKS.get(task, task)
            axes.set_title(f"{where}: {MEASURES[measure]}")
        line[0].set_ylabel("loss" if len(tasks) == 1 else f"{TASKS.get(task, task)}, loss")
    for axes in grid[-1]:
        axes.set_xlabel(content.axis)
    confidence = read_provenance(spec["simulators"])["simulators"]["confidence"]
    runs = max(row["n_runs"] or 0 for row in rows)
    title = f"{model}, {SCENARIOS[scenario]}; whiskers: {confidence:.0%} bootstrap interval over {runs} held-out runs"
    add_legend(figure, drawn, title)
    return figure


def _draw_panel(
    axes: Axes, scores: dict[tuple[str, str], Any], numbers: dict[str, dict[int, str]], drawn: dict[str, Any]
) -> None:
    """Draw one measure of one task; `drawn` gets a line for each label."""
    for method in REFERENCES:
        if (method, WHOLE) in scores:
            style = method_style(method, [])
            drawn[style.label] = axes.axhline(
                scores[method, WHOLE]["value"], color=style.colour, linestyle=style.dash, linewidth=1
            )
    ticks: set[int] = set()
    for place, (label, variants) in enumerate(numbers.items()):
        style = _line_style(place)
        dots = [(number, scores[METHOD, name]) for number, name in variants.items() if (METHOD, name) in scores]
        if len(dots) < 2:
            continue
        x, values = [number for number, _ in dots], [row["value"] for _, row in dots]
        ends = [[abs((row[end] if row[end] is not None else row["value"]) - row["value"]) for _, row in dots]
                for end in ("low", "high")]  # fmt: skip
        drawn[f"{style.label}{', ' if label else ''}{label}"] = axes.errorbar(
            x, values, yerr=ends, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=3.5,
            elinewidth=0.7, capsize=1.5,
        )  # fmt: skip
        ticks |= set(x)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _line_style(place: int) -> Style:
    """Return how the method's variants are drawn: its own line first."""
    own = method_style(METHOD, [])
    return own if place == 0 else Style(own.label, "#56B4E9", "^", (0, (4, 1)))
