"""Figure 5: how well the loss is simulated with features of different encoders."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gptfluence.io import read_provenance
from gptfluence.paper.ablations import ENCODER, ENCODERS, METHOD, scores_of_task, variants_by
from gptfluence.paper.figures.parts import add_legend, choose_model, empty_figure, order_models
from gptfluence.paper.figures.style import method_style
from gptfluence.paper.names import MEASURES, METHODS, SCENARIOS
from gptfluence.paper.simulators import read_variants_by_task
from gptfluence.words import AVERAGE, WHOLE

PANELS = {
    "all_steps_mae": "nats per token, lower is better",
    "final_step_spearman": "rank correlation, higher is better",
}
"""The paper's measures, an axis each, and their units."""

MODEL = "pythia-410m"
"""The paper's."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw a dot for each encoder, with bootstrap intervals over the held-out runs.

    Args:
        spec: simulators (path of the scores), variants (what is changed in each of a method's), models (by size),
            width_in (inches), scale.

    Raises:
        UserError: the scores are missing or damaged.
    """
    rows = [row for row in read_variants_by_task(spec["simulators"]) if row["metric"] == "loss"]
    scenario = next((s for s in ("instruction_tuning", "fine_tuning") if any(r["scenario"] == s for r in rows)), "")
    rows = [row for row in rows if row["scenario"] == scenario]
    variants = {WHOLE: WHOLE} | variants_by(ENCODER, spec["variants"].get(METHOD, {}))
    order = [name for name in ENCODERS if name in variants] + [name for name in variants if name not in ENCODERS]
    known = {row["variant"] for row in rows if row["method"] == METHOD}
    lines = {(METHOD, variants[name]): ENCODERS.get(name, name) for name in order if variants[name] in known}
    if len(lines) < 2:
        return empty_figure(spec, "no variants of gptfluence by encoder")
    lines |= {(method, WHOLE): METHODS[method] for method in ("mean_curve", "simfluence")}
    model = choose_model(order_models({row["model"] for row in rows}, spec["models"]), MODEL, "middle")
    rows = [row for row in rows if row["model"] == model]
    shape = (1, 2) if spec["width_in"] > 5 else (2, 1)
    size = (spec["width_in"], 0.5 + shape[0] * (0.5 + 0.19 * len(lines)))
    figure, grid = plt.subplots(*shape, figsize=size, sharey=True, layout="constrained")
    drawn: dict[str, Any] = {}
    for axes, (measure, unit) in zip(grid, PANELS.items(), strict=True):
        scores = scores_of_task([row for row in rows if row["measure"] == measure], AVERAGE)
        _draw_panel(axes, [scores.get(key) for key in lines], list(lines), drawn)
        axes.set_title(f"{MEASURES[measure]} of the loss")
        axes.set_xlabel(unit)
    grid[0].set_yticks(range(len(lines)), list(lines.values()))
    grid[0].set_ylim(len(lines) - 0.5, -0.5)
    confidence = read_provenance(spec["simulators"])["simulators"]["confidence"]
    tasks, runs = len({row["task"] for row in rows} - {AVERAGE}), max(row["n_runs"] or 0 for row in rows)
    add_legend(
        figure, drawn,
        f"{model}, {SCENARIOS[scenario]}, averages over {tasks} tasks;{' ' if shape[0] == 1 else chr(10)}"
        f"whiskers: {confidence:.0%} bootstrap interval over {runs} held-out runs",
    )  # fmt: skip
    return figure


def _draw_panel(
    axes: Axes, scores: list[dict[str, Any] | None], lines: list[tuple[str, str]], drawn: dict[str, Any]
) -> None:
    """Draw one measure; `drawn` gets a mark for each method."""
    for place, (row, (method, _)) in enumerate(zip(scores, lines, strict=True)):
        if row is None:
            continue
        style = method_style(method, [])
        ends = [[abs((row[end] if row[end] is not None else row["value"]) - row["value"])] for end in ("low", "high")]
        drawn[style.label] = axes.errorbar(
            [row["value"]], [place], xerr=ends, fmt=style.marker, color=style.colour, markersize=4.5, elinewidth=0.8,
            capsize=1.5,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
