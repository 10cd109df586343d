"""The stages of dvc.yaml agree with the design: files, rules, and what a stage refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from gptfluence.curricula.draw import draw_curricula
from gptfluence.design import FIGURES, TABLES, Design, make_design
from gptfluence.errors import UserError
from gptfluence.io import write_digests
from gptfluence.params import load_params
from gptfluence.stages import drop_damaged, run_stage, write_plan


@pytest.fixture
def design(tiny_params: dict[str, Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Design:
    monkeypatch.chdir(tmp_path)
    return make_design(load_params(tiny_params, root / "params.yaml"))


def dvc_stages(root: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of dvc.yaml by the names that `gptfluence stage` knows, templates filled in."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = {name: stage for name, stage in stages.items() if "do" not in stage}
    for stage in (stage for stage in stages.values() if "do" in stage):
        items = stage["foreach"]
        for key in items:
            value = items[key] if isinstance(items, dict) else key
            text = json.dumps(stage["do"]).replace("${key}", key).replace("${item}", value)
            found[key] = json.loads(text)
    return found


def outputs(stage: dict[str, Any]) -> set[str]:
    rows = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return {next(iter(row)) if isinstance(row, dict) else row for row in rows}


def test_dvc_tracks_every_file_of_the_design_and_no_other(root: Path, design: Design) -> None:
    stages = dvc_stages(root)
    assert stages.keys() - {"plan"} == design.stages.keys()
    for name, files in design.stages.items():
        tracked = outputs(stages[name])
        assert stages[name]["cmd"] == f"gptfluence stage {name}"
        assert f"data/plan/{name}.json" in stages[name]["deps"]
        inside = {file for file in files if any(file == out or file.startswith(f"{out}/") for out in tracked)}
        assert inside == set(files), name
        assert not {out for out in tracked if Path(out).suffix} - set(files), name


def test_what_dvc_keeps_persists(root: Path) -> None:
    """DVC would otherwise delete the runs before it makes one more."""
    for name, stage in dvc_stages(root).items():
        for row in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            assert name == "plan" or list(row.values()) == [{"persist": True}], name


def test_a_figure_is_drawn_from_what_dvc_fetches_for_it(root: Path, design: Design) -> None:
    stages = dvc_stages(root)
    for figure in FIGURES:
        assert set(design.figure_inputs(figure)) == set(stages[figure]["deps"]) - {f"data/plan/{figure}.json"}
    for table in TABLES:
        assert set(design.table_inputs(table)) == set(stages[table]["deps"]) - {f"data/plan/{table}.json"}


def test_plan_names_every_file(design: Design) -> None:
    write_plan(design)
    for stage, files in design.stages.items():
        assert json.loads(Path(f"data/plan/{stage}.json").read_text())["files"] == files


def test_stage_of_another_plan_or_name_is_refused(design: Design, tiny_params: dict[str, Any], root: Path) -> None:
    with pytest.raises(UserError, match="no stage 'figure_31'"):
        run_stage(design, "figure_31")
    with pytest.raises(UserError, match=r"not the plan of params\.yaml"):
        run_stage(design, "scores")
    write_plan(design)
    tiny_params["scores"]["confidence"] = 0.5
    other = make_design(load_params(tiny_params, root / "params.yaml"))
    with pytest.raises(UserError, match=r"scores\.json: not the plan of params\.yaml as it is now. Run dvc repro"):
        run_stage(other, "scores")


def test_stage_that_stands_runs_nothing(design: Design, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(design)
    draw_curricula(design.curricula_spec(), Path("data/curricula"))
    run_stage(design, "curricula")  # would not return if it called Snakemake
    assert "curricula: all 11 files stand" in capsys.readouterr().out


def test_damaged_files_are_dropped_before_dvc_can_record_them(design: Design) -> None:
    draw_curricula(design.curricula_spec(), Path("data/curricula"))
    first, second = map(Path, design.stages["curricula"][:2])
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    second.write_bytes(second.read_bytes()[:-5])
    model = Path(design.model_folder("tiny"))
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    write_digests(model)
    assert drop_damaged([str(model)]) == []
    (model / "model.safetensors").write_bytes(b"wEights")
    simulator = Path("results/simulators/g.loss.m.000000000000.safetensors")
    simulator.parent.mkdir(parents=True)
    simulator.write_bytes(b"cut")
    files = [*design.stages["curricula"], str(model), str(simulator)]
    assert drop_damaged(files) == [str(first), str(second), str(model), str(simulator)]
    assert not any(path.exists() for path in (first, second, model, simulator))
    assert len(list(Path("data/curricula").iterdir())) == len(design.stages["curricula"]) - 2
