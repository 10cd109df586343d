"""The figure of choices of training data, from made-up scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gptfluence.paper.figures.figure_choices import draw
from made_up_choices import CHOOSERS
from matplotlib import pyplot as plt


@pytest.fixture
def spec(specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield specs["figure_choices"]
    plt.close("all")


def test_dots_are_gains_on_either_half(spec: dict[str, Any]) -> None:
    rte, webnlg = draw(spec).axes
    assert [axes.get_title() for axes in (rte, webnlg)] == ["RTE, small", "WebNLG, small"]
    labels = [label.get_text() for label in rte.get_yticklabels()]
    assert labels == ["Best of the random ones", "Gradient response (ours)", "Gradient response (ours), random order",
                      "BM25", "LESS"]  # fmt: skip
    order = [("best_random", "random"), ("gradient_response", "chosen"), ("gradient_response", "random"),
             ("bm25", "random"), ("less", "random")]  # fmt: skip
    for axes, share in ((webnlg, 1.0), (rte, 0.5)):
        dots = {(line.get_ydata()[0], line.get_markerfacecolor()): line.get_xdata()[0]
                for line in axes.lines if line.get_marker() == "o"}  # fmt: skip
        for place, chooser in enumerate(order):
            assert dots[place, "black"] == pytest.approx(share * CHOOSERS[chooser])
            assert dots[place, "white"] == pytest.approx(share * CHOOSERS[chooser] + 0.1)
        assert len(dots) == 2 * len(order)
        whiskers = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
        assert [share * 0.3 - 0.04, share * 0.3 + 0.04] in [pytest.approx(ends) for ends in whiskers]


def test_legend_tells_the_halves_and_the_intervals(spec: dict[str, Any]) -> None:
    (legend,) = draw(spec).legends
    assert [text.get_text() for text in legend.get_texts()] == ["on the judging half", "on the half chosen for"]
    assert "90% intervals" in legend.get_title().get_text()
