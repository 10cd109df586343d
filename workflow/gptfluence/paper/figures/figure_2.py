"""Figure 2: measured and simulated trajectories of single test examples."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gptfluence.paper.figures.parts import add_legend, empty_figure
from gptfluence.paper.figures.style import IN_TABLES_ONLY, MEASURED_STYLE, method_style
from gptfluence.paper.names import METRICS, SCENARIOS, TASKS, sort_methods, sort_tasks
from gptfluence.scores.curves import ExampleRun, list_curves, read_curves
from gptfluence.scores.simulations import Simulations
from gptfluence.words import MEASURED

PANELS = (("loss", "rte"), ("loss", "wmt16_de_en"), ("bleu", "webnlg"), ("rouge_l", "wmt16_de_en"))
"""The paper's panels. Where a scale lacks such a task, another with that metric takes its place."""

UNITS = {"loss": "loss (nats per token)", "bleu": "BLEU (0–100)", "rouge_l": "ROUGE-L (0–1)"}


def draw(spec: dict[str, Any]) -> Figure:
    """Draw examples of each panel's task on the first held-out run (by name).

    Which examples: those of the task whose measured metric moves in that run are ordered by how far (largest minus
    smallest value); shown are the median one and the largest one, and with more than two, ones evenly between.

    Args:
        spec: curves (path of curves.parquet), example_curves (examples a panel), width_in (inches), scale, and
            optionally models, their names in the order of their size (default: by name).

    Raises:
        UserError: the curves are missing or damaged.
    """
    runs = choose_runs(list_curves(spec["curves"]), spec.get("models", []))
    if not runs:
        return empty_figure(spec, "no simulated runs")
    # (metric, task) -> its trajectories; in fine-tuning each task has a run of its own
    loaded = {
        (run.metric, str(task)): simulations
        for run, simulations in read_curves(spec["curves"], runs).items()
        for task in np.unique(simulations.tasks)
    }
    panels = choose_panels(list(loaded))
    names = {method for simulations in loaded.values() for method in simulations.methods} - {MEASURED}

    examples = spec["example_curves"]
    columns = max(1, min(len(panels), int(spec["width_in"] / 1.6)))
    rows = examples * -(-len(panels) // columns)
    size = (spec["width_in"], 1.45 * rows + 0.8)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 0.985, 1))  # titles may be wider than their panel
    drawn: dict[str, Any] = {}
    for number, (metric, task) in enumerate(panels):
        simulations = loaded[metric, task]
        for place, test in enumerate(pick_examples(simulations, task, examples)):
            axes = grid[number // columns * examples + place, number % columns]
            drawn |= _draw_example(axes, simulations, test, names)
            rank = " (median)" if place == 0 else " (largest)" if place == examples - 1 else ""
            head = f"{TASKS.get(task, task)}: {METRICS[metric]}\n" if place == 0 else ""
            axes.set_title(f"{head}example {simulations.examples[test]}{rank}")
            axes.set_ylabel(UNITS[metric])
            if place == examples - 1:
                axes.set_xlabel("training step")
    for axes in grid.flat:
        axes.set_visible(axes.has_data())
    labels = [MEASURED_STYLE.label, *(method_style(method, names).label for method in sort_methods(names))]
    title = f"{runs[0].model}, {SCENARIOS[runs[0].scenario]}, first held-out run"
    add_legend(figure, {label: drawn[label] for label in labels if label in drawn}, title)
    return figure


def choose_runs(runs: list[ExampleRun], models: list[str]) -> list[ExampleRun]:
    """Choose whose trajectories are drawn: instruction tuning's if there is any, of its last (largest) model."""
    scenario = next((s for s in ("instruction_tuning", "fine_tuning") if any(run.scenario == s for run in runs)), "")
    runs = [run for run in runs if run.scenario == scenario]
    found = {run.model for run in runs}
    model = ([name for name in models if name in found] or sorted(found) or [""])[-1]
    return [run for run in runs if run.model == model]


def choose_panels(available: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the paper's panels, each missing one replaced by another task with its metric, if there is one left."""
    panels: list[tuple[str, str]] = []
    for metric, task in PANELS:
        choices = [task, *sort_tasks(t for m, t in available if m == metric)]
        panels += [(metric, t) for t in choices if (metric, t) in available and (metric, t) not in panels][:1]
    return panels


def pick_examples(simulations: Simulations, task: str, count: int) -> list[int]:
    """Return which tests stand for a task: from the median to the largest of the measured ranges, evenly by rank."""
    tests = np.flatnonzero(simulations.tasks == task)
    with np.errstate(invalid="ignore"):
        moved = np.ptp(simulations.of(MEASURED)[0][:, tests], axis=0)
    order = tests[np.argsort(np.where(np.isfinite(moved), moved, -1), kind="stable")]
    # A BLEU that stays at 0 shows nothing; where all of them do, it is what there is to show.
    order = order[len(order) - max(int((moved > 0).sum()), count) :]
    middle, last = (len(order) - 1) // 2, len(order) - 1
    places = np.linspace(middle, last, count) if count > 1 else [middle]
    return [int(order[round(place)]) for place in places]


def _draw_example(axes: Axes, simulations: Simulations, test: int, names: set[str]) -> dict[str, Any]:
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
    methods = [m for m in sort_methods(simulations.methods) if m not in (MEASURED, "persistence", *IN_TABLES_ONLY)]
    for place, method in enumerate(methods):
        style = method_style(method, names)
        values = simulations.of(method)[0, :, test].astype(float)
        # Markers are staggered: where lines coincide, each can still be seen.
        every = max(1, len(steps) // 4)
        (lines[style.label],) = axes.plot(
            steps, values, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=3,
            markevery=(1 + place * every // len(methods), every), markeredgewidth=0.8,
        )  # fmt: skip
        ends.append(np.clip(values[np.isfinite(values)], first - reach, last + reach))
    shown = np.concatenate(ends)
    if np.isfinite(shown).any():  # not so where the GPT itself diverged
        margin = 0.06 * np.nanmax(shown) - 0.06 * np.nanmin(shown) or 0.5
        axes.set_ylim(np.nanmin(shown) - margin, np.nanmax(shown) + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return lines
