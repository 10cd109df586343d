"""What an edit makes the two engines do: only what depends on it, and nothing where it changes nothing."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest
from dvc_repository import Repository, jobs, stages_run

pytestmark = pytest.mark.slow

NOTHING = "Nothing to be done"


def work(repository: Repository, engine: str) -> tuple[str, set[str]]:
    """Let an engine work, then see that the other has no job left; return what was said, and which shards are new."""
    before = repository.inodes("data/dynamics")
    said = repository.snakemake() if engine == "snakemake" else repository.dvc("repro")
    after = repository.inodes("data/dynamics")
    assert {file: after[file] for file in before} == before, "a file that stood was written again"
    recorded = repository.dvc("repro") if engine == "snakemake" else ""
    assert jobs(recorded) == {}, recorded
    assert repository.dvc("status").strip() == "Data and pipelines are up to date."
    assert NOTHING in repository.snakemake("-n")
    return said, {file for file in after.keys() - before.keys() if file.endswith(".parquet")}


def test_seed_of_one_run_trains_that_run(pulled: Repository) -> None:
    """Another seed for one held-out run, by Snakemake: that run trains, nothing is fitted, one group is simulated."""
    run = "instruction_tuning-tiny-mixture-04"
    pulled.edit(lambda params: params["scales"]["tiny"].update(seeds={run: 17}))
    said, new = work(pulled, "snakemake")
    assert len(new) == 1 and run in new.pop()
    assert "1 to train now" in said, said
    counts = jobs(said)
    assert counts.pop("draw_curricula") == 1
    scores = {"score_simulations": 1, "refit_simulators": 1, "judge_simulators": 1, "measure_costs": 1}
    scores |= {"write_table": 3, "write_figure": 3, "write_page": 1, "write_report": 1}
    assert counts == {"train_runs": 1, "simulate_runs": 1, **scores}, said
    assert "1 runs are new: changed:" in said and "draw_seed" in said, said


def test_one_run_more_trains_that_run(slim: Repository) -> None:
    """One held-out run more, by DVC: that run trains, nothing is fitted, one group is simulated."""
    slim.edit(lambda params: params["scales"]["tiny"]["scenarios"]["fine_tuning"]["runs"].update(held_out=2))
    said, new = work(slim, "dvc")
    assert len(new) == 1 and "fine_tuning-tiny-rte-05" in new.pop()
    assert "1 to train now" in said, said
    assert not re.search(r"\b(pretrain_model|fit_simulator)\b", said), said
    assert len(re.findall(r"^simulate_runs +1$", said, re.MULTILINE)) == 1, said


def test_one_model_more_trains_its_runs(pulled: Repository) -> None:
    """Another model size in one scenario, by Snakemake: it is made, its runs train, and only its group is fitted."""

    def add_model(params: dict[str, Any]) -> None:
        models = params["dynamics"]["models"]
        models["tinier"] = models["tiny"] | {"width": 16}
        params["scales"]["tiny"]["scenarios"]["fine_tuning"]["models"] = ["tiny", "tinier"]

    pulled.edit(add_model)
    said, new = work(pulled, "snakemake")
    assert len(new) == 4 and all("fine_tuning-tinier-rte" in file for file in new)
    counts = jobs(said)
    expected = {"pretrain_model": 1, "measure_kernels": 1, "fit_simulator": 5, "simulate_runs": 1}
    assert {name: counts[name] for name in expected} == expected, said
    assert "4 to train now" in said, said


def test_what_changes_nothing_runs_nothing(pulled: Repository) -> None:
    """Comments, another layout of the code, a touch of anything: no job in Snakemake, under DVC stage `plan` alone."""
    before = pulled.inodes("data/tasks", "data/dynamics", "results")
    package = pulled.path("workflow/gptfluence")
    pulled.run(sys.executable, "-m", "ruff", "format", "--quiet", "--line-length", "60", package)
    for file in package.rglob("*.py"):
        file.write_text(f"# A comment.\n\n\n{file.read_text(encoding='utf-8')}\n# Another one.\n", encoding="utf-8")
    params = pulled.path("params.yaml")
    params.write_text(f"# A comment.\n{params.read_text(encoding='utf-8')}", encoding="utf-8")
    assert pulled.git("diff", "--stat").count("|") > 20
    assert NOTHING in pulled.snakemake("-n")
    said = pulled.dvc("repro")
    assert stages_run(said) == ["plan"], said
    assert pulled.inodes("data/tasks", "data/dynamics", "results") == before

    for folder in ("workflow", "data", "results", "params.yaml", "dvc.yaml", "dvc.lock"):
        for file in [pulled.path(folder), *pulled.path(folder).rglob("*")]:
            os.utime(file)
    assert NOTHING in pulled.snakemake("-n")
    said = pulled.dvc("repro")
    assert stages_run(said) == [], said


def test_change_of_training_code_trains_all(pulled: Repository) -> None:
    """A real change of the code that trains is planned to train every run, and one line says why."""
    path = pulled.path("workflow/gptfluence/dynamics/train.py")
    path.write_text(f"{path.read_text(encoding='utf-8')}\nANOTHER_CONSTANT = 1\n", encoding="utf-8")
    said = pulled.snakemake("-n")
    assert jobs(said)["train_runs"] == 2, said
    reasons = [line for line in said.splitlines() if "code of dynamics/train.py" in line]
    assert reasons == ["8 runs are new: changed: code of dynamics/train.py (their former shards are kept)"], said
    status = pulled.dvc("status")
    assert "plan:" in status and "workflow/gptfluence" in status, status


def test_change_of_table_code_writes_that_table(pulled: Repository) -> None:
    """A real change of a table's code is planned to write that table alone, and the report that shows it."""
    path = pulled.path("workflow/gptfluence/paper/tables/table_2.py")
    path.write_text(f"{path.read_text(encoding='utf-8')}\nANOTHER_CONSTANT = 1\n", encoding="utf-8")
    said = pulled.snakemake("-n")
    assert jobs(said) == {"write_table": 1, "write_report": 1}, said
    assert "results/tables/table_2.csv: made under another configuration, or by other code" in said, said
