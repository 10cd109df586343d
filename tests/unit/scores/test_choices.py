"""judge_choices on made-up choices and shards, against counting by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gptfluence.choices.choices_file import Chosen, write_choices
from gptfluence.choices.named import list_choices
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet
from gptfluence.scores.choices import SCHEMA, judge_choices
from scipy import stats

GROUP, TASK, TESTS = "fine_tuning-nano-rte", "rte", 6
HALVES = {1: ([0, 2, 5], [1, 3, 4]), 2: ([1, 2, 3], [0, 4, 5])}
"""Of each split."""
CHOICES = list_choices(("sim",), ("less",), 2, 4)
RNG = np.random.default_rng(4)
LAST = {choice.name: RNG.uniform(1, 2, TESTS) for choice in CHOICES}


def predicted(name: str) -> tuple[float, float]:
    number = [choice.name for choice in CHOICES].index(name)
    return 0.5 + number / 10, 2.0 + number / 5


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    chosen, runs = [], []
    for choice in CHOICES:
        target = np.array(HALVES[choice.split][choice.half] if choice.split else [], np.int64)
        guess = predicted(choice.name) if choice.method == "sim" else (None, None)
        chosen.append(Chosen(choice, target, np.zeros((2, 1), np.int64), *guess))
        losses = np.stack([np.full(TESTS, 9.0), LAST[choice.name]])
        step, example = (axis.ravel() for axis in np.indices(losses.shape, dtype=np.int32))
        shard = tmp_path / choice.name
        table = pa.table({"step": step, "task": pa.array([TASK] * len(step)), "example": example,
                          "loss": losses.ravel()})  # fmt: skip
        write_parquet(shard, table, {"hash": choice.name})
        runs.append({"run_id": choice.name, "ranking": choice.name, "shard": str(shard), "hash": choice.name})
    write_choices(tmp_path / "choices.parquet", chosen, {})
    group = {"model": "nano", "task": TASK, "tests": TESTS, "choices": str(tmp_path / "choices.parquet"), "runs": runs}
    return {"groups": {GROUP: group}, "confidence": 0.9, "code": "0"}


def judged(spec: dict[str, Any], path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    judge_choices(spec, path)
    table = read_parquet(path)
    assert table.schema.remove_metadata() == SCHEMA
    return {(row["method"], row["order"], row["measure"]): row for row in table.to_pylist()}


def by_hand(method: str, order: str) -> list[dict[str, float]]:
    """Return losses of the four halves, each by loops over tests."""
    random = [choice.name for choice in CHOICES if choice.method == "random"]
    found = []
    for choice in (c for c in CHOICES if (c.method, c.order) == (method, order)):
        both = HALVES[choice.split]
        target, judging = both[choice.half], both[1 - choice.half]

        def mean(name: str, tests: list[int]) -> float:
            return sum(LAST[name][z] for z in tests) / len(tests)

        of_random = [mean(name, judging) for name in random]
        judged = mean(choice.name, judging)
        found.append({
            "judged": judged, "gain": np.mean(of_random) - judged,
            "beats": np.mean([value > judged for value in of_random]), "target": mean(choice.name, target),
            "target_gain": np.mean([mean(name, target) for name in random]) - mean(choice.name, target),
            "best": mean(min(random, key=lambda name: mean(name, target)), judging),
        })  # fmt: skip
    return found


@pytest.mark.parametrize("who", [("sim", "chosen"), ("sim", "random"), ("less", "random")])
def test_scores_are_means_over_halves(spec: dict[str, Any], tmp_path: Path, who: tuple[str, str]) -> None:
    found, halves = judged(spec, tmp_path / "scores.parquet"), by_hand(*who)
    assert len(halves) == 4
    for measure in ("judged", "gain", "beats", "target", "target_gain"):
        row, values = found[*who, measure], [half[measure] for half in halves]
        assert (row["group"], row["model"], row["task"], row["n"]) == (GROUP, "nano", TASK, 4)
        assert row["value"] == pytest.approx(np.mean(values)), measure
        # The interval of losses is that of the gains, as the halves' own difficulty is nobody's merit.
        spread = {"judged": "gain", "target": "target_gain"}.get(measure, measure)
        error = np.std([half[spread] for half in halves], ddof=1) / 2
        width = stats.t.ppf(0.95, 3) * error
        assert (row["low"], row["high"]) == pytest.approx((row["value"] - width, row["value"] + width)), measure


def test_predictions_are_those_of_the_simulator(spec: dict[str, Any], tmp_path: Path) -> None:
    found = judged(spec, tmp_path / "scores.parquet")
    for order in ("chosen", "random"):
        pairs = [predicted(c.name) for c in CHOICES if (c.method, c.order) == ("sim", order)]
        assert found["sim", order, "predicted"]["value"] == pytest.approx(np.mean([p for p, _ in pairs]))
        assert found["sim", order, "predicted_gain"]["value"] == pytest.approx(np.mean([r - p for p, r in pairs]))
    assert ("less", "random", "predicted") not in found


def test_random_and_the_best_of_it(spec: dict[str, Any], tmp_path: Path) -> None:
    found = judged(spec, tmp_path / "scores.parquet")
    means = [LAST[c.name].mean() for c in CHOICES if c.method == "random"]
    row = found["random", "random", "judged"]
    assert (row["value"], row["n"]) == (pytest.approx(np.mean(means)), 4)
    width = stats.t.ppf(0.95, 3) * np.std(means, ddof=1) / 2
    assert row["high"] - row["value"] == pytest.approx(width)
    best = found["best_random", "random", "judged"]
    assert best["value"] == pytest.approx(np.mean([half["best"] for half in by_hand("less", "random")]))
    assert best["n"] == 4


def test_what_does_not_fit_is_named(spec: dict[str, Any], tmp_path: Path) -> None:
    group = spec["groups"][GROUP]
    with pytest.raises(UserError, match="choices and runs differ in random-4"):
        judged(spec | {"groups": {GROUP: group | {"runs": group["runs"][:-1]}}}, tmp_path / "s")


def test_a_plan_without_choices_has_a_file_without_rows(tmp_path: Path) -> None:
    judge_choices({"groups": {}, "confidence": 0.9, "code": "0"}, tmp_path / "scores.parquet")
    table = read_parquet(tmp_path / "scores.parquet")
    assert table.num_rows == 0 and table.schema.remove_metadata() == SCHEMA
