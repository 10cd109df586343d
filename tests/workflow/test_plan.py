"""What Snakemake plans, and how it refuses bad params: dry runs only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from gptfluence.design import make_design
from gptfluence.params import load_params
from pipeline import snakemake


def test_paper_scale_is_planned_in_a_fresh_clone(root: Path, tmp_path: Path) -> None:
    """The promise to users of a cluster: `snakemake --profile slurm -n`, with the resources of each size."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "-n"]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = dict(line.split()[:2] for line in result.stdout.splitlines() if len(line.split()) == 2)
    assert (counts["train_runs"], counts["retrain_corrected"]) == ("411", "65")  # 352 + 15, 16 repeats, 28 noisy
    assert (counts["choose_data"], counts["retrain_chosen"]) == ("2", "60")
    for model in ("pythia-14m", "pythia-2.8b"):
        block = next(b for b in result.stdout.split("\n\n") if "rule train_runs" in b and f"{model}-mixture" in b)
        params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["dynamics"]["models"][model]
        assert f"mem_mb={params['mem_gb'] * 1000}" in block
        assert f"runtime={params['runtime_min']}" in block
        assert "gpu=1" in block


def test_kernels_wait_for_the_curricula_of_all_their_runs(tmp_path: Path, tiny_params: dict[str, Any]) -> None:
    tiny_params["scales"]["tiny"]["scenarios"]["fine_tuning"]["kernel_runs"] = 2
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tiny_params), encoding="utf-8")
    kernels = make_design(load_params(tiny_params, path)).kernels_file("fine_tuning-tiny-rte")
    result = snakemake(tmp_path, "-n", "--quiet", "host", "--", kernels)
    assert result.returncode == 0, result.stdout + result.stderr
    job = result.stdout.split("rule measure_kernels:")[1]
    read = job.split("input:")[1].split("output:")[0]
    for number in (1, 2):
        assert f"data/curricula/fine_tuning-tiny-rte-0{number}." in read


def test_all_mistakes_of_params_at_once_without_a_traceback(tmp_path: Path, tiny_params: dict[str, Any]) -> None:
    tiny_params["simulatorz"] = {}
    tiny_params["scales"]["tiny"]["scenarios"]["fine_tuning"]["draw"] = 128
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params), encoding="utf-8")
    result = snakemake(tmp_path, "-n")
    output = result.stdout + result.stderr
    assert result.returncode == 1
    assert "simulatorz: unknown key (did you mean 'simulators'?)" in output
    assert "cannot draw 128 of a pool of 12" in output
    assert "Traceback" not in output
    assert not (tmp_path / "data").exists()


def test_check_command(tmp_path: Path, root: Path, tiny_params: dict[str, Any]) -> None:
    def check(file: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gptfluence", "check", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)

    fine = check(root / "params.yaml")
    assert fine.returncode == 0 and "fine" in fine.stdout
    tiny_params["scale"] = "tinny"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params), encoding="utf-8")
    wrong = check(tmp_path / "params.yaml")
    assert wrong.returncode == 2
    assert "did you mean 'tiny'?" in wrong.stderr and "Traceback" not in wrong.stderr


def test_missing_local_tasks_are_named(tmp_path: Path, tiny_params: dict[str, Any]) -> None:
    tiny_params["scales"]["tiny"]["source"] = "local"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params), encoding="utf-8")
    result = snakemake(tmp_path, "-n")
    output = result.stdout + result.stderr
    assert result.returncode == 1 and "data/own/" in output and "no such file" in output
    assert "Traceback" not in output


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_profile_link_points_into_the_checkout(root: Path) -> None:
    assert (root / "slurm").resolve() == (root / "workflow/profiles/slurm").resolve()
