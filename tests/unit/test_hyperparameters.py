"""Hyper-parameters of Tables 5-9, against what the paper prints and what params.yaml says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from gptfluence.design import Design, make_design
from gptfluence.paper.published import load_published
from gptfluence.params import load_params


def design_of(raw: dict[str, Any], root: Path, scale: str) -> Design:
    return make_design(load_params(copy.deepcopy(raw) | {"scale": scale}, root / "params.yaml"))


@pytest.mark.parametrize("table", ["table_5", "table_7"])
def test_the_papers_plan_has_the_papers_settings(raw_params: dict[str, Any], root: Path, table: str) -> None:
    """As numbers: 5e-07 is 5e-7."""
    ours = design_of(raw_params, root, "paper").table_spec(table)["hyperparameters"]
    printed = [number for number in load_published() if number.table == table]
    assert set(ours) == {number.task or number.model for number in printed}
    for number in printed:
        own = ours[number.task or number.model][number.measure]
        try:
            assert float(own) == float(number.value), number
        except ValueError:
            assert own == number.value, number


def test_fits_are_described_as_they_are_set(raw_params: dict[str, Any], root: Path) -> None:
    raw_params["simulators"]["methods"]["gptfluence"]["strengths"] = [0.5, 8.0]
    raw_params["scores"]["variants"]["gptfluence"]["adam"]["adam"] |= {"batch": 128, "seed": 7}
    raw_params["scores"]["variants"]["gptfluence"]["batch_sum"]["strengths"] = ["1.0e4"]  # YAML's numbers have a sign
    ours = design_of(raw_params, root, "nano").table_spec("table_6")["hyperparameters"]
    assert set(ours) == {"gptfluence", "gptfluence, adam", "gptfluence_gradients", "gptfluence_mlp"}
    refit = design_of(raw_params, root, "nano").refit_spec("fine_tuning-nano-0.2m-rte", "loss")
    (strength,) = refit["methods"]["gptfluence"]["variants"]["batch_sum"]["settings"]["strengths"]
    assert strength == 1e4 and isinstance(strength, float)
    assert ours["gptfluence"]["Optimizer"] == "exact solution"
    assert ours["gptfluence"]["L2 regularization lambda"] == "chosen of 0.5 to 8"
    trained = ours["gptfluence, adam"]
    assert (trained["Optimizer"], trained["Batch size"], trained["Seed"]) == ("Adam", "128", "7")
    assert ours["gptfluence_gradients"]["Pre-trained encoder"] == "sketches of gradients"
    assert ours["gptfluence_mlp"]["Aggregation over the batch"] == "mean"
    assert design_of(raw_params, root, "nano").table_spec("table_8")["hyperparameters"] == ours
    simfluence = design_of(raw_params, root, "nano").table_spec("table_9")["hyperparameters"]
    assert simfluence["simfluence_additive"]["Form"] == "additive"
