"""Figure 9 from made-up fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gptfluence.paper.figures.figure_9 import draw
from gptfluence.paper.figures.style import method_style
from made_up_fits import make_convergence
from matplotlib import pyplot as plt


@pytest.fixture
def spec(specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield specs["figure_9"]
    plt.close("all")


def test_lines_are_the_recorded_errors(spec: dict[str, Any]) -> None:
    figure = draw(spec)
    rows = [row for row in make_convergence() if row["solved"] == "adam"]
    for axes, x, measure in zip(figure.axes, ("update", "epoch"), ("training_loss", "validation_mse"), strict=True):
        assert axes.get_yscale() == "log"
        drawn = {line.get_color(): line for line in axes.lines if len(line.get_xdata()) > 2}
        for method in ("simfluence", "gptfluence"):
            known = [row for row in rows if row["method"] == method and row[measure] is not None]
            line = drawn[method_style(method, []).colour]
            assert list(line.get_xdata()) == [row[x] for row in known]
            assert list(line.get_ydata()) == [row[measure] for row in known]


def test_exact_solutions_and_baselines_are_levels(spec: dict[str, Any]) -> None:
    training, validation = draw(spec).axes
    levels = [[line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
              for axes in (training, validation)]  # fmt: skip
    assert sorted(levels[0]) == pytest.approx([1e-4, 2e-4])
    assert sorted(levels[1]) == pytest.approx([7e-4, 14e-4, 0.5])
