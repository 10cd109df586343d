"""Made-up curves and scores that figures are drawn from."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `drawn_from`

from drawn_from import make_curves, write_scores
from gptfluence.design import FIGURES, item_modules
from gptfluence.paper.contents import CURVES
from gptfluence.scores.curves import write_curves
from made_up_apart import make_apart, write_apart
from made_up_choices import make_choices, write_choices
from made_up_fits import VARIANTS, make_convergence, make_variants, write_convergence
from made_up_judged import make_judged, make_mislabels, write_judged, write_mislabels


@pytest.fixture
def specs(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What each figure is given: two models of instruction tuning, one of them in fine-tuning too."""
    made = {"curves": str(tmp_path / "curves.parquet"), "scores": str(tmp_path / "scores.parquet")}
    write_curves(made["curves"], make_curves())
    write_scores(tmp_path / "scores.parquet")
    made |= {
        "unseen_curves": made["curves"],
        "mislabels": write_mislabels(tmp_path / "mislabels.parquet", make_mislabels()),
        "attribution": write_judged(tmp_path / "attribution.parquet", make_judged()),
        "simulators": write_apart(tmp_path / "simulators.parquet", make_apart()),
        "choices": write_choices(tmp_path / "choices.parquet", make_choices()),
        "convergence": write_convergence(tmp_path / "convergence.parquet", make_convergence()),
        "variants": VARIANTS,
        "example_curves": 2,
    }
    variants = write_apart(tmp_path / "variants.parquet", make_variants())
    specs = {}
    for figure, parts in FIGURES.items():
        package, module = item_modules(figure)
        specs[figure] = {"figure": figure, "module": module.removeprefix(f"{package}."), "width_in": 6.75,
                         "scale": "nano", "models": ["small", "a-large"]}  # fmt: skip
        specs[figure] |= {name: made[name] for name in parts if name in made}
        if "contents" in parts:
            specs[figure]["contents"] = dataclasses.asdict(CURVES[figure]) | {"file": CURVES[figure].file}
        if "variants" in parts:
            specs[figure]["simulators"] = variants
    return specs
