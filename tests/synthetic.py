"""Dynamics made by a known linear influence model, and small artefacts in the pipeline's formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from gptfluence.attribution.kernel_file import KernelFile, write_kernel_file
from gptfluence.io import write_parquet
from gptfluence.simulators.base import Attribution, Curricula, Dynamics, Features, Kernels, linear_decay
from score_tables import write_scores

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

RIDGE = {"aggregation": "mean", "shrink_to": "persistence", "strengths": STRENGTHS}

ADAM = {
    "learning_rates": [0.001],
    "weight_decay": 1e-5,
    "batch": None,
    "warmup": 0,
    "epochs": 3,
    "patience": 2,
    "seed": 1,
}

METHOD_SETTINGS = {
    "simfluence": {"kind": "simfluence", "variant": "linear", **RIDGE},
    "simfluence_additive": {"kind": "simfluence", "variant": "additive", **RIDGE},
    "simfluence_multiplicative": {"kind": "simfluence", "variant": "multiplicative", **RIDGE},
    "gptfluence": {"kind": "gptfluence", "head": "bilinear", "order": 2, "start": "given", **RIDGE},
    "gptfluence_mlp": {
        "kind": "gptfluence",
        "head": "mlp",
        "order": 1,
        "start": "given",
        "aggregation": "mean",
        "shrink_to": "persistence",
        "adam": ADAM,
    },
    "gptfluence_adam": {"kind": "gptfluence", "head": "bilinear", "order": 1, "start": "given", "adam": ADAM, **RIDGE},
    "simfluence_adam": {"kind": "simfluence", "variant": "linear", "adam": ADAM | {"initial_std": 0.1}, **RIDGE},
    "gptfluence_every_2": {
        "kind": "gptfluence",
        "head": "bilinear",
        "order": 2,
        "start": "given",
        "interval": 2,
        **RIDGE,
    },
    "gptfluence_each": {
        **{"kind": "gptfluence", "head": "bilinear", "order": 1, "start": "given", "tasks": "each"},
        **{"interval": 2, "between": "hold"},
        **RIDGE,
    },
    "grad_dot": {"kind": "additive", "scores": "grad_dot", "scale": "none"},
    "grad_dot_scaled": {"kind": "additive", "scores": "grad_dot", "scale": "fitted"},
    "gradient_response": {
        "kind": "gradient_response",
        "kernels": ("adamw", "sgd"),
        "momenta": (0.0, 0.9),
        "decays": (1.0, 0.5),
        "strengths": STRENGTHS,
    },
    "gradient_response_schedules": {
        "kind": "pooled_response",
        "kernels": ("adamw", "sgd"),
        "momenta": (0.0, 0.9),
        "decays": (1.0, 0.5),
        "strengths": STRENGTHS,
        "rates": tuple(1 - step / 40 for step in range(40)),
    },
    "predicted_curve": {
        "kind": "predicted_curve",
        "kernels": ("adamw", "sgd"),
        "momenta": (0.0,),
        "decays": (1.0, 0.5),
        "strengths": STRENGTHS,
    },
    "persistence": {"kind": "persistence"},
    "global_ar1": {"kind": "global_ar1"},
    "mean_curve": {"kind": "mean_curve"},
}
"""Settings of every kind of method."""


def draw_batches(rng: np.random.Generator, runs: int, steps: int, batch: int, train: int) -> np.ndarray:
    return rng.integers(0, train, (runs, steps, batch))


def planted(
    runs: int = 16, steps: int = 30, batch: int = 4, train: int = 24, tests: int = 7, seed: int = 0
) -> tuple[Dynamics, Curricula, Features]:
    """Return runs (the last two validate) whose factors are exactly bilinear in the features (width 6).

    The attribution scores are the additive factors, with the sign of scores; the kernels are near them.
    """
    rng = np.random.default_rng(seed)
    features = Features(rng.normal(size=(train, 6)), rng.normal(size=(tests, 6)))
    a = features.train @ (0.004 * rng.normal(size=(6, 6))) @ features.test.T - 0.01
    b = features.train @ (0.02 * rng.normal(size=(6, 6))) @ features.test.T
    examples = draw_batches(rng, runs, steps, batch, train)
    values = np.empty((runs, steps + 1, tests))
    values[:, 0] = rng.uniform(1, 4, tests)
    for t in range(1, steps + 1):
        now = examples[:, t - 1]
        values[:, t] = (1 + a[now].mean(axis=1)) * values[:, t - 1] + b[now].mean(axis=1)
    validate = np.arange(runs) >= runs - 2
    attribution = Attribution({"grad_dot": -b.astype(np.float32)}, np.arange(1, train + 1))
    rates = np.tile(linear_decay(1e-3, steps), (runs, 1))
    noisy = -b * rng.uniform(0.9, 1.1, (3, *b.shape))
    kernels = {"sgd": noisy.astype(np.float32), "adamw": (10 * noisy**3).astype(np.float32)}
    checkpoints = np.arange(3) * steps // 3
    features = replace(
        features,
        attribution=attribution,
        kernels=Kernels(checkpoints, attribution.tokens, kernels),
        test_task=np.arange(tests) * 2 // tests,
    )
    return Dynamics(values, validate), Curricula(examples, rates), features


def split(dynamics: Dynamics, curricula: Curricula, held: int) -> tuple[Dynamics, Curricula, np.ndarray, Curricula]:
    """Return what is fitted on, and the first `held` runs as fresh ones."""
    return (
        Dynamics(dynamics.values[held:], dynamics.validate[held:]),
        curricula.of(np.arange(len(curricula.examples)) >= held),
        dynamics.values[:held],
        curricula.of(np.arange(len(curricula.examples)) < held),
    )


SPLITS = ("fit", "fit", "fit", "validate", "held_out", "unseen")


def write_group(
    folder: Path,
    metric: str = "loss",
    seed: int = 0,
    splits: tuple[str, ...] = SPLITS,
    steps: int = 8,
    **settings: Any,
) -> dict[str, Any]:
    """Write shards, curricula and features of a made-up group of two tasks; return what fit and simulate share.

    Args:
        settings: of the runs, in place of their learning_rate, schedule and warmup.
    """
    rng = np.random.default_rng(seed)
    tasks, sizes, train_size, batch = ["b_task", "a_task"], {"b_task": 3, "a_task": 2}, 6, 2
    runs = []
    for number, part in enumerate(splits):
        run_id, code = f"g-{number:02d}", f"hash{number}"
        shard, curriculum = folder / f"{run_id}.{code}.parquet", folder / f"{run_id}.parquet"
        grid = [(t, task, e) for t in range(steps + 1) for task in tasks for e in range(sizes[task])]
        step, task, example = zip(*grid, strict=True)
        values = rng.uniform(1, 2, len(grid)).astype(np.float32)
        other = pa.nulls(len(grid), pa.float32())
        table = pa.table(
            {
                "step": pa.array(step, pa.int32()),
                "task": task,
                "example": pa.array(example, pa.int32()),
                "loss": values if metric == "loss" else other,
                "bleu": values * 30 if metric == "bleu" else other,
                "rouge_l": other,
            }
        )
        write_parquet(shard, table, {"run_id": run_id, "hash": code})
        first = 4 if part == "unseen" else 0  # a pool of 4 a task, then an unseen pool of 2
        slots = [(t, s) for t in range(1, steps + 1) for s in range(batch)]
        table = pa.table(
            {
                "run_id": [run_id] * len(slots),
                "step": pa.array([t for t, _ in slots], pa.int32()),
                "slot": pa.array([s for _, s in slots], pa.int32()),
                "task": [tasks[i] for i in rng.integers(0, 2, len(slots))],
                "example": pa.array(rng.integers(first, first + (2 if first else 4), len(slots)), pa.int32()),
            }
        )
        write_parquet(curriculum, table, {})
        entry = {
            "run_id": run_id,
            "split": part,
            "learning_rate": 1e-2,
            "schedule": "linear",
            "warmup": 0.0,
            "hash": code,
            "shard": str(shard),
            "curriculum": str(curriculum),
        }
        runs.append(entry | settings)
    scores = {"grad_dot": rng.normal(size=(2 * train_size, sum(sizes.values())))}
    kernels = {name: rng.normal(size=(2, 2 * train_size, 5)).astype(np.float32) for name in ("sgd", "adamw")}
    content = KernelFile(np.array([0, 4]), rng.integers(1, 9, 2 * train_size), kernels)
    write_kernel_file(folder / "kernels.safetensors", content, {"test_tasks": tasks})
    table = write_scores(folder / "scores.parquet", tasks, tasks, scores, rng.integers(1, 9, 2 * train_size))
    return {
        "group": "g",
        "scenario": "fine_tuning",
        "model": "m",
        "metric": metric,
        "format": "plain",
        "train_tasks": tasks,
        "train_size": train_size,
        "test_tasks": tasks,
        "test_sizes": sizes,
        "runs": runs,
        "features": str(write_features(folder, tasks, sizes)),
        "table": table,
        "kernels": str(folder / "kernels.safetensors"),
        "replays": [],
    }


def write_features(folder: Path, tasks: list[str], sizes: dict[str, int], width: int = 3) -> Path:
    """Write features that say what they stand for: [task number, test?, example] (the instruction format's differ)."""
    rows = []
    for number, task in enumerate(tasks):
        parts = [("pool", e) for e in range(4)] + [("unseen_pool", e) for e in (4, 5)]
        parts += [("test", e) for e in range(sizes[task])]
        for part, example in parts:
            rows.append((task, part, example, "plain", [number, float(part == "test"), example]))
            rows.append((task, part, example, "instruction", [-1.0] * width))
    order = np.random.default_rng(1).permutation(len(rows))
    task, part, example, form, vector = zip(*[rows[i] for i in order], strict=True)
    flat = pa.array(np.array(vector, np.float32).ravel())
    table = pa.table(
        {
            "task": task,
            "part": part,
            "example": pa.array(example, pa.int32()),
            "format": form,
            "vector": pa.FixedSizeListArray.from_arrays(flat, width),
        }
    )
    path = folder / "features.parquet"
    write_parquet(path, table, {})
    return path


def chosen_runs(spec: dict[str, Any], *splits: str) -> dict[str, Any]:
    return spec | {"runs": [run for run in spec["runs"] if run["split"] in splits]}
