"""Train GPTs on their curricula and record, at every step from 0 to T, their metrics on every test example.

The trainer follows the paper (appendix A): AdamW, linear decay to zero without warm-up, fp32. As in the usual trainer,
the loss of a batch is the mean over its target tokens, and biases and norms are not decayed.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gptfluence.curricula.draw import read_curriculum
from gptfluence.dynamics.batches import (
    Batch,
    Encoded,
    batches_by_length,
    encode,
    encode_prompt,
    make_batch,
    target_losses,
)
from gptfluence.dynamics.checkpoints import Interruptions, Scratch, Training, clear_scratch
from gptfluence.dynamics.generate import TextMetrics, decode, generate, sampling_numbers
from gptfluence.dynamics.models import add_adapters, context_length, load_model, pick_device
from gptfluence.errors import UserError
from gptfluence.identity import DYNAMICS_CODE, code_digest, module_digests
from gptfluence.io import file_digest, read_parquet, read_provenance, write_json, write_parquet

LOG = logging.getLogger("gptfluence")

# A generated text may be this many tokens longer than the longest reference; more could only lower its scores.
_SPARE_TOKENS = 8


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
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    torch.use_deterministic_algorithms(True, warn_only=True)
    base, tokenizer = load_model(spec["model"], device)
    data = _Data(spec, tokenizer, context_length(spec["model"], base), device)
    made_by = {"code": spec["code"], "device": device.type, "versions": _versions()}
    failed: dict[str, str] = {}
    with Interruptions() as interruptions:
        for i, run in enumerate(runs):
            scratch = Scratch(run, made_by, spec["checkpoint_minutes"], interruptions)
            try:
                # The last run may change the loaded weights themselves: big models then stand in memory once.
                _train_to_shard(run, base, data, spec, scratch, keep_base=i < len(runs) - 1)
            except Exception as error:  # whatever it is, it is this run's: the others need not pay for it
                failed[run["run_id"]] = reason = _reason(error)
                LOG.info("run %s: failed: %s", run["run_id"], reason, exc_info=not isinstance(error, UserError))
                scratch.fail(reason)
            interruptions.check()
    if failed:
        reasons = [f"run {run_id}: {reason}" for run_id, reason in failed.items()]
        if len(runs) > 1:
            others = ", the others are done" if len(failed) < len(runs) else ""
            reasons = [f"{len(failed)} of {len(runs)} runs failed{others}:", *reasons]
        raise UserError("\n  ".join(reasons))


def _train_to_shard(
    run: dict[str, Any],
    base: PreTrainedModel,
    data: _Data,
    spec: dict[str, Any],
    scratch: Scratch,
    keep_base: bool,
) -> None:
    model = copy.deepcopy(base) if keep_base else base
    torch.manual_seed(run["init_seed"])
    dynamics = train_run(run, add_adapters(model, spec["model"]["lora"]), data, spec, scratch)
    own = ("gang", "group", "split", "seed", "curriculum", "shard")  # where the run stands in the plan and on the disk
    provenance = {
        "run": {key: value for key, value in run.items() if key not in own},
        "hash": run["hash"],
        "model": spec["model"],
        "tasks": {task: Path(path).name for task, path in spec["tasks"].items()},
        "optimizer": spec["optimizer"],
        "generation": spec["generation"],
        "code": spec["code"],
        "modules": module_digests(*DYNAMICS_CODE),
        "truncated_examples": data.truncated,
        "device": data.device.type,
        "versions": _versions(),
    }
    with scratch.finishing():
        write_parquet(run["shard"], dynamics, provenance)


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "tokenizers", "sacrebleu", "rouge-score")
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


@dataclass(frozen=True)
class _Text:
    """A test example whose continuation is sampled."""

    row: int  # among the run's test examples
    task: str
    example: int
    prompt: tuple[int, ...]
    references: tuple[str, ...]
    metrics: tuple[str, ...]
    limit: int  # most new tokens


class _Data:
    """Everything the runs of a gang share: read and tokenised once."""

    def __init__(
        self, spec: dict[str, Any], tokenizer: PreTrainedTokenizerBase, context: int, device: torch.device
    ) -> None:
        run = spec["runs"][0]
        form = "plain" if run["scenario"] == "fine_tuning" else "instruction"
        self.tokenizer, self.device = tokenizer, device
        self.pad = tokenizer.eos_token_id
        self.train: dict[tuple[str, int], Encoded] = {}
        self.tests: list[tuple[str, int]] = []  # (task, example), in the order of the run's test tasks
        texts: list[_Text] = []
        encoded_tests: list[Encoded] = []
        rows = {task: _read_task(spec["tasks"][task], form).to_pylist() for task in run["train_tasks"]}
        drawn_from = {other["pool"] for other in spec["runs"]}
        for task in run["train_tasks"]:
            for row in rows[task]:
                if row["part"] in drawn_from:
                    self.train[task, row["example"]] = encode(tokenizer, row["prompt"], row["target"], context)
        for task in run["test_tasks"]:
            tests = [row for row in rows[task] if row["part"] == "test"]
            encoded = [encode(tokenizer, row["prompt"], row["target"], context) for row in tests]
            metrics = tuple(spec["metrics"][task])
            if "bleu" in metrics or "rouge_l" in metrics:
                limit = self._limit(tests, min(spec["generation"]["max_new_tokens"], context // 2))
                texts += [
                    _Text(
                        row=len(encoded_tests) + i,
                        task=task,
                        example=row["example"],
                        prompt=encode_prompt(tokenizer, row["prompt"])[-(context - limit) :],
                        references=tuple(row["references"]),
                        metrics=metrics,
                        limit=limit,
                    )
                    for i, row in enumerate(tests)
                ]
            encoded_tests += encoded
            self.tests += [(task, row["example"]) for row in tests]
        self.scorer = TextMetrics() if texts else None
        self.text_batches = _text_batches(texts, spec["generation"]["batch_tokens"])
        examples = [*self.train.values(), *encoded_tests]
        self.truncated = sum(example.truncated for example in examples)
        if self.truncated:
            LOG.warning(
                "%s: %d of %d examples are longer than the context of %d tokens: truncated",
                run["group"],
                self.truncated,
                len(examples),
                context,
            )
        self.batches = batches_by_length(encoded_tests, spec["evaluation_tokens"], self.pad, device)
        self.size = len(encoded_tests)

    def _limit(self, tests: list[dict[str, Any]], most: int) -> int:
        references = [reference for row in tests for reference in row["references"]]
        lengths = [len(ids) for ids in self.tokenizer(references, add_special_tokens=False)["input_ids"]]
        return min(most, max(lengths) + _SPARE_TOKENS)


def _text_batches(texts: list[_Text], budget: int) -> list[list[_Text]]:
    """Cut the texts of all tasks into batches of like prompts: a decoding step costs little more for many.

    Args:
        budget: most tokens of a batch, prompts padded to the longest and what may be generated.
    """
    batches: list[list[_Text]] = []
    for text in sorted(texts, key=lambda text: (len(text.prompt), text.row)):
        grown = [*batches[-1], text] if batches else [text]
        if batches and len(grown) * (len(text.prompt) + max(t.limit for t in grown)) <= budget:
            batches[-1] = grown
        else:
            batches.append([text])
    return batches


def _read_task(path: str, form: str) -> pa.Table:
    table = read_parquet(path, columns=["part", "example", "format", "prompt", "target", "references"])
    return table.filter(pc.equal(table["format"], form))


def train_run(
    run: dict[str, Any], model: torch.nn.Module, data: _Data, spec: dict[str, Any], scratch: Scratch
) -> pa.Table:
    """Train one run and return its dynamics: step, task, example, loss, bleu, rouge_l.

    Args:
        run: the run's row.
        model: the GPT before its first update; it is changed.
        scratch: where the run's checkpoint is, if it was begun before, and where checkpoints are kept.
    """
    curriculum = read_curriculum(run, run["curriculum"])
    optimizer, schedule = make_optimizer(model, run["learning_rate"], run["steps"], spec["optimizer"])
    steps = run["steps"]
    losses = np.empty((steps + 1, data.size), np.float32)
    texts = np.full((2, steps + 1, data.size), np.nan, np.float32)
    training = Training(model, optimizer, schedule, losses, texts)
    scratch.start(training)
    first = training.step
    began = told = time.monotonic()
    try:
        for step in range(first, steps + 1):
            # Up to the update nothing changes but what is measured: an interrupted step is measured anew.
            model.eval()
            losses[step] = evaluate(model, data.batches, data.size)
            texts[:, step] = _measure_texts(model, data, run["generation_seed"], step, spec["generation"])
            if step < steps:
                rows = [data.train[key] for key in curriculum[step]]
                model.train()
                with scratch.whole_update():
                    update(model, make_batch(rows, range(len(rows)), data.pad, data.device), optimizer, schedule)
            scratch.between_steps()
            if time.monotonic() - told > 10 and step > first:
                told = time.monotonic()
                pace = (told - began) / (step - first)
                LOG.info("run %s: step %d of %d, %.2f s a step", run["run_id"], step, steps, pace)
    except (KeyboardInterrupt, SystemExit):
        scratch.stop()
        raise
    if not np.isfinite(losses).all():
        LOG.warning("run %s: some losses are not finite; its learning rate may be too high", run["run_id"])
    mean = losses.mean(axis=1)
    LOG.info("run %s: done, %d steps in %.1f s, mean test loss %.3f -> %.3f",
             run["run_id"], steps - first, time.monotonic() - began, mean[0], mean[-1])  # fmt: skip
    return _dynamics_table(data.tests, losses, texts)


def make_optimizer(
    model: torch.nn.Module, learning_rate: float, steps: int, settings: dict[str, float]
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW and a linear decay: update t of T (from 0) has the rate ``learning_rate * (1 - t / T)``."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for _, p in trained if p.ndim >= 2]
    others = [p for _, p in trained if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["epsilon"],
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)


def update(
    model: torch.nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Do one optimiser step on the mean loss over the batch's target tokens."""
    loss = target_losses(model, batch).sum() / (batch.labels >= 0).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()


