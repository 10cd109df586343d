"""Measured and simulated trajectories of single test examples, as Figures 2, 10 and 11 draw them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gptfluence.paper.figures.parts import add_legend, empty_figure, order_models
from gptfluence.paper.figures.style import IN_TABLES_ONLY, MEASURED_STYLE, method_style
from gptfluence.paper.names import SCENARIOS, TASKS, sort_methods, sort_tasks
from gptfluence.scores.curves import ExampleRun, list_curves, read_curves
from gptfluence.scores.simulations import Simulations
from gptfluence.words import LEVELS, MEASURED

UNITS = {"loss": "loss (nats per token)", "bleu": "BLEU (0–100)", "rouge_l": "ROUGE-L (0–1)"}

BAND = 0.8
"""Level of the intervals that are drawn."""

EXAMPLES = 3
"""How many test examples of a task the paper's Figures 10 and 11 show."""


def draw_losses(spec: dict[str, Any], choose_model: Callable[[list[str]], str]) -> Figure:
    """Draw the loss of three test examples of every task on a model's first held-out run (by name); a task in a row.

    Args:
        spec: curves (path of curves.parquet), width_in (inches), scale, and optionally models, their names in the
            order of their size (default: by name).
        choose_model: of the models of instruction tuning, smallest first, the one that is shown.

    Raises:
        UserError: the curves are missing or damaged.
    """
    runs = [run for run in list_curves(spec["curves"]) if (run.scenario, run.metric) == ("instruction_tuning", "loss")]
    if not runs:
        return empty_figure(spec, "no simulated runs of instruction tuning")
    model = choose_model(order_models({run.model for run in runs}, spec.get("models", [])))
    run = next(run for run in runs if run.model == model)
    loaded = read_trajectories(spec["curves"], [run])
    tasks = sort_tasks(task for _, task in loaded)
    size = (spec["width_in"], 1.2 * len(tasks) + 0.8)
    figure, grid = plt.subplots(len(tasks), EXAMPLES, figsize=size, squeeze=False, sharex=True, layout="constrained")
    separator = " " if spec["width_in"] > 5 else "\n"
    drawn: dict[str, Any] = {}
    for task, row in zip(tasks, grid, strict=True):
        simulations = loaded["loss", task]
        ranks = ("median", "between", "largest")
        for axes, test, rank in zip(row, pick_examples(simulations, task, EXAMPLES), ranks, strict=False):
            drawn |= draw_example(axes, simulations, test)
            axes.set_title(f"example {simulations.examples[test]}{separator}({rank})")
        row[0].set_ylabel(f"{TASKS.get(task, task)}\n{UNITS['loss']}")
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    finish(figure, drawn, run)
    return figure


def read_trajectories(path: str, runs: list[ExampleRun]) -> dict[tuple[str, str], Simulations]:
    """Read the trajectories of some runs by (metric, task); in fine-tuning each task has a run of its own."""
    return {
        (run.metric, str(task)): simulations
        for run, simulations in read_curves(path, runs).items()
        for task in np.unique(simulations.tasks)
    }


def pick_examples(simulations: Simulations, task: str, count: int) -> list[int]:
    """Return which tests stand for a task: from the median to the largest of the measured ranges, evenly by rank."""
    tests = np.flatnonzero(simulations.tasks == task)
    with np.errstate(invalid="ignore"):
        moved = np.ptp(simulations.of(MEASURED)[0][:, tests], axis=0)
    order = tests[np.argsort(np.where(np.isfinite(moved), moved, -1), kind="stable")]
    # A BLEU that stays at 0 shows nothing; where all of them do, it is what there is to show.
    order = order[max(len(order) - max(int((moved > 0).sum()), count), 0) :]
    middle, last = (len(order) - 1) // 2, len(order) - 1
    places = np.linspace(middle, last, count) if count > 1 else [middle]
    return [int(order[round(place)]) for place in places]


def draw_example(axes: Axes, simulations: Simulations, test: int) -> dict[str, Any]:
    """Draw one test example; return the lines by their label."""
    truth = simulations.of(MEASURED)[0, :, test].astype(float)
    steps = np.arange(len(truth))
    truth[~np.isfinite(truth)] = np.nan
    (line,) = axes.plot(steps, truth, color=MEASURED_STYLE.colour, linestyle=MEASURED_STYLE.dash, linewidth=1.4)
    lines = {MEASURED_STYLE.label: line}
    ends = [truth]
    # A method that explodes leaves the panel, so that the others stay legible.
    first, last = np.nanmin(truth, initial=np.inf), np.nanmax(truth, initial=-np.inf)
    reach = 1.5 * max(last - first, 1e-3)
    names = set(simulations.methods) - {MEASURED}
    methods = [m for m in sort_methods(names) if m not in ("persistence", *IN_TABLES_ONLY)]
    for place, method in enumerate(methods):
        style = method_style(method, names)
        values = simulations.of(method)[0, :, test].astype(float)
        # Markers are staggered: where lines coincide, each can still be seen.
        every = max(1, len(steps) // 4)
        (lines[style.label],) = axes.plot(
            steps, values, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=3,
            markevery=(1 + place * every // len(methods), every), markeredgewidth=0.8,
        )  # fmt: skip
        if method in simulations.half_widths:
            width = simulations.half_widths[method][LEVELS.index(BAND), 0, :, test]
            axes.fill_between(steps, values - width, values + width, color=style.colour, alpha=0.15, linewidth=0)
        ends.append(np.clip(values[np.isfinite(values)], first - reach, last + reach))
    shown = np.concatenate(ends)
    if np.isfinite(shown).any():  # not so where the GPT itself diverged
        margin = 0.06 * np.nanmax(shown) - 0.06 * np.nanmin(shown) or 0.5
        axes.set_ylim(np.nanmin(shown) - margin, np.nanmax(shown) + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return lines


def finish(figure: Figure, drawn: dict[str, Any], run: ExampleRun) -> None:
    """Hide the panels that are empty, and say what lines and run are shown; `drawn`: the lines by their label."""
    figure.get_layout_engine().set(rect=(0, 0, 0.985, 1))  # titles may be wider than their panel
    for axes in figure.axes:
        axes.set_visible(axes.has_data())
    bands = f"; bands: {BAND:.0%} intervals of a step" if any(axes.collections for axes in figure.axes) else ""
    add_legend(figure, drawn, f"{run.model}, {SCENARIOS[run.scenario]}, first held-out run{bands}")
