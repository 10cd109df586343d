"""Figures of curves from made-up curves: which runs, examples and lines each shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_from import make_curves, make_simulations
from gptfluence.paper.contents import CURVES
from gptfluence.paper.figures import write_figure
from gptfluence.paper.figures.curves import choose_panels, choose_runs, draw, pick_examples
from gptfluence.paper.figures.parts import choose_model
from gptfluence.paper.figures.style import method_style
from gptfluence.scores.curves import ExampleRun, read_curves, write_curves
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def legend_title(figure: Figure) -> str:
    return figure.legends[0].get_title().get_text()


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
    for figure, expected in (("figure_10", middle), ("figure_16", middle), ("figure_11", largest)):
        contents = CURVES[figure]
        assert choose_model(models, contents.model, contents.otherwise) == expected


def test_figure_2_shows_the_largest_model_and_the_papers_panels(specs: dict[str, Any]) -> None:
    figure = draw(specs["figure_2"])
    titles = [axes.get_title().split("\n") for axes in figure.axes]
    assert [title[0] for title in titles[:4]] == [
        "RTE: loss", "WMT16 DE/EN: loss", "WebNLG: BLEU", "WMT16 DE/EN: ROUGE-L",
    ]  # fmt: skip
    # Ranges grow with 3 n mod 5: examples 0, 2, 4, 1, 3. The median is 4, the largest 3.
    assert [title[-1] for title in titles] == ["example 4 (median)"] * 4 + ["example 3 (largest)"] * 4
    assert legend_title(figure) == (
        "a-large, instruction tuning, first held-out run; 2 of 5 tests a panel, by how far they move"
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["measured", "Mean curve", "Simfluence (linear)", "GPTfluence (bilinear)", "own"]
    low, high = figure.axes[0].get_ylim()
    assert -20 < low < high < 20  # the explosion has left the panel


def test_each_task_has_a_row_of_three_examples(specs: dict[str, Any]) -> None:
    for name, model in (("figure_10", "small"), ("figure_11", "a-large")):
        figure = draw(specs[name])
        rows = [figure.axes[first : first + 3] for first in (0, 3, 6)]
        assert [row[0].get_ylabel().split("\n")[0] for row in rows] == ["RTE", "SST-2", "WMT16 DE/EN"]
        for row in rows:
            assert [axes.get_title() for axes in row] == [
                "example 4 (median)", "example 1 (between)", "example 3 (largest)",
            ]  # fmt: skip
        assert legend_title(figure).startswith(f"{model}, instruction tuning, first held-out run; 3 of 5 tests a panel")


_NUMBERED = [
    *((f"figure_{n}", "instruction_tuning", metric, "seen") for n, metric in
      ((10, "loss"), (11, "loss"), (12, "bleu"), (13, "bleu"), (14, "rouge_l"), (15, "rouge_l"))),
    *((f"figure_{n}", "fine_tuning", metric, "seen") for n, metric in ((16, "loss"), (17, "bleu"), (18, "rouge_l"))),
    *((f"figure_{n}", "fine_tuning", metric, setting) for first, metric in
      ((19, "loss"), (22, "loss"), (25, "bleu"), (28, "rouge_l"))
      for n, setting in enumerate(("unseen_test", "unseen_train", "unseen_both"), first)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "scenario", "metric", "setting"), _NUMBERED)
def test_lines_of_every_numbered_figure_are_its_trajectories(
    specs: dict[str, Any], name: str, scenario: str, metric: str, setting: str
) -> None:
    """Curves of all other runs are told apart by their scale."""
    spec = specs[name]
    model = "a-large" if name in ("figure_11", "figure_13", "figure_15") else "small"
    curves = make_curves()
    (run,) = (r for r in curves if (r.scenario, r.model, r.metric, r.setting) == (scenario, model, metric, setting))
    tasks = ["webnlg"] if metric != "loss" or name in ("figure_22", "figure_23", "figure_24") else ["rte"]
    curves[run] = make_simulations(run.run_id, tasks, scale=7.0)
    path = spec.get("curves") or spec["unseen_curves"]
    assert ("unseen_curves" in spec) == (setting in ("unseen_test", "unseen_both"))
    write_curves(path, curves)
    axes = draw(spec).axes
    assert len(axes) == 3
    simulations = read_curves(path, [run])[run]
    for panel, test in zip(axes, (4, 1, 3), strict=True):
        np.testing.assert_array_equal(panel.lines[0].get_ydata(), simulations.of("measured")[0, :, test])
        drawn = {line.get_color(): line.get_ydata() for line in panel.lines}
        shown = ("mean_curve", "gptfluence") + (("simfluence",) if setting == "seen" else ())
        assert len(panel.lines) == len(shown) + 2  # measured and the user's own
        for method in shown:
            np.testing.assert_array_equal(drawn[method_style(method, []).colour], simulations.of(method)[0, :, test])


def test_a_plan_without_such_runs_says_so(specs: dict[str, Any]) -> None:
    write_curves(specs["figure_10"]["curves"], {r: c for r, c in make_curves().items() if r.scenario == "fine_tuning"})
    (text,) = draw(specs["figure_10"]).texts
    assert text.get_text() == "Scale nano has no simulated runs, seen data, of loss in instruction tuning."


def test_falls_back_to_fine_tuning_and_to_other_tasks(specs: dict[str, Any]) -> None:
    spec = specs["figure_2"]
    curves = {run: c for run, c in make_curves().items() if (run.scenario, run.metric) == ("fine_tuning", "loss")}
    write_curves(spec["curves"], curves)
    figure = draw(spec | {"example_curves": 1})
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["RTE: loss", "WMT16 DE/EN: loss"]
    assert "small, fine-tuning" in legend_title(figure)


def test_panels() -> None:
    available = [("loss", "a"), ("loss", "b"), ("bleu", "b")]
    wanted = CURVES["figure_2"].panels
    assert choose_panels(wanted, available) == [("loss", "a"), ("loss", "b"), ("bleu", "b")]
    assert choose_panels([("loss", "")], available) == [("loss", "a"), ("loss", "b")]
    assert choose_panels([("loss", "b")], available) == [("loss", "b")]


def test_in_fine_tuning_each_task_has_a_run_of_its_own(specs: dict[str, Any]) -> None:
    spec = specs["figure_2"]
    curves = {
        ExampleRun("fine_tuning", "small", f"f-{task}", "loss", "seen", f"f-{task}-01"): make_simulations(
            f"f-{task}-01", [task], scale
        )
        for task, scale in (("rte", 1.0), ("wmt16_de_en", 2.0))
    }
    write_curves(spec["curves"], curves)
    figure = draw(spec)
    starts = {axes.get_title().split("\n")[0]: axes.lines[0].get_ydata()[0] for axes in figure.axes[:2]}
    assert starts == {"RTE: loss": 3.0, "WMT16 DE/EN: loss": 6.0}


def test_the_last_known_model_is_chosen_by_name_only_without_an_order(specs: dict[str, Any]) -> None:
    runs, contents = list(make_curves()), specs["figure_2"]["contents"]
    assert {run.model for run in choose_runs(runs, contents, ["a-large", "small"])} == {"small"}
    assert {run.model for run in choose_runs(runs, contents, ["other"])} == {"small"}
    assert {run.scenario for run in choose_runs(runs, contents, [])} == {"instruction_tuning"}
    assert choose_runs([], contents, ["small"]) == []


def test_gradient_methods_stand_in_panels_of_the_loss_alone(specs: dict[str, Any]) -> None:
    spec = specs["figure_2"]
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


def test_survives_a_gpt_that_diverged(specs: dict[str, Any], tmp_path: Path) -> None:
    run = ExampleRun("fine_tuning", "small", "f", "loss", "seen", "f-01")
    write_curves(specs["figure_2"]["curves"], {run: make_simulations("f-01", ["rte"], scale=1e200)})  # float32: inf
    write_figure(specs["figure_2"], {"png": tmp_path / "diverged.png"})
    assert (tmp_path / "diverged.png").stat().st_size > 1000


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
    spec = specs["figure_11"]
    made = {}
    for run, simulations in make_curves().items():
        widths = np.full((3, *simulations.values.shape[1:]), np.nan, np.float32)
        widths[:, :, 1:] = np.array([0.1, 0.2, 0.4], np.float32)[:, None, None, None]
        made[run] = replace(simulations, half_widths={"simfluence": widths})
    write_curves(spec["curves"], made)
    figure = draw(spec)
    assert "bands: 80% intervals of a step" in legend_title(figure)
    axes = figure.axes[0]
    (band,) = axes.collections
    line = next(line for line in axes.lines if line.get_color() == method_style("simfluence", []).colour)
    step, value = line.get_xdata()[5], line.get_ydata()[5]
    edges = {round(float(y), 4) for x, y in band.get_paths()[0].vertices if x == step}
    assert edges == {round(float(value) - 0.2, 4), round(float(value) + 0.2, 4)}