@torch.inference_mode()
def evaluate(model: torch.nn.Module, batches: Sequence[Batch], size: int) -> np.ndarray:
    """Return the mean loss over the target tokens of each test example, [size], in nats per token."""
    losses = torch.empty(size)
    for batch in batches:
        per_token = target_losses(model, batch)
        losses[batch.rows.cpu()] = (per_token.sum(1) / (batch.labels >= 0).sum(1)).cpu()
    return losses.numpy()


def _measure_texts(model: torch.nn.Module, data: _Data, seed: int, step: int, settings: dict[str, Any]) -> np.ndarray:
    """Return BLEU and ROUGE-L of a sample for each test example, [2, size]; NaN where a task has neither."""
    values = np.full((2, data.size), np.nan, np.float32)
    if not data.text_batches:
        return values
    assert data.scorer is not None
    for batch in data.text_batches:
        longest = max(text.limit for text in batch)
        rows = generate(
            model,
            [text.prompt for text in batch],
            np.stack([sampling_numbers(seed, text.task, step, text.example, longest) for text in batch]),
            [text.limit for text in batch],
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            end=data.tokenizer.eos_token_id,
        )
        for text, row in zip(batch, rows, strict=True):
            scores = data.scorer.score(decode(data.tokenizer, row), text.references)
            for i, metric in enumerate(("bleu", "rouge_l")):
                if metric in text.metrics:
                    values[i, text.row] = scores[i]
    return values


def _dynamics_table(tests: Sequence[tuple[str, int]], losses: np.ndarray, texts: np.ndarray) -> pa.Table:
    steps, size = losses.shape
    tasks = list(dict.fromkeys(task for task, _ in tests))
    task = np.array([tasks.index(name) for name, _ in tests], np.int32)
    example = np.array([number for _, number in tests], np.int32)
    return pa.table(
        {
            "step": pa.array(np.repeat(np.arange(steps, dtype=np.int32), size)),
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
