"""How well wrong labels are found, and what it helps to correct them (paper, section 4.6 and Figure 7)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from gptfluence.io import write_parquet
from gptfluence.mislabels.rankings import RANDOM, checked_count, read_rankings
from gptfluence.simulators.data import read_end

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("model", "task", "method", "measure")]
    + [(name, pa.float64()) for name in ("fraction", "value", "std")]
    + [("n", pa.int32())]
)
"""Columns of results/scores/mislabels.parquet. measure:

* found: which share of all wrong labels is among the first `fraction` of the pool that is checked.
* accuracy: of a GPT trained with these labels corrected, on test examples with true labels.
* auc: area under the ROC curve of finding the wrong labels in a method's order; fraction is null.

value is the mean over n orders (found, auc) or retrainings (accuracy), std their standard deviation (n - 1 in the
denominator; null for n = 1). The method `random` stands for all random orders together.
"""


def judge_mislabels(spec: dict[str, Any], output: Path) -> None:
    """Judge orders in which labels are checked.

    Args:
        spec: model, task (the original one), test_task (the mislabelled one, which the runs measure), pool (P),
            test_size (of the original task), ranking (path, see `mislabels.rankings`), runs (rows with run_id, split:
            noisy or corrected, ranking, fraction, shard, hash); or no runs, in a plan without mislabelled data.
        output: the Parquet file to write, see `SCHEMA`; without rows if there are no runs.

    Raises:
        UserError: a file is missing, damaged, incomplete, or of another plan.
    """
    rows = _rows(spec) if spec["runs"] else []
    table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)
    write_parquet(output, table, {key: spec[key] for key in ("model", "task", "pool", "test_size") if key in spec})


def _rows(spec: dict[str, Any]) -> list[tuple[Any, ...]]:
    orders, flipped = read_rankings(spec["ranking"], spec["pool"])
    accuracies: dict[tuple[str, float], list[float]] = defaultdict(list)
    for run in spec["runs"]:
        # Before any label is checked, all methods are the same.
        methods = dict.fromkeys(map(_method, orders)) if run["split"] == "noisy" else [_method(run["ranking"])]
        accuracy = _accuracy(run, spec["test_task"], spec["test_size"])
        for method in methods:
            accuracies[method, run["fraction"]].append(accuracy)

    places: dict[str, list[NDArray[np.int64]]] = defaultdict(list)  # [pool] each: when the example is checked
    for name, order in orders.items():
        places[_method(name)].append(np.argsort(order))
    rows: list[tuple[Any, ...]] = []
    for method, found in places.items():
        fractions = sorted(fraction for name, fraction in accuracies if name == method)
        for fraction in fractions:
            count = checked_count(fraction, spec["pool"])
            rows.append(("found", method, fraction, [np.mean(place[flipped] < count) for place in found]))
        rows += [("accuracy", method, fraction, accuracies[method, fraction]) for fraction in fractions]
        rows.append(("auc", method, None, [_auc(place, flipped) for place in found]))
    return [
        (spec["model"], spec["task"], method, measure, fraction, *_summary(values))
        for measure, method, fraction, values in rows
    ]


def _method(ranking: str) -> str:
    return RANDOM if ranking.startswith(f"{RANDOM}_") else ranking


def _summary(values: list[float]) -> tuple[float, float | None, int]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values)


def _accuracy(run: dict[str, Any], task: str, size: int) -> float:
    """Return of how many test examples the true label has the lower loss at the end of a run."""
    losses = read_end(run, "loss", (task,), (2 * size,))
    return float(np.mean(losses[::2] < losses[1::2]))


def _auc(place: NDArray[np.int64], flipped: NDArray[np.bool_]) -> float:
    """Return in how many pairs of a wrong and a right label the wrong one is checked first."""
    pairs = int(flipped.sum()) * int((~flipped).sum())
    return float(mannwhitneyu(place[~flipped], place[flipped]).statistic / pairs)
