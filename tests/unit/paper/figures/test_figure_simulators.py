"""The figure of learning curves from made-up scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gptfluence.paper.figures import figure_simulators
from gptfluence.paper.figures.figure_simulators import draw
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


@pytest.fixture
def spec(specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield specs["figure_simulators"]
    plt.close("all")


def curves(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """Return the points of each line with more or less than the two ends of the one at zero skill."""
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines if line.get_marker() != "None"]
    return [(x, y) for x, y in drawn if list(y) != [0, 0]]


def test_a_panel_for_each_group_by_scenario_and_size(spec: dict[str, Any]) -> None:
    figure = draw(spec)
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == ["RTE, small", "SST-2, small", "Mixture, a-large"]


def test_the_lowest_panel_of_each_column_has_an_axis(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_simulators, "COLUMNS", 2)
    shown = [axes for axes in draw(spec).axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in shown] == ["", "fitting runs", "fitting runs"]
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in shown] == [False, True, True]


def test_lines_are_the_scores(spec: dict[str, Any]) -> None:
    first, second, _ = draw(spec).axes[:3]
    random = ([2, 3, 8], pytest.approx([0.9 - 1 / 2, 0.9 - 1 / 3, 0.9 - 1 / 8]))
    assert curves(first) == [random, random, ([8], pytest.approx([0.95 - 1 / 8]))]
    assert [x for x, _ in curves(second)] == [[2, 3], [2, 3]]
    (band, _) = first.collections
    assert band.get_datalim(first.transData).y1 == pytest.approx(0.9 - 1 / 8 + 0.04)


def test_legend_tells_methods_and_choices(spec: dict[str, Any]) -> None:
    (legend,) = draw(spec).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert sorted(labels) == sorted(
        ["Mean curve", "Gradient response (ours)", "Gradient response (ours), runs that it chose"]
    )
