"""From a release, as it is downloaded, to the paper's tables and a figure."""

from __future__ import annotations

import csv
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pipeline import snakemake
from released import MIXED, MadeUp, make_release, make_run, scale, write_raw

pytestmark = pytest.mark.slow


def make_params(raw: dict[str, Any]) -> dict[str, Any]:
    """Keep few methods: one of a kind, and two that need a GPT."""
    methods = raw["simulators"]["methods"]
    kept = ("simfluence", "gptfluence", "gptfluence_gradients", "gradient_response")
    raw["simulators"]["methods"] = {name: methods[name] for name in kept}
    raw["scores"] |= {"variants": {}, "bootstrap_samples": 20}
    raw["scores"]["learning"]["methods"] = []
    raw["scores"]["unseen_tests"] |= {"methods": ["persistence", "gptfluence"], "elsewhere_variants": []}
    raw["scale"], raw["scales"]["released"] = "released", scale()
    return raw


def persistence_error(runs: list[MadeUp], task: str, metric: str, judged: list[int]) -> float:
    """Return the all-steps MSE of a constant prediction, by hand: the first value is that after the first update."""
    values = np.stack([run.values[task, metric].astype(np.float32).astype(float) for run in runs])
    return float(np.square(values[:, judged] - values[:, :1]).mean())


def judge_tables_of_unseen_data(root: Path, runs: list[MadeUp], single: MadeUp) -> None:
    """Compare what Tables 11 and 12 say of persistence on runs of single tasks with its error by hand."""
    by_task = {task: [r for r in runs if r.task == task and r.unseen] for task in ("rte", "webnlg")}
    by_task["webnlg"].append(single)
    held_out = {task: [r for r in runs if r.task == task and r.seed in (10, 11) and not r.unseen] for task in by_task}
    for table, prefix in ((11, ""), (12, "elsewhere_")):
        with open(root / f"results/tables/table_{table}.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["source"] == "ours"]
        assert {"persistence", "gptfluence", "mean_curve"} <= {row["method"] for row in rows}
        assert {row["metric"] for row in rows} == {"loss", "bleu", "rouge_l"}
        for task, metric in (("rte", "loss"), ("webnlg", "loss"), ("webnlg", "bleu")):
            found = {
                row["setting"]: float(row["value"]) for row in rows
                if (row["task"], row["metric"], row["method"], row["measure"])
                == (task, metric, "persistence", "all_steps_mse")
            }  # fmt: skip
            error = persistence_error(by_task[task], task, metric, [1, 2, 3, 4, 5])
            assert found[f"{prefix}unseen_train"] == pytest.approx(error, rel=1e-4)
            assert found[f"{prefix}unseen_both"] == pytest.approx(error, rel=1e-4)
            judged = [1, 2, 4, 5] if task == "rte" else [1, 2, 3, 4, 5]
            error = persistence_error(held_out[task], task, metric, judged)
            assert found[f"{prefix}unseen_test"] == pytest.approx(error, rel=1e-4)


def test_from_the_tar_to_tables_and_figures(tmp_path: Path, raw_params: dict[str, Any]) -> None:
    runs = make_release(tmp_path / "r", "raw")
    for run in runs:
        if (run.task, run.seed, run.unseen) == ("rte", 10, False):  # a held-out run has a gap
            (tmp_path / f"r/runs/{run.name}/loss_rte/loss_rte_checkpoint-4.out").unlink()
    # One more run on a task's unseen data, with the ids that the mixture has for them.
    single = make_run("webnlg", 1, unseen=True)
    single.batches = [[MIXED["webnlg"][1] + i for i in batch] for batch in single.batches]
    write_raw(tmp_path / "r", single, "runs/flan_ood")
    with tarfile.open(tmp_path / "gptdynamics.tar", "w") as tar:
        tar.add(tmp_path / "r", arcname=".")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(make_params(raw_params), sort_keys=False))
    wanted = [*(f"results/tables/table_{i}.md" for i in (1, 2, 3, 4, 10, 11, 12)), "results/figures/figure_2.png"]

    early = snakemake(tmp_path, *wanted)
    assert early.returncode != 0 and "Run: gptfluence import PATH" in early.stdout + early.stderr
    command = [sys.executable, "-m", "gptfluence", "import", "gptdynamics.tar", "--scale", "released"]
    imported = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert imported.returncode == 0, imported.stderr
    assert "2 fit, 1 validate, 2 held_out, 2 unseen" in imported.stdout
    assert "training examples 0-11 of webnlg are its 0-11" in imported.stdout
    assert "training examples 12-23 of webnlg are its 36-47" in imported.stdout
    assert "training ids moved by -24" in imported.stdout
    result = snakemake(tmp_path, *wanted)
    assert result.returncode == 0, result.stdout + result.stderr

    held_out = {task: [r for r in runs if r.task == task and r.seed in (10, 11)] for task in ("rte", "webnlg", "flan")}
    whole = [1, 2, 3, 4, 5]
    for table, kind, task, metric, judged in (
        (1, "flan", "rte", "loss", whole),
        (2, "rte", "rte", "loss", [1, 2, 4, 5]),  # all but the step that one of the runs lacks
        (2, "webnlg", "webnlg", "loss", whole),
        (3, "flan", "webnlg", "bleu", whole),
        (4, "webnlg", "webnlg", "bleu", whole),
    ):
        with open(tmp_path / f"results/tables/table_{table}.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["source"] == "ours"]
        (value,) = [
            float(row["value"]) for row in rows
            if (row["task"], row["metric"], row["method"], row["measure"])
            == (task, metric, "persistence", "all_steps_mse")
        ]  # fmt: skip
        assert value == pytest.approx(persistence_error(held_out[kind], task, metric, judged), rel=1e-4)
        assert {row["method"] for row in rows} == {
            "persistence", "global_ar1", "mean_curve", "simfluence", "gptfluence"
        }  # fmt: skip
        text = (tmp_path / f"results/tables/table_{table}.md").read_text()
        assert (
            "Left out, as the data set holds neither GPTs nor gradients: gptfluence_gradients, gradient_response"
            in text
        )
    judge_tables_of_unseen_data(tmp_path, runs, single)
    assert (tmp_path / "results/figures/figure_2.png").stat().st_size > 1000
    assert not (tmp_path / "data/models").exists()

    again = snakemake(tmp_path, "-n", *wanted)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr
