"""Files of figures: which bytes, which fonts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from gptfluence.design import FIGURES
from gptfluence.io import write_parquet
from gptfluence.paper.contents import CURVES
from gptfluence.paper.figures import write_figure
from gptfluence.scores.curves import write_curves
from gptfluence.scores.score import SCHEMA
from made_up_apart import write_apart
from made_up_choices import write_choices
from made_up_fits import write_convergence
from made_up_judged import write_judged, write_mislabels


def write(spec: dict[str, Any], folder: Path, name: str) -> dict[str, bytes]:
    outputs = {form: folder / f"{name}.{form}" for form in ("pdf", "png")}
    write_figure(spec, outputs)
    return {form: path.read_bytes() for form, path in outputs.items()}


# Of the figures of curves, which differ in their contents alone, one of each form.
DRAWN = [name for name in FIGURES if name not in CURVES or name in ("figure_2", "figure_10", "figure_21")]


@pytest.mark.parametrize("figure", DRAWN)
def test_files_are_the_same_twice_and_hold_no_date(figure: str, specs: dict[str, Any], tmp_path: Path) -> None:
    first = write(specs[figure], tmp_path, "first")
    assert first == write(specs[figure], tmp_path, "second")
    pdf = first["pdf"]
    assert pdf.startswith(b"%PDF")
    assert b"/CreationDate" not in pdf
    # Type 42 fonts are embedded as TrueType programs (CIDFontType2), never as Type 3 glyph procedures.
    assert b"/CIDFontType2" in pdf or b"/TrueType" in pdf
    assert b"/Type3" not in pdf
    assert first["png"].startswith(b"\x89PNG")
    width = int.from_bytes(first["png"][16:20], "big")
    assert width == 6.75 * 200


def test_figures_of_one_model_and_of_none(specs: dict[str, Any], tmp_path: Path) -> None:
    one = write(specs["figure_6"] | {"models": ["a-large"]}, tmp_path, "one")
    assert one != write(specs["figure_6"], tmp_path, "two")
    write_parquet(tmp_path / "scores.parquet", pa.Table.from_pylist([], SCHEMA), {"scores": {"confidence": 0.9}})
    write_curves(tmp_path / "curves.parquet", {})
    write_judged(tmp_path / "attribution.parquet", [])
    write_mislabels(tmp_path / "mislabels.parquet", [])
    write_apart(tmp_path / "simulators.parquet", [])
    write_choices(tmp_path / "choices.parquet", [])
    write_convergence(tmp_path / "convergence.parquet", [])
    write_apart(tmp_path / "variants.parquet", [])
    for figure in set(DRAWN) - {"figure_1"}:  # which shows no data
        height = int.from_bytes(write(specs[figure], tmp_path, "none")["png"][20:24], "big")
        assert height == 200  # one inch, for a line of text
