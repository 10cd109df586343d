"""The pipeline on a real SLURM cluster (of made-up nodes on this machine), while everything that can go wrong does."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, missing_packages, run_snakemake, start_snakemake
from pipeline import ROOT, make_tiny, snakemake

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    if why := missing_packages():
        pytest.skip(why)


def make_plan(raw: dict[str, Any]) -> dict[str, Any]:
    """Two models, each with runs that take some seconds: `roomy` asks for a GPU, and at first for too little memory."""
    raw = make_tiny(raw)
    plan, models = raw["scales"]["tiny"], raw["dynamics"]["models"]
    models["tiny"] |= {"runs_per_job": 1, "mem_gb": 1.2, "runtime_min": 7}
    models["roomy"] = models["tiny"] | {"width": 64, "mem_gb": 0.5, "runtime_min": 9, "gpu": 1}
    plan["unseen_pool"] = 0
    fine, mixture = plan["scenarios"]["fine_tuning"], plan["scenarios"]["instruction_tuning"]
    fine |= {"epochs": 200, "runs": {"fit": 2, "validate": 1, "held_out": 1, "unseen": 0}}
    mixture |= {"models": ["roomy"], "train_tasks": ["rte", "webnlg"], "test_tasks": ["rte"]}
    mixture |= {"epochs": 20, "runs": {"fit": 1, "validate": 1, "held_out": 1, "unseen": 0}}
    return raw


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which this plan's runs were trained on this machine, by two processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    raw = make_plan(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    for model in raw["dynamics"]["models"].values():
        model["runs_per_job"] = 5
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    result = snakemake(folder, "dynamics")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture
def folder(undisturbed: Path, tmp_path: Path, raw_params: dict[str, Any]) -> Path:
    """A folder in which nothing is left to do but the training: one run a job."""
    for name in ("tasks", "curricula", "models"):
        shutil.copytree(undisturbed / "data" / name, tmp_path / "work/data" / name)
    (tmp_path / "work/params.yaml").write_text(yaml.safe_dump(make_plan(raw_params), sort_keys=False), encoding="utf-8")
    return tmp_path / "work"


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of one CPU, two of them in the partition `gpu`."""
    with Cluster(tmp_path_factory.mktemp("cluster"), nodes=3, cpus=1) as cluster:
        yield cluster


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data/dynamics").glob("*.parquet")}


