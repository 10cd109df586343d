"""Snakemake's SLURM executor, made fit for arrays of runs of several sizes, and for being killed.

As it comes (2.8), an array gives all its tasks the resources of the first, and each task the first one's outputs to
answer for; and what a killed Snakemake left in the queue is submitted a second time by the next call.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import snakemake_executor_plugin_slurm as plugin
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from gptfluence.io import digest, write_text

_RECORD = Path(".snakemake/slurm_jobs.jsonl")
"""What was submitted from this folder, a line each: {"output": its first output, "job": SLURM's id, "log": its log}."""

_NOT_ASKED = ("tmpdir", "disk", "disk_mb", "disk_mib")
"""Resources that SLURM is not asked for: jobs that differ in them alone are alike."""


def register() -> None:
    """Make the class below what `--executor slurm` and profiles with `executor: slurm` use."""
    ExecutorPluginRegistry().get_plugin("slurm").executor = Executor
    # A task of an array is known as, say, 12_3; its raw id is another one.
    ask = plugin.query_job_status_sacct
    plugin.query_job_status_sacct = lambda name: ask(name).replace("JobIdRaw", "JobID")


class Executor(plugin.Executor):
    """Arrays of equal jobs, each task a job like any other; and no job twice in the queue."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # SLURM's name for all jobs of this folder; their states are asked for by it, also those of former calls.
        self.run_uuid = f"gptfluence-{digest(os.getcwd())}"
        self._former: dict[str, dict[str, str]] | None = None

    def run_jobs(self, jobs: list[Any]) -> None:
        """Submit what is ready: jobs of one rule that ask for the same as an array, others alone.

        A job that a former call left in the queue is not submitted but waited for.
        """
        if self._former is None:
            self._former = self._find_former()
        alike: dict[tuple[Any, ...], list[Any]] = {}
        for job in jobs:
            former = None if job.is_group() else self._former.pop(job.output[0], None)
            if former is None:
                alike.setdefault(self._kind(job), []).append(job)
            else:
                self._take_over(job, former)
        for same in alike.values():
            for i in range(0, len(same), self.max_array_size):
                array = same[i : i + self.max_array_size]
                if len(array) > 1:
                    self._submit_array_jobs(array)
                else:
                    self._submit_job(array[0])

    def run_array_jobs(self, jobs: list[Any]) -> None:
        """Submit jobs that ask for the same with one call; task i runs what job i would run if submitted alone."""
        try:
            number, log = self._submit_array(jobs)
        except Exception as error:  # in a thread of its own, where nobody else would hear of it
            for job in jobs:
                self.report_job_error(SubmittedJobInfo(job), f"The array could not be submitted: {error} ")
            return
        self.logger.info(f"{len(jobs)} jobs of {jobs[0].rule.name} have been submitted as SLURM array {number}.")
        for i, job in enumerate(jobs, start=1):
            aux = {"slurm_logfile": log.with_name(f"{number}_{i}.log")}
            self.report_job_submission(SubmittedJobInfo(job, external_jobid=f"{number}_{i}", aux=aux))

    def _submit_array(self, jobs: list[Any]) -> tuple[str, Path]:
        """Return SLURM's id of the array, and the pattern of its tasks' logs."""
        first, name = jobs[0], jobs[0].rule.name
        log = self.slurm_logdir / f"rule_{name}" / "%A_%a.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        tasks = "".join(f"{i}) {self.format_job_exec(job)} ;;\n" for i, job in enumerate(jobs, start=1))
        asked = {
            "run_uuid": self.run_uuid,
            "slurm_logfile": log,
            "comment_str": f"rule_{name}",
            "account": next(self.get_account_arg(first)),
            "partition": self.get_partition_arg(first),
            "workdir": self.workflow.workdir_init,
        }
        call = plugin.get_submit_command(first, asked, self.workflow.executor_settings, self._failed_nodes)
        call += f"{plugin.set_gres_string(first)} --array=1-{len(jobs)} /dev/stdin"
        script = f"#!/bin/sh\ncase $SLURM_ARRAY_TASK_ID in\n{tasks}esac\n"
        result = subprocess.run(shlex.split(call), input=script, capture_output=True, text=True, check=False)
        number = result.stdout.strip().split(";")[0]
        if result.returncode or not number.isdigit():
            raise WorkflowError(f"{call}: {result.stderr.strip() or result.stdout.strip()}")
        return number, log

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Note the SLURM job's id: Snakemake itself forgets it as soon as the job starts."""
        if not job_info.job.is_group():
            row = {"output": job_info.job.output[0], "job": job_info.external_jobid}
            with open(_RECORD, "a", encoding="utf-8") as file:
                file.write(json.dumps(row | {"log": str(job_info.aux["slurm_logfile"])}) + "\n")
        super().report_job_submission(job_info, register_job)

    def _kind(self, job: Any) -> tuple[Any, ...]:
        """Jobs of a kind can be one array; so jobs in their second attempt are one only if that asks for no more."""
        if job.is_group() or not self.array_jobs & {"all", job.rule.name}:
            return (job.jobid,)
        asked = sorted((name, str(value)) for name, value in job.resources.items() if name not in _NOT_ASKED)
        return (job.rule.name, job.threads, *asked)

    def _find_former(self) -> dict[str, dict[str, str]]:
        """Return the record of each job of a former call that still waits or runs, by its output."""
        if not _RECORD.exists():
            return {}
        command = ["squeue", "--me", "--array", "--noheader", "--states=PENDING,RUNNING,SUSPENDED", "--format=%i"]
        result = subprocess.run([*command, f"--name={self.run_uuid}"], capture_output=True, text=True, check=False)
        if result.returncode:
            raise WorkflowError(f"squeue does not say which jobs of a former call still run: {result.stderr.strip()}")
        alive = set(result.stdout.split())
        lines = _RECORD.read_text(encoding="utf-8").splitlines()
        # A line that a kill cut short has no closing brace.
        rows = [row for line in lines if line.endswith("}") and (row := json.loads(line))["job"] in alive]
        write_text(_RECORD, "".join(json.dumps(row) + "\n" for row in rows))
        known = {str(file) for job in self.workflow.dag.jobs for file in job.output}
        if lost := [row["job"] for row in rows if row["output"] not in known]:
            self.logger.warning(f"Jobs of a former call make files outside of this plan: scancel {' '.join(lost)}")
        return {row["output"]: row for row in rows}

    def _take_over(self, job: Any, former: dict[str, str]) -> None:
        self.run_job_pre(job)
        self.logger.info(f"Job {job.jobid} is SLURM job {former['job']} of a former call, which goes on.")
        aux = {"slurm_logfile": Path(former["log"])}
        super().report_job_submission(SubmittedJobInfo(job, external_jobid=former["job"], aux=aux))
