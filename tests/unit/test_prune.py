from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from gptfluence.design import Design, make_design
from gptfluence.params import load_params
from gptfluence.prune import former_files, prune


@pytest.fixture
def design(tiny_params: dict[str, Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Design:
    monkeypatch.chdir(tmp_path)
    return make_design(load_params(tiny_params, root / "params.yaml"))


def write(path: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("x" * 100, encoding="utf-8")
    return Path(path)


def test_only_files_of_former_plans_go_and_only_when_asked(design: Design) -> None:
    run = next(iter(design.runs.values()))
    kept = [write(file) for stage in ("curricula", "dynamics") for file in design.stages[stage] if Path(file).suffix]
    kept += [write(f"data/scratch/{run.run_id}.{run.hash}.safetensors"), write("results/tables/table_1.md")]
    task = Path(design.stages["tasks"][0]).stem
    kept += [write(f"data/tokens/{task}.0123456789ab.parquet")]
    kept += [write("data/own/mine.jsonl"), write("data/dynamics/.being-written.part")]
    former = [
        write("data/dynamics/fine_tuning-tiny-rte-01.000000000000.parquet"),
        write("data/models/tiny.000000000000/model.safetensors").parent,
        write("data/scratch/fine_tuning-tiny-rte-01.000000000000.json"),
        write("data/tokens/rte.000000000000.0123456789ab.parquet"),
    ]
    former.append(write("data/dynamics/.left-by-a-killed-job.part"))
    os.utime(former[-1], (1e9, 1e9))
    assert set(former_files(design)) == set(former)
    assert "prune --delete" in prune(design, delete=False)
    assert all(path.exists() for path in former)
    assert "deleted 5 files" in prune(design, delete=True)
    assert not any(path.exists() for path in former)
    assert all(path.exists() for path in kept)
    assert "no file but those" in prune(design, delete=True)
