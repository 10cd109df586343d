"""judge_convergence on made-up shards, against training losses by hand and fits by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from gptfluence.scores.convergence import SCHEMA, judge_convergence
from gptfluence.simulators.data import GroupData, load_group
from gptfluence.simulators.registry import make_method
from gptfluence.simulators.rollout import validation_mse
from synthetic import ADAM, METHOD_SETTINGS, chosen_runs, write_group

FILES = {"features": None, "table": None, "kernels": None}
SETTINGS = METHOD_SETTINGS["simfluence"] | {"adam": ADAM | {"batch": 16, "patience": 9, "initial_std": 0.3}}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    group = chosen_runs(write_group(tmp_path_factory.mktemp("group")), "fit", "validate") | FILES
    trivial = {name: FILES | {"settings": {"kind": name}} for name in ("persistence", "mean_curve")}
    return group | {"methods": {"simfluence": FILES | {"settings": SETTINGS}}, "trivial": trivial}


@pytest.fixture(scope="module")
def rows(spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("judged") / "convergence.parquet"
    judge_convergence(spec, path)
    table = pq.read_table(path)
    assert table.schema.remove_metadata() == SCHEMA
    return table.to_pylist()


def test_every_epoch_and_every_reference_is_there(rows: list[dict[str, Any]]) -> None:
    # 3 runs of 8 steps on 5 tests are 120 items, in updates of 16.
    assert [(row["method"], row["solved"], row["epoch"], row["update"]) for row in rows] == [
        *(("simfluence", "adam", epoch, 8 * epoch) for epoch in range(4)),
        ("simfluence", "exact", None, None),
        ("persistence", "trivial", None, None),
        ("mean_curve", "trivial", None, None),
    ]


def loss_by_hand(alpha: np.ndarray, beta: np.ndarray, data: GroupData) -> float:
    """Return the error of single steps of factors: [train, tests] each, means over the batch."""
    errors = []
    for values, batches in zip(data.dynamics.values[:3], data.curricula.examples[:3], strict=True):
        for step, batch in enumerate(batches):
            predicted = (1 + alpha[batch].mean(axis=0)) * values[step] + beta[batch].mean(axis=0)
            errors.append((predicted - values[step + 1]) ** 2)
    return float(np.mean(errors))


def test_last_epoch_and_exact_solution_equal_fits_by_themselves(
    rows: list[dict[str, Any]], spec: dict[str, Any]
) -> None:
    data = load_group(spec)
    for solved, settings in (("adam", SETTINGS), ("exact", SETTINGS | {"adam": None})):
        simulator = make_method("simfluence", settings)
        simulator.fit(data.dynamics, data.curricula, data.features)
        found = [row for row in rows if row["solved"] == solved]
        best = min(found, key=lambda row: row["validation_mse"])
        loss = loss_by_hand(simulator.factors["A"], simulator.factors["B"], data)
        assert best["training_loss"] == pytest.approx(loss, rel=1e-9)
        error = validation_mse(simulator, data.dynamics, data.curricula)
        assert best["validation_mse"] == pytest.approx(error, rel=1e-9)


def test_first_epoch_is_before_any_update(rows: list[dict[str, Any]], spec: dict[str, Any]) -> None:
    """Equal seeds draw equal weights: one more learning rate of nothing leaves them as they are."""
    data = load_group(spec)
    adam = SETTINGS["adam"] | {"learning_rates": [1e-30], "epochs": 1}
    simulator = make_method("simfluence", SETTINGS | {"adam": adam})
    simulator.fit(data.dynamics, data.curricula, data.features)
    loss = loss_by_hand(simulator.factors["A"], simulator.factors["B"], data)
    assert rows[0]["training_loss"] == pytest.approx(loss, rel=1e-6)


def test_persistence_predicts_the_value_before(rows: list[dict[str, Any]], spec: dict[str, Any]) -> None:
    values = load_group(spec).dynamics.values
    (row,) = (row for row in rows if row["method"] == "persistence")
    assert row["training_loss"] == pytest.approx(np.mean(np.diff(values[:3], axis=1) ** 2))
    assert row["validation_mse"] == pytest.approx(np.mean((values[3, 1:] - values[3, :1]) ** 2))
    (row,) = (row for row in rows if row["method"] == "mean_curve")
    assert row["training_loss"] is None
    assert row["validation_mse"] == pytest.approx(np.mean((values[:3].mean(axis=0) - values[3])[1:] ** 2))
