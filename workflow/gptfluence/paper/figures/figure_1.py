"""Figure 1: what the pipeline does, as a drawing; no data."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

MEASURED, SIMULATED, FRAME = "#000000", "#0072B2", "0.45"

STEPS = (
    "1  Collect training dynamics",
    "2  Fit a simulator",
    "3  Simulate a new curriculum",
)
"""The paper's three steps, a panel each."""


def draw(spec: dict[str, Any]) -> Figure:
    """Draw the three steps, side by side or below each other.

    Args:
        spec: width_in (inches).
    """
    wide = spec["width_in"] > 5
    size = (spec["width_in"], 2.3 if wide else 6.3)
    figure, grid = plt.subplots(*((1, 3) if wide else (3, 1)), figsize=size, layout="constrained")
    for axes, title, panel in zip(grid, STEPS, (_collect, _fit, _simulate), strict=True):
        axes.set_xlim(0, 10)
        axes.set_ylim(0, 7.4)
        axes.axis("off")
        axes.set_title(title, loc="left", fontweight="bold")
        panel(axes)
    return figure


def _collect(axes: Axes) -> None:
    for row in range(3):
        y = 5.6 - 1.5 * row
        for step in range(3):
            _box(axes, 0.1 + 0.95 * step, y, 0.8, 0.9, f"$c_{step + 1}$", size=6.5)
        _arrow(axes, (3.1, y + 0.45), (3.9, y + 0.45))
        _box(axes, 4.0, y, 1.7, 0.9, "GPT")
        _arrow(axes, (5.8, y + 0.45), (6.5, y + 0.45))
        _curve(axes, 6.6, y, seed=row, colour=MEASURED)
    axes.text(0.1, 0.9, "curricula: which batch\nat which step", va="center")
    axes.text(6.6, 0.9, "loss, BLEU, ROUGE-L\nof every test example", va="center")


def _fit(axes: Axes) -> None:
    _box(axes, 0.1, 5.5, 3.9, 1.0, "batch $c_t$")
    _box(axes, 0.1, 3.9, 3.9, 1.0, "test example $z$")
    for y in (6.0, 4.4):
        _arrow(axes, (4.1, y), (4.6, 5.2))
    _box(axes, 4.7, 4.5, 5.2, 1.4, "features and factors:\n" + r"$\alpha(c_t, z)$, $\beta(c_t, z)$", colour=SIMULATED)
    axes.text(5, 2.6, r"$m_t(z) = \alpha\, m_{t-1}(z) + \beta$", ha="center", va="center", fontsize=9)
    axes.text(5, 0.9, "fitted to the measured curves\nof all runs, by squared errors", ha="center", va="center")


def _simulate(axes: Axes) -> None:
    _box(axes, 0.1, 5.5, 4.2, 1.0, "new curriculum")
    _box(axes, 0.1, 3.9, 4.2, 1.0, "first value $m_0(z)$")
    for y in (6.0, 4.4):
        _arrow(axes, (4.4, y), (4.8, 5.2))
    _box(axes, 4.9, 4.7, 2.6, 1.0, "simulator", colour=SIMULATED)
    _arrow(axes, (7.6, 5.2), (8.0, 5.2))
    _curve(axes, 8.1, 4.7, seed=3, colour=SIMULATED, dash=(0, (3, 1)), width=1.8)
    axes.text(5, 2.6, "each value from the one before;\nno GPT is trained", ha="center", va="center")
    axes.text(5, 0.9, "judged against held-out runs,\nbeside their mean curve", ha="center", va="center")


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str = FRAME, size: float = 7.0
) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.15", facecolor="white",
                                  edgecolor=colour, linewidth=0.9))  # fmt: skip
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": FRAME, "linewidth": 0.8})


def _curve(axes: Axes, x: float, y: float, seed: int, colour: str, dash: Any = "-", width: float = 3.0) -> None:
    """Draw a curve that falls and wavers: a sign, not a measurement."""
    t = np.linspace(0, 1, 40)
    fall = np.exp(-3 * t) + 0.1 * np.sin(9 * t + 2 * seed) * t
    axes.plot(x + width * t, y + 0.05 + 0.8 * fall, color=colour, linewidth=1.1, linestyle=dash)
