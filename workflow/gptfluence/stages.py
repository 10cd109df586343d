"""The stages of dvc.yaml: DVC decides by content which of them to run, Snakemake runs what of them is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from gptfluence.adopt import FOLDERS
from gptfluence.arrays import read_arrays
from gptfluence.design import FIGURES, TABLES, Design
from gptfluence.errors import UserError
from gptfluence.io import check_digests, write_text
from gptfluence.standing import planned_files, survey

PLAN_FOLDER = Path("data/plan")
LOCAL_PROFILE = "workflow/profiles/local"

_RULES = {
    "tasks": ("prepare_task", "tasks"),
    "curricula": ("draw_curricula", "curricula"),
    "dynamics": ("pretrain_model", "train_runs", "dynamics"),
    "features": ("encode_examples", "sketch_gradients", "features"),
    "attribution": ("attribute_examples", "measure_kernels", "replay_runs", "attribution"),
    "simulators": ("fit_simulator", "simulate_runs", "simulators"),
    "refits": ("refit_simulators", "refits"),
    "mislabels": ("rank_mislabels", "correct_labels", "retrain_corrected", "mislabels"),
    "choices": ("choose_data", "write_chosen", "retrain_chosen", "choices"),
    "scores": ("score_simulations",),
    "scores_attribution": ("judge_attribution",),
    "scores_simulators": ("judge_simulators",),
    "scores_mislabels": ("judge_mislabels",),
    "scores_choices": ("judge_choices",),
    "scores_convergence": ("judge_convergence",),
    "scores_costs": ("measure_costs",),
    **{table: ("write_table",) for table in TABLES},
    **{figure: ("write_figure",) for figure in FIGURES},
    "page": ("write_page",),
    "report": ("write_report",),
}
"""What a stage may run: its own rules, so that what was not pulled is an error and never trained anew unasked."""

_FOLDERS = {
    "dynamics": ("data/models", "data/dynamics"),
    "features": ("results/features",),
    "attribution": ("results/attribution",),
    "simulators": ("results/simulators", "results/simulations"),
    "refits": ("results/refits",),
    "mislabels": ("data/mislabels",),
    "choices": ("data/choices",),
}
"""Outputs in dvc.yaml that a plan may leave empty: no model of its own, no features, no mislabelled or chosen data."""


def write_plan(design: Design) -> None:
    """Write, for each stage, the names of its files: they hold the digests of all that the files depend on.

    DVC's stages depend on these instead of the code and params.yaml, so a comment or a reformat changes nothing.
    """
    for stage in design.stages:
        write_text(PLAN_FOLDER / f"{stage}.json", planned_files(design, stage))


def run_stage(design: Design, stage: str) -> None:
    """Make what of a stage does not stand; does not return if there is something to make.

    Raises:
        UserError: no such stage, or data/plan is that of another configuration.
    """
    if stage not in _RULES:
        raise UserError(f"no stage '{stage}'; there are {', '.join(_RULES)}")
    plan = PLAN_FOLDER / f"{stage}.json"
    if not plan.is_file() or plan.read_text(encoding="utf-8") != planned_files(design, stage):
        raise UserError(f"{plan}: not the plan of params.yaml as it is now. Run dvc repro, which plans anew first.")
    for folder in _FOLDERS.get(stage, ()):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for file in drop_damaged(design.stages[stage]):
        print(f"{file}: damaged, to be made again")
    if survey(design).stands(stage):
        print(f"{stage}: all {len(design.stages[stage])} files stand")
        return
    _exec_snakemake(design, stage)


def drop_damaged(files: list[str]) -> list[str]:
    """Delete files that are not what was written, so that DVC does not record them; return their paths.

    Of shards their manifests tell, and of files with plain names their provenance; of the others, they themselves.
    """
    damaged = []
    for file in map(Path, files):
        try:
            if file.is_dir():
                check_digests(file)
            elif file.suffix == ".safetensors" and file.exists():
                read_arrays(file, "arrays")
            elif file.suffix == ".parquet" and file.exists() and file.parent in _PARQUET_FOLDERS:
                for _ in pq.ParquetFile(file, page_checksum_verification=True).iter_batches():
                    pass
        except (UserError, pa.ArrowException, OSError):
            damaged.append(str(file))
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    return damaged


_PARQUET_FOLDERS = {Path(folder) for folder in FOLDERS if not folder.endswith("dynamics")}


def _exec_snakemake(design: Design, stage: str) -> NoReturn:
    profile = os.environ.get("SNAKEMAKE_PROFILE", LOCAL_PROFILE)
    # A folder's stage is a target; what has plain names is asked for by its first file.
    target = stage if stage in _FOLDERS or stage in ("tasks", "curricula") else design.stages[stage][0]
    command = [sys.executable, "-m", "snakemake", "--profile", profile, "--config", f"scale={design.params.scale}"]
    command += ["--allowed-rules", *_RULES[stage], "--", target]
    # Not a child process: a wrapper that ends first would leave Snakemake and its lock behind.
    sys.stdout.flush()
    os.environ["GPTFLUENCE_STAGE"] = stage  # see `refuse_hard_links`
    os.execv(sys.executable, command)
