"""What choosing training data gives: results/scores/choices.parquet.

Each choice was made for one half of a group's tests; the other half judges it, by the mean loss at the end of a GPT's
training on it. Beside the methods stand `random`, the mean of the random choices, and `best_random`: that one of them
after which the measured loss of the target half is the lowest, which is what so many trainings give without any method.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.stats import ttest_1samp

from gptfluence.choices.choices_file import read_choices
from gptfluence.errors import UserError
from gptfluence.io import write_parquet
from gptfluence.simulators.base import Array
from gptfluence.simulators.data import read_end
from gptfluence.words import RANDOM

BEST_RANDOM = "best_random"

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("group", "model", "task", "method", "order", "measure")]
    + [(name, pa.float64()) for name in ("value", "low", "high")]
    + [("n", pa.int32())]
)
"""Columns of results/scores/choices.parquet. order: `chosen` by the method, or `random`. measure, in nats per token:

* judged, target: mean final loss of the judging half and of the half that was chosen for.
* gain, target_gain: by how much it is lower than the mean after random choices, on the same tests.
* beats: the share of random choices that leave a higher loss on the judging half (no unit).
* predicted, predicted_gain: what the simulator that chose predicts of `target` and of `target_gain`.

value is the mean over n halves; low, high: Student's interval, halves taken as independent. Those of judged and target
are as wide as those of the gains, since what halves differ in is the same for all methods. Of random, judged and target
are the same: n random choices, each judged by all tests.
"""


class _Half(NamedTuple):
    """One choice, judged. All losses are means over tests, in nats per token.

    Attributes:
        judged, target: measured after the choice, on the half that judges and on that which was chosen for.
        random_judged, random_target: [random choices], the same after each random choice.
        predicted, predicted_random: of the target half, if a simulator chose.
    """

    judged: float
    target: float
    random_judged: Array
    random_target: Array
    predicted: float | None = None
    predicted_random: float | None = None


def judge_choices(spec: dict[str, Any], output: Path) -> None:
    """Judge choices of training data.

    Args:
        spec: groups {group: model, task (the tests'), tests (how many), choices (path, see `choices.choices_file`),
            runs (rows with run_id, ranking (the choice), shard, hash)}, none in a plan without choices; confidence.
        output: the Parquet file to write, see `SCHEMA`; without rows if there are no groups.

    Raises:
        UserError: a file is missing, damaged, incomplete, or of another plan.
    """
    rows = []
    for name, group in spec["groups"].items():
        where = (name, group["model"], group["task"])
        for key, measures in _judge_group(group, spec["confidence"]).items():
            rows += [(*where, *key, measure, *score) for measure, score in measures.items()]
    table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)
    write_parquet(output, table, {"choices": {"confidence": spec["confidence"]}})


_Score = tuple[float, float | None, float | None, int]


def _judge_group(group: dict[str, Any], confidence: float) -> dict[tuple[str, str], dict[str, _Score]]:
    """Return the scores of a group by method and order, then by measure."""
    choices = read_choices(group["choices"])
    losses = {run["ranking"]: read_end(run, "loss", (group["task"],), (group["tests"],)) for run in group["runs"]}
    missing = sorted(losses.keys() ^ choices.keys())
    if missing:
        raise UserError(f"{group['choices']}: choices and runs differ in {missing[0]}. Delete it and rerun snakemake.")
    random = np.array([losses[key] for key, chosen in choices.items() if chosen.choice.method == RANDOM])
    halves: dict[tuple[str, str], list[_Half]] = {}
    best: dict[tuple[int, int], _Half] = {}
    for key, chosen in choices.items():
        choice = chosen.choice
        if choice.method == RANDOM:
            continue
        target, judging = chosen.target, np.setdiff1d(np.arange(group["tests"]), chosen.target)
        at_random = random[:, judging].mean(axis=1), random[:, target].mean(axis=1)
        half = _Half(losses[key][judging].mean(), losses[key][target].mean(), *at_random)
        half = half._replace(predicted=chosen.predicted, predicted_random=chosen.predicted_random)
        halves.setdefault((choice.method, choice.order), []).append(half)
        kept = at_random[1].argmin()
        best[choice.split, choice.half] = _Half(at_random[0][kept], at_random[1][kept], *at_random)
    of_all = _score(random.mean(axis=1), confidence)
    halves |= {(BEST_RANDOM, RANDOM): list(best.values())}
    scores = {key: _summarise(found, confidence) for key, found in halves.items()}
    return {(RANDOM, RANDOM): {"judged": of_all, "target": of_all}} | scores


def _summarise(halves: list[_Half], confidence: float) -> dict[str, _Score]:
    """Return the scores of one method by measure."""
    scores = {}
    for measure, gain in (("judged", "gain"), ("target", "target_gain")):
        losses = np.array([getattr(half, measure) for half in halves])
        gains = np.array([getattr(half, f"random_{measure}").mean() for half in halves]) - losses
        scores[gain] = _score(gains, confidence)
        scores[measure] = _score(gains.mean() - gains + losses.mean(), confidence)
    beaten = np.array([np.mean(half.random_judged > half.judged) for half in halves])
    scores["beats"] = _score(beaten, confidence)
    predicted = np.array([(half.predicted, half.predicted_random) for half in halves], float)
    if not np.isnan(predicted).any():
        scores["predicted"] = _score(predicted[:, 0], confidence)
        scores["predicted_gain"] = _score(predicted[:, 1] - predicted[:, 0], confidence)
    return scores


def _score(values: Sequence[float] | Array, confidence: float) -> _Score:
    """Return mean, Student's interval (None of a single value) and count."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), None, None, len(values)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0]), float(values[0]), len(values)
    interval = ttest_1samp(values, 0).confidence_interval(confidence)
    return float(values.mean()), float(interval.low), float(interval.high), len(values)
