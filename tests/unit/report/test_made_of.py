"""Costs, origins and figures: what is noted is told, what is not there is said, what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gptfluence.errors import UserError
from gptfluence.report.costs import cost_grid, count_runs, read_cost
from gptfluence.report.made import made_grids
from gptfluence.report.pictures import read_picture

GANGS = [{"scenario": "fine_tuning", "model": "m", "name": name, "runs": [{"split": "fit"}, {"split": "held_out"}]}
         for name in ("a", "b")]  # fmt: skip


def test_costs_are_those_that_were_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("results/benchmarks/train_runs")
    folder.mkdir(parents=True)
    (folder / "a.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n10.0\t0:00:10\t500.2\t8.0\n")
    (folder / "b.tsv").write_text("s\tmax_rss\tcpu_time\n-\t-\t-\n")
    line = cost_grid(GANGS, {"m": "cpu"}, {"fit_simulator": ["x"]}).sections
    assert [cell.text for cell in line[0].rows[0].cells] == ["cpu", "1 of 2", "8", "10", "500"]
    assert [cell.text for cell in line[1].rows[0].cells] == ["–", "0 of 1", "–", "–", "–"]
    assert read_cost(Path("none.tsv")).jobs == 0


def test_runs_are_counted_by_purpose() -> None:
    grid = count_runs(GANGS)
    assert grid.heads == ("fit", "held out", "all")
    assert [cell.text for cell in grid.sections[-1].rows[0].cells] == ["2", "2", "4"]


def test_what_is_missing_or_damaged_is_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"figure_9\.png: missing"):
        read_picture("figure_9", tmp_path / "figure_9.png")
    whole = (made / "results/figures/figure_6.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.png: damaged"):
        read_picture("figure_6", tmp_path / "cut.png")
    note = tmp_path / "t.provenance.json"
    note.write_text("{}")
    with pytest.raises(UserError, match="not readable"):
        made_grids({"table_1": {"files": [str(note)], "digest": "0"}})


def test_each_file_stands_with_its_digests(made: Path) -> None:
    spec = json.loads((made / "spec.json").read_text())
    files, hashed = made_grids(spec["stages"])
    names = {Path(row.name).name for section in files.sections for row in section.rows}
    assert {"table_1.csv", "table_choices.tex", "figure_6.png"} <= names
    assert [cell.text for cell in hashed.sections[0].rows[0].cells] == ["2", "0" * 12]


def test_a_figure_tells_its_values(made: Path) -> None:
    """Of made-up scores the mean curve has the lowest MSE, 0.31, and a model's names stand beside the values."""
    picture = read_picture("figure_6", made / "results/figures/figure_6.png")
    assert "Mean curve is lowest on average" in picture.alternative
    assert "All-steps MSE of the loss: Mean curve: 0.31 at nano-0.2m, 0.31 at <b>bold</b> & wide." in picture.told
