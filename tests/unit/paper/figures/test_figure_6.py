"""Figure 6 from made-up scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from gptfluence.paper.figures.figure_6 import draw
from matplotlib import pyplot as plt


def test_orders_models_and_draws_intervals(specs: dict[str, Any]) -> None:
    figure = draw(specs["figure_6"])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["small", "a-large"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-1] == "own"
    assert len(axes.containers) == len(labels) == 8
    first = axes.containers[0]
    np.testing.assert_allclose(first.lines[0].get_xdata(), [0.02, 0.04])
    np.testing.assert_allclose(first.lines[2][0].get_segments()[0][:, 0], [0.018, 0.024])
    assert "over 2 tasks" in figure.legends[0].get_title().get_text()
    assert "90% bootstrap interval over 3 held-out runs" in figure.legends[0].get_title().get_text()
    plt.close(figure)
