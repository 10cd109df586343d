"""Made-up curves and scores that figures are drawn from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `drawn_from`

from drawn_from import make_curves, write_scores
from gptfluence.scores.curves import write_curves
from made_up_apart import make_apart, write_apart
from made_up_choices import make_choices, write_choices
from made_up_judged import make_judged, make_mislabels, write_judged, write_mislabels


@pytest.fixture
def specs(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What each figure is given: two models of instruction tuning, one of them in fine-tuning too."""
    write_curves(tmp_path / "curves.parquet", make_curves())
    write_scores(tmp_path / "scores.parquet")
    mislabels = {"mislabels": write_mislabels(tmp_path / "mislabels.parquet", make_mislabels())}
    judged = {"attribution": write_judged(tmp_path / "attribution.parquet", make_judged())}
    apart = {"simulators": write_apart(tmp_path / "simulators.parquet", make_apart())}
    choices = {"choices": write_choices(tmp_path / "choices.parquet", make_choices())}
    both = {"width_in": 6.75, "scale": "nano", "models": ["small", "a-large"]}
    return {
        "figure_2": {"figure": "figure_2", "curves": str(tmp_path / "curves.parquet"), "example_curves": 2} | both,
        "figure_6": {"figure": "figure_6", "scores": str(tmp_path / "scores.parquet")} | both,
        "figure_7": {"figure": "figure_7"} | mislabels | both,
        "figure_10": {"figure": "figure_10", "curves": str(tmp_path / "curves.parquet")} | both,
        "figure_11": {"figure": "figure_11", "curves": str(tmp_path / "curves.parquet")} | both,
        "figure_attribution": {"figure": "figure_attribution"} | judged | mislabels | both,
        "figure_simulators": {"figure": "figure_simulators"} | apart | both,
        "figure_choices": {"figure": "figure_choices"} | choices | both,
    }
