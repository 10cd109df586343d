"""A small release of training dynamics in the published layouts, raw or preprocessed, and its irregularities."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TESTS = {"rte": 4, "webnlg": 3}
OFFSETS = {"rte": 0, "webnlg": 4}
POOL = 12
METRICS = {"loss": "loss", "bleu": "bleu", "rougeL": "rouge_l"}


@dataclass
class MadeUp:
    """One run as it was: what it trained on and what was measured.

    Attributes:
        batches: training ids of steps 1 .. T.
        values: by task and metric (the release's names), [T, tests].
    """

    task: str
    seed: int
    batches: list[list[int]]
    values: dict[tuple[str, str], np.ndarray]
    model: str = "pythia-410m-deduped"
    unseen: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        task = f"{self.task}-ood" if self.unseen else self.task
        batch = len(self.batches[0])
        self.name = (
            f"output_{task}_bs-{batch}_shot-200_sample-128_model-{self.model}_lr-5e-07_weight-decay-0.001_epoch-3_"
            f"loss-output-token_seed-{self.seed}"
        )


def make_run(task: str, seed: int, steps: int = 6, unseen: bool = False, model: str = "pythia-410m-deduped") -> MadeUp:
    """Make a run up: losses that fall with what was trained on, and plateaus."""
    generator = np.random.default_rng([seed, len(task), unseen])
    mixed = task == "flan"
    pool, batch = (2 * POOL, 4) if mixed else (POOL, 2)
    batches = [generator.choice(pool, batch, replace=False).tolist() for _ in range(steps)]
    values = {}
    for name in TESTS if mixed else [task]:
        effect = np.random.default_rng(len(name)).normal(size=(2 * pool, TESTS[name])) / 10
        change = np.stack([effect[[i + POOL * unseen for i in ids]].mean(axis=0) for ids in batches])
        change[2] = 0.0  # an update that was skipped
        loss = 2 + np.cumsum(change - 0.05, axis=0)
        values[name, "loss"] = loss
        if name == "webnlg":
            values[name, "bleu"] = 10 * (4 - loss)
            values[name, "rougeL"] = (4 - loss) / 4
    return MadeUp(task, seed, batches, values, model, unseen)


def write_samples(root: Path) -> None:
    """Write the texts of all examples; the widest file of a task counts, one is empty."""
    for task, tests in TESTS.items():
        folder = root / "gptdynamics/sft_tasks" / task
        whole = [_sample(task, "train", i) for i in range(2 * POOL)]
        _write(folder / f"{task}_0_{2 * POOL - 1}_train.json", whole)
        _write(folder / f"{task}_train_{POOL}-{2 * POOL - 1}.json", [r | {"id": i} for i, r in enumerate(whole[POOL:])])
        _write(folder / f"{task}_dev_0-{tests - 1}.json", [_sample(task, "test", i) for i in range(tests)])
        (folder / f"{task}_flan-prompt_dataset-debug_0_63_train.json").write_bytes(b"")
    folder = root / "gptdynamics/it_tasks"
    _write(folder / f"flan_train_0_{4 * POOL - 1}.json", [mixture_sample(i) for i in range(4 * POOL)])
    tests = [_sample(task, "test", i) for task, size in TESTS.items() for i in range(size)]
    _write(folder / f"flan_eval_0_{len(tests) - 1}.json", [row | {"id": i} for i, row in enumerate(tests)])
    (root / "README.md").write_text("a card\n")


MIXED = {"webnlg": (0, 3 * POOL), "rte": (POOL, 2 * POOL)}
"""The mixture's ids of the first example of each task's pool, and of its unseen pool."""


def mixture_sample(number: int) -> dict[str, Any]:
    """Make a training example of the mixture up: one of a single task, in the mixture's words."""
    (task, places), *_ = (
        (task, places) for task, places in MIXED.items() if any(first <= number < first + POOL for first in places)
    )
    own = number % POOL + (POOL if number >= places[1] else 0)
    plain = _sample(task, "train", own)
    context = f"Read, and answer.\n\n{plain['context'].splitlines()[0]} Your answer:"
    return {"id": number, "input": f"{context} word{own}", "context": context}


def _sample(task: str, part: str, number: int) -> dict[str, Any]:
    context = f"{task} {part}: question {number}?\nAnswer:"
    return {"id": number, "input": f"{context} word{number}", "context": context, "unknown": [1, {"a": None}]}


def write_preprocessed(root: Path, run: MadeUp, folder: str | None = None, numbered_through: bool = False) -> Path:
    """Write a run as its trajectories; the tests of the mixture are numbered through, those of others if asked for."""
    place = root / "runs" / (folder or run.task) / run.name
    _write(place / "train_samples_id.json", [{"step": s, "samples_id": b} for s, b in enumerate(run.batches, 1)])
    for metric in METRICS:
        rows = []
        for (task, measured), values in run.values.items():
            first = OFFSETS[task] if run.task == "flan" or numbered_through else 0
            for test, curve in enumerate(values.T if measured == metric else []):
                points = [{"step": s, "loss": float(value)} for s, value in enumerate(curve, 1)]
                rows.append({"id": first + test, "loss_trajectory": points})
        if rows:
            _write(place / f"all_{metric}_trajectory.out", rows)
    return place


def write_raw(root: Path, run: MadeUp, folder: str | None = None) -> Path:
    """Write a run as its log and its measurements after each update."""
    place = root / (folder or "runs") / run.name
    place.mkdir(parents=True)
    lines = ["loading the model", "{'train_runtime': 12.5, 'epoch': 3.0}"]
    for step, batch in enumerate(run.batches, 1):
        bar = f"  {step}%|###   | {step}/6 [00:0{step}<00:05,  1.2it/s]" if step % 2 else ""
        lines.append(
            f"{bar}{{'loss': 0.5, 'learning_rate': 5e-07, 'epoch': None, 'step': {step}, 'samples_id': {batch}}}"
        )
    (place / "log.out").write_text("\n".join(lines) + "\n")
    for task in dict.fromkeys(task for task, _ in run.values):
        kind = "metric" if (task, "bleu") in run.values else "loss"
        for step in range(1, len(run.batches) + 1):
            rows = [
                {"id": test} | {m: float(v[step - 1, test]) for (t, m), v in run.values.items() if t == task}
                for test in range(TESTS[task])
            ]
            _write(place / f"{kind}_{task}" / f"{kind}_{task}_checkpoint-{step}.out", rows)
    return place


def make_release(root: Path, layout: str = "preprocessed") -> list[MadeUp]:
    """Write a whole small release: two tasks and the mixture, five runs of each, and two runs on unseen data."""
    write = write_raw if layout == "raw" else write_preprocessed
    runs = [make_run(task, seed) for task in ("rte", "webnlg", "flan") for seed in (1, 2, 3, 10, 11)]
    runs += [make_run("rte", seed, unseen=True) for seed in (1, 2)]
    for run in runs:
        write(root, run)
    write_samples(root)
    return runs


def scale() -> dict[str, Any]:
    """Return the settings of a scale of such a release."""
    return {
        **{"source": "released", "folder": "data/own/gptdynamics", "test_offsets": OFFSETS},
        **{"held_out": 2, "validate": 1},
    }


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