def in_training(folder: Path, model: str = "*") -> list[dict[str, Any]]:
    """Return the progress of each run that has been trained for a second: run_id, slurm_job, pid ..."""
    found = []
    for path in (folder / "data/scratch").glob(f"*-{model}-*.json"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # done in the meantime
            progress = json.loads(path.read_text(encoding="utf-8"))
            if progress["state"] == "running" and time.time() > progress["started"] + 1:
                found.append(progress)
    return found


def gpus_given(folder: Path) -> dict[str, str]:
    """Return what the last attempt at each run was told of its GPUs, by run: as its log says."""
    given = {}
    for path in (folder / "logs/dynamics").glob("*.log"):
        said = re.search(r"CUDA_VISIBLE_DEVICES=(\S+)", path.read_text(encoding="utf-8"))
        assert said is not None, path
        given[path.name.rsplit(".", 2)[0]] = said[1]
    return given


def attempts(cluster: Cluster, rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Return the SLURM jobs of each run in the order of their starts, from Snakemake's notes of what it submitted."""
    known = {name_of(job): job for job in cluster.jobs()}
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        found.setdefault(Path(row["output"]).name.rsplit(".", 2)[0], {})[row["job"]] = known[row["job"]]
    return {run: sorted(jobs.values(), key=lambda job: job["StartTime"]) for run, jobs in found.items()}


def name_of(job: dict[str, str]) -> str:
    """Return a job's number, that of an array's task as 12_3."""
    return f"{job['ArrayJobId']}_{job['ArrayTaskId']}" if "ArrayJobId" in job else job["JobId"]


def test_disturbed_runs_end_in_the_same_shards(undisturbed: Path, folder: Path, cluster: Cluster) -> None:
    """Memory, scancel, a lost node, a new controller, kill -9 of Snakemake: all in one call and its repetition."""
    site = folder / "partitions.yaml"
    site.write_text("partitions: {cpu: {max_runtime: 1d}, gpu: {max_runtime: 1d, max_gpu: 2}}\n")
    options = ["--config", "scale=tiny", "--", "dynamics"]
    environment = {"SNAKEMAKE_SLURM_PARTITIONS": str(site), "SBATCH_ACCOUNT": "ours"}
    notes = folder / ".snakemake/slurm_jobs.jsonl"

    def start(output: Path) -> subprocess.Popen[str]:
        with open(output, "w") as file:
            return start_snakemake(cluster, folder, *options, environment=environment, output=file)

    def job(number: str) -> dict[str, str]:
        return next(job for job in cluster.jobs() if job["JobId"] == number)

    def hit(others: set[str]) -> str:
        """Return the number of a job that is in the middle of a run, and none of some others."""
        found: list[str] = []

        def look() -> bool:
            found[:] = {progress["slurm_job"] for progress in in_training(folder, "tiny")} - others
            return bool(found)

        cluster.wait_until(look, "a run is in training", 180)
        return found[0]

    call = start(folder / "first.txt")
    try:
        cancelled = hit(set())
        cluster.call("scancel", name_of(job(cancelled)))
        stranded = hit({cancelled})
        node = job(stranded)["NodeList"]
        cluster.kill_node(node)
        cluster.restart_controller()
        os.killpg(call.pid, signal.SIGKILL)
        call.wait()
        submitted = [json.loads(line) for line in notes.read_text().splitlines()]

        call = start(folder / "second.txt")
        cluster.wait_until(lambda: cluster.node_states().get(node, "").startswith("down"), "the node is given up", 180)
        cluster.resume_node(node)
        code = call.wait(timeout=400)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(call.pid, signal.SIGKILL)
    output = (folder / "second.txt").read_text()
    assert code == 0, output

    assert shards(folder) == shards(undisturbed) and len(shards(folder)) == 4 + 3
    # No run was ever in two jobs at once, each was finished by one, and former jobs went on.
    submitted += [json.loads(line) for line in notes.read_text().splitlines()]
    runs = attempts(cluster, submitted)
    assert len(runs) == 4 + 3
    for jobs in runs.values():
        assert all(job["EndTime"] <= after["StartTime"] for job, after in itertools.pairwise(jobs)), jobs
        assert [job["JobState"] for job in jobs if job["JobState"] == "COMPLETED"] == [jobs[-1]["JobState"]]
    assert "of a former call, which goes on" in output
    assert job(cancelled)["JobState"] == "CANCELLED" and int(job(stranded)["Restarts"]) == 1
    run_of = {job["JobId"]: run for run, jobs in runs.items() for job in jobs}
    disturbed = run_of[cancelled], run_of[stranded]
    assert "goes on from step" in next((folder / "logs/dynamics").glob(f"{disturbed[0]}.*.log")).read_text()
    # Each array holds runs of one model; what is asked for follows the model and the attempt.
    tiny, roomy = ([jobs for run, jobs in runs.items() if f"-{model}-" in run] for model in ("tiny", "roomy"))
    for models_runs, partition, memory, minutes, gpu in (
        (tiny, "cpu", "1200M", "00:07:00", None),
        (roomy, "gpu", "500M", "00:09:00", "gres:gpu:1"),
    ):
        assert len({jobs[0]["ArrayJobId"] for jobs in models_runs}) == 1
        assert {(jobs[0]["MinMemoryNode"], jobs[0]["TimeLimit"]) for jobs in models_runs} == {(memory, minutes)}
        asked = {(job["Partition"], job["Account"], job.get("TresPerJob")) for jobs in models_runs for job in jobs}
        assert asked == {(partition, "ours", gpu)}
    assert all(len(jobs) == 1 for run, jobs in runs.items() if "-tiny-" in run and run not in disturbed)
    starved = [jobs for jobs in roomy if jobs[0]["JobState"] == "FAILED"]
    assert starved and all(jobs[-1]["MinMemoryNode"] in ("750M", "1000M") for jobs in starved)
    assert all(jobs[-1]["TimeLimit"] in ("00:18:00", "00:27:00") for jobs in starved)
    told = {"0", "1"} if cluster.names_gpus else {"None"}
    given = gpus_given(folder)
    assert given.keys() == runs.keys()
    for run, gpus in given.items():
        assert gpus in told if "-roomy-" in run else gpus == "None", (run, gpus)
    # Nothing is left to do, nor lying about.
    assert "Nothing to be done" in run_snakemake(cluster, folder, *options)
    assert list((folder / "data/scratch").iterdir()) == []


def test_refused_submission_is_an_error_and_no_hang(folder: Path, cluster: Cluster) -> None:
    options = ["--retries", "0", "--default-resources", "slurm_partition=nowhere", "--config", "scale=tiny"]
    with pytest.raises(RuntimeError, match=r"(?s)could not be submitted.*invalid partition.*A job failed"):
        run_snakemake(cluster, folder, *options, "--", "dynamics")
    assert cluster.jobs() == []


def test_clusters_side_by_side_do_not_meet(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        Cluster(tmp_path_factory.mktemp("a"), nodes=1) as a,
        Cluster(tmp_path_factory.mktemp("b"), nodes=2) as b,
    ):
        a.call("sbatch", "--output=/dev/null", "--wrap=true")
        a.wait_until(lambda: [job["JobState"] for job in a.jobs()] == ["COMPLETED"], "the job is done")
        assert list(a.node_states()) == ["n1"] and list(b.node_states()) == ["n1", "n2"] and b.jobs() == []
    assert a.node_states() == b.node_states() == {}
