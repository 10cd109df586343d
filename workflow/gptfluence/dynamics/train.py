"""Train GPTs on their curricula and record, at every step from 0 to T, their metrics on every test example.

The trainer follows the paper (appendix A): AdamW, linear decay to zero without warm-up (unless a run has another
schedule), fp32. As in the usual trainer, the loss of a batch is the mean over its target tokens, and biases and norms
are not decayed.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gptfluence.curricula.draw import read_curriculum
from gptfluence.dynamics.checkpoints import Interruptions, Scratch, clear_scratch
from gptfluence.dynamics.collect import Trainee, train_gang
from gptfluence.dynamics.gangs import Gang, gang_width
from gptfluence.dynamics.models import pick_device
from gptfluence.dynamics.text_metrics import Scorer
from gptfluence.dynamics.trainer import Trainer
from gptfluence.errors import UserError
from gptfluence.identity import DYNAMICS_CODE, code_digest, module_digests
from gptfluence.io import file_digest, read_parquet, read_provenance, write_json, write_parquet

LOG = logging.getLogger("gptfluence")


def train_runs(spec: dict[str, Any], output: Path) -> None:
    """Train a gang of runs, one shard each, then list the shards in the manifest `output`.

    A run whose shard already stands is not trained again, and one that was stopped goes on from its checkpoint.

    Args:
        spec: see `design.Design.gang_spec`.
        output: the manifest; JSON: run_id -> shard's file name and digest.

    Raises:
        UserError: some runs failed; the shards of all others stand.
    """
    if spec["code"] != code_digest(*DYNAMICS_CODE):
        raise UserError(
            "the code that runs this job is not the code that it was planned with; call the gptfluence that belongs to "
            "this checkout, and snakemake again"
        )
    device = pick_device()
    LOG.info("host %s, %s, CUDA_VISIBLE_DEVICES=%s", platform.node(), device, os.environ.get("CUDA_VISIBLE_DEVICES"))
    todo = []
    for run in spec["runs"]:
        if _is_whole(run):
            LOG.info("run %s: its shard stands, kept", run["run_id"])
            clear_scratch(run)
        else:
            todo.append(run)
    if todo:
        _train_all(spec, todo, device)
    shards = {run["run_id"]: Path(run["shard"]) for run in spec["runs"]}
    write_json(output, {run_id: {"file": p.name, "digest": file_digest(p)} for run_id, p in shards.items()})


def _train_all(spec: dict[str, Any], runs: list[dict[str, Any]], device: torch.device) -> None:
    """Train what has no shard yet, as many runs together as fit into memory."""
    scored = any({"bleu", "rouge_l"} & set(metrics) for metrics in spec["metrics"].values())
    # The process that scores texts starts beside the loading of the model.
    with Scorer() if scored else contextlib.nullcontext() as scorer:
        job = _Job(spec, device, scorer)
        with Interruptions() as interruptions:
            job.train(runs, interruptions)
    if job.failed:
        reasons = [f"run {run_id}: {reason}" for run_id, reason in job.failed.items()]
        if len(runs) > 1:
            others = ", the others are done" if len(job.failed) < len(runs) else ""
            reasons = [f"{len(job.failed)} of {len(runs)} runs failed{others}:", *reasons]
        raise UserError("\n  ".join(reasons))


class _Job:
    """What trains the runs of one model, gang by gang.

    Attributes:
        failed: why, by run.
    """

    def __init__(self, spec: dict[str, Any], device: torch.device, scorer: Scorer | None) -> None:
        self._spec, self._device, self._scorer = spec, device, scorer
        self._trainer = Trainer(spec, device)
        self._modules, self._versions = module_digests(*DYNAMICS_CODE), _versions()
        self.failed: dict[str, str] = {}
        self._scratches: dict[str, Scratch] = {}

    def train(self, runs: Sequence[dict[str, Any]], interruptions: Interruptions) -> None:
        """Train runs to their shards; one that fails costs none of the others."""
        width = gang_width(self._trainer.base, self._memory_gb()) if self._trainer.joined else 1
        for first in range(0, len(runs), width):
            gang = runs[first : first + width]
            last = first + width >= len(runs)
            alone: Sequence[dict[str, Any]] = ()
            try:
                self._train_gang(gang, interruptions, last)
            except Exception as error:  # whatever it is, the runs that are not to blame need not pay for it
                if len(gang) == 1:
                    self._fail(gang[0], error, interruptions)
                else:
                    alone = gang
                    LOG.info("%d runs failed together, so each is trained by itself: %s",
                             len(gang), _reason(error), exc_info=True)  # fmt: skip
            # Not before the error is gone, and with it the models that it and the scratches held.
            self._forget()
            for run in alone:
                self._train_alone(run, interruptions)
            interruptions.check()

    def _train_alone(self, run: dict[str, Any], interruptions: Interruptions) -> None:
        if run["run_id"] in self.failed or Path(run["shard"]).exists():
            return
        try:
            self._train_gang([run], interruptions, last=False)
        except Exception as error:
            self._fail(run, error, interruptions)
        self._forget()
        interruptions.check()

    def _forget(self) -> None:
        """Let go of the runs that were trained, and of all that they stood in."""
        self._scratches.clear()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _train_gang(self, runs: Sequence[dict[str, Any]], interruptions: Interruptions, last: bool) -> None:
        trainees = []
        for run in runs:
            try:
                curriculum = read_curriculum(run, run["curriculum"])
            except UserError as error:
                self._fail(run, error, interruptions)
                continue
            # The very last run may change the loaded weights themselves: big models then stand in memory once.
            base = self._trainer.base
            training = self._trainer.start(run, base if last and len(runs) == 1 else copy.deepcopy(base))
            scratch = self._scratches[run["run_id"]] = self._scratch(run, interruptions)
            scratch.start(training)
            trainees.append(Trainee(run, curriculum, training, scratch))
        if not trainees:
            return
        began = time.monotonic()
        first_steps = {trainee.run["run_id"]: trainee.training.step for trainee in trainees}

        def finish(trainee: Trainee) -> None:
            run, at = trainee.run, trainee.measured_steps()
            losses = trainee.training.losses[at]
            if not np.isfinite(losses).all():
                LOG.warning("run %s: some losses are not finite; its learning rate may be too high", run["run_id"])
            mean = losses.mean(axis=1)
            steps = run["steps"] - first_steps[run["run_id"]]
            beside = f" beside {len(trainees) - 1} others" if len(trainees) > 1 else ""
            LOG.info("run %s: done, %d steps in %.1f s%s, mean test loss %.3f -> %.3f",
                     run["run_id"], steps, time.monotonic() - began, beside, mean[0], mean[-1])  # fmt: skip
            try:
                with trainee.scratch.finishing():
                    table = dynamics_table(self._trainer.inputs.tests, at, losses, trainee.training.texts[:, at])
                    write_parquet(run["shard"], table, self._provenance(run))
            except UserError as error:
                self._fail(run, error, interruptions)

        gang = Gang([trainee.training.model for trainee in trainees], self._trainer.joined)
        train_gang(gang, trainees, self._trainer.inputs, self._trainer.settings, self._scorer, interruptions, finish)

    def _scratch(self, run: dict[str, Any], interruptions: Interruptions) -> Scratch:
        made_by = {"code": self._spec["code"], "device": self._device.type, "versions": self._versions}
        return Scratch(run, made_by, self._spec["checkpoint_minutes"], interruptions)

    def _fail(self, run: dict[str, Any], error: Exception, interruptions: Interruptions) -> None:
        self.failed[run["run_id"]] = reason = _reason(error)
        LOG.info("run %s: failed: %s", run["run_id"], reason, exc_info=not isinstance(error, UserError))
        (self._scratches.get(run["run_id"]) or self._scratch(run, interruptions)).fail(reason)

    def _memory_gb(self) -> float:
        """Return how much memory there is for all runs: the GPU's, or what the job has said that it needs."""
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info()[0] / 1e9
        return self._spec["memory_gb"]

    def _provenance(self, run: dict[str, Any]) -> dict[str, Any]:
        # Where the run stands in the plan and on disk.
        own = ("gang", "group", "split", "seed", "scheduled", "curriculum", "shard")
        return {
            "run": {key: value for key, value in run.items() if key not in own},
            "hash": run["hash"],
            **{key: self._spec[key] for key in ("model", "optimizer", "generation", "precision", "compile", "code")},
            "tasks": {task: Path(path).name for task, path in self._spec["tasks"].items()},
            "modules": self._modules,
            "truncated_examples": self._trainer.inputs.truncated_of(run["pool"]),
            "device": self._device.type,
            "versions": self._versions,
        }


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "tokenizers", "peft", "sacrebleu", "rouge-score")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _reason(error: Exception) -> str:
    """Say in one line why a run failed."""
    if isinstance(error, UserError):
        return str(error)
    first, *_ = [*str(error).splitlines(), ""]
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return (
            f"out of memory ({first}). Lower dynamics.evaluation_tokens or dynamics.generation.batch_tokens, or give "
            "the model a larger machine."
        )
    return f"{type(error).__name__}: {first} (the log says where)"


