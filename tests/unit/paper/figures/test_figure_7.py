"""Figure 7 from made-up retrainings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gptfluence.paper.figures.figure_7 import STYLES, draw
from made_up_judged import make_mislabels, write_mislabels
from matplotlib import pyplot as plt


@pytest.fixture
def spec(specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield specs["figure_7"]
    plt.close("all")


def test_lines_go_through_the_values_in_order_of_the_fraction(spec: dict[str, Any], tmp_path: Path) -> None:
    rows = make_mislabels()
    write_mislabels(tmp_path / "mislabels.parquet", rows[::-1])
    accuracy, found = draw(spec).axes
    for axes, measure in ((accuracy, "accuracy"), (found, "found")):
        assert axes.get_title() == {"accuracy": "Test accuracy", "found": "Wrong labels found"}[measure]
        lines = {line.get_color(): line for line in axes.lines if line.get_linestyle() != "None"}
        for method, style in STYLES.items():
            values = [r["value"] for r in rows if (r["method"], r["measure"]) == (method, measure)]
            np.testing.assert_allclose(lines[style.colour].get_ydata(), values)
            # Whiskers stand side by side; what has none stands where it was measured.
            apart = 0.01 if measure == "accuracy" and method != "random" else 1e-12
            np.testing.assert_allclose(lines[style.colour].get_xdata(), np.arange(6) / 10, atol=apart)


def test_random_has_a_band_and_retrainings_have_whiskers(spec: dict[str, Any]) -> None:
    accuracy, found = draw(spec).axes
    for axes, spread in ((accuracy, 0.02), (found, 0.03)):
        (band,) = [c for c in axes.collections if c.get_facecolor().size]
        ends = band.get_paths()[0].vertices
        assert np.ptp(ends[np.isclose(ends[:, 0], 0.5), 1]) == pytest.approx(2 * spread)
    assert [len(axes.containers) for axes in (accuracy, found)] == [3, 0]


def test_legend_tells_methods_areas_and_how_many_were_averaged(spec: dict[str, Any]) -> None:
    legend = draw(spec).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "Random (AUC 0.50)",
        "Loss after training (AUC 0.68)",
        "TracIn self-influence (AUC 0.74)",
        "GPTfluence self factor (AUC 0.47)",
    ]
    title = legend.get_title().get_text()
    assert "small on SST-2; mean of 3 retrainings" in title and "of 10 orders" in title


def test_a_single_retraining_has_no_whiskers(spec: dict[str, Any], tmp_path: Path) -> None:
    rows = [row | ({"std": None, "n": 1} if row["method"] != "random" else {}) for row in make_mislabels()]
    write_mislabels(tmp_path / "mislabels.parquet", rows)
    figure = draw(spec)
    assert not figure.axes[0].containers
    assert "one retraining;" in figure.legends[0].get_title().get_text()


def test_no_mislabelled_data_is_said(spec: dict[str, Any], tmp_path: Path) -> None:
    write_mislabels(tmp_path / "mislabels.parquet", [])
    (text,) = draw(spec).texts
    assert text.get_text() == "Scale nano has no mislabelled data."
