"""What stands is told by contents: names, recorded digests and provenance, never by times."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from gptfluence import standing
from gptfluence.design import Design, make_design
from gptfluence.io import file_digest, write_json
from gptfluence.params import load_params
from gptfluence.standing import Digests, planned_files, recorded_runs, survey, write_provenance


@pytest.fixture
def design(tiny_params: dict[str, Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Design:
    """The tiny plan, every planned file written with made-up bytes below the working folder."""
    monkeypatch.chdir(tmp_path)
    design = make_design(load_params(tiny_params, root / "params.yaml"))
    for files in design.stages.values():
        for file in files:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(f"bytes of {file}", encoding="utf-8")
    for gang in design.gangs.values():
        shards = {run.run_id: Path(run.shard) for run in gang.runs}
        write_json(gang.manifest, {id_: {"file": s.name, "digest": file_digest(s)} for id_, s in shards.items()})
    for stage, spec in design.plain_specs().items():
        files = [Path(file) for file in design.stages[stage]]
        provenance = next(file for file in files if file.name.endswith(".provenance.json"))
        write_provenance(provenance, "rule", spec, [file for file in files if file != provenance])
    return design


def test_everything_stands_whatever_the_times(design: Design) -> None:
    for number, file in enumerate(sorted(Path().rglob("*.*"), reverse=True)):
        os.utime(file, (10_000 * number, 10_000 * number))
    found = survey(design)
    assert all(found.stands(stage) for stage in design.stages)
    assert not found.damaged and not found.broken and not found.stale


def test_damaged_and_lost_shards_are_told_apart(design: Design) -> None:
    survey(design)  # what is remembered must not hide a later damage
    lost, cut, flipped = (Path(run.shard) for run in list(design.runs.values())[:3])
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    whole = bytearray(flipped.read_bytes())
    whole[3] ^= 1
    flipped.write_bytes(whole)
    found = survey(design)
    assert sorted(found.damaged) == sorted([str(cut), str(flipped)])
    assert found.missing["dynamics"] == [str(lost)]
    assert not found.stands("dynamics") and found.stands("simulators")
    assert any(cut.name in why and "damaged" in why for why in found.broken.values())


def test_unreadable_manifest_is_written_again(design: Design) -> None:
    gang = next(iter(design.gangs.values()))
    Path(gang.manifest).write_text('{"run', encoding="utf-8")
    assert "not readable" in survey(design).broken[gang.gang]
    assert not survey(design).damaged


def test_plain_names_are_stale_by_spec_by_bytes_and_by_absence(design: Design) -> None:
    Path("results/tables/table_1.md").write_text("edited by hand", encoding="utf-8")
    Path("results/figures/figure_2.png").unlink()
    other = "results/figures/figure_6.provenance.json"
    Path(other).write_text(json.dumps(json.loads(Path(other).read_text()) | {"spec": "0" * 12}), encoding="utf-8")
    Path("results/tables/table_3.provenance.json").write_text("{", encoding="utf-8")
    stale = survey(design).stale
    assert stale.keys() == {"table_1", "figure_2", "figure_6", "table_3"}
    assert "table_1.md: not what was made" in stale["table_1"]
    assert "another configuration" in stale["figure_6"]
    assert not survey(design).stands("figure_2") and survey(design).stands("table_2")


def test_unchanged_files_are_read_once(design: Design, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(standing, "file_digest", lambda path: read.append(path) or file_digest(path))
    survey(design)
    assert len(read) > len(design.runs)
    read.clear()
    survey(design)
    assert not read
    touched = Path(next(iter(design.runs.values())).shard)
    os.utime(touched, (1, 1))
    survey(design)
    assert read == [touched]


def test_damaged_cache_of_digests_is_an_empty_one(design: Design) -> None:
    survey(design)
    standing.DIGESTS_FILE.write_text("[", encoding="utf-8")
    assert Digests.load().known == {}
    assert survey(design).stands("dynamics")


def test_dvc_lock_says_whether_the_plans_runs_are_recorded(design: Design) -> None:
    assert not recorded_runs(design)
    md5 = hashlib.md5(planned_files(design, "dynamics").encode()).hexdigest()
    deps = [{"path": "data/tasks", "md5": "x.dir"}, {"path": "data/plan/dynamics.json", "md5": md5}]
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"dynamics": {"deps": deps}}}))
    assert recorded_runs(design)
    deps[1]["md5"] = "0" * 32
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"dynamics": {"deps": deps}}}))
    assert not recorded_runs(design)
    Path("dvc.lock").write_text("<<<<<<< HEAD\n=======\n", encoding="utf-8")
    assert not recorded_runs(design)
