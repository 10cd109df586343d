"""Figure 2: measured and simulated trajectories of single test examples."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from gptfluence.paper.figures.parts import empty_figure, order_models
from gptfluence.paper.figures.trajectories import UNITS, draw_example, finish, pick_examples, read_trajectories
from gptfluence.paper.names import METRICS, TASKS, sort_tasks
from gptfluence.scores.curves import ExampleRun, list_curves

PANELS = (("loss", "rte"), ("loss", "wmt16_de_en"), ("bleu", "webnlg"), ("rouge_l", "wmt16_de_en"))
"""The paper's panels. Where a scale lacks such a task, another with that metric takes its place."""


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
    loaded = read_trajectories(spec["curves"], runs)
    panels = choose_panels(list(loaded))

    examples = spec["example_curves"]
    columns = max(1, min(len(panels), int(spec["width_in"] / 1.6)))
    rows = examples * -(-len(panels) // columns)
    size = (spec["width_in"], 1.45 * rows + 0.8)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    drawn: dict[str, Any] = {}
    for number, (metric, task) in enumerate(panels):
        simulations = loaded[metric, task]
        for place, test in enumerate(pick_examples(simulations, task, examples)):
            axes = grid[number // columns * examples + place, number % columns]
            drawn |= draw_example(axes, simulations, test)
            rank = " (median)" if place == 0 else " (largest)" if place == examples - 1 else ""
            head = f"{TASKS.get(task, task)}: {METRICS[metric]}\n" if place == 0 else ""
            axes.set_title(f"{head}example {simulations.examples[test]}{rank}")
            axes.set_ylabel(UNITS[metric])
            if place == examples - 1:
                axes.set_xlabel("training step")
    finish(figure, drawn, runs[0])
    return figure


def choose_runs(runs: list[ExampleRun], models: list[str]) -> list[ExampleRun]:
    """Choose whose trajectories are drawn: instruction tuning's if there is any, of its last (largest) model."""
    scenario = next((s for s in ("instruction_tuning", "fine_tuning") if any(run.scenario == s for run in runs)), "")
    runs = [run for run in runs if run.scenario == scenario]
    largest = order_models({run.model for run in runs}, models)[-1:]
    return [run for run in runs if run.model in largest]


def choose_panels(available: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the paper's panels, each missing one replaced by another task with its metric, if there is one left."""
    panels: list[tuple[str, str]] = []
    for metric, task in PANELS:
        choices = [task, *sort_tasks(t for m, t in available if m == metric)]
        panels += [(metric, t) for t in choices if (metric, t) in available and (metric, t) not in panels][:1]
    return panels
