"""Measured and simulated trajectories of single test examples: Figures 2, 8 and 10-30, each by its `paper.contents`."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gptfluence.paper.figures.parts import add_legend, choose_model, empty_figure, order_models
from gptfluence.paper.figures.style import MEASURED_STYLE, method_style
from gptfluence.paper.names import METHODS, METRICS, SCENARIOS, SETTINGS, TASKS, sort_methods, sort_tasks
from gptfluence.scores.curves import ExampleRun, list_curves, read_curves
from gptfluence.scores.simulations import Simulations
from gptfluence.words import LEVELS, MEASURED

UNITS = {"loss": "loss (nats per token)", "bleu": "BLEU (0–100)", "rouge_l": "ROUGE-L (0–1)"}

BAND = 0.8
"""Level of the intervals that are drawn."""

WIDTH = 1.6
"""Inches that a panel needs where panels stand side by side."""

Panel = tuple[str, str]
"""Metric and task."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw examples of each panel's task on the first run (by name) of a setting.

    Which examples: those of the task whose measured metric moves in that run are ordered by how far (largest minus
    smallest value); shown are the median one and the largest one, and with more than two, ones evenly between.

    Args:
        spec: contents (see `paper.contents.Curves`), the file of curves that they name (its path), example_curves
            (examples a panel, where the contents leave that open), width_in (inches), scale, and optionally models,
            their names in the order of their size (default: by name).

    Raises:
        UserError: the curves are missing or damaged.
    """
    contents = spec["contents"]
    path = spec[contents["file"]]
    runs = choose_runs(list_curves(path), contents, spec.get("models", []))
    if not runs:
        scenarios = " or ".join(SCENARIOS[scenario] for scenario in contents["scenarios"])
        metrics = " or ".join(dict.fromkeys(METRICS[metric] for metric, _ in contents["panels"]))
        return empty_figure(spec, f"no simulated runs, {SETTINGS[contents['setting']]}, of {metrics} in {scenarios}")
    loaded = read_trajectories(path, runs)
    panels = choose_panels(contents["panels"], list(loaded))
    examples = contents["examples"] or spec["example_curves"]
    figure, places = _make_grid(panels, examples, contents["across"], spec["width_in"])
    drawn: dict[str, Any] = {}
    for panel, column in zip(panels, places, strict=True):
        metric, task = panel
        for place, (axes, test) in enumerate(zip(column, pick_examples(loaded[panel], task, examples), strict=True)):
            drawn |= draw_example(axes, loaded[panel], test, contents["methods"])
            axes.set_title(
                _title(panel, int(loaded[panel].examples[test]), place, examples, contents, spec["width_in"])
            )
            if contents["across"]:
                axes.set_ylabel(UNITS[metric])
        if not contents["across"]:
            column[0].set_ylabel(f"{TASKS.get(task, task)}\n{UNITS[metric]}")
    for axes in figure.axes:
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel("training step")
    sizes = {int((loaded[panel].tasks == panel[1]).sum()) for panel in panels}
    _finish(figure, drawn, _describe(runs[0], examples, sizes, len(panels)))
    return figure


def choose_runs(runs: list[ExampleRun], contents: dict[str, Any], models: list[str]) -> list[ExampleRun]:
    """Choose whose trajectories are drawn: those of the panels' metrics, of one scenario and model."""
    metrics = [metric for metric, _ in contents["panels"]]
    runs = [run for run in runs if run.setting == contents["setting"] and run.metric in metrics]
    scenario = next((s for s in contents["scenarios"] if any(run.scenario == s for run in runs)), "")
    runs = [run for run in runs if run.scenario == scenario]
    if not runs:
        return []
    found = order_models({run.model for run in runs}, models)
    return [run for run in runs if run.model == choose_model(found, contents["model"], contents["otherwise"])]


def choose_panels(wanted: list[Panel], available: list[Panel]) -> list[Panel]:
    """Return the panels to draw: no task stands for all with that metric, and another one for one that is not there."""
    panels: list[Panel] = []
    for metric, task in wanted:
        tasks = sort_tasks(t for m, t in available if m == metric)
        choices = [(metric, t) for t in ([task, *tasks] if task else tasks)]
        fitting = [panel for panel in choices if panel in available and panel not in panels]
        panels += fitting[:1] if task else fitting
    return panels


def _make_grid(panels: list[Panel], examples: int, across: bool, width: float) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure, and the axes of each panel's examples."""
    columns = max(1, min(len(panels), int(width / WIDTH))) if across else examples
    rows = examples * -(-len(panels) // columns) if across else len(panels)
    size = (width, (1.45 if across else 1.2) * rows + 0.8)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=not across, layout="constrained")
    if not across:
        return figure, [list(row) for row in grid]
    return figure, [
        [grid[number // columns * examples + place, number % columns] for place in range(examples)]
        for number in range(len(panels))
    ]


def _title(panel: Panel, example: int, place: int, examples: int, contents: dict[str, Any], width: float) -> str:
    rank = "median" if place == 0 else "largest" if place == examples - 1 else "between"
    if not contents["across"]:
        return f"example {example}{' ' if width > 5 else chr(10)}({rank})"
    head = f"{TASKS.get(panel[1], panel[1])}: {METRICS[panel[0]]}\n" if place == 0 else ""
    return f"{head}example {example} ({rank})"


def _describe(run: ExampleRun, examples: int, sizes: set[int], panels: int) -> str:
    """Say what is drawn: whose run, of which data, and how many of how many tests."""
    first = {"seen": "first held-out run", "unseen_train": "first run on unseen training examples",
             "unseen_test": "first held-out run, tests that no fit has read",
             "unseen_both": "first run on unseen training examples, tests that no fit has read"}  # fmt: skip
    tests = "–".join(str(size) for size in sorted({min(sizes), max(sizes)}))
    shown = f"{examples} of {tests} tests{' a panel' if panels > 1 else ''}, by how far they move"
    return f"{run.model}, {SCENARIOS[run.scenario]}, {first[run.setting]}; {shown}"


def read_trajectories(path: str, runs: list[ExampleRun]) -> dict[Panel, Simulations]:
    """Read the trajectories of some runs by metric and task; in fine-tuning each task has a run of its own."""
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


def draw_example(axes: Axes, simulations: Simulations, test: int, shown: list[str]) -> dict[str, Any]:
    """Draw one test example; return the lines by their label.

    Args:
        shown: which of the project's methods are drawn; a user's own always are.
    """
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
    methods = [method for method in sort_methods(names) if method in shown or method not in METHODS]
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
    drawn = np.concatenate(ends)
    if np.isfinite(drawn).any():  # not so where the GPT itself diverged
        margin = 0.06 * np.nanmax(drawn) - 0.06 * np.nanmin(drawn) or 0.5
        axes.set_ylim(np.nanmin(drawn) - margin, np.nanmax(drawn) + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return lines


def _finish(figure: Figure, drawn: dict[str, Any], title: str) -> None:
    """Hide the panels that are empty, and say what lines and run are shown; `drawn`: the lines by their label."""
    figure.get_layout_engine().set(rect=(0, 0, 0.985, 1))  # titles may be wider than their panel
    for axes in figure.axes:
        axes.set_visible(axes.has_data())
    bands = f"\nbands: {BAND:.0%} intervals of a step" if any(axes.collections for axes in figure.axes) else ""
    add_legend(figure, drawn, f"{title}{bands}")