def dynamics_table(
    tests: Sequence[tuple[str, int]], at: Sequence[int], losses: np.ndarray, texts: np.ndarray
) -> pa.Table:
    """Return a run's dynamics: step, task, example, loss, bleu, rouge_l.

    Args:
        tests: (task, example) of each test example.
        at: the steps that were measured, [measured].
        losses: [measured, tests].
        texts: [2, measured, tests]; NaN where there is no text.
    """
    steps, size = losses.shape
    tasks = list(dict.fromkeys(task for task, _ in tests))
    task = np.array([tasks.index(name) for name, _ in tests], np.int32)
    example = np.array([number for _, number in tests], np.int32)
    return pa.table(
        {
            "step": pa.array(np.repeat(np.array(at, np.int32), size)),
            "task": pa.DictionaryArray.from_arrays(pa.array(np.tile(task, steps)), tasks),
            "example": pa.array(np.tile(example, steps)),
            "loss": pa.array(losses.ravel()),
            "bleu": pa.array(texts[0].ravel(), from_pandas=True),
            "rouge_l": pa.array(texts[1].ravel(), from_pandas=True),
        }
    )


def _is_whole(run: dict[str, Any]) -> bool:
    """Whether the run's shard stands whole; a damaged one is named and made anew."""
    path = Path(run["shard"])
    if not path.exists():
        return False
    try:
        # Reading the columns, not only the footer, finds a file whose middle is damaged.
        whole = read_provenance(path)["hash"] == run["hash"] and read_parquet(path).num_rows > 0
    except (UserError, KeyError, json.JSONDecodeError) as error:
        LOG.warning("%s", error)
        whole = False
    if not whole:
        LOG.warning("run %s: its shard is damaged, training it again", run["run_id"])
        path.unlink(missing_ok=True)
    return whole
