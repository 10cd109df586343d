"""What the engine costs beside the training: short runs on a throw-away SLURM cluster, many in a job or one a job.

Prints one JSON object a line. `ours` packs the runs of a task into gangs (`runs_per_job`), `other` gives each run a job
of its own; `ratio` is other / ours. The runs are the same, and so are their shards, which is checked.

What a run costs beside its training is, with n runs in a job, `job / n + run`: a job starts two Snakemakes and loads
Python, libraries, data and model once, and a run takes what its shard takes to be written. Both constants follow from
the two measurements; the last line puts them into

    hours = (ceil(352 / n) * job + 352 * run) / 3600

for the paper's 352 runs: hours of allocated processors or GPUs in which nothing is trained, on this machine.

Needs what the tests of the cluster need: apt-get install slurmctld slurmd slurm-client munge.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import yaml
from cluster import Cluster, missing_packages, run_snakemake
from pipeline import ROOT, make_tiny, snakemake

RUNS = 8
PAPER_RUNS = 352
CPUS = 2


def make_plan(runs_per_job: int) -> dict[str, Any]:
    """Return params of `RUNS` runs of one tiny model on one task."""
    raw = make_tiny(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    plan = raw["scales"]["tiny"]
    plan["unseen_pool"] = 0
    plan["scenarios"].pop("instruction_tuning")
    plan["scenarios"]["fine_tuning"]["runs"] = {"fit": RUNS - 2, "validate": 1, "held_out": 1, "unseen": 0}
    raw["dynamics"]["models"]["tiny"] |= {"runs_per_job": runs_per_job, "mem_gb": 1.5, "runtime_min": 5}
    return raw


def measure(cluster: Cluster, folder: Path, runs_per_job: int) -> dict[str, float]:
    """Train the runs from scratch, given their tasks and model; return seconds.

    Returns:
        allocated: of all jobs, from their starts to their ends; trained: within the runs' training; wall: from the
        call of Snakemake to its end.
    """
    (folder / "params.yaml").write_text(yaml.safe_dump(make_plan(runs_per_job), sort_keys=False), encoding="utf-8")
    prepared = snakemake(folder, "--omit-from", "train_runs", "--", "dynamics")
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    before = {job["JobId"] for job in cluster.jobs()}
    began = time.perf_counter()
    run_snakemake(cluster, folder, "--config", "scale=tiny", "--", "dynamics")
    wall = time.perf_counter() - began
    jobs = [job for job in cluster.jobs() if job["JobId"] not in before]
    logs = "".join(log.read_text(encoding="utf-8") for log in (folder / "logs/dynamics").glob("fine_tuning*.log"))
    trained = [float(seconds) for seconds in re.findall(r"done, \d+ steps in ([\d.]+) s", logs)]
    assert len(trained) == RUNS and len(jobs) == math.ceil(RUNS / runs_per_job), (logs, jobs)
    times = [[datetime.fromisoformat(job[key]).timestamp() for key in ("StartTime", "EndTime")] for job in jobs]
    return {"allocated": sum(end - start for start, end in times), "trained": sum(trained), "wall": wall}


def main() -> None:
    """Measure both and print."""
    if why := missing_packages():
        sys.exit(why)
    packed = RUNS // CPUS
    found, shards = {}, {}
    with tempfile.TemporaryDirectory() as name, Cluster(Path(name) / "slurm", nodes=1, cpus=CPUS) as cluster:
        for runs_per_job in (packed, 1):
            folder = Path(name) / f"{runs_per_job}"
            folder.mkdir()
            found[runs_per_job] = measure(cluster, folder, runs_per_job)
            shards[runs_per_job] = {file.name: file.read_bytes() for file in folder.glob("data/dynamics/*.parquet")}
    assert shards[packed] == shards[1] and len(shards[1]) == RUNS

    def tell(name: str, ours: float, other: float, unit: str) -> None:
        row = {"name": name, "ours": round(ours, 3), "other": round(other, 3), "ratio": round(other / ours, 2)}
        print(json.dumps(row | {"unit": unit, "other_is": "one run a job", "runs_per_job": packed, "runs": RUNS}))

    beside = {n: (seconds["allocated"] - seconds["trained"]) / RUNS for n, seconds in found.items()}
    tell("engine: allocated and not trained, a run", beside[packed], beside[1], "s")
    walls = {n: (seconds["wall"] - seconds["trained"] / CPUS) / RUNS for n, seconds in found.items()}
    tell(f"engine: waited beside training on {CPUS} CPUs, a run", walls[packed], walls[1], "s")
    job = (beside[1] - beside[packed]) / (1 - 1 / packed)
    run = max(0.0, beside[1] - job)
    hours = {n: (math.ceil(PAPER_RUNS / n) * job + PAPER_RUNS * run) / 3600 for n in (packed, 1)}
    tell(f"engine: {PAPER_RUNS} runs at {job:.1f} s a job and {run:.1f} s a run", hours[packed], hours[1], "h")


if __name__ == "__main__":
    main()
