"""A group as the page holds it: its runs, examples and measured curves, and what its simulators are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import read_parquet
from gptfluence.page.blocks import pack
from gptfluence.page.columns import choose_columns
from gptfluence.page.precision import Use, choose_steps, round_kernels
from gptfluence.paper.names import METRICS, SCENARIOS, TASKS
from gptfluence.simulators.data import GroupData, load_group
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.gradient_response import OWN, GradientResponse

MEASURES = ("skill", "across_run_correlation", "coverage_80")
UNITS = {"bleu": 100.0}
"""What a metric's values are measured against, where it is not 1."""
RESOLUTION = 2e-5
"""Of measured values, in these units."""


class Detail(NamedTuple):
    """How much of a group is kept.

    Attributes:
        tests: shown tests a task, at most.
        unseen: whether the unseen pools of groups with several training tasks are there, and the runs on them.
    """

    tests: int
    unseen: bool


DETAILS = (Detail(1_000_000, True), *(Detail(tests, False) for tests in (1_000_000, 64, 32, 16, 12, 8, 6, 4, 2, 1)))
"""From all to least."""


class Part(NamedTuple):
    """One metric of a group: its runs, all of them, and the simulator that was fitted on some."""

    metric: str
    data: GroupData
    simulator: GradientResponse


class Group(NamedTuple):
    """What is read of a group.

    Attributes:
        spec: its entry in the spec of `write_page`.
        parts: by metric; the first has all tests.
        texts: by task and part (train or test), the examples in the group's format: prompt and target.
        scores: rows of results/scores/scores.parquet.
    """

    spec: dict[str, Any]
    parts: list[Part]
    texts: dict[tuple[str, str], list[dict[str, str]]]
    scores: list[dict[str, Any]]


def read_group(spec: dict[str, Any], scores: list[dict[str, Any]]) -> Group:
    """Read all that is known of a group.

    Args:
        spec: an entry of `groups` in the spec of `write_page`.
        scores: rows of results/scores/scores.parquet.

    Raises:
        UserError: a file is missing, damaged or of another plan.
    """
    parts = []
    for metric in spec["metrics"]:
        simulator, _ = load_simulator(metric["simulator"])
        if not isinstance(simulator, GradientResponse):
            raise UserError(
                f"{metric['simulator']}: of kind {simulator.kind}, not gradient_response; "
                "params.yaml must not set interval or tasks for the method that the page shows"
            )
        parts.append(Part(metric["metric"], load_group(spec | metric | {"features": None}), simulator))
    parts.sort(key=lambda part: -len(part.simulator.task))
    texts = {}
    for task, path in spec["task_files"].items():
        rows = read_parquet(path, ["part", "example", "format", "prompt", "target"]).to_pylist()
        rows = sorted((row for row in rows if row["format"] == spec["format"]), key=lambda row: row["example"])
        texts[task, "test"] = [row for row in rows if row["part"] == "test"]
        texts[task, "train"] = [row for row in rows if row["part"] != "test"]
    own = {"scenario": spec["scenario"], "model": spec["model"], "method": spec["method"]}
    kept = [row for row in scores if all(row[key] == value for key, value in own.items())]
    return Group(spec, parts, texts, [row for row in kept if row["measure"] in MEASURES and row["value"] is not None])


