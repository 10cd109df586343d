"""Figure 2 from made-up curves: which examples, which lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_from import make_curves, make_simulations
from gptfluence.paper.figures import write_figure
from gptfluence.paper.figures.figure_2 import choose_panels, choose_runs, draw
from gptfluence.scores.curves import ExampleRun, read_curves, write_curves
from matplotlib import pyplot as plt


@pytest.fixture
def spec(specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield specs["figure_2"]
    plt.close("all")


def test_shows_the_largest_model_and_the_papers_panels(spec: dict[str, Any]) -> None:
    figure = draw(spec)
    titles = [axes.get_title().split("\n") for axes in figure.axes]
    assert [title[0] for title in titles[:4]] == [
        "RTE: loss", "WMT16 DE/EN: loss", "WebNLG: BLEU", "WMT16 DE/EN: ROUGE-L",
    ]  # fmt: skip
    # Ranges grow with 3 n mod 5: examples 0, 2, 4, 1, 3. The median is 4, the largest 3.
    assert [title[-1] for title in titles] == ["example 4 (median)"] * 4 + ["example 3 (largest)"] * 4
    assert figure.legends[0].get_title().get_text().startswith("a-large, instruction tuning")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["measured", "Mean curve", "Simfluence (linear)", "GPTfluence (bilinear)", "own"]
    low, high = figure.axes[0].get_ylim()
    assert -20 < low < high < 20  # the explosion has left the panel


def test_plots_what_was_measured_and_simulated(spec: dict[str, Any]) -> None:
    lines = draw(spec).axes[0].lines
    run = ExampleRun("instruction_tuning", "a-large", "instruction_tuning-a-large", "loss",
                     "instruction_tuning-a-large-09")  # fmt: skip
    simulations = read_curves(spec["curves"], [run])[run]
    test = [i for i, task in enumerate(simulations.tasks) if task == "rte"][4]
    np.testing.assert_array_equal(lines[0].get_ydata(), simulations.of("measured")[0, :, test])
    assert lines[0].get_color() == "#000000"
    np.testing.assert_array_equal(lines[1].get_ydata(), simulations.of("mean_curve")[0, :, test])


def test_falls_back_to_fine_tuning_and_to_other_tasks(spec: dict[str, Any]) -> None:
    curves = {run: c for run, c in make_curves().items() if (run.scenario, run.metric) == ("fine_tuning", "loss")}
    write_curves(spec["curves"], curves)
    figure = draw(spec | {"example_curves": 1})
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["RTE: loss", "WMT16 DE/EN: loss"]
    assert "small, fine-tuning" in figure.legends[0].get_title().get_text()
    assert choose_panels([("loss", "a"), ("loss", "b"), ("bleu", "b")]) == [
        ("loss", "a"), ("loss", "b"), ("bleu", "b"),
    ]  # fmt: skip


def test_in_fine_tuning_each_task_has_a_run_of_its_own(spec: dict[str, Any]) -> None:
    curves = {
        ExampleRun("fine_tuning", "small", f"f-{task}", "loss", f"f-{task}-01"): make_simulations(
            f"f-{task}-01", [task], scale
        )
        for task, scale in (("rte", 1.0), ("wmt16_de_en", 2.0))
    }
    write_curves(spec["curves"], curves)
    figure = draw(spec)
    starts = {axes.get_title().split("\n")[0]: axes.lines[0].get_ydata()[0] for axes in figure.axes[:2]}
    assert starts == {"RTE: loss": 3.0, "WMT16 DE/EN: loss": 6.0}


def test_the_last_known_model_is_chosen_by_name_only_without_an_order() -> None:
    runs = list(make_curves())
    assert {run.model for run in choose_runs(runs, ["a-large", "small"])} == {"small"}
    assert {run.model for run in choose_runs(runs, ["other"])} == {"small"}
    assert {run.scenario for run in choose_runs(runs, [])} == {"instruction_tuning"}
    assert choose_runs([], ["small"]) == []


def test_gradient_methods_stand_in_panels_of_the_loss_alone(spec: dict[str, Any]) -> None:
    replays = ["grad_dot", "tracin", "tracin_adamw", "tracin_cp"]
    curves = {
        run: make_simulations(run.run_id, sorted(set(c.tasks)), methods=replays if run.metric == "loss" else [])
        for run, c in make_curves().items()
    }
    write_curves(spec["curves"], curves)
    figure = draw(spec)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "measured", "Mean curve", "TracIn-CP (checkpoints)", "Grad-Dot (final)", "Simfluence (linear)",
        "GPTfluence (bilinear)", "own",
    ]  # fmt: skip
    assert [len(axes.lines) for axes in figure.axes] == [7, 7, 5, 5] * 2


def test_survives_a_gpt_that_diverged(spec: dict[str, Any], tmp_path: Path) -> None:
    run = ExampleRun("fine_tuning", "small", "f", "loss", "f-01")
    write_curves(spec["curves"], {run: make_simulations("f-01", ["rte"], scale=1e200)})  # infinite in float32
    write_figure(spec, {"png": tmp_path / "diverged.png"})
    assert (tmp_path / "diverged.png").stat().st_size > 1000
