"""Figures 10 and 11, and how trajectories are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawn_from import make_curves, make_simulations
from gptfluence.paper.figures import figure_10, figure_11
from gptfluence.paper.figures.style import method_style
from gptfluence.paper.figures.trajectories import pick_examples
from gptfluence.scores.curves import read_curves, write_curves
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("models", "middle", "largest"),
    [
        (["nano-1m", "nano-2m", "nano-3m"], "nano-2m", "nano-3m"),
        (["nano-1m", "nano-2m"], "nano-1m", "nano-2m"),
        (["nano-1m"], "nano-1m", "nano-1m"),
        (["pythia-14m", "pythia-160m", "pythia-410m", "pythia-1b", "pythia-2.8b"], "pythia-410m", "pythia-1b"),
    ],
)
def test_the_papers_models_are_shown_where_the_plan_has_them(models: list[str], middle: str, largest: str) -> None:
    assert figure_10.choose_model(models) == middle
    assert figure_11.choose_model(models) == largest


def test_each_task_has_a_row_of_three_examples(specs: dict[str, Any]) -> None:
    for figure, module, model in (("figure_10", figure_10, "small"), ("figure_11", figure_11, "a-large")):
        drawn = module.draw(specs[figure])
        rows = [drawn.axes[first : first + 3] for first in (0, 3, 6)]
        assert [row[0].get_ylabel().split("\n")[0] for row in rows] == ["RTE", "SST-2", "WMT16 DE/EN"]
        for row in rows:
            assert [axes.get_title() for axes in row] == [
                "example 4 (median)", "example 1 (between)", "example 3 (largest)",
            ]  # fmt: skip
        assert drawn.legends[0].get_title().get_text() == f"{model}, instruction tuning, first held-out run"


def test_lines_are_the_trajectories_of_that_model(specs: dict[str, Any]) -> None:
    curves = make_curves()
    (run,) = (r for r in curves if (r.scenario, r.model, r.metric) == ("instruction_tuning", "a-large", "loss"))
    curves[run] = make_simulations(run.run_id, ["rte"], scale=2.0)
    write_curves(specs["figure_11"]["curves"], curves)
    axes = figure_11.draw(specs["figure_11"]).axes
    assert len(axes) == 3
    simulations = read_curves(specs["figure_11"]["curves"], [run])[run]
    for panel, test in zip(axes, (4, 1, 3), strict=True):
        np.testing.assert_array_equal(panel.lines[0].get_ydata(), simulations.of("measured")[0, :, test])
        np.testing.assert_array_equal(panel.lines[2].get_ydata(), simulations.of("simfluence")[0, :, test])


def test_a_plan_without_instruction_tuning_says_so(specs: dict[str, Any]) -> None:
    write_curves(specs["figure_10"]["curves"], {r: c for r, c in make_curves().items() if r.scenario == "fine_tuning"})
    (text,) = figure_10.draw(specs["figure_10"]).texts
    assert text.get_text() == "Scale nano has no simulated runs of instruction tuning."


def test_examples_are_evenly_spread_between_the_median_and_the_largest() -> None:
    simulations = make_simulations("r", ["rte", "sst2"])
    order = [0, 2, 4, 1, 3]  # by 3 n mod 5
    for task, first in (("rte", 0), ("sst2", 5)):
        for count, ranks in ((1, [2]), (2, [2, 4]), (3, [2, 3, 4])):
            assert pick_examples(simulations, task, count) == [first + order[rank] for rank in ranks]
    # Those that do not move show nothing, as long as others do.
    simulations.of("measured")[0][:, [0, 2]] = 1.0
    assert pick_examples(simulations, "rte", 2) == [1, 3]
    simulations.of("measured")[0][:] = 1.0
    assert len(set(pick_examples(simulations, "rte", 2))) == 2


def test_fewer_examples_than_are_shown_are_repeated() -> None:
    simulations = make_simulations("r", ["rte"])
    simulations.tasks[2:] = "sst2"
    assert pick_examples(simulations, "rte", 3) == [0, 0, 1]


def test_methods_with_intervals_have_a_band(specs: dict[str, Any]) -> None:
    made = {}
    for run, simulations in make_curves().items():
        widths = np.full((3, *simulations.values.shape[1:]), np.nan, np.float32)
        widths[:, :, 1:] = np.array([0.1, 0.2, 0.4], np.float32)[:, None, None, None]
        made[run] = replace(simulations, half_widths={"simfluence": widths})
    write_curves(specs["figure_11"]["curves"], made)
    figure = figure_11.draw(specs["figure_11"])
    assert "bands: 80% intervals of a step" in figure.legends[0].get_title().get_text()
    axes = figure.axes[0]
    (band,) = axes.collections
    line = next(line for line in axes.lines if line.get_color() == method_style("simfluence", []).colour)
    step, value = line.get_xdata()[5], line.get_ydata()[5]
    edges = {round(float(y), 4) for x, y in band.get_paths()[0].vertices if x == step}
    assert edges == {round(float(value) - 0.2, 4), round(float(value) + 0.2, 4)}
