"""Figure 7: wrong labels that are found and corrected, and what that does for a GPT trained on them."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gptfluence.io import read_parquet
from gptfluence.paper.figures.parts import add_legend, empty_figure
from gptfluence.paper.figures.style import Style
from gptfluence.paper.names import MEASURES, TASKS

STYLES = {
    "random": Style("Random", "#7F7F7F", "x", (0, (1, 1))),
    "loss": Style("Loss after training", "#CC79A7", "d", (0, (4, 1))),
    "tracin": Style("TracIn self-influence", "#009E73", "v", (0, (3, 1))),
    "gptfluence": Style("GPTfluence self factor", "#0072B2", "o", "-"),
}
"""Every order in which labels are checked, as `mislabels.rank` names them."""

PANELS = {"accuracy": "test accuracy after retraining", "found": "share of wrong labels found"}
"""The paper's panels, a measure each."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw test accuracy, and the share of wrong labels found, against the share of labels that were checked.

    Args:
        spec: mislabels (path of mislabels.parquet), width_in (inches), scale.

    Raises:
        UserError: the scores are missing or damaged.
    """
    rows = read_parquet(spec["mislabels"]).to_pylist()
    if not rows:
        return empty_figure(spec, "no mislabelled data")
    shape = (1, 2) if spec["width_in"] > 5 else (2, 1)
    figure, grid = plt.subplots(*shape, figsize=(spec["width_in"], 0.8 + 2.0 * shape[0]), layout="constrained")
    drawn: dict[str, Any] = {}
    for axes, measure in zip(grid, PANELS, strict=True):
        for place, (method, style) in enumerate(STYLES.items()):
            shown = [row for row in rows if (row["measure"], row["method"]) == (measure, method)]
            if shown:
                drawn[_label(style, method, rows)] = _draw_method(axes, shown, style, 0.004 * (place - 2))
        axes.set_title(MEASURES[measure])
        axes.set_xlabel("share of labels checked")
        axes.set_ylabel(PANELS[measure])
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    counts = {row["n"] for row in rows if row["measure"] == "accuracy" and row["method"] != "random"}
    what = "one retraining" if counts == {1} else f"mean of {_span(counts)} retrainings, whiskers: standard deviation"
    orders = max((row["n"] for row in rows if (row["measure"], row["method"]) == ("found", "random")), default=0)
    task = TASKS.get(rows[0]["task"].removesuffix("_mislabelled"), rows[0]["task"])
    separator = " " if shape[0] == 1 else "\n"
    title = f"{rows[0]['model']} on {task}; {what};{separator}Random: mean and standard deviation of {orders} orders"
    add_legend(figure, drawn, title)
    return figure


def _draw_method(axes: Axes, rows: list[dict[str, Any]], style: Style, shift: float) -> Any:
    """Draw one method's line and its spread: a band for random orders, else whiskers, which `shift` keeps apart."""
    rows = sorted(rows, key=lambda row: row["fraction"])
    x, y = (np.array([row[name] for row in rows]) for name in ("fraction", "value"))
    spread = np.array([row["std"] or 0.0 for row in rows])
    if style is STYLES["random"]:
        axes.fill_between(x, y - spread, y + spread, color=style.colour, alpha=0.2, linewidth=0)
    elif spread.any():
        x = x + shift
        axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=style.colour, elinewidth=0.7, capsize=1.5)
    (line,) = axes.plot(
        x, y, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=3.5, markeredgewidth=0.8
    )
    return line


def _label(style: Style, method: str, rows: list[dict[str, Any]]) -> str:
    auc = next((row["value"] for row in rows if (row["measure"], row["method"]) == ("auc", method)), None)
    return style.label if auc is None else f"{style.label} (AUC {auc:.2f})"


def _span(numbers: set[int]) -> str:
    return "–".join(str(number) for number in sorted({min(numbers), max(numbers)}))