def pack_group(group: Group, detail: Detail) -> bytes:
    """Return a group as a block, see `pack`; what is left out is said in its notes."""
    spec, first = group.spec, group.parts[0]
    tasks, simulator = list(first.data.tasks), first.simulator
    examples, rows, notes = first.data.curricula.examples, _kept_rows(spec, detail), []
    runs = np.isin(examples, rows).all(axis=(1, 2))
    if len(rows) < spec["train_size"] * len(spec["train_tasks"]):
        notes.append(
            "To keep the page small, examples of the unseen pools are not here, "
            f"nor the {int((~runs).sum())} runs on them."
        )
    number = np.zeros(spec["train_size"] * len(spec["train_tasks"]), np.int64)
    number[rows] = np.arange(len(rows))
    kernels = np.stack([simulator.responses.kernels.values[name] for name in simulator.names]).astype(float)[:, :, rows]
    columns = [choose_columns(kernels[..., simulator.task == task], detail.tests) for task in range(len(tasks))]
    shown = {task: part.shown for task, part in zip(tasks, columns, strict=True)}
    if any(len(shown[task]) < size for task, size in zip(tasks, first.data.sizes, strict=True)):
        counts = ", ".join(f"{TASKS.get(task, task)} {len(shown[task])} of {size}"
                           for task, size in zip(tasks, first.data.sizes, strict=True))  # fmt: skip
        notes.append(f"To keep the page small, not every test example is shown: {counts}.")
    uses = [Use(part.simulator, [tasks.index(task) for task in part.data.tasks], UNITS.get(part.metric, 1.0))
            for part in group.parts]  # fmt: skip
    rates = first.data.curricula.rates[0]
    steps = choose_steps(kernels, uses, len(tasks), rates, examples.shape[2])
    of_task = np.repeat(np.arange(len(tasks)), [part.values.shape[3] for part in columns])
    arrays: dict[str, NDArray[Any]] = {
        "kernels": round_kernels(np.concatenate([part.values for part in columns], axis=3), steps, of_task),
        "kernels.steps": steps,
        "checkpoints": simulator.responses.kernels.steps.astype(np.int32),
        "tokens": simulator.responses.kernels.tokens[rows].astype(np.int32),
        "examples": number[examples[runs]].astype(np.uint16),
        "rates": first.data.curricula.rates[runs, 0],
    }
    metrics = []
    for part in group.parts:
        arrays |= _arrays_of(part, runs, shown)
        metrics.append(_metric(part, tasks, group.scores))
    splits = {run["run_id"]: run["split"] for run in spec["metrics"][0]["runs"]}
    header = {
        "name": spec["group"],
        "runs": [{"id": run, "split": splits[run]}
                 for run, kept in zip(first.data.runs, runs, strict=True) if kept],
        "train": _train_texts(group, rows),
        "tests": [{"task": task, **_text(task, "test", test, group.texts[task, "test"][test])}
                  for task in tasks for test in shown[task].tolist()],
        "tasks": _places(tasks, first.data.sizes, [(len(c.shown), c.values.shape[3]) for c in columns]),
        "momenta": list(simulator.momenta),
        "decays": list(simulator.decays),
        "ownShare": OWN,
        "metrics": metrics,
        "notes": notes,
    }  # fmt: skip
    return pack(header, arrays)


def label_of(spec: dict[str, Any]) -> str:
    """Return what a group is called on the page."""
    tasks = [TASKS.get(task, task) for task in spec["train_tasks"]]
    return f"{spec['model']}, {SCENARIOS[spec['scenario']]}: {', '.join(tasks)}"


def _kept_rows(spec: dict[str, Any], detail: Detail) -> NDArray[np.int64]:
    """Return which training rows are there, see `GroupData.curricula`."""
    size, tasks = spec["train_size"], len(spec["train_tasks"])
    kept = size if detail.unseen or tasks == 1 else spec["pool"]
    return (np.arange(tasks)[:, None] * size + np.arange(kept)).ravel()


def _arrays_of(part: Part, runs: NDArray[np.bool_], shown: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """Return what a metric's simulator and measured curves are."""
    simulator, data = part.simulator, part.data
    starts = np.cumsum([0, *data.sizes[:-1]])
    tests = np.concatenate([start + shown[task] for start, task in zip(starts, data.tasks, strict=True)])
    scale = RESOLUTION * UNITS.get(part.metric, 1.0)
    found = {
        "measured": np.rint(data.dynamics.values[runs][..., tests] / scale).astype(np.int32),
        "curve": simulator.known.curve[:, tests].astype(np.float32),
        "spread": simulator.spread[:, tests].astype(np.float32),
        **{name: getattr(simulator, name).astype(np.float32) for name in ("replicas", "metrics")},
        **{name: getattr(simulator, name) for name in ("weights", "reach", "quantiles", "apart", "extent")},
    }
    return {f"{part.metric}.{name}": array for name, array in found.items()}


def _metric(part: Part, tasks: list[str], scores: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("task", "setting", "measure", "value", "low", "high")
    return {
        "name": part.metric,
        "label": METRICS[part.metric],
        "lower": part.metric == "loss",
        "digits": 4 if part.metric == "loss" else 2 if part.metric in UNITS else 4,
        "unit": RESOLUTION * UNITS.get(part.metric, 1.0),
        "tasks": [tasks.index(task) for task in part.data.tasks],
        "skills": [{key: row[key] for key in keys} for row in scores if row["metric"] == part.metric],
    }


def _places(tasks: list[str], sizes: tuple[int, ...], counts: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return where each task's columns are; counts: of its shown tests, and of its columns."""
    places, start = [], 0
    for task, size, (shown, columns) in zip(tasks, sizes, counts, strict=True):
        name = TASKS.get(task, task)
        places.append({"id": task, "name": name, "from": start, "shown": shown, "to": start + columns, "tests": size})
        start += columns
    return places


def _train_texts(group: Group, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    size, tasks = group.spec["train_size"], group.spec["train_tasks"]
    found = []
    for row in rows.tolist():
        task, example = tasks[row // size], row % size
        unseen = {"unseen": True} if example >= group.spec["pool"] else {}
        found.append(_text(task, "train", example, group.texts[task, "train"][example]) | unseen)
    return found


def _text(task: str, part: str, example: int, row: dict[str, str]) -> dict[str, Any]:
    label = f"{TASKS.get(task, task)} {'test ' if part == 'test' else ''}{example}"
    return {"label": label, "prompt": row["prompt"], "target": row["target"]}
