"""Figures 3, 4 and 5 from made-up scores of variants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gptfluence.paper.figures import ablations, figure_5
from gptfluence.paper.figures.style import method_style
from made_up_apart import make_apart, write_apart
from made_up_fits import MEASURES, value_of
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def lines_of(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """Return the points of the lines with markers."""
    drawn = [container.lines[0] for container in axes.containers]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in drawn]


def levels(axes: Axes) -> dict[str, float]:
    """Return the heights of the horizontal lines, by colour."""
    return {line.get_color(): line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]}


def mean(group: int, method: str, variant: str, measure: str) -> float:
    """Return the mean over the two tasks of a mixture."""
    return sum(value_of(group, task, method, variant, measure) for task in (0, 1)) / 2


def test_figure_3_shows_both_ways_to_fill_intervals(specs: dict[str, Any]) -> None:
    figure = ablations.draw(specs["figure_3"])
    assert len(figure.axes) == 3
    for axes, measure in zip(figure.axes, MEASURES, strict=True):
        group = 2  # the smaller of two models: the middle one
        held = ([1, 5], [mean(group, "gptfluence", name, measure) for name in ("whole", "every_5_steps_held")])
        names = ("whole", "every_2_steps", "every_10_steps")
        jumping = ([1, 2, 10], [mean(group, "gptfluence", name, measure) for name in names])
        for (x, y), (numbers, values) in zip(lines_of(axes), (held, jumping), strict=True):
            assert x == numbers and y == pytest.approx(values)
        for method in ("mean_curve", "simfluence"):
            level = levels(axes)[method_style(method, []).colour]
            assert level == pytest.approx(mean(group, method, "whole", measure))
    assert figure.legends[0].get_title().get_text() == (
        "small, instruction tuning; whiskers: 90% bootstrap interval over 8 held-out runs"
    )


def test_figure_4_shows_orders_of_two_tasks(specs: dict[str, Any]) -> None:
    figure = ablations.draw(specs["figure_4"])
    assert len(figure.axes) == 6
    for place, axes in enumerate(figure.axes):
        row, measure = place // 3, MEASURES[place % 3]
        ((x, y),) = lines_of(axes)
        assert x == [1, 2, 5]
        names = ("whole", "order_2", "order_5")
        assert y == pytest.approx([value_of(row, 0, "gptfluence", name, measure) for name in names])


def test_figure_5_shows_a_dot_for_each_encoder(specs: dict[str, Any]) -> None:
    figure = figure_5.draw(specs["figure_5"])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["MiniLM", "the GPT itself", "own", "Mean curve", "Simfluence (linear)"]
    keys = [("gptfluence", "whole"), ("gptfluence", "gpt_features"), ("gptfluence", "own"), ("mean_curve", "whole"),
            ("simfluence", "whole")]  # fmt: skip
    for axes, measure in zip(figure.axes, ("all_steps_mae", "final_step_spearman"), strict=True):
        dots = [container.lines[0] for container in axes.containers]
        assert [dot.get_xdata()[0] for dot in dots] == pytest.approx([mean(2, *key, measure) for key in keys])
        assert [dot.get_ydata()[0] for dot in dots] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("figure", ["figure_3", "figure_4", "figure_5"])
def test_scores_without_such_variants_say_so(specs: dict[str, Any], figure: str) -> None:
    spec = specs[figure]
    write_apart(spec["simulators"], make_apart())
    module = figure_5 if figure == "figure_5" else ablations
    (text,) = module.draw(spec).texts
    assert text.get_text().startswith("Scale nano has no variants of gptfluence by ")
