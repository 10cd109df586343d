"""Sentences stand only where numbers bear them out."""

from __future__ import annotations

from typing import Any

import pytest
from gptfluence.report.bars import MET, MISSED, OPEN, verdict
from gptfluence.report.findings import against_the_mean_curve, coverage, simple_wins
from gptfluence.report.grid import print_score


def score(
    method: str, value: float, measure: str = "skill", task: str = "average", half: float = 0.1
) -> dict[str, Any]:
    where = {"scenario": "fine_tuning", "metric": "loss", "model": "m", "setting": "seen"}
    return where | {"method": method, "measure": measure, "task": task, "value": value, "low": value - half,
                    "high": value + half}  # fmt: skip


def test_who_beats_the_mean_curve_is_told_by_intervals() -> None:
    rows = [score("gptfluence", 0.3), score("simfluence", 0.05), score("gptfluence", 0.02, task="rte")]
    told = against_the_mean_curve(rows)
    assert "Loss in fine-tuning of m: above the mean curve is GPTfluence (bilinear) 0.30 [0.20, 0.40]." in told
    assert (
        "Loss in fine-tuning of m: on single tasks, GPTfluence (bilinear) is not above it on RTE (0.02 [-0.08, 0.12])."
        in told
    )
    assert any(line.startswith("Simfluence (linear) is above the mean curve in 0, below it in 0") for line in told)
    nobody = against_the_mean_curve([score("gptfluence", 0.05), score("tracin_cp", 0.9)])
    assert any("no simulator beats the mean curve; nearest is GPTfluence" in line for line in nobody)
    assert not any("TracIn" in line for line in nobody)  # it is given the run that it predicts
    assert against_the_mean_curve([]) == []


def test_a_baseline_wins_only_where_its_error_is_the_lowest() -> None:
    errors = [score("mean_curve", 0.5, "all_steps_mse"), score("gptfluence", 0.6, "all_steps_mse")]
    (told,) = simple_wins(errors)
    assert told.startswith("Loss in fine-tuning of m: Mean curve has the lowest all-steps MSE, 0.500")
    errors[1]["value"] = 0.4
    assert simple_wins(errors) == []


def test_intervals_that_hold_what_they_promise_are_not_blamed() -> None:
    (told,) = coverage([score("gradient_response", 0.81, "coverage_80")])
    assert "0 of 1 combinations" in told
    assert "Farthest is" in coverage([score("gradient_response", 0.6, "coverage_80")])[1]


@pytest.mark.parametrize(
    ("value", "half", "expected"), [(0.3, 0.1, MET), (-0.3, 0.1, MISSED), (0.0, 0.0, MISSED), (0.05, 0.1, OPEN)]
)
def test_bars_are_decided_by_whole_intervals(value: float, half: float, expected: str) -> None:
    assert verdict(score("m", value, half=half), 0) == expected
    assert verdict({"value": 0.1, "low": None, "high": None}, 0) == MET


def test_small_numbers_keep_a_digit_that_counts() -> None:
    assert print_score(score("m", 0.004, half=0.002)) == "0.004 [0.002, 0.006]"
    assert print_score(score("m", 0.3)) == "0.30 [0.20, 0.40]"
    assert print_score(None) == "–"
