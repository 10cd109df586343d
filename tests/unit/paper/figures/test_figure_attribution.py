"""The figure of attribution from made-up scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gptfluence.paper.figures.figure_attribution import COLOURS, PANELS, draw
from made_up_judged import GROUPS, REPLAYS, TABLES, make_judged, write_judged, write_mislabels
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


@pytest.fixture
def spec(specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield specs["figure_attribution"]
    plt.close("all")


def dots(axes: Axes, row: int, marker: str = "o") -> list[Any]:
    """Return the lines that are one dot of a row."""
    return [line for line in axes.lines if line.get_marker() == marker and list(line.get_ydata()) == [row]]


def rows_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_each_method_has_one_row_by_family(spec: dict[str, Any]) -> None:
    figure = draw(spec)
    labels = rows_of(figure.axes[0])
    assert len(labels) == len(set(labels)) == len({*TABLES, *REPLAYS, "datamodel", "mean_curve", "gptfluence"})
    assert labels[:5] == ["Random", "Length", "Loss", "Mean curve", "BM25"]
    assert labels[-1] == "Tail-patch"
    assert [axes.get_title() for axes in figure.axes] == [title for title, _ in PANELS.values()]
    colours = [label.get_color() for label in figure.axes[0].get_yticklabels()]
    assert colours[labels.index("TrackStar")] == colours[labels.index("without Hessian")] == COLOURS["TrackStar"]
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_dots_are_means_with_whiskers_and_single_groups_beside(spec: dict[str, Any]) -> None:
    axes = draw(spec).axes[0]
    row = rows_of(axes).index("BM25")
    values = [r["value"] for r in make_judged() if (r["method"], r["measure"]) == ("bm25", "lds")]
    (dot,) = dots(axes, row)
    assert dot.get_xdata()[0] == pytest.approx(sum(values) / 3)
    assert [float(line.get_xdata()[0]) for line in dots(axes, row, ".")] == pytest.approx(values)
    (whisker,) = [line for line in axes.lines if list(line.get_ydata()) == [row, row]]
    assert whisker.get_xdata()[1] - whisker.get_xdata()[0] == pytest.approx(2 * 0.05 / 3**0.5)


def test_a_simulator_that_is_far_off_stands_at_the_edge_and_is_hollow(spec: dict[str, Any]) -> None:
    figure = draw(spec)
    skill = figure.axes[list(PANELS).index("skill")]
    row = rows_of(figure.axes[0]).index("TracIn-CP")
    (off,) = dots(skill, row, "<")
    assert off.get_xdata()[0] == -1 and off.get_markerfacecolor() == "white"
    (scaled,) = dots(skill, row)
    assert scaled.get_xdata()[0] > 0 and scaled.get_markerfacecolor() == COLOURS["Gradients"]


def test_the_ceiling_is_a_line_not_a_row(spec: dict[str, Any], tmp_path: Path) -> None:
    figure = draw(spec)
    assert "ceiling" not in rows_of(figure.axes[0])
    heights = [line.get_xdata()[0] for line in figure.axes[0].lines if list(line.get_ydata()) == [0, 1]]
    assert heights == pytest.approx([0.62, 0.0])
    assert "ceiling of the LDS" in [text.get_text() for text in figure.legends[0].get_texts()]
    write_judged(tmp_path / "attribution.parquet", [row for row in make_judged() if row["method"] != "ceiling"])
    assert "ceiling of the LDS" not in [text.get_text() for text in draw(spec).legends[0].get_texts()]


def test_one_group_is_drawn_itself_and_what_none_has_is_left_out(spec: dict[str, Any], tmp_path: Path) -> None:
    write_judged(tmp_path / "attribution.parquet", make_judged(groups=GROUPS[1:2]))
    write_mislabels(tmp_path / "mislabels.parquet", [])
    figure = draw(spec)
    assert [axes.get_title() for axes in figure.axes] == ["LDS", "Tail-patch", "MRR", "Skill", "Cost"]
    assert not [line for axes in figure.axes for line in axes.lines if line.get_marker() == "."]
    assert figure.legends[0].get_title().get_text() == "whiskers: 90% bootstrap intervals"
    rows = [row for row in make_judged(groups=GROUPS[1:2]) if row["measure"] not in ("mrr", "recall_at_10")]
    write_judged(tmp_path / "attribution.parquet", rows)
    assert "MRR" not in [axes.get_title() for axes in draw(spec).axes]


def test_a_narrow_figure_stacks_its_panels(spec: dict[str, Any]) -> None:
    figure = draw(spec | {"width_in": 3.25})
    assert figure.get_figwidth() == 3.25
    starts = {axes.get_subplotspec().colspan.start for axes in figure.axes}
    assert starts == {0, 1}
    assert all(rows_of(axes) for axes in figure.axes if axes.get_subplotspec().colspan.start == 0)


def test_nothing_to_judge_is_said(spec: dict[str, Any], tmp_path: Path) -> None:
    write_judged(tmp_path / "attribution.parquet", [])
    (text,) = draw(spec).texts
    assert text.get_text() == "Scale nano has no retrainings on random subsets to judge attribution by."
